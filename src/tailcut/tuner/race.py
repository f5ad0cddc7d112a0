"""Two arms compared by their blocks. Pure.

Blocks come in pairs, one of each arm right after the other. If every block is long enough for a percentile of its own,
the pairs are compared one by one, so that a stall of the machine in one block affects only that pair. If not, all
blocks are pooled and bootstrapped. A failed request counts as later than any other.
"""

import contextlib
from dataclasses import dataclass, field

from tailcut.errors import TailcutError
from tailcut.lab.trial import FAILED_MS, ArmRuns
from tailcut.stats import (
    Interval,
    Sample,
    Verdict,
    paired_ratio_interval,
    percentile,
    ratio_interval,
    samples_needed,
    verdict,
)
from tailcut.stats.serial import serial_percentile_interval
from tailcut.tuner.result_records import Percentile

QUANTILES: dict[Percentile, float] = {"p99": 0.99, "p95": 0.95, "p50": 0.5}  # from the tail down
NOISE = 0.02
_LOOK = 5  # least blocks for comparing pairs one by one
_FINITE = 1e6  # a larger ratio is due to failed requests


def known_within(seconds: float, sample_s: float) -> Percentile:
    """The highest percentile that can be measured in `seconds`, if one sample takes `sample_s`; at least the median."""
    *tails, median = QUANTILES
    return next((name for name in tails if sample_s * samples_needed(QUANTILES[name]) <= seconds), median)


@dataclass(frozen=True, slots=True)
class Ratios:
    """Ratios new to old: of each percentile with enough samples, the highest first, and of requests per second."""

    percentiles: dict[Percentile, Interval] = field(default_factory=dict)
    throughput: Interval | None = None

    @property
    def tail(self) -> tuple[Percentile, Interval] | None:
        """The highest percentile known."""
        return next(iter(self.percentiles.items()), None)

    @property
    def time_per_request(self) -> Interval | None:
        """The inverse of the throughput ratio, so that less is better, as for percentiles."""
        speed = self.throughput
        return None if speed is None else Interval(1 / speed.point, 1 / speed.high, 1 / speed.low)


def ratios(new: ArmRuns, old: ArmRuns, seed: int = 0) -> Ratios:
    """Compare two arms by their blocks so far; `seed` is of the bootstrap."""
    intervals = {}
    for name, q in QUANTILES.items():
        if _can_tell(new, old, q):
            intervals[name] = _paired(new, old, q) or pooled(new, old, q, seed)
    return Ratios(intervals, throughput_ratio(new, old))


def judged(compared: Ratios) -> tuple[Verdict, str]:
    """A verdict on tail and throughput together, and its figures as text."""
    verdicts, words = [], []
    if compared.tail is not None:
        of, tail = compared.tail
        verdicts.append(verdict(tail, NOISE))
        figures = f"x{tail.point:.2f} ({tail.low:.2f} to {tail.high:.2f})" if is_finite(tail) else "of failed requests"
        words.append(f"{of} {figures}")
    if compared.throughput is not None and compared.time_per_request is not None:
        speed = compared.throughput
        verdicts.append(verdict(compared.time_per_request, NOISE))
        words.append(f"throughput x{speed.point:.2f} ({speed.low:.2f} to {speed.high:.2f})")
    better, worse = Verdict.BETTER in verdicts, Verdict.WORSE in verdicts
    word = Verdict.INDISTINCT if better == worse else Verdict.BETTER if better else Verdict.WORSE
    if word is Verdict.INDISTINCT:
        words.append("indistinguishable from no effect" if verdicts else "too few samples")
    return word, ", ".join(words)


def tail_of(new: ArmRuns, old: ArmRuns, seed: int = 0) -> tuple[Percentile, Interval] | None:
    """The name of the highest percentile with enough samples in both arms, and its ratio new to old.

    None if there is none, or the client was late in most blocks of an arm. If failed requests reach the percentile of
    one arm, the ratio is not finite (`is_finite`).
    """
    if new.client_behind or old.client_behind:
        return None
    known = next(((name, q) for name, q in QUANTILES.items() if _can_tell(new, old, q)), None)
    return None if known is None else (known[0], pooled(new, old, known[1], seed))


def p99_ratio(new: ArmRuns, old: ArmRuns, seed: int = 0) -> Interval | None:
    """The ratio of p99, if `tail_of` returns that percentile and no failed request reaches it."""
    of, interval = tail_of(new, old, seed) or (None, None)
    return interval if of == "p99" and interval is not None and is_finite(interval) else None


def is_finite(ratio: Interval) -> bool:
    """Whether a ratio is not due to failed requests."""
    return ratio.low > 1 / _FINITE and ratio.high < _FINITE


def p99_interval(run: ArmRuns) -> Interval | None:
    """The p99 of one arm in ms, including failed requests; None if unknown, or if the client was late too often."""
    return None if run.client_behind else serial_percentile_interval(run.latencies, 0.99)


def met(run: ArmRuns, limit_ms: float) -> bool | None:
    """Whether a p99 is proven to be within a limit (True) or over it (False); None if neither."""
    interval = p99_interval(run)
    if interval is None or interval.low <= limit_ms < interval.high:
        return None
    return interval.high <= limit_ms


def pooled(new: ArmRuns, old: ArmRuns, q: float, seed: int = 0) -> Interval:
    """The ratio of the q-quantiles of all blocks pooled; `q` is from 0 to 1."""
    with contextlib.suppress(TailcutError):
        blocks = [[Sample.of(block) for block in run.blocks] for run in (new, old)]
        return ratio_interval(blocks[0], blocks[1], q, seed=seed)
    # blocks of a single sample: one block instead
    return ratio_interval([Sample.of(new.latencies)], [Sample.of(old.latencies)], q, seed=seed)


def throughput_ratio(new: ArmRuns, old: ArmRuns) -> Interval | None:
    """The ratio of requests per second of paired closed-loop blocks; None with fewer than three."""
    if min(len(run.throughputs) for run in (new, old)) < 3 or not all(new.throughputs + old.throughputs):
        return None
    return paired_ratio_interval(new.throughputs, old.throughputs)


def percentiles_ms(run: ArmRuns) -> dict[str, float | None]:
    """p50, p95 and p99 in ms; None for those with too few samples, or that failed requests reach."""
    return {f"{name}_ms": _percentile_ms(run, q) for name, q in reversed(QUANTILES.items())}


def _percentile_ms(run: ArmRuns, q: float) -> float | None:
    if len(run.latencies) < samples_needed(q):
        return None
    value = percentile(Sample.of(run.latencies), q)
    return round(value, 4) if value < FAILED_MS else None


def _can_tell(new: ArmRuns, old: ArmRuns, q: float) -> bool:
    """Whether both samples are large enough for a percentile, and in one of them no failed request reaches it."""
    if min(len(new.latencies), len(old.latencies)) < samples_needed(q):
        return False
    return _percentile_ms(new, q) is not None or _percentile_ms(old, q) is not None


def _paired(new: ArmRuns, old: ArmRuns, q: float) -> Interval | None:
    """The ratio of the percentiles of paired blocks; None if a block is too short for a percentile of its own."""
    shortest = min((len(block) for run in (new, old) for block in run.blocks), default=0)
    if shortest < 1 / (1 - q) or len(new.blocks) < _LOOK:
        return None
    own = [[percentile(Sample.of(block), q) for block in run.blocks] for run in (new, old)]
    return paired_ratio_interval(own[0], own[1])

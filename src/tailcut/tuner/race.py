"""What two arms' blocks say about each other: pure.

Blocks come in pairs, one of each arm right after the other. Where every block is long enough for a percentile of its
own, the pairs are compared one by one: a stall of the machine in one block spoils that pair and not the whole. Where
requests are too few for that, all blocks are taken together, by bootstrap.
"""

import contextlib
from dataclasses import dataclass, field

from tailcut.errors import TailcutError
from tailcut.lab.trial import ArmRuns
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
from tailcut.tuner.result_records import Percentile

QUANTILES: dict[Percentile, float] = {"p99": 0.99, "p95": 0.95, "p50": 0.5}  # from the tail down
NOISE = 0.02
_LOOK = 5  # blocks, from which on pairs are compared one by one


def known_within(seconds: float, sample_s: float) -> Percentile:
    """The percentile furthest in the tail that so many seconds can tell, where one sample takes so long.

    The median where even that takes longer.
    """
    *tails, median = QUANTILES
    return next((name for name in tails if sample_s * samples_needed(QUANTILES[name]) <= seconds), median)


@dataclass(frozen=True, slots=True)
class Ratios:
    """New to old: of each percentile that the samples can tell, from the tail down, and of requests per second."""

    percentiles: dict[Percentile, Interval] = field(default_factory=dict)
    throughput: Interval | None = None

    @property
    def tail(self) -> tuple[Percentile, Interval] | None:
        """The highest percentile known."""
        return next(iter(self.percentiles.items()), None)

    @property
    def time_per_request(self) -> Interval | None:
        """Throughput turned over, so that less is better there too."""
        speed = self.throughput
        return None if speed is None else Interval(1 / speed.point, 1 / speed.high, 1 / speed.low)


def ratios(new: ArmRuns, old: ArmRuns, seed: int = 0) -> Ratios:
    """Compare what two arms' blocks brought so far."""
    intervals = {}
    for name, q in QUANTILES.items():
        if min(len(new.latencies), len(old.latencies)) >= samples_needed(q):
            intervals[name] = _paired(new, old, q) or pooled(new, old, q, seed)
    return Ratios(intervals, throughput_ratio(new, old))


def judged(compared: Ratios) -> tuple[Verdict, str]:
    """A verdict on tail and throughput together, and its figures in words."""
    verdicts, words = [], []
    if compared.tail is not None:
        of, tail = compared.tail
        verdicts.append(verdict(tail, NOISE))
        words.append(f"{of} x{tail.point:.2f} ({tail.low:.2f} to {tail.high:.2f})")
    if compared.throughput is not None and compared.time_per_request is not None:
        speed = compared.throughput
        verdicts.append(verdict(compared.time_per_request, NOISE))
        words.append(f"throughput x{speed.point:.2f} ({speed.low:.2f} to {speed.high:.2f})")
    better, worse = Verdict.BETTER in verdicts, Verdict.WORSE in verdicts
    word = Verdict.INDISTINCT if better == worse else Verdict.BETTER if better else Verdict.WORSE
    if word is Verdict.INDISTINCT:
        words.append("indistinguishable from no effect" if verdicts else "too few samples")
    return word, ", ".join(words)


def pooled(new: ArmRuns, old: ArmRuns, q: float, seed: int = 0) -> Interval:
    """The ratio of the q-percentiles of all blocks taken together."""
    with contextlib.suppress(TailcutError):
        blocks = [[Sample.of(block) for block in run.blocks] for run in (new, old)]
        return ratio_interval(blocks[0], blocks[1], q, seed=seed)
    # blocks of a single sample: one block instead
    return ratio_interval([Sample.of(new.latencies)], [Sample.of(old.latencies)], q, seed=seed)


def throughput_ratio(new: ArmRuns, old: ArmRuns) -> Interval | None:
    """The ratio of requests per second of paired closed-loop blocks; None where there are under three."""
    if min(len(run.throughputs) for run in (new, old)) < 3 or not all(new.throughputs + old.throughputs):
        return None
    return paired_ratio_interval(new.throughputs, old.throughputs)


def percentiles_ms(run: ArmRuns) -> dict[str, float | None]:
    """p50, p95 and p99 where the sample can tell them."""
    result: dict[str, float | None] = {}
    for name, q in reversed(QUANTILES.items()):
        known = len(run.latencies) >= samples_needed(q)
        result[f"{name}_ms"] = round(percentile(Sample.of(run.latencies), q), 4) if known else None
    return result


def _paired(new: ArmRuns, old: ArmRuns, q: float) -> Interval | None:
    """The ratio of each block's own percentile to its neighbour's; None where a block is too short to have one."""
    shortest = min((len(block) for run in (new, old) for block in run.blocks), default=0)
    if shortest < 1 / (1 - q) or len(new.blocks) < _LOOK:
        return None
    own = [[percentile(Sample.of(block), q) for block in run.blocks] for run in (new, old)]
    return paired_ratio_interval(own[0], own[1])

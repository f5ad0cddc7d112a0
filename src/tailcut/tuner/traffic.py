"""More traffic with the same tail: a rate that the tuned server sustains, and one that is too much for the baseline.

Both are shown on fresh samples, in short open loops of Poisson arrivals that alternate with the rest of the
verification. The tuned server starts a third below the rate that it should sustain: there a few blocks are enough, and
their result remains valid while the full rate is tried. The baseline is offered rates above its capacity, each a fifth
higher than the one before, until its p99 is shown to be over the limit. The difference of the two rates is a gain that
noise cannot explain: two equal servers show none.

If the limit is the baseline's own tail, the tuned server is compared with the baseline's blocks at its own rate in the
same rounds. A p99 measured once, a minute before, is unreliable on a noisy machine: 18 runs of two seconds of the model
digits had p99s of 5 to 104 ms.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tailcut.lab.records import IntervalRecord, bounds_of
from tailcut.lab.trial import FAILED_MS, Arm, ArmRuns, open_block
from tailcut.stats import CONFIDENCE, Interval, Sample, is_above, percentile, ratio_interval, samples_needed
from tailcut.stats.serial import is_above_serially, serial_percentile_interval
from tailcut.tuner.baseline import Baseline
from tailcut.tuner.result_records import HighestRate

_ABOVE, _STEP = 1.25, 1.2  # the baseline's first rate as a share of its capacity; and factor to the next rate
_DOWN = 0.65  # factor from one rate of the tuned server to the next
_LIMITS, _LONGEST_S = 8.0, 1.0  # a block of the baseline lasts this many times the limit, so that a queue can grow
_TUNED_LIMITS, _TUNED_SHORTEST_S, _TUNED_LONGEST_S = 12.0, 0.4, 1.2  # long enough to include the machine's stalls
_SHORTEST_S = 0.3
_BASELINE_SAMPLES = 40  # of one block of the baseline, at least
_LOOK = 4  # blocks of the tuned server at a rate, after which they are tested
_LOOKS = 4  # tests at all rates, which share the probability of an error
_CONFIDENCE = 1 - 0.01 / _LOOKS
_HOPEFUL = 0.8  # of the baseline's p99: below it, more blocks are likely to prove that the p99 is shorter
_BASELINE_BLOCKS, _TUNED_BLOCKS = 5, 2 * _LOOK  # expected number: one rate that is missed, and one that is shown
_DRAINED, _WARMED_S = 1.25, 0.1  # time of a block: factor for draining an overload, and seconds of warm-up
_SPARE = 3.0  # times the samples that a p99 needs, because latencies of successive requests are correlated
_LATE = 0.01  # share of the answers that may be over the limit
_CLEARLY, _MOST = 0.05, 0.15  # share of late answers: with less, a rate is sustained; more does not count more
_BET = 0.5
_ALPHA, _RATES = 0.01, 4  # error probability of the headline; rates of the baseline that share it
_KEPT = 0.95  # of the rate offered has to be answered


def evidence(latencies_ms: np.ndarray, limit_ms: float) -> float:
    """The factor by which a block multiplies the evidence that the p99 is over a limit.

    If the p99 is within the limit, at most 1 % of a block's answers are expected to be late, and the factor has a mean
    of at most 1. By Ville's inequality the product over any number of blocks then exceeds 1/alpha with a probability
    of at most alpha, whenever one stops. A stall of the machine affects one block, whose factor is at most 8.

    Args:
        latencies_ms: float64 [answers]; failed requests are late.
        limit_ms: the limit.
    """
    share = float((latencies_ms > limit_ms).mean()) if len(latencies_ms) else _LATE
    return 1 + _BET * (min(share, _MOST) / _LATE - 1)


def baseline_block_s(limit_ms: float, rate: float) -> float:
    """The length of a block of the baseline at a rate, in seconds."""
    return max(_SHORTEST_S, min(_LIMITS * limit_ms / 1e3, _LONGEST_S), _BASELINE_SAMPLES / rate)


def overload_block_s(known: Baseline) -> float:
    """The length of a block that shows that the baseline cannot sustain the rate of the verification, in seconds.

    The wait in the queue reaches the limit after `limit / (1 - capacity / rate)`; more than twice that takes long to
    drain, and shows nothing more.
    """
    whole_s, growth = baseline_block_s(known.limit_ms, known.rate), 1 - known.capacity / known.rate
    if growth <= 0:
        return whole_s
    return min(whole_s, max(_WARMED_S, 2 * known.limit_ms / 1e3 / growth, _BASELINE_SAMPLES / known.rate))


def tuned_block_s(limit_ms: float, rate: float) -> float:
    """The length of a block of the tuned server at a rate, in seconds: a few of them should suffice for its p99."""
    samples_s = _SPARE * samples_needed(0.99) / _LOOK / rate
    return max(_TUNED_SHORTEST_S, min(max(_TUNED_LIMITS * limit_ms / 1e3, samples_s), _TUNED_LONGEST_S))


def traffic_s(known: Baseline, highest: float) -> float:
    """How long it takes to show both rates, in seconds, if one rate of the baseline is tried in vain.

    Args:
        known: the baseline's capacity and the limit.
        highest: the tuned server's rate.
    """
    baseline_s = _DRAINED * baseline_block_s(known.limit_ms, _ABOVE * known.capacity) + _WARMED_S
    tuned_s = tuned_block_s(known.limit_ms, highest) + _WARMED_S
    return _BASELINE_BLOCKS * baseline_s + _TUNED_BLOCKS * tuned_s


class Overload:
    """The search for a rate at which the baseline's p99 is over the limit. Pure.

    A rate is too much when the product of its blocks' `evidence` is large enough. A block with few late answers is
    followed by a faster one; after four rates the search is over. Each rate has a quarter of the probability of an
    error.

    Args:
        known: the baseline's capacity in a closed loop, the rate of the verification, and the limit.
    """

    def __init__(self, known: Baseline) -> None:
        self.rate = max(known.rate, _ABOVE * known.capacity)  # of the next block
        self.result: float | None = None
        self._known = known
        self._rates = 1
        self._evidence = 1.0

    @property
    def is_over(self) -> bool:
        """Whether no more blocks are needed."""
        return self.result is not None or self._rates > _RATES

    def add(self, latencies_ms: np.ndarray) -> None:
        """Add the latencies of a block at `rate`; if it meets the limit, the next one has a higher rate."""
        if len(latencies_ms) and (latencies_ms > self._known.limit_ms).mean() < _CLEARLY:
            self.rate *= _STEP
            self._rates += 1
            self._evidence = 1.0
            return
        self._evidence *= evidence(latencies_ms, self._known.limit_ms)
        if self._evidence >= _RATES / _ALPHA:
            self.result = self.rate

    def lowest(self, verified: Sequence[np.ndarray]) -> float | None:
        """The rate that was found, or that of the verification if the baseline's blocks there prove it to be too much.

        The latter does not apply if the limit is the baseline's own, which was measured at that very rate.
        """
        known = self._known
        if known.own_limit or not is_shown_over(verified, known.limit_ms):
            return self.result
        return known.rate


def is_shown_over(blocks: Sequence[np.ndarray], limit_ms: float) -> bool:
    """Whether blocks at one rate prove that the p99 is over a limit."""
    factors = [evidence(block, limit_ms) for block in blocks]
    return float(np.prod(factors)) >= 1 / _ALPHA


@dataclass(slots=True)
class CarriedBlocks:
    """What was measured at one rate.

    Args:
        rate: requests per second.
        blocks: latencies in ms, in order of time; failed requests are late.
        beside: blocks of the baseline at its own rate, in the same rounds; empty if the limit is the user's.
    """

    rate: float
    blocks: list[np.ndarray] = field(default_factory=list)
    beside: list[np.ndarray] = field(default_factory=list)

    @property
    def latencies(self) -> np.ndarray:
        """The latencies of all blocks in ms, float64 [answers]."""
        return np.concatenate(self.blocks) if self.blocks else np.empty(0)

    def ratio(self, confidence: float = CONFIDENCE) -> Interval | None:
        """The ratio of the p99 to the baseline's at its own rate; None with too few blocks, or none of the baseline."""
        if not self.beside or len(self.blocks) < _LOOK:
            return None
        new, old = ([Sample.of(block) for block in blocks] for blocks in (self.blocks, self.beside))
        return ratio_interval(new, old, 0.99, confidence=confidence)

    def is_within(self, limit_ms: float) -> bool:
        """Whether the blocks prove that the p99 is within the limit, or not longer than the baseline's; none failed."""
        latencies = self.latencies
        if len(latencies) < samples_needed(0.99, _CONFIDENCE) or latencies.max() >= FAILED_MS:
            return False
        if self.beside:
            ratio = self.ratio(_CONFIDENCE)
            return ratio is not None and ratio.high <= 1
        interval = serial_percentile_interval(latencies, 0.99, _CONFIDENCE)
        return interval is not None and interval.high <= limit_ms


class CarriedRate:
    """The search for the highest rate that the tuned server sustains within the limit. Pure.

    Near the highest rate, latencies are strongly correlated and prove little; further down, a few blocks are enough. So
    the search starts a step below it, and goes up once if that rate is proven. It goes down if the p99 is proven to be
    over the limit, if less is answered than offered, or if a few blocks did not prove that the p99 is within the limit,
    unless it is well below the baseline's so far.

    Args:
        limit_ms: the limit.
        highest: the highest rate to try.
        above: lower rates are no gain: steps to below this rate are taken only if unavoidable.
    """

    def __init__(self, limit_ms: float, highest: float, above: float = 0.0) -> None:
        self.limit_ms = limit_ms
        self.highest = highest
        self.above = above
        self.is_over = False  # whether no more blocks are needed
        self.shown: CarriedBlocks | None = None  # at the highest rate proven to be sustained
        self._begin(_DOWN * highest if _DOWN * highest > above else highest)

    @property
    def rate(self) -> float:
        """The rate of the next block, in requests per second."""
        return self._now.rate

    @property
    def best(self) -> CarriedBlocks:
        """The blocks at the rate proven to be sustained, or else at the one being tried."""
        return self.shown or self._now

    def add(self, latencies_ms: np.ndarray, achieved: float, beside_ms: np.ndarray | None = None) -> None:
        """Add a block at `rate`; the next one may have a different rate.

        Args:
            latencies_ms: float64 [answers]; failed requests are late.
            achieved: answers per second.
            beside_ms: the baseline's block at its own rate, if its tail is the limit; None if the limit is the user's.
        """
        now = self._now
        now.blocks.append(latencies_ms)
        self._achieved.append(achieved)
        limit_ms = self.limit_ms
        if beside_ms is not None:
            now.beside.append(beside_ms)
            limit_ms = max(limit_ms, percentile(Sample.of(np.concatenate(now.beside)), 0.99))
        latencies = now.latencies
        failing = is_above(int((latencies >= FAILED_MS).sum()), len(latencies), _LATE)
        behind = float(np.mean(self._achieved)) < _KEPT * self.rate
        late = is_above_serially(latencies > limit_ms, _LATE)
        if failing or behind or late:
            self._lower()
        elif len(now.blocks) % _LOOK == 0 and len(latencies) >= samples_needed(0.99, _CONFIDENCE):
            if now.is_within(self.limit_ms):
                self._raise()
            elif ((ratio := now.ratio()) is None or ratio.point > _HOPEFUL) and _DOWN * self.rate > self.above:
                self._lower()

    def _raise(self) -> None:
        self.shown = self._now
        self.is_over = self.rate >= self.highest
        self._begin(self.highest)

    def _lower(self) -> None:
        self.is_over = self.shown is not None
        self._begin(_DOWN * self.rate)

    def _begin(self, rate: float) -> None:
        self._now = CarriedBlocks(rate)
        self._achieved: list[float] = []


class Traffic:
    """Measures both rates, one block each in every round of the verification.

    Args:
        tuned, baseline: their servers.
        highest: a rate that the tuned server should sustain within the limit; 0 if none was found.
        known: the baseline's capacity, the rate of the verification, and the limit of the p99.
        note: called with each block: the arm's name, the rate in requests per second, and latencies in ms.
    """

    def __init__(
        self,
        tuned: Arm,
        baseline: Arm,
        highest: float,
        known: Baseline,
        note: Callable[[str, float, np.ndarray], None] = lambda *_: None,
    ) -> None:
        self._note = note
        self.runs = ArmRuns()  # of the tuned server
        self._tuned, self._baseline, self._known = tuned, baseline, known
        self._overload = Overload(known)
        self._carried = CarriedRate(known.limit_ms, highest, self._overload.rate)

    def expected_s(self) -> float:
        """How long it takes to show both rates, in seconds; 0 if they cannot show a gain."""
        return traffic_s(self._known, self._carried.highest) if self.may_show_gain else 0.0

    @property
    def may_show_gain(self) -> bool:
        """Whether the tuned server may be shown to sustain a rate that is too much for the baseline."""
        least = self._overload.rate if self._known.own_limit else self._known.rate
        return self._best > least

    def measure(self, seed: int, until: float, beside_ms: np.ndarray | None = None) -> None:
        """Run a block of each server, as far as they are still needed.

        Args:
            seed: of the arrivals.
            until: on the monotonic clock; no block is started that would end later.
            beside_ms: the baseline's block of this round, at its own rate; None if there is none.
        """
        carried, overload, limit_ms = self._carried, self._overload, self._known.limit_ms
        if not self._is_more:
            return
        length_s = tuned_block_s(limit_ms, carried.rate)
        if not carried.is_over and time.monotonic() + length_s < until:
            open_block([self._tuned], [self.runs], rate=carried.rate, duration_s=length_s, seed=seed)
            block = self.runs.blocks[-1]
            self._note("tuned", carried.rate, block)
            drawn = len(block) / (carried.rate * length_s)  # requests drawn, relative to their expected number
            carried.add(block, self.runs.achieved[-1] / max(drawn, 1e-9), beside_ms if self._known.own_limit else None)
        length_s = baseline_block_s(limit_ms, overload.rate)
        if not overload.is_over and overload.rate < self._best and time.monotonic() + length_s < until:
            runs = ArmRuns()
            open_block([self._baseline], [runs], rate=overload.rate, duration_s=length_s, seed=seed)
            self._note("baseline", overload.rate, runs.latencies)
            overload.add(runs.latencies)

    @property
    def _best(self) -> float:
        """The highest rate that the tuned server may still be proven to sustain."""
        carried = self._carried
        if carried.shown is None:
            return carried.rate
        return carried.shown.rate if carried.is_over else carried.highest

    @property
    def _is_more(self) -> bool:
        """Whether that rate is higher than the rate of the verification, as it has to be."""
        return self._best > self._known.rate

    def result(self, verified: ArmRuns) -> HighestRate | None:
        """Both rates; None if there are too few samples of the tuned server for a p99.

        Args:
            verified: the baseline's blocks at the rate of the verification.
        """
        best, limit_ms = self._carried.best, self._known.limit_ms
        interval, ratio = serial_percentile_interval(best.latencies, 0.99), best.ratio()
        bounds = bounds_of(interval)
        if interval is None or bounds is None or interval.high >= FAILED_MS:
            return None
        return HighestRate(
            limit_ms,
            self._overload.lowest(verified.blocks),
            best.rate,
            bounds,
            len(best.latencies),
            best.is_within(limit_ms),
            None if ratio is None else IntervalRecord.rounded(ratio),
        )

"""The same tail with more traffic: a rate that the tuned server carries, and one that is too much for the baseline.

Both are shown on fresh samples, in short open loops of Poisson arrivals that take turns with the rest of the
verification. The tuned server begins a third below the rate that it should carry: there a few blocks show enough, and
what they show stands while the whole rate is tried. The baseline is offered rates above its capacity, each a fifth
higher than the one before, until its p99 is shown to lie over the limit. What lies between the two rates is a gain that
the machine's noise did not make: two servers that are alike show none.

Where the limit is the baseline's own tail, the tuned server is compared with that: with the baseline's blocks at its
own rate in the same rounds. A p99 that was measured once, a minute before, says little of it on a noisy machine: of
digits, 18 stretches of two seconds had one of 5 to 104 ms.
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

_ABOVE, _STEP = 1.25, 1.2  # of the baseline's capacity, where its rates begin; and from one to the next
_DOWN = 0.65  # from one rate of the tuned server to the next
_LIMITS, _LONGEST_S = 8.0, 1.0  # a block of the baseline lasts this many limits, so that a queue has time to grow
_TUNED_LIMITS, _TUNED_SHORTEST_S, _TUNED_LONGEST_S = 12.0, 0.4, 1.2  # a few blocks have to see the machine's stalls
_SHORTEST_S = 0.3
_BASELINE_SAMPLES = 40  # of one block of the baseline, at least
_LOOK = 4  # blocks of the tuned server at a rate, after which it is asked whether they show enough
_LOOKS = 4  # of all rates: they share the probability of an error
_CONFIDENCE = 1 - 0.01 / _LOOKS
_HOPEFUL = 0.8  # of the baseline's p99: more blocks will show that it is shorter
_BASELINE_BLOCKS, _TUNED_BLOCKS = 5, 2 * _LOOK  # that are expected: one rate that is missed, and one that is shown
_DRAINED, _WARMED_S = 1.25, 0.1  # what a block takes: an overloaded one drains, and each has a warm-up
_SPARE = 3.0  # times the samples that the p99 needs: some of them waited together
_LATE = 0.01  # share of the answers that may be over the limit
_CLEARLY, _MOST = 0.05, 0.15  # of them late: less says that a rate is carried, more says no more
_BET = 0.5
_ALPHA, _RATES = 0.01, 4  # of one headline; rates of the baseline that share it
_KEPT = 0.95  # of the rate offered


def evidence(latencies_ms: np.ndarray, limit_ms: float) -> float:
    """By how much a block multiplies the evidence that the p99 is over a limit.

    If the p99 is within the limit, at most 1 % of a block's answers are expected to be late, and the factor has a mean
    of at most 1. By Ville's inequality the product over any number of blocks then exceeds 1/alpha with a probability
    of at most alpha, whenever one stops. A stall of the machine spoils one block, which counts for 8 at most.

    Args:
        latencies_ms: of shape (answers,); failed requests are late.
        limit_ms: the limit.
    """
    share = float((latencies_ms > limit_ms).mean()) if len(latencies_ms) else _LATE
    return 1 + _BET * (min(share, _MOST) / _LATE - 1)


def baseline_block_s(limit_ms: float, rate: float) -> float:
    """How long the baseline is offered a rate in one block, in seconds."""
    return max(_SHORTEST_S, min(_LIMITS * limit_ms / 1e3, _LONGEST_S), _BASELINE_SAMPLES / rate)


def overload_block_s(known: Baseline) -> float:
    """How long a block at the rate of the verification takes to show that the baseline cannot carry it, in seconds.

    The queue is as long as the limit after `limit / (1 - capacity / rate)`; what is sent beyond twice that takes long
    to drain and says nothing more.
    """
    whole_s, growth = baseline_block_s(known.limit_ms, known.rate), 1 - known.capacity / known.rate
    if growth <= 0:
        return whole_s
    return min(whole_s, max(_WARMED_S, 2 * known.limit_ms / 1e3 / growth, _BASELINE_SAMPLES / known.rate))


def tuned_block_s(limit_ms: float, rate: float) -> float:
    """How long the tuned server is offered a rate in one block, in seconds: a few of them should show its p99."""
    samples_s = _SPARE * samples_needed(0.99) / _LOOK / rate
    return max(_TUNED_SHORTEST_S, min(max(_TUNED_LIMITS * limit_ms / 1e3, samples_s), _TUNED_LONGEST_S))


def traffic_s(known: Baseline, highest: float) -> float:
    """How long both rates take to show, in seconds, where one rate of the baseline is missed.

    Args:
        known: the baseline's capacity and the limit.
        highest: the tuned server's rate.
    """
    baseline_s = _DRAINED * baseline_block_s(known.limit_ms, _ABOVE * known.capacity) + _WARMED_S
    tuned_s = tuned_block_s(known.limit_ms, highest) + _WARMED_S
    return _BASELINE_BLOCKS * baseline_s + _TUNED_BLOCKS * tuned_s


class Overload:
    """The search for a rate at which the baseline's p99 is over the limit. Pure.

    A rate is too much when the `evidence` of its blocks says so. A block with few late answers is followed by a faster
    one; after four rates the search is over. Each rate has a quarter of the probability of an error.

    Args:
        known: the baseline's capacity in a closed loop, the rate of the verification, and the limit.
    """

    def __init__(self, known: Baseline) -> None:
        self.rate = max(known.rate, _ABOVE * known.capacity)  # to try next
        self.result: float | None = None
        self._known = known
        self._rates = 1
        self._evidence = 1.0

    @property
    def is_over(self) -> bool:
        """Whether no block is wanted any more."""
        return self.result is not None or self._rates > _RATES

    def add(self, latencies_ms: np.ndarray) -> None:
        """Take in a block at `rate`; where it holds the limit, the next one is faster."""
        if len(latencies_ms) and (latencies_ms > self._known.limit_ms).mean() < _CLEARLY:
            self.rate *= _STEP
            self._rates += 1
            self._evidence = 1.0
            return
        self._evidence *= evidence(latencies_ms, self._known.limit_ms)
        if self._evidence >= _RATES / _ALPHA:
            self.result = self.rate

    def lowest(self, verified: Sequence[np.ndarray]) -> float | None:
        """The rate that was found, or that of the verification where the baseline's blocks there show it to be over.

        Not where the limit is the baseline's own: it was measured at that very rate.
        """
        known = self._known
        if known.own_limit or not is_shown_over(verified, known.limit_ms):
            return self.result
        return known.rate


def is_shown_over(blocks: Sequence[np.ndarray], limit_ms: float) -> bool:
    """Whether blocks at one rate show that its p99 is over a limit."""
    factors = [evidence(block, limit_ms) for block in blocks]
    return float(np.prod(factors)) >= 1 / _ALPHA


@dataclass(slots=True)
class CarriedBlocks:
    """What was measured at one rate.

    Args:
        rate: requests per second.
        blocks: latencies in ms, in order of time; failed requests are late.
        beside: of the baseline at its own rate, in the same rounds; none where the limit is the user's.
    """

    rate: float
    blocks: list[np.ndarray] = field(default_factory=list)
    beside: list[np.ndarray] = field(default_factory=list)

    @property
    def latencies(self) -> np.ndarray:
        """Of all blocks."""
        return np.concatenate(self.blocks) if self.blocks else np.empty(0)

    def ratio(self, confidence: float = CONFIDENCE) -> Interval | None:
        """The ratio of the p99 to that of the baseline at its own rate; None of too few blocks, or beside none."""
        if not self.beside or len(self.blocks) < _LOOK:
            return None
        new, old = ([Sample.of(block) for block in blocks] for blocks in (self.blocks, self.beside))
        return ratio_interval(new, old, 0.99, confidence=confidence)

    def is_within(self, limit_ms: float) -> bool:
        """Whether they show that the p99 is within the limit, or no longer than the baseline's; none has failed."""
        latencies = self.latencies
        if len(latencies) < samples_needed(0.99, _CONFIDENCE) or latencies.max() >= FAILED_MS:
            return False
        if self.beside:
            ratio = self.ratio(_CONFIDENCE)
            return ratio is not None and ratio.high <= 1
        interval = serial_percentile_interval(latencies, 0.99, _CONFIDENCE)
        return interval is not None and interval.high <= limit_ms


class CarriedRate:
    """The rate that the tuned server is held at. Pure.

    Near the highest rate answers wait for one another and say little, while further down they soon say enough. So it
    begins a step below; goes up once where that is shown; and goes down where its p99 is shown to be over the limit,
    where less is answered than is offered, and where a few blocks did not show that it is within the limit, unless it
    is well below the baseline's so far.

    Args:
        limit_ms: the limit.
        highest: the rate to try in the end.
        above: what it has to be over to be worth anything: a step below that is taken only where it has to be.
    """

    def __init__(self, limit_ms: float, highest: float, above: float = 0.0) -> None:
        self.limit_ms = limit_ms
        self.highest = highest
        self.above = above
        self.is_over = False  # whether no block is wanted any more
        self.shown: CarriedBlocks | None = None  # at the highest rate shown to be carried
        self._begin(_DOWN * highest if _DOWN * highest > above else highest)

    @property
    def rate(self) -> float:
        """To offer next."""
        return self._now.rate

    @property
    def best(self) -> CarriedBlocks:
        """What is known of the rate shown to be carried, or else of the one that is tried."""
        return self.shown or self._now

    def add(self, latencies_ms: np.ndarray, achieved: float, beside_ms: np.ndarray | None = None) -> None:
        """Take in a block at `rate`; the next one may have another.

        Args:
            latencies_ms: of shape (answers,); failed requests are late.
            achieved: answers per second.
            beside_ms: of the baseline at its own rate, whose tail is the limit; None where that is the user's.
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
        highest: a rate that the tuned server should carry within the limit; 0 where none was found.
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
        """How long both rates take to show, in seconds; 0 where nothing is measured."""
        return traffic_s(self._known, self._carried.highest) if self._is_more else 0.0

    def measure(self, seed: int, until: float, beside_ms: np.ndarray | None = None) -> None:
        """One block of each, as far as they are wanted.

        Args:
            seed: of the arrivals.
            until: on the monotonic clock; no block is begun that would end later.
            beside_ms: the baseline's block of this round, at its own rate; None where there is none.
        """
        carried, overload, limit_ms = self._carried, self._overload, self._known.limit_ms
        if not self._is_more:
            return
        length_s = tuned_block_s(limit_ms, carried.rate)
        if not carried.is_over and time.monotonic() + length_s < until:
            open_block([self._tuned], [self.runs], rate=carried.rate, duration_s=length_s, seed=seed)
            block = self.runs.blocks[-1]
            self._note("tuned", carried.rate, block)
            drawn = len(block) / (carried.rate * length_s)  # of the requests that are due on average
            carried.add(block, self.runs.achieved[-1] / max(drawn, 1e-9), beside_ms if self._known.own_limit else None)
        length_s = baseline_block_s(limit_ms, overload.rate)
        if not overload.is_over and overload.rate < self._best and time.monotonic() + length_s < until:
            runs = ArmRuns()
            open_block([self._baseline], [runs], rate=overload.rate, duration_s=length_s, seed=seed)
            self._note("baseline", overload.rate, runs.latencies)
            overload.add(runs.latencies)

    @property
    def _best(self) -> float:
        """The highest rate that the tuned server may still be shown to carry."""
        carried = self._carried
        if carried.shown is None:
            return carried.rate
        return carried.shown.rate if carried.is_over else carried.highest

    @property
    def _is_more(self) -> bool:
        """Whether that is higher than the rate of the verification, as it has to be."""
        return self._best > self._known.rate

    def result(self, verified: ArmRuns) -> HighestRate | None:
        """What was shown; None where the tuned server's p99 was not measured well enough.

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

"""The same tail with more traffic: a rate that the tuned server carries, and one that is too much for the baseline.

Both are shown on fresh samples, in short open loops of Poisson arrivals that take turns with the rest of the
verification. The tuned server's rate is lowered by a third where it turns out to be too much, or too near to that to be
shown, and its samples begin anew. The baseline is offered rates above its capacity, each a fifth higher than the one
before, until its p99 is shown to lie over the limit. What lies between the two rates is a gain that the machine's noise
did not make: two servers that are alike show none.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from tailcut.lab.records import bounds_of
from tailcut.lab.trial import FAILED_MS, Arm, ArmRuns, open_block
from tailcut.stats import is_above, samples_needed
from tailcut.stats.serial import is_above_serially, serial_percentile_interval
from tailcut.tuner.baseline import Baseline
from tailcut.tuner.result_records import HighestRate

_ABOVE, _STEP = 1.25, 1.2  # of the baseline's capacity, where its rates begin; and from one to the next
_DOWN = 0.65  # from one rate of the tuned server to the next
_LIMITS, _LONGEST_S = 8.0, 1.0  # a block of the baseline lasts so many limits, so that a queue has time to grow
_TUNED_LIMITS, _TUNED_LONGEST_S = 12.0, 1.2
_SHORTEST_S = 0.3
_BASELINE_SAMPLES = 40  # of one block of the baseline, at least
_BASELINE_BLOCKS, _TUNED_BLOCKS = 5, 4  # that are expected: one rate that is missed, and one that is shown
_DRAINED, _WARMED_S = 1.25, 0.1  # what a block takes: an overloaded one drains, and each has a warm-up
_SPARE = 3.0  # times the samples that the p99 needs: some of them waited together
_LATE = 0.01  # share of the answers that may be over the limit
_CLEARLY, _MOST = 0.05, 0.15  # of them late: less says that a rate is carried, more says no more
_BET = 0.5
_ALPHA, _RATES = 0.01, 4  # of one headline; rates of the baseline that share it
_KEPT = 0.95  # of the rate offered
_PATIENCE = 3  # blocks at a rate, before it is asked whether they show enough


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
    """How long the tuned server is offered a rate in one block, in seconds: four of them should show its p99."""
    samples_s = _SPARE * samples_needed(0.99) / _TUNED_BLOCKS / rate
    return max(_SHORTEST_S, min(max(_TUNED_LIMITS * limit_ms / 1e3, samples_s), _TUNED_LONGEST_S))


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
        self.found: float | None = None
        self._known = known
        self._rates = 1
        self._evidence = 1.0

    @property
    def is_over(self) -> bool:
        """Whether no block is wanted any more."""
        return self.found is not None or self._rates > _RATES

    def add(self, latencies_ms: np.ndarray) -> None:
        """Take in a block at `rate`; where it holds the limit, the next one is faster."""
        if len(latencies_ms) and (latencies_ms > self._known.limit_ms).mean() < _CLEARLY:
            self.rate *= _STEP
            self._rates += 1
            self._evidence = 1.0
            return
        self._evidence *= evidence(latencies_ms, self._known.limit_ms)
        if self._evidence >= _RATES / _ALPHA:
            self.found = self.rate

    def lowest(self, verified: Sequence[np.ndarray]) -> float | None:
        """The rate that was found, or that of the verification where the baseline's blocks there show it to be over.

        Not where the limit is the baseline's own: it was measured at that very rate.
        """
        known = self._known
        if known.own_limit or not is_shown_over(verified, known.limit_ms):
            return self.found
        return known.rate


def is_shown_over(blocks: Sequence[np.ndarray], limit_ms: float) -> bool:
    """Whether blocks at one rate show that its p99 is over a limit."""
    factors = [evidence(block, limit_ms) for block in blocks]
    return float(np.prod(factors)) >= 1 / _ALPHA


class CarriedRate:
    """The rate that the tuned server is held at. Pure.

    It is lowered where its p99 is shown to be over the limit; where less is answered than is offered; and where a few
    blocks did not show that it is within the limit, because near the highest rate answers wait for one another and say
    little, while further down they soon say enough.

    Args:
        limit_ms: the limit.
        rate: to begin with.
    """

    def __init__(self, limit_ms: float, rate: float) -> None:
        self.limit_ms = limit_ms
        self.rate = rate
        self._blocks: list[np.ndarray] = []  # latencies at this rate
        self._achieved: list[float] = []

    def add(self, latencies_ms: np.ndarray, achieved: float) -> bool:
        """Take in a block at `rate`; whether the next one is slower, and what was measured before counts no more.

        Args:
            latencies_ms: of shape (answers,); failed requests are late.
            achieved: answers per second.
        """
        self._blocks.append(latencies_ms)
        self._achieved.append(achieved)
        latencies = np.concatenate(self._blocks)
        failing = is_above(int((latencies >= FAILED_MS).sum()), len(latencies), _LATE)
        behind = float(np.mean(self._achieved)) < _KEPT * self.rate
        late = is_above_serially(latencies > self.limit_ms, _LATE)
        if not (failing or behind or late or self._is_unproven(latencies)):
            return False
        self.rate *= _DOWN
        self._blocks, self._achieved = [], []
        return True

    def _is_unproven(self, latencies: np.ndarray) -> bool:
        if len(self._blocks) % _PATIENCE:
            return False
        interval = serial_percentile_interval(latencies, 0.99)
        return interval is not None and interval.high > self.limit_ms


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
        self.runs = ArmRuns()  # of the tuned server, at its rate
        self._tuned, self._baseline, self._known = tuned, baseline, known
        self._carried = CarriedRate(known.limit_ms, highest)
        self._overload = Overload(known)

    def expected_s(self) -> float:
        """How long both rates take to show, in seconds; 0 where nothing is measured."""
        return traffic_s(self._known, self._carried.rate) if self._is_more else 0.0

    def measure(self, seed: int, until: float, *, tuned: bool = True) -> None:
        """One block of the baseline, and one of the tuned server where it is wanted: its rate says more in less time.

        Args:
            seed: of the arrivals.
            until: on the monotonic clock; no block is begun that would end later.
            tuned: whether the tuned server has a block.
        """
        carried, overload, limit_ms = self._carried, self._overload, self._known.limit_ms
        if not self._is_more:
            return
        length_s = tuned_block_s(limit_ms, carried.rate)
        if tuned and time.monotonic() + length_s < until:
            open_block([self._tuned], [self.runs], rate=carried.rate, duration_s=length_s, seed=seed)
            block = self.runs.blocks[-1]
            self._note("tuned", carried.rate, block)
            drawn = len(block) / (carried.rate * length_s)  # of the requests that are due on average
            if carried.add(block, self.runs.achieved[-1] / max(drawn, 1e-9)):
                self.runs = ArmRuns()
        length_s = baseline_block_s(limit_ms, overload.rate)
        if not overload.is_over and overload.rate < carried.rate and time.monotonic() + length_s < until:
            runs = ArmRuns()
            open_block([self._baseline], [runs], rate=overload.rate, duration_s=length_s, seed=seed)
            self._note("baseline", overload.rate, runs.latencies)
            overload.add(runs.latencies)

    @property
    def _is_more(self) -> bool:
        """Whether the tuned server's rate is higher than that of the verification, as it has to be."""
        return self._carried.rate > self._known.rate

    def result(self, verified: ArmRuns) -> HighestRate | None:
        """What was shown; None where the tuned server's p99 was not measured well enough.

        Args:
            verified: the baseline's blocks at the rate of the verification.
        """
        interval = serial_percentile_interval(self.runs.latencies, 0.99)
        bounds = bounds_of(interval)
        if interval is None or bounds is None or interval.high >= FAILED_MS:
            return None
        return HighestRate(
            self._known.limit_ms,
            self._overload.lowest(verified.blocks),
            self._carried.rate,
            bounds,
            len(self.runs.latencies),
            interval.high <= self._known.limit_ms and not self.runs.errors,
        )

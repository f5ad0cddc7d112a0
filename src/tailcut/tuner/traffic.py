"""The same tail with more traffic: a rate that the tuned server carries, and one that is too much for the baseline.

Both are shown on fresh samples, in short open loops of Poisson arrivals that take turns with the rest of the
verification. The tuned server's rate is lowered by a fifth where it turns out to be too much, or too near to that to be
shown, and its samples begin anew. The baseline is held against the limit at the rate of the verification, and above its
capacity, at rates a fifth higher each time, until its p99 is shown to lie over the limit. What lies between the two
rates is a gain that the machine's noise did not make: two servers that are alike show none.
"""

import time
from collections.abc import Sequence

import numpy as np

from tailcut.lab.records import bounds_of
from tailcut.lab.trial import Arm, ArmRuns, open_block
from tailcut.stats import is_above, samples_needed
from tailcut.stats.serial import is_above_serially, serial_percentile_interval
from tailcut.tuner.baseline import Baseline
from tailcut.tuner.result_records import HighestRate

_ABOVE, _STEP = 1.1, 1.2  # of the baseline's capacity, where its rates begin; and from one to the next
_DOWN = 0.8  # from one rate of the tuned server to the next
_BASELINE_SAMPLES = 150  # of one block of the baseline: an overload shows in fewer than a p99 takes
_LIMITS, _LONGEST_S = 20.0, 2.0  # a block lasts so many limits, so that a queue has time to grow
_SHORTEST_S = 0.3
_LATE = 0.01  # share of the answers that may be over the limit
_PATIENCE = 3  # blocks at a rate, before it is asked whether they show enough
_IN_A_ROW = 7  # blocks: by chance less than one time in a hundred


class Overload:
    """The search for a rate at which the baseline's p99 is over the limit. Pure.

    A stall of the machine makes many answers of one block late, so that not answers are counted but blocks: a rate is
    too much when several blocks in a row have more than 1 % late answers, which happens by chance in less than half of
    them. The first block that has not is followed by a faster one.

    Args:
        limit_ms: the limit.
        verified_rate: requests per second of the verification, at which the baseline is measured anyway.
        capacity: of the baseline in a closed loop, requests per second.
    """

    def __init__(self, limit_ms: float, verified_rate: float, capacity: float) -> None:
        self.limit_ms = limit_ms
        self.rate = max(verified_rate, _ABOVE * capacity)  # to try next
        self.found: float | None = None
        self._verified_rate = verified_rate
        self._in_a_row = 0

    def add(self, latencies_ms: np.ndarray, errors: int) -> None:
        """Take in a block at `rate`; where it holds the limit, the next one is faster."""
        if not self._is_over(latencies_ms, errors):
            self.rate *= _STEP
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row == _IN_A_ROW:
            self.found = self.rate

    def lowest(self, verified: Sequence[np.ndarray]) -> float | None:
        """The rate that was found, or that of the verification where the baseline's blocks there show it to be over."""
        over = sum(self._is_over(block, 0) for block in verified)
        return self._verified_rate if is_above(over, len(verified), 0.5) else self.found

    def _is_over(self, latencies_ms: np.ndarray, errors: int) -> bool:
        late = int((latencies_ms > self.limit_ms).sum()) + errors
        return late > _LATE * (len(latencies_ms) + errors)


class CarriedRate:
    """The rate that the tuned server is held at. Pure.

    It is lowered where its p99 is shown to be over the limit; and where a few blocks did not show that it is within it,
    because near the highest rate answers wait for one another and say little, while further down they soon say enough.

    Args:
        limit_ms: the limit.
        rate: to begin with.
    """

    def __init__(self, limit_ms: float, rate: float) -> None:
        self.limit_ms = limit_ms
        self.rate = rate
        self._blocks: list[np.ndarray] = []  # latencies at this rate
        self._errors = 0

    def add(self, latencies_ms: np.ndarray, errors: int) -> bool:
        """Take in a block at `rate`; whether the next one is slower, and what was measured before counts no more."""
        self._blocks.append(latencies_ms)
        self._errors += errors
        latencies = np.concatenate(self._blocks)
        failing = is_above(self._errors, len(latencies) + self._errors, _LATE)
        if not (failing or is_above_serially(latencies > self.limit_ms, _LATE) or self._is_unproven(latencies)):
            return False
        self.rate *= _DOWN
        self._blocks, self._errors = [], 0
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
    """

    def __init__(self, tuned: Arm, baseline: Arm, highest: float, known: Baseline) -> None:
        self.runs = ArmRuns()  # of the tuned server, at its rate
        self._tuned, self._baseline, self._least = tuned, baseline, known.rate
        self._carried = CarriedRate(known.limit_ms, highest)
        self._overload = Overload(known.limit_ms, known.rate, known.capacity)

    def measure(self, seconds: float, seed: int, until: float, *, tuned: bool = True) -> None:
        """One block of the baseline, and one of the tuned server where it is wanted: its rate says more in less time.

        Args:
            seconds: for the tuned server's block, at least.
            seed: of the arrivals.
            until: on the monotonic clock; no block of the baseline is begun that would end later.
        """
        carried, overload = self._carried, self._overload
        if carried.rate <= self._least:  # more than that it would have to be
            return
        limits_s = min(_LIMITS * overload.limit_ms / 1e3, _LONGEST_S)
        if tuned:
            before = self.runs.errors
            open_block([self._tuned], [self.runs], rate=carried.rate, duration_s=max(seconds, limits_s), seed=seed)
            if carried.add(self.runs.blocks[-1], self.runs.errors - before):
                self.runs = ArmRuns()
        length_s = max(_SHORTEST_S, limits_s, _BASELINE_SAMPLES / overload.rate)
        if overload.found is None and overload.rate < carried.rate and time.monotonic() + length_s < until:
            runs = ArmRuns()
            open_block([self._baseline], [runs], rate=overload.rate, duration_s=length_s, seed=seed)
            overload.add(runs.latencies, runs.errors)

    def result(self, verified: ArmRuns) -> HighestRate | None:
        """What was shown; None where the tuned server's p99 was not measured well enough.

        Args:
            verified: the baseline's blocks at the rate of the verification.
        """
        if len(self.runs.latencies) < samples_needed(0.99):
            return None
        interval = serial_percentile_interval(self.runs.latencies, 0.99)
        bounds = bounds_of(interval)
        if interval is None or bounds is None:
            return None
        limit_ms = self._overload.limit_ms
        within = interval.high <= limit_ms and not self.runs.errors
        return HighestRate(
            limit_ms,
            self._overload.lowest(verified.blocks),
            self._carried.rate,
            bounds,
            len(self.runs.latencies),
            within,
        )

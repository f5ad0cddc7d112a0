"""The baseline's capacity, and the p99 limit that follows from its own tail."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tailcut.errors import UsageError
from tailcut.lab.client import closed_loop, open_loop
from tailcut.lab.load import LoadResult
from tailcut.lab.trial import Arm
from tailcut.stats import Sample, percentile, samples_needed

_LOAD = 0.5  # of the baseline's capacity: the rate offered where the user gives none
_UNSTABLE = 0.95  # of the capacity: above it, queues grow as long as the load lasts
_CLIENTS = 16  # in flight when the capacity is measured
_FEWEST_CLIENTS = 2
_LONE_FACTOR = 3.0  # of a request's median: the limit where measuring the p99 takes too long
_FEWEST_ANSWERS = 2
_LONGEST_S = 60.0
_SPARE = 1.2  # more requests than a p99 needs
_BLOCKS = 4  # for a fast model: the median of their p99s is not affected by a single stall


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was measured of the baseline before anything else.

    Args:
        capacity: requests per second in a closed loop.
        clients: requests in flight in that loop; fewer for a slow model, whose requests would take long to drain.
        rate: requests per second to offer to every arm.
        limit_ms: the user's limit, or the baseline's p99 at that rate; at half of its capacity where that rate
            overloads it.
        own_limit: whether the limit is the baseline's own p99 at that rate.
    """

    capacity: float
    clients: int
    rate: float
    limit_ms: float
    own_limit: bool = True

    @property
    def is_overloaded(self) -> bool:
        """Whether the rate exceeds what the baseline can sustain."""
        return self.rate > _UNSTABLE * self.capacity


def measure_baseline(arm: Arm, seconds: float, *, rate: float | None, limit_ms: float | None) -> Baseline:
    """Measure the capacity, and the p99 at half of it (or at the user's rate, where the baseline can sustain that).

    Args:
        arm: the baseline's server.
        seconds: for the closed loop; the open loops have about as long, or up to four times that where it suffices
            for a p99.
        rate: requests per second, if the user gave a rate.
        limit_ms: the user's limit, if given; then no open loop is run.

    Raises:
        UsageError: no request succeeds.
    """
    first = _closed(arm, _FEWEST_CLIENTS, seconds / 4)
    clients = max(_FEWEST_CLIENTS, min(_CLIENTS, int(first.rate_achieved * seconds)))
    # For a slow model the first loop was extended until it had answers: it already measured the capacity.
    known_long = clients == _FEWEST_CLIENTS and first.duration_s >= seconds
    capacity = (first if known_long else _closed(arm, clients, max(seconds, first.duration_s))).rate_achieved
    carried = float(f"{_LOAD * capacity:.3g}")
    known = Baseline(capacity, clients, rate or carried, limit_ms or 0.0, own_limit=False)
    if limit_ms is None:
        own_rate = carried if known.is_overloaded else known.rate
        needed_s = _SPARE * samples_needed(0.99) / own_rate
        lengths_s = [needed_s if seconds < needed_s <= 4 * seconds else seconds]
        if needed_s <= seconds / 2:
            lengths_s = [seconds / 2] * _BLOCKS
        opened = [
            open_loop(arm.target, arm.payloads, rate=own_rate, duration_s=length_s, seed=seed)
            for seed, length_s in enumerate(lengths_s, 1)
            if own_rate * length_s >= _FEWEST_ANSWERS
        ]
        limit_ms = float(f"{np.median([_limit_ms(block, first) for block in opened or [first]]):.3g}")
        return replace(known, limit_ms=limit_ms, own_limit=not known.is_overloaded)
    return known


def _closed(arm: Arm, clients: int, seconds: float) -> LoadResult:
    """A closed loop, extended where a single request takes longer than it."""
    while True:
        began = time.monotonic()
        result = closed_loop(arm.target, arm.payloads, concurrency=clients, duration_s=seconds, warmup_s=seconds / 4)
        if result.samples >= _FEWEST_ANSWERS:
            return result
        if result.errors or seconds > _LONGEST_S:
            raise UsageError(f"no request to the baseline succeeded: {_in_words(result.errors)}")
        seconds = max(2 * seconds, time.monotonic() - began)  # a loop waits for the answers to all that it has sent


def _in_words(errors: Mapping[str, int]) -> str:
    return ", ".join(f"{error} ({count} times)" for error, count in errors.items()) or "no answer came in time"


def _limit_ms(opened: LoadResult, closed: LoadResult) -> float:
    """The p99 of the open loop; three times the median where it has too few samples for a p99."""
    samples = opened if opened.samples >= 2 else closed
    latencies = Sample.of(samples.latencies_ns / 1e6)
    if len(latencies) >= samples_needed(0.99):
        return percentile(latencies, 0.99)
    return _LONE_FACTOR * percentile(latencies, 0.5)

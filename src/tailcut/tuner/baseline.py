"""What the baseline carries, and the limit that follows from its own tail."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tailcut.errors import UsageError
from tailcut.lab.client import closed_loop, open_loop
from tailcut.lab.load import LoadResult
from tailcut.lab.trial import Arm
from tailcut.stats import Sample, percentile, samples_needed

_LOAD = 0.5  # of the baseline's capacity: the rate offered where the user names none
_UNSTABLE = 0.95  # of it: above that, queues grow as long as the load lasts
_CLIENTS = 16  # in flight when the capacity is measured
_FEWEST_CLIENTS = 2
_LONE_FACTOR = 3.0  # of a request's median: the limit where the p99 takes too long to know
_FEWEST_ANSWERS = 2
_LONGEST_S = 60.0
_SPARE = 1.2  # more requests than a p99 needs
_BLOCKS = 4  # of a quick model: the median of their p99 is none of a stall


@dataclass(frozen=True, slots=True)
class Baseline:
    """The baseline's capacity in requests per second.

    Args:
        capacity: in a closed loop.
        clients: in flight there; fewer for a slow model, whose requests would take long to drain.
        rate: to offer every arm.
        limit_ms: its p99 at that rate, or the user's limit; its p99 at half of the capacity where it is overloaded.
        own_limit: whether it is its own p99 at that rate.
    """

    capacity: float
    clients: int
    rate: float
    limit_ms: float
    own_limit: bool = True

    @property
    def is_overloaded(self) -> bool:
        """Whether the rate is more than it carries."""
        return self.rate > _UNSTABLE * self.capacity


def measure_baseline(arm: Arm, seconds: float, *, rate: float | None, limit_ms: float | None) -> Baseline:
    """Measure the capacity, and at half of it (or at the user's rate, where that is less than it carries) the p99.

    Args:
        arm: the baseline's server.
        seconds: for the closed loop; the open ones have twice as long, or four times that where they then know a p99.
        rate: what the user names.
        limit_ms: likewise; then nothing is offered.

    Raises:
        UsageError: no request is answered rightly.
    """
    first = _closed(arm, _FEWEST_CLIENTS, seconds / 4)
    clients = max(_FEWEST_CLIENTS, min(_CLIENTS, int(first.rate_achieved * seconds)))
    # Of a slow model the first was made longer until it had answers: that is its capacity.
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
        ]
        limit_ms = float(f"{np.median([_limit_ms(block, first) for block in opened]):.3g}")
        return replace(known, limit_ms=limit_ms, own_limit=not known.is_overloaded)
    return known


def _closed(arm: Arm, clients: int, seconds: float) -> LoadResult:
    """A closed loop; longer where a request takes longer than that."""
    while True:
        began = time.monotonic()
        result = closed_loop(arm.target, arm.payloads, concurrency=clients, duration_s=seconds, warmup_s=seconds / 4)
        if result.samples >= _FEWEST_ANSWERS:
            return result
        if result.errors or seconds > _LONGEST_S:
            raise UsageError(f"no request to the baseline succeeded: {_in_words(result.errors)}")
        seconds = max(2 * seconds, time.monotonic() - began)  # it waits for the answers to what it has sent


def _in_words(errors: Mapping[str, int]) -> str:
    return ", ".join(f"{error} ({count} times)" for error, count in errors.items()) or "no answer came in time"


def _limit_ms(opened: LoadResult, closed: LoadResult) -> float:
    """The p99 of the open loop; three medians where it has too few samples to tell."""
    samples = opened if opened.samples >= 2 else closed
    latencies = Sample.of(samples.latencies_ns / 1e6)
    if len(latencies) >= samples_needed(0.99):
        return percentile(latencies, 0.99)
    return _LONE_FACTOR * percentile(latencies, 0.5)

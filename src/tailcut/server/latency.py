"""How long the requests of a model took, counted in buckets: powers of two, and finer ones around a limit."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

_POWERS = range(12, 41)  # exponents of 2, in nanoseconds: from 4 us to 18 minutes
_AROUND = (0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)  # multiples of the limit


def bounds_around(limit_ns: int = 0) -> tuple[int, ...]:
    """The buckets' upper bounds in nanoseconds, with finer ones around the latency limit `limit_ns` (0: none)."""
    around = {round(limit_ns * share) for share in _AROUND} if limit_ns else set()
    return tuple(sorted({2**power for power in _POWERS} | around))


class Exemplar(NamedTuple):
    """One traced request of a bucket, by which its trace can be found; newer ones compare greater."""

    at_s: float  # seconds since 1970
    value: int  # nanoseconds, or the rows of its batch
    trace_id: str


@dataclass(slots=True)
class LatencyHistogram:
    """Requests by latency, from the last byte of the request to the end of its batch. Times are in nanoseconds.

    `counts[i]` is the number of requests that took at most `bounds[i]` and more than the bound before it; the last
    count is that of requests over every bound. `exemplars` has the newest traced request of each bucket that has one.
    """

    limit_ns: int = 0  # the latency limit; 0: none
    counts: list[int] = field(default_factory=list)
    total_ns: int = 0
    bounds: tuple[int, ...] = ()
    exemplars: dict[int, Exemplar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bounds = bounds_around(self.limit_ns)
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, took_ns: int, requests: int = 1) -> None:
        """Count requests that took `took_ns` each."""
        self.counts[bisect_left(self.bounds, took_ns)] += requests
        self.total_ns += took_ns * requests

    def note(self, exemplar: Exemplar) -> None:
        """Make a traced request the exemplar of its bucket; it is counted by `add`."""
        self.exemplars[bisect_left(self.bounds, exemplar.value)] = exemplar

    def within_limit(self) -> int:
        """The number of requests within the limit; all, where there is none."""
        return sum(self.counts[: bisect_left(self.bounds, self.limit_ns) + 1] if self.limit_ns else self.counts)


def cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Cumulative buckets for Prometheus: how many are at or below each bound; `counts` has one more than `bounds`."""
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(repr, bounds), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets

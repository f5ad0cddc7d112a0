"""How long the requests of a model took, counted in buckets: powers of two, and finer ones around a limit."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

_POWERS = range(12, 41)  # of two, in nanoseconds: from 4 us to 18 minutes
_AROUND = (0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)  # times the limit


def bounds_around(limit_ns: int = 0) -> tuple[int, ...]:
    """The buckets' upper bounds in nanoseconds; `limit_ns` is the latency that is to be kept, 0 where there is none."""
    around = {round(limit_ns * share) for share in _AROUND} if limit_ns else set()
    return tuple(sorted({2**power for power in _POWERS} | around))


class Exemplar(NamedTuple):
    """One request of a bucket, to be looked up among the traces; the newest is the largest."""

    at_s: float  # since 1970
    value: int  # nanoseconds, or rows of its batch
    trace_id: str


@dataclass(slots=True)
class LatencyHistogram:
    """Requests by latency, each from its last byte to the engine's answer. `counts[i]` took at most `bounds[i]`.

    The last of the counts is of those over every bound. Times are nanoseconds. `exemplars` has the newest traced
    request of each bucket that has had one.
    """

    limit_ns: int = 0  # that is to be kept; 0: none
    counts: list[int] = field(default_factory=list)
    total_ns: int = 0
    bounds: tuple[int, ...] = ()
    exemplars: dict[int, Exemplar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bounds = bounds_around(self.limit_ns)
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, took_ns: int, requests: int = 1) -> None:
        """Count requests that took so long each."""
        self.counts[bisect_left(self.bounds, took_ns)] += requests
        self.total_ns += took_ns * requests

    def note(self, exemplar: Exemplar) -> None:
        """Keep a traced request, which is counted by `add`, as the newest of its bucket."""
        self.exemplars[bisect_left(self.bounds, exemplar.value)] = exemplar

    def within_limit(self) -> int:
        """How many were answered within the limit; all of them where there is none."""
        return sum(self.counts[: bisect_left(self.bounds, self.limit_ns) + 1] if self.limit_ns else self.counts)


def cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Buckets as Prometheus has them: how many lie at or under each bound; `counts` has one more, over all of them."""
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(repr, bounds), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets

"""What a load test is: where it goes, what it sends, when each request is due, and what came of it. No socket here.

Latency counts from the planned time, whether or not the client could send by then: a server that stalls is
charged for every request that would have arrived meanwhile, not only for the one that happened to be under way
(what is known as coordinated omission).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

BEHIND_NS = 2_000_000
_BEHIND_SHARE = 0.25  # of the median latency


@dataclass(frozen=True, slots=True)
class Target:
    """A server's address; over a Unix socket where `uds` is a path."""

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None

    @property
    def authority(self) -> str:
        """What a Host header says."""
        return (
            "localhost"
            if self.uds
            else f"[{self.host}]:{self.port}"
            if ":" in self.host
            else f"{self.host}:{self.port}"
        )


@dataclass(frozen=True, slots=True)
class Payload:
    """One whole encoded HTTP request, and the status it is to be answered with."""

    request: bytes
    expect_status: int = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a connection tells of one request; times in monotonic nanoseconds, `status` 0 when the connection broke."""

    planned_ns: int
    free_ns: int  # when a connection was there to send it on
    sent_ns: int
    done_ns: int
    status: int
    expected: bool


@dataclass(frozen=True)
class LoadResult:
    """One run. Latencies in nanoseconds: from the planned time, and `service_ns` from the actual send."""

    mode: str  # open or closed
    duration_s: float
    rate_offered: float | None
    rate_achieved: float
    concurrency: int
    latencies_ns: np.ndarray
    service_ns: np.ndarray
    errors: dict[str, int] = field(default_factory=dict)
    lateness_p99_ns: float = 0.0

    @property
    def samples(self) -> int:
        """Requests answered as expected."""
        return len(self.latencies_ns)

    @property
    def client_behind(self) -> bool:
        """Whether the client itself was too slow for its figures to be the server's.

        So when the 99th percentile of its own lateness (sent after planned, with a connection free) is over both
        2 ms and a quarter of the median latency.
        """
        if self.mode != "open" or not self.samples:
            return False
        return self.lateness_p99_ns > max(BEHIND_NS, _BEHIND_SHARE * float(np.median(self.latencies_ns)))


def poisson_times(rate: float, duration_s: float, seed: int) -> np.ndarray:
    """Arrival times in nanoseconds from the start: independent exponential gaps of mean 1/rate, int64, sorted."""
    random = np.random.default_rng(seed)
    count = int(rate * duration_s + 10 * (rate * duration_s) ** 0.5 + 10)
    times = np.cumsum(random.exponential(1e9 / rate, count)).astype(np.int64)
    return times[times < int(duration_s * 1e9)]


def summarise(  # noqa: PLR0913  a result is its parameters
    outcomes: Sequence[Outcome],
    *,
    mode: str,
    duration_s: float,
    rate_offered: float | None,
    concurrency: int,
    unanswered: int = 0,
) -> LoadResult:
    """Gather outcomes into a result; requests never answered are errors of kind `timeout`."""
    good = [outcome for outcome in outcomes if outcome.expected]
    errors: dict[str, int] = {}
    for outcome in outcomes:
        if not outcome.expected:
            kind = str(outcome.status) if outcome.status else "connection"
            errors[kind] = errors.get(kind, 0) + 1
    if unanswered:
        errors["timeout"] = unanswered
    times = np.array([(one.planned_ns, one.free_ns, one.sent_ns, one.done_ns) for one in good], np.int64).reshape(-1, 4)
    planned, free, sent, done = times.T
    lateness = sent - np.maximum(planned, free)
    return LoadResult(
        mode=mode,
        duration_s=duration_s,
        rate_offered=rate_offered,
        rate_achieved=len(good) / duration_s,
        concurrency=concurrency,
        latencies_ns=done - planned,
        service_ns=done - sent,
        errors=errors,
        lateness_p99_ns=float(np.quantile(lateness, 0.99)) if good else 0.0,
    )

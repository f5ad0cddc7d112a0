"""The parts of a load test: the target, the payloads, and the result. No socket here.

Latency counts from the planned time, whether or not the client could send by then: a server that stalls is charged for
every request that would have arrived meanwhile, and not only for the one that was in progress (which avoids coordinated
omission).
"""

import errno
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field

import numpy as np

from tailcut.errors import UsageError
from tailcut.lab.arrivals import Arrivals
from tailcut.lab.lengths import LengthMeasure
from tailcut.lab.records import Cost, Mode

BEHIND_NS = 2_000_000
_BEHIND_SHARE = 0.25  # share of the median latency
_ALWAYS = 0.95  # share of the time, for each client process
_KEPT = 0.95  # share of the rate
NO_LENGTH = -1  # the length of a request whose input has a fixed size


class NotListeningError(UsageError):
    """No server listens at the target of a load."""


def not_connected(target: "LoadTarget", error: OSError, reason: str) -> UsageError:
    """The error for a connection that could not be opened: no server listens, or no descriptors are left."""
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return UsageError(f"no more connections can be opened: {reason}: raise the limit of open files (ulimit -n)")
    return NotListeningError(f"no server listens at {target.uds or target.authority}: {reason}")


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """A server's address; `uds` is the path of a Unix socket, `ca` a file of trusted certificates."""

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    grpc: bool = False
    tls: bool = False
    ca: str | None = None
    token: str | None = None  # sent with each request
    headers: tuple[tuple[str, str], ...] = ()  # further fields sent with each request

    @property
    def transport(self) -> str:
        """The transport, in words."""
        if self.grpc:
            return "gRPC over TLS" if self.tls else "gRPC"
        return "HTTP over a Unix socket" if self.uds else "HTTP over TLS" if self.tls else "HTTP over TCP"

    @property
    def fields(self) -> dict[str, str]:
        """The fields of each request: headers over HTTP, metadata over gRPC."""
        token = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        return token | dict(self.headers)

    @property
    def authority(self) -> str:
        """The value of a Host header."""
        return (
            "localhost"
            if self.uds
            else f"[{self.host}]:{self.port}"
            if ":" in self.host
            else f"{self.host}:{self.port}"
        )


@dataclass(frozen=True, slots=True)
class Payload:
    """A complete encoded request, and its expected status.

    `places` are variants with different places for the answer in shared memory, one for each request in flight.
    `length` is that of its input where lengths differ (see `lab/lengths.py`).
    """

    request: bytes
    expect_status: int = 200
    places: tuple[bytes, ...] = ()
    length: int = NO_LENGTH

    def at(self, number: int) -> bytes:
        """The variant for the connection with this number."""
        return self.places[number % len(self.places)] if self.places else self.request


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """The outcome of one request; times are monotonic nanoseconds, and `status` is 0 where the connection broke."""

    planned_ns: int
    free_ns: int  # when a connection was free for it
    sent_ns: int
    done_ns: int
    status: int
    expected: bool
    length: int = NO_LENGTH  # of the input


PLANNED, FREE, SENT, DONE, STATUS, EXPECTED, LENGTH = range(7)  # columns of an array of outcomes, for the fields above
COLUMNS = 7


def as_rows(outcomes: Sequence[RequestOutcome]) -> np.ndarray:
    """Outcomes as int64 [requests, 7], a column for each field."""
    return np.array([astuple(outcome) for outcome in outcomes], np.int64).reshape(-1, COLUMNS)


@dataclass(frozen=True, slots=True)
class Gathered:
    """The outcomes of one client process; `unanswered` counts requests sent or due without an answer in time."""

    outcomes: np.ndarray  # int64 [requests, 7]
    unanswered: int
    connections: int
    cpu_s: float  # time that the client itself ran or waited for a CPU
    start_ns: int
    end_ns: int  # when it stopped waiting for answers


@dataclass(frozen=True)
class LoadResult:
    """The result of a run. Latencies (ns) count from the planned time, and `service_ns` from the actual send."""

    mode: Mode
    duration_s: float
    rate_offered: float | None
    rate_achieved: float
    concurrency: int
    latencies_ns: np.ndarray
    service_ns: np.ndarray
    errors: dict[str, int] = field(default_factory=dict)
    lateness_p99_ns: float = 0.0
    arrivals: str | None = None  # the arrival process of an open loop: poisson, constant, bursty, trace
    client_cpu: float = 0.0  # cores that the client used or waited for
    processes: int = 1
    answered: int = 0  # all requests that the server worked on, including warm-up and failed ones
    server_cost: Cost | None = None
    lengths: np.ndarray | None = None  # of the inputs, in the order of `latencies_ns`; None where they have none
    measure: LengthMeasure | None = None  # what the lengths are
    model: str | None = None  # None for requests in a form of the user's own
    mixed: bool = False  # whether other models had load at the same time
    late_because: str | None = None  # why the client was late, if it was and that is known (lab/lateness.py)

    @property
    def samples(self) -> int:
        """The number of requests answered as expected."""
        return len(self.latencies_ns)

    @property
    def client_behind(self) -> bool:
        """Whether the client was too slow, so that the figures are not the server's.

        That is so if the 99th percentile of its lateness (sent after the planned time, with a free connection) is over
        both 2 ms and a quarter of the median latency; or if it was busy all the time and less was answered than was
        due: then requests queue in the client, which looks like latency of the server.
        """
        if self.mode != "open" or not self.samples:
            return False
        if self.client_cpu > _ALWAYS * self.processes and self.rate_achieved < _KEPT * (self.rate_offered or 0.0):
            return True
        return self.lateness_p99_ns > max(BEHIND_NS, _BEHIND_SHARE * float(np.median(self.latencies_ns)))


def open_result(
    parts: Sequence[Gathered], arrivals: Arrivals, times: np.ndarray, *, warmup_s: float, duration_s: float
) -> LoadResult:
    """The result of an open loop whose plan `times` was divided among client processes that started together."""
    start = parts[0].start_ns + int(warmup_s * 1e9)
    outcomes = np.concatenate([part.outcomes for part in parts])
    counted = outcomes[outcomes[:, PLANNED] >= start]
    # A run for which the server was too slow took longer than planned: the rate is over the real duration.
    last = int(counted[:, DONE].max(initial=start))
    took_s = max(duration_s, (last - start) / 1e9)
    return summarise(
        counted,
        mode="open",
        duration_s=took_s,
        rate_offered=arrivals.rate,
        concurrency=sum(part.connections for part in parts),
        unanswered=int((times >= int(warmup_s * 1e9)).sum()) - len(counted),
        arrivals=arrivals.name,
        client_cpu=_cores(parts, warmup_s + took_s),
        processes=len(parts),
        answered=_answered(parts),
    )


def closed_result(parts: Sequence[Gathered], concurrency: int, *, warmup_s: float, duration_s: float) -> LoadResult:
    """The result of a closed loop whose connections were divided among client processes."""
    counted = []
    for part in parts:
        start = part.start_ns + int(warmup_s * 1e9)
        done = part.outcomes[:, DONE]
        counted.append(part.outcomes[(start <= done) & (done < start + int(duration_s * 1e9))])
    return summarise(
        np.concatenate(counted),
        mode="closed",
        duration_s=duration_s,
        rate_offered=None,
        concurrency=concurrency,
        unanswered=sum(part.unanswered for part in parts),
        client_cpu=_cores(parts, warmup_s + duration_s),
        processes=len(parts),
        answered=_answered(parts),
    )


def summarise(  # noqa: PLR0913  a result is its parameters
    outcomes: np.ndarray,
    *,
    mode: Mode,
    duration_s: float,
    rate_offered: float | None,
    concurrency: int,
    unanswered: int = 0,
    arrivals: str | None = None,
    client_cpu: float = 0.0,
    processes: int = 1,
    answered: int = 0,
) -> LoadResult:
    """The result for outcomes (int64 [requests, 7]), in the order of planned times.

    Requests without an answer are errors of kind `timeout`.
    """
    expected = outcomes[:, EXPECTED] != 0
    statuses, counts = np.unique(outcomes[~expected, STATUS], return_counts=True)
    kinds = [str(status) if status else "connection" for status in statuses.tolist()]
    errors = dict(zip(kinds, counts.tolist(), strict=True))
    if unanswered:
        errors["timeout"] = unanswered
    good = outcomes[expected]
    good = good[np.argsort(good[:, PLANNED], kind="stable")]
    planned, free, sent, done = good[:, PLANNED], good[:, FREE], good[:, SENT], good[:, DONE]
    lengths = good[:, LENGTH]
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
        lateness_p99_ns=float(np.quantile(lateness, 0.99)) if len(good) else 0.0,
        arrivals=arrivals,
        client_cpu=client_cpu,
        processes=processes,
        answered=answered,
        lengths=lengths if len(good) and lengths.min() > NO_LENGTH else None,
    )


def failed_result(mode: Mode, duration_s: float, concurrency: int, rate: float | None = None) -> LoadResult:
    """The result of a run without a server: no answer, and one broken connection."""
    broken = as_rows([RequestOutcome(0, 0, 0, 0, 0, expected=False)])
    return summarise(broken, mode=mode, duration_s=duration_s, rate_offered=rate, concurrency=concurrency)


def _cores(parts: Sequence[Gathered], planned_s: float) -> float:
    """Cores that the client used until it stopped waiting for answers, which may be long after the last one."""
    lasted_s = max((part.end_ns - part.start_ns) / 1e9 for part in parts)
    return sum(part.cpu_s for part in parts) / max(planned_s, lasted_s)


def _answered(parts: Sequence[Gathered]) -> int:
    return sum(int(np.count_nonzero(part.outcomes[:, STATUS])) for part in parts)

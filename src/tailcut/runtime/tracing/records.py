"""What is known about a model's tail, as structs: the figures of each stage, the cause, the slowest requests.

A field that is None is unknown. With too few requests for a tail, only their number, the percentiles and the verdict
are set; the other fields are UNSET, and left out in JSON.
"""

from msgspec import UNSET, UnsetType

from tailcut.record import Record


class Totals(Record, frozen=True):
    """Percentiles of the time from first byte to last, in microseconds."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None


class StageTimes(Record, frozen=True):
    """Mean time in one stage, for usual and for slow requests, and its share of the difference."""

    median_us: float
    slowest_us: float
    share: float


class StepTimes(Record, frozen=True):
    """Time of the newest requests in one step of a pipeline, in its queue and in its calls."""

    stage: str
    requests: int
    queue_p50_us: float
    queue_p99_us: float
    compute_p50_us: float
    compute_p99_us: float
    slowest_queue_us: float  # mean of the slowest 1 %
    slowest_compute_us: float


class DevicePhase(Record, frozen=True):
    """A phase of the newest calls to a device: copy_in, launch, compute or copy_out."""

    phase: str
    calls: int
    median_us: float
    slowest_us: float  # of the slowest 1 % of the calls


class Coincidence(Record, frozen=True):
    """Events of one kind, and the share of requests that they overlapped."""

    events: int
    longest_us: float
    slowest_hit: float
    median_hit: float
    share: float


class Cause(Record, frozen=True):
    """The main cause of the tail, its share of the time above the median, and the advice."""

    name: str
    share: float
    words: str
    advice: str


class ProcessShare(Record, frozen=True):
    """The requests of one server process."""

    process: int
    requests: int
    slowest: int
    total_us: Totals


class SlowRequest(Record, frozen=True):
    """One of the slowest requests."""

    start_ns: int
    marks_us: dict[str, float]  # moments from the request's start
    rows: int
    batch_rows: int
    body_bytes: int
    status: int
    process: int
    coincided: list[str]


class Tail(Record, frozen=True, kw_only=True):
    """What the slowest requests spent their time on, and why."""

    requests: int
    total_us: Totals
    verdict: str
    above_median_us: float | UnsetType = UNSET
    stages: dict[str, StageTimes] | UnsetType = UNSET
    coincided: dict[str, Coincidence] | UnsetType = UNSET
    cause: Cause | UnsetType = UNSET
    processes: list[ProcessShare] | UnsetType = UNSET
    worst: list[SlowRequest] | UnsetType = UNSET

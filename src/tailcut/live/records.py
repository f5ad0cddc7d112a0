"""What the stream of `GET /live` carries: structs that the server encodes, and the page and `tailcut top` read.

`About` comes first and again when the models change, `Findings` once, `View` each second, `End` last. Rates are per
second, times microseconds unless a name says otherwise; None stands for what is unknown. What a `View` counts, it
counts over its own `seconds`, unless it says so: `recent` is over up to `WINDOW` of them, and the sizes of queues are
those of the moment.
"""

from typing import Literal

import msgspec

from tailcut.runtime.tracing.records import SlowRequest

WINDOW = 10  # views in `recent`
MOST_MODELS = 64  # in one record
PATH = "/live"


class _Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON object with exactly the keys named."""


class Latency(_Value, frozen=True):
    """Percentiles from a complete request to the engine's answer; None where too few requests were answered for one."""

    requests: int
    p50_us: float | None
    p95_us: float | None
    p99_us: float | None
    within_slo: float | None  # the share answered within --slo; None without that option or without requests


class StepView(_Value, frozen=True):
    """One step of a pipeline."""

    name: str
    rate: float
    queue_us: float | None  # mean
    compute_us: float | None  # mean time of its calls, over requests
    queued: int
    failed: int
    restarts: int


class ModelView(_Value, frozen=True):
    """One version of a model."""

    name: str
    version: str
    rate: float  # requests answered
    row_rate: float
    second: Latency
    recent: Latency
    slowest_us: float | None  # from the first byte to the written answer, of the requests that were looked at
    failed: int
    refused: int
    expired: int  # dropped from the queue, because their deadlines had passed
    late: int  # answered after their deadlines
    batches: int
    batch_rows: float | None  # mean; None also for a pipeline, whose steps have batches of their own
    batch_sizes: dict[int, int]  # batches by their rows
    queued: int
    queued_rows: int
    computing: int  # batches
    oldest_us: float  # how long the request that has waited longest has waited
    rows_in_use: int
    queue_us: float | None  # mean
    compute_us: float | None  # mean of a batch
    busy: float  # engines that computed, on average
    steps: list[StepView]
    looked_at: int  # requests whose traces were read for `slow`
    slow: list[SlowRequest]


class ProcessView(_Value, frozen=True):
    """One process of the server."""

    pid: int
    worker: int | None  # its number; None where it is the only process
    rate: float
    connections: int
    cpus: float | None  # that it used, on average
    memory_bytes: int | None  # resident


class View(_Value, frozen=True, tag="view", tag_field="event"):
    """What happened in one second."""

    clock_s: float  # monotonic, of the machine
    seconds: float  # since the view before
    window_s: float  # of each `recent`
    ready: bool
    rate: float
    replies: dict[str, int]  # HTTP answers by status
    grpc_replies: dict[str, int]
    connections: int
    fast_path: int  # of them
    buffered_bytes: int  # bodies being received, and answers that clients have not read
    throttled_ms: float  # for which the CPU quota stopped the server
    processes: list[ProcessView]
    models: list[ModelView]
    models_left_out: int  # those with the fewest requests, where there are more than `MOST_MODELS`


class ModelAbout(_Value, frozen=True):
    """A model, and the settings that it is served with."""

    name: str
    version: str
    settings: dict[str, str]  # each by its name, such as engine.threads
    changed: list[str]  # the names of those that differ from the defaults
    facts: dict[str, str]  # what was decided or chosen for it at the start
    rows: int | None  # of its memory for requests; None where it has none of fixed size
    memory_bytes: int | None  # that these take


class About(_Value, frozen=True, tag="about", tag_field="event"):
    """The server."""

    version: str
    pid: int
    slo_ms: float | None
    queue_rows: int | None  # that may wait, the largest of all models
    models: list[ModelAbout]
    models_left_out: int


class DoctorFinding(_Value, frozen=True):
    """What `tailcut doctor` would say of a setting of the machine."""

    name: str
    severity: Literal["ok", "note", "warning", "fault"]
    finding: str
    remedy: str | None


class Findings(_Value, frozen=True, tag="findings", tag_field="event"):
    """The doctor's checks that need no measurement."""

    checks: list[DoctorFinding]


class End(_Value, frozen=True, tag="end", tag_field="event"):
    """Why nothing more comes: `stopping`, `renewed` (connect again) or `failed` (the server's log says why)."""

    reason: Literal["stopping", "renewed", "failed"]


Record = About | Findings | View | End

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


def as_event(record: Record) -> bytes:
    """A record as a server-sent event (HTML, section 9.2), named as its tag."""
    name = record.__struct_config__.tag
    return b"event: %s\ndata: %s\n\n" % (str(name).encode(), _encode(record))


def from_data(data: bytes | str) -> Record:
    """The record in the data of an event.

    Raises:
        msgspec.ValidationError: it is another version's.
    """
    record: Record = _decode(data)
    return record

"""The records of the stream `GET /live`: structs that the server encodes, and the page and `tailcut top` decode.

`About` comes first and again when the models change, `Findings` once, `View` each second, `End` last. Rates are per
second, times in microseconds unless a name says otherwise; None means unknown. The counts of a `View` are over its own
`seconds`, except that `recent` covers up to `WINDOW` views, and that queue sizes are those at the time of the view.
"""

from typing import Literal

import msgspec

from tailcut.runtime.tracing.records import SlowRequest

WINDOW = 10  # how many views `recent` covers
MOST_MODELS = 64  # in one record, at most
PATH = "/live"


class _Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON object with no keys but those of its fields."""


class Latency(_Value, frozen=True):
    """Percentiles of the time from a complete request to the engine's answer; None if too few were answered."""

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
    compute_us: float | None  # mean time in its calls per request
    queued: int
    failed: int
    restarts: int


class ModelView(_Value, frozen=True):
    """One version of a model."""

    name: str
    version: str
    rate: float  # answered requests
    row_rate: float
    second: Latency
    recent: Latency
    slowest_us: float | None  # from the first byte to the written answer, of the requests whose traces were read
    failed: int
    refused: int
    expired: int  # dropped from the queue because their deadlines had passed
    late: int  # answered after their deadlines
    batches: int
    batch_rows: float | None  # mean; None for a pipeline, whose steps batch separately
    batch_sizes: dict[int, int]  # number of batches by their rows
    queued: int
    queued_rows: int
    computing: int  # batches
    oldest_us: float  # how long the oldest queued request has waited
    rows_in_use: int
    queue_us: float | None  # mean
    compute_us: float | None  # mean per batch
    busy: float  # mean number of engines computing
    steps: list[StepView]
    looked_at: int  # requests whose traces were read for `slow`
    slow: list[SlowRequest]


class ProcessView(_Value, frozen=True):
    """One process of the server."""

    pid: int
    worker: int | None  # its number; None if it is the only process
    rate: float
    connections: int
    cpus: float | None  # mean number of cores in use
    memory_bytes: int | None  # resident


class View(_Value, frozen=True, tag="view", tag_field="event"):
    """What happened in one second."""

    clock_s: float  # monotonic, of the machine
    seconds: float  # since the view before
    window_s: float  # time that `recent` covers
    ready: bool
    rate: float
    replies: dict[str, int]  # HTTP answers by status
    grpc_replies: dict[str, int]
    connections: int
    fast_path: int  # how many of the connections are on the fast path
    buffered_bytes: int  # bodies being received, and answers that clients have not read
    throttled_ms: float  # how long the CPU quota throttled the server
    processes: list[ProcessView]
    models: list[ModelView]
    models_left_out: int  # how many models are missing above: those with the fewest requests, beyond `MOST_MODELS`


class ModelAbout(_Value, frozen=True):
    """A model and the settings that it is served with."""

    name: str
    version: str
    settings: dict[str, str]  # values by name, such as engine.threads
    changed: list[str]  # names of the settings that differ from the defaults
    facts: dict[str, str]  # what the server chose for it at the start
    rows: int | None  # capacity of its arena for requests; None if it has none of fixed size
    memory_bytes: int | None  # size of that arena


class About(_Value, frozen=True, tag="about", tag_field="event"):
    """The server and its models."""

    version: str
    pid: int
    slo_ms: float | None
    queue_rows: int | None  # how many rows may queue, the largest of all models
    models: list[ModelAbout]
    models_left_out: int


class DoctorFinding(_Value, frozen=True):
    """One finding of `tailcut doctor` about the machine."""

    name: str
    severity: Literal["ok", "note", "warning", "fault"]
    finding: str
    remedy: str | None


class Findings(_Value, frozen=True, tag="findings", tag_field="event"):
    """The doctor's checks that need no measurement."""

    checks: list[DoctorFinding]


class End(_Value, frozen=True, tag="end", tag_field="event"):
    """Why the stream ends: `stopping`, `renewed` (connect again) or `failed` (the server's log says why)."""

    reason: Literal["stopping", "renewed", "failed"]


Record = About | Findings | View | End

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


def as_event(record: Record) -> bytes:
    """Encode a record as a server-sent event (WHATWG HTML, section 9.2) named after its tag."""
    name = record.__struct_config__.tag
    return b"event: %s\ndata: %s\n\n" % (str(name).encode(), _encode(record))


def from_data(data: bytes | str) -> Record:
    """Decode the record in the data of an event.

    Raises:
        msgspec.ValidationError: it is no such record, or that of another version.
    """
    record: Record = _decode(data)
    return record

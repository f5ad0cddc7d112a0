"""The output of `tailcut bench`, `microbench` and `explain` with --json, as structs, from which JSON schemas are made.

A field that is None (null in JSON) is unknown. A field that is UNSET is left out, because it was not asked for.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

import msgspec
import orjson
from msgspec import UNSET, UnsetType

from tailcut.lab.saturation import Shown
from tailcut.record import Record
from tailcut.runtime.tracing.records import DevicePhase, StepTimes, Tail
from tailcut.stats import Interval as StatsInterval
from tailcut.stats import Verdict

MachineFacts = dict[str, str | int | float]  # by name, from `machine.fingerprint`
Bounds = tuple[float, float]
Mode = Literal["open", "closed"]


class IntervalRecord(Record, frozen=True):
    """An estimate with the bounds of its 99 % confidence interval."""

    point: float
    low: float
    high: float

    @classmethod
    def rounded(cls, interval: StatsInterval, digits: int = 4) -> Self:
        """The record of an interval, with this many digits after the decimal point."""
        return cls(*(round(value, digits) for value in (interval.point, interval.low, interval.high)))


def bounds_of(interval: StatsInterval | None) -> Bounds | None:
    """The bounds of an interval; None where there is none."""
    return None if interval is None else (round(interval.low, 4), round(interval.high, 4))


class Latencies(Record, frozen=True):
    """Percentiles in milliseconds; null where there are too few samples."""

    p50: float | None
    p95: float | None
    p99: float | None
    p99_9: float | None
    max: float | None


class Cost(Record, frozen=True):
    """The server's cost per request; null where the machine does not provide it."""

    context_switches: float | None
    involuntary_switches: float | None
    page_faults: float | None
    major_faults: float | None
    cpu_ns: float | None
    waited_ns: float | None


class SaturatedLoop(Record, frozen=True):
    """The tuned server in a closed loop with as many connections as in the race."""

    clients: int
    throughput: float


class LengthLatencies(Record, frozen=True):
    """Percentiles in milliseconds; null where there are too few samples, or the client was late."""

    p50: float | None
    p95: float | None
    p99: float | None


class LengthQuartile(Record, frozen=True):
    """The quarter of the requests with lengths in a range, including its ends."""

    from_: int = msgspec.field(name="from")
    to: int
    samples: int
    latency_ms: LengthLatencies


class Lengths(Record, frozen=True):
    """The lengths of the requests that were answered, and the latency by quarter of the length."""

    input: str  # the input that has the length
    unit: Literal["elements", "bytes"]
    min: int
    p25: int
    p50: int
    p75: int
    p99: int
    max: int
    quartiles: list[LengthQuartile]  # fewer than four where many requests have one length

    @property
    def differ(self) -> bool:
        """Whether requests of several lengths were sent."""
        return self.min < self.max


class Run(Record, frozen=True):
    """One run of a load test."""

    mode: Mode
    rate_offered: float | None  # requests per second; null in a closed loop
    rate_achieved: float
    concurrency: int
    samples: int
    errors: dict[str, int]  # by HTTP status, `connection` or `timeout`
    latency_ms: Latencies
    p99_interval_ms: Bounds | None
    p99_at_most_ms: float | None  # including the client's lateness
    client_behind: bool
    client_lateness_p99_ms: float
    client_cpu: float  # cores
    client_processes: int
    server_cost: Cost | None
    arrivals: str | None
    model: str | None  # null for requests in a form of the user's own
    mixed: bool  # whether other models had load at the same time
    late_because: str | None  # null where the client was in time, or the cause is unknown
    lengths: Lengths | None  # null where all requests have one size
    latencies_us: list[float]  # in order of their planned times


class SearchPoint(Record, frozen=True):
    """One rate of a search for the highest rate within a limit."""

    rate_offered: float
    rate_achieved: float
    samples: int
    errors: dict[str, int]
    latency_ms: Latencies
    p99_interval_ms: Bounds | None
    client_cpu: float  # cores
    client_lateness_p99_ms: float
    late_because: str | None
    p99_at_most_ms: float | None
    shown: Shown

    @property
    def client_behind(self) -> bool:
        """Whether the client was late, in which case percentiles and the longest latency are left out."""
        return self.samples > 1 and self.latency_ms.max is None


class SloResult(Record, frozen=True):
    """Whether a limit was met, and at which rate."""

    slo_ms: float
    percentile: Literal["p99"]
    met: bool
    highest_rate: float | None
    limited_by: Shown | None
    curve: list[SearchPoint]


class Scenario(StrEnum):
    """The scenarios of MLPerf Inference, under the names in its rules."""

    SINGLE_STREAM = "single-stream"
    MULTI_STREAM = "multi-stream"
    SERVER = "server"
    OFFLINE = "offline"


class ScenarioResult(Record, frozen=True):
    """The metric of an MLPerf scenario."""

    name: Scenario
    samples_per_query: int
    note: str
    metric: str
    value: float | None
    interval: Bounds | None


class PercentileChange(Record, frozen=True):
    """The ratio of one percentile, new to old."""

    ratio: IntervalRecord
    verdict: Verdict


class RunComparison(Record, frozen=True):
    """One run compared with the matching run of an earlier result."""

    run: int  # index into `runs`
    percentiles: dict[str, PercentileChange]


class BenchResult(Record, frozen=True, kw_only=True):
    """`tailcut bench --json`."""

    target: str
    runs: list[Run]
    scenario: ScenarioResult | UnsetType = UNSET
    slo: SloResult | UnsetType = UNSET
    machine: MachineFacts
    command: str
    seed: int
    transport: str
    comparison: list[RunComparison] | UnsetType = UNSET


class EarlierRun(msgspec.Struct, frozen=True):
    """The fields of a run that comparisons use, in results of any version."""

    mode: Mode
    rate_offered: float | None
    concurrency: int
    latency_ms: Latencies
    latencies_us: list[float] = []
    arrivals: str | None = None  # older results have only Poisson arrivals
    model: str | None = None


class EarlierResult(msgspec.Struct, frozen=True):
    """A result to compare with."""

    runs: list[EarlierRun]


class Slope(IntervalRecord, frozen=True):
    """The time of a call from the line through samples of several lengths; `bend` is its curvature."""

    bend: float


class OutlierRecord(Record, frozen=True):
    """The number of samples outside Tukey's fences."""

    low_severe: int
    low_mild: int
    high_mild: int
    high_severe: int
    fences_ns: tuple[float, float, float, float]

    @property
    def total(self) -> int:
        """The number of all outliers."""
        return self.low_severe + self.low_mild + self.high_mild + self.high_severe


class Drift(Record, frozen=True):
    """How much the time changed from the beginning of sampling to its end."""

    change: float
    significant: bool


class WarmupRecord(Record, frozen=True):
    """How many calls the warm-up made, and whether the time was stable at its end."""

    calls: int
    steady: bool | None  # null where there were too few calls to tell


class FunctionResult(Record, frozen=True):
    """One function of a micro-benchmark; nanoseconds per call."""

    name: str
    median_ns: IntervalRecord
    slope_ns: Slope | None
    intercept_ns: float | None
    min_ns: float
    p95_ns: IntervalRecord | None
    max_ns: float
    spread: float  # interquartile range over the median
    outliers: OutlierRecord
    drift: Drift
    warmup: WarmupRecord
    counts: dict[str, float]  # per call; counters that this machine lacks are left out
    samples: int
    samples_ns: list[float]
    loops: list[int]  # calls per sample
    instructions: float | UnsetType = UNSET


class FunctionComparison(Record, frozen=True):
    """The ratio of two functions' medians."""

    name: str
    to: str
    ratio: IntervalRecord
    verdict: Verdict


class FunctionChange(Record, frozen=True):
    """The ratio of a function's median to the median in an earlier result."""

    name: str
    ratio: IntervalRecord
    verdict: Verdict
    before_ns: float


class OverheadRecord(Record, frozen=True):
    """What measuring itself costs, in nanoseconds."""

    clock: float
    loop: float


class MicrobenchResult(Record, frozen=True):
    """`tailcut microbench --json`."""

    kind: Literal["microbench"]
    functions: list[FunctionResult]
    comparisons: list[FunctionComparison]
    overhead_ns: OverheadRecord
    noise: float
    seed: int
    machine: MachineFacts
    command: str
    against: list[FunctionChange] | UnsetType = UNSET


_Samples = Annotated[list[Annotated[float, msgspec.Meta(gt=0)]], msgspec.Meta(min_length=4)]


class EarlierFunction(msgspec.Struct, frozen=True):
    """The fields of a function that comparisons use, in results of any version."""

    name: str
    median_ns: IntervalRecord
    samples_ns: _Samples


class EarlierMicrobench(msgspec.Struct, frozen=True):
    """A saved result to compare with."""

    kind: Literal["microbench"]
    functions: list[EarlierFunction]


class ExplainResult(Tail, frozen=True, kw_only=True):
    """`tailcut explain --json`: the tail of one model, and how it was observed."""

    target: str
    model: str
    duration_s: float
    missed: int  # requests whose records were overwritten before they were read
    steps: list[StepTimes] | UnsetType = UNSET  # of a pipeline
    device: list[DevicePhase] | UnsetType = UNSET  # for an engine on a device


def to_json(record: msgspec.Struct, *, indented: bool = False) -> str:
    """The JSON of a result."""
    return orjson.dumps(msgspec.to_builtins(record), option=orjson.OPT_INDENT_2 if indented else None).decode()


def schema_of(*kinds: type[Any]) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of an object that is one of these structs."""
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    whole = schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole, "$defs": components}

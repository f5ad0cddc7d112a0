"""What the server counts, and its rendering for Prometheus.

The hot path adds to plain integers; prometheus-client sees them only when /metrics is asked for.
"""

import asyncio
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.samples import Exemplar, Timestamp

from tailcut.machine.nvml import DeviceUse
from tailcut.machine.quota import throttled, usable_cpus
from tailcut.server.latency import Exemplar as Known
from tailcut.server.latency import LatencyHistogram, cumulative

METRICS_TYPE, OPEN_METRICS_TYPE = CONTENT_TYPE_PLAIN_0_0_4, CONTENT_TYPE_LATEST
_NEVER = re.compile(r"q=0(\.0*)?")
_LABELS = ["model", "version"]
_BATCH_ROWS = tuple(2**power for power in range(13))

_STAGE_LABELS = ("model", "version", "stage")
_STAGE_METRICS = (  # count of a step, its unit, and the metric that shows it
    ("requests", None, CounterMetricFamily, "requests", "Requests answered by a step of a pipeline"),
    ("rows", None, CounterMetricFamily, "rows", "Rows answered by a step; requests, if an output has a free size"),
    ("batches", None, CounterMetricFamily, "batches", "Batches that a step computed or failed"),
    ("failed", None, CounterMetricFamily, "failed", "Requests that a step failed"),
    ("refused", None, CounterMetricFamily, "refused", "Requests refused before they were queued for a step"),
    ("expired", None, CounterMetricFamily, "expired", "Requests whose deadline passed in a step's queue"),
    ("restarts", None, CounterMetricFamily, "restarts", "Processes of a step started to replace one that had ended"),
    ("queue_ns", 1e9, CounterMetricFamily, "queue_seconds", "Time in a step's queue, summed over requests"),
    ("served_ns", 1e9, CounterMetricFamily, "compute_seconds", "Time of a step's calls, summed over requests"),
    ("queued", None, GaugeMetricFamily, "pending_requests", "Requests waiting for a step"),
    ("oldest_ns", 1e9, GaugeMetricFamily, "queue_oldest_seconds", "Age of the oldest request waiting for a step"),
)


class Counting(Protocol):
    """What metrics need of a model's entry."""

    def statistics(self) -> dict[str, int | float]: ...  # noqa: D102  documented in ServedEntry
    def batches_by_rows(self) -> dict[int, tuple[int, int]]: ...  # noqa: D102
    def stages(self) -> dict[str, dict[str, int | float]]: ...  # noqa: D102
    def stage_batches(self) -> dict[str, dict[int, tuple[int, int]]]: ...  # noqa: D102


class Counted(Protocol):
    """A served model, or the sums of a model's counts over several workers."""

    @property
    def name(self) -> str: ...  # noqa: D102  documented in ServedModel
    @property
    def version(self) -> str: ...  # noqa: D102
    @property
    def entry(self) -> Counting: ...  # noqa: D102
    @property
    def latency(self) -> LatencyHistogram: ...  # noqa: D102
    @property
    def batch_exemplars(self) -> Mapping[int, Known]: ...  # noqa: D102


@dataclass(slots=True)
class ServerCounts:
    """Totals since the start, of all models together."""

    replies: Counter[int] = field(default_factory=Counter)
    grpc_replies: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    fast_path: int = 0  # of the open connections, those on the fast path
    accepted: int = 0
    buffered_bytes: int = 0
    bodies_refused: int = 0  # because too many bodies were being collected
    log_lines_dropped: int = 0
    spans_exported: int = 0
    spans_dropped: int = 0  # the collector was down, or too slow
    loop_stall_ns: int = 0  # the longest
    loop_stall_cpu_ns: int = 0  # the longest CPU time of the loop's thread during one
    loop_cpu_ns: int = 0  # of the loop's thread
    loop_polled_ns: int = 0  # of that, for polls that found nothing
    loops: int = 1  # one for each worker

    def line(self) -> str:
        """A summary in one line, for the log."""
        replies = [f"{count} x {status}" for status, count in sorted(self.replies.items())]
        replies += [f"{count} x {status}" for status, count in sorted(self.grpc_replies.items())]
        answered = ", ".join(replies) or "none"
        return f"{self.connections} connections open of {self.accepted} accepted; answers since the start: {answered}"


def render(
    counts: ServerCounts,
    models: Iterable[Counted],
    rows: Mapping[tuple[str, str], str] = MappingProxyType({}),
    devices: Sequence[DeviceUse] = (),
    *,
    open_metrics: bool = False,
) -> bytes:
    """The metrics in the text format, version 0.0.4, or in OpenMetrics 1.0, which has exemplars and the same values.

    `rows` is the classification of each model's rows, by its name and version.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_MetricsCollector(counts, models, rows, devices, open_metrics=open_metrics))
    if open_metrics:
        text: bytes = openmetrics_text(registry)  # type: ignore[no-untyped-call]
        return text
    # The library appends _total to the names of counters; Triton's counters are named without it.
    return re.sub(rb"(?m)^((?:# (?:HELP|TYPE) )?nv_\w+?)_total\b", rb"\1", generate_latest(registry))


def batch_bucket(rows: int) -> int:
    """The index of the bucket of `tailcut_batch_rows` in which a batch of this many rows is counted."""
    return bisect_left(_BATCH_ROWS, rows)


def accepts_open_metrics(accept: str) -> bool:
    """Whether an Accept header (RFC 9110 section 12.5.1) names OpenMetrics; its version and order do not matter."""
    for entry in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        if kind == "application/openmetrics-text" and not any(_NEVER.fullmatch(part) for part in parameters):
            return True
    return False


def _as_unknown(metric: Metric) -> Metric:
    """One of Triton's counters as a metric of unknown type: OpenMetrics requires counters to end in _total."""
    family = Metric(metric.name, metric.documentation, "unknown")
    family.samples = [sample._replace(name=metric.name) for sample in metric.samples]
    return family


class _MetricsCollector:
    def __init__(
        self,
        counts: ServerCounts,
        models: Iterable[Counted],
        rows: Mapping[tuple[str, str], str],
        devices: Sequence[DeviceUse],
        *,
        open_metrics: bool,
    ) -> None:
        self._open_metrics = open_metrics
        self._devices = devices
        self._counts = counts
        self._models = models
        self._rows = rows

    def collect(self) -> Iterator[Metric]:
        for metric in self._metrics():
            foreign = self._open_metrics and metric.type == "counter" and metric.name.startswith("nv_")
            yield _as_unknown(metric) if foreign else metric

    def _metrics(self) -> Iterator[Metric]:
        counts = self._counts
        replies = CounterMetricFamily("tailcut_http_replies", "Answers by HTTP status", labels=["status"])
        for status, count in sorted(counts.replies.items()):
            replies.add_metric([str(status)], count)
        yield replies
        grpc_replies = CounterMetricFamily("tailcut_grpc_replies", "Answers by gRPC status", labels=["status"])
        for code, count in sorted(counts.grpc_replies.items()):
            grpc_replies.add_metric([code], count)
        yield grpc_replies
        yield GaugeMetricFamily("tailcut_connections", "Open connections", counts.connections)
        fast_path = "Open connections on the fast path"
        yield GaugeMetricFamily("tailcut_connections_express", fast_path, counts.fast_path)
        yield CounterMetricFamily("tailcut_connections_accepted", "Connections since the start", counts.accepted)
        yield GaugeMetricFamily("tailcut_body_buffer_bytes", "Bodies in buffers of their own", counts.buffered_bytes)
        dropped = "Log lines that were not written: the log was not read, or there were too many of a kind"
        yield CounterMetricFamily("tailcut_log_lines_dropped", dropped, counts.log_lines_dropped)
        exported = "Spans of traced requests and their batches that a collector has taken"
        yield CounterMetricFamily("tailcut_trace_spans_exported", exported, counts.spans_exported)
        lost = "Spans that were dropped: the collector was down, refused them, or was too slow"
        yield CounterMetricFamily("tailcut_trace_spans_dropped", lost, counts.spans_dropped)
        stall = "Longest time that the event loop was late for a timer"
        yield GaugeMetricFamily("tailcut_loop_longest_stall_seconds", stall, counts.loop_stall_ns / 1e9)
        yield GaugeMetricFamily(
            "tailcut_loop_longest_stall_cpu_seconds",
            f"{stall}, as far as its own thread was computing",
            counts.loop_stall_cpu_ns / 1e9,
        )
        busy = "CPU time of the event loops' threads, without busy polling that found nothing"
        busy_us = max(0, counts.loop_cpu_ns - counts.loop_polled_ns) / 1000
        yield CounterMetricFamily("tailcut_loop_busy_us", busy, busy_us)
        yield GaugeMetricFamily("tailcut_loops", "Event loops: one for each worker", counts.loops)
        yield GaugeMetricFamily("tailcut_tasks", "Tasks of the event loop", len(asyncio.all_tasks()))
        refused = "Requests refused because too many bodies were being collected"
        yield CounterMetricFamily("tailcut_bodies_refused", refused, counts.bodies_refused)
        yield from _machine()
        yield from _device_use(self._devices)
        text = "1 for the model's row classification: independent, dependent or unknown"
        decided = GaugeMetricFamily("tailcut_model_rows_info", text, labels=["model", "version", "rows"])
        for (name, version), rows in self._rows.items():
            decided.add_metric([name, version, rows], 1)
        yield decided
        models = list(self._models)
        yield from self._model_counts(models)
        yield from _refusals(models)
        yield from _distributions(models)
        yield from self._stage_counts(models)

    @staticmethod
    def _model_counts(models: Sequence[Counted]) -> Iterator[Metric]:
        labels = _LABELS
        counters = {
            "requests": CounterMetricFamily("nv_inference_request_success", "Requests answered", labels=labels),
            "failed": CounterMetricFamily("nv_inference_request_failure", "Requests the engine failed", labels=labels),
            "rows": CounterMetricFamily("nv_inference_count", "Rows computed", labels=labels),
            "batches": CounterMetricFamily("nv_inference_exec_count", "Batches computed or failed", labels=labels),
            "expired": CounterMetricFamily(
                "tailcut_expired", "Requests whose deadline passed in the queue", labels=labels
            ),
            "cancelled": CounterMetricFamily("tailcut_cancelled", "Requests whose client disconnected", labels=labels),
            "hung": CounterMetricFamily("tailcut_hung", "Batches abandoned because the engine hung", labels=labels),
            "second": CounterMetricFamily(
                "tailcut_second_engine_batches", "Batches routed to the second engine", labels=labels
            ),
            "rescued": CounterMetricFamily(
                "tailcut_rescued_batches",
                "Batches computed by the second engine because the first one's device failed",
                labels=labels,
            ),
        }
        micros = {
            "queue_ns": CounterMetricFamily("nv_inference_queue_duration_us", "Time in the queue", labels=labels),
            "served_ns": CounterMetricFamily(
                "nv_inference_compute_infer_duration_us", "Engine time, summed over requests", labels=labels
            ),
            "request_ns": CounterMetricFamily(
                "nv_inference_request_duration_us", "Queue and engine time, summed over requests", labels=labels
            ),
            "compute_ns": CounterMetricFamily(
                "tailcut_engine_busy_us", "Engine time, summed over batches", labels=labels
            ),
        }
        gauges = {
            "queued": GaugeMetricFamily("nv_inference_pending_request_count", "Requests waiting", labels=labels),
            "queued_rows": GaugeMetricFamily("tailcut_queued_rows", "Rows waiting", labels=labels),
            "rows_in_use": GaugeMetricFamily("tailcut_rows_in_use", "Slab rows in use", labels=labels),
        }
        age = GaugeMetricFamily("tailcut_queue_oldest_seconds", "Age of the oldest waiting request", labels=labels)
        for served in models:
            values = served.entry.statistics()
            values["request_ns"] = values["queue_ns"] + values["served_ns"]
            where = [served.name, served.version]
            for name, counter in counters.items():
                counter.add_metric(where, values[name])
            for name, counter in micros.items():
                counter.add_metric(where, values[name] / 1000)
            for name, gauge in gauges.items():
                gauge.add_metric(where, values[name])
            age.add_metric(where, values["oldest_ns"] / 1e9)
        yield from (*counters.values(), *micros.values(), *gauges.values(), age)

    @staticmethod
    def _stage_counts(models: Sequence[Counted]) -> Iterator[Metric]:
        """The counts of each step of a pipeline."""
        families = [
            (name, 1 if unit is None else unit, make(f"tailcut_stage_{metric}", text, labels=_STAGE_LABELS))
            for name, unit, make, metric, text in _STAGE_METRICS
        ]
        batches = HistogramMetricFamily("tailcut_stage_batch_rows", "Rows of a step's batch", labels=_STAGE_LABELS)
        for served in models:
            by_rows = served.entry.stage_batches()
            for stage, values in served.entry.stages().items():
                where = [served.name, served.version, stage]
                for name, unit, family in families:
                    family.add_metric(where, values[name] / unit)
                batches.add_metric(where, cumulative(_BATCH_ROWS, _batch_sizes(by_rows[stage])), values["rows"])
        yield from (*(family for *_, family in families), batches)


def _device_use(devices: Sequence[DeviceUse]) -> Iterator[Metric]:
    """The present use of the CUDA devices, under Triton's names."""
    for name, text, value in (
        ("nv_gpu_utilization", "Share of recent time in which the device computed", "utilisation"),
        ("nv_gpu_memory_used_bytes", "Memory in use, by all processes", "memory_used"),
        ("nv_gpu_memory_total_bytes", "Memory of the device", "memory_total"),
        ("nv_gpu_power_usage", "Power in watts", "power_w"),
    ):
        family = GaugeMetricFamily(name, text, labels=["gpu_uuid"])
        known = [(device.uuid, getattr(device, value)) for device in devices]
        for uuid, number in known:
            if number is not None:
                family.add_metric([uuid], number)
        if known:
            yield family


def _refusals(models: Sequence[Counted]) -> Iterator[Metric]:
    """Requests that were not answered, or not in time, by reason."""
    refused = CounterMetricFamily(
        "tailcut_refused", "Requests refused before they were queued", labels=[*_LABELS, "reason"]
    )
    missed = CounterMetricFamily(
        "tailcut_deadline_misses",
        "Requests whose deadline was not kept: refused, dropped from the queue, or answered late",
        labels=[*_LABELS, "outcome"],
    )
    for served in models:
        values = served.entry.statistics()
        where = [served.name, served.version]
        refused.add_metric([*where, "queue_full"], values["refused"] - values["refused_late"])
        refused.add_metric([*where, "deadline"], values["refused_late"])
        missed.add_metric([*where, "refused"], values["refused_late"])
        missed.add_metric([*where, "dropped"], values["expired"])
        missed.add_metric([*where, "late"], values["late"])
    yield from (refused, missed)


def _distributions(models: Sequence[Counted]) -> Iterator[Metric]:
    """Latencies, with their limit where there is one, and batch sizes."""
    latency = HistogramMetricFamily(
        "tailcut_request_seconds", "From a complete request to the engine's answer", labels=_LABELS
    )
    limit = GaugeMetricFamily("tailcut_slo_seconds", "The latency that --slo asks for", labels=_LABELS)
    within = CounterMetricFamily("tailcut_within_slo", "Requests answered within the limit of --slo", labels=_LABELS)
    batches = HistogramMetricFamily("tailcut_batch_rows", "Rows of a batch", labels=_LABELS)
    for served in models:
        where = [served.name, served.version]
        took = served.latency
        seconds = [bound / 1e9 for bound in took.bounds]
        latency.add_metric(
            where, _with_exemplars(cumulative(seconds, took.counts), took.exemplars, 1e9), took.total_ns / 1e9
        )
        if took.limit_ns:
            limit.add_metric(where, took.limit_ns / 1e9)
            within.add_metric(where, took.within_limit())
        if not served.entry.stages():  # a pipeline's batches are those of its stages
            sizes = _batch_sizes(served.entry.batches_by_rows())
            rows_in_all = served.entry.statistics()["rows"]
            of_batches = {index: exemplar for index, exemplar in served.batch_exemplars.items() if sizes[index]}
            batches.add_metric(where, _with_exemplars(cumulative(_BATCH_ROWS, sizes), of_batches, 1), rows_in_all)
    yield from (latency, limit, within, batches)


def _batch_sizes(by_rows: Mapping[int, tuple[int, int]]) -> list[int]:
    """The number of batches in each bucket of `tailcut_batch_rows`."""
    sizes = [0] * (len(_BATCH_ROWS) + 1)
    for rows, (count, _) in by_rows.items():
        sizes[batch_bucket(rows)] += count
    return sizes


def _with_exemplars(
    buckets: list[tuple[str, float]], exemplars: Mapping[int, Known], unit: float
) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
    """Buckets with the newest traced request of each; its value is divided by `unit`. The text format has none."""
    return [
        (*bucket, Exemplar({"trace_id": known.trace_id}, known.value / unit, _moment(known.at_s)))
        if (known := exemplars.get(index)) is not None
        else bucket
        for index, bucket in enumerate(buckets)
    ]


def _moment(at_s: float) -> Timestamp:
    return Timestamp(int(at_s), int(at_s % 1 * 1e9))


def _machine() -> Iterator[Metric]:
    """CPU limits of the control group, which are the same for every worker."""
    times, stopped_us = throttled()
    yield GaugeMetricFamily("tailcut_usable_cpus", "CPUs by affinity mask, quota and hardware", usable_cpus())
    yield CounterMetricFamily("tailcut_throttled_periods", "Periods in which the CPU quota throttled the group", times)
    yield CounterMetricFamily("tailcut_throttled_seconds", "Time that the group was throttled for", stopped_us / 1e6)

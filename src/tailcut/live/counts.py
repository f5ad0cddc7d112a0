"""The counters of a server's processes, as structs: the snapshots that views are computed from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

Key = tuple[str, str]  # a model's name and version


class StepCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of one step of a pipeline; times in nanoseconds, summed over requests."""

    requests: int = 0
    failed: int = 0
    restarts: int = 0
    queue_ns: int = 0
    served_ns: int = 0
    queued: int = 0


class ModelCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of one model in one process, and the current state of its queue."""

    requests: int = 0
    rows: int = 0
    batches: int = 0
    failed: int = 0
    refused: int = 0
    expired: int = 0
    late: int = 0
    queue_ns: int = 0  # summed over requests
    compute_ns: int = 0  # summed over batches
    queued: int = 0
    queued_rows: int = 0
    computing: int = 0
    oldest_ns: int = 0
    rows_in_use: int = 0
    limit_ns: int = 0  # the latency objective; 0: none
    latency: dict[int, int] = {}  # number of requests by histogram bucket
    by_rows: dict[int, tuple[int, int]] = {}  # number of batches and their total time in ns, by rows
    stages: dict[str, StepCounts] = {}


class ProcessTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of a process over all models."""

    replies: dict[str, int] = {}
    grpc_replies: dict[str, int] = {}
    connections: int = 0
    fast_path: int = 0
    buffered_bytes: int = 0


class ProcessCounts(msgspec.Struct, frozen=True, kw_only=True):
    """All counters of a process at one moment."""

    at_ns: int  # monotonic
    server: ProcessTotals
    models: dict[str, dict[str, ModelCounts]]


@dataclass(frozen=True, slots=True)
class ProcessSnapshot:
    """One process at one moment."""

    pid: int
    worker: int | None
    counts: ProcessCounts
    cpu_ns: int | None = None  # CPU time since the process began
    memory_bytes: int | None = None

    def models(self) -> dict[Key, ModelCounts]:
        """The counts of each model."""
        return {(name, number): item for name, all_of in self.counts.models.items() for number, item in all_of.items()}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The server at one moment."""

    at_ns: int  # monotonic
    ready: bool
    throttled_us: int  # since the control group began
    processes: tuple[ProcessSnapshot, ...] = field(default=())


def counts_of(published: Mapping[str, Any]) -> ProcessCounts:
    """Decode the counters that processes publish for each other.

    Raises:
        msgspec.ValidationError: they are not the counters of a process.
    """
    return msgspec.convert(published, ProcessCounts, str_keys=True)

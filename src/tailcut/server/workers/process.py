"""The worker's side of a supervised server: its assignment, accepting, and what it reports to the supervisor."""

import asyncio
import ctypes
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import msgspec

from tailcut.errors import TailcutError
from tailcut.live.counts import ProcessSnapshot, counts_of
from tailcut.machine.affinity import bind_memory, pin_thread
from tailcut.runtime.opening.defaults import DefaultChoice
from tailcut.server.context import Context
from tailcut.server.latency import Exemplar, LatencyHistogram
from tailcut.server.metrics import Counted, ServerCounts
from tailcut.server.state import ServerState
from tailcut.server.workers.fair_listener import FairAcceptor
from tailcut.server.workers.scoreboard import Scoreboard
from tailcut.server.workers.shared_traces import TraceRegion
from tailcut.server.workers.sums import Counts, concise

ENVIRONMENT = "TAILCUT_WORKER"
_PUBLISH_S = 0.25
_LONGEST_ORDERS = 256  # bytes
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor passes to a worker, as JSON in its environment; inherited files are named by descriptor."""

    post: int
    size: int  # number of workers
    parent: int  # the supervisor's process id
    listeners: tuple[int, ...]
    control: int
    scoreboard: int
    traces: int
    places: int
    index: int
    models: int  # number of models on the command line
    cpus: int
    pin: tuple[int, ...] = ()
    node: int | None = None
    choices: dict[
        str, DefaultChoice
    ] = {}  # the settings that an earlier worker measured for models without profile, by file hash


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker reports when it is ready: its models, and the settings that it has measured for some."""

    models: list[dict[str, str]]
    choices: dict[str, DefaultChoice]


class WorkerProcess:
    """One worker among several; must be made before anything that starts threads or allocates much memory."""

    def __init__(self, assignment: Assignment) -> None:
        self._control = socket.socket(fileno=assignment.control)
        self._listeners = [socket.socket(fileno=listener) for listener in assignment.listeners]
        self._scoreboard = Scoreboard(assignment.scoreboard, assignment.places, assignment.models)
        self._index = assignment.index
        self.traces = TraceRegion(assignment.traces, assignment.places, assignment.models).open(assignment.index)
        self.post = assignment.post
        self.size = assignment.size
        self.cpus = assignment.cpus
        self.choices = assignment.choices

    @classmethod
    def from_environment(cls) -> "WorkerProcess | None":
        """The worker that this process is: it ends with its parent, and is bound to its CPUs and memory node.

        None where no supervisor started it.
        """
        encoded = os.environ.pop(ENVIRONMENT, None)
        if encoded is None:
            return None
        assignment = msgspec.json.decode(encoded, type=Assignment)
        _die_with(assignment.parent)
        for descriptor in (*assignment.listeners, assignment.control, assignment.scoreboard, assignment.traces):
            os.set_inheritable(descriptor, False)
        try:
            if assignment.pin:
                pin_thread(assignment.pin)
            if assignment.node is not None:
                bind_memory(assignment.node)
        except TailcutError:  # a container may forbid binding; the worker then shares all CPUs
            pass
        return cls(assignment)

    def doors(
        self,
        state: ServerState,
        unix: Callable[[], asyncio.BaseProtocol],
        http: Callable[[], asyncio.BaseProtocol],
        grpc: Callable[[], asyncio.BaseProtocol] | None = None,
    ) -> list[FairAcceptor]:
        """Start accepting from the supervisor's listeners; the last one is for gRPC, where that is served.

        Args:
            state: shared by this worker's connections.
            unix: makes the protocol of a connection to the Unix socket.
            http: makes that of a connection to the HTTP port.
            grpc: makes that of a connection to the gRPC port; None: there is none.
        """
        self.count(0)
        protocols = [unix if listener.family == socket.AF_UNIX else http for listener in self._listeners]
        if grpc is not None:
            protocols[-1] = grpc
        return [
            FairAcceptor(state, listener, self._scoreboard, self._index, protocol)
            for listener, protocol in zip(self._listeners, protocols, strict=True)
        ]

    def count(self, connections: int) -> None:
        """Publish the number of this worker's connections."""
        self._scoreboard.hold(self._index, connections)

    def leave(self) -> None:
        """Publish that this worker accepts no more connections."""
        self._scoreboard.leave(self._index)

    def report(self, context: Context, obey: Callable[[bytes], None]) -> None:
        """Report that this worker is ready, publish its counts from now on, and end when the supervisor ends.

        Args:
            context: of this worker.
            obey: called with each of the supervisor's orders, including those that came while the worker loaded.
        """
        loop = asyncio.get_running_loop()
        loop.add_reader(self._control, self._hear, obey)
        context.everywhere = lambda: self._everywhere(context)
        context.processes = lambda: self._processes(context)
        self._scoreboard.occupy(self._index, os.getpid(), self.post)
        self._publish_often(context, loop)
        models = [{"name": served.name, "version": served.version} for served in context.models]
        choices = {
            served.model.profile.model.sha256: served.model.choice
            for served in context.models
            if served.model.choice is not None
        }
        self._control.send(msgspec.json.encode(Report(models=models, choices=choices)))

    def publish(self, context: Context) -> None:
        """Write the counts to the scoreboard."""
        self._scoreboard.publish(self._index, concise(as_counts(context)))

    def _hear(self, obey: Callable[[bytes], None]) -> None:
        try:
            orders = self._control.recv(_LONGEST_ORDERS)
        except OSError:
            orders = b""
        if not orders:  # closed: the supervisor has ended
            os._exit(1)
        obey(orders)

    def _everywhere(self, context: Context) -> tuple[ServerCounts, Sequence[Counted]]:
        self.publish(context)  # so that sums never go back, whichever worker is asked next
        return as_counted(self._scoreboard.totals())

    def _processes(self, context: Context) -> list[ProcessSnapshot]:
        self.publish(context)
        return [
            ProcessSnapshot(occupant.pid, occupant.post, counts_of(occupant.counts))
            for occupant in self._scoreboard.occupants()
        ]

    def _publish_often(self, context: Context, loop: asyncio.AbstractEventLoop) -> None:
        self.publish(context)
        loop.call_later(_PUBLISH_S, self._publish_often, context, loop)


@dataclass(frozen=True, slots=True)
class _Statistics:
    counts: dict[str, Any]

    def statistics(self) -> dict[str, int | float]:
        return self.counts

    def batches_by_rows(self) -> dict[int, tuple[int, int]]:
        return {int(rows): (batches, ns) for rows, (batches, ns) in self.counts["by_rows"].items()}

    def stages(self) -> dict[str, dict[str, int | float]]:
        stages: dict[str, dict[str, int | float]] = self.counts["stages"]
        return stages

    def stage_batches(self) -> dict[str, dict[int, tuple[int, int]]]:
        return {
            stage: {int(rows): (batches, ns) for rows, (batches, ns) in by_rows.items()}
            for stage, by_rows in self.counts["stage_batches"].items()
        }


@dataclass(frozen=True, slots=True)
class _Summed:
    name: str
    version: str
    entry: _Statistics
    latency: LatencyHistogram
    batch_exemplars: dict[int, Exemplar]


def as_counts(context: Context) -> Counts:
    """The counts of this process."""
    server = {field.name: getattr(context.counts, field.name) for field in fields(context.counts)}
    server["replies"] = {str(status): count for status, count in context.counts.replies.items()}
    models: Counts = {}
    for served in context.models:
        counts: Counts = dict(served.entry.statistics())
        counts["by_rows"] = served.entry.batches_by_rows()
        counts["latency"] = {str(index): count for index, count in enumerate(served.latency.counts) if count}
        counts["exemplars"] = {str(index): list(item) for index, item in served.latency.exemplars.items()}
        counts["batch_exemplars"] = {str(index): list(item) for index, item in served.batch_exemplars.items()}
        counts["latency_ns"], counts["limit_ns"] = served.latency.total_ns, served.latency.limit_ns
        counts["stages"] = served.entry.stages()
        counts["stage_batches"] = served.entry.stage_batches()
        models.setdefault(served.name, {})[served.version] = counts
    return {"at_ns": time.monotonic_ns(), "server": server, "models": models}


def as_counted(counts: Counts) -> tuple[ServerCounts, Sequence[Counted]]:
    """Published counts in the form of those of one process."""
    server = counts["server"]
    replies = Counter({int(status): count for status, count in server["replies"].items()})
    summed = [
        _Summed(name, version, _Statistics(statistics), _latency(statistics), _exemplars(statistics["batch_exemplars"]))
        for name, versions in counts["models"].items()
        for version, statistics in versions.items()
    ]
    grpc_replies: Counter[str] = Counter(server["grpc_replies"])
    return ServerCounts(**server | {"replies": replies, "grpc_replies": grpc_replies}), summed


def _latency(counts: dict[str, Any]) -> LatencyHistogram:
    """The histogram of a model, of which only the buckets with requests are published."""
    histogram = LatencyHistogram(counts["limit_ns"], total_ns=counts["latency_ns"])
    for index, count in counts["latency"].items():
        histogram.counts[int(index)] = count
    histogram.exemplars |= _exemplars(counts["exemplars"])
    return histogram


def _exemplars(published: dict[str, Any]) -> dict[int, Exemplar]:
    return {int(index): Exemplar(*exemplar) for index, exemplar in published.items()}


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its supervisor ends in whatever way (prctl(2), PR_SET_PDEATHSIG)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)

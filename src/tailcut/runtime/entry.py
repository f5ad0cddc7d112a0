"""The entry of a model: requests come in as arrays or as filled rows, and are computed when it is notified.

`ServedEntry` is all that a server needs of a model while it serves; anything that has it can be served in place of a
model.
"""

import time
from collections.abc import Callable, Generator
from typing import Protocol

import msgspec
import numpy as np

from tailcut.batching.policy import LOOP_NS, DispatchPlace
from tailcut.engines.base import Engine, EngineOptions
from tailcut.engines.phases import Timed
from tailcut.memory.slab import Slab
from tailcut.runtime.inputs import Arrays, is_uneven, row_key
from tailcut.runtime.opening.warmup import WarmUp
from tailcut.runtime.oversized import split_in_steps, without_pauses
from tailcut.runtime.padding import Padding
from tailcut.runtime.profile import Profile
from tailcut.runtime.request import Batch, Executor, Lease, Request, ResponseHandler
from tailcut.runtime.scheduler import Scheduler
from tailcut.runtime.statistics import ModelStatistics
from tailcut.runtime.tracing.records import DevicePhase, StepTimes
from tailcut.spec import ModelSpec

_STEP_BYTES = 256 * 1024  # copied between two pauses
_FORK_WAIT_S, _FORK_LOOK_S = 0.25, 0.0005  # for batches to end before a fork


class ServedEntry(Protocol):
    """What a server needs of a model while it serves.

    A request comes in by `start`, as checked arrays, or, where there is a slab, by `lend` and `settle`, in rows that
    the server has filled. `notify` has what came in computed.
    """

    @property
    def spec(self) -> ModelSpec:
        """What the model takes and gives."""

    @property
    def slab(self) -> Slab | None:
        """The rows that are lent; None where requests are loose arrays."""

    @property
    def max_batch_size(self) -> int:
        """Rows of the largest batch."""

    @property
    def queue_rows(self) -> int:
        """Rows that may be queued."""

    @property
    def queue_setting(self) -> str:
        """What says how many, for messages."""

    @property
    def counts(self) -> ModelStatistics:
        """Counted by the model; refusals that the server knows of before asking are added by it."""

    @property
    def is_lost(self) -> bool:
        """Whether it computes nothing more in this process, because its device is lost."""

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for an engine now."""

    def statistics(self) -> dict[str, int | float]:
        """Counts since the start, and the queue as it is."""

    def batches_by_rows(self) -> dict[int, tuple[int, int]]:
        """How many batches of this many rows were computed, and their engine time in nanoseconds."""

    @property
    def warm_up(self) -> WarmUp:
        """Whether the model has computed before its first request."""

    def stages(self) -> dict[str, dict[str, int | float]]:
        """The counts of each stage of a pipeline; a model has none."""

    def stage_batches(self) -> dict[str, dict[int, tuple[int, int]]]:
        """For each stage of a pipeline, as `batches_by_rows`; a model has none."""

    def stage_times(self) -> list[StepTimes]:
        """How long a pipeline's requests are in each stage; a model has none."""

    def step_engines(self) -> dict[str, EngineOptions | None]:
        """The engine of each step of a pipeline that this process computes, None for a function; a model has none."""

    def step_profiles(self) -> list[Profile] | None:
        """The profiles of the models of a pipeline's steps, each once; None of a model."""

    def describe_stages(self) -> str:
        """A pipeline's stages as one line; a model has none."""

    def device_times(self) -> list[DevicePhase]:
        """The time in each phase of the newest calls to a device; nothing for an engine on the CPU."""

    def waiting_ns(self) -> int:
        """How long the workers will take for what waits; 0 where the asking thread is the one that computes."""

    def admit(self, rows: int, deadline_ns: int = 0, priority: int = 0) -> None:
        """Raise a QueueFullError or TooLargeError for what would be refused."""

    def start(self, arrays: Arrays, request: Request) -> None:
        """Admit and queue the checked arrays of a request."""

    def start_in_steps(self, arrays: Arrays, request: Request) -> Generator[None, None, None]:
        """As `start`, with pauses while large arrays are copied."""

    def lend(
        self, count: int, deadline_ns: int = 0, priority: int = 0, *, apart: bool = False, some: bool = False
    ) -> Lease:
        """Lend rows of the slab, which the caller fills and settles; `some` of them, and it counts what it refuses."""

    def settle(self, lease: Lease, filled: int, request: Request | None, *, at_once: bool = False) -> bool:
        """Queue a request of the first `filled` rows; the others go back. Whether the model is to be notified."""

    def submit(self, request: Request, body: memoryview) -> None:
        """Lend, fill and settle in one, for a whole body that is exactly the request's rows of the only input."""

    def cancel(self, request: Request) -> None:
        """The client left."""

    def withdraw(self, handler: ResponseHandler, number: int) -> None:
        """The client of one of several requests that were settled as one left."""

    def notify(self, until_ns: int = 0) -> bool:
        """Have what is queued computed; whether some of it waits for another call."""


class ModelEntry:
    """The entry of a model: its scheduler, and what computes for it.

    Args:
        scheduler: of the model.
        executor: for batches that are computed on the notifying thread.
        wake: has the workers look for the others.
        padding: of inputs of different lengths, where the model is padded.
    """

    def __init__(
        self, scheduler: Scheduler, executor: Executor, wake: Callable[[], None], padding: Padding | None
    ) -> None:
        self.scheduler = scheduler
        self.spec = scheduler.spec
        self.slab = scheduler.slab
        self.max_batch_size = scheduler.max_batch_size
        self.queue_rows = scheduler.queue_rows
        self.queue_setting = scheduler.queue_setting
        self.counts = scheduler.counts
        self.statistics = scheduler.statistics
        self.batches_by_rows = scheduler.batches_by_rows
        self.waiting_ns = scheduler.waiting_ns
        self.admit = scheduler.admit
        self.lend = scheduler.lend
        self.submit = scheduler.submit
        self.cancel = scheduler.cancel
        self.withdraw = scheduler.withdraw
        self.executor = executor
        self.engine: Engine | None = None  # the first, whose device is asked for its times
        self.warm_up = WarmUp(warmed_up=False)
        self._wake = wake
        self._padding = padding

    @property
    def is_lost(self) -> bool:
        """See `ServedEntry.is_lost`."""
        return self.counts.is_lost

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for an engine now."""
        return self.scheduler.waiting_rows

    def stages(self) -> dict[str, dict[str, int | float]]:
        """Nothing: a pipeline has them."""
        return {}

    def stage_batches(self) -> dict[str, dict[int, tuple[int, int]]]:
        """Nothing, likewise."""
        return {}

    def stage_times(self) -> list[StepTimes]:
        """Nothing, likewise."""
        return []

    def step_engines(self) -> dict[str, EngineOptions | None]:
        """Nothing, likewise."""
        return {}

    def step_profiles(self) -> None:
        """Nothing, likewise."""

    def describe_stages(self) -> str:
        """Nothing, likewise."""
        return ""

    def device_times(self) -> list[DevicePhase]:
        """The time in each phase of the newest calls to a device; nothing for an engine on the CPU."""
        engine = self.engine
        return msgspec.convert(engine.phases.summary(), list[DevicePhase]) if isinstance(engine, Timed) else []

    def pause(self) -> None:
        """Let the batches that are computed end before this process forks, for a moment at most."""
        scheduler = self.scheduler
        if scheduler.closed:
            return
        scheduler.paused = scheduler.dispatch != "inline"  # the loop's thread computes those, and would not look again
        end = time.monotonic() + _FORK_WAIT_S
        while scheduler.computing and time.monotonic() < end:
            time.sleep(_FORK_LOOK_S)

    def go_on(self) -> None:
        """After the fork, in the parent."""
        if self.scheduler.paused:
            self.scheduler.paused = False
            self._wake()

    def start(self, arrays: Arrays, request: Request) -> None:
        """Queue a request's checked arrays: in rows of the slab, as loose arrays, or in parts if over a batch.

        Raises:
            QueueFullError: too much is waiting already, or the deadline cannot be met.
            ReleasedError: the model was closed.
        """
        if self.slab is None and request.count <= self.max_batch_size:
            self.admit(request.count, request.deadline_ns, request.priority)
            self.settle(self._lend_loose(arrays, request), request.count, request)
        else:
            without_pauses(self._start(arrays, request, 0))

    def start_in_steps(self, arrays: Arrays, request: Request) -> Generator[None, None, None]:
        """As `start`, with a pause after every 256 KB that are copied into rows, and after each part of more than that.

        What is smaller is queued without a pause: a request that pauses holds rows that it does not use yet.

        Raises:
            QueueFullError, ReleasedError: as in `start`.
        """
        large = self.slab is not None and sum(array.nbytes for array in arrays.values()) > _STEP_BYTES
        return self._start(arrays, request, _STEP_BYTES if large else 0)

    def settle(self, lease: Lease, filled: int, request: Request | None, *, at_once: bool = False) -> bool:
        """Queue a request of the first `filled` rows of a lease; the others go back, with 0 all of them.

        Args:
            lease: as it was lent.
            filled: rows.
            request: None where nothing was filled.
            at_once: its delivery is this thread's: where nothing waits and nothing computes, it may be computed before
                this returns.

        Returns:
            Whether the model is to be notified.

        Raises:
            ReleasedError: the model was closed; the rows have gone back.
        """
        scheduler = self.scheduler
        try:
            batch = scheduler.settle(lease, filled, request, at_once=at_once)
        except Exception:
            raise
        except BaseException:  # of a signal's handler: Ctrl-C, say
            scheduler.repair(lease)
            raise
        if batch is None:
            return filled > 0
        try:
            self.executor.run(batch)
            scheduler.finish(batch, all_here=True)
        except BaseException:
            scheduler.interrupted(batch)
            raise
        return scheduler.waiting_rows > 0

    def notify(self, until_ns: int = 0) -> bool:
        """Have what is ready computed: here and now, or by an idle worker.

        Args:
            until_ns: on the monotonic clock; parts of oversized requests that would be computed here and are not begun
                by then wait for another call. 0: never.

        Returns:
            Whether something waits for another call.
        """
        scheduler = self.scheduler
        if scheduler.computing >= scheduler.instances:
            return False  # a worker that computes looks again by itself; only an idle one must be told
        if scheduler.dispatch == "worker":
            self._wake()
            return False
        adaptive = scheduler.dispatch == "adaptive"
        # Adaptive: one batch; where each request is one, as many as the loop's time holds.
        end_ns = 0 if not adaptive or self.spec.batched else time.monotonic_ns() + LOOP_NS
        while True:
            batch = scheduler.next_batch(time.monotonic_ns(), DispatchPlace.LOOP)
            if not isinstance(batch, Batch):
                break
            try:
                self.executor.run(batch)
                scheduler.finish(batch)
            except BaseException:
                scheduler.interrupted(batch)
                raise
            if adaptive and time.monotonic_ns() >= end_ns:
                break
            if until_ns and scheduler.postponed_rows and time.monotonic_ns() > until_ns:
                return True
        if adaptive and scheduler.waiting_rows:
            self._wake()
        return False

    def put(self, arrays: Arrays, request: Request, step_bytes: int = 0) -> Generator[None, None, Lease]:
        """Lend rows and copy arrays into them, pausing after every `step_bytes`; or keep loose arrays in the request.

        Raises:
            QueueFullError: no rows are free.
            ReleasedError: the model was closed.
        """
        slab = self.slab
        if slab is None:
            return self._lend_loose(arrays, request)
        if is_uneven(self.spec, arrays):  # no rows; what is read from may be another request's soon
            request.arrays, request.key = {name: array.copy() for name, array in arrays.items()}, object()
            return Lease(-1, request.count)
        steps = bool(step_bytes) and sum(array.nbytes for array in arrays.values()) > step_bytes
        lease = self.lend(request.count, apart=steps)
        start, end = lease.row, lease.row + lease.rows
        try:
            for target, source in zip(slab.inputs, arrays.values(), strict=True):
                if not steps:
                    target[start:end] = source
                    continue
                to, of = (array.reshape(-1).view(np.uint8) for array in (target[start:end], source))
                for at in range(0, of.size, step_bytes):
                    to[at : at + step_bytes] = of[at : at + step_bytes]
                    yield
        except BaseException:  # the request is given up
            self.settle(lease, 0, None)
            raise
        return lease

    def _lend_loose(self, arrays: Arrays, request: Request) -> Lease:
        """Keep arrays in the request, which shares a batch with those of equal keys."""
        lease = self.lend(request.count)
        request.arrays = arrays
        if self._padding is None:
            request.key = row_key(self.spec, arrays)
        else:
            request.key, request.lengths = self._padding.place(arrays)
        return lease

    def _start(self, arrays: Arrays, request: Request, step_bytes: int) -> Generator[None, None, None]:
        rows = request.count
        self.admit(rows, request.deadline_ns, request.priority)
        if rows > self.max_batch_size:
            yield from split_in_steps(self, arrays, request, step_bytes)
        else:
            lease = yield from self.put(arrays, request, step_bytes)
            self.settle(lease, rows, request)

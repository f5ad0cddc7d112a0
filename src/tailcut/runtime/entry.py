"""The entry of a model: takes requests as arrays or as filled rows, and has them computed when it is notified.

`ServedEntry` is all that a server needs of a model while it serves; anything that implements it can be served like a
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
_FORK_WAIT_S, _FORK_LOOK_S = 0.25, 0.0005  # how long to wait for batches to end before a fork, and between two checks


class ServedEntry(Protocol):
    """What a server needs of a model while it serves.

    A request is submitted by `start`, as checked arrays, or, where there is a slab, by `lend` and `settle`, in rows
    that the server has filled. `notify` has submitted requests computed.
    """

    @property
    def spec(self) -> ModelSpec:
        """The model's inputs and outputs."""

    @property
    def slab(self) -> Slab | None:
        """The slab whose rows are lent; None where requests are loose arrays."""

    @property
    def max_batch_size(self) -> int:
        """The number of rows in the largest batch."""

    @property
    def queue_rows(self) -> int:
        """The number of rows that may be queued."""

    @property
    def queue_setting(self) -> str:
        """The setting that limits them, for messages."""

    @property
    def counts(self) -> ModelStatistics:
        """The model's counts; the server adds refusals that it makes without asking the model."""

    @property
    def is_lost(self) -> bool:
        """Whether it cannot compute any more in this process, because its device is lost."""

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for an engine now."""

    def statistics(self) -> dict[str, int | float]:
        """Counts since the start, and the present state of the queue, as of `Scheduler.statistics`."""

    def batches_by_rows(self) -> dict[int, tuple[int, int]]:
        """By the rows of a batch: the number of such batches, and their engine time in nanoseconds."""

    @property
    def warm_up(self) -> WarmUp:
        """Whether the model was warmed up before its first request."""

    def stages(self) -> dict[str, dict[str, int | float]]:
        """The counts of each stage of a pipeline; empty for a model."""

    def stage_batches(self) -> dict[str, dict[int, tuple[int, int]]]:
        """As `batches_by_rows`, for each stage of a pipeline; empty for a model."""

    def stage_times(self) -> list[StepTimes]:
        """How long requests are in each stage of a pipeline; empty for a model."""

    def step_engines(self) -> dict[str, EngineOptions | None]:
        """The engine of each step of a pipeline that this process computes, None for a function; empty for a model."""

    def step_profiles(self) -> list[Profile] | None:
        """The profiles of the models in a pipeline's steps, each once; None for a model."""

    def describe_stages(self) -> str:
        """The stages of a pipeline in one line; empty for a model."""

    def device_times(self) -> list[DevicePhase]:
        """The time in each phase of the newest calls to a device; empty for an engine on the CPU."""

    def waiting_ns(self) -> int:
        """How long the workers will take for the waiting rows, in nanoseconds; 0 where the calling thread computes."""

    def admit(self, rows: int, deadline_ns: int = 0, priority: int = 0) -> None:
        """Check that a request of this many rows would be admitted now.

        Raises:
            QueueFullError: too much is waiting, or the deadline cannot be met.
            TooLargeError: more rows than the queue can ever hold.
        """

    def start(self, arrays: Arrays, request: Request) -> None:
        """Admit and queue a request, given as checked arrays."""

    def start_in_steps(self, arrays: Arrays, request: Request) -> Generator[None, None, None]:
        """As `start`, as a generator that pauses while large arrays are copied."""

    def lend(
        self, count: int, deadline_ns: int = 0, priority: int = 0, *, apart: bool = False, some: bool = False
    ) -> Lease:
        """Lend rows of the slab, which the caller fills and settles; see `Scheduler.lend`."""

    def settle(self, lease: Lease, filled: int, request: Request | None, *, at_once: bool = False) -> bool:
        """Queue a request in the first `filled` rows, and free the others; returns whether to notify the model."""

    def submit(self, request: Request, body: memoryview) -> None:
        """Lend, fill and settle in one call, for a body that is exactly the request's rows of the only input."""

    def bypass(self, request: Request, body: memoryview) -> bool:
        """As `submit`, computing before this returns, if nothing waits and nothing computes; returns whether it did.

        The request is delivered on this thread. If it is not computed, nothing has changed.
        """

    def cancel(self, request: Request) -> None:
        """Cancel a request whose client has disconnected."""

    def withdraw(self, handler: ResponseHandler, number: int) -> None:
        """Cancel one of several requests that were settled as one; `number` is its index for the handler."""

    def notify(self, until_ns: int = 0) -> bool:
        """Have queued requests computed; returns whether some wait for another call."""


class ModelEntry:
    """The entry of a model, which connects its scheduler with what computes.

    Args:
        scheduler: of the model.
        executor: computes batches on the notifying thread.
        wake: wakes the workers, which compute all others.
        padding: how inputs of different lengths are padded; None: they are not.
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
        self.engine: Engine | None = None  # the first engine, for the times of its device
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
        """Empty: only a pipeline has stages."""
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
        """The time in each phase of the newest calls to a device; empty for an engine on the CPU."""
        engine = self.engine
        return msgspec.convert(engine.phases.summary(), list[DevicePhase]) if isinstance(engine, Timed) else []

    def pause(self) -> None:
        """Wait a moment for running batches to end before this process forks."""
        scheduler = self.scheduler
        if scheduler.closed:
            return
        scheduler.paused = scheduler.dispatch != "inline"  # a loop that computes inline would not look again
        end = time.monotonic() + _FORK_WAIT_S
        while scheduler.computing and time.monotonic() < end:
            time.sleep(_FORK_LOOK_S)

    def go_on(self) -> None:
        """Resume after the fork, in the parent."""
        if self.scheduler.paused:
            self.scheduler.paused = False
            self._wake()

    def start(self, arrays: Arrays, request: Request) -> None:
        """Queue a request's checked arrays: in rows of the slab, as loose arrays, or in parts if larger than a batch.

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
        """As `start`, pausing after every 256 KB that are copied into rows, and after each part larger than that.

        Smaller requests are queued without a pause, because a paused request holds rows that it does not use yet.

        Raises:
            QueueFullError, ReleasedError: as in `start`.
        """
        large = self.slab is not None and sum(array.nbytes for array in arrays.values()) > _STEP_BYTES
        return self._start(arrays, request, _STEP_BYTES if large else 0)

    def settle(self, lease: Lease, filled: int, request: Request | None, *, at_once: bool = False) -> bool:
        """Queue a request in the first `filled` rows of a lease, and free the others; 0 frees all of them.

        Args:
            lease: as it was lent.
            filled: the number of rows used.
            request: the request; None where nothing was filled.
            at_once: the request is delivered on this thread, and so may be computed before this returns, where nothing
                waits and nothing computes.

        Returns:
            Whether to notify the model.

        Raises:
            ReleasedError: the model was closed; the rows have been freed.
        """
        scheduler = self.scheduler
        try:
            batch = scheduler.settle(lease, filled, request, at_once=at_once)
        except Exception:
            raise
        except BaseException:  # of a signal handler, such as Ctrl-C
            scheduler.repair(lease)
            raise
        if batch is None:
            return filled > 0
        self._compute_here(batch)
        return scheduler.waiting_rows > 0

    def bypass(self, request: Request, body: memoryview) -> bool:
        """Compute a request at once, if nothing waits and nothing computes; see `ServedEntry.bypass`."""
        batch = self.scheduler.bypass(request, body)
        if batch is None:
            return False
        self._compute_here(batch)
        return True

    def _compute_here(self, batch: Batch) -> None:
        """Compute a batch that is delivered on this thread only."""
        scheduler = self.scheduler
        try:
            self.executor.run(batch)
            scheduler.finish(batch, all_here=True)
        except BaseException:
            scheduler.interrupted(batch)
            raise

    def notify(self, until_ns: int = 0) -> bool:
        """Have ready requests computed: on this thread, or by an idle worker.

        Args:
            until_ns: parts of oversized requests that this thread would begin after this time (monotonic) are left to
                another call; 0: none are.

        Returns:
            Whether something is left to another call.
        """
        scheduler = self.scheduler
        if scheduler.computing >= scheduler.instances:
            return False  # a busy worker looks for more by itself; only an idle one must be woken
        if scheduler.dispatch == "worker":
            self._wake()
            return False
        adaptive = scheduler.dispatch == "adaptive"
        # Adaptive: one batch; where each request is a batch, as many as fit into the loop's time.
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
        """Lend rows and copy arrays into them, pausing after every `step_bytes` (0: never), or keep loose arrays.

        Raises:
            QueueFullError: no rows are free.
            ReleasedError: the model was closed.
        """
        slab = self.slab
        if slab is None:
            return self._lend_loose(arrays, request)
        if is_uneven(self.spec, arrays):  # computed without rows; copied, because the source may be reused
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
        except BaseException:  # the request is abandoned
            self.settle(lease, 0, None)
            raise
        return lease

    def _lend_loose(self, arrays: Arrays, request: Request) -> Lease:
        """Keep arrays in the request, which may share a batch with requests of the same key."""
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

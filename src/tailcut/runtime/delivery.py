"""Delivers answers: on an event loop's own thread, woken once per batch, or on the thread that computed.

The response handlers of the library's callers are here, too.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from tailcut.errors import EngineError, TailcutError
from tailcut.runtime.request import Batch, Notifiable, Request

_PASS_NS = 2_500_000  # of each pass of the loop, for computing inline; a single batch may take longer


class LoopDelivery:
    """Delivers on an event loop. Batches computed elsewhere wake it once, until it runs; notifications are gathered."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.thread = threading.get_ident()  # the thread that runs the loop
        self.idle = True  # no notification is pending
        self._gathered: list[tuple[Callable[[bool], bool], Notifiable]] = []
        self._pending: list[Notifiable] = []
        self._computed: deque[Batch] = deque()  # computed elsewhere, and not handed out yet
        self._is_woken = False  # to hand them out

    def notify_soon(self, entry: Notifiable) -> None:
        """Notify the model after everything else in this pass of the loop, so that arrivals gather."""
        self._be_due()
        if entry not in self._pending:
            self._pending.append(entry)

    def gather(self, queue: Callable[[bool], bool], entry: Notifiable) -> None:
        """Have gathered requests queued after everything else in this pass of the loop.

        Args:
            queue: queues them; called with whether nothing else came in this pass, and returns whether to notify.
            entry: of their model, which is notified then.
        """
        self._gathered.append((queue, entry))
        self._be_due()

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the loop's own."""
        return threading.get_ident() == self.thread

    def notify_now(self, entry: Notifiable) -> None:
        """Notify at once, because arrivals have gathered already; later, where other notifications are pending."""
        if not self.idle or entry.notify(time.monotonic_ns() + _PASS_NS):
            self.notify_soon(entry)

    def post(self, batch: Batch) -> None:
        """Hand out at once if the loop's own thread computed the batch, else wake the loop."""
        if self.is_here:
            self._hand_out(batch)
            return
        # No batch is missed while the loop is woken: it clears the flag before it takes the first batch out.
        self._computed.append(batch)
        if self._is_woken:
            return
        self._is_woken = True
        try:
            self._loop.call_soon_threadsafe(self._hand_out_computed)
        except RuntimeError:  # the loop was closed meanwhile: no caller is left
            self._is_woken = False
            while self._computed:
                computed = self._computed.popleft()
                computed.owner.delivered(computed)

    def post_failure(self, request: Request, error: TailcutError) -> None:
        """Call the handler's `fail` on the loop's thread, never inside the caller's own call."""
        try:
            self._loop.call_soon_threadsafe(request.handler.fail, request, error)
        except RuntimeError:
            return

    def _hand_out_computed(self) -> None:
        self._is_woken = False
        while self._computed:
            self._hand_out(self._computed.popleft())

    def _hand_out(self, batch: Batch) -> None:
        try:
            batch.hand_out(self)
        finally:
            batch.owner.delivered(batch)

    def _be_due(self) -> None:
        if self.idle:
            self._loop.call_soon(self._notify)
            self.idle = False

    def _notify(self) -> None:
        gathered, pending = self._gathered, self._pending
        self._gathered, self._pending, self.idle = [], [], True
        try:
            alone = len(gathered) == 1 and not pending
            for queue, entry in gathered:
                if queue(alone) and entry not in pending:
                    pending.append(entry)
            until_ns = time.monotonic_ns() + _PASS_NS
            for entry in pending:
                if entry.notify(until_ns):
                    self.notify_soon(entry)
        except BaseException:  # such as that of a signal handler: the loop may go on
            for entry in pending:
                self.notify_soon(entry)
            raise


class AnyThreadDelivery:
    """Delivers to callers that block: the thread that computed calls the handlers, after it has counted the batch."""

    is_here = False

    def notify_soon(self, entry: Notifiable) -> None:
        """Do nothing: the computing thread looks for further work by itself."""

    def post(self, batch: Batch) -> None:
        """Hand out at once."""
        try:
            batch.hand_out(self)
        finally:
            batch.owner.delivered(batch)

    def post_failure(self, request: Request, error: TailcutError) -> None:
        """Call the handler's `fail` at once."""
        request.handler.fail(request, error)


class FutureHandler:
    """Sets an asyncio future to a list of owned output arrays."""

    __slots__ = ("future",)

    def __init__(self, future: "asyncio.Future[list[np.ndarray]]") -> None:
        self.future = future

    def complete(self, request: Request, batch: Batch, index: int) -> None:
        """Copy the outputs out of their rows."""
        if not self.future.done():
            self.future.set_result([_owned(array) for array in batch.arrays(index)])

    def fail(self, request: Request, error: TailcutError) -> None:
        """Have the error raised in the awaiting task."""
        if not self.future.done():
            self.future.set_exception(error)


class Latch:
    """A flag that is set once, and for which one thread waits.

    A `threading.Event` would stay locked if a signal handler raised an exception in its `set`.
    """

    __slots__ = ("_is_set", "_lock")

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def is_set(self) -> bool:
        """Whether it has been set."""
        return self._is_set

    def set(self) -> None:
        """Set the flag, and wake the waiting thread."""
        if not self._is_set:
            self._is_set = True
            self._lock.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the flag is set; returns whether it was."""
        return self._is_set or self._lock.acquire(timeout=timeout_s)


class EventHandler:
    """Wakes a blocked thread after setting `outputs` or `error`."""

    __slots__ = ("error", "event", "outputs")

    def __init__(self) -> None:
        self.event = Latch()
        self.outputs: list[np.ndarray] | None = None
        self.error: TailcutError | None = None

    def complete(self, request: Request, batch: Batch, index: int) -> None:
        """Copy the outputs out of their rows."""
        try:
            self.outputs = [_owned(array) for array in batch.arrays(index)]
        except Exception as error:  # noqa: BLE001  of a signal handler, or no memory: the thread must be woken
            self.error = EngineError(f"the answer could not be copied: {error}")
        self.event.set()

    def fail(self, request: Request, error: TailcutError) -> None:
        """Keep the error for the waiting thread to raise."""
        self.error = error
        self.event.set()


def _owned(array: np.ndarray) -> np.ndarray:
    """A copy for the caller, with strings as `bytes`, like the results of the protocol's clients."""
    if array.dtype != object:
        return array.copy()
    owned = np.empty(array.size, object)
    owned[:] = [item.encode() if isinstance(item, str) else item for item in array.reshape(-1).tolist()]
    return owned.reshape(array.shape)

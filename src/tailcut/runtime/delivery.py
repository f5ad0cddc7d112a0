"""Where answers are handed out: on an event loop's own thread, woken once a batch, or on the thread that computed.

Beside them stand the response handlers of the library's callers.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from tailcut.errors import EngineError, TailcutError
from tailcut.runtime.request import Batch, Notifiable, Request

_PASS_NS = 2_500_000  # of a pass of the loop, for computing inline; one batch may take longer


class LoopDelivery:
    """An event loop. Batches computed elsewhere wake it, once for all before it looks; notifications are gathered."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.thread = threading.get_ident()  # that runs it
        self.idle = True  # no notification is due
        self._gathered: list[tuple[Callable[[bool], bool], Notifiable]] = []
        self._pending: list[Notifiable] = []
        self._computed: deque[Batch] = deque()  # elsewhere, and not handed out yet
        self._is_woken = False  # for them

    def notify_soon(self, entry: Notifiable) -> None:
        """Notify the model after everything else that this pass of the loop has read: arrivals gather by themselves."""
        self._be_due()
        if entry not in self._pending:
            self._pending.append(entry)

    def gather(self, queue: Callable[[bool], bool], entry: Notifiable) -> None:
        """Have what is gathered queued after everything else that this pass of the loop has read.

        Args:
            queue: queues it; it is told whether nothing else came in this pass, and returns whether to notify.
            entry: of its model, which is notified then.
        """
        self._gathered.append((queue, entry))
        self._be_due()

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the loop's own."""
        return threading.get_ident() == self.thread

    def notify_now(self, entry: Notifiable) -> None:
        """Notify at once of arrivals that have gathered already; with those of others where there are some."""
        if not self.idle or entry.notify(time.monotonic_ns() + _PASS_NS):
            self.notify_soon(entry)

    def post(self, batch: Batch) -> None:
        """Hand out here and now when the loop's own thread computed, else wake the loop."""
        if self.is_here:
            self._hand_out(batch)
            return
        # A batch that finds the loop woken is in time: the mark is taken away before the first one is taken out.
        self._computed.append(batch)
        if self._is_woken:
            return
        self._is_woken = True
        try:
            self._loop.call_soon_threadsafe(self._hand_out_computed)
        except RuntimeError:  # the loop was closed while its requests computed: no caller is left to be told
            self._is_woken = False
            while self._computed:
                computed = self._computed.popleft()
                computed.owner.delivered(computed)

    def post_failure(self, request: Request, error: TailcutError) -> None:
        """Tell the handler on the loop's thread, never inside the caller's own call."""
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
        except BaseException:  # of a signal's handler: the loop may go on
            for entry in pending:
                self.notify_soon(entry)
            raise


class AnyThreadDelivery:
    """For callers that block on an event: handlers are called by the thread that computed, after it has counted."""

    is_here = False

    def notify_soon(self, entry: Notifiable) -> None:
        """Do nothing: the thread that computes looks again by itself."""

    def post(self, batch: Batch) -> None:
        """Hand out at once."""
        try:
            batch.hand_out(self)
        finally:
            batch.owner.delivered(batch)

    def post_failure(self, request: Request, error: TailcutError) -> None:
        """Tell the handler at once."""
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
        """Raise in the awaiting task."""
        if not self.future.done():
            self.future.set_exception(error)


class Latch:
    """Set once, and waited for by one thread.

    A `threading.Event` keeps its lock where a signal's handler raises an exception in its `set`.
    """

    __slots__ = ("_is_set", "_lock")

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def is_set(self) -> bool:
        """Whether it is."""
        return self._is_set

    def set(self) -> None:
        """Let the waiting thread go on."""
        if not self._is_set:
            self._is_set = True
            self._lock.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait for it; whether it came."""
        return self._is_set or self._lock.acquire(timeout=timeout_s)


class EventHandler:
    """Wakes a blocked thread; `outputs` or `error` is set then."""

    __slots__ = ("error", "event", "outputs")

    def __init__(self) -> None:
        self.event = Latch()
        self.outputs: list[np.ndarray] | None = None
        self.error: TailcutError | None = None

    def complete(self, request: Request, batch: Batch, index: int) -> None:
        """Copy the outputs out of their rows."""
        try:
            self.outputs = [_owned(array) for array in batch.arrays(index)]
        except Exception as error:  # noqa: BLE001  of a signal's handler, or no memory: the thread waits for an end
            self.error = EngineError(f"the answer could not be copied: {error}")
        self.event.set()

    def fail(self, request: Request, error: TailcutError) -> None:
        """Keep the error for the waiting thread to raise."""
        self.error = error
        self.event.set()


def _owned(array: np.ndarray) -> np.ndarray:
    """A copy for the caller, with strings as `bytes`, as every client of the protocol has them."""
    if array.dtype != object:
        return array.copy()
    owned = np.empty(array.size, object)
    owned[:] = [item.encode() if isinstance(item, str) else item for item in array.reshape(-1).tolist()]
    return owned.reshape(array.shape)

"""The library's calls of a model or a pipeline: from a coroutine, or from a thread that may block."""

import asyncio
import threading
import time
from collections.abc import Mapping
from numbers import Integral
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from tailcut.durations import seconds_of
from tailcut.errors import InvalidInputError
from tailcut.memory.slab import Slab
from tailcut.runtime.delivery import AnyThreadDelivery, EventHandler, FutureHandler, LoopDelivery
from tailcut.runtime.inputs import Arrays, check_inputs
from tailcut.runtime.request import Request
from tailcut.spec import ModelSpec

_ANY_THREAD = AnyThreadDelivery()
_LOOK_S = 1.0


class CallEntry(Protocol):
    """What a call needs of the entry that it comes in by."""

    @property
    def spec(self) -> ModelSpec:
        """What goes in and comes out."""

    @property
    def slab(self) -> Slab | None:
        """Whose rows inputs are copied to; None where they are computed as the arrays that they are."""

    def start(self, arrays: Arrays, request: Request) -> None:
        """Admit and queue checked arrays."""

    def notify(self, until_ns: int = 0) -> bool:
        """Have what is queued computed."""

    def cancel(self, request: Request) -> None:
        """The caller left."""


class LibraryCalls:
    """Calls of one entry, from any number of threads and event loops. Thread-safe."""

    def __init__(self, entry: CallEntry) -> None:
        self._entry = entry
        self._deliveries: dict[asyncio.AbstractEventLoop, LoopDelivery] = {}

    async def infer(
        self, inputs: Mapping[str, ArrayLike], timeout_s: float | None, priority: int
    ) -> dict[str, np.ndarray]:
        """The outputs for some rows, by name. Errors are those of `Model.infer`."""
        entry = self._entry
        arrays, rows = check_inputs(entry.spec, inputs)
        if entry.slab is None:  # read after the caller has gone on
            arrays = {name: array.copy() for name, array in arrays.items()}
        loop = asyncio.get_running_loop()
        delivery, handler = self._delivery_to(loop), FutureHandler(loop.create_future())
        request = Request(handler, delivery, rows, _deadline(timeout_s), _priority(priority))
        entry.start(arrays, request)
        delivery.notify_soon(entry)
        try:
            outputs = await handler.future
        except asyncio.CancelledError:
            entry.cancel(request)
            raise
        return dict(zip(entry.spec.output_names, outputs, strict=True))

    def infer_sync(
        self, inputs: Mapping[str, ArrayLike], timeout_s: float | None, priority: int
    ) -> dict[str, np.ndarray]:
        """As `infer`, for a thread that may block."""
        entry = self._entry
        arrays, rows = check_inputs(entry.spec, inputs)
        handler = EventHandler()
        request = Request(handler, _ANY_THREAD, rows, _deadline(timeout_s), _priority(priority))
        entry.start(arrays, request)
        try:
            entry.notify()
            while not handler.event.wait(_LOOK_S):
                entry.notify()  # the thread that was to look again may hang in an engine, or have been interrupted
        except BaseException:  # of a signal's handler: the caller left
            if not handler.event.is_set():
                entry.cancel(request)
            raise
        if handler.error is not None:
            raise handler.error
        return dict(zip(entry.spec.output_names, handler.outputs or [], strict=True))

    def _delivery_to(self, loop: asyncio.AbstractEventLoop) -> LoopDelivery:
        delivery = self._deliveries.get(loop)
        if delivery is None:
            for known in list(self._deliveries):  # other threads add and remove theirs meanwhile
                if known.is_closed():
                    self._deliveries.pop(known, None)
            delivery = self._deliveries[loop] = LoopDelivery(loop)
        delivery.thread = threading.get_ident()  # a loop that was stopped may go on in another thread
        return delivery


def _deadline(timeout_s: float | None) -> int:
    """On the monotonic clock; 0: none."""
    return 0 if timeout_s is None else max(1, time.monotonic_ns() + int(seconds_of(timeout_s) * 1e9))


def _priority(priority: object) -> int:
    if type(priority) is int and priority >= 0:
        return priority
    if isinstance(priority, bool) or not isinstance(priority, Integral) or priority < 0:
        raise InvalidInputError(f"priority must be a whole number, 0 or more, got {priority!r}")
    return int(priority)

"""Calls of a model or a pipeline by users of the library: from a coroutine, or from a thread that may block."""

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
    """What a call needs of the entry of a model or a pipeline."""

    @property
    def spec(self) -> ModelSpec:
        """The inputs and outputs."""

    @property
    def slab(self) -> Slab | None:
        """The slab to whose rows inputs are copied; None where arrays are computed as they are."""

    def start(self, arrays: Arrays, request: Request) -> None:
        """Admit and queue checked arrays."""

    def notify(self, until_ns: int = 0) -> bool:
        """Have what is queued computed."""

    def cancel(self, request: Request) -> None:
        """Cancel a request whose caller no longer waits."""


class LibraryCalls:
    """Calls of one entry, from any number of threads and event loops. Thread-safe."""

    def __init__(self, entry: CallEntry) -> None:
        self._entry = entry
        self._deliveries: dict[asyncio.AbstractEventLoop, LoopDelivery] = {}

    async def infer(
        self, inputs: Mapping[str, ArrayLike], timeout_s: float | None, priority: int
    ) -> dict[str, np.ndarray]:
        """As `Model.infer`, whose arguments, result and errors it has."""
        entry = self._entry
        arrays, rows = check_inputs(entry.spec, inputs)
        if entry.slab is None:  # the caller may change them before they are read
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
                entry.notify()  # the computing thread may hang or have been interrupted
        except BaseException:  # such as that of a signal handler: the caller no longer waits
            if not handler.event.is_set():
                entry.cancel(request)
            raise
        if handler.error is not None:
            raise handler.error
        return dict(zip(entry.spec.output_names, handler.outputs or [], strict=True))

    def _delivery_to(self, loop: asyncio.AbstractEventLoop) -> LoopDelivery:
        delivery = self._deliveries.get(loop)
        if delivery is None:
            for known in list(self._deliveries):  # other threads may change it meanwhile
                if known.is_closed():
                    self._deliveries.pop(known, None)
            delivery = self._deliveries[loop] = LoopDelivery(loop)
        delivery.thread = threading.get_ident()  # a stopped loop may have been resumed in another thread
        return delivery


def _deadline(timeout_s: float | None) -> int:
    """The deadline in nanoseconds of the monotonic clock; 0: none."""
    return 0 if timeout_s is None else max(1, time.monotonic_ns() + int(seconds_of(timeout_s) * 1e9))


def _priority(priority: object) -> int:
    if type(priority) is int and priority >= 0:
        return priority
    if isinstance(priority, bool) or not isinstance(priority, Integral) or priority < 0:
        raise InvalidInputError(f"priority must be a whole number, 0 or more, got {priority!r}")
    return int(priority)

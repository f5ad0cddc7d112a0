"""Stand-ins for a device that count, and that fail; they need PyTorch."""

import contextlib
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tailcut.engines.cuda.device import Graph, NotCapturedError, StandIn
from tailcut.engines.cuda.faults import device_error
from tailcut.engines.cuda.staging import SlotState
from tailcut.engines.cuda.turns import CaptureGate


class Counting(StandIn):
    """A device that knows what was asked of it and not given back."""

    def __init__(self) -> None:
        self.memory: weakref.WeakSet[Any] = weakref.WeakSet()
        self.pinned: list[int] = []

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        tensor = super().zeros(shape, dtype)
        self.memory.add(tensor)
        return tensor

    def pin(self, array: np.ndarray) -> None:
        self.pinned.append(array.ctypes.data)

    def unpin(self) -> None:
        self.pinned.clear()


class Failing(StandIn):
    """A device that fails once: where a graph is captured, where it is replayed, or where the output is waited for."""

    def __init__(self, where: str, text: str, *, lost: bool = False, kind: type[Exception] = RuntimeError) -> None:
        self.where, self.text, self.lost, self.left, self.kind = where, text, lost, 1, kind

    def _fail(self, where: str) -> None:
        if self.where == where and self.left:
            self.left -= 0 if self.lost else 1
            raise (torch.cuda.OutOfMemoryError if "out of memory" in self.text else self.kind)(self.text)

    def capture(self, compute: Callable[[], Sequence[Any]], pool: Any = None) -> Graph:
        self._fail("capture")
        return super().capture(compute, pool)

    def enqueue(self, state: SlotState, events: dict[SlotState, Any], step: Callable[[], None]) -> None:
        if state is SlotState.COMPUTING:
            self._fail("replay")
        super().enqueue(state, events, step)

    def wait(self, events: dict[SlotState, Any]) -> None:
        self._fail("wait")

    def recover(self) -> None:
        if self.lost:
            raise device_error(RuntimeError(self.text), "PyTorch")


class Strict(StandIn):
    """A device that captures as CUDA does: whatever is asked of it meanwhile fails, and spoils the capture."""

    gate = CaptureGate()

    def __init__(self) -> None:
        self.capturing, self.disturbed = threading.Event(), threading.Event()
        self.slow = False

    def capture(self, compute: Callable[[], Sequence[Any]], pool: Any = None) -> Graph:
        if self.capturing.is_set():
            raise NotCapturedError("another capture is under way")
        self.capturing.set()
        try:
            if self.slow and self.disturbed.wait(0.3):
                raise NotCapturedError("operation failed due to a previous error during capture")
            return super().capture(compute, pool)
        finally:
            self.capturing.clear()

    def _disturb(self) -> None:
        if self.capturing.is_set():
            self.disturbed.set()
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    def enqueue(self, state: SlotState, events: dict[SlotState, Any], step: Callable[[], None]) -> None:
        self._disturb()
        super().enqueue(state, events, step)

    def recover(self) -> None:
        self._disturb()


class Small(StandIn):
    """A device that has room for the graphs of so many shapes."""

    def __init__(self, room: int) -> None:
        self.room, self.given_back = room, 0
        self.graphs: weakref.WeakSet[Any] = weakref.WeakSet()

    def capture(self, compute: Callable[[], Sequence[Any]], pool: Any = None) -> Graph:
        if len(self.graphs) >= self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        graph = super().capture(compute, pool)
        self.graphs.add(graph.replay)
        return graph

    def give_back(self) -> None:
        self.given_back += 1


class Watched(StandIn):
    """What a device was asked for, and how many batches were on it at a time."""

    def __init__(self) -> None:
        self.pinned, self.given_back, self.there, self.most = 0, 0, 0, 0
        self.pools: list[Any] = []
        self.both = threading.Barrier(2)

    def enqueue(self, state: SlotState, events: dict[SlotState, Any], step: Callable[[], None]) -> None:
        if state is SlotState.COPYING_IN:
            self.there += 1
            self.most = max(self.most, self.there)
        super().enqueue(state, events, step)

    def wait(self, events: dict[SlotState, Any]) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            self.both.wait(0.2)  # for another batch, where one can come
        self.there -= 1

    def pin(self, array: np.ndarray) -> None:
        self.pinned += 1

    def capture(self, compute: Callable[[], Sequence[Any]], pool: Any = None) -> Graph:
        self.pools.append(pool)
        return super().capture(compute, pool)

    def give_back(self) -> None:
        self.given_back += 1

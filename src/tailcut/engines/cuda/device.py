"""What the engine needs of a device: copies, graphs and waiting, on separate streams."""

import contextlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch

from tailcut.engines.cuda.faults import Fault, device_error, fault_of, first_line
from tailcut.engines.cuda.pinned import PinnedMemory
from tailcut.engines.cuda.staging import WAITS, SlotState
from tailcut.engines.cuda.turns import CaptureGate, Switch
from tailcut.errors import UnsupportedError

Step = Callable[[], None]
_ORDER = (SlotState.FREE, SlotState.COPYING_IN, SlotState.COMPUTING, SlotState.COPYING_OUT)


@dataclass(frozen=True, slots=True)
class Graph:
    """Computes further batches on the same memory.

    Args:
        replay: the call that computes.
        results: the tensors that it writes.
        pool: the pool of device memory that it uses; None: it allocates memory each time.
        captured: whether replaying launches all operators at once, with the kernels chosen at capture.
    """

    replay: Step
    results: Sequence[Any]
    pool: Any = None
    captured: bool = True


def _register(address: int, size_bytes: int) -> bool:
    """Register host memory with CUDA; returns whether that succeeded. An error is cleared, so no launch raises it."""
    if int(torch.cuda.cudart().cudaHostRegister(address, size_bytes, 0)) == 0:
        return True
    _clear_error()
    return False


def _clear_error() -> None:
    """Clear the last error of this thread, which PyTorch would raise after the next launch of any kernel.

    Its binding of the runtime leaves the error set (`C10_CUDA_ERROR_HANDLED`) and has no `cudaGetLastError`, but the
    check after a launch calls that before it raises (`c10_cuda_check_implementation`). So a kernel is launched.
    """
    with contextlib.suppress(RuntimeError):
        torch.ones(1, device="cuda")  # the current device


def _unregister(address: int) -> None:
    if int(torch.cuda.cudart().cudaHostUnregister(address)) != 0:  # the device is lost, and the registration with it
        _clear_error()


_PINNED = PinnedMemory(_register, _unregister)


class NotCapturedError(Exception):
    """A computation cannot be captured, for example because an operator waits for the device."""


class ComputeDevice(Protocol):
    """A device; steps enqueued on it begin in the order of their waits, and may end after `enqueue` returns."""

    name: torch.device
    gate: CaptureGate  # for all engines in the process, because PyTorch allows one capture at a time

    def enqueue(self, state: SlotState, events: dict[SlotState, Any], step: Step) -> None:
        """Enqueue a step on the stream of its state, after the event in `WAITS`; record an event of its own."""

    def capture(self, compute: Callable[[], Sequence[Any]], pool: Any = None) -> Graph:
        """Capture `compute` as a graph; nothing else may be launched meanwhile.

        Args:
            compute: computes a batch; it must have run before on the stream of `COMPUTING`, to do one-time work.
            pool: the memory pool of an earlier graph that never runs simultaneously; None: a new one.

        Raises:
            NotCapturedError: it cannot be captured.
        """

    def wait(self, events: dict[SlotState, Any]) -> None:
        """Wait until the output has been copied."""

    def elapsed_us(self, events: dict[SlotState, Any]) -> tuple[float, float, float]:
        """The times of copying in, computing and copying out in microseconds, after `wait`, by the device's clock.

        Each begins at the end of the step before, so waiting for a busy stream is included.
        """

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Allocate zeroed device memory for input."""

    def pin(self, array: np.ndarray) -> None:
        """Make copies from and to an array's memory asynchronous."""

    def unpin(self) -> None:
        """Undo every `pin`; no call may be in progress."""

    def give_back(self) -> None:
        """Return cached memory to the driver."""

    def recover(self) -> None:
        """Wait for all work and return cached memory, after a failure.

        Raises:
            DeviceLostError: the device cannot compute any more.
        """


class Cuda:
    """A CUDA device."""

    gate = CaptureGate()

    def __init__(self, index: int = 0) -> None:
        reason = missing(index)
        if reason:
            raise UnsupportedError(reason)
        self.name = torch.device("cuda", index)
        self._streams = {state: torch.cuda.Stream(self.name) for state in WAITS}

    def enqueue(self, state: SlotState, events: dict[SlotState, Any], step: Step) -> None:
        """See `ComputeDevice.enqueue`."""
        stream, before = self._streams[state], WAITS[state]
        with torch.cuda.stream(stream):
            if before is None:
                self._mark(events, SlotState.FREE, stream)
            else:
                stream.wait_event(events[before])
            step()
            self._mark(events, state, stream)

    def capture(self, compute: Callable[[], Sequence[Any]], pool: Any = None) -> Graph:
        """See `ComputeDevice.capture`."""
        stream = self._streams[SlotState.COMPUTING]
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                torch.cuda.stream(stream),  # is restored even if the capture fails
                torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
            ):
                results = compute()
        except Exception as error:
            if fault_of(f"{error} {error.__context__}") in {Fault.FULL, Fault.LOST}:
                raise
            raise NotCapturedError(first_line(error.__context__ or error)) from None
        return Graph(graph.replay, results, graph.pool())

    def wait(self, events: dict[SlotState, Any]) -> None:
        """See `ComputeDevice.wait`."""
        events[SlotState.COPYING_OUT].synchronize()

    def elapsed_us(self, events: dict[SlotState, Any]) -> tuple[float, float, float]:
        """See `ComputeDevice.elapsed_us`."""
        first, second, third = (1e3 * events[before].elapsed_time(events[after]) for before, after in pairwise(_ORDER))
        return first, second, third

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """See `ComputeDevice.zeros`; zeroed on the stream of input copies, so that zeros never overwrite input."""
        with torch.cuda.stream(self._streams[SlotState.COPYING_IN]):
            return torch.zeros(shape, dtype=dtype, device=self.name)

    def pin(self, array: np.ndarray) -> None:
        """See `ComputeDevice.pin`; where that is refused, the driver stages copies."""
        with torch.cuda.device(self.name):  # otherwise, PyTorch would initialise the first device, too
            _PINNED.hold(array, self)

    def unpin(self) -> None:
        """See `ComputeDevice.unpin`."""
        with torch.cuda.device(self.name):
            _PINNED.release(self)

    def give_back(self) -> None:
        """See `ComputeDevice.give_back`."""
        torch.cuda.empty_cache()

    def recover(self) -> None:
        """See `ComputeDevice.recover`."""
        try:
            torch.cuda.synchronize(self.name)
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise device_error(error, "PyTorch") from None

    @staticmethod
    def _mark(events: dict[SlotState, Any], state: SlotState, stream: Any) -> None:
        event = events[state] = torch.cuda.Event(enable_timing=True)
        event.record(stream)


class StandIn:
    """The CPU in place of a device: every step runs at once."""

    name = torch.device("cpu")
    gate = CaptureGate()

    def enqueue(self, state: SlotState, events: dict[SlotState, Any], step: Step) -> None:
        """See `ComputeDevice.enqueue`."""
        before = WAITS[state]
        if before is not None:
            assert before in events  # noqa: S101  a stream would wait for it
        else:
            events[SlotState.FREE] = time.perf_counter_ns()
        step()
        events[state] = time.perf_counter_ns()

    def capture(self, compute: Callable[[], Sequence[Any]], pool: Any = None) -> Graph:
        """See `ComputeDevice.capture`."""
        results = list(compute())

        def replay() -> None:
            with torch.inference_mode():
                for result, fresh in zip(results, compute(), strict=True):
                    result.copy_(fresh)

        return Graph(replay, results, pool or object())

    def wait(self, events: dict[SlotState, Any]) -> None:
        """See `ComputeDevice.wait`."""

    def elapsed_us(self, events: dict[SlotState, Any]) -> tuple[float, float, float]:
        """See `ComputeDevice.elapsed_us`."""
        first, second, third = ((events[after] - events[before]) / 1e3 for before, after in pairwise(_ORDER))
        return first, second, third

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """See `ComputeDevice.zeros`."""
        return torch.zeros(shape, dtype=dtype)

    def pin(self, array: np.ndarray) -> None:
        """See `ComputeDevice.pin`."""

    def unpin(self) -> None:
        """See `ComputeDevice.unpin`."""

    def give_back(self) -> None:
        """See `ComputeDevice.give_back`."""

    def recover(self) -> None:
        """See `ComputeDevice.recover`."""


_BEFORE: list[bool] = []  # products, convolutions


def _set_tf32(on: bool) -> None:  # noqa: FBT001  the value to set
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    _BEFORE[:] = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = on


def _reset_tf32() -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = _BEFORE


_TF32 = Switch(_set_tf32, _reset_tf32)


def products_in(*, tf32: bool) -> AbstractContextManager[None]:
    """Set whether float32 products and convolutions that are launched or captured meanwhile use tf32.

    PyTorch has one switch for the process, which by default is off for products and on for convolutions. Models with
    the same value can hold it together; tf32 and float32 wait for each other, also while one is compiled.
    """
    return _TF32.held(value=tf32)


def missing(index: int = 0) -> str:
    """Why there is no CUDA device with this index, in one line; "" where there is one."""
    if torch.version.cuda is None:
        return f"device cuda: PyTorch {torch.__version__} is built without CUDA: install a CUDA build from pytorch.org"
    if not torch.cuda.is_available():
        return "device cuda: no CUDA device is visible: check nvidia-smi, CUDA_VISIBLE_DEVICES and the driver"
    count = torch.cuda.device_count()
    if index >= count:
        return f"device cuda: there is no device {index}: engine.cuda.index is 0 to {count - 1}"
    return ""

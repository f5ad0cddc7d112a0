"""Times calls of engines against each other, and by batch size.

Calls alternate in short runs, and the lower quartile counts: on a busy machine, the fast calls are the undisturbed
ones, and a passing disturbance affects all candidates alike. The CPU time of the process is measured as well: other
processes lengthen a call, but hardly change its CPU time. An undisturbed call takes no longer than the CPU time of all
its threads, so the smaller of the two is the better estimate.
"""

import hashlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from tailcut.engines.base import Engine
from tailcut.engines.samples import Samples
from tailcut.errors import TailcutError
from tailcut.memory.aligned import aligned_empty

_LONG_NS = 50_000_000  # longer batches are not timed where smaller ones are
_RUN_NS = 200_000  # of one call, before the next has its turn
_RUN_CALLS = 20
_ROUNDS = 15
_FEWEST = 3  # rounds at least
_PAUSE_S = 1e-4

Call = Callable[[], object]


class Timing(NamedTuple):
    """The lower quartiles of a call's time and of the process's CPU time during it, in nanoseconds."""

    wall_ns: float
    cpu_ns: float

    @property
    def undisturbed_ns(self) -> float:
        """The estimated time of a call that other processes do not disturb."""
        return min(self.wall_ns, self.cpu_ns) if self.cpu_ns > 0 else self.wall_ns


def call_of(engine: Engine, inputs: Mapping[str, np.ndarray]) -> Call:
    """A call that computes these inputs like a served batch: bound to aligned arrays where rows have a fixed size.

    Raises:
        EngineError: the inputs cannot be bound.
    """
    spec = engine.spec
    if not spec.fixed_rows:
        return lambda: engine.run(inputs)
    rows = len(next(iter(inputs.values())))
    bound: dict[str, np.ndarray] = {}
    for name, array in inputs.items():
        bound[name] = aligned_empty(array.shape, array.dtype)
        bound[name][...] = array
    outputs: dict[str, np.ndarray] = {}
    for tensor in spec.outputs:
        shape = tuple(rows if dim is None else dim for dim in tensor.shape)
        outputs[tensor.name] = aligned_empty(shape, tensor.dtype.numpy)
    return engine.bind(bound, outputs)


def call_of_rows(engine: Engine, samples: Samples, rows: int) -> Call:
    """A call that computes this many equal rows; or one whole request, where the model is not batched."""
    inputs = samples.make(1 if engine.spec.batched else samples.rows, seed=0)
    if engine.spec.batched and rows > 1:
        inputs = {name: array.repeat(rows, axis=0) for name, array in inputs.items()}
    return call_of(engine, inputs)


def time_calls(
    calls: Sequence[Call], budget_s: float, cpu_clock_ns: Callable[[], int] = time.process_time_ns
) -> list[Timing]:
    """Time all calls alternately for about `budget_s`.

    Each is called at least three times, or once where that already takes all the time. `cpu_clock_ns` returns the CPU
    time to measure: by default that of the whole process.

    Raises:
        EngineError: the engine failed.
    """
    end = time.monotonic() + budget_s
    first = [_timed(call) for call in calls]  # the first call plans memory, and counts only where there is no second
    times: list[list[int]] = [[] for _ in calls]
    cpu: list[list[float]] = [[] for _ in calls]
    rounds = 0
    while rounds < _ROUNDS and (time.monotonic() < end or (rounds < _FEWEST and sum(first) < budget_s * 1e9)):
        for call, taken, spent in zip(calls, times, cpu, strict=True):
            usual = taken[-1] if taken else _RUN_NS
            run = max(1, min(_RUN_CALLS, _RUN_NS // max(1, usual)))
            began = cpu_clock_ns()
            taken += [_timed(call) for _ in range(run)]
            spent.append((cpu_clock_ns() - began) / run)
        rounds += 1
    return [
        Timing(float(np.quantile(taken or [once], 0.25)), float(np.quantile(spent or [once], 0.25)))
        for taken, spent, once in zip(times, cpu, first, strict=True)
    ]


def time_sizes(engine: Engine, samples: Samples, sizes: Sequence[int], budget_s: float) -> dict[int, float]:
    """The nanoseconds of a call, by its rows, for ascending sizes as far as there is time, but at least for the first.

    Raises:
        EngineError: the engine failed on the first size.
    """
    end = time.monotonic() + budget_s
    calls: list[Call] = []
    for size in sizes:
        try:
            call = call_of_rows(engine, samples, size)
            call()
            took_ns = _timed(call)
        except (TailcutError, MemoryError):
            if not calls:
                raise
            break
        calls.append(call)
        if 2 * took_ns > _LONG_NS or time.monotonic() + 2 * (2 + _FEWEST) * took_ns / 1e9 > end:
            break
    taken = time_calls(calls, max(0.0, end - time.monotonic()))
    return {size: timing.undisturbed_ns for size, timing in zip(sizes, taken, strict=False)}


@contextmanager
def busy_thread() -> Iterator[Callable[[], int]]:
    """Run a thread that works half of the time, without the interpreter lock, like an event loop under load.

    Yields a clock of the CPU nanoseconds of everything else in the process; or of everything, where the system has no
    clock for single threads.
    """
    over = threading.Event()
    data = bytes(1 << 16)

    def work() -> None:
        while not over.is_set():
            hashlib.sha256(data)
            time.sleep(_PAUSE_S)

    thread = threading.Thread(target=work, name="busy", daemon=True)
    thread.start()
    try:
        yield _clock_without(thread)
    finally:
        over.set()
        thread.join()


def _clock_without(thread: threading.Thread) -> Callable[[], int]:
    if sys.platform == "darwin" or not hasattr(time, "pthread_getcpuclockid") or thread.ident is None:
        return time.process_time_ns
    clock = time.pthread_getcpuclockid(thread.ident)
    return lambda: time.process_time_ns() - time.clock_gettime_ns(clock)


def _timed(call: Call) -> int:
    began = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - began

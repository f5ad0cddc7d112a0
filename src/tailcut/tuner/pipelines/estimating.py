"""The time of a call of each step: stages in their own worker processes, models in child processes."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tailcut.errors import TailcutError
from tailcut.machine.process import look, peak_bytes
from tailcut.pipelines.engine import StageEngine
from tailcut.tuner.learning import Arrays

_LARGEST = 128  # rows of a call
_FEWEST = 3  # calls of each size
_GAIN = 0.95  # of the time per row, which a batch twice as large must reach for the next size to be tried
_LONGEST_S = 0.5  # after a longer call, no larger one is tried


@dataclass(frozen=True, slots=True)
class StageCallTimes:
    """Of one stage: time and CPU time of a call by batch size, in nanoseconds, and the memory of one process."""

    times_ns: dict[int, float]
    cpu_ns: dict[int, float]
    memory_bytes: int


def time_stage(engine: StageEngine, requests: Sequence[Arrays], seconds: float) -> StageCallTimes:
    """Time calls of a stage, doubling the number of requests per call.

    Args:
        engine: of the stage; its processes run.
        requests: inputs of the stage, of one row each if they have rows; all of the same shapes.
        seconds: for everything, approximately; each size is called at least three times.

    Raises:
        TailcutError: the stage fails on one of the requests.
    """
    times: dict[int, float] = {}
    cpu: dict[int, float] = {}
    end = time.monotonic() + seconds
    size = 1
    engine.run_apart([requests[0]])  # warm-up: some stages load models at their first call
    while size <= min(_LARGEST, engine.stage.max_batch_size * 4):
        batch = [requests[number % len(requests)] for number in range(size)]
        share_s = max(0.0, (end - time.monotonic()) / 4)
        try:
            times[size], cpu[size] = _timed(lambda batch=batch: engine.run_apart(batch), share_s)  # type: ignore[misc]
        except TailcutError:
            if size == 1:
                raise
            break
        half = times.get(size // 2)
        pays = half is None or times[size] / size <= _GAIN * half / (size // 2)
        if not pays or times[size] > _LONGEST_S * 1e9 or time.monotonic() > end:
            break
        size *= 2
    peaks = [peak for pid in engine.pids[:1] if (peak := peak_bytes(pid)) is not None]
    return StageCallTimes(times, cpu, sum(peaks))


def alike(requests: Sequence[Arrays]) -> list[Arrays]:
    """The requests of the most frequent shapes: only requests of the same shapes share a batch."""
    shapes = [tuple(array.shape for array in request.values()) for request in requests]
    usual = max(shapes, key=shapes.count)
    return [request for request, shape in zip(requests, shapes, strict=True) if shape == usual]


def _timed(call: Callable[[], object], seconds: float) -> tuple[float, float]:
    """The lower quartile of a call's time, and its mean CPU time in this process and its children."""
    end = time.monotonic() + seconds
    taken: list[int] = []
    before = look(os.getpid())
    while len(taken) < _FEWEST or time.monotonic() < end:
        began = time.perf_counter_ns()
        call()
        taken.append(time.perf_counter_ns() - began)
    spent = look(os.getpid()).since(before)
    return float(np.quantile(taken, 0.25)), spent.cpu_ns / len(taken)

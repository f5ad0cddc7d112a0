"""Open loops on several models of one server at the same time, each with arrivals and connections of its own."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tailcut.lab import compiled
from tailcut.lab.arrivals import Arrivals, RecordingWindow, plan
from tailcut.lab.client import gather_open, without_collections
from tailcut.lab.load import Gathered, LoadResult, LoadTarget, Payload, open_result

_LEAD_NS = 5_000_000  # from when all are ready to the start
_READY_S = 30.0


@dataclass(frozen=True, slots=True)
class Stream:
    """The payloads for one model, which are sent in turn, and their arrivals."""

    payloads: Sequence[Payload]
    arrivals: Arrivals


def open_together(
    target: LoadTarget, streams: Sequence[Stream], *, duration_s: float, seed: int, warmup_s: float = 0.0
) -> list[LoadResult]:
    """Send each stream at its planned times, from one common start; blocks until everything is answered.

    The loops are compiled code that releases the GIL, on a thread for each stream.

    Args:
        target: the server of all models.
        streams: one for each model.
        duration_s: the measured time, in seconds.
        seed: of the arrivals; streams with Poisson arrivals are independent.
        warmup_s: seconds at the beginning whose requests are sent, but not counted.

    Raises:
        NotListeningError: no server listens.
    """
    compiled.prepare()
    times = [
        plan(stream.arrivals, warmup_s, duration_s, _seed(stream.arrivals, seed, number, len(streams)))
        for number, stream in enumerate(streams)
    ]
    starts = _Start(len(streams))
    with without_collections(), ThreadPoolExecutor(len(streams)) as threads:
        waiting = [
            threads.submit(_gather, target, stream, due, starts) for stream, due in zip(streams, times, strict=True)
        ]
        gathered = _results(waiting)
    return [
        open_result([part], stream.arrivals, due, warmup_s=warmup_s, duration_s=duration_s)
        for part, stream, due in zip(gathered, streams, times, strict=True)
    ]


def _results(waiting: "Sequence[Future[Gathered]]") -> list[Gathered]:
    """The outcomes of all; or the first error other than that of waiting for another stream."""
    errors = [error for future in waiting if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in waiting]


class _Start:
    """A common start: a moment after all are ready, in monotonic nanoseconds."""

    def __init__(self, count: int) -> None:
        self._at = 0
        self._barrier = threading.Barrier(count, self._set)

    def __call__(self) -> int:
        self._barrier.wait(_READY_S)
        return self._at

    def give_up(self) -> None:
        """Release the streams that wait for one that has failed."""
        self._barrier.abort()

    def _set(self) -> None:
        self._at = time.monotonic_ns() + _LEAD_NS


def _gather(target: LoadTarget, stream: Stream, times: np.ndarray, start: _Start) -> Gathered:
    try:
        return gather_open(target, stream.payloads, times, start=start)
    except BaseException:
        start.give_up()
        raise


def _seed(arrivals: Arrivals, seed: int, number: int, count: int) -> int:
    """The seed of a stream: independent for each, except that all use the same window of a recording."""
    return seed if isinstance(arrivals, RecordingWindow) else seed * count + number

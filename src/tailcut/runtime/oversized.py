"""Requests with more rows than the largest batch: split into parts, each a request of its own, with one answer."""

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from tailcut.errors import EngineError, TailcutError
from tailcut.runtime.inputs import Arrays
from tailcut.runtime.request import Batch, Lease, Request
from tailcut.runtime.scheduler import Scheduler

_AT_A_TIME = 2  # parts of a request that are queued at a time, for each instance
T = TypeVar("T")


class Intake(Protocol):
    """What queues parts: the model's entry."""

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler of the model."""

    def put(self, arrays: Arrays, request: Request, step_bytes: int = 0) -> Generator[None, None, Lease]:
        """Lend rows and copy arrays into them; see `ModelEntry.put`."""

    def settle(self, lease: Lease, filled: int, request: Request | None) -> bool:
        """Queue a request, or free its rows."""

    def notify(self, until_ns: int = 0) -> bool:
        """Have queued requests computed."""


@dataclass(frozen=True, slots=True)
class RowRange:
    """Neighbouring rows of a request, which become one part."""

    start: int
    rows: int
    arrays: Arrays


class Part(Request, eq=False):
    """A part of a request, queued as a request that is not counted; the whole is counted when it ends."""

    whole: Request | None = None

    def lost(self) -> tuple[int, int]:
        """As `Request.lost`: the whole is counted as lost with the first part that is."""
        whole = self.whole
        assert whole is not None  # noqa: S101  every part has one
        requests, whole.requests = whole.requests, 0
        return requests, whole.ready_ns


class PartCollector:
    """Collects the answers to the parts; the first part that fails fails the whole.

    Args:
        whole: the request; its `parts` are those in progress.
        intake: queues parts.
        rest: further parts, in order; one is queued whenever a part is answered.
    """

    def __init__(self, whole: Request, intake: Intake, rest: Iterator[RowRange] = iter(())) -> None:  # noqa: B008
        self._whole = whole
        self._intake = intake
        self._scheduler = intake.scheduler
        self._rest = rest
        self._starts: dict[Request, int] = {}  # the first row of each part in progress
        self._outputs: list[np.ndarray] = []
        self._missing = whole.count
        self._took_ns = 0  # engine time of all parts
        self._ended = False
        self._lock = threading.Lock()  # for all of the above: parts may be answered on several threads

    def request(self, piece: RowRange) -> Request:
        """Make the request for one part, which is not queued yet."""
        whole = self._whole
        return Part(self, whole.delivery, piece.rows, whole.deadline_ns, whole.priority, requests=0, whole=whole)

    def submit(self, lease: Lease, part: Request, start: int) -> None:
        """Queue a part whose first row has the index `start` in the whole."""
        with self._lock:
            self._submit(lease, part, start)

    def submit_next(self) -> bool:
        """Prepare and queue the next further part; returns whether there was one."""
        with self._lock:
            return self._submit_next()

    def complete(self, part: Request, batch: Batch, index: int) -> None:
        """Keep a part's outputs, and queue the next part; the last one completes the whole."""
        whole = self._whole
        try:
            with self._lock:
                if self._ended:
                    return
                self._keep(self._starts.pop(part), part.count, batch.arrays(index))
                whole.parts.remove(part)
                self._took_ns += batch.ended_ns - batch.began_ns
                more = self._missing and not whole.cancelled and self._submit_next()
                self._ended = not self._missing
        except TailcutError as error:
            self._scheduler.count_whole(whole, batch.ended_ns, self._took_ns, answered=False)
            self.fail(part, error)
            return
        if more:
            whole.delivery.notify_soon(self._intake)
        if not self._ended:
            return
        self._scheduler.count_whole(whole, batch.ended_ns, self._took_ns, answered=True)
        answer = Batch(self._scheduler, [whole])
        answer.formed_ns, answer.began_ns, answer.ended_ns = batch.formed_ns, batch.began_ns, batch.ended_ns
        answer.outputs = self._outputs
        whole.handler.complete(whole, answer, 0)

    def fail(self, part: Request, error: TailcutError) -> None:
        """Fail the whole, unless it has failed already."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self._scheduler.resume(self._whole, self._whole.rest)
        self._whole.handler.fail(self._whole, error)

    def _submit(self, lease: Lease, part: Request, start: int) -> None:
        self._starts[part] = start
        self._whole.parts.append(part)
        self._intake.settle(lease, part.count, part)

    def _submit_next(self) -> bool:
        piece = next(self._rest, None)
        if piece is None:
            return False
        self._scheduler.resume(self._whole, piece.rows)
        part = self.request(piece)
        self._submit(without_pauses(self._intake.put(piece.arrays, part)), part, piece.start)
        return True

    def _keep(self, start: int, rows: int, arrays: Sequence[np.ndarray]) -> None:
        if not self._outputs:
            self._outputs = [np.empty((self._whole.count, *array.shape[1:]), array.dtype) for array in arrays]
        for whole, part in zip(self._outputs, arrays, strict=True):
            if part.shape != (rows, *whole.shape[1:]):
                raise EngineError("the model's outputs differ in size between the parts of a request")
            whole[start : start + rows] = part
        self._missing -= rows


def split_in_steps(intake: Intake, arrays: Arrays, whole: Request, step_bytes: int) -> Generator[None, None, None]:
    """Queue the rows of a request in batches of at most `max_batch_size`.

    Rows of the slab are all lent and queued at once, because the queue has room for them. Loose arrays may have any
    number of rows, so only a few parts are queued at a time, and other requests have their turns between them.

    Raises:
        QueueFullError: there was no room for all parts; none of them stays queued.
    """
    scheduler = intake.scheduler
    whole.ready_ns = time.monotonic_ns()
    pieces = _pieces(arrays, whole.count, scheduler.max_batch_size)
    if scheduler.slab is None:
        parts = PartCollector(whole, intake, pieces)
        scheduler.postpone(whole, whole.count)
        try:
            for _ in range(_AT_A_TIME * scheduler.instances):
                parts.submit_next()
        except TailcutError:
            scheduler.cancel(whole)
            raise
        return
    parts = PartCollector(whole, intake)
    filled: list[tuple[Lease, Request, int]] = []
    try:
        for piece in pieces:
            part = parts.request(piece)
            lease = yield from intake.put(piece.arrays, part, step_bytes)
            filled.append((lease, part, piece.start))
            if step_bytes:
                yield
    except BaseException:
        for lease, _, _ in filled:
            intake.settle(lease, 0, None)
        raise
    for lease, part, start in filled:
        parts.submit(lease, part, start)


def without_pauses(steps: Generator[None, None, T]) -> T:
    """Run a generator to its end; returns its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def _pieces(arrays: Arrays, rows: int, step: int) -> Iterator[RowRange]:
    for start in range(0, rows, step):
        piece = {name: array[start : start + step] for name, array in arrays.items()}
        yield RowRange(start, min(step, rows - start), piece)

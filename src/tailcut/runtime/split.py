"""A request of more rows than the largest batch: several tickets that end in one answer."""

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tailcut.errors import EngineError, TailcutError
from tailcut.runtime.batch import Batch, Delivery, ResponseHandler, Ticket
from tailcut.runtime.inputs import Arrays

if TYPE_CHECKING:
    from tailcut.runtime.model import Model

_AT_A_TIME = 2  # parts of a request that are queued, for each instance


class Parts:
    """Collects the answers of a split request; the first failure is the failure of the whole.

    Args:
        sink: of the whole.
        whole: the ticket that stands for all parts; its `parts` are those that are under way.
        owner: the model.
        rest: parts that are still to be queued, one for each that is answered, in order.
    """

    def __init__(
        self,
        sink: ResponseHandler,
        whole: Ticket,
        owner: "Model",
        rest: Iterator["Piece"] = iter(()),  # noqa: B008
    ) -> None:
        self._sink = sink
        self._whole = whole
        self._owner = owner
        self._rest = rest
        self._places: dict[Ticket, int] = {}  # the first row of each part that is under way
        self._outputs: list[np.ndarray] = []
        self._missing = whole.count
        self._ended = False
        self._lock = threading.Lock()  # of all above: parts may be answered on several threads

    def submit(self, ticket: Ticket, row: int) -> None:
        """Queue a part whose first row has this number in the whole."""
        with self._lock:
            self._submit(ticket, row)

    def submit_next(self) -> bool:
        """Prepare and queue the next of the rest; whether there was one.

        Raises:
            InvalidInputError: inputs that are padded differ in length.
        """
        with self._lock:
            return self._submit_next()

    def complete(self, ticket: Ticket, batch: Batch, index: int) -> None:
        """Keep a part's outputs, and queue the next part; the last one completes the whole."""
        try:
            with self._lock:
                if self._ended:
                    return
                self._keep(self._places.pop(ticket), ticket.count, batch.arrays(index))
                self._whole.parts.remove(ticket)
                more = self._missing and not self._whole.cancelled and self._submit_next()
                self._ended = not self._missing
        except TailcutError as error:
            self.fail(ticket, error)
            return
        if more:
            self._whole.home.kick_soon(self._owner)
        if not self._ended:
            return
        whole = Batch(self._owner, [self._whole])
        whole.formed_ns, whole.began_ns, whole.ended_ns = batch.formed_ns, batch.began_ns, batch.ended_ns
        whole.outputs = self._outputs
        self._sink.complete(self._whole, whole, 0)

    def fail(self, ticket: Ticket, error: TailcutError) -> None:
        """Fail the whole, once."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self._owner.resume(self._whole, self._whole.rest)
        self._sink.fail(self._whole, error)

    def _submit(self, ticket: Ticket, row: int) -> None:
        self._places[ticket] = row
        self._whole.parts.append(ticket)
        self._owner.submit(ticket)

    def _submit_next(self) -> bool:
        piece = next(self._rest, None)
        if piece is None:
            return False
        whole = self._whole
        self._owner.resume(whole, piece.rows)
        ticket = self._owner.prepare(piece.arrays, piece.rows, self, whole.home, whole.deadline_ns, whole.priority)
        self._submit(ticket, piece.start)
        return True

    def _keep(self, row: int, rows: int, arrays: Sequence[np.ndarray]) -> None:
        if not self._outputs:
            self._outputs = [np.empty((self._whole.count, *array.shape[1:]), array.dtype) for array in arrays]
        for whole, part in zip(self._outputs, arrays, strict=True):
            if part.shape != (rows, *whole.shape[1:]):
                raise EngineError("the model's outputs differ in size between the parts of a request")
            whole[row : row + rows] = part
        self._missing -= rows


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring rows of a request that make one part."""

    start: int
    rows: int
    arrays: Arrays


def _pieces(arrays: Arrays, rows: int, step: int) -> Iterator[Piece]:
    for start in range(0, rows, step):
        piece = {name: array[start : start + step] for name, array in arrays.items()}
        yield Piece(start, min(step, rows - start), piece)


def split_ticket(  # noqa: PLR0913, PLR0917  a ticket is its parameters
    model: "Model", arrays: Arrays, rows: int, sink: ResponseHandler, home: Delivery, deadline_ns: int, priority: int
) -> Ticket:
    """As `split_in_steps`, at once.

    Raises:
        QueueFullError: not all parts found room; those that did are taken back.
    """
    steps = split_in_steps(model, arrays, rows, sink, home, deadline_ns, priority)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            whole: Ticket = end.value
            return whole


def split_in_steps(  # noqa: PLR0913, PLR0917  a ticket is its parameters
    model: "Model", arrays: Arrays, rows: int, sink: ResponseHandler, home: Delivery, deadline_ns: int, priority: int
) -> Generator[None, None, Ticket]:
    """Queue the rows in batches of at most `model.max_batch_size`; the ticket returned stands for all of them.

    Rows of the slab are reserved and queued all at once: there are no more than the queue holds. Loose arrays may have
    any number of rows: a few parts are queued at a time, so that others have their turns between them.

    Raises:
        QueueFullError: not all parts found room; those that did are taken back.
    """
    whole = Ticket(sink, home, rows, deadline_ns=deadline_ns, priority=priority)
    whole.ready_ns = time.monotonic_ns()
    pieces = _pieces(arrays, rows, model.max_batch_size)
    if model.slab is None:
        parts = Parts(sink, whole, model, pieces)
        model.postpone(whole, rows)
        try:
            for _ in range(_AT_A_TIME * model.profile.settings.engine.instances):
                parts.submit_next()
        except TailcutError:
            model.cancel(whole)
            raise
        return whole
    parts = Parts(sink, whole, model)
    tickets: dict[Ticket, int] = {}
    try:
        for piece in pieces:
            prepared = model.prepare_in_steps(piece.arrays, piece.rows, parts, home, deadline_ns, priority)
            tickets[(yield from prepared)] = piece.start
            yield
    except BaseException:
        for ticket in tickets:
            model.forget(ticket)
        raise
    for ticket, start in tickets.items():
        parts.submit(ticket, start)
    return whole

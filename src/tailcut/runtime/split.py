"""A request of more rows than the largest batch: several tickets that end in one answer."""

import time
from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np

from tailcut.errors import TailcutError
from tailcut.runtime.batch import Batch, Home, Sink, Ticket
from tailcut.runtime.inputs import Arrays

if TYPE_CHECKING:
    from tailcut.runtime.model import Model


class Parts:
    """Collects the answers of a split request; the first failure is the failure of the whole."""

    def __init__(self, sink: Sink, whole: Ticket, owner: "Model") -> None:
        self._sink = sink
        self._whole = whole
        self._owner = owner
        self._outputs: dict[Ticket, list[np.ndarray]] = {}
        self._ended = False

    def complete(self, ticket: Ticket, batch: Batch, index: int) -> None:
        """Keep a part's outputs; the last part completes the whole."""
        self._outputs[ticket] = [array.copy() for array in batch.arrays(index)]
        if len(self._outputs) < len(self._whole.parts) or self._ended:
            return
        self._ended = True
        whole = Batch(self._owner, [self._whole])
        whole.formed_ns, whole.began_ns, whole.ended_ns = batch.formed_ns, batch.began_ns, batch.ended_ns
        parts = [self._outputs[part] for part in self._whole.parts]
        whole.outputs = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        self._sink.complete(self._whole, whole, 0)

    def fail(self, ticket: Ticket, error: TailcutError) -> None:
        """Fail the whole, once."""
        if not self._ended:
            self._ended = True
            self._sink.fail(self._whole, error)


def split_ticket(  # noqa: PLR0913, PLR0917  a ticket is its parameters
    model: "Model", arrays: Arrays, rows: int, sink: Sink, home: Home, deadline_ns: int, priority: int
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
    model: "Model", arrays: Arrays, rows: int, sink: Sink, home: Home, deadline_ns: int, priority: int
) -> Generator[None, None, Ticket]:
    """Queue the rows in batches of at most `model.max_batch`; the ticket returned stands for all of them.

    Raises:
        QueueFullError: not all parts found room; those that did are taken back.
    """
    whole = Ticket(sink, home, rows, deadline_ns=deadline_ns, priority=priority)
    whole.ready_ns = time.monotonic_ns()
    parts = Parts(sink, whole, model)
    step = model.max_batch
    starts = range(0, rows, step)
    tickets: list[Ticket] = []
    # The list is whole before a part is queued: another thread may answer the first while the last is being filled.
    whole.parts = tickets
    try:
        for start in starts:
            piece = {name: array[start : start + step] for name, array in arrays.items()}
            count = min(step, rows - start)
            tickets.append((yield from model.prepare_in_steps(piece, count, parts, home, deadline_ns, priority)))
            yield
    except BaseException:
        for ticket in tickets:
            model.forget(ticket)
        raise
    for ticket in tickets:
        model.submit(ticket)
    return whole

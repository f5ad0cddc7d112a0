"""A request's ticket, the batch it travels in, and the two ways a batch computes: on slab rows, or on loose arrays.

A ticket is counted as failed until its sink was told otherwise: every ticket ends in exactly one `complete` or `fail`.
"""

import logging
import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tailcut.engines.base import Bound, Engine, RequestEngine
from tailcut.errors import EngineError, TailcutError
from tailcut.memory.slab import RowState, Slab
from tailcut.runtime.cuts import Cut

_log = logging.getLogger("tailcut")
_Outputs = tuple[np.ndarray, ...]
_BOUND_LIMIT = 4096  # bindings kept per worker: start rows times batch sizes in use, in practice a few dozen


class ResponseHandler(Protocol):
    """Who asked. Called once, on the thread of the ticket's home."""

    def complete(self, ticket: "Ticket", batch: "Batch", index: int) -> None:
        """The answer is in `batch`, at place `index`; its arrays are lent for the time of this call only."""

    def fail(self, ticket: "Ticket", error: TailcutError) -> None:
        """There is no answer, and why."""


class Kickable(Protocol):
    """A model, as far as a loop is concerned: something to be kicked once for all that arrived in one pass."""

    def kick(self, until_ns: int = 0) -> bool:
        """Start computing what is ready, until then; whether some of it waits for another call."""


class Delivery(Protocol):
    """Where a ticket's sink must be called: a loop's thread, or any thread."""

    def kick_soon(self, model: "Kickable") -> None:
        """Have the model kicked when the rest of what arrived has been read."""

    def post(self, batch: "Batch") -> None:
        """Have `batch.hand_out(self)` called there."""

    def post_failure(self, ticket: "Ticket", error: TailcutError) -> None:
        """Have `ticket.sink.fail(ticket, error)` called there."""


class Owner(Protocol):
    """The model that a batch belongs to."""

    def delivered(self, batch: "Batch") -> None:
        """One of the batch's homes has handed out its part."""


class Ticket:
    """One request in the queue: `count` rows, in the slab from `row` on, or as loose `arrays` (then `row` is -1).

    Or several requests of one row each that arrived together and wait as one: `requests` of them, for which the sink
    answers as a whole, the first being its number `offset`. Such a ticket is split where a batch ends.
    """

    __slots__ = (
        "arrays",
        "cancelled",
        "count",
        "deadline_ns",
        "home",
        "key",
        "length",
        "offset",
        "parts",
        "priority",
        "ready_ns",
        "requests",
        "rest",
        "row",
        "running",
        "sink",
    )

    def __init__(  # noqa: PLR0913, PLR0917  a ticket is its parameters; the server makes one a request
        self, sink: ResponseHandler, home: Delivery, count: int, row: int = -1, deadline_ns: int = 0, priority: int = 0
    ) -> None:
        self.sink = sink
        self.home = home
        self.count = count
        self.row = row
        self.deadline_ns = deadline_ns  # 0: none
        self.priority = priority  # 1 is served first; 0: none named, which is `batching.queue.DEFAULT_PRIORITY`
        self.arrays: dict[str, np.ndarray] | None = None
        self.length = 0  # along the dimension that is padded, where one is
        self.key: object = None  # only tickets with equal keys share a batch
        self.ready_ns = 0
        self.parts: list[Ticket] = []  # of a request over the largest batch, which is never queued itself
        self.rest = 0  # rows of such a request that are in no part yet
        self.requests = 1
        self.offset = 0
        self.cancelled = False
        self.running = False

    def split(self, requests: int) -> "Ticket":
        """Cut the first requests off a ticket of several, as a ticket of their own."""
        first = Ticket(self.sink, self.home, requests, self.row, self.deadline_ns, self.priority)
        first.key, first.ready_ns = self.key, self.ready_ns
        first.requests, first.offset = requests, self.offset
        first.running, first.cancelled = self.running, self.cancelled
        self.count -= requests
        self.requests -= requests
        self.offset += requests
        self.row += requests
        return first

    def singles(self) -> "list[Ticket]":
        """A ticket of its own for each of its requests; itself where it is one."""
        return [*(self.split(1) for _ in range(self.requests - 1)), self]


class Batch:
    """Tickets that compute together, and then their outputs: one array of `rows` rows for each output of the model."""

    __slots__ = (
        "_blobs",
        "addresses",
        "apart",
        "began_ns",
        "cuts",
        "ended_ns",
        "error",
        "formed_ns",
        "homes_left",
        "offsets",
        "outputs",
        "owner",
        "requests",
        "rows",
        "start",
        "thread",
        "tickets",
    )

    def __init__(self, owner: Owner, tickets: list[Ticket]) -> None:
        self.owner = owner
        self.tickets = tickets
        self.offsets: list[int] = []
        self.start = start = tickets[0].row  # the first row where the tickets' rows are neighbours in order, else -1
        rows = requests = 0
        for ticket in tickets:
            if ticket.row != start + rows:
                self.start = -1
            self.offsets.append(rows)
            rows += ticket.count
            requests += ticket.requests
        self.rows = rows
        self.requests = requests
        self.outputs: Sequence[np.ndarray] = ()
        self.apart: Sequence[
            Sequence[np.ndarray]
        ] = ()  # the outputs of each ticket, of an engine that tells them apart
        self.addresses: tuple[int, ...] = ()  # of the outputs, where they are rows of a slab
        self.cuts: tuple[Cut | None, ...] = ()  # for each output, how what was filled up is cut; empty where none was
        self.error: TailcutError | None = None
        self.formed_ns = time.monotonic_ns()
        self.began_ns = 0  # 0: not yet
        self.ended_ns = 0
        self.thread = 0  # that computes it
        self.homes_left = 0
        self._blobs: dict[int, bytes] = {}

    def arrays(self, index: int) -> list[np.ndarray]:
        """The outputs of the ticket at `index`: views, lent until it has been handed out."""
        if self.apart:
            return list(self.apart[index])
        ticket = self.tickets[index]
        arrays = list(self.outputs)
        if ticket.count != self.rows:
            start = self.offsets[index]
            arrays = [array[start : start + ticket.count] for array in arrays]
        if self.cuts:
            pairs = zip(arrays, self.cuts, strict=True)
            arrays = [array if cut is None else cut.take(array, ticket.length) for array, cut in pairs]
        return arrays

    def blob(self, index: int, output: int = 0) -> bytes:
        """The bytes of one output of the ticket at `index`, owned by the caller; one copy serves the whole batch."""
        blob = self._blobs.get(output)
        if blob is None:
            blob = self._blobs[output] = self.outputs[output].tobytes()
        ticket = self.tickets[index]
        if ticket.count == self.rows:
            return blob
        size = len(blob) // self.rows
        start = self.offsets[index] * size
        return blob[start : start + ticket.count * size]

    def hand_out(self, home: Delivery) -> None:
        """Tell every sink that lives at `home`."""
        for index, ticket in enumerate(self.tickets):
            if ticket.home is not home or ticket.cancelled:
                continue
            try:
                if self.error is None:
                    ticket.sink.complete(ticket, self, index)
                else:
                    ticket.sink.fail(ticket, self.error)
            except Exception:  # noqa: BLE001  one sink's fault must not cost the others of its batch their answers
                _log.exception("an answer could not be handed out")


class Executor(Protocol):
    """Computes a batch; one for each worker, so its scratch and bindings are nobody else's."""

    def run(self, batch: Batch) -> None:
        """Fill `batch.outputs`.

        Raises:
            EngineError: the engine failed.
        """


class RowExecutor:
    """Runs neighbouring rows in place; others are gathered into scratch rows of its own first."""

    def __init__(self, engine: Engine, slab: Slab) -> None:
        self._engine = engine
        self._slab = slab
        self._bound: dict[tuple[int, int], tuple[Bound, _Outputs, tuple[int, ...]]] = {}
        self._scratch: Slab | None = None
        self._scratch_bound: dict[int, tuple[Bound, _Outputs, tuple[int, ...]]] = {}

    def run(self, batch: Batch) -> None:
        """Fill `batch.outputs` with views of the output rows."""
        if batch.start >= 0:
            place = (batch.start, batch.rows)
            found = self._bound.get(place)
            if found is None:
                if len(self._bound) >= _BOUND_LIMIT:
                    self._bound.clear()
                found = self._bound[place] = self._bind(self._slab, *place)
            call, batch.outputs, batch.addresses = found
            call()
        else:
            call, outputs, _ = self._gather(batch)
            call()
            # The scratch is the next batch's before this one is handed out on its loop: answers need their own memory.
            batch.outputs = [output.copy() for output in outputs]
            batch.addresses = tuple(output.ctypes.data for output in batch.outputs)

    def _gather(self, batch: Batch) -> tuple[Bound, _Outputs, tuple[int, ...]]:
        if self._scratch is None or self._scratch.rows < batch.rows:
            specs = self._engine.spec
            self._scratch = Slab(specs.inputs, specs.outputs, max(batch.rows, self._slab.block))
            self._scratch_bound.clear()
        for source, target, size in zip(
            self._slab.input_bytes, self._scratch.input_bytes, self._slab.row_bytes, strict=True
        ):
            for ticket, offset in zip(batch.tickets, batch.offsets, strict=True):
                length = ticket.count * size
                start = ticket.row * size
                target[offset * size : offset * size + length] = source[start : start + length]
        found = self._scratch_bound.get(batch.rows)
        if found is None:
            found = self._scratch_bound[batch.rows] = self._bind(self._scratch, 0, batch.rows)
        return found

    def _bind(self, slab: Slab, start: int, rows: int) -> tuple[Bound, _Outputs, tuple[int, ...]]:
        spec = self._engine.spec
        inputs = [array[start : start + rows] for array in slab.inputs]
        outputs = tuple(array[start : start + rows] for array in slab.outputs)
        call = self._engine.bind(
            dict(zip(spec.input_names, inputs, strict=True)), dict(zip(spec.output_names, outputs, strict=True))
        )
        return call, outputs, tuple(output.ctypes.data for output in outputs)


class ArrayExecutor:
    """Runs loose arrays: rows of several tickets are joined, and the outputs cut apart again."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, batch: Batch) -> None:
        """Fill `batch.outputs`, or `batch.apart`, with fresh arrays."""
        spec = self._engine.spec
        parts = [ticket.arrays or {} for ticket in batch.tickets]
        if isinstance(self._engine, RequestEngine):
            batch.apart = self._engine.run_apart(parts)
            return
        if len(parts) == 1:
            inputs = parts[0]
        else:
            inputs = {name: np.concatenate([part[name] for part in parts]) for name in spec.input_names}
        outputs = self._engine.run(inputs)
        batch.outputs = [outputs[name] for name in spec.output_names]
        if len(parts) > 1 and any(array.shape[:1] != (batch.rows,) for array in batch.outputs):
            raise EngineError("the model did not return one output row for each input row")


def move_rows(slab: Slab, batch: Batch, old: RowState, new: RowState) -> None:
    """Move all rows of a batch; those of clients that left meanwhile only ever go to FREE, from where they stand."""
    if batch.start >= 0 and not any([ticket.cancelled for ticket in batch.tickets]):  # noqa: C419  half the time
        slab.move(batch.start, batch.rows, old, new)
        return
    for ticket in batch.tickets:
        state = slab.state(ticket.row)
        if state is old or new is RowState.FREE:
            slab.move(ticket.row, ticket.count, state, new)

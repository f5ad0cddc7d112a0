"""A request, the batch in which it is computed, and the interfaces that both need.

Every request ends with exactly one call of its handler: `complete` or `fail`.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from tailcut.batching.policy import DispatchPlace
from tailcut.errors import BatchLostError, TailcutError
from tailcut.memory.slab import RowState, Slab
from tailcut.runtime.cuts import Cut
from tailcut.runtime.tracing.timeline import StepTrace

_log = logging.getLogger("tailcut")
_NO_STEPS: Mapping["Request", tuple[StepTrace, ...]] = {}


class ResponseHandler(Protocol):
    """Takes the answer to a request. Called once, on the thread of the request's delivery."""

    def complete(self, request: "Request", batch: "Batch", index: int) -> None:
        """The answer is in `batch`, at `index`; its arrays are valid during this call only."""

    def fail(self, request: "Request", error: TailcutError) -> None:
        """There is no answer, because of `error`."""


class Notifiable(Protocol):
    """What an event loop needs of a model's entry, which it notifies once for all arrivals in one pass."""

    def notify(self, until_ns: int = 0) -> bool:
        """Have queued requests computed, until `until_ns`; returns whether some wait for another call."""


class Delivery(Protocol):
    """Calls the handlers of requests where they must be called: on a loop's thread, or on any thread."""

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the one that calls the handlers."""

    def notify_soon(self, entry: Notifiable) -> None:
        """Have the model notified when all other arrivals have been read."""

    def post(self, batch: "Batch") -> None:
        """Have `batch.hand_out(self)` called, and `batch.owner.delivered(batch)` after it."""

    def post_failure(self, request: "Request", error: TailcutError) -> None:
        """Have `request.handler.fail(request, error)` called."""


class Executor(Protocol):
    """Computes batches; each worker has its own, so scratch and bindings are never shared."""

    def run(self, batch: "Batch") -> None:
        """Fill `batch.outputs`, or `batch.error` where the engine failed, and the times of the call."""

    def compute(self, batch: "Batch") -> None:
        """Fill `batch.outputs` only; errors of the engine are raised."""


class BatchOwner(Protocol):
    """The scheduler that a batch belongs to."""

    def delivered(self, batch: "Batch") -> None:
        """One delivery has handed out its part of a batch."""


class Lease(NamedTuple):
    """Neighbouring rows of the slab that were lent, in state FILLING; `row` is -1 for a model with loose arrays."""

    row: int
    rows: int


NO_LEASE = Lease(-1, 0)


class Request(msgspec.Struct, eq=False):  # in 0.17 us instead of 0.32 with an `__init__`, for each call
    """One request: `count` rows, in the slab from `row` on, or as loose `arrays` (then `row` is -1).

    Or `requests` requests of one row each that arrived together and are queued as one; for their handler, the first has
    the index `offset`. Such a request is split at the end of a batch.

    A part of a request is not counted (`requests` is 0); the whole is counted when it ends.
    """

    handler: ResponseHandler
    delivery: Delivery
    count: int
    deadline_ns: int = 0  # 0: none
    priority: int = 0  # 1 is served first; 0: `batching.queue.DEFAULT_PRIORITY`
    requests: int = 1
    row: int = -1
    arrays: dict[str, np.ndarray] | None = None
    lengths: tuple[int, ...] = ()  # along each padded dimension
    key: object = None  # only requests with equal keys share a batch
    ready_ns: int = 0
    parts: "list[Request]" = []  # of an oversized request, which is never queued itself
    rest: int = 0  # rows of an oversized request that are in no part yet
    offset: int = 0
    cancelled: bool = False
    running: bool = False

    def split(self, requests: int) -> "Request":
        """Split off the first `requests` of several requests, as a request of their own."""
        first = Request(self.handler, self.delivery, requests, self.deadline_ns, self.priority, requests)
        first.row = self.row
        first.key, first.ready_ns = self.key, self.ready_ns
        first.offset = self.offset
        first.running, first.cancelled = self.running, self.cancelled
        self.count -= requests
        self.requests -= requests
        self.offset += requests
        self.row += requests
        return first

    def lost(self) -> tuple[int, int]:
        """How many requests fail with this one, and since when they have waited (monotonic ns)."""
        return self.requests, self.ready_ns

    def singles(self) -> "list[Request]":
        """A separate request for each of several; the request itself where it is one."""
        return [*(self.split(1) for _ in range(self.requests - 1)), self]


class Batch:
    """Requests that are computed together, and their outputs: an array of `rows` rows for each output of the model."""

    __slots__ = (
        "_blobs",
        "addresses",
        "apart",
        "began_ns",
        "called_ns",
        "cuts",
        "deliveries_left",
        "ended_ns",
        "engine_index",
        "error",
        "executor",
        "formed_ns",
        "members",
        "offsets",
        "outputs",
        "owner",
        "requests",
        "rescued",
        "rows",
        "start",
        "steps",
        "thread",
        "where",
    )

    def __init__(
        self,
        owner: BatchOwner,
        members: list[Request],
        where: DispatchPlace = DispatchPlace.WORKER,
        engine_index: int = 0,
    ) -> None:
        self.owner = owner
        self.members = members
        self.where = where  # where it is computed
        self.engine_index = engine_index  # index of the engine that computes it
        self.offsets: list[int] = []
        self.start = start = members[0].row  # the first row, where the members' rows are consecutive, else -1
        rows = requests = 0
        for request in members:
            if request.row != start + rows:
                self.start = -1
            self.offsets.append(rows)
            rows += request.count
            requests += request.requests or 1
        self.rows = rows
        self.requests = requests
        self.outputs: Sequence[np.ndarray] = ()
        self.apart: Sequence[Sequence[np.ndarray]] = ()  # of each request, where the engine returns them separately
        self.addresses: tuple[int, ...] = ()  # of the outputs, where they are in a slab
        self.cuts: tuple[tuple[Cut, ...], ...] = ()  # for each output, where inputs were padded
        self.error: TailcutError | None = None
        self.formed_ns = time.monotonic_ns()
        self.began_ns = 0  # 0: it has not begun
        self.called_ns = 0  # when the latest of several calls began; 0: there is only one
        self.ended_ns = 0
        self.thread = 0  # identity of the thread that computes it
        self.executor: Executor  # that computes it
        self.rescued = False  # computed by another engine, after the first one's device failed
        self.steps: Mapping[Request, tuple[StepTrace, ...]] = _NO_STEPS  # of each request, where a pipeline answers it
        self.deliveries_left = 0
        self._blobs: dict[int, bytes] = {}

    def arrays(self, index: int) -> list[np.ndarray]:
        """The outputs of the request at `index`, as views that are valid until it has been handed out."""
        if self.apart:
            return list(self.apart[index])
        request = self.members[index]
        arrays = list(self.outputs)
        if request.count != self.rows:
            start = self.offsets[index]
            arrays = [array[start : start + request.count] for array in arrays]
        if self.cuts:
            for number, cuts in enumerate(self.cuts):
                for cut in cuts:
                    arrays[number] = cut.take(arrays[number], request.lengths[cut.dimension])
        return arrays

    def blob(self, index: int, output: int = 0) -> bytes:
        """A copy of the bytes of one output of the request at `index`; the whole batch is copied once."""
        blob = self._blobs.get(output)
        if blob is None:
            blob = self._blobs[output] = self.outputs[output].tobytes()
        request = self.members[index]
        if request.count == self.rows:
            return blob
        size = len(blob) // self.rows
        start = self.offsets[index] * size
        return blob[start : start + request.count * size]

    def is_all_here(self) -> bool:
        """Whether one delivery on this thread delivers all requests."""
        members = self.members
        delivery = members[0].delivery
        if not delivery.is_here:
            return False
        return len(members) == 1 or all([request.delivery is delivery for request in members])  # noqa: C419  quick

    def hand_out(self, delivery: Delivery, rest: Iterator[tuple[int, Request]] | None = None) -> None:
        """Call the handlers of all requests with this delivery, or only of those in `rest`."""
        rest = rest or enumerate(self.members)
        for index, request in rest:
            if request.delivery is not delivery or request.cancelled:
                continue
            try:
                if self.error is None:
                    request.handler.complete(request, self, index)
                else:
                    request.handler.fail(request, self.error)
            except Exception:  # noqa: BLE001  a fault in one handler must not affect the others
                _log.exception("an answer could not be delivered")
            except BaseException:  # such as that of a signal handler, which must not affect them either
                request.handler.fail(request, BatchLostError("its thread was interrupted before the answer was copied"))
                self.hand_out(delivery, rest)
                raise


def move_rows(slab: Slab, batch: Batch, old: RowState, new: RowState) -> None:
    """Move all rows of a batch; those of cancelled requests only move to FREE, from the state in which they are."""
    members = batch.members
    lost = members[0].cancelled if len(members) == 1 else any([member.cancelled for member in members])  # noqa: C419  quick
    if batch.start >= 0 and not lost:
        slab.move(batch.start, batch.rows, old, new)
        return
    for request in members:
        if request.row < 0:  # loose arrays
            continue
        state = slab.state(request.row)
        if state is old or new is RowState.FREE:
            slab.move(request.row, request.count, state, new)

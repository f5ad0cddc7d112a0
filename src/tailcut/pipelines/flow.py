"""The flow of one request through a pipeline: the answer of each step is the input of the next.

The thread that computed a step's answer passes it to the next step, so the event loop is woken once per request and not
once per step. `StepDelivery` wakes the next step once for all requests of a batch, and the last one hands all of them
back together.
"""

import threading
import time
from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from tailcut.errors import EngineError, InvalidInputError, ReleasedError, TailcutError
from tailcut.pipelines.steps import OpenStep
from tailcut.runtime.inputs import Arrays, check_inputs, row_count
from tailcut.runtime.request import Batch, Delivery, Notifiable, Request
from tailcut.runtime.tracing.timeline import StepTrace
from tailcut.spec import ModelSpec


class FlowOwner(Protocol):
    """The pipeline, as far as a request in it is concerned."""

    spec: ModelSpec
    one_batch: bool  # the first axis of every input counts the rows of the request
    has_rows_counted: bool  # `Request.count` is the number of rows for the first step
    gone: str  # why it no longer answers; empty: it does

    @property
    def steps(self) -> Sequence[OpenStep]: ...  # noqa: D102  in order

    def answered(self, flows: "Sequence[Flow]") -> None:
        """Called when the last step has computed these requests."""

    def failed(self, flow: "Flow", error: TailcutError) -> None:
        """Called when a request has failed with this error."""

    def delivered(self, batch: Batch) -> None:
        """Called when the batch of one answer has been delivered."""


class StepDelivery:
    """Passes a step's answers on, on the thread that computed them: to the next step, or from the last to the clients.

    Args:
        following: the entry of the next step; None for the last.
    """

    def __init__(self, following: Notifiable | None) -> None:
        self._following = following
        self._answered: dict[int, list[Flow]] = {}  # by thread: of the batch that it is handing out

    is_here = False  # answers are passed on after the batch has been counted

    def notify_soon(self, entry: Notifiable) -> None:
        """Wake a model that has received another part of a large request."""
        entry.notify()

    def post(self, batch: Batch) -> None:
        """Deliver at once, and wake the next step when all requests of the batch have been queued there."""
        thread = threading.get_ident()
        flows = self._answered[thread] = []
        try:
            batch.hand_out(self)
        finally:
            del self._answered[thread]
            try:
                if flows:
                    _answer(flows, batch.ended_ns)
            finally:
                batch.owner.delivered(batch)
        if self._following is not None:
            self._following.notify()

    def answer(self, flow: "Flow") -> None:
        """Have a request that `post` has handed out as the last step's answered, together with the others."""
        self._answered[threading.get_ident()].append(flow)

    def post_failure(self, request: Request, error: TailcutError) -> None:
        """Fail the request at once."""
        request.handler.fail(request, error)


class UnderWay(NamedTuple):
    """A request in a step's queue or engine."""

    step: OpenStep
    request: Request


class Flow:
    """A request between its first step and its answer. Steps run in turn, so one thread at a time uses it."""

    __slots__ = (
        "_lock",
        "_number",
        "_tensors",
        "began_ns",
        "computed",
        "formed_ns",
        "outputs",
        "owner",
        "passed",
        "request",
        "under_way",
    )

    def __init__(self, owner: FlowOwner, arrays: Arrays, request: Request) -> None:
        self.owner = owner
        self.request = request
        self._tensors: dict[str, np.ndarray] = arrays
        self._number = 0
        self._lock = threading.Lock()  # guards `under_way` against `cancel`
        self.under_way: UnderWay | None = None
        self.computed = False  # whether the step that failed had begun to compute it
        self.formed_ns = self.began_ns = 0  # of the first step's batch
        self.passed: list[StepTrace] = []  # one for each completed step
        self.outputs: list[np.ndarray] = []  # of the last step

    def begin(self) -> None:
        """Queue the request at the first step.

        Raises:
            InvalidInputError: its inputs differ in their number of rows, or have none.
            QueueFullError: the queue is full, or the deadline cannot be met.
        """
        self._queue(*self._first())

    def begin_in_steps(self) -> Generator[None, None, None]:
        """As `begin`, yielding between parts of large arrays that are copied into a model's rows.

        Raises:
            TailcutError: as in `begin`.
        """
        step, arrays, rows = self._first()
        entry = step.model.entry
        if entry.slab is None:
            self._queue(step, arrays, rows)
            return
        under_way = self._request(step, rows)
        yield from entry.start_in_steps(arrays, under_way)
        with self._lock:
            if self._number:  # this step has already answered
                return
            self.under_way = UnderWay(step, under_way)
            gone = self.request.cancelled
        if gone:
            entry.cancel(under_way)

    def complete(self, request: Request, batch: Batch, index: int) -> None:
        """Take the answer of a step, and queue the next one."""
        owner, number = self.owner, self._number
        step = owner.steps[number]
        if not number:
            self.formed_ns, self.began_ns = batch.formed_ns, batch.began_ns
        moments = request.ready_ns, batch.formed_ns, batch.began_ns, batch.ended_ns
        self.passed.append(StepTrace(step.name, *moments, batch.rows, batch.requests))
        arrays = batch.arrays(index)
        if step.model.entry.slab is not None:  # its arena rows will be reused
            arrays = [array.copy() for array in arrays]
        if not number:
            self._tensors = self._tensors.copy()  # it is the caller's
        self._tensors |= zip(step.outputs, arrays, strict=True)
        self._number = number = number + 1
        if number == len(owner.steps):
            self.outputs = [self._tensors[name] for name in owner.spec.output_names]
            self.release()
            step.delivery.answer(self)
            return
        following = owner.steps[number]
        try:
            self._queue(following, *check_inputs(following.model.spec, self._given(following)))
        except InvalidInputError as error:  # a free dimension did not fit, which is not the client's fault
            self._fail(EngineError(f"{following.title} received input that it does not accept: {error}"))
        except TailcutError as error:
            self._fail(error)

    def fail(self, request: Request, error: TailcutError) -> None:
        """Fail the request, because a step has failed."""
        self.computed = request.running or any(part.running for part in request.parts)
        self._fail(error)

    def cancel(self) -> UnderWay | None:
        """Mark the request of a client that has left; returns the step's request to withdraw, if there is one."""
        with self._lock:
            self.request.cancelled = True
            return self.under_way

    def release(self) -> None:
        """Drop the arrays and the step's request, which refers to this flow: a cycle that only the collector frees."""
        self._tensors, self.under_way = {}, None

    def _first(self) -> tuple[OpenStep, dict[str, np.ndarray], int]:
        """The first step, its arrays, which have been checked, and their number of rows, which may not have been."""
        owner, request = self.owner, self.request
        request.ready_ns = time.monotonic_ns()
        step = owner.steps[0]
        given = self._given(step)
        if owner.has_rows_counted:
            return step, given, request.count
        if owner.one_batch:
            row_count(self._tensors)
        if not step.model.spec.batched or step.any_rows:
            return step, given, 1
        return step, given, row_count({called: self._tensors[called] for _, called in step.inputs})

    def _given(self, step: OpenStep) -> dict[str, np.ndarray]:
        tensors = self._tensors
        return {name: tensors[called] for name, called in step.inputs}

    def _request(self, step: OpenStep, rows: int) -> Request:
        count = 1 if step.whole_requests else rows
        return Request(self, step.delivery, count, self.request.deadline_ns, self.request.priority)

    def _queue(self, step: OpenStep, arrays: Arrays, rows: int) -> None:
        request = self.request
        with self._lock:
            if request.cancelled:
                return
            under_way, number = self._request(step, rows), self._number
            step.model.entry.start(arrays, under_way)
            self.under_way = UnderWay(step, under_way) if self._number == number else None  # it may have answered

    def _fail(self, error: TailcutError) -> None:
        if isinstance(error, ReleasedError) and self.owner.gone:  # the error of a step
            error = ReleasedError(self.owner.gone)
        self.release()
        self.owner.failed(self, error)
        if not self.request.cancelled:
            self.request.delivery.post_failure(self.request, error)


def _answer(flows: Sequence[Flow], ended_ns: int) -> None:
    """Answer requests that the last step has computed together: those of one client's delivery in one batch."""
    owner = flows[0].owner
    owner.answered(flows)
    groups: dict[tuple[Delivery, int, int], list[Flow]] = {}
    for flow in flows:
        if not flow.request.cancelled:
            groups.setdefault((flow.request.delivery, flow.formed_ns, flow.began_ns), []).append(flow)
    for (delivery, formed_ns, began_ns), group in groups.items():
        batch = Batch(owner, [flow.request for flow in group])
        batch.formed_ns, batch.began_ns, batch.ended_ns = formed_ns, began_ns, ended_ns
        batch.apart = [flow.outputs for flow in group]
        batch.steps = {flow.request: tuple(flow.passed) for flow in group}
        delivery.post(batch)

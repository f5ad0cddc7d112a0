"""The flow of one request through a pipeline: the answer of each step is the input of the next.

The thread that computed a step's answer passes it to the next step, so the event loop is woken once per request and not
once per step. `StepDelivery` wakes the next step once for all requests of a batch.
"""

import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tailcut.errors import EngineError, InvalidInputError, ReleasedError, TailcutError
from tailcut.pipelines.steps import OpenStep
from tailcut.runtime.inputs import Arrays, check_inputs, row_count
from tailcut.runtime.request import Batch, Notifiable, Request
from tailcut.runtime.tracing.timeline import StepTrace
from tailcut.spec import ModelSpec


class FlowOwner(Protocol):
    """The pipeline, as far as a request in it is concerned."""

    spec: ModelSpec
    one_batch: bool  # the first axis of every input counts the rows of the request
    gone: str  # why it no longer answers; empty: it does

    @property
    def steps(self) -> Sequence[OpenStep]: ...  # noqa: D102  in order

    def ended(self, flow: "Flow", error: TailcutError | None) -> None:
        """Called when a request was answered, or has failed with this error."""

    def delivered(self, batch: Batch) -> None:
        """Called when the batch of one answer has been delivered."""


class StepDelivery:
    """Passes a step's answers on, on the thread that computed them."""

    def __init__(self, following: Notifiable | None) -> None:
        self._following = following

    is_here = False  # answers are passed on after the batch has been counted

    def notify_soon(self, entry: Notifiable) -> None:
        """Wake a model that has received another part of a large request."""
        entry.notify()

    def post(self, batch: Batch) -> None:
        """Deliver at once, and wake the next step when all requests of the batch have been queued there."""
        try:
            batch.hand_out(self)
        finally:
            batch.owner.delivered(batch)
        if self._following is not None:
            self._following.notify()

    def post_failure(self, request: Request, error: TailcutError) -> None:
        """Fail the request at once."""
        request.handler.fail(request, error)


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A request in a step's queue or engine."""

    step: OpenStep
    request: Request


class Flow:
    """A request between its first step and its answer. Steps run in turn, so one thread at a time uses it."""

    __slots__ = (
        "_began_ns",
        "_lock",
        "_number",
        "_owner",
        "_tensors",
        "computed",
        "formed_ns",
        "passed",
        "request",
        "under_way",
    )

    def __init__(self, owner: FlowOwner, arrays: Arrays, request: Request) -> None:
        self._owner = owner
        self._tensors: dict[str, np.ndarray] = dict(arrays)
        self._number = 0
        self._lock = threading.Lock()  # guards `under_way` against `cancel`
        self._began_ns = 0
        self.request = request
        self.under_way: UnderWay | None = None
        self.computed = False  # whether the step that failed had begun to compute it
        self.formed_ns = 0
        self.passed: list[StepTrace] = []  # one for each completed step

    def begin(self, *, in_steps: bool = False) -> Generator[None, None, None]:
        """Queue the request at the first step; with `in_steps`, yield between parts of large arrays being copied.

        Raises:
            InvalidInputError: its inputs differ in their number of rows, or have none.
            QueueFullError: the queue is full, or the deadline cannot be met.
        """
        if self._owner.one_batch:
            row_count(self._tensors)
        self.request.ready_ns = time.monotonic_ns()
        step = self._owner.steps[0]
        given = self._given(step)  # already checked, except that their row counts may differ from the pipeline's
        called = {step.input_called(name): array for name, array in given.items()}
        rows = row_count(called) if step.model.spec.batched and not step.any_rows else 1
        yield from self._begin(step, given, rows, in_steps=in_steps)

    def complete(self, request: Request, batch: Batch, index: int) -> None:
        """Take the answer of a step, and queue the next one."""
        if not self._number:
            self.formed_ns, self._began_ns = batch.formed_ns, batch.began_ns
        step = self._owner.steps[self._number]
        moments = request.ready_ns, batch.formed_ns, batch.began_ns, batch.ended_ns
        self.passed.append(StepTrace(step.name, *moments, batch.rows, batch.requests))
        arrays = batch.arrays(index)
        if step.model.entry.slab is not None:  # its arena rows will be reused
            arrays = [array.copy() for array in arrays]
        self._tensors |= dict(zip(map(step.output_called, step.model.spec.output_names), arrays, strict=True))
        self._number += 1
        if self._number == len(self._owner.steps):
            self._answer([self._tensors[name] for name in self._owner.spec.output_names], batch.ended_ns)
            return
        try:
            self._start(self._owner.steps[self._number])
        except InvalidInputError as error:  # a free dimension did not fit, which is not the client's fault
            self._fail(
                EngineError(f"{self._owner.steps[self._number].title} received input that it does not accept: {error}")
            )
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

    @property
    def times(self) -> list[tuple[int, int]]:
        """For each completed step, the nanoseconds in its queue and those computing."""
        return [(step.began_ns - step.ready_ns, step.ended_ns - step.began_ns) for step in self.passed]

    def _start(self, step: OpenStep) -> None:
        self._queue(step, *check_inputs(step.model.spec, self._given(step)))

    def _given(self, step: OpenStep) -> dict[str, np.ndarray]:
        return {name: self._tensors[step.input_called(name)] for name in step.model.spec.input_names}

    def _begin(self, step: OpenStep, arrays: Arrays, rows: int, *, in_steps: bool) -> Generator[None, None, None]:
        entry = step.model.entry
        if not in_steps or entry.slab is None:
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

    def _answer(self, arrays: list[np.ndarray], ended_ns: int) -> None:
        batch = Batch(self._owner, [self.request])
        batch.formed_ns, batch.began_ns, batch.ended_ns = self.formed_ns, self._began_ns, ended_ns
        batch.outputs = arrays
        batch.apart = [arrays]
        batch.steps = tuple(self.passed)
        self._release()
        self._owner.ended(self, None)
        if not self.request.cancelled:
            self.request.delivery.post(batch)

    def _fail(self, error: TailcutError) -> None:
        if isinstance(error, ReleasedError) and self._owner.gone:  # the error of a step
            error = ReleasedError(self._owner.gone)
        self._release()
        self._owner.ended(self, error)
        if not self.request.cancelled:
            self.request.delivery.post_failure(self.request, error)

    def _release(self) -> None:
        """Drop the arrays and the step's request, which refers to this flow: a cycle that only the collector frees."""
        self._tensors, self.under_way = {}, None

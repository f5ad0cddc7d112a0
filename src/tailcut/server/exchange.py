"""One inference, from checked bytes or arrays to its answer, for HTTP and gRPC alike.

What both protocols have in common is here and nowhere else: validation against the model, the schedule, the deadline,
admission, shared memory, the counts, and the record of when a request passed which stage. A protocol reads requests
and writes answers; `ExchangeSide` is what the exchange calls for that.
"""

import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from types import GeneratorType
from typing import Any, Protocol

import numpy as np

from tailcut.errors import EngineError, InvalidInputError, TailcutError
from tailcut.runtime.entry import ServedEntry
from tailcut.runtime.inputs import check_inputs_in_steps, take_inputs
from tailcut.runtime.request import NO_LEASE, Batch, Request
from tailcut.server.faults import known
from tailcut.server.gathering import PassGroup
from tailcut.server.served_model import ServedModel
from tailcut.server.stage_times import AnswerTimes
from tailcut.server.state import ServerState
from tailcut.server.step_runner import Job
from tailcut.server.tracing.records import TracedRequest
from tailcut.server.tracing.tracer import Tracer
from tailcut.wire.v2 import InferRequest, Schedule, schedule_of, shared_outputs

_log = logging.getLogger("tailcut")
_now_ns = time.monotonic_ns  # one name to look up instead of two, three times per request
_NO_SCHEDULE = Schedule()


class ExchangeSide(Protocol):
    """The protocol's side of an exchange: a connection over HTTP, a request over gRPC."""

    def encode(self, batch: Batch, index: int) -> Any:
        """Write the answer, with bytes of its own; or a generator that returns it, where writing it takes long.

        Raises:
            TailcutError: it cannot be written as it was asked for.
        """

    def answer_row(self, outputs: list[bytes]) -> bool:
        """Answer a request that is one row with its row of each output; returns as `answered`."""

    def submitted(self) -> None:
        """A request that was read in steps is in the queue."""

    def sampled(self, tracer: Tracer) -> TracedRequest | None:
        """The trace of the current request; None where it is not sampled."""

    def answered(self) -> bool:
        """`Exchange.answer` is set: send it. Returns whether it has gone out; else `Exchange.sent` is called later."""

    def go_on(self) -> None:
        """The exchange ended with an answer: the next one may begin."""

    def refused(self, error: TailcutError) -> None:
        """A request that is one row was not admitted."""

    def failed(self, error: TailcutError) -> None:
        """The exchange ended with an error, and has no answer."""


class Exchange:
    """The current inference of one connection or call. One of the `submit*` methods begins it, once for each request.

    It is the response handler of its request: for each inference begun, it calls `answered` or `failed` of its side
    once, never from inside `submit*`, and not after `cancel`.
    """

    # Defaults that most exchanges never change are attributes of the class, which cost nothing per call.
    served: ServedModel = None  # type: ignore[assignment]  # set by the first submit
    request: InferRequest | None = None  # the request as read; None where it is nothing but rows
    schedule = _NO_SCHEDULE  # of a request whose rows are being received
    began_ns = 0  # when the request's head was complete
    length = 0  # of its body, where its head states that
    answer: Any = None
    answer_plainly: Callable[[bytes], bool] | None = None  # see `GatheredRequest`; set by the side
    group: PassGroup | None = None  # of a request of one row, while it waits; set by the gatherer
    _queued: Request | None = None
    _job: Job | None = None  # reads a large request, or writes a large answer
    _lease = NO_LEASE  # of rows for a body that is being received
    _times: AnswerTimes = None  # type: ignore[assignment]  # of an answer that has not gone out

    def __init__(self, state: ServerState, side: ExchangeSide) -> None:
        self._state = state
        self._side = side

    # A request comes in.

    def submit_row(self, served: ServedModel, body: bytes | memoryview, priority: int, deadline_ns: int) -> None:
        """Queue a request of one row (the bytes of its model's only input) together with the others of this pass."""
        self.served, self.request = served, None
        self._state.rows.add(self, served, body, priority, deadline_ns)

    def submit_bodies(
        self, served: ServedModel, rows: int, bodies: Sequence[memoryview], schedule: Schedule, deadline_ns: int
    ) -> None:
        """Queue a request that is nothing but rows: the bytes of each input, which are copied.

        Raises:
            TailcutError: it is not admitted.
        """
        self.served, self.request = served, None
        entry, request = served.model.entry, self._request(rows, schedule, deadline_ns)
        if len(bodies) == 1:
            entry.submit(request, bodies[0])
        else:
            entry.admit(rows, deadline_ns, schedule.priority)
            lease = entry.lend(rows)
            for number, body in enumerate(bodies):
                entry.slab.write(lease.row, body, number)  # type: ignore[union-attr]  # what is rows has one
            entry.settle(lease, rows, request)
        self._notify(entry, request)

    def submit_arrays(
        self, served: ServedModel, arrays: dict[str, np.ndarray], rows: int, schedule: Schedule, deadline_ns: int
    ) -> None:
        """Queue checked arrays.

        Raises:
            TailcutError: the request is not admitted.
        """
        entry, request = self._entry(served), self._request(rows, schedule, deadline_ns)
        entry.start(arrays, request)
        self._notify(entry, request)

    def submit(
        self, served: ServedModel, request: InferRequest, schedule: Schedule = _NO_SCHEDULE, left_ns: int = 0
    ) -> int:
        """Check a request against its model and queue it; returns its number of rows.

        Args:
            served: the model that it is for.
            request: the request, as read for the present version of this model.
            schedule: from outside the request (headers); the request's own parameters override it.
            left_ns: how long its client will still wait, in nanoseconds; 0: no limit.

        Raises:
            TailcutError: it does not fit the model, or is not admitted.
        """
        model, entry, inputs = served.model, served.entry, request.inputs
        schedule = schedule_of(request.parameters, schedule)
        deadline_ns = self.deadline(schedule, left_ns)
        rows = 0
        if len(inputs) == 1 and entry.slab is not None:  # rows of a single input are copied as bytes
            array = next(iter(inputs.values()))
            rows = len(array) if model.spec.batched else 1
        if 0 < rows <= entry.max_batch_size:
            self.submit_bodies(served, rows, (array.reshape(-1).view(np.uint8).data,), schedule, deadline_ns)
        else:
            arrays, rows = take_inputs(model.spec, inputs)
            self.submit_arrays(served, arrays, rows, schedule, deadline_ns)
        self.request = request
        return rows

    def submit_in_steps(self, steps: Generator[None, None, None], *, begun: bool = True) -> None:
        """Have a large request read and queued in steps; the last of them must be `checked_in_steps`."""
        self._job = self._state.steps.start(steps, self._read, begun=begun)

    def checked_in_steps(
        self, served: ServedModel, request: InferRequest, schedule: Schedule = _NO_SCHEDULE, left_ns: int = 0
    ) -> Generator[None, None, int]:
        """As `submit`, as a generator that pauses between steps.

        Raises:
            TailcutError: as in `submit`.
        """
        served = self._state.context.models.current(served)  # it may have been reloaded while the request was read
        entry = self._entry(served)
        arrays, rows = yield from check_inputs_in_steps(served.model.spec, request.inputs)
        schedule = schedule_of(request.parameters, schedule)
        queued = self._request(rows, schedule, self.deadline(schedule, left_ns))
        yield from entry.start_in_steps(arrays, queued)
        self._queued = queued
        self.request = request
        return rows

    def _read(self, _result: None, error: Exception | None) -> None:
        self._job = None
        if error is None:
            self._state.delivery.notify_soon(self.served.entry)
            self._side.submitted()
        else:
            self._side.failed(known(error))

    # A request whose body is received into rows.

    def lend(self, served: ServedModel, rows: int, size: int) -> memoryview | None:
        """Memory of `size` bytes for a body: rows of the slab; None while rows are scarce.

        Raises:
            QueueFullError: no rows are free.
        """
        entry = self._entry(served)
        slab = entry.slab
        if slab is None or slab.in_use > slab.rows // 2:  # slow uploads must not hold rows that others need
            return None
        lease = self._lease = entry.lend(rows, apart=True)
        start = lease.row * slab.row_bytes[0]
        return slab.input_bytes[0][start : start + size]

    def submit_lent(self) -> None:
        """Queue the lent rows, whose bytes are now complete.

        Raises:
            TailcutError: the request is no longer admitted; its rows have been given back.
        """
        entry, schedule = self.served.entry, self.schedule
        lease, self._lease = self._lease, NO_LEASE
        deadline_ns = self.deadline(schedule)
        request = self._request(lease.rows, schedule, deadline_ns)
        try:
            entry.admit(lease.rows, deadline_ns, schedule.priority)
        except TailcutError:
            entry.settle(lease, 0, None)
            raise
        entry.settle(lease, lease.rows, request)
        self._notify(entry, request)

    def _request(self, rows: int, schedule: Schedule, deadline_ns: int) -> Request:
        return Request(self, self._state.delivery, rows, deadline_ns, schedule.priority)

    def _notify(self, entry: ServedEntry, request: Request) -> None:
        """Have a queued request computed when this pass is over."""
        self._queued = request
        self._state.delivery.notify_soon(entry)

    # Before a request is read.

    def deadline(self, schedule: Schedule, left_ns: int = 0) -> int:
        """When the answer is due, in monotonic nanoseconds; the request's timeout counts from now on.

        Args:
            schedule: of the request.
            left_ns: how long its client will still wait, in nanoseconds; 0: no limit.
        """
        timeout_ns = schedule.timeout_ns
        if not timeout_ns or 0 < left_ns < timeout_ns:
            timeout_ns = left_ns
        return _now_ns() + (timeout_ns or self._state.deadline_ns)

    def precheck(
        self, entry: ServedEntry, schedule: Schedule, left_ns: int = 0, *, names_its_time: bool = False
    ) -> None:
        """Refuse a request before it is parsed, where it would be refused afterwards anyway.

        Raises:
            QueueFullError: too much is waiting already, or the deadline cannot be met.
        """
        entry.admit(1, 0 if names_its_time else self.deadline(schedule, left_ns), schedule.priority)

    # The engine has computed the request.

    def complete(self, request: Request, batch: Batch, index: int) -> None:
        """Have the answer written, and hand it to the side."""
        handed_ns = _now_ns()
        self._queued = None
        state, side = self._state, self._side
        ready_ns, ended_ns = request.ready_ns, batch.ended_ns
        self.served.latency.add(ended_ns - ready_ns)
        try:
            answer = side.encode(batch, index)
        except Exception as error:  # noqa: BLE001  the client must not wait for an answer that cannot be written
            side.failed(self._not_written(error))
            return
        if type(answer) is GeneratorType:
            self._times = self._times_of(request, batch, handed_ns, 0, request.count)
            self._job = state.steps.start(answer, self._written)
            return
        self.answer, encoded_ns = answer, _now_ns()
        self._answered(request, batch, handed_ns, encoded_ns, request.count, sent=side.answered())
        if state.busy_poll_ns:
            state.stay_awake(ended_ns)

    def complete_row(
        self, outputs: list[bytes], request: Request, batch: Batch, handed_ns: int, moments: bytes
    ) -> None:
        """As `complete`, for a request of one row that was queued with others."""
        self.group = None
        side, encoded_ns = self._side, _now_ns()  # an answer of raw rows needs no encoding
        try:
            sent = side.answer_row(outputs)
        except Exception as error:  # noqa: BLE001  as in complete
            side.failed(self._not_written(error))
            return
        if sent and self._state.tracer is None:  # the short form of `_answered`, for most answers
            self.served.timeline.record_row(self.began_ns, moments, encoded_ns, _now_ns(), batch.rows, self.length)
            side.go_on()
        else:
            self._answered(request, batch, handed_ns, encoded_ns if sent else _now_ns(), 1, sent=sent)

    def _answered(  # noqa: PLR0913  one answer, and all that is known of it
        self, request: Request, batch: Batch, handed_ns: int, encoded_ns: int, rows: int, *, sent: bool
    ) -> None:
        """Record the stages of a request whose answer was written in one go: it is `sent`, or will be."""
        side = self._side
        if sent:
            written_ns = _now_ns()
            answered = batch.formed_ns, batch.began_ns, batch.ended_ns, handed_ns, encoded_ns, written_ns
            sizes = rows, batch.rows, self.length
            self.served.timeline.record(self.began_ns, request.ready_ns, *answered, *sizes, 200)
            tracer = self._state.tracer
            if tracer is not None:
                asked = side.sampled(tracer)
                if asked is not None:
                    times = self._times_of(request, batch, handed_ns, encoded_ns, rows)
                    times.trace(tracer, asked, self.served, written_ns)
        else:
            self._times = self._times_of(request, batch, handed_ns, encoded_ns, rows)
        side.go_on()

    def _times_of(self, request: Request, batch: Batch, handed_ns: int, encoded_ns: int, rows: int) -> AnswerTimes:
        return AnswerTimes.of(request, batch, self.began_ns, handed_ns, encoded_ns, rows, self.length)

    def fail(self, request: Request, error: TailcutError) -> None:
        """The request failed: tell the side."""
        self._queued = self.group = None
        self._side.failed(error)

    def refused(self, error: TailcutError) -> None:
        """A request of one row was not admitted: tell the side."""
        self.group = None
        self._side.refused(error)

    @property
    def asked(self) -> InferRequest:
        """The request as read; an `InvalidInputError` where it was nothing but rows."""
        if self.request is None:
            raise InvalidInputError("raw requests cannot select outputs")
        return self.request

    def outputs(self, batch: Batch, index: int, request: InferRequest) -> dict[str, np.ndarray]:
        """The answer's arrays by name, valid while `ExchangeSide.encode` runs; shared-memory outputs are written.

        Raises:
            InvalidInputError: a region is gone, or too small.
        """
        spec = self.served.model.spec
        arrays = dict(zip(spec.output_names, batch.arrays(index), strict=True))
        for region_slice, data in shared_outputs(spec, request, arrays):
            self._state.context.regions.write(region_slice, data)
        return arrays

    def owned(self, request: InferRequest, outputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Copies of the arrays that were asked for: the rows of the slab are soon used by other requests."""
        if self.served.entry.slab is None:
            return outputs
        return {wanted.name: outputs[wanted.name].copy() for wanted in request.outputs}

    def _written(self, answer: Any, error: Exception | None) -> None:
        self._job = None
        if error is not None:
            self._side.failed(self._not_written(error))
            return
        self.answer = answer
        self._times.encoded_ns = _now_ns()
        if self._side.answered():
            self.sent()
        self._side.go_on()

    def _not_written(self, error: Exception) -> TailcutError:
        if isinstance(error, TailcutError):
            return error.without_frames()
        _log.error("the answer of model %r could not be written", self.served.model.spec.name, exc_info=error)
        return EngineError("the answer could not be written")

    def sent(self, now_ns: int = 0) -> None:
        """The answer went out at `now_ns` (0: just now): record when the request passed each stage."""
        times, served, tracer = self._times, self.served, self._state.tracer
        written_ns = now_ns or _now_ns()
        times.record(served, written_ns)
        if tracer is not None:
            asked = self._side.sampled(tracer)
            if asked is not None:
                times.trace(tracer, asked, served, written_ns)

    # The client has disconnected.

    def cancel(self) -> None:
        """Drop the current inference: remove it from the queue and give its rows back."""
        if self._job is not None:
            self._job.cancel()
            self._job = None
        if self._lease.row >= 0:
            self.served.entry.settle(self._lease, 0, None)
            self._lease = NO_LEASE
        if self._queued is not None:
            self.served.entry.cancel(self._queued)
            self._queued = None
        if self.group is not None:
            self.group.withdraw(self)
            self.group = None

    def _entry(self, served: ServedModel) -> ServedEntry:
        self.served, self.request = served, None
        return served.entry

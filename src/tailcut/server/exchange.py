"""One inference, from checked bytes or arrays to its answer, for HTTP and gRPC.

What both protocols have in common is here and nowhere else: validation against the model, the schedule, the deadline,
admission, shared memory, the counts, and the record of when a request passed which stage. A protocol reads a request
and writes an answer; it hears of both through `ExchangeSide`.
"""

import logging
import time
from collections.abc import Generator, Mapping, Sequence
from types import GeneratorType
from typing import Any, Protocol

import numpy as np

from tailcut.errors import EngineError, InvalidInputError, TailcutError
from tailcut.runtime.entry import ServedEntry
from tailcut.runtime.inputs import check_inputs, check_inputs_in_steps
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
_now_ns = time.monotonic_ns  # one name to look up, three times per request
_NO_SCHEDULE = Schedule()


class ExchangeSide(Protocol):
    """The protocol's side of an exchange: a connection over HTTP, a request over gRPC."""

    def encode(self, batch: Batch, index: int) -> Any:
        """The answer, whose bytes are owned; or a generator that returns it, where writing it takes long.

        Raises:
            TailcutError: it cannot be written as it was asked for.
        """

    def answer_row(self, outputs: list[bytes]) -> bool:
        """Answer a request that is one row with its row of each output; returns as `answered`."""

    def submitted(self) -> None:
        """A request that was read in steps is in the queue."""

    def sampled(self, tracer: Tracer) -> TracedRequest | None:
        """What the current request is to its tracer; None where it is not sampled."""

    def answered(self) -> bool:
        """`Exchange.answer` is there; whether it has gone out, else `Exchange.sent` is called when it has."""

    def go_on(self) -> None:
        """The exchange is over, with an answer: the next one may begin."""

    def refused(self, error: TailcutError) -> None:
        """A request that is one row was not admitted."""

    def failed(self, error: TailcutError) -> None:
        """There will be no answer."""


class Exchange:
    """The current inference of one connection, or of one call: begun once for each request, by one of `submit*`.

    It handles the response of its request: `answered` or `failed` of its side is called once for each that was begun,
    never from inside `submit*`, and not after `cancel`.
    """

    # What most exchanges never change costs each call nothing as an attribute of the class.
    served: ServedModel = None  # type: ignore[assignment]  # set by the first submit
    request: InferRequest | None = None  # what was read; None where a request is nothing but rows
    schedule = _NO_SCHEDULE  # of a request whose rows are being received
    began_ns = 0  # when the request had its head
    length = 0  # of its body, where its head gives that
    answer: Any = None
    _group: PassGroup | None = None  # that a request of one row is in
    _queued: Request | None = None
    _job: Job | None = None  # a large request is being read, or a large answer written
    _lease = NO_LEASE  # of rows for a body that is being received
    _times: AnswerTimes = None  # type: ignore[assignment]  # of an answer that has not gone out

    def __init__(self, state: ServerState, side: ExchangeSide) -> None:
        self._state = state
        self._side = side

    # A request comes in.

    def submit_row(self, served: ServedModel, body: bytes, priority: int, deadline_ns: int) -> None:
        """Queue a request of one row, the bytes of its model's only input, with all others that come in this pass."""
        self.served, self.request = served, None
        self._group = self._state.rows.add(self, served, body, priority, deadline_ns)

    def submit_bodies(
        self, served: ServedModel, rows: int, bodies: Sequence[memoryview], schedule: Schedule, deadline_ns: int
    ) -> None:
        """Queue a request that is exactly rows of its model: the bytes of each input, which are copied.

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
            TailcutError: they are not admitted.
        """
        entry, request = self._entry(served), self._request(rows, schedule, deadline_ns)
        entry.start(arrays, request)
        self._notify(entry, request)

    def submit(
        self, served: ServedModel, request: InferRequest, schedule: Schedule = _NO_SCHEDULE, left_ns: int = 0
    ) -> int:
        """Check a request against its model and queue it; returns its rows.

        Args:
            served: the model that it is for.
            request: what was read.
            schedule: what was said outside of the request, before whose own parameters it gives way.
            left_ns: what its client has left to wait; 0: no limit.

        Raises:
            TailcutError: it does not fit the model, or is not admitted.
        """
        model, entry, inputs = served.model, served.entry, request.inputs
        schedule = schedule_of(request.parameters, schedule)
        deadline_ns = self.deadline(schedule, left_ns)
        rows = 0
        if len(inputs) == 1 and entry.slab is not None:  # the rows of an only input go to their place as bytes
            array = next(iter(inputs.values()))
            rows = len(array) if model.spec.batched else 1
        if 0 < rows <= entry.max_batch_size:
            self.submit_bodies(served, rows, (array.reshape(-1).view(np.uint8).data,), schedule, deadline_ns)
        else:
            arrays, rows = check_inputs(model.spec, inputs)
            self.submit_arrays(served, arrays, rows, schedule, deadline_ns)
        self.request = request
        return rows

    def submit_in_steps(self, steps: Generator[None, None, None], *, begun: bool = True) -> None:
        """Have a large request read and queued in steps, whose last is `checked_in_steps`."""
        self._job = self._state.steps.start(steps, self._read, begun=begun)

    def checked_in_steps(
        self, served: ServedModel, request: InferRequest, schedule: Schedule = _NO_SCHEDULE, left_ns: int = 0
    ) -> Generator[None, None, int]:
        """As `submit`, with pauses.

        Raises:
            TailcutError: as in `submit`.
        """
        served = self._state.context.models.current(served)  # reading took its time
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

    # Its body is received into rows.

    def lend(self, served: ServedModel, rows: int, size: int) -> memoryview | None:
        """Memory of `size` bytes for a body: rows of the slab; None while rows are scarce.

        Raises:
            QueueFullError: no rows are free.
        """
        entry = self._entry(served)
        slab = entry.slab
        if slab is None or slab.in_use > slab.rows // 2:  # slow uploads must not hold what others could compute on
            return None
        lease = self._lease = entry.lend(rows, apart=True)
        start = lease.row * slab.row_bytes[0]
        return slab.input_bytes[0][start : start + size]

    def submit_lent(self) -> None:
        """Queue the rows lent: their bytes are complete.

        Raises:
            TailcutError: others came first meanwhile; the rows are given back.
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
        """A request is in the queue: have it computed when this pass is over."""
        self._queued = request
        self._state.delivery.notify_soon(entry)

    # What a request is told before it is read.

    def deadline(self, schedule: Schedule, left_ns: int = 0) -> int:
        """Until when its answer is wanted, in monotonic nanoseconds; its time counts from now on.

        Args:
            schedule: of the request.
            left_ns: what its client has left to wait; 0: no limit.
        """
        timeout_ns = schedule.timeout_ns
        if not timeout_ns or 0 < left_ns < timeout_ns:
            timeout_ns = left_ns
        return _now_ns() + (timeout_ns or self._state.deadline_ns)

    def precheck(
        self, entry: ServedEntry, schedule: Schedule, left_ns: int = 0, *, names_its_time: bool = False
    ) -> None:
        """Refuse what will be refused before it is parsed, unless it may name a time of its own.

        Raises:
            QueueFullError: too much is waiting already, or the deadline cannot be met.
        """
        entry.admit(1, 0 if names_its_time else self.deadline(schedule, left_ns), schedule.priority)

    # The engine has answered.

    def complete(self, request: Request, batch: Batch, index: int) -> None:
        """Have the answer written, and tell its side."""
        handed_ns = _now_ns()
        self._queued = None
        state, side = self._state, self._side
        ready_ns, ended_ns = request.ready_ns, batch.ended_ns
        self.served.latency.add(ended_ns - ready_ns)
        try:
            answer = side.encode(batch, index)
        except Exception as error:  # noqa: BLE001  the client must not wait for ever for an answer that cannot be written
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
        self._group = None
        side, encoded_ns = self._side, _now_ns()  # where it goes out at once, it is the rows themselves
        try:
            sent = side.answer_row(outputs)
        except Exception as error:  # noqa: BLE001  as in complete
            side.failed(self._not_written(error))
            return
        if sent and self._state.tracer is None:  # as below, for what most answers are
            self.served.timeline.record_row(self.began_ns, moments, encoded_ns, _now_ns(), batch.rows, self.length)
            side.go_on()
        else:
            self._answered(request, batch, handed_ns, encoded_ns if sent else _now_ns(), 1, sent=sent)

    def _answered(  # noqa: PLR0913  one answer, and what only its exchange knows
        self, request: Request, batch: Batch, handed_ns: int, encoded_ns: int, rows: int, *, sent: bool
    ) -> None:
        """Record when a request passed each stage whose answer was written in one go: it is `sent`, or on its way."""
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
        """There will be no answer."""
        self._queued = self._group = None
        self._side.failed(error)

    def refused(self, error: TailcutError) -> None:
        """A request of one row was not admitted."""
        self._group = None
        self._side.refused(error)

    @property
    def asked(self) -> InferRequest:
        """What was read, of a request that was more than rows."""
        if self.request is None:
            raise InvalidInputError("raw requests cannot select outputs")
        return self.request

    def outputs(self, batch: Batch, index: int, request: InferRequest) -> dict[str, np.ndarray]:
        """The answer's arrays, by name, while `ExchangeSide.encode` runs; those for shared memory are written.

        Raises:
            InvalidInputError: a region is gone, or too small.
        """
        spec = self.served.model.spec
        arrays = dict(zip(spec.output_names, batch.arrays(index), strict=True))
        for region_slice, data in shared_outputs(spec, request, arrays):
            self._state.context.regions.write(region_slice, data)
        return arrays

    def owned(self, request: InferRequest, outputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The arrays that were asked for, to keep: rows of the slab are other requests' soon."""
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
        """The answer has gone out, at this moment or now: record when the request passed each stage."""
        times, served, tracer = self._times, self.served, self._state.tracer
        written_ns = now_ns or _now_ns()
        times.record(served, written_ns)
        if tracer is not None:
            asked = self._side.sampled(tracer)
            if asked is not None:
                times.trace(tracer, asked, served, written_ns)

    # The client has left.

    def cancel(self) -> None:
        """Drop the current inference: queued work goes with its client, and rows go back."""
        if self._job is not None:
            self._job.cancel()
            self._job = None
        if self._lease.row >= 0:
            self.served.entry.settle(self._lease, 0, None)
            self._lease = NO_LEASE
        if self._queued is not None:
            self.served.entry.cancel(self._queued)
            self._queued = None
        if self._group is not None:
            self._group.withdraw(self)
            self._group = None

    def _entry(self, served: ServedModel) -> ServedEntry:
        self.served = served
        self.request = None
        return served.entry

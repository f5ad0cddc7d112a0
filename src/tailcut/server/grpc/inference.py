"""One inference request over gRPC: from its message to a ticket, and from the engine's answer to a message.

A request that is like one before it (`grpc_plans.py`) is not read as a message: its tensors go from its bytes to rows,
and its answer is put together of bytes.
"""

import logging
import time
from collections.abc import Callable, Generator, Mapping

import numpy as np
from google.protobuf.message import DecodeError

from tailcut.errors import EngineError, InvalidInputError, TailcutError
from tailcut.runtime.inputs import check_inputs, check_inputs_in_steps
from tailcut.runtime.request import Batch, Request
from tailcut.server.grpc.templates import Plan, Plans
from tailcut.server.served_model import ServedModel
from tailcut.server.step_runner import Job
from tailcut.wire.grpc.codec import infer_response, large_answer, read_request
from tailcut.wire.grpc.form import ArrayForm, Form, Lead, read_lead
from tailcut.wire.grpc.messages import MESSAGES
from tailcut.wire.grpc.steps import large_request, take_apart
from tailcut.wire.v2 import InferRequest, schedule_of, shared_outputs
from tailcut.wire.v2.steps import AT_ONCE_BYTES

_log = logging.getLogger("tailcut.grpc")
_COPY_BYTES = 1 << 20  # into rows in one go
_read = MESSAGES["ModelInferRequest"].FromString


class Inference:
    """The handler of its request; `done` is called once there is an answer or an error, never from inside `begin`."""

    __slots__ = (
        "_done",
        "_final",
        "_form",
        "_job",
        "_plans",
        "_request",
        "_served",
        "_state",
        "_ticket",
        "answer",
        "began_ns",
        "error",
        "id",
        "moments",
    )

    def __init__(
        self, plans: Plans, began_ns: int, done: Callable[["Inference"], None], *, final: bool = False
    ) -> None:
        self.id = b""
        self.began_ns = began_ns
        self.answer: bytes | list[bytes | memoryview] | None = None  # a ModelInferResponse, a large one in parts
        self.error: TailcutError | None = None
        self.moments: tuple[int, ...] = ()  # for the timeline, but for the last
        self._plans = plans
        self._state = plans.state
        self._done = done
        self._final = final
        self._ticket: Request | None = None
        self._job: Job | None = None  # a large message is being read
        self._served: ServedModel = None  # type: ignore[assignment]  # set before there is a ticket
        self._form: Form | ArrayForm | None = None  # where the request was like one before it, else:
        self._request: InferRequest = None  # type: ignore[assignment]  # set before there is a ticket

    def begin(self, data: bytes | memoryview, left_ns: int) -> None:
        """Check the request and queue it, or begin to read it; `left_ns` is what the call has left, or 0.

        Raises:
            TailcutError: it is not admitted.
        """
        lead = read_lead(data) if isinstance(data, bytes) and len(data) <= _COPY_BYTES else None
        if lead is None and len(data) > AT_ONCE_BYTES:
            self._job = self._state.steps.start(self._read_in_steps(data, left_ns), self._ready)
            return
        data = bytes(data)
        if lead is not None:
            plan = self._plans.find(lead.key)
            if plan is not None and plan.form.fits(data, lead.end):
                self.id = lead.id
                self._submit(plan, data, lead.end, left_ns)
                return
        self._read(data, lead, left_ns)

    def _submit(self, plan: Plan, data: bytes, lead_end: int, left_ns: int) -> None:
        """Queue a request of a known form."""
        state = self._state
        served, form = plan
        self._served, self._form = served, form
        entry, schedule = served.entry, form.schedule
        deadline_ns = state.deadline(_earlier(schedule.timeout_ns, left_ns))
        if isinstance(form, ArrayForm):
            arrays = form.inputs(data, lead_end)
            self._ticket = entry.start(arrays, form.rows, self, state.delivery, deadline_ns, priority=schedule.priority)
            state.delivery.notify_soon(entry)
            return
        entry.admit(form.rows, deadline_ns, schedule.priority)
        ticket = Request(self, state.delivery, form.rows, deadline_ns, schedule.priority)
        body = memoryview(data)[lead_end:]
        if len(form.pieces) == 1:
            entry.submit(ticket, body[form.pieces[0].start :])
        else:
            slab = entry.slab
            assert slab is not None  # noqa: S101  the form is one for rows
            lease = entry.lend(form.rows)
            for number, piece in enumerate(form.pieces):
                slab.write(lease.row, body[piece.start : piece.end], number)
            entry.settle(lease, form.rows, ticket)
        self._ticket = ticket
        state.delivery.notify_soon(entry)

    def _read(self, data: bytes, lead: Lead | None, left_ns: int) -> None:
        """Read a request as a message, and queue it."""
        state = self._state
        try:
            message = _read(data)
        except DecodeError:
            raise InvalidInputError("the message is no ModelInferRequest") from None
        self.id = message.id.encode()
        served = self._served = state.context.models.find(message.model_name, message.model_version)
        model, entry = served.model, served.entry
        request = self._request = read_request(model.spec, message, state.context.regions)
        arrays, rows = check_inputs(model.spec, request.inputs)
        schedule = schedule_of(request.parameters)
        if lead is not None:
            self._plans.learn(data, lead, served, message, request, rows)
        deadline_ns = state.deadline(_earlier(schedule.timeout_ns, left_ns))
        self._ticket = entry.start(arrays, rows, self, state.delivery, deadline_ns, priority=schedule.priority)
        state.delivery.notify_soon(entry)

    def _read_in_steps(self, data: bytes | memoryview, left_ns: int) -> Generator[None, None, Request]:
        """The same for a large request."""
        state = self._state
        taken = yield from take_apart(data)
        try:
            message = _read(taken.rest)
        except DecodeError:
            raise InvalidInputError("the message is no ModelInferRequest") from None
        self.id = message.id.encode()
        served = self._served = state.context.models.find(message.model_name, message.model_version)
        model, entry = served.model, served.entry
        entry.admit(1)
        yield
        request = self._request = yield from large_request(model.spec, message, taken, state.context.regions)
        arrays, rows = yield from check_inputs_in_steps(model.spec, request.inputs)
        schedule = schedule_of(request.parameters)
        deadline_ns = state.deadline(_earlier(schedule.timeout_ns, left_ns))
        return (
            yield from entry.start_in_steps(arrays, rows, self, state.delivery, deadline_ns, priority=schedule.priority)
        )

    def _ready(self, ticket: Request | None, error: Exception | None) -> None:
        """A large request has been read and queued; or not."""
        self._job = None
        if ticket is not None:
            self._ticket = ticket
            self._state.delivery.notify_soon(self._served.entry)
            return
        if isinstance(error, TailcutError):
            self.error = error.without_frames()
        else:
            _log.error("a message was not understood", exc_info=error)
            self.error = EngineError("the server failed on this message")
        self._done(self)

    def complete(self, ticket: Request, batch: Batch, index: int) -> None:
        """The engine has answered."""
        handed_ns = time.monotonic_ns()
        self._ticket = None
        self._state.count_latency(batch.ended_ns - ticket.ready_ns)
        try:
            self.answer = self._answer(batch, index)
        except TailcutError as error:
            self.error = error.without_frames()
        except Exception:  # noqa: BLE001  the client must not wait for ever for an answer that nobody can write
            _log.exception("the answer of model %r could not be written", self._served.model.spec.name)
            self.error = EngineError("the answer could not be written")
        else:
            times = (self.began_ns, ticket.ready_ns, batch.formed_ns, batch.began_ns, batch.ended_ns, handed_ns)
            self.moments = (*times, time.monotonic_ns(), ticket.count, batch.rows)
        self._done(self)
        if self._state.busy_poll_ns:
            self._state.stay_awake(batch.ended_ns)

    def _answer(self, batch: Batch, index: int) -> bytes | list[bytes | memoryview]:
        form = self._form
        if isinstance(form, ArrayForm):
            return form.answer(self.id, batch.arrays(index), final=self._final)
        if form is not None:
            contents = [batch.blob(index, place) for place, _ in form.outputs]
            return form.answer(self.id, contents, final=self._final)
        served, request = self._served, self._request
        spec = served.model.spec
        outputs = dict(zip(spec.output_names, batch.arrays(index), strict=True))
        for place, data in shared_outputs(spec, request, outputs):
            self._state.context.regions.write(place, data)
        if _is_large(request, outputs) and not self._final:
            if served.entry.slab is not None:  # whose rows are others' soon
                outputs = {name: array.copy() for name, array in outputs.items()}
            return large_answer(spec, served.version, request, outputs)
        response = infer_response(spec, served.version, request, outputs, final=self._final)
        return bytes(response.SerializeToString())

    def fail(self, ticket: Request, error: TailcutError) -> None:
        """There will be no answer."""
        self._ticket = None
        self.error = error
        self._done(self)

    def written(self, now_ns: int) -> None:
        """Its answer has gone out: when it passed each stage is known."""
        moments = self.moments
        self._served.timeline.record(*moments[:-2], now_ns, *moments[-2:], 0, 200)

    def cancel(self) -> None:
        """Nobody waits any more: queued work goes with the client."""
        if self._job is not None:
            self._job.cancel()
            self._job = None
        if self._ticket is not None:
            self._served.entry.cancel(self._ticket)
            self._ticket = None


def _is_large(request: InferRequest, outputs: Mapping[str, np.ndarray]) -> bool:
    """Whether an answer is so large that copying it takes milliseconds, and can be sent without."""
    size = 0
    for wanted in request.outputs:
        array = outputs[wanted.name]
        if wanted.place is not None or array.dtype.kind == "O":
            return False
        size += array.nbytes
    return size > _COPY_BYTES


def _earlier(timeout_ns: int, left_ns: int) -> int:
    """The shorter of two times, of which 0 is none."""
    return min(timeout_ns, left_ns) if timeout_ns and left_ns else timeout_ns or left_ns

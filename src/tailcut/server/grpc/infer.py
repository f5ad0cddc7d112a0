"""One inference request over gRPC: how its message is read and its answer written. `Exchange` does the rest.

A request that resembles an earlier one (`templates.py`) is not parsed as a message: its tensors are copied from its
bytes to rows, and its answer is assembled from bytes.
"""

from collections.abc import Callable, Generator, Mapping

import numpy as np
from google.protobuf.message import DecodeError

from tailcut.errors import InvalidInputError, TailcutError
from tailcut.runtime.request import Batch
from tailcut.server.exchange import Exchange
from tailcut.server.grpc.templates import LeadPlan, MessageTemplate, Plans
from tailcut.server.served_model import ServedModel
from tailcut.server.tracing.records import TracedRequest
from tailcut.server.tracing.tracer import Tracer
from tailcut.wire.grpc.codec import infer_response, large_answer, plain_parameters, read_request
from tailcut.wire.grpc.form import ArrayForm, Form, MessageLead, read_lead
from tailcut.wire.grpc.framing import CallHead
from tailcut.wire.grpc.messages import MESSAGES
from tailcut.wire.grpc.steps import large_request, take_apart
from tailcut.wire.v2 import InferRequest, schedule_of
from tailcut.wire.v2.steps import AT_ONCE_BYTES

_COPY_BYTES = 1 << 20  # copied into rows without a pause, at most
_NO_REQUEST = "not a valid ModelInferRequest"
_read = MESSAGES["ModelInferRequest"].FromString


class GrpcInference:
    """The gRPC side of an exchange; `done` is called once there is an answer or an error, never from inside `begin`."""

    id = b""
    answer: bytes | list[bytes | memoryview] | None = None  # a ModelInferResponse; a large one in parts
    error: TailcutError | None = None
    _form: Form | ArrayForm | None = None  # where the request resembles an earlier one

    def __init__(
        self,
        plans: Plans,
        head: CallHead,
        began_ns: int,
        done: Callable[["GrpcInference"], None],
        *,
        final: bool = False,
    ) -> None:
        self._head = head
        self._plans = plans
        self._done = done
        self._final = final
        self._exchange = Exchange(plans.state, self)
        self._exchange.began_ns = began_ns

    @property
    def served(self) -> ServedModel | None:
        """The requested model; None where none was found."""
        return self._exchange.served

    @property
    def began_ns(self) -> int:
        """When the request arrived, or began to arrive."""
        return self._exchange.began_ns

    def begin_known(self, data: bytes, known: MessageTemplate, left_ns: int) -> bool:
        """Queue a request that arrived whole (`data` includes its prefix), if it resembles `known`; returns whether."""
        whole, plan = known
        if not whole.is_like(data):
            return False
        name = whole.id(data)
        if name:
            if not name.isascii():
                return False
            self.id = name
        self._submit_row(plan, whole.body(data), left_ns)
        return True

    def _submit_row(self, plan: LeadPlan, body: bytes, left_ns: int) -> None:
        """Queue a request of one row, together with those of other calls."""
        self._form = form = plan.form
        exchange, schedule = self._exchange, form.schedule
        exchange.submit_row(plan.served, body, schedule.priority, exchange.deadline(schedule, left_ns))

    def begin(self, data: bytes | memoryview, left_ns: int) -> None:
        """Check the request and queue it, or begin to read it in steps.

        Args:
            data: the message.
            left_ns: nanoseconds until the call's deadline; 0: it has none.

        Raises:
            TailcutError: it is invalid or not admitted.
        """
        lead = read_lead(data) if isinstance(data, bytes) and len(data) <= _COPY_BYTES else None
        if lead is not None:
            data = bytes(data)
            plan = self._plans.find(lead.key)
            if plan is not None and plan.form.fits(data, lead.end):
                self.id = lead.id
                self._plans.note(data, lead, plan)
                self._submit(plan, data, lead.end, left_ns)
                return
        if len(data) > AT_ONCE_BYTES:  # even where the lead is known: the rest may be anything
            self._exchange.submit_in_steps(self._read_in_steps(data, lead, left_ns))
        else:
            self._read(bytes(data), lead, left_ns)

    def _submit(self, plan: LeadPlan, data: bytes, lead_end: int, left_ns: int) -> None:
        """Queue a request of a known form."""
        served, form, gathers = plan
        exchange, schedule = self._exchange, form.schedule
        self._form = form
        if gathers:
            piece = form.pieces[0]
            self._submit_row(plan, data[lead_end + piece.start : lead_end + piece.end], left_ns)
            return
        deadline_ns = exchange.deadline(schedule, left_ns)
        if isinstance(form, ArrayForm):
            exchange.submit_arrays(served, form.inputs(data, lead_end), form.rows, schedule, deadline_ns)
            return
        body = memoryview(data)[lead_end:]
        exchange.submit_bodies(
            served, form.rows, [body[piece.start : piece.end] for piece in form.pieces], schedule, deadline_ns
        )

    def _read(self, data: bytes, lead: MessageLead | None, left_ns: int) -> None:
        """Parse a request as a message, and queue it."""
        context = self._plans.state.context
        try:
            message = _read(data)
        except DecodeError:
            raise InvalidInputError(_NO_REQUEST) from None
        self.id = message.id.encode()
        served = context.models.find(message.model_name, message.model_version)
        request = read_request(served.model.spec, message, context.regions)
        rows = self._exchange.submit(served, request, left_ns=left_ns)
        if lead is not None:
            self._plans.learn(data, lead, served, message, request, rows)

    def _read_in_steps(
        self, data: bytes | memoryview, lead: MessageLead | None, left_ns: int
    ) -> Generator[None, None, None]:
        """As `_read`, in steps, for a large request."""
        context = self._plans.state.context
        taken = yield from take_apart(data)
        try:
            message = _read(taken.rest)
        except DecodeError:
            raise InvalidInputError(_NO_REQUEST) from None
        self.id = message.id.encode()
        served = context.models.find(message.model_name, message.model_version)
        self._exchange.precheck(served.entry, schedule_of(plain_parameters(message.parameters)), left_ns)
        yield
        request = yield from large_request(served.model.spec, message, taken, context.regions)
        rows = yield from self._exchange.checked_in_steps(served, request, left_ns=left_ns)
        if lead is not None:
            self._plans.learn(bytes(data), lead, served, message, request, rows, taken.raw)

    # What its exchange calls.

    def encode(self, batch: Batch, index: int) -> bytes | list[bytes | memoryview]:
        """A ModelInferResponse."""
        form, exchange = self._form, self._exchange
        if isinstance(form, ArrayForm):
            return form.answer(self.id, batch.arrays(index), final=self._final)
        if form is not None:
            contents = [batch.blob(index, position) for position, _ in form.outputs]
            return form.answer(self.id, contents, final=self._final)
        served, request = exchange.served, exchange.asked
        spec = served.model.spec
        outputs = exchange.outputs(batch, index, request)
        if _is_large(request, outputs) and not self._final:
            return large_answer(spec, served.version, request, exchange.owned(request, outputs))
        response = infer_response(spec, served.version, request, outputs, final=self._final)
        return bytes(response.SerializeToString())

    def submitted(self) -> None:
        """A large request has been read: drop its message."""

    def sampled(self, tracer: Tracer) -> TracedRequest | None:
        """The trace of the call, where it is sampled."""
        return sampled_call(tracer, self._head)

    def answered(self) -> bool:
        """Take the answer, which goes out with the next write of the connection."""
        self.answer = self._exchange.answer
        self._done(self)
        return False

    def answer_row(self, outputs: list[bytes]) -> bool:
        """As `answered`, for a request of one row."""
        form = self._form
        assert isinstance(form, Form)  # noqa: S101  only such a form is submitted as a row
        self.answer = form.answer(self.id, [outputs[index] for index, _ in form.outputs], final=self._final)
        self._done(self)
        return False

    def go_on(self) -> None:
        """Do nothing: the next request has an exchange of its own."""

    def refused(self, error: TailcutError) -> None:
        """The request was not admitted."""
        self.failed(error)

    def failed(self, error: TailcutError) -> None:
        """The request failed."""
        self.error = error
        self._done(self)

    def written(self, now_ns: int) -> None:
        """The answer went out at `now_ns`: record the stages of the request."""
        self._exchange.sent(now_ns)

    def cancel(self) -> None:
        """Cancel queued work, because the client no longer waits."""
        self._exchange.cancel()


def sampled_call(tracer: Tracer, head: CallHead) -> TracedRequest | None:
    """The trace of a call, where it is sampled."""
    return tracer.of_call(head.plan.path[1:], head.traceparent, head.tracestate)


def _is_large(request: InferRequest, outputs: Mapping[str, np.ndarray]) -> bool:
    """Whether an answer is so large that copying it takes milliseconds, and can be sent without a copy."""
    size = 0
    for wanted in request.outputs:
        array = outputs[wanted.name]
        if wanted.region is not None or array.dtype.kind == "O":
            return False
        size += array.nbytes
    return size > _COPY_BYTES

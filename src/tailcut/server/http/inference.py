"""The inferences of one connection: complete bodies are parsed and queued, and answers are written.

This is the HTTP side of the connection's `Exchange`. It calls the connection for everything that ends or pauses it.
"""

from collections.abc import Generator, Mapping
from typing import Protocol

import numpy as np

from tailcut.errors import QueueFullError, TailcutError
from tailcut.runtime.request import Batch
from tailcut.server.account import Account
from tailcut.server.exchange import Exchange
from tailcut.server.http.alike import AlikeRequests
from tailcut.server.http.plan import RequestPlan
from tailcut.server.http.repeating import STEADY, Repeating
from tailcut.server.http.replies import Refusal
from tailcut.server.http.writer import AnswerWriter
from tailcut.server.state import ServerState
from tailcut.server.step_runner import LITTLE_BYTES
from tailcut.server.tracing.records import TracedRequest
from tailcut.server.tracing.tracer import Tracer
from tailcut.wire.http1.connection import Http1Connection
from tailcut.wire.inflate import WBITS, inflate_in_steps
from tailcut.wire.v2 import InferRequest, Response, encode_response, parse_request
from tailcut.wire.v2.response_steps import STEP_ELEMENTS, response_in_steps
from tailcut.wire.v2.steps import AT_ONCE_BYTES, request_in_steps
from tailcut.wire.v2.tensors import STEP_STRINGS

_LOOK_BYTES = 256 * 1024  # searched between two pauses


class InferenceConnection(Protocol):
    """What inferences need of their connection."""

    paused: bool  # its client does not read
    pipelines: bool  # its client pipelines, and so waits for its turn behind those that do not

    def turn_away(self, why: Refusal | TailcutError) -> None:
        """Answer the current message without its body."""

    def go_on(self) -> None:
        """Go on with what was pipelined."""

    def close(self) -> None:
        """Close after what has been written."""


class HttpInference:
    """The HTTP side of a connection's exchange: begins inferences and writes their answers."""

    __slots__ = ("_account", "_connection", "_repeating", "_state", "_wire", "_writer", "alike", "exchange", "unsent")

    def __init__(  # noqa: PLR0913, PLR0917  the parts of a connection
        self,
        state: ServerState,
        wire: Http1Connection[RequestPlan],
        writer: AnswerWriter,
        account: Account,
        repeating: Repeating,
        connection: InferenceConnection,
    ) -> None:
        self._state = state
        self._wire = wire
        self._writer = writer
        self._account = account
        self._repeating = repeating
        self._connection = connection
        self.exchange = Exchange(state, self)
        self.alike = AlikeRequests(state, wire, writer, self.exchange, connection)
        self.unsent = False  # the answer to an inference is written, but has not gone out completely

    # Requests.

    def precheck_rows(self, plan: RequestPlan) -> bool:
        """Whether rows may be received; where not, the client has been answered."""
        if plan.refusal is not None and self._is_refused(plan, plan.refusal, self._writer.began_ns):
            return False
        try:
            plan.of_model.entry.admit(plan.rows, self._writer.began_ns + plan.time_ns, plan.schedule.priority)
        except TailcutError as error:
            self.turn_away_rows(plan, error)
            return False
        return True

    def _is_refused(self, plan: RequestPlan, refusal: QueueFullError, now_ns: int) -> bool:
        """Whether an earlier refusal of this head's rows still holds; then the client has been answered."""
        if now_ns >= refusal.opens_ns:
            return False
        entry = plan.of_model.entry
        entry.counts.refuse(1, refusal)
        self._state.pause_soon(entry)
        self._connection.turn_away(refusal)
        return True

    def turn_away_rows(self, plan: RequestPlan, error: TailcutError) -> None:
        """Refuse rows; a refusal that holds for a while then also applies to other requests with this head."""
        if isinstance(error, QueueFullError):
            plan.refusal = error.without_frames()
        self._connection.turn_away(error)

    def submit_rows(self, plan: RequestPlan, body: memoryview, whole_ns: int) -> None:
        """Queue a body of rows that was complete at `whole_ns`, copied once, or move its client to the fast path."""
        served, schedule = plan.served, plan.schedule
        assert served is not None  # noqa: S101  a plan for rows has a model
        steady = self._wire.repeats >= STEADY and self._state.fast_path is not None
        if steady and self._repeating.take_rows(plan, body):
            return
        if plan.refusal is not None and self._is_refused(plan, plan.refusal, whole_ns):
            return
        deadline_ns = whole_ns + plan.time_ns
        if plan.gathers:
            self.exchange.submit_row(served, body, schedule.priority, deadline_ns)
            return
        try:
            self.exchange.submit_bodies(served, plan.rows, (body,), schedule, deadline_ns)
        except TailcutError as error:
            self.turn_away_rows(plan, error)

    def submit_received(self) -> None:
        """Queue the rows that were received, which are now complete."""
        try:
            self.exchange.submit_lent()
        except TailcutError as error:
            self._fail(error)

    def submit(self, plan: RequestPlan, body: memoryview) -> None:
        """Parse a whole body, check it against the model and queue it."""
        served, state, exchange = plan.of_model, self._state, self.exchange
        large = len(body) > AT_ONCE_BYTES or plan.encoding is not None or not state.steps.has_time()
        here = body.obj is state.receive  # it arrived complete with its head
        if here and (large or served.entry.slab is None):
            body = memoryview(bytes(body))  # the buffer is reused before the body has been parsed or computed
        if large:
            self._account.charge(len(body))
            begun = self._connection.pipelines or len(body) > LITTLE_BYTES or plan.encoding is not None
            exchange.submit_in_steps(self._read_in_steps(plan, body), begun=begun)
            return
        try:
            if served.entry.waiting_rows:
                named = _names_time(bytes(body[: plan.json_size]))
                exchange.precheck(served.entry, plan.schedule, names_its_time=named)
            request = parse_request(served.model.spec, body, plan.json_size, state.context.regions)
            if not (plan.steady and self._repeating.may_take() and self._leaves(plan, body, request)):
                exchange.submit(served, request, plan.schedule)
        except TailcutError as error:
            self._fail(error)

    def _leaves(self, plan: RequestPlan, body: memoryview, request: InferRequest) -> bool:
        """Whether the client takes the fast path, together with this request."""
        (array,) = request.inputs.values()
        row = array.reshape(-1).view(np.uint8).data
        return self._repeating.take(plan, plan.of_model.model.spec, bytes(body), row)

    def _read_in_steps(self, plan: RequestPlan, body: bytearray | memoryview) -> Generator[None, None, None]:
        """As `submit`, in steps, for a body that is large, or compressed."""
        served, state = plan.of_model, self._state
        if plan.encoding:
            most = min(plan.limit, state.limits.buffered_bytes)
            body = yield from inflate_in_steps(body, most, self._account.charge_more, wbits=WBITS[plan.encoding])
        if served.entry.waiting_rows:
            named = yield from _names_time_in_steps(memoryview(body)[: plan.json_size])
            self.exchange.precheck(served.entry, plan.schedule, names_its_time=named)
        request = yield from request_in_steps(served.model.spec, body, plan.json_size, state.context.regions)
        yield from self.exchange.checked_in_steps(served, request, plan.schedule)

    # What its exchange calls.

    def encode(self, batch: Batch, index: int) -> list[bytes] | Response | Generator[None, None, Response]:
        """The body of an answer: the bytes of each output, where the request was nothing but rows."""
        exchange = self.exchange
        request = exchange.request
        if request is None:
            if len(batch.outputs) == 1:
                return [batch.blob(index)]
            return [batch.blob(index, output) for output in range(len(batch.outputs))]
        served = exchange.served
        spec = served.model.spec
        outputs = exchange.outputs(batch, index, request)
        if _takes_long(request, outputs):
            self._account.charge(sum(array.nbytes for array in outputs.values()))
            return response_in_steps(spec, served.version, request, exchange.owned(request, outputs))
        return encode_response(spec, served.version, request, outputs)

    def submitted(self) -> None:
        """A large body has been parsed and queued."""
        self._account.release()

    def sampled(self, tracer: Tracer) -> TracedRequest | None:
        """The trace of the current request, where it is sampled."""
        return self._writer.sampled(tracer)

    def answered(self) -> bool:
        """Write the answer to an inference; returns whether it has gone out."""
        answer: list[bytes] | Response = self.exchange.answer
        if isinstance(answer, list):
            return self.answer_row(answer)
        return self._is_out(last=self._writer.respond(answer))

    def answer_row(self, outputs: list[bytes]) -> bool:
        """As `answered`, for a request that is nothing but rows: `outputs` has the bytes of each output."""
        last = self._writer.respond_rows(outputs)
        if last or self._connection.paused or self._account.charged:
            return self._is_out(last=last)
        return True

    def _is_out(self, *, last: bool) -> bool:
        """Whether the answer that was just written has gone out."""
        if self._account.charged:
            self._account.release()
        if last:
            self._connection.close()
        self.unsent = paused = self._connection.paused  # `Exchange.sent` is called when it has gone out
        return not paused

    def is_read(self) -> None:
        """The client has read what was written to it."""
        if self.unsent:
            self.unsent = False
            self.exchange.sent()

    def go_on(self) -> None:
        """Go on with the next message after the exchange."""
        if self._wire.held:
            self._connection.go_on()

    def refused(self, error: TailcutError) -> None:
        """Answer a request of one row that was not admitted when its pass was queued."""
        plan = self._wire.meaning
        if plan is not None:
            self.turn_away_rows(plan, error)
            self._connection.go_on()

    def failed(self, error: TailcutError) -> None:
        """Answer an inference that failed."""
        self._account.release()
        self._fail(error)
        self._connection.go_on()

    def _fail(self, error: TailcutError) -> None:
        if self._writer.fail(error):
            self._connection.close()


def _takes_long(request: InferRequest, outputs: Mapping[str, np.ndarray]) -> bool:
    """Whether so many elements of an answer are written one by one that it should be written in steps."""
    for wanted in request.outputs:
        array = outputs[wanted.name]
        strings = array.dtype.kind == "O"
        one_by_one = wanted.region is None and (strings or not wanted.binary)
        if one_by_one and array.size > (STEP_STRINGS if strings else STEP_ELEMENTS):
            return True
    return False


def _names_time(text: bytes) -> bool:
    """Whether the JSON of a request may contain a timeout or priority."""
    return b"timeout" in text or b"priority" in text or b"\\" in text


def _names_time_in_steps(text: memoryview) -> Generator[None, None, bool]:
    """As `_names_time`, in steps, for large JSON."""
    for at in range(0, len(text), _LOOK_BYTES):
        if _names_time(bytes(text[at : at + _LOOK_BYTES + 8])):
            return True
        yield
    return False

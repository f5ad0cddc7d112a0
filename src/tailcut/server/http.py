"""One HTTP/1.1 connection: bytes from the loop into rows, answers back out. The only place that knows transports.

All connections of a loop read into one shared buffer, because the loop reads and calls back in one go; a body that does
not fit with its head is then received straight into its row or into a buffer of its own. One message is in hand at a
time; what a client pipelines behind it waits in `_held`.
"""

import asyncio
import logging
import zlib
from enum import Enum, auto

from tailcut.errors import InvalidInputError, TailcutError
from tailcut.runtime.batch import Batch, Ticket
from tailcut.runtime.inputs import check_inputs
from tailcut.server.admission import Kind, Plan
from tailcut.server.hub import Hub
from tailcut.server.replies import BINARY, CONTINUE, JSON, Refusal, error_reply, failure_reply, head
from tailcut.wire.http1 import ChunkedBody, ProtocolError, check_partial
from tailcut.wire.v2 import InferRequest, encode_response, parse_request, schedule_of, shared_outputs

_log = logging.getLogger("tailcut.http")
_HELD_BYTES = 256 * 1024  # pipelined behind a message in hand, before reading pauses
_LINGER_BYTES = 64 << 20  # read away behind a refusal at most


class Stage(Enum):
    """What the next bytes are."""

    HEAD = auto()
    ROWS = auto()  # a body, into rows of the slab
    BUFFER = auto()  # a body, into a buffer of its own
    CHUNKED = auto()
    ANSWER = auto()  # none expected: an answer is on its way
    LINGER = auto()  # whatever comes is read away, so that the refusal before it arrives


class HttpConnection(asyncio.BufferedProtocol):
    """The protocol of one accepted socket; its own sink for the answer to the message in hand."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._view = hub.receive_view
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any other callback
        self._stage = Stage.HEAD
        self._target: memoryview | None = None  # where a body's next bytes go, when not to the shared buffer
        self._held = b""
        self._plan: Plan = None  # type: ignore[assignment]  # set whenever the stage is beyond HEAD
        self._row = -1
        self._body: bytearray | None = None
        self._chunked: ChunkedBody | None = None
        self._ticket: Ticket | None = None
        self._request: InferRequest | None = None
        self._lingered = 0
        self._paused = False
        self.due = 0.0  # when patience with this client ends; 0: no limit runs
        self.idle_since = hub.now

    @property
    def busy(self) -> bool:
        """Whether a message is in hand, its body still arriving or its answer being computed."""
        return self._stage is not Stage.HEAD or bool(self._held)

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self._transport = transport  # type: ignore[assignment]  # asyncio promises a Transport for streams
        self._hub.enter(self)

    def connection_lost(self, error: Exception | None) -> None:
        """The client left: its work goes with it."""
        self._hub.leave(self)
        self._drop_body()
        if self._ticket is not None and self._plan.served is not None:
            self._plan.served.model.cancel(self._ticket)
            self._ticket = None

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the kernel may write next."""
        return self._view if self._target is None else self._target

    def buffer_updated(self, nbytes: int) -> None:
        """The kernel wrote."""
        if self._target is not None:
            self._target = self._target[nbytes:]
            if not self._target:
                self._body_complete()
        elif self._stage is Stage.HEAD:
            if self._held:
                data = self._held + bytes(self._view[:nbytes])
                self._held = b""
                self._take(data, len(data))
            else:
                self._take(self._hub.receive, nbytes)
        else:
            self._take_beside(bytes(self._view[:nbytes]))

    def eof_received(self) -> bool:
        """The client said goodbye: nothing more is owed to it."""
        return False

    def pause_writing(self) -> None:
        """The client does not read: it has so long to start."""
        self._paused = True
        self.due = self._hub.now + self._hub.limits.write_timeout_s

    def resume_writing(self) -> None:
        """The client reads again."""
        self._paused = False
        self.due = 0.0
        self._next()

    def overdue(self) -> None:
        """Patience ended: say so where somebody may listen, then close."""
        if self._stage in {Stage.ROWS, Stage.BUFFER, Stage.CHUNKED} or (self._stage is Stage.HEAD and self._held):
            self._refuse(408, "the request took too long to arrive")
        else:
            self._transport.abort()

    def close(self) -> None:
        """Close after what has been written."""
        self._transport.close()

    # A message's way: head, body, answer.

    def _take(self, data: bytes | bytearray, size: int) -> None:
        """Handle the messages in data[:size]; what is left of an unfinished one is held."""
        at = 0
        while at < size and self._stage is Stage.HEAD and not self._paused:
            end = data.find(b"\r\n\r\n", at, size)
            if end < 0:
                rest = bytes(data[at:size])
                try:
                    check_partial(rest)
                except ProtocolError as error:
                    self._refuse(error.status, error.message)
                    return
                self._held = rest
                if not self.due:
                    self.due = self._hub.now + self._hub.limits.head_timeout_s
                return
            end += 4
            at = self._message(bytes(memoryview(data)[at:end]), data, end, size)
        if at < size:
            self._held = bytes(data[at:size])

    def _message(self, key: bytes, data: bytes | bytearray, end: int, size: int) -> int:
        """Begin the message whose head ends at `end`; returns how far the data were used."""
        plan = self._hub.plans.get(key)
        if plan is None:
            try:
                plan = self._hub.plan(key)
            except ProtocolError as error:
                self._refuse(error.status, error.message)
                return size
            except Refusal as refusal:
                return self._turn_away(refusal, self._hub.refused_length, end, size)
        self._plan = plan
        self.due = 0.0
        stop = end + plan.length
        if plan.kind is Kind.ROWS:
            return self._begin_rows(plan, data, end, min(stop, size))
        if stop <= size and not plan.head.chunked:
            if plan.kind is Kind.ANSWER:
                self._answer(plan)
            else:
                self._infer(plan, bytes(data[end:stop]))
            return stop
        return self._begin_buffer(plan, data, end, size)

    def _begin_rows(self, plan: Plan, data: bytes | bytearray, end: int, stop: int) -> int:
        """A body of whole rows: all here, copied once; else received into rows or, when short, into a buffer."""
        hub = self._hub
        model = plan.served.model  # type: ignore[union-attr]  # ROWS plans have one
        whole = stop - end == plan.length
        try:
            if whole:
                ticket = Ticket(self, hub.home, plan.rows, -1, hub.deadline())
                model.submit_body(ticket, memoryview(data)[end:stop])
                self._ticket = ticket
                self._stage = Stage.ANSWER
                hub.home.kick_soon(model)
                return stop
            if plan.length < hub.direct_bytes:
                return self._begin_buffer(plan, data, end, stop)
            row = self._row = model.reserve(plan.rows, apart=True)
        except TailcutError as error:
            return self._turn_away(error, plan.length, end, stop)
        slab = model.slab
        start = row * slab.row_bytes[0]  # type: ignore[union-attr]
        rows = slab.input_bytes[0][start : start + plan.length]  # type: ignore[union-attr]
        rows[: stop - end] = memoryview(data)[end:stop]
        self._expect_body(Stage.ROWS, rows[stop - end :])
        return stop

    def _begin_buffer(self, plan: Plan, data: bytes | bytearray, end: int, size: int) -> int:
        """A body that must be collected first: bounded alone and together with all others."""
        hub = self._hub
        if plan.kind is Kind.ANSWER and not plan.head.chunked:
            return self._turn_away(Refusal(413, "this path takes no body"), plan.length, end, size)
        if plan.served is not None:
            try:
                plan.served.model.admit(1)
            except TailcutError as error:
                return self._turn_away(error, plan.length, end, size)
        if hub.site.counts.buffered_bytes + plan.length > hub.limits.buffered_bytes:
            busy = Refusal(503, "too many bodies are arriving now", {"Retry-After": "1"})
            return self._turn_away(busy, plan.length, end, size)
        if plan.head.chunked:
            self._chunked = ChunkedBody(hub.limits.body_bytes)
            self._expect_body(Stage.CHUNKED, None)
            self._take_beside(bytes(data[end:size]))
            return size
        hub.site.counts.buffered_bytes += plan.length
        self._body = bytearray(plan.length)
        view = memoryview(self._body)
        view[: size - end] = memoryview(data)[end:size]
        self._expect_body(Stage.BUFFER, view[size - end :])
        return size

    def _expect_body(self, stage: Stage, target: memoryview | None) -> None:
        self._stage = stage
        self._target = target
        self.due = self._hub.now + self._hub.limits.body_timeout_s
        if self._plan.head.expects_continue:
            self._transport.write(CONTINUE)

    def _body_complete(self) -> None:
        self.due = 0.0
        self._target = None
        plan = self._plan
        if self._stage is Stage.ROWS:
            row, self._row = self._row, -1
            model = plan.served.model  # type: ignore[union-attr]  # ROWS plans have one
            ticket = self._ticket = Ticket(self, self._hub.home, plan.rows, row, self._hub.deadline())
            self._stage = Stage.ANSWER
            model.submit(ticket)
            self._hub.home.kick_soon(model)
            return
        body = bytes(self._body or b"")
        self._drop_body()
        self._stage = Stage.HEAD
        if plan.kind is Kind.ROWS:
            self._begin_rows(plan, body, 0, len(body))
        else:
            self._infer(plan, body)
        self._next()

    def _take_beside(self, data: bytes) -> None:
        """Bytes that are neither a head nor a plain body."""
        if self._stage is Stage.CHUNKED and self._chunked is not None:
            try:
                rest = self._chunked.feed(data)
            except ProtocolError as error:
                self._refuse(error.status, error.message)
                return
            if self._chunked.done:
                body, self._chunked = bytes(self._chunked.body), None
                self.due = 0.0
                self._stage = Stage.HEAD
                self._held = rest
                if self._plan.kind is Kind.ANSWER:
                    self._answer(self._plan)
                else:
                    self._infer(self._plan, body)
                self._next()
        elif self._stage is Stage.LINGER:
            self._lingered += len(data)
            if self._lingered > _LINGER_BYTES:
                self._transport.abort()
        else:
            self._held += data
            if len(self._held) > _HELD_BYTES:
                self._transport.pause_reading()

    def _infer(self, plan: Plan, body: bytes) -> None:
        """Parse a whole body, check it against the model and queue it."""
        served = plan.served
        if served is None:
            return
        try:
            if plan.encoding:
                body = _inflate(body, plan.encoding, self._hub.limits.body_bytes)
            request = parse_request(served.model.spec, body, plan.json_size, self._hub.site.regions)
            arrays, rows = check_inputs(served.model.spec, request.inputs)
            deadline = self._hub.deadline(schedule_of(request.parameters).timeout_ns)
            self._request = request
            self._stage = Stage.ANSWER
            self._ticket = served.model.start(arrays, rows, self, self._hub.home, deadline)
        except Refusal as refusal:
            self._reply(error_reply(refusal.status, refusal.message, close=self._closing()), refusal.status)
        except TailcutError as error:
            self._fail(error)
        else:
            self._hub.home.kick_soon(served.model)

    def complete(self, ticket: Ticket, batch: Batch, index: int) -> None:
        """The engine has answered."""
        self._ticket = None
        plan = self._plan
        self._hub.count_latency(batch.ended_ns - ticket.ready_ns)
        if plan.kind is Kind.ROWS:
            start = plan.reply_head_close if self._closing() else plan.reply_head
            if len(batch.outputs) == 1:
                self._reply(start + batch.blob(index), 200)
            else:
                blobs = [batch.blob(index, output) for output in range(len(batch.outputs))]
                self._reply(b"".join([start, *blobs]), 200)
        else:
            self._encode(plan, batch, index)
        if self._hub.spin_ns:
            self._hub.stay_awake(batch.ended_ns)
        if self._held:
            self._next()

    def fail(self, ticket: Ticket, error: TailcutError) -> None:
        """There will be no answer."""
        self._ticket = None
        self._fail(error)
        self._next()

    def _encode(self, plan: Plan, batch: Batch, index: int) -> None:
        served, request, self._request = plan.served, self._request, None
        if served is None or request is None:
            return
        spec = served.model.spec
        outputs = dict(zip(spec.output_names, batch.arrays(index), strict=True))
        try:
            for place, data in shared_outputs(spec, request, outputs):
                self._hub.site.regions.write(place, data)
            response = encode_response(spec, served.version, request, outputs)
        except TailcutError as error:
            self._fail(error)
            return
        headers = None if response.json_size is None else {"Inference-Header-Content-Length": str(response.json_size)}
        length = sum(len(part) for part in response.body_parts)
        kind = JSON if response.json_size is None else BINARY
        start = head(200, length, content_type=kind, close=self._closing(), headers=headers)
        self._reply(b"".join([start, *response.body_parts]), 200)

    def _answer(self, plan: Plan) -> None:
        try:
            answer = plan.handler(self._hub.site, *plan.arguments)  # type: ignore[misc]  # ANSWER plans have one
        except Refusal as refusal:
            answer = error_reply(refusal.status, refusal.message, close=self._closing(), headers=refusal.headers)
        self._reply(answer, int(answer[9:12]))

    # Answers.

    def _closing(self) -> bool:
        return self._hub.draining or not self._plan.head.keep_alive

    def _fail(self, error: TailcutError) -> None:
        answer = failure_reply(error, close=self._closing())
        if answer[9:10] == b"5":
            _log.warning("%s", error)
        self._reply(answer, int(answer[9:12]))

    def _reply(self, answer: bytes, status: int) -> None:
        """Write a whole answer; the message is out of hand."""
        hub = self._hub
        hub.site.counts.replies[status] += 1
        self._transport.write(answer)
        self._stage = Stage.HEAD
        self.idle_since = hub.now
        if self._closing():
            self._transport.close()

    def _next(self) -> None:
        """Go on with what was pipelined behind the last message."""
        if self._stage is Stage.HEAD and not self._paused and self._held and not self._transport.is_closing():
            data, self._held = self._held, b""
            self._transport.resume_reading()
            self._take(data, len(data))

    def _turn_away(self, why: Refusal | TailcutError, length: int, end: int, size: int) -> int:
        """Answer without the body: go on behind it where it is all here, else read it away and close."""
        if isinstance(why, Refusal):
            status, message, headers = why.status, why.message, why.headers
            answer = error_reply(status, message, close=length < 0 or end + length > size, headers=headers)
        else:
            answer = failure_reply(why, close=end + length > size)
            status = int(answer[9:12])
        if length < 0 or end + length > size or self._hub.draining:
            self._last_word(answer, status)
            return size
        self._hub.site.counts.replies[status] += 1
        self._transport.write(answer)
        return end + length

    def _refuse(self, status: int, message: str) -> None:
        """The framing is broken or out of time: one answer, and no more is understood on this connection."""
        self._last_word(error_reply(status, message, close=True), status)

    def _last_word(self, answer: bytes, status: int) -> None:
        self._drop_body()
        self._held = b""
        self._stage = Stage.LINGER
        self.due = self._hub.now + self._hub.limits.linger_s
        self._hub.site.counts.replies[status] += 1
        self._transport.write(answer)
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _drop_body(self) -> None:
        self._target = None
        self._chunked = None
        if self._body is not None:
            self._hub.site.counts.buffered_bytes -= len(self._body)
            self._body = None
        if self._row >= 0:
            self._plan.served.model.give_back(self._row, self._plan.rows)  # type: ignore[union-attr]
            self._row = -1


def _inflate(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """Undo gzip or deflate under the body limit."""
    inflater = zlib.decompressobj(wbits=47 if encoding == "gzip" else zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(body, limit_bytes + 1)
    except zlib.error:
        raise InvalidInputError(f"the body is not valid {encoding}") from None
    if len(plain) > limit_bytes:
        raise Refusal(413, f"the inflated body is over the limit of {limit_bytes} bytes")
    if not inflater.eof:
        raise InvalidInputError(f"the {encoding} body is cut short")
    return plain

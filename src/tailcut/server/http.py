"""One HTTP/1.1 connection: bytes from the loop into rows, answers back out. The only place that knows transports.

All connections of a loop read into one shared buffer, because the loop reads and calls back in one go; a body that does
not fit with its head is then received straight into its row or into a buffer of its own. One message is in hand at a
time; what a client pipelines behind it waits in `_held`.
"""

import asyncio
import logging
import time
import zlib
from collections.abc import Awaitable, Sequence
from enum import Enum, auto

import numpy as np

from tailcut.errors import InvalidInputError, QueueFullError, TailcutError
from tailcut.runtime.batch import Batch, Ticket
from tailcut.runtime.inputs import check_inputs
from tailcut.runtime.model import Model
from tailcut.server.access import trace_of_head, with_trace
from tailcut.server.admission import Kind, Plan
from tailcut.server.express import Group
from tailcut.server.hub import Hub
from tailcut.server.replies import CLOSE, CONTINUE, END, Refusal, error_reply, failure_reply, response_head
from tailcut.wire.http1 import ChunkedBody, Head, ProtocolError, check_partial
from tailcut.wire.v2 import (
    InferRequest,
    Schedule,
    encode_response,
    parse_lead,
    parse_request,
    schedule_of,
    shared_outputs,
)

_log = logging.getLogger("tailcut.http")
_now_ns = time.monotonic_ns  # one name to look up, five times a request
_HELD_BYTES = 64 * 1024  # pipelined behind a message in hand, before reading pauses
_QUESTION_BYTES = 64 * 1024  # the body of a question about the server
_JOIN_BYTES = 64 * 1024  # parts of an answer from this size on go to the kernel as they are
_STEADY = 3  # messages with one head in a row, and a client goes the short way
_LONG_WAY = 64  # messages before one that came back from there tries again
_SKIP_BYTES = 1 << 20  # of a refused body, read away so that the connection lives
_LINGER_BYTES = 64 << 20  # read away behind a refusal at most
_NO_PLAN = Plan(Kind.ANSWER, Head(b"", "", True, None, False, False, {}), 0)


class Stage(Enum):
    """What the next bytes are."""

    HEAD = auto()
    ROWS = auto()  # a body, into rows of the slab
    LEAD = auto()  # the JSON before a large tensor, which tells where the tensor may go
    BUFFER = auto()  # a body, into a buffer of its own
    CHUNKED = auto()
    ANSWER = auto()  # none expected: an answer is on its way
    SKIP = auto()  # the rest of a body that was refused, small enough to go on behind it
    LINGER = auto()  # whatever comes is read away, so that the refusal before it arrives


class HttpConnection(asyncio.BufferedProtocol):
    """The protocol of one accepted socket; its own sink for the answer to the message in hand."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._view = hub.receive_view
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any other callback
        self._stage = Stage.HEAD
        self._target: memoryview | None = None  # where a body's next bytes go, when not to the shared buffer
        self._held = b""
        self._plan = _NO_PLAN  # of the message in hand
        self._head = b""  # the bytes that it was planned from: the next message's head is mostly the same
        self._edition = -1  # of the hub's plans, when it was
        self._work: asyncio.Task[None] | None = None  # an answer that takes a while
        self._row = -1
        self._rows = 0
        self._body: np.ndarray | None = None
        self._lead = b""
        self._charged = 0  # bytes of `hub.site.counts.buffered_bytes` that are this connection's
        self._chunked: ChunkedBody | None = None
        self._ticket: Ticket | None = None
        self._request: InferRequest | None = None
        self._schedule = Schedule()  # of a request whose body is being received into rows
        self._began_ns = 0  # when the message in hand had its head
        self._encoded_ns = 0  # when its answer was ready to be written
        self._trail: tuple[int, ...] = ()  # of an answer that the client has not read yet
        self._lingered = 0
        self._skip = 0
        self._paused = False
        self.due = 0.0  # when patience with this client ends; 0: no limit runs
        self._idle_since = hub.now
        self.fd = -1  # of its socket while it goes the short way
        self._repeats = 0  # messages whose head was the one before's; far below 0 where the short way is not for it
        self._awaited: tuple[Group, int] | None = None  # the answer that it had not yet when it came back from there

    @property
    def busy(self) -> bool:
        """Whether a message is in hand, its body still arriving or its answer being computed."""
        if self.fd >= 0 and self._hub.express is not None:
            return self._hub.express.busy(self.fd)
        return self._stage is not Stage.HEAD or bool(self._held)

    @property
    def idle_since(self) -> float:
        """When the client was last heard or answered, in the loop's seconds; what counts only while it is not busy."""
        if self.fd >= 0 and self._hub.express is not None:
            return self._hub.express.seen(self.fd)
        return self._idle_since

    @property
    def fresh(self) -> bool:
        """Whether the client came just now and has not said anything yet."""
        return self._plan is _NO_PLAN and self._idle_since > self._hub.now - 1

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self.transport = transport  # type: ignore[assignment]  # asyncio promises a Transport for streams
        self._hub.enter(self)

    def connection_lost(self, error: Exception | None) -> None:
        """The client left: its work goes with it."""
        self._leave_express()
        if self._awaited is not None and self._hub.express is not None:
            self._hub.express.forget(*self._awaited)
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
        try:
            if self._target is not None:
                self._target = self._target[nbytes:]
                if not self._target:
                    self._body_complete()
            elif self._stage is not Stage.HEAD:
                self._take_beside(bytes(self._view[:nbytes]))
            elif self._held:
                data = self._held + bytes(self._view[:nbytes])
                self._held = b""
                self._take(data, len(data))
            else:
                self._take(self._hub.receive, nbytes)
        except Exception:  # noqa: BLE001  whatever one message does to us must cost its client only
            _log.exception("a message was not understood")
            self._refuse(500, "the server failed on this message")

    def eof_received(self) -> bool:
        """The client said goodbye: nothing more is owed to it."""
        return False

    def pause_writing(self) -> None:
        """The client does not read: it has so long to start, and nothing more of it is read meanwhile."""
        self._paused = True
        self.due = self._hub.now + self._hub.limits.write_timeout_s
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._paused = False
        if self._trail and self._plan.served is not None:
            trail, self._trail = self._trail, ()
            self._plan.served.timeline.record(*trail[:7], _now_ns(), *trail[7:], 200)
        self.due = self._hub.now + self._hub.limits.linger_s if self._stage is Stage.LINGER else 0.0
        if not self.transport.is_closing():
            self.transport.resume_reading()
            self._next()

    def overdue(self) -> None:
        """Patience ended: say so where somebody may listen, then close."""
        if self._paused or self._stage in {Stage.LINGER, Stage.SKIP} or (self._stage is Stage.HEAD and not self._held):
            self.transport.abort()
        else:
            self._refuse(408, "the request took too long to arrive")

    def close(self) -> None:
        """Close after what has been written, which the client has so long to read."""
        self._leave_express()
        self._stage = Stage.LINGER
        self.due = self._hub.now + self._hub.limits.write_timeout_s
        self.transport.close()

    # A message's way: head, body, answer.

    def _take(self, data: bytes | bytearray, size: int) -> None:
        """Handle the messages in data[:size]; what is left of an unfinished one is held."""
        at = 0
        while at < size and self._stage is Stage.HEAD and not self._paused:
            end = at + len(self._head)
            if end <= size and self._edition == self._hub.edition and data.startswith(self._head, at):
                self._repeats += 1
                if self._repeats >= _STEADY and not at and self._board_express(data, end, size):
                    return
                at = self._begin(self._plan, data, end, size)
                continue
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
            self._repeats = min(self._repeats, 0)
            at = self._message(bytes(memoryview(data)[at:end]), data, end, size)
        if at < size:
            self._held = bytes(data[at:size])

    def _board_express(self, data: bytes | bytearray, end: int, size: int) -> bool:
        """A client that repeats itself goes the short way from now on, where there is one for it."""
        plan, express = self._plan, self._hub.express
        if express is not None and size == end + plan.length:
            self._repeats = 0
            if express.join(self, plan, self._head, memoryview(data)[end:size]):
                return True
            self._repeats = -_LONG_WAY
        return False

    def _leave_express(self) -> None:
        if self.fd >= 0 and self._hub.express is not None:
            self._hub.express.leave(self)

    def returned(self, group: Group | None, number: int) -> None:
        """It does not go the short way any more; its answer may still be on it, as the `number`-th of a group."""
        self._repeats = -_LONG_WAY
        self._idle_since = self._hub.now
        if group is not None:
            self._stage = Stage.ANSWER
            self._awaited = group, number

    def answer_row(self, batch: Batch, row: int) -> None:
        """The answer that it waited for when it came back from the short way."""
        self._awaited = None
        plan = self._plan
        rows = [array[row : row + 1].tobytes() for array in batch.outputs]
        self._reply(plan.reply_head_close if self._closing() else plan.reply_head, 200, rows)
        self._next()

    def _message(self, key: bytes, data: bytes | bytearray, end: int, size: int) -> int:
        """Begin the message whose head ends at `end`; returns how far the data were used."""
        plan = self._hub.plans.get(key)
        self._edition = -1
        if plan is None:
            try:
                plan = self._hub.plan(key)
            except ProtocolError as error:
                self._refuse(error.status, error.message)
                return size
            except Refusal as refusal:
                self._plan = Plan(Kind.ANSWER, self._hub.refused_head, 0)
                return self._turn_away(refusal, self._hub.refused_length, end, size)
        self._plan = plan
        if key in self._hub.plans:
            self._head, self._edition = key, self._hub.edition
        return self._begin(plan, data, end, size)

    def _begin(self, plan: Plan, data: bytes | bytearray, end: int, size: int) -> int:
        """Go on behind the head."""
        self._view = self._hub.receive_view
        self._began_ns = _now_ns()
        self.due = 0.0
        stop = end + plan.length
        if plan.kind is Kind.ROWS:
            return self._begin_rows(plan, data, end, min(stop, size))
        if stop <= size and not plan.head.chunked:
            body = memoryview(data)[end:stop]
            if plan.kind is Kind.ANSWER:
                self._answer(plan, bytes(body))
            elif plan.served is not None and plan.served.model.slab is not None:
                self._infer(plan, body)  # its tensors are copied into rows before anything else is received
            else:
                self._infer(plan, bytes(body))
            return stop
        return self._begin_buffer(plan, data, end, size)

    def _begin_rows(self, plan: Plan, data: bytes | bytearray | memoryview, end: int, stop: int) -> int:
        """A body of whole rows: all here, copied once; else received into rows or, when short, into a buffer."""
        hub = self._hub
        model = plan.served.model  # type: ignore[union-attr]  # ROWS plans have one
        whole = stop - end == plan.length
        refusal = plan.refusal
        if refusal is not None and self._began_ns < refusal.opens_ns:
            model.counts.refused += 1
            hub.rest_soon(model)
            return self._turn_away(refusal, plan.length, end, stop)
        try:
            if whole:
                schedule = plan.schedule
                ticket = Ticket(
                    self, hub.home, plan.rows, -1, hub.deadline(schedule.timeout_ns, self._began_ns), schedule.priority
                )
                model.submit_body(ticket, memoryview(data)[end:stop])
                self._ticket = ticket
                self._stage = Stage.ANSWER
                hub.home.kick_soon(model)
                return stop
            schedule = self._schedule = plan.schedule  # what cannot be computed in time is not received either
            model.admit(plan.rows, hub.deadline(schedule.timeout_ns, self._began_ns), schedule.priority)
            begun = memoryview(data)[end:stop]
            if plan.length < hub.direct_bytes or not self._receive_rows(plan.rows, begun, plan.length):
                return self._begin_buffer(plan, data, end, stop)
        except QueueFullError as error:
            plan.refusal = error.with_traceback(None)  # whose frames would keep what they hold
            return self._turn_away(error, plan.length, end, stop)
        except TailcutError as error:
            return self._turn_away(error, plan.length, end, stop)
        return stop

    def _receive_rows(self, rows: int, begun: memoryview, length: int) -> bool:
        """Lend rows and have the rest of their `length` bytes received into them; not while rows are scarce.

        Raises:
            QueueFullError: no rows are free.
        """
        model = self._plan.served.model  # type: ignore[union-attr]  # only plans that have one come here
        slab = model.slab
        if slab is None or slab.in_use > slab.rows // 2:  # slow uploads must not hold what others could compute on
            return False
        row = self._row = model.reserve(rows, apart=True)
        self._rows = rows
        start = row * slab.row_bytes[0]
        view = slab.input_bytes[0][start : start + length]
        view[: len(begun)] = begun
        self._expect_body(Stage.ROWS, view[len(begun) :])
        self._view = self._hub.head_view  # the next one is mostly like it: read its head, and hardly any of its body
        return True

    def _begin_buffer(self, plan: Plan, data: bytes | bytearray | memoryview, end: int, size: int) -> int:
        """A body that must be collected first: bounded alone and together with all others."""
        hub = self._hub
        limit = hub.limits.body_bytes if plan.kind is not Kind.ANSWER else _QUESTION_BYTES
        if plan.length > limit:
            return self._turn_away(Refusal(413, f"this path takes {limit} bytes at most"), plan.length, end, size)
        if plan.served is not None:
            try:
                plan.served.model.admit(1)
            except TailcutError as error:
                return self._turn_away(error, plan.length, end, size)
        if hub.site.counts.buffered_bytes + plan.length > hub.limits.buffered_bytes:
            return self._turn_away(_too_many_bodies(), plan.length, end, size)
        if plan.head.chunked:
            self._chunked = ChunkedBody(limit)
            self._expect_body(Stage.CHUNKED, None)
            return size - len(self._take_chunks(bytes(data[end:size])))
        if plan.direct and plan.length >= hub.direct_bytes:
            self._lead = bytes(data[end:size])
            self._expect_body(Stage.LEAD, None)
            self._take_lead()
            return size
        self._collect(memoryview(data)[end:size])
        return size

    def _collect(self, begun: memoryview) -> None:
        """Have the rest of a body that has begun received into a buffer of its own."""
        length = self._plan.length
        self._charge(length)
        self._body = np.empty(length, np.uint8)  # not a bytearray: that would be zeroed first
        view = self._body.data
        view[: len(begun)] = begun
        self._expect_body(Stage.BUFFER, view[len(begun) :])

    def _take_lead(self) -> None:
        """Once the JSON of a binary body is here: its only tensor goes into rows, any other body into a buffer."""
        plan, lead = self._plan, self._lead
        json_size = plan.json_size or 0
        if len(lead) < min(json_size, plan.length):
            return
        self._lead, self._held = b"", lead[plan.length :]
        lead = lead[: plan.length]
        model = plan.served.model  # type: ignore[union-attr]  # only plans that have one come here
        begun, size = memoryview(lead)[json_size:], plan.length - json_size
        try:
            direct = parse_lead(model.spec, lead[:json_size], size)
            schedule = schedule_of(direct.request.parameters, plan.schedule) if direct is not None else plan.schedule
        except InvalidInputError:
            direct = None  # the whole body will be told why
        try:
            if direct and direct.rows <= model.max_batch and self._receive_rows(direct.rows, begun, size):
                self._request = direct.request
                self._schedule = schedule
        except TailcutError as error:
            self._last_word(failure_reply(error, close=True))
            return
        if self._stage is Stage.LEAD:
            self._collect(memoryview(lead))
        if not self._target:
            self._body_complete()

    def _expect_body(self, stage: Stage, target: memoryview | None) -> None:
        self._stage = stage
        self._target = target
        if not self.due:  # a body has one time limit, whichever ways it goes
            self.due = self._hub.now + self._hub.limits.body_timeout_s
            if self._plan.head.expects_continue:
                self.transport.write(CONTINUE)

    def _body_complete(self) -> None:
        self.due = 0.0
        self._target = None
        plan = self._plan
        if self._stage is Stage.ROWS:
            row, self._row = self._row, -1
            model = plan.served.model  # type: ignore[union-attr]  # ROWS plans have one
            schedule = self._schedule
            deadline = self._hub.deadline(schedule.timeout_ns)
            ticket = self._ticket = Ticket(self, self._hub.home, self._rows, row, deadline, schedule.priority)
            self._stage = Stage.ANSWER
            try:
                model.admit(ticket.count, deadline, schedule.priority)  # others may have come first meanwhile
                model.submit(ticket)
            except TailcutError as error:
                self._ticket = None
                model.forget(ticket)
                self._fail(error)
            else:
                self._hub.home.kick_soon(model)
            return
        body = self._body.data if self._body is not None else memoryview(b"")
        self._drop_body()
        self._stage = Stage.HEAD
        if plan.kind is Kind.ROWS:
            self._begin_rows(plan, body, 0, len(body))
        elif plan.kind is Kind.ANSWER:
            self._answer(plan, bytes(body))
        else:
            self._infer(plan, body)
        self._next()

    def _take_beside(self, data: bytes) -> None:
        """Bytes that are neither a head nor a plain body."""
        if self._stage is Stage.CHUNKED:
            self._held = self._take_chunks(data)
            self._next()
        elif self._stage is Stage.LEAD:
            self._lead += data
            self._take_lead()
        elif self._stage is Stage.SKIP:
            self._held = data[self._skip :]
            self._skip = max(0, self._skip - len(data))
            if not self._skip:
                self.due = 0.0
                self._stage = Stage.HEAD
                self._next()
        elif self._stage is Stage.LINGER:
            self._lingered += len(data)
            if self._lingered > _LINGER_BYTES:
                self.transport.abort()
        else:
            self._held += data
            if len(self._held) > _HELD_BYTES:
                self.transport.pause_reading()

    def _take_chunks(self, data: bytes) -> bytes:
        """A piece of a chunked body; returns what stands behind its end."""
        chunked = self._chunked
        if chunked is None:
            return b""
        try:
            rest = chunked.feed(data)
        except ProtocolError as error:
            self._refuse(error.status, error.message)
            return b""
        self._charge(len(chunked.body) - self._charged)
        if self._hub.site.counts.buffered_bytes > self._hub.limits.buffered_bytes:
            busy = _too_many_bodies()
            self._last_word(error_reply(busy.status, busy.message, close=True, headers=busy.headers))
            return b""
        if chunked.done:
            self.due = 0.0
            self._drop_body()
            self._stage = Stage.HEAD
            if self._plan.kind is Kind.ANSWER:
                self._answer(self._plan, bytes(chunked.body))
            else:
                self._infer(self._plan, chunked.body)
        return rest

    def _infer(self, plan: Plan, body: bytes | bytearray | memoryview) -> None:
        """Parse a whole body, check it against the model and queue it."""
        served = plan.served
        if served is None:
            return
        try:
            if plan.encoding:
                body = _inflate(body, plan.encoding, self._hub.limits.body_bytes)
            self._knock(served.model, plan, body)
            request = parse_request(served.model.spec, body, plan.json_size, self._hub.site.regions)
            arrays, rows = check_inputs(served.model.spec, request.inputs)
            schedule = schedule_of(request.parameters, plan.schedule)
            deadline = self._hub.deadline(schedule.timeout_ns)
            self._request = request
            self._stage = Stage.ANSWER
            self._ticket = served.model.start(arrays, rows, self, self._hub.home, deadline, priority=schedule.priority)
        except Refusal as refusal:
            self._reply(error_reply(refusal.status, refusal.message, close=self._closing()), refusal.status)
        except TailcutError as error:
            self._fail(error)
        else:
            self._hub.home.kick_soon(served.model)

    def _knock(self, model: Model, plan: Plan, body: bytes | bytearray | memoryview) -> None:
        """Refuse what will be refused before its body is parsed, except where the body may name a time of its own.

        Raises:
            QueueFullError: too much is waiting already, or the deadline cannot be met.
        """
        if model.waiting_rows:
            lead = bytes(body[: plan.json_size])
            named = b"timeout" in lead or b"priority" in lead or b"\\" in lead
            model.admit(1, 0 if named else self._hub.deadline(plan.schedule.timeout_ns), plan.schedule.priority)

    def complete(self, ticket: Ticket, batch: Batch, index: int) -> None:
        """The engine has answered."""
        handed_ns = self._encoded_ns = _now_ns()
        self._ticket = None
        plan = self._plan
        began_ns = self._began_ns
        self._hub.count_latency(batch.ended_ns - ticket.ready_ns)
        if plan.kind is Kind.ROWS:
            start = plan.reply_head if plan.head.keep_alive and not self._hub.draining else plan.reply_head_close
            if len(batch.outputs) == 1:
                blob = batch.blob(index)
                if len(blob) < _JOIN_BYTES:
                    self._reply(start + blob, 200)
                else:
                    self._reply(start, 200, [blob])
            else:
                self._reply(start, 200, [batch.blob(index, output) for output in range(len(batch.outputs))])
        else:
            self._encode(plan, batch, index)
        if self._paused:  # the client does not read: when its answer is out is seen later
            moments = (began_ns, ticket.ready_ns, batch.formed_ns, batch.began_ns, batch.ended_ns)
            self._trail = (*moments, handed_ns, self._encoded_ns, ticket.count, batch.rows, plan.length)
        else:
            plan.served.timeline.record(  # type: ignore[union-attr]  # who asked a model has one
                began_ns,
                ticket.ready_ns,
                batch.formed_ns,
                batch.began_ns,
                batch.ended_ns,
                handed_ns,
                self._encoded_ns,
                _now_ns(),
                ticket.count,
                batch.rows,
                plan.length,
                200,
            )
        if self._hub.spin_ns:
            self._hub.stay_awake(batch.ended_ns)
        if self._held:
            self._next()

    def fail(self, ticket: Ticket, error: TailcutError) -> None:
        """There will be no answer."""
        self._ticket = self._awaited = None
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
            self._encoded_ns = _now_ns()
        except TailcutError as error:
            self._fail(error)
            return
        except Exception:  # noqa: BLE001  the client must not wait for ever for an answer that nobody can write
            _log.exception("the answer of model %r could not be written", spec.name)
            self._reply(error_reply(500, "the answer could not be written", close=self._closing()), 500)
            return
        length = sum(len(part) for part in response.body_parts)
        start = response_head(length, response.json_size, close=self._closing())
        self._reply(start, 200, response.body_parts)

    def _answer(self, plan: Plan, body: bytes) -> None:
        try:
            if plan.encoding:
                body = _inflate(body, plan.encoding, _QUESTION_BYTES)
            arguments = (body, *plan.arguments) if plan.takes_body else plan.arguments
            answer = plan.handler(self._hub.site, *arguments)  # type: ignore[misc]  # ANSWER plans have one
        except (Refusal, TailcutError) as error:
            answer = _refused(error)
        if isinstance(answer, bytes):
            self._tell(plan, answer)
            return
        self._stage = Stage.ANSWER
        self._work = self._hub.loop.create_task(self._answer_later(plan, answer))

    async def _answer_later(self, plan: Plan, coming: Awaitable[bytes]) -> None:
        """The answer of work that takes a while: it goes on where the client leaves."""
        try:
            answer = await coming
        except (Refusal, TailcutError) as error:
            answer = _refused(error)
        if not self.transport.is_closing():
            self._tell(plan, answer)
            self._next()

    def _tell(self, plan: Plan, answer: bytes) -> None:
        if plan.head.method == b"HEAD":
            answer = answer[: answer.index(END) + len(END)]
        if self._closing():
            answer = answer.replace(END, CLOSE, 1)
        self._reply(answer, int(answer[9:12]))

    # Answers.

    def _closing(self) -> bool:
        return self._hub.draining or not self._plan.head.keep_alive

    def _fail(self, error: TailcutError) -> None:
        answer = failure_reply(error, close=self._closing())
        if answer[9:10] == b"5":
            _log.warning("%s", with_trace(str(error), trace_of_head(self._plan.head)))
        self._reply(answer, int(answer[9:12]))

    def _reply(self, answer: bytes, status: int, parts: Sequence[bytes] = ()) -> None:
        """Write a whole answer, whose parts are joined where that is cheaper; the message is out of hand."""
        hub = self._hub
        size = len(answer)
        if parts:
            size += sum(map(len, parts))
            if size < _JOIN_BYTES:
                self.transport.write(b"".join([answer, *parts]))
            else:
                self.transport.writelines([answer, *parts])
        else:
            self.transport.write(answer)
        if hub.access:
            hub.count_reply(self._plan.head, status, size, self._began_ns)
        else:
            hub.site.counts.replies[status] += 1
        self._stage = Stage.HEAD
        self._idle_since = hub.now
        if hub.draining or not self._plan.head.keep_alive:
            self.close()

    def _next(self) -> None:
        """Go on with what was pipelined behind the last message."""
        if self._stage is Stage.HEAD and not self._paused and self._held and not self.transport.is_closing():
            data, self._held = self._held, b""
            self.transport.resume_reading()
            self._take(data, len(data))

    def _turn_away(self, why: Refusal | TailcutError, length: int, end: int, size: int) -> int:
        """Answer without the body: go on behind it where it is all here, else read it away and close."""
        over = length < 0 or end + length > size + _SKIP_BYTES or self._closing() or self._plan.head.expects_continue
        if isinstance(why, Refusal):
            answer = error_reply(why.status, why.message, close=over, headers=why.headers)
        else:
            answer = failure_reply(why, close=over)
        if over:
            self._last_word(answer)
            return size
        self._hub.count_reply(self._plan.head, int(answer[9:12]), len(answer), self._began_ns)
        self.transport.write(answer)
        self._skip = max(0, end + length - size)
        if self._skip:
            self._stage = Stage.SKIP
            self.due = self._hub.now + self._hub.limits.body_timeout_s
        return min(end + length, size)

    def _refuse(self, status: int, message: str) -> None:
        """The framing is broken or out of time: one answer, and no more is understood on this connection."""
        self._last_word(error_reply(status, message, close=True))

    def _last_word(self, answer: bytes) -> None:
        self._drop_body()
        self._held = b""
        self._stage = Stage.LINGER
        self.due = self._hub.now + self._hub.limits.linger_s
        self._hub.count_reply(self._plan.head, int(answer[9:12]), len(answer), self._began_ns)
        if self.transport.is_closing():
            return
        self.transport.write(answer)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _charge(self, size: int) -> None:
        self._charged += size
        self._hub.site.counts.buffered_bytes += size

    def _drop_body(self) -> None:
        self._target = None
        self._chunked = None
        self._body = None
        self._lead = b""
        self._charge(-self._charged)
        if self._row >= 0:
            self._plan.served.model.give_back(self._row, self._rows)  # type: ignore[union-attr]
            self._row = -1


def _too_many_bodies() -> Refusal:
    return Refusal(503, "too many bodies are arriving now", {"Retry-After": "1"})


def _refused(error: Refusal | TailcutError) -> bytes:
    """The answer to a question that is not answered."""
    if isinstance(error, Refusal):
        return error_reply(error.status, error.message, headers=error.headers)
    return failure_reply(error)


def _inflate(body: bytes | bytearray | memoryview, encoding: str, limit_bytes: int) -> bytes:
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

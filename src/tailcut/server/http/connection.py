"""One HTTP/1.1 connection on the loop: what its socket brings goes to `wire/http1`, and what that reads is done here.

All connections of a loop read into one shared buffer, because the loop reads and calls back in one go; a body that does
not fit with its head is then received straight into its row or into a buffer of its own. Inferences are those of an
`Exchange`: this module gives it requests and writes its answers, answers everything else, and bounds what a client may
take: time, memory, and what it does not read.
"""

import asyncio
import logging
import select
import time
import zlib
from collections.abc import Awaitable, Generator, Mapping, Sequence
from functools import partial

import numpy as np

from tailcut.errors import InvalidInputError, QueueFullError, TailcutError
from tailcut.runtime.request import Batch
from tailcut.server.access_log import trace_of_head, with_trace
from tailcut.server.exchange import Exchange
from tailcut.server.http.plan import NO_PLAN, Kind, Plan, find_plan
from tailcut.server.http.replies import Refusal, failure_reply, refusal_reply, response_head, retry_after
from tailcut.server.limits import QUESTION_BYTES
from tailcut.server.metrics import ServerCounts
from tailcut.server.state import ServerState
from tailcut.server.step_runner import LITTLE_BYTES
from tailcut.wire.http1.connection import LINGER_BYTES, Body, Broken, Http1Connection, Request, State
from tailcut.wire.http1.response import CLOSE, CONTINUE, END, dated
from tailcut.wire.inflate import AUTO, inflate, inflate_in_steps
from tailcut.wire.v2 import InferRequest, Response, encode_response, parse_lead, parse_request, schedule_of
from tailcut.wire.v2.steps import AT_ONCE_BYTES, STEP_ELEMENTS, request_in_steps, response_in_steps
from tailcut.wire.v2.tensors import STEP_STRINGS

WAITS_S = 1.0  # how long a client that sends nothing more waits before it is asked whether it is there
LONG_WAY = 64  # messages before one that came back from the fast path tries it again
_STEADY = 3  # messages with one plan in a row, and a client takes the fast path
_HELD_BYTES = 64 * 1024  # pipelined behind a message in hand, before reading pauses
_JOIN_BYTES = 64 * 1024  # parts of an answer from this size on go to the kernel as they are
_LOOK_BYTES = 256 * 1024  # looked through between two pauses
_WBITS = {"gzip": AUTO, "deflate": zlib.MAX_WBITS}
_IDLE, _HEAD, _CHUNKS, _SKIP = State.IDLE, State.HEAD, State.CHUNKS, State.SKIP
_ANSWER, _LINGER = State.ANSWER, State.LINGER

_log = logging.getLogger("tailcut.http")
_now_ns = time.monotonic_ns  # one name to look up


class HttpConnection(asyncio.BufferedProtocol):
    """The protocol of one accepted socket; its exchange's side."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._wire: Http1Connection[Plan] = Http1Connection(partial(find_plan, state))
        self._exchange = Exchange(state, self)
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any other callback
        self._view = state.receive_view
        self._target: memoryview | None = None  # where a body's next bytes go, when not to the shared buffer
        self._body: np.ndarray | None = None  # of which that is a part; None: of rows
        self._began_ns = 0  # when the message in hand had its head
        self._work: asyncio.Task[None] | None = None  # an answer that takes a while
        self._unsent = False  # an inference has been answered, and its client has not read the answer yet
        self._charged = 0  # bytes of `context.counts.buffered_bytes` that are this connection's
        self._unread = 0  # bytes of answers that wait for the client to read, charged like bodies
        self._paused = False
        self._pipelines = False  # and waits for time behind those that do not
        self._queued = False  # for time on the loop, with the messages that the wire holds
        self._asked = False  # whether a client that sends nothing more is there
        self.due = 0.0  # when this client's time limit passes; 0: no limit runs
        self._idle_since = state.now
        self.fd = -1  # of its socket while it takes the fast path
        self._owed: int | None = None  # the answer that it had not yet when it came back from there

    @property
    def busy(self) -> bool:
        """Whether a message is in hand, its body still arriving or its answer being computed."""
        if self.fd >= 0 and self._state.fast_path is not None:
            return self._state.fast_path.busy(self.fd)
        return self._wire.busy

    @property
    def idle_since(self) -> float:
        """When the client was last heard or answered, in the loop's seconds; what counts only while it is not busy."""
        if self.fd >= 0 and self._state.fast_path is not None:
            return self._state.fast_path.seen(self.fd)
        return self._idle_since

    @property
    def fresh(self) -> bool:
        """Whether the client came just now and has not said anything yet."""
        return self._wire.meaning is None and self._idle_since > self._state.now - 1

    @property
    def _plan(self) -> Plan:
        """Of the message in hand, or of the last one."""
        return self._wire.meaning or NO_PLAN

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self.transport = transport  # type: ignore[assignment]  # asyncio promises a Transport for streams
        self._state.enter(self)

    def connection_lost(self, error: Exception | None) -> None:
        """The client left: its work goes with it."""
        self._leave_fast_path()
        if self._owed is not None and self._state.fast_path is not None:
            self._state.fast_path.forget(self._owed)
        self._state.leave(self)
        self._hold_unread(0)
        self._drop()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the kernel may write next."""
        if self._target is not None:
            return self._target
        return self._state.head_view if self._state.steps.is_over else self._view

    def buffer_updated(self, nbytes: int) -> None:
        """The kernel wrote."""
        try:
            if self._target is not None:
                self._receive_body(self._target, nbytes)
            else:
                self._hear(self._wire.receive(self._state.receive, nbytes))
        except Exception:  # noqa: BLE001  whatever one message does to us must cost its client only
            self._give_up()

    def eof_received(self) -> bool:
        """The client sends nothing more: what it has asked for is answered, where it can still read.

        A client that has closed altogether may look the same: `_look_for_client` tells them apart.
        """
        if self._wire.state >= _LINGER or _is_gone(self.transport):
            return False
        self._wire.ended = True
        self._finish()
        return True

    def pause_writing(self) -> None:
        """The client does not read: it has so long for all that was written, and nothing of it is read meanwhile."""
        self._paused = True
        self._hold_unread(self.transport.get_write_buffer_size())
        self.due = self._state.now + self._state.limits.write_s(self._unread)
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._paused = False
        self._hold_unread(0)
        if self._unsent:
            self._unsent = False
            self._exchange.sent()
        self.due = self._state.now + self._state.limits.linger_s if self._wire.state >= _LINGER else 0.0
        if not self.transport.is_closing():
            self._read_on()
            self._next()

    def overdue(self) -> None:
        """A time limit has passed: say so where the client may still read, then close."""
        state = self._wire.state
        if self._paused or state >= _LINGER or state is _SKIP or not self._wire.busy:
            self.transport.abort()
        elif self._wire.ended:
            self._look_for_client()
        else:
            self._refuse(408, "the request took too long to arrive")

    def _look_for_client(self) -> None:
        """Drop the work of a client that has closed; over TCP, only what is sent to it brings out whether it has.

        An interim answer is sent, which every client of HTTP/1.1 reads past, and which a closed socket answers by a
        reset. Otherwise clients that give up under load would fill the queue with work that no client waits for.
        """
        if _is_gone(self.transport):
            self.transport.abort()
            return
        self._asked = not self._asked and self._plan.head.interim
        if self._asked:
            self.transport.write(CONTINUE)
        self.due = self._state.now + (0.0 if self._asked else WAITS_S)

    # What the client sends.

    def _hear(self, unread: bool) -> None:  # noqa: FBT001  as the wire says
        """Do what the wire reads, while there is time; it holds the rest."""
        wire, steps = self._wire, self._state.steps
        read = waits = False
        while unread and not self._paused:
            if not steps.has_time():
                waits = True
                break
            event = wire.next_event()
            if event is None:
                break
            read = True
            if type(event) is Request:
                self._begin(event.meaning, event.body, whole=event.whole)
            elif type(event) is Body:
                self._take(event)
            elif type(event) is Broken:
                self._refuse(event.status, event.message)
            if wire.state is _ANSWER:  # nothing is read before that
                if not wire.keeps:
                    return
                break
            unread = wire.unread
        self._hold(read=read, waits=waits)

    def _hold(self, *, read: bool, waits: bool) -> None:
        """Have the wire hold what is left, and see how long the client has for what it sends."""
        wire, steps = self._wire, self._state.steps
        held, state = wire.hold(), wire.state
        if held:
            self._pipelines = self._pipelines or read or state is _ANSWER
            if state is _ANSWER and (held > _HELD_BYTES or steps.is_over):
                self.transport.pause_reading()
        if waits:
            self._wait_for_time(held)
        if state is _HEAD:
            self.due = self.due or self._state.now + self._state.limits.head_timeout_s
        elif state is _IDLE:
            if not self._paused:
                self.due = 0.0
        elif state is _CHUNKS:
            self._charge_chunks()
        elif wire.lingered > LINGER_BYTES:
            self.transport.abort()

    def _wait_for_time(self, size: int) -> None:
        """Go on with so many bytes when others have had their turn; nothing more is read meanwhile."""
        self.transport.pause_reading()
        if not self._queued:
            self._queued = True
            self._state.steps.later(self._go_on, begun=self._pipelines or size > LITTLE_BYTES)

    def _go_on(self) -> None:
        self._queued = False
        try:
            self._next()
        except Exception:  # noqa: BLE001  as in buffer_updated
            self._give_up()

    def _next(self) -> None:
        """Go on with what was pipelined behind the last message."""
        wire = self._wire
        if wire.held and wire.state <= _SKIP and not self._paused and not self.transport.is_closing():
            self._read_on()
            self._hear(wire.receive(b"", 0))
        if wire.ended:
            self._finish()

    def _read_on(self) -> None:
        if not self._wire.ended:
            self.transport.resume_reading()

    def _begin(self, plan: Plan, body: memoryview, *, whole: bool) -> None:
        """A message whose head was read, with what is here of its body."""
        self._view = self._state.receive_view
        self._exchange.began_ns = self._began_ns = _now_ns()
        self._exchange.length = plan.length
        self.due = 0.0
        if plan.kind is Kind.ROWS:
            steady = whole and self._wire.repeats >= _STEADY and self._state.fast_path is not None
            if not (steady and self._takes_fast_path(plan, body)):
                self._begin_rows(plan, body, whole=whole)
        elif plan.why is not None:
            self._turn_away(plan.why)
        elif whole:
            self._use(plan, body)
        else:
            self._begin_buffer(plan, body)

    def _takes_fast_path(self, plan: Plan, body: memoryview) -> bool:
        """A client that repeats itself takes the fast path from now on, where there is one for it."""
        wire, fast_path = self._wire, self._state.fast_path
        if fast_path is None or wire.ended or wire.more:
            return False
        wire.repeats = 0
        if fast_path.join(self, plan, wire.head, body):
            wire.answered()
            return True
        wire.repeats = -LONG_WAY
        return False

    def _begin_rows(self, plan: Plan, body: memoryview, *, whole: bool) -> None:
        """A body of whole rows: all here, copied once; else received into rows or, when short, into a buffer."""
        state, served, schedule, refusal = self._state, plan.of_model, plan.schedule, plan.refusal
        if refusal is not None and self._began_ns < refusal.opens_ns:
            served.entry.counts.refuse(1, refusal)
            state.rest_soon(served.entry)
            self._turn_away(refusal)
            return
        deadline_ns = state.deadline(schedule.timeout_ns, self._began_ns)
        try:
            if whole:
                self._exchange.submit_bodies(served, plan.rows, (body,), schedule, deadline_ns)
                return
            # What cannot be computed in time is not received either.
            served.entry.admit(plan.rows, deadline_ns, schedule.priority)
            if plan.length >= state.direct_bytes and self._receive_rows(plan, plan.rows, body, plan.length):
                self._exchange.schedule = schedule
                return
        except QueueFullError as error:
            plan.refusal = error.without_frames()
            self._turn_away(error)
        except TailcutError as error:
            self._turn_away(error)
        else:
            self._begin_buffer(plan, body)

    def _begin_buffer(self, plan: Plan, begun: memoryview) -> None:
        """A body that must be collected first: bounded alone and together with all others."""
        state, wire = self._state, self._wire
        try:
            if plan.served is not None and plan.length <= plan.limit:
                plan.served.entry.admit(1)
        except TailcutError as error:
            self._turn_away(error)
            return
        if plan.length > plan.limit:
            self._turn_away(Refusal(413, f"this path takes {plan.limit} bytes at most"))
            return
        if state.context.counts.buffered_bytes + plan.length > state.limits.buffered_bytes:
            self._turn_away(_too_many_bodies(self._state.context.counts))
            return
        if plan.head.chunked:
            wire.chunks(plan.limit)
        elif plan.direct and plan.length >= state.direct_bytes:
            wire.waits_for(plan.json_size or 0)
        else:
            self._collect(plan, begun)
            return
        self._expect_body()

    def _take(self, body: Body) -> None:
        """A body that the wire has collected, or the JSON before a large tensor, which says where that may go."""
        plan = self._plan
        if body.whole:
            self.due = 0.0
            self._charge(-self._charged)
            self._use(plan, memoryview(body.data))
            return
        model, json_size = plan.of_model.model, plan.json_size or 0
        data, size = memoryview(body.data), plan.length - json_size
        try:
            direct = parse_lead(model.spec, bytes(data[:json_size]), size)
            schedule = schedule_of(direct.request.parameters, plan.schedule) if direct is not None else plan.schedule
        except InvalidInputError:
            direct = None  # the whole body will be told why
        try:
            if (
                direct
                and direct.rows <= plan.of_model.entry.max_batch_size
                and self._receive_rows(plan, direct.rows, data[json_size:], size)
            ):
                self._exchange.request, self._exchange.schedule = direct.request, schedule
                return
        except TailcutError as error:
            self._last_word(failure_reply(error, close=True))
            return
        self._collect(plan, data)

    def _receive_rows(self, plan: Plan, rows: int, begun: memoryview, size: int) -> bool:
        """Have the rest of the `size` bytes of rows received where the engine reads them; not while rows are scarce.

        Raises:
            QueueFullError: no rows are free.
        """
        memory = self._exchange.lend(plan.of_model, rows, size)
        if memory is None:
            return False
        memory[: len(begun)] = begun
        self._receive_into(memory[len(begun) :])
        self._view = self._state.head_view  # the next one is mostly like it: read its head, and hardly any of its body
        return True

    def _collect(self, plan: Plan, begun: memoryview) -> None:
        """Have the rest of a body that has begun received into a buffer of its own."""
        self._charge(plan.length)
        self._body = np.empty(plan.length, np.uint8)  # not a bytearray: that would be zeroed first
        self._body.data[: len(begun)] = begun
        self._receive_into(self._body.data[len(begun) :])

    def _receive_into(self, target: memoryview) -> None:
        self._wire.wants()
        self._target = target
        self._expect_body()

    def _expect_body(self) -> None:
        if not self.due:  # a body has one time limit, whichever ways it goes
            self.due = self._state.now + self._state.limits.body_timeout_s
            if interim := self._wire.interim:
                self.transport.write(interim)

    def _receive_body(self, target: memoryview, nbytes: int) -> None:
        """The kernel wrote bytes of a body where it belongs."""
        if self._wire.received(nbytes):
            self._target = target[nbytes:]
            return
        self.due = 0.0
        self._target = None
        body, self._body = self._body, None
        if body is None:
            try:
                self._exchange.submit_lent()
            except TailcutError as error:
                self._fail(error)
            return
        self._charge(-self._charged)
        self._use(self._plan, body.data)
        self._next()

    def _charge_chunks(self) -> None:
        self._charge(self._wire.collected - self._charged)
        if self._state.context.counts.buffered_bytes > self._state.limits.buffered_bytes:
            self._last_word(refusal_reply(_too_many_bodies(self._state.context.counts), close=True))

    # What is done with a message that is here.

    def _use(self, plan: Plan, body: memoryview) -> None:
        if plan.kind is Kind.ANSWER:
            self._answer(plan, bytes(body))
        elif plan.kind is Kind.ROWS:
            self._begin_rows(plan, body, whole=True)
        else:
            self._infer(plan, body)

    def _infer(self, plan: Plan, body: memoryview) -> None:
        """Parse a whole body, check it against the model and queue it."""
        served, state, exchange = plan.of_model, self._state, self._exchange
        large = len(body) > AT_ONCE_BYTES or plan.encoding is not None or not state.steps.has_time()
        if body.obj is state.receive and (large or served.entry.slab is None):
            body = memoryview(bytes(body))  # others are received there before it is read or computed
        if large:
            self._charge(len(body))
            begun = self._pipelines or len(body) > LITTLE_BYTES or plan.encoding is not None
            exchange.submit_in_steps(self._read_in_steps(plan, body), begun=begun)
            return
        try:
            if served.entry.waiting_rows:
                named = _names_time(bytes(body[: plan.json_size]))
                exchange.precheck(served.entry, plan.schedule, names_its_time=named)
            request = parse_request(served.model.spec, body, plan.json_size, state.context.regions)
            exchange.submit(served, request, plan.schedule)
        except TailcutError as error:
            self._fail(error)

    def _read_in_steps(self, plan: Plan, body: bytearray | memoryview) -> Generator[None, None, None]:
        """The same for a body that is large, or of unknown size."""
        served, state = plan.of_model, self._state
        model = served.model
        if plan.encoding:
            most = min(plan.limit, state.limits.buffered_bytes)
            body = yield from inflate_in_steps(body, most, self._charge_more, wbits=_WBITS[plan.encoding])
        if served.entry.waiting_rows:
            named = yield from _names_time_in_steps(memoryview(body)[: plan.json_size])
            self._exchange.precheck(served.entry, plan.schedule, names_its_time=named)
        request = yield from request_in_steps(model.spec, body, plan.json_size, state.context.regions)
        yield from self._exchange.checked_in_steps(served, request, plan.schedule)

    def _answer(self, plan: Plan, body: bytes) -> None:
        """A question about the server, answered at once or after a while."""
        try:
            if plan.encoding:
                body = inflate(body, QUESTION_BYTES, wbits=_WBITS[plan.encoding])
            arguments = (body, *plan.arguments) if plan.takes_body else plan.arguments
            answer = plan.handler(self._state.context, *arguments)  # type: ignore[misc]  # ANSWER plans have one
        except (Refusal, TailcutError) as error:
            answer = _refused(error)
        if isinstance(answer, bytes):
            self._tell(plan, answer)
            return
        self._work = self._state.loop.create_task(self._answer_later(plan, answer))

    async def _answer_later(self, plan: Plan, coming: Awaitable[bytes]) -> None:
        """The answer of work that takes a while: it goes on where the client leaves."""
        try:
            answer = await coming
        except (Refusal, TailcutError) as error:
            answer = _refused(error)
        if not self.transport.is_closing():
            self._tell(plan, answer)
            self._next()

    # What its exchange calls, and the fast path.

    def encode(self, batch: Batch, index: int) -> list[bytes] | Response | Generator[None, None, Response]:
        """The body of an answer: blobs where the request was nothing but rows."""
        request = self._exchange.request
        if request is None:
            if len(batch.outputs) == 1:
                return [batch.blob(index)]
            return [batch.blob(index, output) for output in range(len(batch.outputs))]
        served, exchange = self._exchange.served, self._exchange
        spec = served.model.spec
        outputs = exchange.outputs(batch, index, request)
        if _takes_long(request, outputs):
            self._charge(sum(array.nbytes for array in outputs.values()))
            return response_in_steps(spec, served.version, request, exchange.owned(request, outputs))
        return encode_response(spec, served.version, request, outputs)

    def submitted(self) -> None:
        """A large body has been read."""
        self._charge(-self._charged)

    def answered(self) -> bool:
        """The answer to an inference is there; whether it has gone out."""
        if self._charged:
            self._charge(-self._charged)
        state, wire = self._state, self._wire
        closing = state.draining or wire.closes
        answer: list[bytes] | Response = self._exchange.answer
        if isinstance(answer, Response):
            size = sum(map(len, answer.body_parts))
            self._reply(
                response_head(size, answer.json_size, state.date, close=closing),
                200,
                answer.body_parts,
                closing=closing,
            )
        else:
            plan = wire.meaning or NO_PLAN
            if plan.date is not state.date:
                plan.renew(state.date)
            self._reply(plan.reply_head_close if closing else plan.reply_head, 200, answer, closing=closing)
        self._unsent = self._paused  # when its answer is out is seen later
        return not self._paused

    def go_on(self) -> None:
        """The exchange is over."""
        if self._wire.held:
            self._next()

    def failed(self, error: TailcutError) -> None:
        """There will be no answer to an inference."""
        self._owed = None
        self._charge(-self._charged)
        self._fail(error)
        self._next()

    def returned(self, owed: int | None, head: bytes) -> None:
        """It no longer takes the fast path; `owed` is the answer that is still on its way there, `head` its last."""
        self._wire.head = head  # which means what the plan's does
        self._wire.repeats = -LONG_WAY
        self._idle_since = self._state.now
        if owed is not None:
            self._wire.owes()
            self._owed = owed

    def answer_row(self, batch: Batch, row: int) -> None:
        """The answer that it waited for when it came back from the fast path."""
        self._owed = None
        plan = self._plan
        plan.renew(self._state.date)
        rows = [array[row : row + 1].tobytes() for array in batch.outputs]
        closing = self._closing()
        self._reply(plan.reply_head_close if closing else plan.reply_head, 200, rows, closing=closing)
        self._next()

    def _leave_fast_path(self) -> None:
        if self.fd >= 0 and self._state.fast_path is not None:
            self._state.fast_path.leave(self)

    # What is written.

    def _closing(self) -> bool:
        return self._state.draining or self._wire.closes

    def _tell(self, plan: Plan, answer: bytes) -> None:
        if plan.head.method == b"HEAD":
            answer = answer[: answer.index(END) + len(END)]
        if self._closing():
            answer = answer.replace(END, CLOSE, 1)
        self._say(answer)

    def _fail(self, error: TailcutError) -> None:
        answer = failure_reply(error, close=self._closing())
        if answer[9:10] == b"5":
            _log.warning("%s", with_trace(str(error), trace_of_head(self._wire.head or self._plan.trace)))
        self._say(answer)

    def _say(self, answer: bytes) -> None:
        """Write a whole answer that has no date yet."""
        self._reply(dated(answer, self._state.date), int(answer[9:12]), closing=self._closing())

    def _reply(self, answer: bytes, status: int, parts: Sequence[bytes] = (), *, closing: bool) -> None:
        """Write a whole answer, whose parts are joined where that is cheaper; the message is out of hand."""
        state = self._state
        self._wire.answered()
        self._idle_since = state.now
        size = len(answer)
        if len(parts) == 1 and len(parts[0]) < _JOIN_BYTES:
            answer += parts[0]
            self.transport.write(answer)
            size = len(answer)
        elif parts:
            size += sum(map(len, parts))
            if size < _JOIN_BYTES:
                self.transport.write(b"".join([answer, *parts]))
            else:
                self.transport.writelines([answer, *parts])
        else:
            self.transport.write(answer)
        if state.access:
            self._count(status, size)
        else:
            state.context.counts.replies[status] += 1
        if closing:
            self.close()

    def _count(self, status: int, size: int) -> None:
        plan = self._plan
        self._state.count_reply(plan.head, self._wire.head or plan.trace, status, size, self._began_ns)

    def _turn_away(self, why: Refusal | TailcutError) -> None:
        """Answer the message in hand without its body, and go on behind it where that can be read past."""
        last = self._wire.refuse(last=self._state.draining)
        answer = _refused(why, close=last)
        if last:
            self._last_word(answer)
            return
        answer = dated(answer, self._state.date)
        self._count(int(answer[9:12]), len(answer))
        self.transport.write(answer)
        if self._wire.state is _SKIP:
            self.due = self._state.now + self._state.limits.body_timeout_s

    def _refuse(self, status: int, message: str) -> None:
        """The framing is broken or out of time: one answer, and no more is understood on this connection."""
        self._last_word(refusal_reply(Refusal(status, message), close=True))

    def _give_up(self) -> None:
        _log.exception("a message was not understood")
        self._refuse(500, "the server failed on this message")

    def _last_word(self, answer: bytes) -> None:
        self._drop()
        self._wire.linger()
        self.due = self._state.now + self._state.limits.linger_s
        answer = dated(answer, self._state.date)
        self._count(int(answer[9:12]), len(answer))
        if self.transport.is_closing():
            return
        self.transport.write(answer)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    # The end.

    def _finish(self) -> None:
        """Bring what the client has asked for to its end, and the connection with it: nothing more will come."""
        if self.transport.is_closing() or self._queued:
            return
        if self._wire.state is _ANSWER:
            self.due = self.due or self._state.now + WAITS_S
        elif self._wire.state > _HEAD or not self._paused:
            self._drop()  # of a message that will not become whole
            self.close()

    def close(self) -> None:
        """Close after what has been written, which the client has so long to read."""
        self._leave_fast_path()
        self._wire.close()
        self.due = self._state.now + self._state.limits.write_s(self.transport.get_write_buffer_size())
        self.transport.close()

    def _drop(self) -> None:
        self._exchange.cancel()
        self._target = self._body = None
        self._charge(-self._charged)

    # What it holds.

    def _charge(self, size: int) -> None:
        self._charged += size
        self._state.context.counts.buffered_bytes += size

    def _charge_more(self, size: int) -> None:
        """Charge what has been inflated.

        Raises:
            QueueFullError: all connections together hold as much as they may.
        """
        if self._state.context.counts.buffered_bytes + size > self._state.limits.buffered_bytes:
            self._state.context.counts.bodies_refused += 1
            raise QueueFullError("too many bodies are arriving now")
        self._charge(size)

    def _hold_unread(self, size: int) -> None:
        self._state.context.counts.buffered_bytes += size - self._unread
        self._unread = size


def _is_gone(transport: asyncio.Transport) -> bool:
    """Whether the client does not read either, where Linux knows: it closed a Unix socket, or reset the connection."""
    if not hasattr(select, "epoll"):
        return False
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)  # POLLHUP and POLLERR are always told
    return bool(poll.poll(0))


def _too_many_bodies(counts: ServerCounts) -> Refusal:
    counts.bodies_refused += 1
    return Refusal(503, "too many bodies are arriving now", retry_after(1))


def _refused(why: Refusal | TailcutError, *, close: bool = False) -> bytes:
    """The answer to what is not done."""
    return refusal_reply(why, close=close) if isinstance(why, Refusal) else failure_reply(why, close=close)


def _takes_long(request: InferRequest, outputs: Mapping[str, np.ndarray]) -> bool:
    """Whether an answer has so many elements that are written one by one, that it is written in steps."""
    for wanted in request.outputs:
        array = outputs[wanted.name]
        strings = array.dtype.kind == "O"
        one_by_one = wanted.place is None and (strings or not wanted.binary)
        if one_by_one and array.size > (STEP_STRINGS if strings else STEP_ELEMENTS):
            return True
    return False


def _names_time(text: bytes) -> bool:
    """Whether the JSON of a request may name a timeout or priority of its own."""
    return b"timeout" in text or b"priority" in text or b"\\" in text


def _names_time_in_steps(text: memoryview) -> Generator[None, None, bool]:
    """The same for a large one."""
    for at in range(0, len(text), _LOOK_BYTES):
        if _names_time(bytes(text[at : at + _LOOK_BYTES + 8])):
            return True
        yield
    return False

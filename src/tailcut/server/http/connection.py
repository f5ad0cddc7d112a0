"""One HTTP/1.1 connection on the loop: passes received bytes to `wire/http1`, and acts on the events that come back.

All connections of a loop receive into one shared buffer, because the loop reads and calls back in one go. A body that
does not fit there with its head is received into its row or into a buffer of its own. This module reads messages
in order and limits the time that a client may take; the parts that it holds do everything else.
"""

import asyncio
import time
from functools import partial

from tailcut.errors import TailcutError
from tailcut.server.account import Account
from tailcut.server.faults import fault
from tailcut.server.http.bodies import BodyReceiver
from tailcut.server.http.inference import HttpInference
from tailcut.server.http.plan import NO_PLAN, RequestKind, RequestPlan, current_plan, find_plan
from tailcut.server.http.presence import WAITS_S, Presence, is_gone
from tailcut.server.http.questions import HttpQueries
from tailcut.server.http.repeating import Repeating
from tailcut.server.http.replies import Refusal, refusal_reply, refused
from tailcut.server.http.writer import AnswerWriter
from tailcut.server.state import ServerState
from tailcut.server.step_runner import LITTLE_BYTES
from tailcut.wire.http1.connection import LINGER_BYTES, Http1Connection
from tailcut.wire.http1.events import Body, Broken, RequestReceived
from tailcut.wire.http1.states import ConnectionState

_HELD_BYTES = 64 * 1024  # pipelined behind the current message; reading pauses beyond that
_IDLE, _HEAD, _CHUNKS, _SKIP = ConnectionState.IDLE, ConnectionState.HEAD, ConnectionState.CHUNKS, ConnectionState.SKIP
_ANSWER, _LINGER = ConnectionState.ANSWER, ConnectionState.LINGER
_ROWS = RequestKind.ROWS


class HttpConnection(asyncio.BufferedProtocol):
    """The protocol of one accepted socket."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._wire: Http1Connection[RequestPlan] = Http1Connection(partial(find_plan, state))
        self._account = Account(state.context.counts, state.limits)
        self._writer = AnswerWriter(state, self._wire)
        self._repeating = Repeating(state, self._wire, self._writer, self)
        self._inference = HttpInference(state, self._wire, self._writer, self._account, self._repeating, self)
        self._exchange, self._alike = self._inference.exchange, self._inference.alike
        self._questions = HttpQueries(state, self._writer, self)
        self._bodies = BodyReceiver(
            self._wire, self._exchange, self._account, state.direct_bytes, state.limits.deadline_s
        )
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any other callback
        self._view = state.receive_view
        self.paused = False  # the client does not read
        self.pipelines = False  # and so waits for its turn behind clients that do not
        self._queued = False  # waits for its turn to process the messages that the wire holds
        self._presence = Presence()
        self.due = 0.0  # when this client's time limit passes; 0: no limit runs

    @property
    def busy(self) -> bool:
        """Whether a message is being served: its body is arriving, or its answer is not written yet."""
        if self._repeating.fd >= 0:
            return self._repeating.busy
        return self._wire.busy

    @property
    def idle_since(self) -> float:
        """When the client last sent or was sent something, in seconds of the loop's clock; valid while not busy."""
        if self._repeating.fd >= 0:
            return self._repeating.idle_since
        return self._writer.idle_since

    @property
    def fresh(self) -> bool:
        """Whether the client connected just now and has not sent anything yet."""
        return self._wire.meaning is None and self._writer.idle_since > self._state.now - 1

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = transport  # type: ignore[assignment]  # asyncio promises a Transport for streams
        self._writer.transport = self._repeating.transport = self.transport
        self._state.enter(self)

    def connection_lost(self, error: Exception | None) -> None:
        """The client has disconnected: cancel its work."""
        self._repeating.forget()
        self._state.leave(self)
        self._account.hold_unread(0)
        self._questions.leave()
        if self._wire.state is _ANSWER or self._inference.unsent:
            self._writer.lost()
        self._drop()

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer that the next bytes are received into."""
        target = self._bodies.target
        if target is not None:
            return target
        return self._state.head_view if self._state.steps.is_over else self._view

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` bytes were received."""
        try:
            if self._alike.awaited is not None and self._alike.take(nbytes):
                return
            target = self._bodies.target
            if target is not None:
                self._receive_body(target, nbytes)
                return
            wire, state = self._wire, self._state
            body = None if self.paused or not state.steps.has_time() else wire.receive_alike(state.receive, nbytes)
            if body is None:
                self._hear(wire.receive(state.receive, nbytes))
                return
            self._begin(wire.meaning or NO_PLAN, body, whole=True)
            if wire.state is not _ANSWER:
                self._hold(read=True, waits=False)
        except Exception as error:  # noqa: BLE001  whatever one message causes must affect its client only
            self._give_up(error)

    def take_up(self, data: bytes) -> None:
        """Go on with a message whose beginning, `data`, was received on the fast path."""
        try:
            self._hear(self._wire.receive(data, len(data)))
        except Exception as error:  # noqa: BLE001  as in buffer_updated
            self._give_up(error)

    def eof_received(self) -> bool:
        """The client sends nothing more, but may still read (`presence.py` finds out): answer its requests."""
        if self._wire.state >= _LINGER or is_gone(self.transport):
            return False
        self._wire.ended = True
        self._finish()
        return True

    def pause_writing(self) -> None:
        """The client does not read: limit its time for what was written, and read nothing more from it meanwhile."""
        self.paused = True
        unread = self.transport.get_write_buffer_size()
        self._account.hold_unread(unread)
        self.due = self._state.now + self._state.limits.write_s(unread)
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self.paused = False
        self._account.hold_unread(0)
        if self._questions.watching is not None:
            self._questions.watching.resume()
        self._inference.is_read()
        is_over = self._wire.state >= _LINGER and self._questions.watching is None
        self.due = self._state.now + self._state.limits.linger_s if is_over else 0.0
        if not self.transport.is_closing():
            if not self._wire.ended:
                self.transport.resume_reading()
            self._next()

    def overdue(self) -> None:
        """A time limit has passed: answer 408 where the client may still read, then close."""
        state = self._wire.state
        if self.paused or state >= _LINGER or state is _SKIP or not self._wire.busy:
            self.transport.abort()
        elif self._wire.ended:
            self.due = self._presence.look(
                self.transport, self._state.now, interim=(self._wire.meaning or NO_PLAN).head.interim
            )
        else:
            self._refuse(408, "the request took too long to arrive")

    # What the client sends.

    def _hear(self, unread: bool) -> None:  # noqa: FBT001  the result of `Http1Connection.receive`
        """Handle the wire's events while there is time; it holds the rest."""
        wire, steps = self._wire, self._state.steps
        read = waits = False
        while unread and not self.paused:
            if not steps.has_time():
                waits = True
                break
            event = wire.next_event()
            if event is None:
                break
            read = True
            if type(event) is RequestReceived:
                self._begin(event.meaning, event.body, whole=event.whole)
            elif type(event) is Body:
                self._take(event)
            elif type(event) is Broken:
                self._refuse(event.status, event.message)
            if wire.state is _ANSWER:  # no further message is read before the answer
                if wire.is_read:
                    return
                break
            unread = wire.unread
        self._hold(read=read, waits=waits)

    def _hold(self, *, read: bool, waits: bool) -> None:
        """Have the wire hold the bytes that are left, and set the time limit for the rest of the message."""
        wire, steps = self._wire, self._state.steps
        held, state = wire.hold(), wire.state
        if held:
            self.pipelines = self.pipelines or read or state is _ANSWER
            if state is _ANSWER and (held > _HELD_BYTES or steps.is_over):
                self.transport.pause_reading()
        if waits:
            self._wait_for_time(held)
        if state is _HEAD:
            self.due = self.due or self._state.now + self._state.limits.head_timeout_s
        elif state is _IDLE and not self.paused:
            self.due = 0.0
        elif state is _CHUNKS:
            try:
                self._bodies.charge_chunks()
            except Refusal as refusal:
                self._last_word(refusal_reply(refusal, close=True))
        elif wire.lingered > LINGER_BYTES:
            self.transport.abort()

    def _wait_for_time(self, size: int) -> None:
        """Go on with `size` held bytes when other connections have had their turn; read nothing more meanwhile."""
        self.transport.pause_reading()
        if not self._queued:
            self._queued = True
            self._state.steps.later(self._go_on, begun=self.pipelines or size > LITTLE_BYTES)

    def _go_on(self) -> None:
        self._queued = False
        try:
            self._next()
        except Exception as error:  # noqa: BLE001  as in buffer_updated
            self._give_up(error)

    def _next(self) -> None:
        """Go on with what was pipelined behind the last message."""
        wire = self._wire
        if wire.held and wire.state <= _SKIP and not self.paused and not self.transport.is_closing():
            if not wire.ended:
                self.transport.resume_reading()
            self._hear(wire.receive(b"", 0))
        if wire.ended:
            self._finish()

    def _begin(self, plan: RequestPlan, body: memoryview, *, whole: bool) -> None:
        """Begin a message whose head was read; `body` is as much of its body as has arrived."""
        self._view = self._state.receive_view
        self._exchange.began_ns = self._writer.began_ns = self._state.steps.now_ns
        self._exchange.length = plan.length
        self.due = 0.0
        if plan.kind is _ROWS:
            if whole:
                self._inference.submit_rows(plan, body, self._writer.began_ns)
            else:
                self._begin_rows(plan, body)
        elif plan.why is not None:
            self.turn_away(plan.why)
        elif whole:
            self._use(plan, body)
        else:
            self._begin_buffer(plan, body)

    def _begin_rows(self, plan: RequestPlan, begun: memoryview) -> None:
        """Begin a body of rows that has not arrived completely: receive it into rows or, when short, into a buffer."""
        if not self._inference.precheck_rows(plan):  # a body that cannot be computed in time is not received
            return
        try:
            if plan.length >= self._state.direct_bytes and self._bodies.into_rows(plan, plan.rows, begun, plan.length):
                self._exchange.schedule = plan.schedule
                self._expect_rows()
                return
        except TailcutError as error:
            self._inference.turn_away_rows(plan, error)
        else:
            self._begin_buffer(plan, begun)

    def _begin_buffer(self, plan: RequestPlan, begun: memoryview) -> None:
        """Begin a body that must be collected before it is parsed."""
        try:
            self._bodies.collect(plan, begun)
        except (Refusal, TailcutError) as error:
            self.turn_away(error)
            return
        self._expect_body()

    def _take(self, body: Body) -> None:
        """Take a body that the wire has collected, or the JSON before a large tensor, which determines its rows."""
        data = memoryview(body.data)
        if body.whole:
            self.due = 0.0
            self._account.release()
            self._use_late(data)
            return
        try:
            plan = self._wire.meaning = current_plan(self._wire.meaning or NO_PLAN, self._state)
            if self._bodies.into_rows_behind(plan, data):
                self._expect_rows()
                return
        except (Refusal, TailcutError) as error:
            self._last_word(refused(error, close=True))
            return
        self._bodies.into_buffer(plan.length, data)
        self._expect_body()

    def _expect_rows(self) -> None:
        self._view = self._state.head_view  # the next is probably like it: receive its head, and little of its body
        self._expect_body()

    def _expect_body(self) -> None:
        if not self.due:  # a body has one time limit, however it is received
            self.due = self._state.now + self._state.limits.body_timeout_s
            if interim := self._wire.interim:
                self.transport.write(interim)

    def _receive_body(self, target: memoryview, nbytes: int) -> None:
        """`nbytes` bytes of a body were received directly into its rows or buffer."""
        if not self._bodies.received(target, nbytes):
            return
        self.due = 0.0
        body = self._bodies.take_buffer()
        if body is None:
            self._inference.submit_received()
            return
        self._use_late(body)
        self._next()

    # A complete message.

    def _use_late(self, body: memoryview) -> None:
        """Use a body that arrived after its head: the models may have changed meanwhile."""
        plan = self._wire.meaning or NO_PLAN
        try:
            self._use(current_plan(plan, self._state), body)
        except Refusal as why:
            self._questions.tell(plan, refused(why))

    def _use(self, plan: RequestPlan, body: memoryview) -> None:
        if plan.kind is RequestKind.ANSWER:
            self._questions.answer(plan, bytes(body))
        elif plan.kind is _ROWS:
            self._inference.submit_rows(plan, body, time.monotonic_ns())
        else:
            self._inference.submit(plan, body)

    def turn_away(self, why: Refusal | TailcutError) -> None:
        """Answer the current message without its body, and go on after it where the body can be skipped."""
        last = self._wire.refuse(last=self._state.draining)
        answer = self._writer.refusal(why, last=last)
        if last:
            self._last_word(answer)
            return
        self._writer.refuse(answer)
        if self._wire.state is _SKIP:
            self.due = self._state.now + self._state.limits.body_timeout_s

    def _refuse(self, status: int, message: str) -> None:
        """Answer a broken or overdue message; nothing more is read as a message on this connection."""
        self._last_word(refusal_reply(Refusal(status, message), close=True))

    def _give_up(self, error: Exception) -> None:
        self._refuse(500, fault(error))

    def _last_word(self, answer: bytes) -> None:
        self._drop()
        self._wire.linger()
        self.due = self._state.now + self._state.limits.linger_s
        self._writer.refuse(answer)
        if not self.transport.is_closing() and self.transport.can_write_eof():
            self.transport.write_eof()

    def go_on(self) -> None:
        """The current message is answered: the next one may come."""
        self._next()

    def failed(self, error: TailcutError) -> None:
        """The current message failed: answer with the error."""
        self._inference.failed(error)

    # The end.

    def _finish(self) -> None:
        """End the connection of a client that sends nothing more, when its requests are answered."""
        if self.transport.is_closing() or self._queued:
            return
        if self._wire.state is _ANSWER:
            self.due = self.due or self._state.now + WAITS_S
        elif self._wire.state > _HEAD or not self.paused:
            self._drop()  # of a message that cannot become complete
            self.close()

    def close(self) -> None:
        """Close after what has been written; the client's time to read that is limited."""
        self._repeating.leave()
        self._wire.close()
        self.due = self._state.now + self._state.limits.write_s(self.transport.get_write_buffer_size())
        self.transport.close()

    def _drop(self) -> None:
        self._exchange.cancel()
        self._bodies.drop()

"""One HTTP/1.1 connection as it listens: bytes from the loop become messages, and bodies go into rows.

All connections of a loop read into one shared buffer, because the loop reads and calls back in one go; a body that does
not fit with its head is then received straight into its row or into a buffer of its own. One message is in hand at a
time; what a client pipelines behind it waits in `_held`. What is said to it is in `answering.py`; nobody else knows
transports, except `fastpath`.
"""

import asyncio
import logging
import select
import time

import numpy as np

from tailcut.errors import InvalidInputError, QueueFullError, TailcutError
from tailcut.runtime.request import Request
from tailcut.server.access_log import trace_field
from tailcut.server.http.answering import LONG_WAY, WAITS_S, Answering, Stage
from tailcut.server.http.plan import Kind, Plan
from tailcut.server.http.replies import CONTINUE, Refusal, dated, error_reply, failure_reply
from tailcut.server.served_model import ServedModel
from tailcut.server.state import PLAN_BYTES
from tailcut.server.step_runner import LITTLE_BYTES
from tailcut.wire.http1.chunked import ChunkedBody
from tailcut.wire.http1.grammar import ProtocolError
from tailcut.wire.http1.head import check_partial
from tailcut.wire.v2 import parse_lead, schedule_of

_log = logging.getLogger("tailcut.http")
_now_ns = time.monotonic_ns  # one name to look up
_HELD_BYTES = 64 * 1024  # pipelined behind a message in hand, before reading pauses
_LINGER_BYTES = 64 << 20  # read away behind a refusal at most
_CR = 0x0D
_EMPTY_LINES = 8  # before a request line: some clients send one behind a body
_STEADY = 3  # messages with one plan in a row, and a client takes the fast path


class HttpConnection(Answering):
    """The protocol of one accepted socket."""

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self.transport = transport  # type: ignore[assignment]  # asyncio promises a Transport for streams
        self._state.enter(self)

    def connection_lost(self, error: Exception | None) -> None:
        """The client left: its work goes with it."""
        self._leave_fast_path()
        if self._awaited is not None and self._state.fast_path is not None:
            self._state.fast_path.forget(*self._awaited)
        self._state.leave(self)
        self._hold_unread(0)
        self._drop_body()
        if self._ticket is not None and self._plan.served is not None:
            self._plan.served.entry.cancel(self._ticket)
            self._ticket = None

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the kernel may write next."""
        if self._target is not None:
            return self._target
        return self._state.head_view if self._state.steps.is_over else self._view

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
                self._take(self._state.receive, nbytes)
        except Exception:  # noqa: BLE001  whatever one message does to us must cost its client only
            _log.exception("a message was not understood")
            self._refuse(500, "the server failed on this message")

    def eof_received(self) -> bool:
        """The client sends nothing more: what it has asked for is answered, where it can still read.

        A client that has closed altogether may look the same: `_look_for_client` tells them apart.
        """
        if self._stage is Stage.LINGER or _is_gone(self.transport):
            return False
        self._ended = True
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
        if self._trail and self._job is None and self._plan.served is not None:
            trail, self._trail = self._trail, ()
            self._plan.served.timeline.record(*trail[:7], _now_ns(), *trail[7:], 200)
        self.due = self._state.now + self._state.limits.linger_s if self._stage is Stage.LINGER else 0.0
        if not self.transport.is_closing():
            self._read_on()
            self._next()

    def overdue(self) -> None:
        """Patience ended: say so where a client may still read, then close."""
        stage = self._stage
        if self._paused or stage in {Stage.LINGER, Stage.SKIP} or (stage is Stage.HEAD and not self._held):
            self.transport.abort()
        elif self._ended:
            self._look_for_client()
        else:
            self._refuse(408, "the request took too long to arrive")

    def _look_for_client(self) -> None:
        """Drop the work of a client that has closed; over TCP, only what is sent to it brings out whether it has.

        An interim answer is sent, which every client of HTTP/1.1 reads past, and which a closed socket answers by a
        reset. Otherwise clients that give up under load would fill the queue with work for nobody.
        """
        if _is_gone(self.transport):
            self.transport.abort()
            return
        self._asked = not self._asked and self._plan.head.interim
        if self._asked:
            self.transport.write(CONTINUE)
        self.due = self._state.now + (0.0 if self._asked else WAITS_S)

    # A message's way: head, body, answer.

    def _take(self, data: bytes | bytearray, size: int) -> None:
        """Handle the messages in data[:size] while there is time; what is left, or of an unfinished one, is held."""
        at = 0
        while at < size and self._stage is Stage.HEAD and not self._paused:
            if not self._state.steps.has_time():
                self._wait_for_time(size - at)
                break
            end = at + len(self._head)
            if end <= size and self._edition == self._state.edition and data.startswith(self._head, at):
                self._repeats += 1
                if self._repeats >= _STEADY and not at and self._board_fast_path(data, end, size):
                    return
                at = self._begin(self._plan, data, end, size)
                continue
            if data[at] == _CR:
                at = self._skip_empty_line(data, at, size)
                continue
            end = data.find(b"\r\n\r\n", at, size)
            if end < 0:
                rest = bytes(data[at:size])
                try:
                    check_partial(rest)
                except ProtocolError as error:
                    self._refuse(error.status, error.message)
                    return
                self._hold(rest)
                return
            end += 4
            at = self._message(bytes(memoryview(data)[at:end]), data, end, size, first=not at)
        if at < size:
            self._pipelines = self._pipelines or at > 0
            self._held = bytes(data[at:size])

    def _wait_for_time(self, size: int) -> None:
        """Go on with so many bytes when others have had their turn; nothing more is read meanwhile."""
        self.transport.pause_reading()
        if not self._queued:
            self._queued = True
            self._state.steps.later(self._go_on, begun=self._pipelines or size > LITTLE_BYTES)

    def _go_on(self) -> None:
        self._queued = False
        try:
            if self._stage is Stage.LEAD:
                self._read_on()
                self._take_lead()
            else:
                self._next()
        except Exception:  # noqa: BLE001  as in buffer_updated
            _log.exception("a message was not understood")
            self._refuse(500, "the server failed on this message")

    def _skip_empty_line(self, data: bytes | bytearray, at: int, size: int) -> int:
        """Read past an empty line before a request line, as RFC 9112 section 2.2 asks; returns how far data were used.

        It is no sign of life: neither the time limits nor the idle time begin anew.
        """
        if size - at == 1:
            self._hold(b"\r")
            return size
        if self._empty_since_ns != self._began_ns:  # a message has begun since the last one
            self._empty_since_ns, self._empty_lines = self._began_ns, 0
        self._empty_lines += 1
        if data[at + 1 : at + 2] != b"\n" or self._empty_lines > _EMPTY_LINES:
            self._refuse(400, "not an HTTP request")
            return size
        if size - at == 2:
            self.due = 0.0
        return at + 2

    def _hold(self, rest: bytes) -> None:
        """Keep the beginning of a head until more of it is here, which has one time limit."""
        self._held = rest
        if not self.due:
            self.due = self._state.now + self._state.limits.head_timeout_s

    def _board_fast_path(self, data: bytes | bytearray, end: int, size: int) -> bool:
        """A client that repeats itself takes the fast path from now on, where there is one for it."""
        plan, fast_path = self._plan, self._state.fast_path
        if fast_path is not None and size == end + plan.length and not self._ended:
            self._repeats = 0
            if fast_path.join(self, plan, self._head, memoryview(data)[end:size]):
                return True
            self._repeats = -LONG_WAY
        return False

    def _message(self, key: bytes, data: bytes | bytearray, end: int, size: int, *, first: bool) -> int:
        """Begin the message whose head ends at `end`; returns how far the data were used."""
        short = len(key) <= PLAN_BYTES
        self._head, self._edition = key if short else trace_field(key), -1
        try:
            plan = self._state.plan(key)
        except ProtocolError as error:
            self._refuse(error.status, error.message)
            return size
        except Refusal as refusal:
            self._began_ns = _now_ns()
            self._plan = Plan(Kind.ANSWER, self._state.refused_head, 0)
            return self._turn_away(refusal, self._state.refused_length, end, size)
        same = plan is self._plan
        self._plan = plan
        self._repeats = self._repeats + 1 if same else min(self._repeats, 0)
        if short and plan.lasts:
            self._edition = self._state.edition
            if self._repeats >= _STEADY and first and self._board_fast_path(data, end, size):
                return size
        return self._begin(plan, data, end, size)

    def _begin(self, plan: Plan, data: bytes | bytearray, end: int, size: int) -> int:
        """Go on behind the head."""
        self._view = self._state.receive_view
        self._began_ns = _now_ns()
        self.due = 0.0
        stop = end + plan.length
        if plan.kind is Kind.ROWS:
            return self._begin_rows(plan, data, end, min(stop, size))
        if stop <= size and not plan.head.chunked:
            body = memoryview(data)[end:stop]
            if plan.kind is Kind.ANSWER:
                self._answer(plan, bytes(body))
            elif plan.served is not None and plan.served.entry.slab is not None:
                self._infer(plan, body)  # its tensors are copied into rows before anything else is received
            else:
                self._infer(plan, bytes(body))
            return stop
        return self._begin_buffer(plan, data, end, size)

    def _begin_rows(self, plan: Plan, data: bytes | bytearray | memoryview, end: int, stop: int) -> int:
        """A body of whole rows: all here, copied once; else received into rows or, when short, into a buffer."""
        state = self._state
        entry = plan.served.entry  # type: ignore[union-attr]  # ROWS plans have one
        whole = stop - end == plan.length
        refusal = plan.refusal
        if refusal is not None and self._began_ns < refusal.opens_ns:
            entry.counts.refused += 1
            state.rest_soon(entry)
            return self._turn_away(refusal, plan.length, end, stop)
        try:
            if whole:
                schedule = plan.schedule
                deadline = state.deadline(schedule.timeout_ns, self._began_ns)
                ticket = Request(self, state.delivery, plan.rows, deadline, schedule.priority)
                entry.submit(ticket, memoryview(data)[end:stop])
                self._ticket = ticket
                self._stage = Stage.ANSWER
                state.delivery.notify_soon(entry)
                return stop
            schedule = self._schedule = plan.schedule  # what cannot be computed in time is not received either
            entry.admit(plan.rows, state.deadline(schedule.timeout_ns, self._began_ns), schedule.priority)
            begun = memoryview(data)[end:stop]
            if plan.length < state.direct_bytes or not self._receive_rows(plan.rows, begun, plan.length):
                return self._begin_buffer(plan, data, end, stop)
        except QueueFullError as error:
            plan.refusal = error.without_frames()
            return self._turn_away(error, plan.length, end, stop)
        except TailcutError as error:
            return self._turn_away(error, plan.length, end, stop)
        return stop

    def _receive_rows(self, rows: int, begun: memoryview, length: int) -> bool:
        """Lend rows and have the rest of their `length` bytes received into them; not while rows are scarce.

        Raises:
            QueueFullError: no rows are free.
        """
        entry = self._plan.served.entry  # type: ignore[union-attr]  # only plans that have one come here
        slab = entry.slab
        if slab is None or slab.in_use > slab.rows // 2:  # slow uploads must not hold what others could compute on
            return False
        lease = self._lease = entry.lend(rows, apart=True)
        start = lease.row * slab.row_bytes[0]
        view = slab.input_bytes[0][start : start + length]
        view[: len(begun)] = begun
        self._expect_body(Stage.ROWS, view[len(begun) :])
        self._view = self._state.head_view  # the next one is mostly like it: read its head, and hardly any of its body
        return True

    def _begin_buffer(self, plan: Plan, data: bytes | bytearray | memoryview, end: int, size: int) -> int:
        """A body that must be collected first: bounded alone and together with all others."""
        state = self._state
        limit = plan.limit
        if plan.length > limit:
            return self._turn_away(Refusal(413, f"this path takes {limit} bytes at most"), plan.length, end, size)
        if plan.served is not None:
            try:
                plan.served.entry.admit(1)
            except TailcutError as error:
                return self._turn_away(error, plan.length, end, size)
        if state.context.counts.buffered_bytes + plan.length > state.limits.buffered_bytes:
            return self._turn_away(_too_many_bodies(), plan.length, end, size)
        if plan.head.chunked:
            self._chunked = ChunkedBody(limit)
            self._expect_body(Stage.CHUNKED, None)
            return size - len(self._take_chunks(bytes(data[end:size])))
        if plan.direct and plan.length >= state.direct_bytes:
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
        if not self._state.steps.has_time():
            self._wait_for_time(len(lead))
            return
        self._lead, self._held = b"", lead[plan.length :]
        lead = lead[: plan.length]
        served: ServedModel = plan.served  # type: ignore[assignment]  # only plans that have one come here
        begun, size = memoryview(lead)[json_size:], plan.length - json_size
        try:
            direct = parse_lead(served.model.spec, lead[:json_size], size)
            schedule = schedule_of(direct.request.parameters, plan.schedule) if direct is not None else plan.schedule
        except InvalidInputError:
            direct = None  # the whole body will be told why
        try:
            if direct and direct.rows <= served.entry.max_batch_size and self._receive_rows(direct.rows, begun, size):
                self._request = direct.request
                self._schedule = schedule
        except TailcutError as error:
            self._last_word(dated(failure_reply(error, close=True), self._state.date))
            return
        if self._stage is Stage.LEAD:
            self._collect(memoryview(lead))
        if not self._target:
            self._body_complete()

    def _expect_body(self, stage: Stage, target: memoryview | None) -> None:
        self._stage = stage
        self._target = target
        if not self.due:  # a body has one time limit, whichever ways it goes
            self.due = self._state.now + self._state.limits.body_timeout_s
            if self._plan.head.expects_continue:
                self.transport.write(CONTINUE)

    def _body_complete(self) -> None:
        self.due = 0.0
        self._target = None
        plan = self._plan
        if self._stage is Stage.ROWS:
            lease, self._lease = self._lease, None
            assert lease is not None  # noqa: S101  its rows are what was received into
            entry = plan.served.entry  # type: ignore[union-attr]  # ROWS plans have one
            schedule = self._schedule
            deadline = self._state.deadline(schedule.timeout_ns)
            ticket = self._ticket = Request(self, self._state.delivery, lease.rows, deadline, schedule.priority)
            self._stage = Stage.ANSWER
            try:
                try:
                    entry.admit(lease.rows, deadline, schedule.priority)  # others may have come first meanwhile
                except TailcutError:
                    entry.settle(lease, 0, None)
                    raise
                entry.settle(lease, lease.rows, ticket)
            except TailcutError as error:
                self._ticket = None
                self._fail(error)
            else:
                self._state.delivery.notify_soon(entry)
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
            self._held += data
            if self._state.steps.has_time():
                self._next()
            else:
                self._wait_for_time(len(self._held))
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
            self._pipelines = True
            self._held += data
            if len(self._held) > _HELD_BYTES or self._state.steps.is_over:
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
        if self._state.context.counts.buffered_bytes > self._state.limits.buffered_bytes:
            busy = _too_many_bodies()
            answer = error_reply(busy.status, busy.message, close=True, headers=busy.headers)
            self._last_word(dated(answer, self._state.date))
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

    def _next(self) -> None:
        """Go on with what was pipelined behind the last message."""
        if self._held and not self._paused and not self.transport.is_closing():
            if self._stage is Stage.CHUNKED:
                data, self._held = self._held, b""
                self._held = self._take_chunks(data)
                self._read_on()
            if self._stage is Stage.HEAD and self._held:
                data, self._held = self._held, b""
                self._read_on()
                self._take(data, len(data))
        if self._ended:
            self._finish()

    def _read_on(self) -> None:
        if not self._ended:
            self.transport.resume_reading()


def _is_gone(transport: asyncio.Transport) -> bool:
    """Whether the client does not read either, where Linux knows: it closed a Unix socket, or reset the connection."""
    if not hasattr(select, "epoll"):
        return False
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)  # POLLHUP and POLLERR are always told
    return bool(poll.poll(0))


def _too_many_bodies() -> Refusal:
    return Refusal(503, "too many bodies are arriving now", {"Retry-After": "1"})

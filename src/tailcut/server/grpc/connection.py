"""One gRPC connection on the loop: received bytes go to `wire/http2`, and its events to calls.

The answers of one pass of the loop are written together.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from tailcut.server.account import Account
from tailcut.server.grpc.calls import GrpcCall
from tailcut.server.grpc.infer import GrpcInference
from tailcut.server.grpc.infer_calls import StreamCall
from tailcut.server.grpc.templates import Plans
from tailcut.server.state import ServerState
from tailcut.wire.grpc.framing import ANSWER_END, ANSWER_HEAD, CALLS, CallError, CallHead, Status, prefixed
from tailcut.wire.http2.connection import TURN_UNITS, Http2Connection, StreamData, StreamOpened
from tailcut.wire.http2.frames import Http2Error

_SLICE_UNITS = 32  # read from a connection that has sent more, before others have their turn
Maker = Callable[["GrpcConnection", int, CallHead], GrpcCall]


class Service(Protocol):
    """What all connections of a server have in common."""

    state: ServerState
    closing: bool  # clients have been asked to open no more calls
    plans: Plans
    connections: "set[GrpcConnection]"

    def maker(self, head: CallHead) -> Maker | bytes:
        """The function that makes a call with this head; or the header block that ends it at once."""


class GrpcConnection(asyncio.BufferedProtocol):
    """One accepted socket and its calls."""

    def __init__(self, service: Service) -> None:
        state = service.state
        self.state = state
        self.plans = service.plans
        self._service = service
        self._http2 = Http2Connection(CALLS)
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any other callback
        self._calls: dict[int, GrpcCall] = {}
        self._streams: set[StreamCall] = set()  # the calls that may have more to do after every write
        self._uploads: dict[GrpcCall, None] = {}  # the calls whose message is arriving
        self._sent: list[GrpcInference] = []  # those whose answers go out with the next write
        self.account = Account(state.context.counts, state.limits)
        self._flushing = False  # a write is scheduled for the end of this pass of the loop
        self._lingers = False
        self._paused = False
        self._stuck_since = 0.0  # since when the client has not read everything; 0: it has
        self._stuck_at = 0  # bytes that it had read by then
        self._written = 0  # bytes in total
        self._hears_more = False  # received frames wait until other connections have had their turn
        self._wants_much = False  # needs more than a slice of time, and so waits behind those that do not
        self._waiting: deque[StreamCall] = deque()  # calls that wait for their turn to process received messages
        self._goes_on = False  # `_go_on` is scheduled
        self._pumps = False  # `_pump` is scheduled
        self._asked = False  # a ping was sent to see whether the client is still there
        self.due = state.now + state.limits.head_timeout_s
        self.idle_since = state.now

    @property
    def busy(self) -> bool:
        """Whether a call still waits for its answer."""
        waiting = self._hears_more or bool(self._http2.out.waiting_bytes)
        return waiting or any(call.in_hand for call in self._calls.values())

    @property
    def fresh(self) -> bool:
        """Whether the client connected just now and has not sent its preface yet."""
        return not self._http2.greeted and self.idle_since > self.state.now - 1

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = transport  # type: ignore[assignment]  # asyncio promises a Transport for streams
        self._service.connections.add(self)
        self.state.enter(self)
        if self._service.closing:
            self._http2.wind_down()
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        """The client has disconnected: cancel its work."""
        self._service.connections.discard(self)
        self.state.leave(self)
        self._cancel_all()
        self.account.hold_unread(0)

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer that the next bytes are received into."""
        return self.state.head_view if self.state.steps.is_over else self.state.receive_view

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` bytes were received."""
        state = self.state
        if self._lingers:
            return
        self.idle_since = state.now
        self._asked = False
        self._hear(bytes(state.receive_view[:nbytes]))

    def _hear(self, data: bytes) -> None:
        """Process received bytes while there is time; the rest, when other connections have had their turn."""
        has_time = self.state.steps.has_time
        more = self._take(data, TURN_UNITS if has_time() and not self._hears_more else 0)
        while more and not self._hears_more and has_time():
            more = self._take(b"", TURN_UNITS)
        if not self._lingers:
            self._flush()
        if more and not self._hears_more:
            self._transport.pause_reading()
            self._hear_later(begun=False)

    def _take(self, data: bytes, units: int) -> bool:
        """Read frames and handle their events; returns whether there are more."""
        try:
            events = self._http2.receive(data, self.state.now, units)
        except Http2Error:
            self._linger()
            return False
        for event in events:
            if type(event) is StreamOpened:
                self._open(event)
            elif type(event) is StreamData:
                call = self._calls.get(event.stream)
                if call is not None:
                    self._feed(call, event.data, event.size, ended=event.ended)
            else:
                call = self._calls.get(event.stream)
                if call is not None:
                    self._forget(call)
                    call.cancel()
        return self._http2.pending

    def _hear_later(self, *, begun: bool) -> None:
        self._hears_more = True
        self._wants_much = self._wants_much or begun
        self.state.steps.later(self._hear_more, begun=self._wants_much)

    def _hear_more(self) -> None:
        self._hears_more = False
        if self._lingers or self._paused or self._transport.is_closing():
            return
        more = self._take(b"", _SLICE_UNITS)
        self._flush_soon()
        if more:
            self._hear_later(begun=True)
        elif not self._paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def _go_on_soon(self, *, begun: bool) -> None:
        if self._waiting and not self._goes_on:
            self._goes_on = True
            self._wants_much = self._wants_much or begun
            self.state.steps.later(self._go_on, begun=self._wants_much)

    def _go_on(self) -> None:
        """Go on with the calls that wait for that, each in its turn."""
        self._goes_on = False
        if self._lingers or self._paused or self._transport.is_closing():
            return
        has_time = self.state.steps.has_time
        while self._waiting and has_time():
            call = self._waiting.popleft()
            call.has_its_turn()
            self._feed(call, b"", 0, ended=False)
        self._flush_soon()
        self._go_on_soon(begun=True)

    def eof_received(self) -> bool:
        """The client closed its side: nothing more has to be sent to it."""
        return False

    def pause_writing(self) -> None:
        """The client does not read: begin its time limit, and read nothing more from it meanwhile."""
        self._paused = True
        self._http2.out.stopped = True
        self._transport.pause_reading()
        self._settle()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._paused = False
        self._http2.out.stopped = False
        self._http2.out.pump()
        if not self._transport.is_closing():
            self._flush()
            if not self._hears_more:
                self._hear_later(begun=True)
            self._go_on_soon(begun=True)

    # What `ServerState` and the server call.

    def overdue(self) -> None:
        """A time limit has passed: for sending a message, for reading answers, or for being idle."""
        state = self.state
        if self._stuck_since and not self._lingers:
            self._settle()  # it may have read more since then, which extends its time
            if self.due >= state.now:
                return
        begun = self._http2.partial_since
        cut_short = begun and begun + state.limits.body_timeout_s < state.now
        if self._lingers or self._stuck_since or not self._http2.greeted or cut_short:
            self._transport.abort()
            return
        late_ns = time.monotonic_ns() - int(state.limits.body_timeout_s * 1e9)
        late = [call for call in self._uploads if 0 < call.waits_since_ns <= late_ns]
        for call in late:
            call.fail(CallError(Status.DEADLINE_EXCEEDED, "the request took too long to arrive"))
        if not late and self.idle_since + state.limits.idle_timeout_s <= state.now:
            if self._asked:
                self._transport.abort()
                return
            self._asked = True
            self._http2.ping()
        self._flush()

    def wind_down(self) -> None:
        """Tell the client to open no more calls here; the connection ends after the last answer."""
        self._http2.wind_down()
        self._flush()

    def close(self) -> None:
        """End every call, and close the connection after what has been written."""
        for call in list(self._calls.values()):
            call.fail(CallError(Status.UNAVAILABLE, "the server is closing this connection"))
        self._http2.go_away()
        self._lingers = True
        self.due = self.state.now + self.state.limits.write_s(self._transport.get_write_buffer_size())
        self._write()
        self._transport.close()

    # What calls call.

    def send(self, call: GrpcCall, head: bytes | None, data: bytes | memoryview, end: bytes | None = None) -> None:
        """Send on a call's stream; `end` is the block of trailers that ends it."""
        if end is not None:
            self._forget(call)
        if head is not None or data or end is not None:
            self._http2.send(call.stream, head, data, end)
        self._flush_soon()

    def waits(self, call: GrpcCall) -> bool:
        """Whether data that a call has sent still waits for the client's flow-control window."""
        return self._http2.out.waits(call.stream)

    def later(self, call: StreamCall) -> None:
        """Have a call go on when other connections have had their turn."""
        self._waiting.append(call)
        self._go_on_soon(begun=False)

    def taken(self, call: GrpcCall, size: int) -> None:
        """Open the flow-control window of a call for `size` more bytes."""
        if size:
            self._http2.taken(call.stream, size)
            self._flush_soon()

    def answer(self, call: GrpcCall, message: bytes, inference: GrpcInference) -> None:
        """Send the only message of an answer, and end the call."""
        self._forget(call)
        self._http2.send(call.stream, ANSWER_HEAD, prefixed(message), ANSWER_END)
        self._sent.append(inference)
        self._flush_soon()

    def record(self, inference: GrpcInference) -> None:
        """Note that the answer to an inference goes out with the next write."""
        self._sent.append(inference)

    # Calls and writes.

    def _open(self, opened: StreamOpened[CallHead]) -> None:
        head, stream = opened.head, opened.stream
        make = self._service.maker(head)
        if isinstance(make, bytes):
            self._http2.send(stream, None, b"", make)
            return
        call = self._calls[stream] = make(self, stream, head)
        if type(call) is StreamCall:
            self._streams.add(call)
        if opened.ended:
            self._feed(call, opened.data, opened.size, ended=True)
        else:
            self._uploads[call] = None

    def _feed(self, call: GrpcCall, data: bytes, size: int, *, ended: bool) -> None:
        try:
            call.receive(data, size, ended=ended)
        except Exception as error:  # noqa: BLE001  whatever one message causes must affect its client only
            call.give_up(error)
        if call.waits_since_ns and not call.over:
            self._uploads[call] = None
        else:
            self._uploads.pop(call, None)

    def _forget(self, call: GrpcCall) -> None:
        self._calls.pop(call.stream, None)
        self._uploads.pop(call, None)
        if type(call) is StreamCall:
            self._streams.discard(call)

    def _cancel_all(self) -> None:
        calls = list(self._calls.values())
        self._calls.clear()
        self._uploads.clear()
        self._streams.clear()
        self._waiting.clear()
        for call in calls:
            call.cancel()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self.state.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what is ready, and set the client's next time limit."""
        self._flushing = False
        if self._lingers or self._transport.is_closing():
            return
        self._write()
        for call in [call for call in self._streams if call.stalled]:
            self._feed(call, b"", 0, ended=False)  # its client may have opened the window for answers
        if self._http2.over:
            self._linger()
        else:
            self._settle()

    def _write(self) -> None:
        out = self._http2.out
        more = out.more
        data = self._http2.take()
        if data:
            self._written += len(data)
            self._transport.write(data)
        if more and not self._paused and not self._pumps:
            self._pumps = True
            self.state.steps.later(self._pump, begun=True)
        if self._sent:
            now_ns = time.monotonic_ns()
            for inference in self._sent:
                inference.written(now_ns)
            self._sent.clear()

    def _pump(self) -> None:
        """Put more waiting data into frames, when other connections have had their turn."""
        self._pumps = False
        if not (self._lingers or self._paused or self._transport.is_closing()):
            self._http2.out.pump()
            self._flush_soon()

    def _settle(self) -> None:
        out, state = self._http2.out, self.state
        self.account.hold_unread(out.waiting_bytes)
        if self._paused or out.waiting_bytes:
            taken = self._written - self._transport.get_write_buffer_size()
            if not self._stuck_since:
                self._stuck_since, self._stuck_at = state.now, taken
            self.due = self._stuck_since + state.limits.write_s(taken - self._stuck_at)
            return
        self._stuck_since = 0.0
        if not self._http2.greeted:
            return
        self.due = self.idle_since + state.limits.idle_timeout_s if self._calls else 0.0
        if self._uploads:
            since_ns = min(call.waits_since_ns for call in self._uploads)
            waited_s = (time.monotonic_ns() - since_ns) / 1e9 if since_ns else 0.0
            self.due = state.now + max(0.0, state.limits.body_timeout_s - waited_s)
        if self._http2.partial_since:
            due = self._http2.partial_since + state.limits.body_timeout_s
            self.due = min(self.due or due, due)

    def _linger(self) -> None:
        """After the last frame, wait for a limited time for the client to read it and close."""
        self._cancel_all()
        self._lingers = True
        self.due = self.state.now + self.state.limits.linger_s
        self._write()
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

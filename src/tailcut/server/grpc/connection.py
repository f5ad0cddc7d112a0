"""One connection of gRPC on the loop: what its socket brings goes to `wire/http2`, and what that reads to calls.

Whatever the answers of one pass of the loop are, a connection writes them at once.
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

_SLICE_UNITS = 32  # read of a connection that has more to say, before others have their turn
Maker = Callable[["GrpcConnection", int, CallHead], GrpcCall]


class Service(Protocol):
    """What all connections of a server have in common."""

    state: ServerState
    closing: bool  # clients are asked to open no more calls
    plans: Plans
    connections: "set[GrpcConnection]"

    def maker(self, head: CallHead) -> Maker | bytes:
        """What makes a call with this head; or the block that ends it at once."""


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
        self._streams: set[StreamCall] = set()  # those of them that may have more to do after every write
        self._uploads: dict[GrpcCall, None] = {}  # those whose message is on its way
        self._sent: list[GrpcInference] = []  # whose answers go out with the next write
        self.account = Account(state.context.counts, state.limits)
        self._flushing = False  # as soon as this pass of the loop is over
        self._lingers = False
        self._paused = False
        self._stuck_since = 0.0  # the client has not taken everything that it is sent
        self._stuck_at = 0  # bytes that it had taken then
        self._written = 0  # bytes
        self._hears_more = False  # frames that have been received are read when others have had their turn
        self._wants_much = False  # more than a slice of time, and waits for it behind those that do not
        self._waiting: deque[StreamCall] = deque()  # for their turn to go on with what has been received
        self._goes_on = False  # with those, when other connections have had their turn
        self._pumps = False  # more of what waits into frames, then
        self._asked = False  # whether it is there still
        self.due = state.now + state.limits.head_timeout_s
        self.idle_since = state.now

    @property
    def busy(self) -> bool:
        """Whether a call here still waits for its answer."""
        waiting = self._hears_more or bool(self._http2.out.waiting_bytes)
        return waiting or any(call.in_hand for call in self._calls.values())

    @property
    def fresh(self) -> bool:
        """Whether the client came just now and has not said anything yet."""
        return not self._http2.greeted and self.idle_since > self.state.now - 1

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self._transport = transport  # type: ignore[assignment]  # asyncio promises a Transport for streams
        self._service.connections.add(self)
        self.state.enter(self)
        if self._service.closing:
            self._http2.wind_down()
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        """The client left: its work goes with it."""
        self._service.connections.discard(self)
        self.state.leave(self)
        self._cancel_all()
        self.account.hold_unread(0)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the kernel may write next."""
        return self.state.head_view if self.state.steps.is_over else self.state.receive_view

    def buffer_updated(self, nbytes: int) -> None:
        """The kernel wrote."""
        state = self.state
        if self._lingers:
            return
        self.idle_since = state.now
        self._asked = False
        self._hear(bytes(state.receive_view[:nbytes]))

    def _hear(self, data: bytes) -> None:
        """Do what these bytes and those before them say, while there is time; the rest when others had their turn."""
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
        """Read frames, and do what they say; whether there are more."""
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
        """Go on with the calls that wait for it, each in its turn."""
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
        """The client said goodbye: nothing more is owed to it."""
        return False

    def pause_writing(self) -> None:
        """The client does not read: it has so long to start, and nothing more of it is read meanwhile."""
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

    # What the server's state and the server call.

    def overdue(self) -> None:
        """A time limit of the client has passed: to send, to receive, or to say anything."""
        state = self.state
        if self._stuck_since and not self._lingers:
            self._settle()  # it may have taken more since, and has more time then
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
        """Have the client open no more calls here; when the last is answered, the connection ends."""
        self._http2.wind_down()
        self._flush()

    def close(self) -> None:
        """End every call and the connection, after what has been written."""
        for call in list(self._calls.values()):
            call.fail(CallError(Status.UNAVAILABLE, "the server is closing this connection"))
        self._http2.go_away()
        self._lingers = True
        self.due = self.state.now + self.state.limits.write_s(self._transport.get_write_buffer_size())
        self._write()
        self._transport.close()

    # What calls call.

    def send(self, call: GrpcCall, head: bytes | None, data: bytes | memoryview, end: bytes | None = None) -> None:
        """Send on a call's stream; `end` is the block that ends it."""
        if end is not None:
            self._forget(call)
        if head is not None or data or end is not None:
            self._http2.send(call.stream, head, data, end)
        self._flush_soon()

    def waits(self, call: GrpcCall) -> bool:
        """Whether the client has not made room for what a call has sent already."""
        return self._http2.out.waits(call.stream)

    def later(self, call: StreamCall) -> None:
        """Have a call go on when others have had their turn."""
        self._waiting.append(call)
        self._go_on_soon(begun=False)

    def taken(self, call: GrpcCall, size: int) -> None:
        """The client may send this many bytes more of a call."""
        if size:
            self._http2.taken(call.stream, size)
            self._flush_soon()

    def answer(self, call: GrpcCall, message: bytes, inference: GrpcInference) -> None:
        """Send the only message of a call's answer, and end it."""
        self._forget(call)
        self._http2.send(call.stream, ANSWER_HEAD, prefixed(message), ANSWER_END)
        self._sent.append(inference)
        self._flush_soon()

    def record(self, inference: GrpcInference) -> None:
        """The answer to an inference goes out with the next write."""
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
        except Exception as error:  # noqa: BLE001  whatever one message does to us must cost its client only
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
        """Write what there is, and see what the client has to do by when."""
        self._flushing = False
        if self._lingers or self._transport.is_closing():
            return
        self._write()
        for call in [call for call in self._streams if call.stalled]:
            self._feed(call, b"", 0, ended=False)  # its client may have made room for answers
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
        """Put more of what waits into frames, when others have had their turn."""
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
        """The last frame is out: wait so long for the client to read it and close."""
        self._cancel_all()
        self._lingers = True
        self.due = self.state.now + self.state.limits.linger_s
        self._write()
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

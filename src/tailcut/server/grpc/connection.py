"""The Open Inference Protocol v2 over gRPC, on the same loop as HTTP: with our own HTTP/2 (`wire/http2`).

A request is decoded, queued and answered on the loop's thread, like one of HTTP, and shares its batches. Whatever the
answers of one pass of the loop are, each connection writes them at once. Why not grpcio's server, and what that
brings, is in docs/decisions/017-http2-of-our-own.md.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from tailcut.server.grpc.calls import Call
from tailcut.server.grpc.infer import Inference
from tailcut.server.grpc.infer_calls import InferCall, StreamCall
from tailcut.server.grpc.queries import Questions
from tailcut.server.grpc.query_calls import REFUSED, AdminCall, QuestionCall, WatchCall
from tailcut.server.grpc.templates import Plans
from tailcut.server.state import ServerState
from tailcut.wire.grpc.framing import CALLS, CallError, CallHead, Status, error_end
from tailcut.wire.grpc.messages import HEALTH, HEALTH_SERVICE, METHODS, SERVICE
from tailcut.wire.http2.connection import TURN_UNITS, Data, Http2Connection, Opened
from tailcut.wire.http2.frames import Http2Error

_log = logging.getLogger("tailcut.grpc")
_ADMIN = {
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
}  # need the token, where the server has one
_OPEN = {
    f"/{SERVICE}/ServerLive",
    f"/{SERVICE}/ServerReady",
    f"/{HEALTH_SERVICE}/Check",
    f"/{HEALTH_SERVICE}/Watch",
}  # need none, also where all others do
_SLICE_UNITS = 32  # read of a connection that has more to say, before others have their turn
_Maker = Callable[["GrpcConnection", int, CallHead], Call]


class GrpcServer:
    """The gRPC side of a server: the inference service and the standard health service, and their connections."""

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self.closing = False
        self._plans = Plans(state)
        self.connections: set[GrpcConnection] = set()
        self.calls: dict[str, _Maker] = {f"/{SERVICE}/{name}": self._maker(name) for name in METHODS}
        self._draining = False
        self._watchers: set[WatchCall] = set()
        check = partial(QuestionCall, name="Check", handler=self._check, request=HEALTH["HealthCheckRequest"])
        watch = partial(WatchCall, name="Watch", status_of=self._status_of, watchers=self._watchers)
        self.calls |= {f"/{HEALTH_SERVICE}/Check": check, f"/{HEALTH_SERVICE}/Watch": watch}

    def connection(self) -> "GrpcConnection":
        """The protocol of a socket that was accepted."""
        return GrpcConnection(self)

    def drain(self) -> None:
        """Tell clients that ask or watch that the server is about to stop; calls are still answered."""
        self._draining = True
        for watcher in list(self._watchers):
            watcher.tell()

    def refuse(self) -> None:
        """Nothing: its listener's door sees to that."""

    def close(self) -> None:
        """Have every client open no more calls here; those in hand are answered."""
        self.closing = True
        for connection in list(self.connections):
            connection.wind_down()

    def _maker(self, name: str) -> _Maker:
        request, _, streams = METHODS[name]
        if streams:
            return partial(StreamCall, name=name, plans=self._plans)
        if name == "ModelInfer":
            return partial(InferCall, name=name, plans=self._plans)
        kind = AdminCall if name in _ADMIN else QuestionCall
        return partial(kind, name=name, handler=Questions(self.state.context).of(name), request=request)

    def _status_of(self, service: str) -> int:
        status = HEALTH["HealthCheckResponse"]
        if service not in {"", SERVICE}:
            return int(status.SERVICE_UNKNOWN)
        return int(status.NOT_SERVING if self._draining else status.SERVING)

    async def _check(self, request: Any) -> Any:
        status = self._status_of(request.service)
        if status == HEALTH["HealthCheckResponse"].SERVICE_UNKNOWN:
            raise CallError(Status.NOT_FOUND, "no such service")
        return HEALTH["HealthCheckResponse"](status=status)


class GrpcConnection(asyncio.BufferedProtocol):
    """One accepted socket and its calls."""

    def __init__(self, server: GrpcServer) -> None:
        state = server.state
        self.state = state
        self._server = server
        self._http2 = Http2Connection(CALLS)
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any other callback
        self._calls: dict[int, Call] = {}
        self._streams: set[StreamCall] = set()  # those of them that may have more to do after every write
        self._uploads: dict[Call, None] = {}  # those whose message is on its way
        self._sent: list[Inference] = []  # whose answers go out with the next write
        self._charged = 0  # of the server's buffers, for answers that the client has not opened its windows for
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
        self._server.connections.add(self)
        self.state.enter(self)
        if self._server.closing:
            self._http2.wind_down()
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        """The client left: its work goes with it."""
        self._server.connections.discard(self)
        self.state.leave(self)
        self._cancel_all()
        self._charge_answers(0)

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
            if type(event) is Data:
                call = self._calls.get(event.stream)
                if call is not None:
                    self._feed(call, event.data, event.size, ended=event.ended)
            elif type(event) is Opened:
                self._open(event.stream, event.head, ended=event.ended)
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
            call.fail(CallError(Status.UNAVAILABLE, "the server closes this connection"))
        self._http2.go_away()
        self._lingers = True
        self.due = self.state.now + self.state.limits.write_s(self._transport.get_write_buffer_size())
        self._write()
        self._transport.close()

    # What calls call.

    def send(self, call: Call, head: bytes | None, data: bytes | memoryview, end: bytes | None = None) -> None:
        """Send on a call's stream; `end` is the block that ends it."""
        if end is not None:
            self._forget(call)
        if head is not None or data or end is not None:
            self._http2.send(call.stream, head, data, end)
        self._flush_soon()

    def waits(self, call: Call) -> bool:
        """Whether the client has not made room for what a call has sent already."""
        return self._http2.out.waits(call.stream)

    def later(self, call: StreamCall) -> None:
        """Have a call go on when others have had their turn."""
        self._waiting.append(call)
        self._go_on_soon(begun=False)

    def taken(self, call: Call, size: int) -> None:
        """The client may send so many bytes more of a call."""
        if size:
            self._http2.taken(call.stream, size)
            self._flush_soon()

    def charge(self, call: Call, size: int) -> None:
        """What a call keeps in buffers, which all connections together may have so much of.

        Raises:
            CallError: that is used up.
        """
        more = size - call.charged
        if not more:
            return
        counts = self.state.context.counts
        if more > 0 and counts.buffered_bytes + more > self.state.limits.buffered_bytes:
            counts.bodies_refused += 1
            raise CallError(Status.UNAVAILABLE, "too many messages are arriving now")
        counts.buffered_bytes += more
        call.charged = size

    def record(self, inference: Inference) -> None:
        """The answer to an inference goes out with the next write."""
        self._sent.append(inference)

    # Calls and writes.

    def _open(self, stream: int, head: CallHead, *, ended: bool) -> None:
        make = self._server.calls.get(head.plan.path)
        error = head.error
        context = self.state.context
        if context.require_token and head.plan.path not in _OPEN and not context.admits(head.plan.authorization):
            error = CallError(Status.UNAUTHENTICATED, REFUSED)
        elif error is None and make is None:
            error = CallError(Status.UNIMPLEMENTED, "there is no such call")
        elif self.state.context.counts.buffered_bytes > self.state.limits.buffered_bytes:
            error = CallError(Status.UNAVAILABLE, "too many messages are on their way")
        if head.plan.refused is not None or error is not None or make is None:
            self._turn_away(stream, head.plan.refused, error)
            return
        call = self._calls[stream] = make(self, stream, head)
        if type(call) is StreamCall:
            self._streams.add(call)
        if ended:
            self._feed(call, b"", 0, ended=True)
        else:
            self._uploads[call] = None

    def _turn_away(self, stream: int, refused: bytes | None, error: CallError | None) -> None:
        """Answer what is no call, or none of ours, from its head alone."""
        if refused is None and error is not None:
            self.state.context.counts.grpc_replies[error.status.name] += 1
            retry_after_s = 1 if error.status is Status.UNAVAILABLE else None
            refused = error_end(error.status, str(error), retry_after_s)
        self._http2.send(stream, None, b"", refused)

    def _feed(self, call: Call, data: bytes, size: int, *, ended: bool) -> None:
        try:
            call.receive(data, size, ended=ended)
        except CallError as error:
            call.fail(error, 1 if error.status is Status.UNAVAILABLE else None)
        except Exception:  # noqa: BLE001  whatever one message does to us must cost its client only
            _log.exception("a message was not understood")
            call.fail(CallError(Status.INTERNAL, "the server failed on this message"))
        if call.waits_since_ns and not call.over:
            self._uploads[call] = None
        else:
            self._uploads.pop(call, None)

    def _forget(self, call: Call) -> None:
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
        if out.waiting_bytes != self._charged:
            self._charge_answers(out.waiting_bytes)
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

    def _charge_answers(self, size: int) -> None:
        self.state.context.counts.buffered_bytes += size - self._charged
        self._charged = size

    def _linger(self) -> None:
        """The last frame is out: wait so long for the client to read it and close."""
        self._cancel_all()
        self._lingers = True
        self.due = self.state.now + self.state.limits.linger_s
        self._write()
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

"""The streams of an HTTP/2 connection, on the server: flow control, how streams end, and what is sent. Pure.

`connection.py` reads frames; their effects on streams and windows, and what is sent to the client, are here.
"""

from typing import Generic

import msgspec

from tailcut.wire.http2.fields import H
from tailcut.wire.http2.frames import Budget, ErrorCode, FrameType, Http2Error, frame, word
from tailcut.wire.http2.send import Outlet

STREAMS = 1024  # open at once on a connection, at most
STREAM_WINDOW = 1 << 20  # bytes that a client may send on a stream before they are processed
CONNECTION_WINDOW = (
    16 << 20
)  # for all streams; opened again as bytes arrive, because TCP slows down a client that is too fast
EVER_OPEN = (1 << 31) - 1
OUR_PING = b"tailcut!"
_RESETS = 1024, 256  # streams that a client may open and reset: at once, and per second
_CHORES = 1024, 256  # frames without a request: at once, and per second


class StreamOpened(msgspec.Struct, Generic[H], gc=False):
    """A request began; `ended` if it is complete: without data, or with `data` in one frame right after its head.

    Such data used `size` bytes of its window.
    """

    stream: int
    head: H
    ended: bool
    data: bytes = b""
    size: int = 0


class StreamData(msgspec.Struct, gc=False):
    """Bytes of a request, which used `size` bytes of its window until `taken` opens it. `ended`: they are the last."""

    stream: int
    data: bytes
    size: int
    ended: bool


class Reset(msgspec.Struct, gc=False):
    """A request ended before its answer: the client cancelled it, or violated a rule."""

    stream: int
    code: int


class Incoming:
    """The receiving state of a stream."""

    __slots__ = ("left", "owed", "window")

    def __init__(self, left: int) -> None:
        self.window = STREAM_WINDOW  # bytes that the client may still send
        self.owed = 0  # bytes processed for which the window has not been opened again
        self.left = left  # bytes left of the announced length; -1: none was announced


class Streams(Generic[H]):
    """The part of a connection that reads nothing: its open streams, and what is sent to the client."""

    def __init__(self) -> None:
        self.out = Outlet()
        self.last_stream = 0
        self.failed = False
        self._window = CONNECTION_WINDOW  # bytes that the client may still send
        self._owed = 0  # bytes received for which the window has not been opened again
        self._incoming: dict[int, Incoming] = {}  # the streams on which the client may send more
        self._dismissed: dict[int, None] = {}  # ended while the client still sends, which is ignored
        self._events: list[StreamOpened[H] | StreamData | Reset] = []
        self._resets = Budget(*_RESETS)
        self._chores = Budget(*_CHORES)
        self._now = 0.0
        self._final = EVER_OPEN  # the last stream that will be served
        self._winding = False

    @property
    def over(self) -> bool:
        """Whether the connection is finished: the client was told to leave, and its last stream is answered."""
        return self.failed or (self._final != EVER_OPEN and not self.out.windows)

    def take(self) -> bytes:
        """Take the bytes to be written now."""
        return self.out.take()

    def taken(self, stream: int, size: int) -> None:
        """Note that `size` bytes of a stream's data are processed: the client may send as many more."""
        incoming = self._incoming.get(stream)
        if incoming is None:
            return
        incoming.owed += size
        if incoming.owed >= STREAM_WINDOW // 2:
            self.out.write(frame(FrameType.WINDOW_UPDATE, 0, stream, word(incoming.owed)))
            incoming.window += incoming.owed
            incoming.owed = 0

    def send(self, stream: int, head: bytes | None, data: bytes | memoryview, trailers: bytes | None = None) -> None:
        """Send on a stream: the block of a head, data as the windows allow, and the block that ends the stream."""
        if stream not in self.out.windows or self.failed:
            return
        self.out.send(stream, head, data, trailers)
        if trailers is not None:
            self._resets.earn(1)
            if stream in self._incoming:  # tell a client that is still sending that nothing more is read
                del self._incoming[stream]
                self._dismiss(stream, ended=False)
                self.out.finally_reset(stream)

    def reset(self, stream: int, code: ErrorCode) -> None:
        """End a stream at once."""
        if stream in self.out.windows:
            self._close(stream)
            self.out.write(frame(FrameType.RST_STREAM, 0, stream, word(code)))

    def ping(self) -> None:
        """Send a PING, to find out whether the client is still there."""
        self.out.write(frame(FrameType.PING, 0, 0, OUR_PING))

    def wind_down(self) -> None:
        """Ask the client to open no more streams; after it has acknowledged that, later ones are not served."""
        if not self._winding:
            self._winding = True
            self.out.write(frame(FrameType.GOAWAY, 0, 0, word(EVER_OPEN) + word(ErrorCode.NO_ERROR)))
            self.ping()

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Tell the client which streams will still be served."""
        if self._final == EVER_OPEN:
            self._final = self.last_stream
            self.out.write(frame(FrameType.GOAWAY, 0, 0, word(self._final) + word(code)))

    # Violations, and ends.

    def _fill_window(self, size: int) -> None:
        """Count `size` received bytes; the connection's window is opened again before it is used up."""
        self._window -= size
        if self._window < 0:
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        self._owed += size
        if self._owed >= CONNECTION_WINDOW // 2:
            self.out.write(frame(FrameType.WINDOW_UPDATE, 0, 0, word(self._owed)))
            self._window += self._owed
            self._owed = 0

    def _stray_data(self, stream: int, *, ended: bool) -> None:
        """Handle data for a stream that accepts none."""
        if stream in self._dismissed:
            if ended:
                del self._dismissed[stream]
            return
        self._known(stream)
        self._spoil(stream, ErrorCode.STREAM_CLOSED)

    def _fail(self, code: ErrorCode, message: str) -> None:
        """End the connection; GOAWAY says why (RFC 9113 section 6.8)."""
        self.failed = True
        self.out.write(frame(FrameType.GOAWAY, 0, 0, word(self.last_stream) + word(code) + message.encode()))

    def _close(self, stream: int) -> None:
        self._dismiss(stream, ended=self._incoming.pop(stream, None) is None)
        self.out.drop(stream)

    def _dismiss(self, stream: int, *, ended: bool) -> None:
        if not ended:
            if len(self._dismissed) >= STREAMS:
                del self._dismissed[next(iter(self._dismissed))]
            self._dismissed[stream] = None

    def _spoil(self, stream: int, code: ErrorCode) -> None:
        """End a stream that violated a rule; that counts like a cancelled request."""
        self._pay_reset()
        was_open = stream in self.out.windows
        self._close(stream)
        self.out.write(frame(FrameType.RST_STREAM, 0, stream, word(code)))
        if was_open:
            self._events.append(Reset(stream, code))

    def _known(self, stream: int) -> None:
        if not stream & 1 or stream > self.last_stream:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a frame for a stream that is not open")

    def _chore(self) -> None:
        if not self._chores.pay(self._now):
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that carry no request")

    def _pay_reset(self) -> None:
        if not self._resets.pay(self._now):
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "too many cancelled requests")

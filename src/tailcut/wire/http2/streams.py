"""The streams of an HTTP/2 connection's server end: how much each side may send, how each ends, and what is said. Pure.

`connection.py` reads frames; what they do to streams and windows, and what goes to the client, is here.
"""

from typing import Generic

import msgspec

from tailcut.wire.http2.fields import H
from tailcut.wire.http2.frames import Budget, ErrorCode, FrameType, Http2Error, frame, word
from tailcut.wire.http2.send import Outlet

STREAMS = 1024  # open at once, for each connection
STREAM_WINDOW = 1 << 20  # bytes a client may send on a stream before they are taken from it
CONNECTION_WINDOW = (
    16 << 20
)  # of all its streams: opened anew as bytes arrive, TCP slows down a client that is too fast
EVER_OPEN = (1 << 31) - 1
OUR_PING = b"tailcut!"
_RESETS = 1024, 256  # streams that a client may open and reset: at once, and each second
_CHORES = 1024, 256  # frames that carry no request


class StreamOpened(msgspec.Struct, Generic[H], gc=False):
    """A request began; `ended` where nothing follows: it has no data, or what came in one frame right behind its head.

    Such data took `size` of its window.
    """

    stream: int
    head: H
    ended: bool
    data: bytes = b""
    size: int = 0


class StreamData(msgspec.Struct, gc=False):
    """Bytes of a request; they took `size` of its window, which `taken` gives back. `ended`: they are the last."""

    stream: int
    data: bytes
    size: int
    ended: bool


class Reset(msgspec.Struct, gc=False):
    """A request is over before its answer: the client gave it up, or it broke a rule."""

    stream: int
    code: int


class Incoming:
    """What a client still sends on a stream."""

    __slots__ = ("left", "owed", "window")

    def __init__(self, left: int) -> None:
        self.window = STREAM_WINDOW  # what it may send
        self.owed = 0  # taken, and not given back yet
        self.left = left  # of the length it announced; -1: none


class Streams(Generic[H]):
    """A connection as far as nothing is read: its open streams, and what the client is told."""

    def __init__(self) -> None:
        self.out = Outlet()
        self.last_stream = 0
        self.failed = False
        self._window = CONNECTION_WINDOW  # what the client may send
        self._owed = 0  # of it, has come and is not given back yet
        self._incoming: dict[int, Incoming] = {}  # of those streams that may send more
        self._dismissed: dict[int, None] = {}  # answered or reset by us while the client sends: its rest is ignored
        self._events: list[StreamOpened[H] | StreamData | Reset] = []
        self._resets = Budget(*_RESETS)
        self._chores = Budget(*_CHORES)
        self._now = 0.0
        self._final = EVER_OPEN  # the last stream that is served
        self._winding = False

    @property
    def over(self) -> bool:
        """Whether nothing will happen any more: the client was told to go, and its last stream is answered."""
        return self.failed or (self._final != EVER_OPEN and not self.out.windows)

    def take(self) -> bytes:
        """What is to be written now."""
        return self.out.take()

    def taken(self, stream: int, size: int) -> None:
        """`size` bytes of a stream's data are out of the way: the client may send as many more."""
        incoming = self._incoming.get(stream)
        if incoming is None:
            return
        incoming.owed += size
        if incoming.owed >= STREAM_WINDOW // 2:
            self.out.write(frame(FrameType.WINDOW_UPDATE, 0, stream, word(incoming.owed)))
            incoming.window += incoming.owed
            incoming.owed = 0

    def send(self, stream: int, head: bytes | None, data: bytes | memoryview, trailers: bytes | None = None) -> None:
        """Send on a stream: a head's block, data as the windows allow, and the last block, which ends it."""
        if stream not in self.out.windows or self.failed:
            return
        self.out.send(stream, head, data, trailers)
        if trailers is not None:
            self._resets.earn(1)
            if stream in self._incoming:  # a client that still sends is told that nothing is read
                del self._incoming[stream]
                self._dismiss(stream, ended=False)
                self.out.finally_reset(stream)

    def reset(self, stream: int, code: ErrorCode) -> None:
        """End a stream at once."""
        if stream in self.out.windows:
            self._close(stream)
            self.out.write(frame(FrameType.RST_STREAM, 0, stream, word(code)))

    def ping(self) -> None:
        """Ask whether the client is there."""
        self.out.write(frame(FrameType.PING, 0, 0, OUR_PING))

    def wind_down(self) -> None:
        """Ask the client to open no more streams; once it has heard that, none but those are served."""
        if not self._winding:
            self._winding = True
            self.out.write(frame(FrameType.GOAWAY, 0, 0, word(EVER_OPEN) + word(ErrorCode.NO_ERROR)))
            self.ping()

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Tell the client which streams are served still."""
        if self._final == EVER_OPEN:
            self._final = self.last_stream
            self.out.write(frame(FrameType.GOAWAY, 0, 0, word(self._final) + word(code)))

    # What breaks a rule, and what ends.

    def _fill_window(self, size: int) -> None:
        """`size` bytes of data came; the connection's window is opened anew, before it is full."""
        self._window -= size
        if self._window < 0:
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        self._owed += size
        if self._owed >= CONNECTION_WINDOW // 2:
            self.out.write(frame(FrameType.WINDOW_UPDATE, 0, 0, word(self._owed)))
            self._window += self._owed
            self._owed = 0

    def _stray_data(self, stream: int, *, ended: bool) -> None:
        """Data for a stream that takes none."""
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
        """A stream broke a rule: it ends, and that costs as much as giving it up."""
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

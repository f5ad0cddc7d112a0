"""The sending half of an HTTP/2 connection: frames to be written, and data that waits for a window. Pure."""

from collections import deque

from tailcut.wire.http2.frames import (
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    WINDOW_LIMIT,
    ErrorCode,
    FrameType,
    Http2Error,
    frame,
    word,
)

_DATA, _HEADERS = (
    int(FrameType.DATA),
    int(FrameType.HEADERS),
)  # plain ints: a look-up in an enum takes 80 ns, and an answer needs three
_LAST_HEADERS = _HEADERS << 8 | END_HEADERS | END_STREAM  # kind and flags
_DATA_EARNED = 16  # frames that a client may send for one of ours, generously: it opens windows and sends PINGs
_WORTH_BYTES = 1024  # smaller frames earn nothing, unless they are the last: clients may open windows for single bytes
_BURST_BYTES = 1 << 20  # put into frames at a time, so that others have their turn, and the client reads
_PART_BYTES = 256  # the minimum that a part counts: joining thousands takes as long as copying that much
_OUR_FRAME_BYTES = 64 << 10  # the largest frame, even if the client accepts more, so that streams take turns


class _Waiting:
    """The data of a stream that waits for a window: `left` bytes, then perhaps the block that ends the stream."""

    __slots__ = ("at", "left", "parts", "reset", "trailers")

    def __init__(self) -> None:
        self.parts: deque[bytes | memoryview] = deque()  # not joined, because that would copy large answers
        self.at = 0  # offset in the first part
        self.left = 0
        self.trailers: bytes | None = None
        self.reset = False


def _cut(waiting: _Waiting, size: int) -> bytes | memoryview:
    """Take the next `size` bytes of a stream."""
    pieces = []
    waiting.left -= size
    while size:
        part, at = waiting.parts[0], waiting.at
        piece = part[at : at + size]
        size -= len(piece)
        waiting.at += len(piece)
        pieces.append(piece)
        if waiting.at == len(part):
            waiting.parts.popleft()
            waiting.at = 0
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Outlet:
    """Everything to be sent to the client. `stopped` holds data back while the socket accepts no more."""

    def __init__(self) -> None:
        self.frame_bytes = FRAME_BYTES  # the largest frame that the client accepts
        self.waiting_bytes = 0
        self.stopped = False
        self._out: list[bytes | memoryview] = []
        self._window = 65535
        self._first_window = 65535
        self.windows: dict[int, int] = {}  # of the streams whose answer has not been sent completely
        self._waiting: dict[int, _Waiting] = {}
        self._earned = 0
        self.tried = 0  # how often it was checked whether a stream may send, counted as work
        self._burst = 0  # bytes put into frames since the last `take`

    @property
    def more(self) -> bool:
        """Whether another `pump` could send more, after `take`."""
        return self._burst >= _BURST_BYTES

    def write(self, whole: bytes) -> None:
        """Add complete frames that are not subject to flow control."""
        self._out.append(whole)

    def take(self) -> bytes:
        """Take everything that can be written now."""
        out, self._out = self._out, []
        self._burst = 0
        return bytes(out[0]) if len(out) == 1 else b"".join(out)

    def open(self, stream: int) -> None:
        """Add a stream that will be answered."""
        self.windows[stream] = self._first_window

    def drop(self, stream: int) -> None:
        """Drop the rest of a stream, which is not wanted any more."""
        self.windows.pop(stream, None)
        waiting = self._waiting.pop(stream, None)
        if waiting is not None:
            self.waiting_bytes -= waiting.left

    def waits(self, stream: int) -> bool:
        """Whether a stream has data that waits for a window."""
        return stream in self._waiting

    def send(self, stream: int, head: bytes | None, data: bytes | memoryview, trailers: bytes | None) -> None:
        """Send the block of a head, data, and the block that ends the stream; each may be missing."""
        out, of = self._out, stream.to_bytes(4, "big")
        if head is not None:
            out += ((len(head) << 16 | _HEADERS << 8 | END_HEADERS).to_bytes(5, "big"), of, head)
        size = len(data)
        waiting = self._waiting.get(stream)
        room = size <= FRAME_BYTES and size <= self._window and size <= self.windows[stream]
        if waiting is None and room and not self.stopped:
            if size:
                self._earned += _DATA_EARNED
                self._window -= size
                self.windows[stream] -= size
                out += ((size << 16 | _DATA << 8).to_bytes(5, "big"), of, data)
            if trailers is not None:
                out += ((len(trailers) << 16 | _LAST_HEADERS).to_bytes(5, "big"), of, trailers)
                del self.windows[stream]
            return
        if waiting is None:
            waiting = self._waiting[stream] = _Waiting()
        if size:
            waiting.parts.append(data)
            waiting.left += size
        self.waiting_bytes += size
        waiting.trailers = trailers
        self._send_all(stream)  # other waiting streams could have been sent before

    def finally_reset(self, stream: int) -> None:
        """When a stream has been sent completely, tell the client that the rest of its request is not wanted."""
        waiting = self._waiting.get(stream)
        if waiting is None:
            self._out.append(frame(FrameType.RST_STREAM, 0, stream, word(ErrorCode.NO_ERROR)))
        else:
            waiting.reset = True

    def pump(self) -> None:
        """Send what the windows allow, one frame per stream in turn."""
        moved = True
        while moved and not self.stopped:
            moved = False
            for stream, waiting in list(self._waiting.items()):
                if self._burst >= _BURST_BYTES:
                    return
                if self._send_some(stream, waiting):
                    moved = True
                    if stream in self._waiting:  # the next pump begins with another stream
                        self._waiting[stream] = self._waiting.pop(stream)

    def _send_some(self, stream: int, waiting: _Waiting) -> bool:
        self.tried += 1
        left = waiting.left
        size = max(0, min(left, self.frame_bytes, _OUR_FRAME_BYTES, self._window, self.windows[stream]))
        if size:
            parts = len(waiting.parts)
            self._out.append(frame(FrameType.DATA, 0, stream, _cut(waiting, size)))
            self._burst += max(size, _PART_BYTES * (parts - len(waiting.parts)))
            self._window -= size
            self.windows[stream] -= size
            self.waiting_bytes -= size
            if size == left or size >= _WORTH_BYTES:
                self._earned += _DATA_EARNED
        if size == left:
            del self._waiting[stream]
            if waiting.trailers is not None:
                self._out.append(frame(FrameType.HEADERS, END_HEADERS | END_STREAM, stream, waiting.trailers))
                del self.windows[stream]
            if waiting.reset:
                self._out.append(frame(FrameType.RST_STREAM, 0, stream, word(ErrorCode.NO_ERROR)))
        return size > 0

    # What the client allows.

    def set_window(self, size: int) -> None:
        """Set the initial window of streams, which also changes that of open ones, perhaps to below 0.

        Raises:
            Http2Error: a window exceeds its limit.
        """
        change = size - self._first_window
        self._first_window = size
        for stream in self.windows:
            self.windows[stream] += change
        if max(self.windows.values(), default=0) > WINDOW_LIMIT:
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "a window over 2^31-1")
        if change > 0:
            self.pump()

    def widen(self, more: int) -> None:
        """Increase the connection's window by `more` bytes.

        Raises:
            Http2Error: the window exceeds its limit.
        """
        self._window += more
        if self._window > WINDOW_LIMIT:
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "a window over 2^31-1")
        if self._waiting:
            self.pump()

    def widen_stream(self, stream: int, more: int) -> bool:
        """Increase a stream's window by `more` bytes; returns False where it exceeds its limit."""
        if stream in self.windows:
            window = self.windows[stream] = self.windows[stream] + more
            if window > WINDOW_LIMIT:
                return False
            self._send_all(stream)
        return True

    def _send_all(self, stream: int) -> None:
        """Send what the windows allow of one stream."""
        waiting = self._waiting.get(stream)
        while waiting is not None and not (self.stopped or self.more) and self._send_some(stream, waiting):
            waiting = self._waiting.get(stream)

    def earned(self) -> int:
        """How many small frames the client may send in return for what it was sent since the last call."""
        earned, self._earned = self._earned, 0
        return earned

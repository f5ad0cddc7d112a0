"""The server's end of an HTTP/2 connection with prior knowledge: bytes to events, answers to bytes. Pure, no socket.

Pass received bytes to `receive`, in pieces of any size; handle its events; write what `take` returns. The connection
itself answers what needs no decision (SETTINGS, PING, window updates), applies flow control in both directions, and
ends what violates RFC 9113: a stream by RST_STREAM, the connection by GOAWAY and an `Http2Error`.

Everything that a client can make the server keep is bounded: streams, fields, frames, and data by the windows. Useless
work that a client can cause is paid from budgets, which grow with time and with real work (`streams.py`).
"""

from collections.abc import Callable
from struct import Struct

from tailcut.wire.http2.continuation import SplitBlock
from tailcut.wire.http2.fields import (
    FIELDS_BYTES,
    BlockError,
    FieldReading,
    H,
    HeaderBlocks,
    MalformedError,
    TooManyFieldsError,
)
from tailcut.wire.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    HEAD_BYTES,
    PADDED,
    PREFACE,
    PRIORITY_FIELDS,
    WINDOW_LIMIT,
    ErrorCode,
    FrameType,
    Http2Error,
    SettingId,
    frame,
    read_settings,
    unpadded,
    word,
)
from tailcut.wire.http2.streams import (
    CONNECTION_WINDOW,
    EVER_OPEN,
    OUR_PING,
    STREAM_WINDOW,
    STREAMS,
    Incoming,
    Reset,
    StreamData,
    StreamOpened,
    Streams,
)

__all__ = [
    "CONNECTION_WINDOW",
    "STREAMS",
    "STREAM_WINDOW",
    "TURN_UNITS",
    "Http2Connection",
    "Reset",
    "StreamData",
    "StreamOpened",
]

TURN_UNITS = 256  # of 3 us: the work for one client before `receive` returns, so that others have their turn
_CALL_UNITS = 8  # for a request, which the caller has to queue
_IDLE_WINDOW = 65535  # the initial window of both sides
_CHORES_EARNED = 8  # by a frame that carries a request: active clients measure the connection and open windows
_PREFACE_BYTES = len(PREFACE)
_HEAD = Struct(">HBBBI")
_HEADERS = int(FrameType.HEADERS)  # a plain int, as in the table of handlers
_ENDS = int(FrameType.DATA) << 8 | END_STREAM  # kind and flags


class Http2Connection(Streams[H]):
    """One connection; `reading` makes the head in `StreamOpened` from a request's fields."""

    def __init__(self, reading: FieldReading[H]) -> None:
        super().__init__()
        self.partial_since = 0.0  # when an incomplete frame began to arrive; 0: there is none
        self._blocks = HeaderBlocks(reading)
        self._rest = b""
        self._spent = 0  # units of work in this call of `receive`
        self.pending = False  # complete frames wait for the next call of `receive`
        self._greeted = 0  # bytes of the preface received, plus 1 after the first SETTINGS
        self._block: SplitBlock | None = None  # incomplete
        handlers: dict[int, Callable[[int, int, bytes], None]] = {
            FrameType.DATA: self._on_data,
            FrameType.HEADERS: self._on_headers,
            FrameType.PRIORITY: self._on_priority,
            FrameType.RST_STREAM: self._on_reset,
            FrameType.SETTINGS: self._on_settings,
            FrameType.PUSH_PROMISE: self._on_push,
            FrameType.PING: self._on_ping,
            FrameType.GOAWAY: self._on_goaway,
            FrameType.WINDOW_UPDATE: self._on_window_update,
            FrameType.CONTINUATION: self._on_continuation,
        }
        self._handlers = {int(kind): handler for kind, handler in handlers.items()}  # plain ints are found faster
        settings = ((SettingId.STREAMS, STREAMS), (SettingId.WINDOW, STREAM_WINDOW), (SettingId.FIELDS, FIELDS_BYTES))
        parts = b"".join(key.to_bytes(2, "big") + word(value) for key, value in settings)
        self.out.write(frame(FrameType.SETTINGS, 0, 0, parts))
        self.out.write(frame(FrameType.WINDOW_UPDATE, 0, 0, word(CONNECTION_WINDOW - _IDLE_WINDOW)))

    @property
    def greeted(self) -> bool:
        """Whether the client has sent the preface and its settings."""
        return self._greeted > _PREFACE_BYTES

    def receive(self, data: bytes, now: float, units: int = TURN_UNITS) -> list["StreamOpened[H] | StreamData | Reset"]:
        """Process received bytes; returns their events. `now` is in seconds of any monotonic clock.

        A call does at most `units` of work, 3 us each; with 0, it only keeps the bytes. If `pending` is true
        afterwards, call it again without bytes to go on.

        Raises:
            Http2Error: the client violated a rule that ends the connection; GOAWAY is ready to be written.
        """
        if self.failed:
            return []
        self._spent = self._blocks.decoded = self.out.tried = 0
        self._now = now
        self._events = []
        try:
            self._chores.earn(self.out.earned())
            if self._rest:
                data = self._rest + data
            at = 0 if self._greeted >= _PREFACE_BYTES else self._greet(data)
            end = self._frames(data, at, units)
            if end or not self._rest:
                self.partial_since = now
            self._rest = data[end:]
            if self.pending or (not self._rest and self._block is None):  # frames that wait for us are not late
                self.partial_since = 0.0
        except Http2Error as error:
            self._rest, self.pending = b"", False
            self._fail(error.code, str(error))
            raise
        except BlockError as error:
            self._rest, self.pending = b"", False
            flood = isinstance(error, TooManyFieldsError)
            code = ErrorCode.ENHANCE_YOUR_CALM if flood else ErrorCode.COMPRESSION_ERROR
            self._fail(code, str(error))
            raise Http2Error(code, str(error)) from None
        return self._events

    def _greet(self, data: bytes) -> int:
        """How many bytes at the start belong to the preface."""
        start = data[:_PREFACE_BYTES]
        if not PREFACE.startswith(start):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "expected the HTTP/2 connection preface")
        if len(start) < _PREFACE_BYTES:
            return 0
        self._greeted = _PREFACE_BYTES
        return _PREFACE_BYTES

    def _frames(self, data: bytes, at: int, units: int) -> int:  # noqa: C901  one loop over the frames
        """Handle the complete frames in data[at:]; returns where the rest begins."""
        size = len(data)
        if self._greeted < _PREFACE_BYTES:
            return 0
        self.pending = False
        while size - at >= HEAD_BYTES:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            length = high << 8 | low
            if length > FRAME_BYTES:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, f"a frame of more than {FRAME_BYTES} bytes")
            end = at + HEAD_BYTES + length
            if end > size:
                break
            if self._spent + self._blocks.decoded + self.out.tried >= units:
                self.pending = True
                break
            self._spent += 1
            if self._greeted == _PREFACE_BYTES:
                if kind != FrameType.SETTINGS or flags & ACK:
                    raise Http2Error(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
                self._greeted += 1
            if self._block is not None and kind != FrameType.CONTINUATION:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "expected a CONTINUATION frame of the same header block")
            if flags == END_HEADERS and kind == _HEADERS and (stop := _data_behind(data, end, size, stream)):
                self._on_request(stream & EVER_OPEN, data[at + HEAD_BYTES : end], data[end + HEAD_BYTES : stop])
                at = stop
                continue
            handler = self._handlers.get(kind)
            if handler is None:
                self._chore()
            else:
                handler(flags, stream & EVER_OPEN, data[at + HEAD_BYTES : end])
            at = end
        return at

    def _on_request(self, stream: int, block: bytes, data: bytes) -> None:
        """Handle HEADERS with the one DATA frame that ends the request, which is the usual form of small requests."""
        if not stream:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        self._spent += 1
        if not self._header_block(0, stream, block, data):
            self._on_data(END_STREAM, stream, data)

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        size = len(payload)
        incoming = self._incoming.get(stream)
        self._fill_window(size)
        data = unpadded(flags, payload) if flags & PADDED else payload
        ended = bool(flags & END_STREAM)
        if incoming is None:
            self._stray_data(stream, ended=ended)
            return
        incoming.window -= size
        if incoming.window < 0:
            self._spoil(stream, ErrorCode.FLOW_CONTROL_ERROR)
            return
        if incoming.left >= 0:
            incoming.left -= len(data)
            if incoming.left < 0 or (ended and incoming.left):
                self._spoil(stream, ErrorCode.PROTOCOL_ERROR)
                return
        if ended:
            del self._incoming[stream]
        elif not data:
            self._chore()
        if data:
            self._chores.earn(_CHORES_EARNED)
        self._events.append(StreamData(stream, data, size, ended))

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        block = unpadded(flags, payload) if flags & PADDED else payload
        if flags & PRIORITY_FIELDS:
            if len(block) < 5:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            block = block[5:]
        if flags & END_HEADERS:
            self._header_block(flags, stream, block)
        else:
            self._block = SplitBlock(stream, flags, block)

    def _on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        block.add(stream, payload)
        if flags & END_HEADERS:
            self._block = None
            self._header_block(block.flags, stream, block.whole())

    def _header_block(self, flags: int, stream: int, block: bytes, data: bytes | None = None) -> bool:
        """Handle the block of a request or of trailers; returns whether `data`, which ends it, was taken, too."""
        ended = bool(flags & END_STREAM)
        if stream <= self.last_stream or not stream & 1:
            self._trailers(stream, self._blocks.are_trailers(block), ended=ended)
            return False
        self.last_stream = stream
        try:
            head, length = self._blocks.request(block)
        except MalformedError:
            self._dismiss(stream, ended=ended)
            self._spoil(stream, ErrorCode.PROTOCOL_ERROR)
            return False
        if stream > self._final or len(self.out.windows) >= STREAMS:
            self._dismiss(stream, ended=ended)
            self._spoil(stream, ErrorCode.REFUSED_STREAM)
            return False
        if ended and length > 0:
            self._spoil(stream, ErrorCode.PROTOCOL_ERROR)
            return False
        self.out.open(stream)
        self._spent += _CALL_UNITS
        if data is not None and length in {-1, len(data)}:
            self._chores.earn(2 * _CHORES_EARNED if data else _CHORES_EARNED)
            self._fill_window(len(data))
            self._events.append(StreamOpened(stream, head, True, data, len(data)))
            return True
        self._chores.earn(_CHORES_EARNED)
        if not ended:
            self._incoming[stream] = Incoming(length)
        self._events.append(StreamOpened(stream, head, ended))
        return False

    def _trailers(self, stream: int, fit: bool, *, ended: bool) -> None:  # noqa: FBT001  private
        """Handle the trailers of a request; only a stream that may still send can have them."""
        self._known(stream)
        incoming = self._incoming.get(stream)
        if incoming is None:
            if stream in self.out.windows:
                self._spoil(stream, ErrorCode.STREAM_CLOSED)
            elif self._dismissed.pop(stream, self) is not None:
                raise Http2Error(ErrorCode.STREAM_CLOSED, "HEADERS for a stream that is closed")
            return
        if not (fit and ended) or incoming.left > 0:
            self._spoil(stream, ErrorCode.PROTOCOL_ERROR)
            return
        del self._incoming[stream]
        self._events.append(StreamData(stream, b"", 0, ended=True))

    def _on_priority(self, _flags: int, stream: int, payload: bytes) -> None:
        self._chore()
        if not stream:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY with the wrong size")

    def _on_reset(self, _flags: int, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM with the wrong size")
        self._known(stream)
        self._pay_reset()
        self._close(stream)
        self._dismissed.pop(stream, None)
        self._events.append(Reset(stream, int.from_bytes(payload, "big")))

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        self._chore()
        if stream:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream other than 0")
        if flags & ACK:
            if payload:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "a SETTINGS acknowledgement with settings")
            return
        settings = dict(read_settings(payload))  # the last value counts: a frame may have thousands
        self.out.frame_bytes = settings.get(SettingId.FRAME, self.out.frame_bytes)
        if SettingId.WINDOW in settings:
            self._spent += len(self.out.windows) >> 4
            self.out.set_window(settings[SettingId.WINDOW])
        self.out.write(frame(FrameType.SETTINGS, ACK, 0, b""))

    def _on_push(self, _flags: int, _stream: int, _payload: bytes) -> None:
        raise Http2Error(ErrorCode.PROTOCOL_ERROR, "clients must not send PUSH_PROMISE")

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        self._chore()
        if stream:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "PING on a stream other than 0")
        if len(payload) != 8:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "PING with the wrong size")
        if not flags & ACK:
            self.out.write(frame(FrameType.PING, ACK, 0, payload))
        elif payload == OUR_PING and self._winding:
            self.go_away()

    def _on_goaway(self, _flags: int, stream: int, payload: bytes) -> None:
        self._chore()
        if stream:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream other than 0")
        if len(payload) < 8:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY with the wrong size")

    def _on_window_update(self, _flags: int, stream: int, payload: bytes) -> None:
        self._chore()
        if len(payload) != 4:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE with the wrong size")
        more = int.from_bytes(payload, "big") & WINDOW_LIMIT
        if not stream:
            if not more:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE with an increment of 0")
            self.out.widen(more)
            return
        if stream not in self.out.windows:
            self._known(stream)
            return
        if not more:
            self._spoil(stream, ErrorCode.PROTOCOL_ERROR)
        elif not self.out.widen_stream(stream, more):
            self._spoil(stream, ErrorCode.FLOW_CONTROL_ERROR)


def _data_behind(data: bytes, at: int, size: int, stream: int) -> int:
    """The end of a complete frame at `at` with the last data of a stream, without padding; 0 where there is none."""
    if size - at < HEAD_BYTES:
        return 0
    high, low, kind, flags, owner = _HEAD.unpack_from(data, at)
    length = high << 8 | low
    end: int = at + HEAD_BYTES + length
    return end if kind << 8 | flags == _ENDS and owner == stream and length <= FRAME_BYTES and end <= size else 0

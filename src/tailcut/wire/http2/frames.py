"""The frames of HTTP/2 (RFC 9113): names, numbers and bytes, and a budget for useless ones."""

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
FRAME_BYTES = 16384  # the largest frame accepted here, and the size that every receiver must accept
WINDOW_LIMIT = (1 << 31) - 1
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FIELDS = 0x20
_SETTINGS = 64  # entries of one frame: RFC 9113 defines seven
_HEAD = Struct(">HBBBI")


class FrameType(IntEnum):
    """Section 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class SettingId(IntEnum):
    """Section 6.5.2, as far as a server without push and dynamic tables needs it."""

    PUSH = 2
    STREAMS = 3
    WINDOW = 4
    FRAME = 5
    FIELDS = 6


class ErrorCode(IntEnum):
    """Section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


class Http2Error(Exception):
    """The client violated a rule, which ends the connection."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes | memoryview) -> bytes:
    """A whole frame."""
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def word(value: int) -> bytes:
    """A number of 32 bits."""
    return value.to_bytes(4, "big")


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of a DATA or HEADERS frame without its padding.

    Raises:
        Http2Error: there is more padding than payload.
    """
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Http2Error(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Yield the identifier and value of each setting, known or not.

    Raises:
        Http2Error: the frame or a value violates a rule.
    """
    if len(payload) % 6:
        raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS with the wrong size")
    if len(payload) > 6 * _SETTINGS:
        raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, f"more than {_SETTINGS} settings in a frame")
    for at in range(0, len(payload), 6):
        key, value = int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")
        if key == SettingId.WINDOW and value > WINDOW_LIMIT:
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "a window over 2^31-1")
        if (key == SettingId.PUSH and value > 1) or (key == SettingId.FRAME and not FRAME_BYTES <= value < 1 << 24):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a setting out of its range")
        yield key, value


class Budget:
    """Allows `most` events at once, and `per_second` more each second; unused ones are kept, up to `most`."""

    __slots__ = ("_at", "_left", "_most", "_per_second")

    def __init__(self, most: int, per_second: int) -> None:
        self._most = most
        self._per_second = per_second
        self._left = float(most)
        self._at = -1.0

    def pay(self, now: float) -> bool:
        """Use one; returns False where none is left."""
        left = self._left
        if left < 1 and self._at >= 0:
            left = min(self._most, left + (now - self._at) * self._per_second)
            self._at = now
        elif self._at < 0:
            self._at = now
        self._left = left - 1
        return left >= 1

    def earn(self, count: int) -> None:
        """Add `count`, up to the maximum."""
        left = self._left + count
        self._left = left if left < self._most else self._most  # noqa: FURB136  a call of min takes as long as the rest

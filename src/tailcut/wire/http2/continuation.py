"""A header block that arrives in several frames: HEADERS and CONTINUATION (RFC 9113 section 6.10). Pure."""

from tailcut.wire.http2.fields import BLOCK_BYTES
from tailcut.wire.http2.frames import ErrorCode, Http2Error

FRAMES = 16  # CONTINUATION frames for one block, at most


class SplitBlock:
    """The pieces of an incomplete block, whose size and number are limited.

    Args:
        stream: the stream of the block.
        flags: of its HEADERS frame.
        first: the piece in that frame.
    """

    __slots__ = ("_block", "_frames", "flags", "stream")

    def __init__(self, stream: int, flags: int, first: bytes) -> None:
        self.stream = stream
        self.flags = flags
        self._block = bytearray(first)
        self._frames = 0

    def add(self, stream: int, piece: bytes) -> None:
        """Add the piece in a CONTINUATION frame.

        Raises:
            Http2Error: it is for another stream, or a limit is exceeded.
        """
        if stream != self.stream:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._frames += 1
        if self._frames > FRAMES or len(self._block) + len(piece) > BLOCK_BYTES:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "a header block that does not end")
        self._block += piece

    def whole(self) -> bytes:
        """All pieces, in order."""
        return bytes(self._block)

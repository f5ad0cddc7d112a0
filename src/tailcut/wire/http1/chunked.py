"""Chunked bodies of HTTP/1.1: bytes in, the body out, no socket."""

import re
from enum import Enum

from tailcut.wire.http1.grammar import MAX_HEAD_BYTES, MAX_HEADERS, TEXT, TOKEN, ProtocolError

_CR = 0x0D
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'
_EXTENSION = rb"[ \t]*+;[ \t]*+" + TOKEN + rb"(?:[ \t]*+=[ \t]*+(?:" + TOKEN + rb"|" + _QUOTED + rb"))?+"
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,12})(?:" + _EXTENSION + rb")*+")  # RFC 9112 section 7.1, with 48 bits of size
_FIELD = re.compile(TOKEN + rb":" + TEXT)
_CHUNKS = 1024  # allowed, plus one for each _CHUNK_BYTES: beyond that, the body is mostly framing
_CHUNK_BYTES = 64
_SMALL_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,4})\r\n")


class _Stage(Enum):
    SIZE = "size"
    DATA = "data"
    DATA_END = "data end"
    TRAILER = "trailer"
    DONE = "done"


class ChunkedBody:
    """Reads a chunked body from pieces of any size; trailers are read and ignored.

    It is used instead of httptools, whose parser does not report where in its input a message ended, so that a
    pipelined request after a chunked body would be lost.

    Args:
        limit_bytes: the largest body.
        count_chunks: whether to refuse a body that is mostly framing: over 1,024 chunks, plus one for each 64 bytes.
    """

    def __init__(self, limit_bytes: int, *, count_chunks: bool = True) -> None:
        self.body = bytearray()
        self.done = False
        self._limit = limit_bytes
        self._stage = _Stage.SIZE
        self._left = 0
        self._line = bytearray()
        self._trailers = 0
        self._trailer_bytes = 0
        self._chunks: int | None = 0 if count_chunks else None
        self._taken = 0  # bytes

    def feed(self, data: bytes) -> bytes:
        """Process a piece; returns the bytes after the end of the body (empty until `done`).

        Raises:
            ProtocolError: 400 for invalid framing, 413 over the limit, 431 for too many trailers.
        """
        at = 0
        while at < len(data) and not self.done:
            if self._stage is _Stage.SIZE and not self._line:
                after = self._take_whole(data, at)
                if after > at:
                    at = after
                    continue
            if self._stage is _Stage.DATA:
                piece = data[at : at + self._left]
                self.body += piece
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._stage = _Stage.DATA_END
                continue
            if self._stage is _Stage.DATA_END and not self._line and data[at] != _CR:
                raise ProtocolError(400, "a chunk is longer than its size")
            end = data.find(b"\n", at)
            self._line += data[at : end + 1] if end >= 0 else data[at:]
            if len(self._line) > 4096:
                raise ProtocolError(400, "a chunk's line is too long")
            if end < 0:
                return b""
            at = end + 1
            self._take_line()
        return data[at:] if self.done else b""

    def take(self) -> bytearray:
        """Take the part of the body that has arrived, for bodies that are read as they come."""
        part, self.body = self.body, bytearray()
        self._taken += len(part)
        return part

    def _take_whole(self, data: bytes, at: int) -> int:
        """Process a short, complete chunk in one step; returns its end, or `at` where there is none."""
        match = _SMALL_CHUNK.match(data, at)
        if match is None:
            return at
        start, size = match.end(), int(match[1], 16)
        if not size or not data.startswith(b"\r\n", start + size):
            return at
        self._count_chunk(size)
        self.body += data[start : start + size]
        return start + size + 2

    def _count_chunk(self, size: int) -> None:
        if len(self.body) + size > self._limit:
            raise ProtocolError(413, f"the body is over the limit of {self._limit} bytes")
        if self._chunks is None:
            return
        self._chunks += 1
        if self._chunks > _CHUNKS + (self._taken + len(self.body)) // _CHUNK_BYTES:
            raise ProtocolError(413, f"the body has over {_CHUNKS} chunks of less than {_CHUNK_BYTES} bytes")

    def _take_line(self) -> None:
        line = bytes(self._line)
        self._line.clear()
        if not line.endswith(b"\r\n"):
            raise ProtocolError(400, "a chunk's line does not end in CRLF")
        line = line[:-2]
        if self._stage is _Stage.DATA_END:
            if line:
                raise ProtocolError(400, "a chunk is longer than its size")
            self._stage = _Stage.SIZE
        elif self._stage is _Stage.SIZE:
            chunk = _CHUNK.fullmatch(line)
            if chunk is None:
                raise ProtocolError(400, "a chunk's line is not a hexadecimal size with extensions")
            self._left = int(chunk[1], 16)
            self._count_chunk(self._left)
            self._stage = _Stage.DATA if self._left else _Stage.TRAILER
        elif line:
            if not _FIELD.fullmatch(line):
                raise ProtocolError(400, "a trailer is not a field")
            self._trailers += 1
            self._trailer_bytes += len(line) + 2
            if self._trailers > MAX_HEADERS or self._trailer_bytes > MAX_HEAD_BYTES:
                raise ProtocolError(431, f"the trailers are over {MAX_HEADERS} fields or {MAX_HEAD_BYTES} bytes")
        else:
            self.done = True

"""Reads HTTP/1.1 answers for clients: bytes in, status and body out. Pure: no socket.

A reader provides the memory for the next bytes, so that a large body of known length is received directly into the
memory of the resulting arrays. `AnswerReader` keeps bodies; `AnswerCounter`, for load tests, only counts their bytes.
A server's answers have few different heads, so parsed heads are cached by their bytes.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from tailcut.errors import UnreachableError
from tailcut.wire.http1.chunked import ChunkedBody
from tailcut.wire.http1.grammar import ProtocolError
from tailcut.wire.memo import BytesMemo

_ROOM_BYTES = 64 * 1024
_COUNTER_ROOM_BYTES = 256 * 1024
_LONGEST_HEAD = 32 * 1024
_LONGEST_LINE = 1024
_LARGEST_BODY = 1 << 40
_LARGEST_UNSIZED_BODY = 1 << 30  # of a body that is chunked, or ends with the connection
_NEVER = 1 << 62  # bytes: the length of a body that ends with its connection
_HEADS_KEPT = 1000
_START = b"HTTP/1."
_OTHER = "the server at this address does not speak HTTP/1"
_DIGITS = 18  # of a number in a head; longer numbers count as the largest


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """The head of an answer.

    Args:
        status: HTTP status.
        length: of the body, in bytes; None: it is chunked, or ends with the connection (RFC 9112 section 6.3).
        chunked: whether the body is chunked.
        closes: whether the server closes the connection after the answer.
        content_type: in lower case, without parameters.
        json_size: bytes of JSON before binary tensors; None: the body has no binary tensors.
        retry_after_s: how long to wait before a retry; 0: the server does not say.
        coding: content coding of the body, such as gzip; empty: none.
    """

    status: int
    length: int | None
    chunked: bool
    closes: bool
    content_type: str
    json_size: int | None
    retry_after_s: float
    coding: str = ""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A complete answer."""

    head: AnswerHead
    body: bytearray

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.head.status

    @property
    def closes(self) -> bool:
        """Whether the connection ends with it."""
        return self.head.closes

    def check_coding(self) -> None:
        """Check that the body is not compressed.

        Raises:
            UnreachableError: it is.
        """
        if self.head.coding:
            raise UnreachableError(
                f"the answer is compressed (Content-Encoding: {self.head.coding[:40]}), which was not asked for: "
                "a proxy before the server must leave answers as they are"
            )

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            UnreachableError: it is not JSON, or compressed.
        """
        self.check_coding()
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise UnreachableError("the server's answer is not JSON") from None


class AnswerReader:
    """Reads the answers on a connection, one after the other, where one request is sent at a time.

    Args:
        room: memory that heads are received into; None: memory of its own.
    """

    def __init__(self, room: bytearray | None = None) -> None:
        self._room = bytearray(_ROOM_BYTES) if room is None else room
        self._view = memoryview(self._room)
        self._filled = 0  # bytes of a head that is not complete yet
        self._head: AnswerHead | None = None
        self._body = bytearray()
        self._rest = memoryview(b"")  # the part of a body of known length that is still missing
        self._chunks: ChunkedBody | None = None

    @property
    def begun(self) -> bool:
        """Whether any byte of the answer has arrived."""
        return self._filled > 0 or self._head is not None

    @property
    def head(self) -> AnswerHead | None:
        """The head of the answer whose body is being received; None before that."""
        return self._head

    def target(self) -> memoryview:
        """The memory to receive the next bytes into."""
        return self._rest or self._view[self._filled :]

    def received(self, count: int) -> HttpAnswer | None:
        """Process `count` bytes received into the target; returns the answer when it is complete.

        Raises:
            UnreachableError: this is not an HTTP/1 answer, or its framing is invalid.
        """
        if self._rest:
            self._rest = self._rest[count:]
            return None if self._rest else self._complete()
        if self._head is not None:
            return self._more(self._view[:count])
        self._filled += count
        while True:
            end = self._room.find(b"\r\n\r\n", 0, self._filled) + 4
            if end < 4:
                self._check_start()
                if self._filled > _LONGEST_HEAD:
                    raise UnreachableError(f"the head of the server's answer is longer than {_LONGEST_HEAD} bytes")
                return None
            head = read_head(bytes(self._view[:end]))
            if head.status >= 200:
                break
            self._view[: self._filled - end] = bytes(self._view[end : self._filled])  # after an interim answer
            self._filled -= end
        came, self._filled = self._view[end : self._filled], 0
        self._head = head
        if head.chunked:
            self._chunks = ChunkedBody(_LARGEST_UNSIZED_BODY, count_chunks=False)
        return self._begin(head, came)

    def _check_start(self) -> None:
        """Refuse at once what cannot become a head: another protocol, or lines that end in a bare LF."""
        line = bytes(self._view[: min(self._filled, _LONGEST_LINE)]).partition(b"\n")
        if not _START.startswith(line[0][: len(_START)]) or (line[1] and not line[0].endswith(b"\r")):
            raise UnreachableError(_OTHER)

    def ended(self) -> HttpAnswer | None:
        """Note that the server closed the connection; returns the answer that this completes, or None."""
        unsized = self._head is not None and self._head.length is None and self._chunks is None
        return self._complete() if unsized else None

    def taken(self) -> bytearray:
        """Take the new part of a body without a known length; the complete answer will not contain it."""
        if self._chunks is not None:
            return self._chunks.take()
        body, self._body = self._body, bytearray()
        return body

    def _begin(self, head: AnswerHead, came: memoryview) -> HttpAnswer | None:
        """Begin an answer with its head, and the bytes after it."""
        if head.length is None:
            return self._more(came)
        if len(came) > head.length:
            raise UnreachableError("the server sent data after its answer")
        self._body = bytearray(head.length)
        self._body[: len(came)] = came
        self._rest = memoryview(self._body)[len(came) :]
        return None if self._rest else self._complete()

    def _more(self, data: memoryview) -> HttpAnswer | None:
        """Process bytes of a body without a known length."""
        if self._chunks is None:
            if len(self._body) + len(data) > _LARGEST_UNSIZED_BODY:
                raise UnreachableError(f"the server's answer has more than {_LARGEST_UNSIZED_BODY} bytes")
            self._body += data
            return None
        try:
            after = self._chunks.feed(bytes(data))
        except ProtocolError as error:
            raise UnreachableError(f"the server's answer is framed wrongly: {error}") from None
        if after:
            raise UnreachableError("the server sent data after its answer")
        if not self._chunks.done:
            return None
        self._body = self._chunks.body
        return self._complete()

    def _complete(self) -> HttpAnswer:
        head, body = self._head, self._body
        assert head is not None  # noqa: S101  callers have checked that
        self._head, self._body, self._rest, self._chunks = None, bytearray(), memoryview(b""), None
        return HttpAnswer(head, body)


class AnswerCounter(AnswerReader):
    """Reads heads, and only counts the bytes of bodies; the bodies of its answers are empty.

    All counters of a process share their memory: get the target immediately before receiving, and call
    `received` immediately after.
    """

    _shared = bytearray(_COUNTER_ROOM_BYTES)
    _whole: BytesMemo[bytes, HttpAnswer] = BytesMemo(_HEADS_KEPT)  # by head

    def __init__(self) -> None:
        super().__init__(self._shared)
        self._partial = b""  # part of a head
        self._left = 0

    def target(self) -> memoryview:
        """As `AnswerReader.target`."""
        if self._filled:
            self._view[: self._filled] = self._partial
            return self._view[self._filled :]
        return self._view

    def received(self, count: int) -> HttpAnswer | None:
        """As `AnswerReader.received`; an answer that arrives whole, with a known head, costs one look-up."""
        raw = b""
        if self._head is None and not self._filled:
            raw = bytes(self._view[: self._room.find(b"\r\n\r\n", 0, count) + 4])
            whole = self._whole.get(raw)
            if whole is not None and whole.head.length == count - len(raw):
                return whole
        answer = super().received(count)
        if raw and answer is not None and answer.head.length == count - len(raw):
            self._whole.keep(raw, answer)
        if self._filled:
            self._partial = bytes(self._view[: self._filled])
        return answer

    def _begin(self, head: AnswerHead, came: memoryview) -> HttpAnswer | None:
        self._left = _NEVER if head.length is None else head.length
        return self._more(came)

    def _more(self, data: memoryview) -> HttpAnswer | None:
        if self._chunks is not None:
            answer = super()._more(data)
            if answer is None:
                self.taken()
            return answer
        self._left -= len(data)
        return None if self._left > 0 else self._complete()

    def _complete(self) -> HttpAnswer:
        self._body = bytearray()
        return super()._complete()


_heads: BytesMemo[bytes, AnswerHead] = BytesMemo(_HEADS_KEPT)


def read_head(data: bytes) -> AnswerHead:
    """Parse a whole head, including its empty line.

    Raises:
        UnreachableError: it is not an HTTP/1 head, or its Content-Length is invalid.
    """
    kept = _heads.get(data)
    if kept is not None:
        return kept
    start, *lines = data[:-4].decode("latin-1").split("\r\n")
    if not start.startswith("HTTP/1.") or not start[9:12].isdecimal():
        raise UnreachableError(_OTHER)
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status, chunked = int(start[9:12]), fields.get("transfer-encoding", "").lower() == "chunked"
    options = {option.strip() for option in fields.get("connection", "").lower().split(",")}
    length = None if chunked else _length(status, fields.get("content-length"))
    closes = "close" in options or (start.startswith("HTTP/1.0") and "keep-alive" not in options)
    closes = closes or (length is None and not chunked)
    coding = fields.get("content-encoding", "").lower()
    after_ms = _number(fields.get("retry-after-ms"))
    head = AnswerHead(
        status,
        length,
        chunked,
        closes,
        fields.get("content-type", "").partition(";")[0].strip().lower(),
        _number(fields.get("inference-header-content-length")),
        (_number(fields.get("retry-after")) or 0) if after_ms is None else after_ms / 1000,
        "" if coding == "identity" else coding,
    )
    return _heads.keep(data, head)


def _length(status: int, value: str | None) -> int | None:
    if value is None:
        return 0 if status < 200 or status in {204, 304} else None
    length = _number(value)
    if length is None:
        raise UnreachableError("the server's answer has an invalid Content-Length")
    if length > _LARGEST_BODY:
        raise UnreachableError(f"the server announced an answer of over {_LARGEST_BODY} bytes, which is too large")
    return length


def _number(text: str | None) -> int | None:
    """The whole number in a field; None where it is not a number, or the field is absent."""
    if text is None or not text.isdecimal():
        return None
    return int(text) if len(text) <= _DIGITS else 10**_DIGITS

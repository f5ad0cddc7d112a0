"""HTTP/1.1 heads and chunked bodies: bytes in, values out, no socket.

httptools reads the head's grammar; this module adds what it lets through (RFC 9112: bare line feeds, folded lines,
doubtful lengths, Host rules), because a server that reads a message otherwise than the proxy before it can be smuggled
past. Heads repeat but for ids of requests and traces, so callers keep what they know of a head by its `significant`
part, which takes a quarter of the time of parsing it.
"""

import re
from dataclasses import dataclass
from enum import Enum

import httptools

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
MAX_TARGET_BYTES = 8 * 1024
_CR = 0x0D
_MAX_LENGTH = 1 << 48  # nothing that a server of ours could hold
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?\Z")
_START = re.compile(rb"[A-Z]{1,20}\Z")
_FOLDED = re.compile(rb"\r(?:\n[ \t]|(?!\n))")
_BEHIND_VALUES = re.compile(rb"(?<![ \t])[ \t]++\r\n")
_VERSIONS = (b" HTTP/1.1", b" HTTP/1.0")
_VERSION = re.compile(rb" HTTP/[0-9]{1,3}(?:\.[0-9]{1,3})?\Z")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]*)(.*)\Z", re.DOTALL)
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_TEXT = rb"[\t\x20-\x7e\x80-\xff]*+"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'
_EXTENSION = rb"[ \t]*+;[ \t]*+" + _TOKEN + rb"(?:[ \t]*+=[ \t]*+(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?+"
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,12})(?:" + _EXTENSION + rb")*+")  # RFC 9112 section 7.1, with 48 bits of size
_FIELD = re.compile(_TOKEN + rb":" + _TEXT)
# Header fields that may change what is done with a message; all others are read past.
SIGNIFICANT = frozenset(
    b"host content-length transfer-encoding connection expect content-encoding content-type "
    b"inference-header-content-length authorization sec-fetch-site origin tailcut-timeout-us tailcut-priority".split()
)
_OTHERS = re.compile(
    rb"^(?!(?i:" + rb"|".join(sorted(SIGNIFICANT)) + rb"):)" + _TOKEN + rb":" + _TEXT + rb"\r\n", re.MULTILINE
)
_CHUNKS = 1024  # and one more for each so many bytes, or the body is mostly framing
_CHUNK_BYTES = 64
_SMALL_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,4})\r\n")


class ProtocolError(Exception):
    """A message that breaks the framing or its limits: answer `status`, then close."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Head:
    """One request's head. `content_length` is None without a body or with a chunked one; names are lower case."""

    method: bytes
    path: str
    keep_alive: bool
    content_length: int | None
    chunked: bool
    expects_continue: bool
    headers: dict[bytes, bytes]
    interim: bool = False  # whether 1xx may come before the answer: not over HTTP/1.0


class _Collector:
    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))


def check_partial(data: bytes) -> None:
    """Refuse a head that cannot become a good one, before more of it is buffered.

    Raises:
        ProtocolError: 400, 414, 431 or 505.
    """
    line_end = data.find(b"\r\n")
    line = data if line_end < 0 else data[:line_end]
    method, space, target = line.partition(b" ")
    if not _START.match(method):
        raise ProtocolError(400, "not an HTTP request")
    if space and len(target) > MAX_TARGET_BYTES:
        raise ProtocolError(414, f"the URL is over {MAX_TARGET_BYTES} bytes")
    if line_end >= 0 and line[-9:] not in _VERSIONS and _VERSION.search(line):
        raise ProtocolError(505, "only HTTP/1.0 and HTTP/1.1 are spoken here: gRPC has a port of its own")
    if len(data) > MAX_HEAD_BYTES:
        raise ProtocolError(431, f"the head is over {MAX_HEAD_BYTES} bytes")
    if data.count(b"\n") != data.count(b"\r\n") or b"\0" in data:
        raise ProtocolError(400, "a line of the head does not end in CRLF")


def significant(data: bytes) -> bytes:
    """A whole head without the fields that mean nothing here, each of which is well-formed.

    Two heads with the same rest mean the same. What is malformed stays, and with more fields than may be all do, so
    that it is no good head's rest.
    """
    return data if data.count(b"\n") > MAX_HEADERS + 2 else _OTHERS.sub(b"", data)


def parse_head(data: bytes) -> Head:
    """Parse a whole head, its empty line included.

    Raises:
        ProtocolError: with the status to answer.
    """
    check_partial(data)
    if _FOLDED.search(data):
        raise ProtocolError(400, "a header is folded or holds a bare carriage return")
    if b" \r\n" in data or b"\t\r\n" in data:
        line, end, fields = data.partition(b"\r\n")
        # No part of a value (RFC 9112 section 5.1). The parser leaves out what stands before one, and only that.
        data = line + end + _BEHIND_VALUES.sub(b"\r\n", fields)
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # an offer that a server may ignore (RFC 9110 section 7.8)
    except httptools.HttpParserError:
        _framing(collector.fields, "1.1")  # says which coding is not understood, where that is the reason
        raise ProtocolError(400, "the head is not valid HTTP") from None
    method = parser.get_method()
    if method == b"CONNECT":
        raise ProtocolError(400, "tunnels are not offered")
    if len(collector.fields) > MAX_HEADERS:
        raise ProtocolError(431, f"more than {MAX_HEADERS} headers")
    version = parser.get_http_version()
    if version not in {"1.0", "1.1"}:  # of a request line that names none: HTTP/0.9
        raise ProtocolError(400, "the request line does not end in an HTTP version")
    return _head(method, collector, version)


def _head(method: bytes, collector: _Collector, version: str) -> Head:
    headers = dict(collector.fields)
    names = [name for name, _ in collector.fields]
    _check_host(collector.fields, version)
    length, chunked = _framing(collector.fields, version)
    expect = headers.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        raise ProtocolError(417, "only Expect: 100-continue is understood")
    connection = b",".join(value for name, value in collector.fields if name == b"connection")
    options = {option.strip().lower() for option in connection.split(b",")}
    keep_alive = b"close" not in options and (version == "1.1" or b"keep-alive" in options)
    for name in (b"inference-header-content-length", b"content-encoding", b"content-type"):
        if names.count(name) > 1:
            raise ProtocolError(400, f"{name.decode()} is repeated")
    path = _path(collector.target)
    interim = version == "1.1"
    return Head(method, path, keep_alive, length, chunked, expect is not None and interim, headers, interim)


def _path(target: bytes) -> str:
    """The path of a target; the authority of an absolute one goes before Host (RFC 9112 section 3.2.2), for nothing."""
    absolute = None if target.startswith(b"/") else _ABSOLUTE.match(target)
    if absolute is not None:
        if not absolute[1] or not _HOST.match(absolute[1]):
            raise ProtocolError(400, "the URL's authority is not a host and port")
        target = absolute[2] if absolute[2].startswith(b"/") else b"/"
    try:
        return target.partition(b"?")[0].decode("ascii")
    except UnicodeDecodeError:
        raise ProtocolError(400, "the URL is not ASCII") from None


def _check_host(fields: list[tuple[bytes, bytes]], version: str) -> None:
    hosts = [value for name, value in fields if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise ProtocolError(400, "exactly one Host header is needed")
    if hosts and not _HOST.match(hosts[0]):
        raise ProtocolError(400, "the Host header is not a host and port")


def _framing(fields: list[tuple[bytes, bytes]], version: str) -> tuple[int | None, bool]:
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if lengths and codings:
        raise ProtocolError(400, "Content-Length and Transfer-Encoding exclude each other")
    if codings:
        if version == "1.0":
            raise ProtocolError(400, "HTTP/1.0 has no chunked bodies")
        if len(codings) != 1 or codings[0].lower() != b"chunked":
            raise ProtocolError(501, "only the chunked transfer coding is understood")
        return None, True
    if not lengths:
        return None, False
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 19 or int(lengths[0]) >= 1 << 63:
        raise ProtocolError(400, "Content-Length is not one plain number")
    if int(lengths[0]) > _MAX_LENGTH:
        raise ProtocolError(413, "the body is larger than any that is taken")
    return int(lengths[0]), False


class _Stage(Enum):
    SIZE = "size"
    DATA = "data"
    DATA_END = "data end"
    TRAILER = "trailer"
    DONE = "done"


class ChunkedBody:
    """Reads a chunked body from pieces of any size; trailers are read and ignored.

    Ours rather than httptools', whose parser does not say where in its input a message ended, so that a pipelined
    request behind a chunked body would be lost.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.body = bytearray()
        self.done = False
        self._limit = limit_bytes
        self._stage = _Stage.SIZE
        self._left = 0
        self._line = bytearray()
        self._trailers = 0
        self._trailer_bytes = 0
        self._chunks = 0

    def feed(self, data: bytes) -> bytes:
        """Take a piece; returns what stands behind the body's end (empty until `done`).

        Raises:
            ProtocolError: 400 for bad framing, 413 over the limit.
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

    def _take_whole(self, data: bytes, at: int) -> int:
        """Take a short chunk that is all here, in one step; returns what is behind it, or `at` where it is none."""
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
        self._chunks += 1
        if len(self.body) + size > self._limit:
            raise ProtocolError(413, f"the body is over the limit of {self._limit} bytes")
        if self._chunks > _CHUNKS + len(self.body) // _CHUNK_BYTES:
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
                raise ProtocolError(400, "a chunk's line is not a hexadecimal size and extensions")
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

"""HTTP/1.1 heads: bytes in, values out, no socket.

httptools parses the grammar; this module adds checks that it lacks (RFC 9112: bare line feeds, folded lines, doubtful
lengths, Host rules), because requests can be smuggled past a proxy that reads a message differently from the server.
Heads repeat except for ids of requests and traces, so callers cache the meaning of a head by its `significant` part,
which takes a quarter of the time of parsing it.
"""

import re
from dataclasses import dataclass

import httptools

from tailcut.wire.http1.grammar import MAX_HEAD_BYTES, MAX_HEADERS, TEXT, TOKEN, ProtocolError

MAX_TARGET_BYTES = 8 * 1024
_MAX_LENGTH = 1 << 48  # more than any server could hold
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?\Z")
_START = re.compile(rb"[A-Z]{1,20}\Z")
_FOLDED = re.compile(rb"\r(?:\n[ \t]|(?!\n))")
_BEHIND_VALUES = re.compile(rb"(?<![ \t])[ \t]++\r\n")
_VERSIONS = (b" HTTP/1.1", b" HTTP/1.0")
_VERSION = re.compile(rb" HTTP/[0-9]{1,3}(?:\.[0-9]{1,3})?\Z")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]*)(.*)\Z", re.DOTALL)
_ACCEPT = re.compile(rb"^accept:[ \t]*([^\r\n]*)\r$", re.IGNORECASE | re.MULTILINE)
# Header fields that may change what is done with a message; all others are ignored.
SIGNIFICANT = frozenset(
    b"host content-length transfer-encoding connection expect content-encoding content-type "
    b"inference-header-content-length authorization sec-fetch-site origin tailcut-timeout-us tailcut-priority".split()
)
OTHER_FIELDS = re.compile(
    rb"^(?!(?i:" + rb"|".join(sorted(SIGNIFICANT)) + rb"):)" + TOKEN + rb":(" + TEXT + rb")\r\n", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request. `content_length` is None without a body or with a chunked one; names are in lower case."""

    method: bytes
    path: str
    keep_alive: bool
    content_length: int | None
    chunked: bool
    expects_continue: bool
    headers: dict[bytes, bytes]
    interim: bool = False  # whether 1xx responses may be sent: not over HTTP/1.0

    @property
    def hears_keep_alive(self) -> bool:
        """Whether the answer must say that the connection stays open: over HTTP/1.0, it would close otherwise."""
        return self.keep_alive and not self.interim


class _FieldCollector:
    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))


def check_partial(data: bytes) -> None:
    """Refuse an incomplete head that cannot become valid, before more of it is buffered.

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
        raise ProtocolError(505, "only HTTP/1.0 and HTTP/1.1 are supported here: gRPC has its own port")
    if len(data) > MAX_HEAD_BYTES:
        raise ProtocolError(431, f"the head is over {MAX_HEAD_BYTES} bytes")
    if data.count(b"\n") != data.count(b"\r\n") or b"\0" in data:
        raise ProtocolError(400, "a line of the head does not end in CRLF")


def significant(data: bytes) -> bytes:
    """A whole head without its well-formed fields that have no meaning here.

    Two heads with the same result have the same meaning. Malformed fields are kept, and all fields where there are too
    many, so that such a head never has the same result as a valid one.
    """
    return data if data.count(b"\n") > MAX_HEADERS + 2 else OTHER_FIELDS.sub(b"", data)


def accept_of(head: bytes) -> str:
    """The Accept header of a whole, valid head; several are joined to one list (RFC 9110 section 5.3)."""
    return ", ".join(value.decode("latin-1") for value in _ACCEPT.findall(head))


def parse_head(data: bytes) -> Head:
    """Parse a whole head, including its empty line.

    Raises:
        ProtocolError: with the status to answer.
    """
    check_partial(data)
    if _FOLDED.search(data):
        raise ProtocolError(400, "a header is folded or contains a bare carriage return")
    if b" \r\n" in data or b"\t\r\n" in data:
        line, end, fields = data.partition(b"\r\n")
        # White space is no part of a value (RFC 9112 section 5.1); the parser removes only that before it.
        data = line + end + _BEHIND_VALUES.sub(b"\r\n", fields)
    collector = _FieldCollector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # an upgrade, which a server may ignore (RFC 9110 section 7.8)
    except httptools.HttpParserError:
        _framing(collector.fields, "1.1")  # raises a more specific error where the coding is the reason
        raise ProtocolError(400, "the head is not valid HTTP") from None
    method = parser.get_method()
    if method == b"CONNECT":
        raise ProtocolError(400, "CONNECT is not supported")
    if len(collector.fields) > MAX_HEADERS:
        raise ProtocolError(431, f"more than {MAX_HEADERS} headers")
    version = parser.get_http_version()
    if version not in {"1.0", "1.1"}:  # a request line without a version: HTTP/0.9
        raise ProtocolError(400, "the request line does not end in an HTTP version")
    return _head(method, collector, version)


def _head(method: bytes, collector: _FieldCollector, version: str) -> Head:
    headers = dict(collector.fields)
    names = [name for name, _ in collector.fields]
    _check_host(collector.fields, version)
    length, chunked = _framing(collector.fields, version)
    expect = headers.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        raise ProtocolError(417, "only Expect: 100-continue is supported")
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
    """The path of a target. The authority of an absolute one is checked and not used (RFC 9112 section 3.2.2)."""
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
        raise ProtocolError(400, "exactly one Host header is required")
    if hosts and not _HOST.match(hosts[0]):
        raise ProtocolError(400, "the Host header is not a host and port")


def _framing(fields: list[tuple[bytes, bytes]], version: str) -> tuple[int | None, bool]:
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if lengths and codings:
        raise ProtocolError(400, "Content-Length and Transfer-Encoding cannot be combined")
    if codings:
        if version == "1.0":
            raise ProtocolError(400, "HTTP/1.0 has no chunked bodies")
        if len(codings) != 1 or codings[0].lower() != b"chunked":
            raise ProtocolError(501, "only the chunked transfer coding is supported")
        return None, True
    if not lengths:
        return None, False
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 19 or int(lengths[0]) >= 1 << 63:
        raise ProtocolError(400, "Content-Length is not a single number")
    if int(lengths[0]) > _MAX_LENGTH:
        raise ProtocolError(413, "Content-Length exceeds the maximum")
    return int(lengths[0]), False

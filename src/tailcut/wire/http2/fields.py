"""Header blocks of HTTP/2: bytes to a request's head, and fields of answers to bytes. Pure; the only place of hpack.

In front of the decoder stands a cache. A block of nothing but indexed fields and literals without indexing means the
same for as long as the dynamic table has not changed, and a gRPC client in its steady state sends such a block, the
same few bytes, with every call: hpack takes 30 us for them, the look-up 0.1. Our own answers use no dynamic table, so
their blocks are made once.
"""

import re
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import hpack
from hpack.table import HeaderTable

from tailcut.wire.memo import BytesMemo

Field = tuple[bytes, bytes]
H = TypeVar("H")  # what a request's fields mean to the caller

BLOCK_BYTES = 16 << 10  # of one block as it travels, and of its fields as RFC 9113 section 6.5.2 counts them
_UPDATES = 2  # RFC 7541 section 4.2: the smallest size that there was, and the last
_CACHED = 64  # blocks at most, for each connection
_CACHED_BYTES = 2048
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"(?:[^\0\r\n \t](?:[^\0\r\n]*[^\0\r\n \t])?)?")
_PSEUDO = {b":method", b":scheme", b":path", b":authority"}
_NEEDED = {b":method", b":scheme", b":path"}
_OF_A_CONNECTION = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
_LENGTH_DIGITS = 18
_DEFAULT_PORT = {b"http": b":80", b"https": b":443"}


class MalformedError(Exception):
    """The fields of one request break a rule of RFC 9113 section 8: its stream ends, the others go on."""


class BlockError(Exception):
    """The block cannot be decoded: what the client and we know of each other's fields has come apart."""


class TooManyFieldsError(BlockError):
    """The fields are over the limit; decoding has stopped, so the table is not known any more."""


class _Table(HeaderTable):
    """The dynamic table, and how often it has changed."""

    edition = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.edition += 1
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return int(self._maxsize)

    @maxsize.setter
    def maxsize(self, newmax: int) -> None:
        self.edition += 1
        HeaderTable.maxsize.fset(self, newmax)  # type: ignore[attr-defined]  # mypy sees an int there


class HeaderBlocks(Generic[H]):
    """The blocks of one connection, in the order they came. `interpret` makes of a request's fields what it means."""

    def __init__(self, interpret: Callable[[Sequence[Field]], H]) -> None:
        self._interpret = interpret
        self._table = _Table()
        self._decoder = hpack.Decoder(max_header_list_size=BLOCK_BYTES)
        self._decoder.header_table = self._table
        self._edition = 0
        self._known: BytesMemo[bytes, tuple[H, int]] = BytesMemo(_CACHED, _CACHED_BYTES)
        self.decoded = 0  # fields, and bytes by the hundred: what decoding them has cost, in units of 3 us

    def request(self, block: bytes) -> tuple[H, int]:
        """What a request's block means, and the length that it announces; -1 where it announces none.

        Raises:
            BlockError: it cannot be decoded.
            MalformedError: it is no request.
        """
        found = self._known.get(block)
        if found is not None and self._edition == self._table.edition:
            return found
        before = self._table.edition
        fields = self.decode(block)
        length = check_request(fields)
        meaning = self._interpret(fields), length
        if before == self._table.edition:
            if self._edition != before:
                self._known.clear()
                self._edition = before
            self._known.keep(block, meaning, len(block))
        return meaning

    def decode(self, block: bytes) -> list[Field]:
        """The fields of any block.

        Raises:
            BlockError: it cannot be decoded, or is too long.
        """
        if _updates_first(block) > _UPDATES:
            raise BlockError("a header block changes the table's size more than twice")
        self.decoded += len(block) >> 5
        try:
            fields: list[Field] = list(self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError:
            raise TooManyFieldsError(f"the fields of a request take more than {BLOCK_BYTES} bytes") from None
        except (hpack.HPACKError, IndexError):
            raise BlockError("a header block cannot be decoded") from None
        self.decoded += len(fields)
        return fields


def _updates_first(block: bytes) -> int:
    """How many changes of the dynamic table's size a block begins with, counted to three."""
    at = count = 0
    while at < len(block) and block[at] >> 5 == 1 and count <= _UPDATES:
        longer = block[at] & 0x1F == 0x1F
        at += 1
        while longer and at < len(block) and block[at] & 0x80:
            at += 1
        at += longer
        count += 1
    return count


def check_request(fields: Sequence[Field]) -> int:
    """Check a request's fields by RFC 9113 section 8; returns its content-length, -1 where there is none.

    Raises:
        MalformedError: they break a rule.
    """
    seen: set[bytes] = set()
    length = -1
    regular = False
    for name, value in fields:
        if name[:1] == b":":
            if regular or name in seen or name not in _PSEUDO:
                raise MalformedError("pseudo-header fields come first, once, and are those of a request")
            seen.add(name)
        else:
            regular = True
            _check_name(name, value)
            if name == b"content-length":
                length = _length(value, length)
        if not _VALUE.fullmatch(value):
            raise MalformedError("a field's value has characters that none may have")
    if not seen >= _NEEDED or (b":path", b"") in fields:
        raise MalformedError("a request has a method, a scheme and a path")
    _check_host(fields)
    return length


def _check_host(fields: Sequence[Field]) -> None:
    """Refuse a Host that names another place than `:authority` (RFC 9113 section 8.3.1), or a second one."""
    hosts = [value for name, value in fields if name == b"host"]
    if not hosts:
        return
    first = dict(reversed(fields))
    port = _DEFAULT_PORT.get(first[b":scheme"].lower(), b"")
    places = {value.lower().removesuffix(port) for value in (first.get(b":authority", hosts[0]), hosts[0])}
    if len(hosts) > 1 or len(places) > 1:
        raise MalformedError("Host and :authority differ")


def check_trailers(fields: Sequence[Field]) -> None:
    """Check what a client sends behind its messages.

    Raises:
        MalformedError: it breaks a rule.
    """
    for name, value in fields:
        _check_name(name, value)
        if not _VALUE.fullmatch(value):
            raise MalformedError("a field's value has characters that none may have")


def _check_name(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name):
        raise MalformedError("a field's name has characters that none may have")
    if name in _OF_A_CONNECTION or (name == b"te" and value != b"trailers"):
        raise MalformedError("a field of the connection itself has no place in HTTP/2")


def _length(value: bytes, before: int) -> int:
    if not value.isdigit() or len(value) > _LENGTH_DIGITS or before not in {-1, int(value)}:
        raise MalformedError("content-length is no number, or two of them")
    return int(value)


def encode_fields(fields: Sequence[Field]) -> bytes:
    """A block of literals without indexing (RFC 7541 section 6.2.2): it changes no table."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in fields)


def _string(value: bytes) -> bytes:
    """A string literal without Huffman code: its length in 7 bits and, where these are all set, in groups of 7 more."""
    size = len(value)
    if size < 0x7F:
        return bytes([size]) + value
    size -= 0x7F
    digits = bytearray([0x7F])
    while size >= 0x80:
        digits.append(0x80 | size & 0x7F)
        size >>= 7
    digits.append(size)
    return bytes(digits) + value

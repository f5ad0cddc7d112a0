"""Header blocks of HTTP/2: bytes to a request's head, and fields of answers to bytes. Pure.

Several things are cached. A block that has come before and does not change the dynamic table has the same meaning until
that table changes, so it is looked up. Any other block is decoded (`hpack.py`), and its plan is looked up by the fields
on which it depends, so that a client with a new request id in every call is not checked again. Significant fields that
vary, such as a deadline, are read each time. Answers do not use the dynamic table, so their blocks are made once.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from tailcut.wire.http2.hpack import BlockError, Decoder, Field, OversizedError, TooManyFieldsError
from tailcut.wire.memo import BytesMemo

__all__ = [
    "BLOCK_BYTES",
    "FIELDS_BYTES",
    "BlockError",
    "Field",
    "FieldReading",
    "HeaderBlocks",
    "MalformedError",
    "TooManyFieldsError",
]

H = TypeVar("H")  # the meaning of a request's fields for the caller

FIELDS_BYTES = 16 << 10  # of a request, counted as in RFC 9113 section 6.5.2
BLOCK_BYTES = 64 << 10  # of one encoded block, and of its fields: beyond that, more than the request is lost
_CACHED = 64  # blocks for each connection, at most
_PLANS, _IGNORED = 256, 256  # for each FieldReading, at most
_CACHED_BYTES = 2048
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"(?:[^\0\r\n \t](?:[^\0\r\n]*[^\0\r\n \t])?)?")
_PSEUDO = {b":method", b":scheme", b":path", b":authority"}
_NEEDED = {b":method", b":scheme", b":path"}
_OF_A_CONNECTION = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
_CHECKED = _PSEUDO | _OF_A_CONNECTION | {b"te", b"host"}  # fields whose values the rules of HTTP/2 concern
_LENGTH = b"content-length"
_LENGTH_DIGITS = 18
_DEFAULT_PORT = {b"http": b":80", b"https": b":443"}
_KEY, _VARYING, _IGNORE = range(3)  # the roles of fields, by name
_NO_ORDER = "pseudo-header fields must come first, appear once, and be those of a request"
_NO_VALUE = "a field value has invalid characters"


class MalformedError(Exception):
    """The fields of one request violate RFC 9113 section 8: only its stream ends."""


class _FieldPlan(NamedTuple):
    """A plan with the fields that it depends on, of which the first `pseudo` are pseudo-header fields."""

    made: Any
    pseudo: int


@dataclass(frozen=True)
class FieldReading(Generic[H]):
    """How to interpret the fields of requests, for all connections of one kind.

    Args:
        plan: makes a plan from the fields that are the same from call to call.
        head: makes the request's head from a plan and the varying fields by name; of a repeated one, the first value.
        names: the fields on which `plan` depends, beside those in the rules of HTTP/2; None: all others.
        varying: the names of the fields that `head` gets.
        oversized: makes the head of a request whose fields exceed the limit, from the fields up to it.
    """

    plan: Callable[[Sequence[Field]], Any]
    head: Callable[[Any, Mapping[bytes, bytes]], H]
    oversized: Callable[[Sequence[Field]], H]
    names: frozenset[bytes] | None = None
    varying: frozenset[bytes] = frozenset()
    roles: dict[bytes, int] = field(init=False, repr=False)
    plans: BytesMemo[tuple[Field, ...], _FieldPlan] = field(init=False, repr=False)
    ignored: BytesMemo[bytes, int] = field(init=False, repr=False)  # valid names

    def __post_init__(self) -> None:
        roles = dict.fromkeys(_CHECKED | (self.names or frozenset()), _KEY) | dict.fromkeys(self.varying, _VARYING)
        object.__setattr__(self, "roles", roles)
        object.__setattr__(self, "plans", BytesMemo(_PLANS, _CACHED_BYTES))
        object.__setattr__(self, "ignored", BytesMemo(_IGNORED, _CACHED_BYTES // 8))

    def role(self, name: bytes) -> int:
        """The role of a field with a name that is neither configured nor known yet.

        Raises:
            MalformedError: the name is invalid.
        """
        _check_name(name, b"")
        return self.ignored.keep(name, _KEY if self.names is None else _IGNORE, len(name))


class HeaderBlocks(Generic[H]):
    """Decodes the blocks of one connection, in the order in which they came."""

    def __init__(self, reading: FieldReading[H]) -> None:
        self._reading = reading
        self._decoder = Decoder(FIELDS_BYTES, BLOCK_BYTES)
        self._edition = 0
        self._known: BytesMemo[bytes, tuple[H, int]] = BytesMemo(_CACHED, _CACHED_BYTES)
        self.decoded = 0  # the cost of decoding and checking so far, in units of 3 us

    def request(self, block: bytes) -> tuple[H, int]:
        """The head in a request's block, and the announced content length; -1: none, or the fields exceed the limit.

        Raises:
            BlockError: it cannot be decoded.
            MalformedError: it is not a valid request.
        """
        decoder = self._decoder
        before = decoder.edition
        known = self._known.get(block)
        if known is not None and self._edition == before:
            return known
        try:
            fields = self._decode(block)
        except OversizedError as error:
            return self._reading.oversized(error.fields), -1
        meaning = self._read(fields)
        if before == decoder.edition:
            if self._edition != before:
                self._known.clear()
                self._edition = before
            self._known.keep(block, meaning, len(block))
        return meaning

    def are_trailers(self, block: bytes) -> bool:
        """Whether a block has valid trailers.

        Raises:
            BlockError: it cannot be decoded.
        """
        try:
            check_trailers(self._decode(block))
        except (MalformedError, OversizedError):
            return False
        return True

    def _decode(self, block: bytes) -> list[Field]:
        self.decoded += len(block) >> 6
        try:
            fields = self._decoder.decode(block)
        except OversizedError as error:
            self.decoded += (len(error.fields) + error.dropped) >> 1
            raise
        self.decoded += len(fields) >> 1
        return fields

    def _read(self, fields: list[Field]) -> tuple[H, int]:
        reading = self._reading
        role_of, ignored = reading.roles.get, reading.ignored.get
        key: list[Field] = []
        varying: dict[bytes, bytes] = {}
        length = -1
        for pair in fields:
            name, value = pair
            role = role_of(name)
            if role is None:
                if name == _LENGTH:
                    length = _length(value, length)
                    continue
                role = ignored(name)
                if role is None:
                    role = reading.role(name)
            if role == _KEY:
                key.append(pair)
                continue
            if not value.isalnum() and not _VALUE.fullmatch(value):
                raise MalformedError(_NO_VALUE)
            if role == _VARYING:
                varying.setdefault(name, value)
        plan = reading.plans.get(tuple(key))
        if plan is None:
            check_request(fields)
            self.decoded += len(fields)
            plan = _FieldPlan(reading.plan(key), sum(name[:1] == b":" for name, _ in key))
            reading.plans.keep(tuple(key), plan, sum(len(name) + len(value) for name, value in key))
        elif fields[plan.pseudo - 1] is not key[plan.pseudo - 1]:
            raise MalformedError(_NO_ORDER)
        return reading.head(plan.made, varying), length


def check_request(fields: Sequence[Field]) -> None:
    """Check a request's fields by RFC 9113 section 8, except its content-length.

    Raises:
        MalformedError: they violate a rule.
    """
    seen: set[bytes] = set()
    regular = False
    for name, value in fields:
        if name[:1] == b":":
            if regular or name in seen or name not in _PSEUDO:
                raise MalformedError(_NO_ORDER)
            seen.add(name)
        else:
            regular = True
            _check_name(name, value)
        if not _VALUE.fullmatch(value):
            raise MalformedError(_NO_VALUE)
    if not seen >= _NEEDED or (b":path", b"") in fields:
        raise MalformedError("a request needs a method, a scheme and a path")
    _check_host(fields)


def _check_host(fields: Sequence[Field]) -> None:
    """Refuse a Host that differs from `:authority` (RFC 9113 section 8.3.1), or a second one."""
    hosts = [value for name, value in fields if name == b"host"]
    if not hosts:
        return
    first = dict(reversed(fields))
    port = _DEFAULT_PORT.get(first[b":scheme"].lower(), b"")
    places = {value.lower().removesuffix(port) for value in (first.get(b":authority", hosts[0]), hosts[0])}
    if len(hosts) > 1 or len(places) > 1:
        raise MalformedError("Host and :authority differ")


def check_trailers(fields: Sequence[Field]) -> None:
    """Check the trailers of a request.

    Raises:
        MalformedError: they violate a rule.
    """
    for name, value in fields:
        _check_name(name, value)
        if not _VALUE.fullmatch(value):
            raise MalformedError(_NO_VALUE)


def _check_name(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name):
        raise MalformedError("a field name has invalid characters")
    if name in _OF_A_CONNECTION or (name == b"te" and value != b"trailers"):
        raise MalformedError("connection-specific fields are not allowed")


def _length(value: bytes, before: int) -> int:
    if not value.isdigit() or len(value) > _LENGTH_DIGITS or before not in {-1, int(value)}:
        raise MalformedError("content-length is invalid or repeated")
    return int(value)


def encode_fields(fields: Sequence[Field]) -> bytes:
    """A block of literals without indexing (RFC 7541 section 6.2.2), which changes no table."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in fields)


def _string(value: bytes) -> bytes:
    """A string literal without Huffman code: its length in 7 bits, or more in further groups of 7."""
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

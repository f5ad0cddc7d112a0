"""gRPC over HTTP/2: the meaning of a call's fields, its messages in and out, and its trailers. Pure.

It follows the description "gRPC over HTTP2": a message has a prefix of five bytes, and a call ends with `grpc-status`
in its trailers.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from math import ceil
from urllib.parse import quote

import msgspec

from tailcut.errors import InvalidInputError, TooLargeError
from tailcut.wire.http2.fields import FIELDS_BYTES, Field, FieldReading, encode_fields
from tailcut.wire.inflate import inflate_in_steps

PREFIX_BYTES = 5
_TIMEOUT_DIGITS = 8
_UNIT_NS = {b"H": 3_600_000_000_000, b"M": 60_000_000_000, b"S": 1_000_000_000, b"m": 1_000_000, b"u": 1000, b"n": 1}
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_MESSAGE_CHARS = 1000  # at most 12 KB, which fit into one frame
_OWN_BYTES = 1 << 20  # a message of at least this size keeps the buffer in which it was collected
_INFLATED = {b"gzip", b"deflate"}


class Status(IntEnum):
    """How a call ended."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class CallError(Exception):
    """A call breaks gRPC's rules or exceeds a limit, and ends with this status."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class CallPlan:
    """The meaning of the constant fields of a call; `refused` is the answer to a request that is not a gRPC call.

    `path` is empty where the fields exceed the limit.
    """

    path: str
    encoding: bytes = b"identity"
    authorization: str = ""
    refused: bytes | None = None
    error: CallError | None = None


class CallHead(msgspec.Struct, frozen=True, gc=False):
    """The meaning of all fields of a call; `error` ends it at once."""

    plan: CallPlan
    timeout_ns: int = 0  # 0: none
    traceparent: bytes = b""
    tracestate: bytes = b""
    error: CallError | None = None


_TYPE: Field = (b"content-type", b"application/grpc")
_ENCODINGS: Field = (b"grpc-accept-encoding", b"identity,deflate,gzip")
_OK = b"\x88"  # `:status: 200`, an indexed field of the static table
ANSWER_HEAD = _OK + encode_fields([_TYPE, _ENCODINGS])
ANSWER_END = encode_fields([(b"grpc-status", b"0")])


def plan_call(fields: Sequence[Field]) -> CallPlan:
    """The plan for the constant fields of a request; `refused` or `error` says what is wrong with it."""
    first: dict[bytes, bytes] = {}
    for name, value in fields:
        first.setdefault(name, value)
    path = first[b":path"].decode("latin-1")
    if first[b":method"] != b"POST":
        return CallPlan(path, refused=encode_fields([(b":status", b"405"), (b"allow", b"POST")]))
    if not _is_grpc(first.get(b"content-type", b"")):
        return CallPlan(path, refused=encode_fields([(b":status", b"415")]))
    error = None
    encoding = first.get(b"grpc-encoding", b"identity")
    if encoding != b"identity" and encoding not in _INFLATED:
        error = CallError(Status.UNIMPLEMENTED, "messages may be compressed by gzip or deflate")
    return CallPlan(path, encoding, first.get(b"authorization", b"").decode("latin-1"), error=error)


def _is_grpc(content_type: bytes) -> bool:
    return content_type == b"application/grpc" or content_type.startswith(
        (b"application/grpc+proto", b"application/grpc;")
    )


def oversized_call(fields: Sequence[Field]) -> CallHead:
    """The head of a call whose fields exceed the limit, from the fields up to it."""
    error = CallError(Status.RESOURCE_EXHAUSTED, f"the metadata of a call is over the limit of {FIELDS_BYTES} bytes")
    refused = None
    if not _is_grpc(dict(fields).get(b"content-type", _TYPE[1])):  # the content type may be beyond the limit
        refused = encode_fields([(b":status", b"431")])
    return CallHead(CallPlan("", refused=refused), error=error)


def call_head(plan: CallPlan, varying: Mapping[bytes, bytes]) -> CallHead:
    """The head of one call, with its deadline and its trace."""
    if not varying:
        return CallHead(plan, error=plan.error)
    trace = varying.get(b"traceparent", b""), varying.get(b"tracestate", b"")
    written = varying.get(b"grpc-timeout")
    if written is None:
        return CallHead(plan, 0, *trace, plan.error)
    unit_ns, digits = _UNIT_NS.get(written[-1:]), written[:-1]
    if unit_ns is None or not digits.isdigit() or len(digits) > _TIMEOUT_DIGITS:
        message = f"grpc-timeout is a number of {_TIMEOUT_DIGITS} digits at most, followed by one of H, M, S, m, u, n"
        return CallHead(plan, 0, *trace, CallError(Status.INVALID_ARGUMENT, message))
    return CallHead(plan, int(digits) * unit_ns or 1, *trace, plan.error)


CALLS = FieldReading(
    plan_call,
    call_head,
    oversized_call,
    names=frozenset({b"content-type", b"grpc-encoding", b"authorization"}),
    varying=frozenset({b"grpc-timeout", b"traceparent", b"tracestate"}),
)


@lru_cache(256)
def error_end(status: Status, message: str, retry_after_s: float | None = None, *, begun: bool = False) -> bytes:
    """The block that ends a call without an answer; it includes the response headers, where they were not sent yet."""
    fields = [(b"grpc-status", b"%d" % status), (b"grpc-message", percent_encoded(message))]
    if retry_after_s is not None:
        fields.append((b"retry-after", b"%d" % round(retry_after_s)))
        # gRPC's pushback, which clients with a retry policy follow (gRFC A6).
        fields.append((b"grpc-retry-pushback-ms", b"%d" % ceil(retry_after_s * 1000)))
    return encode_fields(fields) if begun else ANSWER_HEAD + encode_fields(fields)


def percent_encoded(message: str) -> bytes:
    """A status message for the wire: printable ASCII as it is, everything else percent-encoded as UTF-8."""
    return quote(message[:_MESSAGE_CHARS].strip(), safe=_PLAIN, errors="replace").encode("ascii")


def prefixed(message: bytes) -> bytes:
    """An uncompressed message with its prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message


class Messages:
    """The messages of one call, which are taken one by one; each has at most `limit` bytes."""

    __slots__ = ("_data", "_encoding", "_inflater", "_limit", "_plain_bytes")

    def __init__(self, limit: int, encoding: bytes) -> None:
        self._data = bytearray()
        self._limit = limit
        self._encoding = encoding
        self._inflater: Generator[None, None, bytearray] | None = None
        self._plain_bytes = 0  # bytes of the current message that have been inflated

    @property
    def inflating(self) -> bool:
        """Whether the next message has arrived compressed, so that `inflate` must be called for it."""
        return self._inflater is not None

    def feed(self, data: bytes) -> None:
        """Take more bytes of the call.

        Raises:
            CallError: the next message is over the limit.
        """
        self._data += data
        self._check()

    def _check(self) -> None:
        size = int.from_bytes(self._data[1:PREFIX_BYTES], "big") if len(self._data) >= PREFIX_BYTES else 0
        if size > self._limit:
            raise CallError(Status.RESOURCE_EXHAUSTED, f"a message of {size} bytes is over the limit of {self._limit}")

    @property
    def held(self) -> int:
        """How many bytes are kept, or will be when the current message is complete."""
        begun = self._data
        if len(begun) < PREFIX_BYTES:
            return len(begun) + self._plain_bytes
        return max(len(begun), PREFIX_BYTES + int.from_bytes(begun[1:PREFIX_BYTES], "big")) + self._plain_bytes

    def take(self) -> bytes | memoryview | None:
        """The next message; None where it is not complete yet, or `inflating`.

        Raises:
            CallError: it is over the limit, or not compressed as the call declares.
        """
        data = self._data
        if len(data) < PREFIX_BYTES:
            return None
        self._check()
        end = PREFIX_BYTES + int.from_bytes(data[1:PREFIX_BYTES], "big")
        if len(data) < end:
            return None
        compressed = data[0]
        message: bytes | memoryview
        if len(data) == end >= _OWN_BYTES:
            message = memoryview(data)[PREFIX_BYTES:]
            self._data = bytearray()
        else:
            message = bytes(memoryview(data)[PREFIX_BYTES:end])
            del data[:end]
        if not compressed:
            return message
        if compressed != 1 or self._encoding == b"identity":
            raise CallError(Status.INTERNAL, "a message is marked as compressed, but the call names no compression")
        self._inflater = inflate_in_steps(message, self._limit, self._count)
        for _ in range(2):  # a small one needs only these steps
            plain = self._inflate()
            if plain is not None:
                return plain
        return None

    def inflate(self) -> Generator[None, None, bytes | memoryview]:
        """The message that is `inflating`, in steps; `held` grows with each of them.

        Raises:
            CallError: it is over the limit, or not compressed as the call declares.
        """
        while True:
            plain = self._inflate()
            if plain is not None:
                return plain
            yield

    def _inflate(self) -> bytes | memoryview | None:
        inflater = self._inflater
        if inflater is None:
            return b""
        try:
            next(inflater)
        except StopIteration as end:
            self._inflater, self._plain_bytes = None, 0
            return memoryview(end.value) if len(end.value) >= _OWN_BYTES else bytes(end.value)
        except TooLargeError:
            raise CallError(
                Status.RESOURCE_EXHAUSTED, f"an inflated message is over the limit of {self._limit} bytes"
            ) from None
        except InvalidInputError:
            raise CallError(Status.INTERNAL, "a compressed message cannot be read") from None
        return None

    def _count(self, size: int) -> None:
        self._plain_bytes += size

    @property
    def empty(self) -> bool:
        """Whether nothing is held."""
        return not self._data

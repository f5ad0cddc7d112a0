"""gRPC over HTTP/2: what a call's fields mean, its messages in and out, and the fields that end it. Pure.

After the protocol's description: a message is five bytes and itself, a call ends with `grpc-status` in its trailers.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from urllib.parse import quote

from tailcut.wire.http2_fields import Field, encode_fields

PREFIX_BYTES = 5
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNIT_NS = {b"H": 3_600_000_000_000, b"M": 60_000_000_000, b"S": 1_000_000_000, b"m": 1_000_000, b"u": 1000, b"n": 1}
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_MESSAGE_CHARS = 1000  # 12 KB at worst, which one frame holds
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
    """A call that breaks gRPC's own rules, or a bound: it ends with this status."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class CallHead:
    """What a call's fields say; `refused` is the whole answer to a request that is no gRPC call."""

    path: str
    timeout_ns: int = 0  # 0: none
    encoding: bytes = b"identity"
    authorization: str = ""
    traceparent: str = ""
    refused: bytes | None = None
    error: CallError | None = None


_TYPE: Field = (b"content-type", b"application/grpc")
_ENCODINGS: Field = (b"grpc-accept-encoding", b"identity,deflate,gzip")
_OK = b"\x88"  # `:status: 200`, an indexed field of the static table
ANSWER_HEAD = _OK + encode_fields([_TYPE, _ENCODINGS])
ANSWER_END = encode_fields([(b"grpc-status", b"0")])


def read_call(fields: Sequence[Field]) -> CallHead:
    """The call in a request's fields; what is wrong with it stands in `refused` or `error`."""
    first: dict[bytes, bytes] = {}
    for name, value in fields:
        first.setdefault(name, value)
    path = first[b":path"].decode("latin-1")
    if first[b":method"] != b"POST":
        return CallHead(path, refused=encode_fields([(b":status", b"405"), (b"allow", b"POST")]))
    kind = first.get(b"content-type", b"")
    if kind != b"application/grpc" and not kind.startswith((b"application/grpc+proto", b"application/grpc;")):
        return CallHead(path, refused=encode_fields([(b":status", b"415")]))
    error = None
    encoding = first.get(b"grpc-encoding", b"identity")
    if encoding != b"identity" and encoding not in _INFLATED:
        error = CallError(Status.UNIMPLEMENTED, "messages may be compressed by gzip or deflate")
    timeout = _TIMEOUT.fullmatch(first.get(b"grpc-timeout", b"0n"))
    if timeout is None:
        error = CallError(Status.INVALID_ARGUMENT, "grpc-timeout is a number of 8 digits at most, and one of HMSmun")
    return CallHead(
        path,
        max(1, int(timeout[1]) * _UNIT_NS[timeout[2]]) if timeout and b"grpc-timeout" in first else 0,
        encoding,
        first.get(b"authorization", b"").decode("latin-1"),
        first.get(b"traceparent", b"").decode("latin-1"),
        error=error,
    )


@lru_cache(256)
def error_end(status: Status, message: str, retry_after_s: int | None = None, *, begun: bool = False) -> bytes:
    """The block that ends a call without an answer; the head stands in it too, where none was sent before."""
    fields = [(b"grpc-status", b"%d" % status), (b"grpc-message", percent_encoded(message))]
    if retry_after_s is not None:
        fields.append((b"retry-after", b"%d" % retry_after_s))
    return encode_fields(fields) if begun else ANSWER_HEAD + encode_fields(fields)


def percent_encoded(message: str) -> bytes:
    """A status message as it travels: printable ASCII as it is, everything else as the bytes of its UTF-8."""
    return quote(message[:_MESSAGE_CHARS].strip(), safe=_PLAIN, errors="replace").encode("ascii")


def prefixed(message: bytes) -> bytes:
    """A message with its prefix, not compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


class Messages:
    """The messages of one call, taken out one by one, of `limit` bytes at most."""

    __slots__ = ("_data", "_encoding", "_limit")

    def __init__(self, limit: int, encoding: bytes) -> None:
        self._data = bytearray()
        self._limit = limit
        self._encoding = encoding

    def feed(self, data: bytes) -> None:
        """More bytes of the call."""
        self._data += data

    @property
    def held(self) -> int:
        """How many bytes are kept, or will be once the message that has begun is here."""
        begun = self._data
        if len(begun) < PREFIX_BYTES:
            return len(begun)
        return max(len(begun), PREFIX_BYTES + int.from_bytes(begun[1:PREFIX_BYTES], "big"))

    def take(self) -> bytes | None:
        """The next message, or None where it is not here yet.

        Raises:
            CallError: it is over the limit, or its compression is not what the call said.
        """
        data = self._data
        if len(data) < PREFIX_BYTES:
            return None
        end = PREFIX_BYTES + int.from_bytes(data[1:PREFIX_BYTES], "big")
        if end - PREFIX_BYTES > self._limit:
            raise CallError(
                Status.RESOURCE_EXHAUSTED, f"a message of {end - PREFIX_BYTES} bytes is over the limit of {self._limit}"
            )
        if len(data) < end:
            return None
        message = bytes(memoryview(data)[PREFIX_BYTES:end])
        compressed = data[0]
        del data[:end]
        if not compressed:
            return message
        if compressed != 1 or self._encoding == b"identity":
            raise CallError(Status.INTERNAL, "a message is marked as compressed, and the call names no compression")
        return self._inflated(message)

    def _inflated(self, message: bytes) -> bytes:
        inflater = zlib.decompressobj(wbits=47)  # gzip or deflate, by its first bytes
        try:
            plain = inflater.decompress(message, self._limit + 1)
        except zlib.error:
            raise CallError(Status.INTERNAL, "a compressed message cannot be read") from None
        if len(plain) > self._limit:
            raise CallError(Status.RESOURCE_EXHAUSTED, f"an inflated message is over the limit of {self._limit} bytes")
        if not inflater.eof:
            raise CallError(Status.INTERNAL, "a compressed message is cut short")
        return plain

    @property
    def empty(self) -> bool:
        """Whether nothing is held."""
        return not self._data

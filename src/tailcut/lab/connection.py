"""One kept-alive HTTP/1.1 connection of the load generator, with one request in flight.

It reads what a load test has to know of an answer and nothing else: the status, where the answer ends, and whether the
server closes behind it. Answers' heads repeat, so what one says is kept by its bytes.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from tailcut.errors import UsageError
from tailcut.lab.load import Outcome, Payload, Target
from tailcut.lab.tls import reason, tls_context
from tailcut.wire.http1.chunked import ChunkedBody
from tailcut.wire.http1.grammar import ProtocolError
from tailcut.wire.memo import BytesMemo

_RECEIVE_BYTES = 256 * 1024
_CHUNKED_LIMIT_BYTES = 1 << 30
_UNTIL_CLOSE = 1 << 62  # the length of a body that ends with its connection (RFC 9112, section 6.3)


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """What the head of an answer says; `length` is that of the body where it is not chunked."""

    status: int
    length: int
    chunked: bool
    closes: bool


class Carrier(Protocol):
    """What carries one request at a time, whatever it speaks."""

    @property
    def alive(self) -> bool:
        """Whether it can carry another request."""

    def send(self, payload: Payload, planned_ns: int, free_ns: int) -> None:
        """Start a request."""

    def close(self) -> None:
        """Break off; nothing more is told."""


async def connect(target: Target, on_done: Callable[[Carrier, Outcome], None]) -> Carrier:
    """A connection to the target that calls `on_done` with the outcome of each request.

    Raises:
        UsageError: no server listens.
    """
    if target.grpc:
        from tailcut.lab.grpc_connection import connect_grpc  # noqa: PLC0415  grpc is heavy, and few load it

        return await connect_grpc(target, on_done)
    loop = asyncio.get_running_loop()
    make = partial(Connection, on_done)
    try:
        if target.uds:
            _, connection = await loop.create_unix_connection(make, target.uds)
        else:
            _, connection = await loop.create_connection(make, target.host, target.port, ssl=tls_context(target))
    except OSError as error:
        raise UsageError(f"no server listens at {target.uds or target.authority}: {reason(error)}") from None
    return connection


class Connection(asyncio.BufferedProtocol):
    """One request at a time: send, then count the answer's bytes in."""

    _heads: BytesMemo[bytes, AnswerHead] = BytesMemo(1000)  # answers' heads repeat: shared by design
    _room = bytearray(_RECEIVE_BYTES)
    _view = memoryview(_room)
    _numbers = itertools.count()

    def __init__(self, on_done: Callable[[Carrier, Outcome], None]) -> None:
        self._on_done = on_done
        self._number = next(self._numbers)
        self._transport: asyncio.Transport | None = None
        self._payload: Payload | None = None
        self._left = -1  # bytes of the body to come; -1 while the head is
        self._chunks: ChunkedBody | None = None
        self._partial = b""
        self._status = 0
        self._closes = False
        self._times = (0, 0, 0)

    @property
    def alive(self) -> bool:
        """Whether it can carry another request."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio: it is open."""
        self._transport = transport  # type: ignore[assignment]  # asyncio promises a Transport for streams

    def connection_lost(self, error: Exception | None) -> None:
        """Asyncio: it is closed; that is the end of a body without a length, and breaks off any other."""
        self._transport = None
        if self._payload is not None:
            whole = error is None and self._left > _UNTIL_CLOSE // 2
            self._finish(self._status if whole else 0)

    def send(self, payload: Payload, planned_ns: int, free_ns: int) -> None:
        """Start a request."""
        self._payload = payload
        self._left = -1
        self._times = (planned_ns, free_ns, time.monotonic_ns())
        if self._transport is None:
            self._finish(0)
        else:
            self._transport.write(payload.at(self._number))

    def close(self) -> None:
        """Break off; nothing more is told."""
        self._payload = None
        if self._transport is not None:
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Asyncio: where to receive; all connections share it, because it is read before the loop goes on."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Asyncio: bytes of the answer are there."""
        if self._left < 0:
            self._take_head(nbytes)
        elif self._chunks is not None:
            self._take_chunks(bytes(self._view[:nbytes]))
        else:
            self._left -= nbytes
            if self._left <= 0:
                self._finish(self._status)

    def eof_received(self) -> bool:
        """Asyncio: the server is done; close too."""
        return False

    def _take_head(self, nbytes: int) -> None:
        data = self._partial + bytes(self._view[:nbytes]) if self._partial else bytes(self._view[:nbytes])
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._partial = data
            return
        self._partial = b""
        raw = data[: end + 4]
        head = self._heads.get(raw)
        if head is None:
            head = self._heads.keep(raw, read_answer_head(raw))
        self._status, self._closes = head.status, head.closes
        if head.chunked:
            self._chunks, self._left = ChunkedBody(_CHUNKED_LIMIT_BYTES), 0
            self._take_chunks(data[end + 4 :])
            return
        self._left = head.length - (len(data) - end - 4)
        if self._left <= 0:
            self._finish(self._status)

    def _take_chunks(self, data: bytes) -> None:
        chunks = self._chunks
        assert chunks is not None  # noqa: S101  callers looked
        try:
            chunks.feed(data)
        except ProtocolError:
            self._closes = True
            self._finish(0)
            return
        chunks.body.clear()
        if chunks.done:
            self._finish(self._status)

    def _finish(self, status: int) -> None:
        payload, self._payload, self._chunks = self._payload, None, None
        if payload is None:
            return
        planned, free, sent = self._times
        if self._closes and self._transport is not None:
            self._transport.abort()
            self._transport = None
        done = time.monotonic_ns()
        self._on_done(self, Outcome(planned, free, sent, done, status, status == payload.expect_status, payload.length))


def read_answer_head(head: bytes) -> AnswerHead:
    """Read a whole head, its empty line included; what is no HTTP has the status 0 and closes."""
    first, *rest = head.split(b"\r\n")
    status = int(first[9:12]) if first.startswith(b"HTTP/1.") and first[9:12].isdigit() else 0
    fields = {name.strip().lower(): value.strip().lower() for name, _, value in (line.partition(b":") for line in rest)}
    options = {option.strip() for option in fields.get(b"connection", b"").split(b",")}
    closes = b"close" in options or (first.startswith(b"HTTP/1.0") and b"keep-alive" not in options) or not status
    length = fields.get(b"content-length", b"")
    without = 0 if status in {0, 204, 304} else _UNTIL_CLOSE
    body = int(length) if length.isdigit() else without
    return AnswerHead(status, body, fields.get(b"transfer-encoding") == b"chunked", closes)

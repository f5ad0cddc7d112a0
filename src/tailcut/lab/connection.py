"""One kept-alive HTTP/1.1 connection of the load generator, with one request in flight.

Of an answer, it reads only what a load test needs: the status, where the answer ends, and whether the server closes the
connection. No body is kept, and no array is built.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from tailcut.errors import UnreachableError
from tailcut.lab.load import LoadTarget, Payload, RequestOutcome, not_connected
from tailcut.lab.tls import reason, tls_context
from tailcut.wire.http1.answers import AnswerCounter


class Carrier(Protocol):
    """A connection of any protocol that carries one request at a time."""

    @property
    def alive(self) -> bool:
        """Whether it can carry another request."""

    def send(self, payload: Payload, planned_ns: int, free_ns: int) -> None:
        """Send a request that was planned for `planned_ns`, on a connection free since `free_ns` (monotonic)."""

    def close(self) -> None:
        """Close the connection; `on_done` is not called any more."""


async def connect(target: LoadTarget, on_done: Callable[[Carrier, RequestOutcome], None]) -> Carrier:
    """Open a connection to the target that calls `on_done` with the outcome of each request.

    Raises:
        NotListeningError: no server listens.
    """
    if target.grpc:
        from tailcut.lab.grpc_connection import connect_grpc  # noqa: PLC0415  grpc is heavy, and few load it

        return await connect_grpc(target, on_done)
    loop = asyncio.get_running_loop()
    make = partial(LoadConnection, on_done)
    try:
        if target.uds:
            _, connection = await loop.create_unix_connection(make, target.uds)
        else:
            _, connection = await loop.create_connection(make, target.host, target.port, ssl=tls_context(target))
    except OSError as error:
        raise not_connected(target, error, reason(error)) from None
    return connection


class LoadConnection(asyncio.BufferedProtocol):
    """A connection with one request at a time: sends it, then counts the answer's bytes."""

    _numbers = itertools.count()

    def __init__(self, on_done: Callable[[Carrier, RequestOutcome], None]) -> None:
        self._on_done = on_done
        self._number = next(self._numbers)
        self._transport: asyncio.Transport | None = None
        self._payload: Payload | None = None
        self._reader = AnswerCounter()
        self._times = (0, 0, 0)

    @property
    def alive(self) -> bool:
        """Whether it can carry another request."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio: the connection is open."""
        self._transport = transport  # type: ignore[assignment]  # asyncio promises a Transport for streams

    def connection_lost(self, error: Exception | None) -> None:
        """Asyncio: the connection is closed, which ends a body without a length, and truncates any other."""
        self._transport = None
        answer = self._reader.ended() if error is None else None
        self._finish(0 if answer is None else answer.status)

    def send(self, payload: Payload, planned_ns: int, free_ns: int) -> None:
        """Send a request that was planned for `planned_ns`, on a connection free since `free_ns` (monotonic)."""
        self._payload = payload
        self._times = (planned_ns, free_ns, time.monotonic_ns())
        if self._transport is None:
            self._finish(0)
        else:
            self._transport.write(payload.at(self._number))

    def close(self) -> None:
        """Close the connection; `on_done` is not called any more."""
        self._payload = None
        self._abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Asyncio: the buffer to receive into."""
        return self._reader.target()

    def buffer_updated(self, nbytes: int) -> None:
        """Asyncio: bytes of the answer were received."""
        if self._payload is None:  # no request was sent
            self._abort()
            return
        try:
            answer = self._reader.received(nbytes)
        except UnreachableError:
            self._abort()
            self._finish(0)
            return
        if answer is not None:
            if answer.closes:
                self._abort()
            self._finish(answer.status)

    def eof_received(self) -> bool:
        """Asyncio: the server closed its side; close the connection, too."""
        return False

    def _abort(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def _finish(self, status: int) -> None:
        payload, self._payload = self._payload, None
        if payload is None:
            return
        planned, free, sent = self._times
        done = time.monotonic_ns()
        self._on_done(
            self, RequestOutcome(planned, free, sent, done, status, status == payload.expect_status, payload.length)
        )

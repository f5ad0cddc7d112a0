"""TLS between a socket and a connection that knows nothing of it.

`TlsConnection` is the protocol of the socket, and the transport of the inner connection, HTTP or gRPC, which the server
knows from the start: limits, draining and accounts treat it like any other. OpenSSL works on memory here
(`ssl.MemoryBIO`), because the loop's own TLS neither says how much a client has left unread nor lets a client that ends
its side receive its answer (docs/decisions/060-tls-between-socket-and-connection.md).

A handshake, half a millisecond of signing, takes its turn in the time that each pass of the loop has.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from tailcut.server.state import ServerState
from tailcut.server.tls.certificates import GRPC, HTTP, Certificates
from tailcut.wire.http1.response import dated, reply

_log = logging.getLogger("tailcut.tls")
_HANDSHAKE = 0x16  # the type of a client's first record (RFC 8446 section 5.1)
_RECORD_BYTES = 16 * 1024  # the largest record
_SEND_BYTES = 256 * 1024  # encrypted at a time
_PLAIN = b'{"error":"this port takes TLS only: use https://"}'


class TlsAcceptor:
    """Makes the protocols for TLS sockets with one kind of inner connection."""

    def __init__(
        self,
        state: ServerState,
        certificates: Certificates,
        protocol: str,
        make: Callable[[], asyncio.BufferedProtocol],
    ) -> None:
        self._state = state
        self._certificates = certificates
        self._protocol = protocol
        self._make = make
        self._memory = memoryview(bytearray(len(state.receive)))  # one for all: it is emptied at once

    def __call__(self) -> "TlsConnection":
        """The protocol for an accepted socket."""
        contexts = self._certificates.now
        context = contexts.grpc if self._protocol == GRPC else contexts.http
        plain = _plain_answer(self._state) if self._protocol == HTTP else b""
        return TlsConnection(self._state, context, self._make(), self._memory, plain)


def _plain_answer(state: ServerState) -> bytes:
    return dated(reply(400, _PLAIN, close=True), state.date)


class TlsConnection(asyncio.Transport, asyncio.BufferedProtocol):
    """One accepted socket: the socket's protocol, and the transport of the inner connection."""

    def __init__(
        self,
        state: ServerState,
        context: ssl.SSLContext,
        inner: asyncio.BufferedProtocol,
        memory: memoryview,
        plain_answer: bytes,
    ) -> None:
        asyncio.Transport.__init__(self)
        self._state = state
        self._inner = inner
        self._memory = memory
        self._plain_answer = plain_answer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._socket: asyncio.Transport = None  # type: ignore[assignment]  # set before any other callback
        self._timer: asyncio.TimerHandle | None = None
        self._begun = False  # the client has sent something
        self._open = False  # the handshake is over
        self._waits = False  # for its turn to process what has been received
        self._reads = True  # the inner connection wants more
        self._choked = False  # the kernel accepts no more for now
        self._unsent: deque[memoryview] = deque()  # not yet encrypted
        self._unsent_bytes = 0
        self._stuck = False  # the inner connection's `pause_writing` has been called
        self._ends = False  # `write_eof` or `close` was called: nothing follows what is unsent
        self._closes = False  # `close` was called: the socket is closed after that
        self._ended = False  # the close_notify alert was sent
        self._heard_end = False  # the client has ended its side
        self._stays = False  # and the inner connection will still answer it

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._socket = transport  # type: ignore[assignment]  # asyncio promises a Transport for streams
        self._timer = self._state.loop.call_later(self._state.limits.head_timeout_s, self.abort)
        self._inner.connection_made(self)

    def connection_lost(self, error: Exception | None) -> None:
        """The client has disconnected."""
        self._stop_timer()
        self._unsent.clear()
        self._unsent_bytes = 0
        self._inner.connection_lost(error)

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer that the next bytes are received into."""
        return self._memory

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` bytes were received."""
        if self._closes or self._ended:  # anything that still arrives is ignored
            return
        data = self._memory[:nbytes]
        if not self._begun:
            self._begun = True
            if data[0] != _HANDSHAKE:
                self._refuse_plain()
                return
        self._incoming.write(data)
        if self._open:
            self._read()
        elif self._state.steps.has_time():
            self._shake_hands()
        elif not self._waits:
            self._waits = True
            self._socket.pause_reading()
            self._state.steps.later(self._take_turn, begun=True)  # a handshake needs more time than a request

    def eof_received(self) -> bool:
        """The client sends nothing more, whether it sent a close_notify alert or not."""
        return self._open and not self._closes and self._hear_end()

    def pause_writing(self) -> None:
        """The client does not read."""
        self._choked = True
        self._tell_stuck()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._choked = False
        self._send()

    # The handshake.

    def _take_turn(self) -> None:
        self._waits = False
        if not self._socket.is_closing():
            self._shake_hands()
            if self._reads:
                self._socket.resume_reading()

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            _log.debug("a TLS handshake failed: %s", error.reason or error)
            self._break_off()
            return
        self._open = True
        self._stop_timer()
        self._send()
        self._read()

    def _refuse_plain(self) -> None:
        """Refuse a client without TLS; one that speaks HTTP gets an answer that says why."""
        if self._plain_answer:
            self._state.context.counts.replies[400] += 1
            self._socket.write(self._plain_answer)
        self._closes = True
        self._socket.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # From the client.

    def _read(self) -> None:
        """Pass received bytes to the inner connection, while it wants them."""
        inner, tls = self._inner, self._tls
        try:
            while self._reads and not self._closes and not self._ended and not self._heard_end:
                buffer = inner.get_buffer(-1)
                count = tls.read(len(buffer), buffer)  # type: ignore[arg-type]  # any writable buffer is accepted
                if not count:
                    self._end_of_client()
                    return
                inner.buffer_updated(int(count))
        except ssl.SSLWantReadError:
            self._flush()  # an answer of TLS itself, such as to a key update
        except ssl.SSLZeroReturnError:
            self._end_of_client()
        except ssl.SSLError as error:
            _log.debug("TLS failed: %s", error.reason or error)
            self._break_off()

    def _read_on(self) -> None:
        self._waits = False
        if self._open and not self._socket.is_closing():
            self._read()

    def _end_of_client(self) -> None:
        if not self._hear_end():
            self.close()

    def _hear_end(self) -> bool:
        """The client sends nothing more; returns whether the inner connection will still answer it."""
        if not self._heard_end:
            self._heard_end = True
            self._stays = bool(self._inner.eof_received())
        return self._stays

    # To the client.

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and not self._socket.is_closing():
            self._socket.write(data)

    def _send(self) -> None:
        """Encrypt what is unsent, while the kernel accepts it."""
        if not self._open:
            return
        unsent, tls = self._unsent, self._tls
        try:
            while unsent and not self._choked:
                while unsent and self._outgoing.pending < _SEND_BYTES:
                    first = unsent[0]
                    count = tls.write(first[:_RECORD_BYTES])
                    self._unsent_bytes -= count
                    if count < len(first):
                        unsent[0] = first[count:]
                    else:
                        unsent.popleft()
                self._flush()
        except ssl.SSLError as error:
            _log.debug("TLS failed: %s", error.reason or error)
            self._break_off()
            return
        self._flush()
        if unsent:
            self._tell_stuck()
        elif self._ends:
            self._finish()
        elif self._stuck and not self._choked:
            self._stuck = False
            self._inner.resume_writing()

    def _tell_stuck(self) -> None:
        if not self._stuck and not self._closes:
            self._stuck = True
            self._inner.pause_writing()

    def _finish(self) -> None:
        """Send a close_notify alert after everything else, and close the socket where that was asked for."""
        if not self._ended:
            self._ended = True
            with suppress(ssl.SSLError):  # the client's own alert is not waited for
                self._tls.unwrap()
            self._flush()
        if self._closes:
            self._socket.close()
        elif not self._socket.is_closing() and self._socket.can_write_eof():
            self._socket.write_eof()

    def _break_off(self) -> None:
        """Close after sending only the alert that OpenSSL has written."""
        self._closes = self._ended = True
        self._unsent.clear()
        self._unsent_bytes = 0
        self._flush()
        self._socket.close()

    # What the inner connection calls.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The information of the socket's transport; `ssl_object` is that of this connection."""
        return self._tls if name == "ssl_object" else self._socket.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """Whether it is closed, or will be closed when everything is sent."""
        return self._closes or self._socket.is_closing()

    def get_write_buffer_size(self) -> int:
        """The number of bytes that the client has not read, with the overhead of TLS where it is known."""
        return self._unsent_bytes + self._socket.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Pass nothing more to the inner connection for now."""
        self._reads = False
        if not self._socket.is_closing():
            self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Go on, with the bytes that have been received first."""
        if not self._reads:
            self._reads = True
            if not self._socket.is_closing():
                self._socket.resume_reading()
            if self._open and not self._waits:
                self._waits = True
                self._state.loop.call_soon(self._read_on)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send data, which must not change any more; during the handshake, it is kept until that is over."""
        self.writelines((data,))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send several parts."""
        if self._ends or self._socket.is_closing():
            return
        for data in list_of_data:
            part = memoryview(data).cast("B")
            if part.nbytes:
                self._unsent.append(part)
                self._unsent_bytes += part.nbytes
        self._send()

    def can_write_eof(self) -> bool:
        """Whether TLS is version 1.3: before, clients treat a close_notify alert as the end of both sides."""
        return True

    def write_eof(self) -> None:
        """Send a close_notify alert after everything else."""
        if not self._ends:
            self._ends = True
            if not self._unsent and self._open:
                self._finish()

    def close(self) -> None:
        """Close when everything is sent."""
        if self._closes:
            return
        self._closes = self._ends = True
        if not self._open:
            self._socket.abort()
        elif not self._unsent:
            self._finish()

    def abort(self) -> None:
        """Close now."""
        self._closes = self._ends = True
        self._socket.abort()

"""A blocking connection to a server, for everything except load; answers are read whole, or as they arrive."""

import socket
from collections.abc import Iterator

from tailcut.errors import UnreachableError
from tailcut.lab.load import LoadTarget
from tailcut.lab.tls import tls_context
from tailcut.wire.http1.answers import AnswerHead, AnswerReader, HttpAnswer


class BlockingConnection:
    """A connection over TCP, TLS or a Unix socket, with one request at a time; the caller must close it.

    Its methods raise OSError where the connection breaks, and UnreachableError, a subclass, where the answer is not
    HTTP/1.

    Args:
        target: the server.
        timeout_s: seconds for connecting, and for each wait for bytes.

    Raises:
        OSError: no server listens there.
        UsageError: the file of trusted certificates cannot be read, or has none.
    """

    def __init__(self, target: LoadTarget, timeout_s: float = 30.0) -> None:
        self._socket = _connected(target, timeout_s)
        self._reader = AnswerReader()
        self._answer: HttpAnswer | None = None

    def send(self, data: bytes) -> None:
        """Send a request, or part of one."""
        self._answer = None
        self._socket.sendall(data)

    def head(self) -> AnswerHead:
        """Receive the head of the answer, perhaps without its body."""
        while True:
            head = self._reader.head if self._answer is None else self._answer.head
            if head is not None:
                return head
            self._receive()

    def answer(self) -> HttpAnswer:
        """Receive the whole answer."""
        while self._answer is None:
            self._receive()
        return self._answer

    def pieces(self, timeout_s: float) -> Iterator[bytes]:
        """Yield the body in pieces as it arrives, if it has no known length, else at once; call `head` first."""
        self._socket.settimeout(timeout_s)
        while self._answer is None:
            yield bytes(self._reader.taken())
            self._receive()
        yield bytes(self._answer.body)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _receive(self) -> None:
        count = self._socket.recv_into(self._reader.target())
        self._answer = self._reader.received(count) if count else self._reader.ended()
        if not count and self._answer is None:
            raise UnreachableError("the server closed the connection before the answer was complete")


def _connected(target: LoadTarget, timeout_s: float) -> socket.socket:
    if not target.uds:
        connection = socket.create_connection((target.host, target.port), timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = tls_context(target)
        return connection if context is None else context.wrap_socket(connection, server_hostname=target.host)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout_s)
    connection.connect(target.uds)
    return connection

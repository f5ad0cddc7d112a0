"""A blocking connection to a server, for everything that is not load: its answers are read whole, or as they come."""

import socket
from collections.abc import Iterator

from tailcut.errors import UnreachableError
from tailcut.lab.load import LoadTarget
from tailcut.lab.tls import tls_context
from tailcut.wire.http1.answers import AnswerHead, AnswerReader, HttpAnswer


class BlockingConnection:
    """A connection over TCP, with TLS, or over a Unix socket, with one request at a time; close it in the end.

    Its methods raise OSError where the connection breaks, and UnreachableError, which is one, where the answer is not
    one of HTTP/1.

    Args:
        target: the server.
        timeout_s: of connecting and of each wait for bytes.

    Raises:
        OSError: nothing listens there.
        UsageError: the file of trusted certificates cannot be read, or has none.
    """

    def __init__(self, target: LoadTarget, timeout_s: float = 30.0) -> None:
        self._socket = _connected(target, timeout_s)
        self._reader = AnswerReader()
        self._answer: HttpAnswer | None = None

    def send(self, data: bytes) -> None:
        """Send a request, or a part of one."""
        self._answer = None
        self._socket.sendall(data)

    def head(self) -> AnswerHead:
        """The head of the answer, once it is there; the body may still be to come."""
        while True:
            head = self._reader.head if self._answer is None else self._answer.head
            if head is not None:
                return head
            self._receive()

    def answer(self) -> HttpAnswer:
        """The whole answer."""
        while self._answer is None:
            self._receive()
        return self._answer

    def pieces(self, timeout_s: float) -> Iterator[bytes]:
        """The body as it comes where it has no known length, else at once; call `head` first."""
        self._socket.settimeout(timeout_s)
        while self._answer is None:
            yield bytes(self._reader.taken())
            self._receive()
        yield bytes(self._answer.body)

    def close(self) -> None:
        """Close it."""
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

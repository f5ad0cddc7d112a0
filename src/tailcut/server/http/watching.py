"""A connection whose answer has no end: the stream of the server's figures, for as long as its client reads them."""

from typing import Protocol

from tailcut.server.broadcast import Broadcast
from tailcut.server.http.writer import AnswerWriter


class Connection(Protocol):
    """The connection, as far as its stream is concerned."""

    paused: bool

    def close(self) -> None:
        """Close after what has been written."""


class Watching:
    """One watcher of a broadcast: what its client does not read in time is left out, and ends it by the write limit."""

    __slots__ = ("_broadcast", "_connection", "_writer")

    def __init__(self, broadcast: Broadcast, writer: AnswerWriter, connection: Connection) -> None:
        self._broadcast = broadcast
        self._writer = writer
        self._connection = connection

    def begin(self, head: bytes) -> None:
        """Join the watchers, and begin the answer.

        Raises:
            QueueFullError: there are too many, or the server is being drained.
        """
        first = self._broadcast.join(self)
        self._writer.begin(head, first)

    def send(self, event: bytes) -> None:
        """Write an event, unless those before it wait for the client to read."""
        if not self._connection.paused:
            self._writer.go_on(event)

    def end(self, event: bytes) -> None:
        """Write the last event and close; at once where the client does not read."""
        if self._connection.paused:
            self._writer.transport.abort()
            return
        self._writer.go_on(event)
        self._connection.close()

    def leave(self) -> None:
        """The client left."""
        self._broadcast.leave(self)

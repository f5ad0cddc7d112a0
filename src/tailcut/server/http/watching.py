"""A connection whose answer has no end: the stream of the server's figures, for as long as its client reads them."""

from typing import Protocol

from tailcut.server.broadcast import Broadcast
from tailcut.server.http.writer import AnswerWriter


class StreamConnection(Protocol):
    """The connection, as far as its stream is concerned."""

    paused: bool

    def close(self) -> None:
        """Close after what has been written."""


class Watching:
    """One watcher of a broadcast, which ends by the write limit where its client does not read.

    Views that it does not read in time are left out. Other events wait, the last one of each kind: none follows that
    says the same.
    """

    __slots__ = ("_broadcast", "_connection", "_waiting", "_writer")

    def __init__(self, broadcast: Broadcast, writer: AnswerWriter, connection: StreamConnection) -> None:
        self._broadcast = broadcast
        self._writer = writer
        self._connection = connection
        self._waiting: dict[str, bytes] = {}  # events by their kinds

    def begin(self, head: bytes) -> None:
        """Join the watchers, and begin the answer.

        Raises:
            QueueFullError: there are too many, or the server is being drained.
        """
        first = self._broadcast.join(self)
        self._writer.begin(head, first)

    def show(self, view: bytes) -> None:
        """Write a view, unless events before it wait for the client to read."""
        if not self._connection.paused:
            self._writer.go_on(view)

    def tell(self, kind: str, event: bytes) -> None:
        """Write another event; later, where events before it wait for the client to read."""
        if self._connection.paused:
            self._waiting[kind] = event
        else:
            self._writer.go_on(event)

    def resume(self) -> None:
        """The client reads again."""
        while self._waiting and not self._connection.paused:
            self._writer.go_on(self._waiting.pop(next(iter(self._waiting))))

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

"""Endless answers: the stream of the server's figures, for as long as the client reads them."""

from typing import Protocol

from tailcut.server.broadcast import Broadcast
from tailcut.server.http.writer import AnswerWriter


class StreamConnection(Protocol):
    """What the stream needs of its connection."""

    paused: bool

    def close(self) -> None:
        """Close after what has been written."""


class Watching:
    """One watcher of a broadcast. Where its client does not read, the limit for writing ends the connection.

    Views are skipped while the client has not read the last event. Of other events, which are not repeated, the last
    one of each kind waits.
    """

    __slots__ = ("_broadcast", "_connection", "_waiting", "_writer")

    def __init__(self, broadcast: Broadcast, writer: AnswerWriter, connection: StreamConnection) -> None:
        self._broadcast = broadcast
        self._writer = writer
        self._connection = connection
        self._waiting: dict[str, bytes] = {}  # events by kind

    def begin(self, head: bytes) -> None:
        """Join the watchers, and begin the answer.

        Raises:
            QueueFullError: there are too many watchers, or the server is draining.
        """
        first = self._broadcast.join(self)
        self._writer.begin(head, first)

    def show(self, view: bytes) -> None:
        """Write a view, unless the client has not read earlier events."""
        if not self._connection.paused:
            self._writer.go_on(view)

    def tell(self, kind: str, event: bytes) -> None:
        """Write another event; later, where the client has not read earlier ones."""
        if self._connection.paused:
            self._waiting[kind] = event
        else:
            self._writer.go_on(event)

    def resume(self) -> None:
        """Write the waiting events, because the client reads again."""
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
        """The client has disconnected."""
        self._broadcast.leave(self)

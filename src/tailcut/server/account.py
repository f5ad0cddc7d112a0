"""The memory of one connection: bodies and messages that are arriving, and answers that its client has not read."""

from tailcut.errors import QueueFullError
from tailcut.server.limits import ServerLimits
from tailcut.server.metrics import ServerCounts


class Account:
    """One connection's share of `counts.buffered_bytes`, whose limit applies to all connections together."""

    __slots__ = ("_counts", "_limits", "_unread", "charged")

    def __init__(self, counts: ServerCounts, limits: ServerLimits) -> None:
        self._counts = counts
        self._limits = limits
        self.charged = 0  # for bodies, or for the messages of all its calls
        self._unread = 0  # of answers

    def has_room(self, size: int = 0) -> bool:
        """Whether `size` more bytes are within the limit; where they are not, the refusal is counted."""
        if self._counts.buffered_bytes + size <= self._limits.buffered_bytes:
            return True
        self._counts.bodies_refused += 1
        return False

    def charge(self, size: int) -> None:
        """Charge `size` bytes of a body."""
        self.charged += size
        self._counts.buffered_bytes += size

    def charge_more(self, size: int) -> None:
        """Charge `size` bytes that have been inflated.

        Raises:
            QueueFullError: all connections together hold as much as they may.
        """
        if not self.has_room(size):
            raise QueueFullError("too many request bodies are being received")
        self.charge(size)

    def release(self) -> None:
        """Give back what was charged: no body is held any more."""
        self._counts.buffered_bytes -= self.charged
        self.charged = 0

    def hold_unread(self, size: int) -> None:
        """Note that `size` bytes of answers wait for the client to read."""
        self._counts.buffered_bytes += size - self._unread
        self._unread = size

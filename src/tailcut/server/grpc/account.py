"""What one connection holds in memory: messages that arrive, and answers that its client has not made room for."""

from typing import Protocol

from tailcut.server.limits import ServerLimits
from tailcut.server.metrics import ServerCounts
from tailcut.wire.grpc.framing import CallError, Status


class Charged(Protocol):
    """A call."""

    charged: int  # bytes of the server's buffers that are this call's


class Account:
    """One connection's part of `counts.buffered_bytes`, which all connections together may fill up to the limit."""

    __slots__ = ("_counts", "_limits", "_unread")

    def __init__(self, counts: ServerCounts, limits: ServerLimits) -> None:
        self._counts = counts
        self._limits = limits
        self._unread = 0  # bytes of answers

    def charge(self, call: Charged, size: int) -> None:
        """A call keeps so many bytes in buffers now.

        Raises:
            CallError: all connections together hold as much as they may.
        """
        more = size - call.charged
        if not more:
            return
        counts = self._counts
        if more > 0 and counts.buffered_bytes + more > self._limits.buffered_bytes:
            counts.bodies_refused += 1
            raise CallError(Status.UNAVAILABLE, "too many messages are being received")
        counts.buffered_bytes += more
        call.charged = size

    def hold_unread(self, size: int) -> None:
        """So many bytes of answers wait for the client to open its windows."""
        self._counts.buffered_bytes += size - self._unread
        self._unread = size

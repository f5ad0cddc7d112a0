"""Which connections take the fast path, each with a row of the table `state` (`kernels/socket_tables.py`).

A row is found by the connection's descriptor, which the kernel reuses for another connection as soon as it is free. So
each stay on the fast path has a generation, which is never used twice: an answer never goes to another connection.
"""

import asyncio
from typing import NamedTuple, Protocol

import numpy as np

from tailcut.errors import TailcutError
from tailcut.kernels.socket_tables import GENERATION, HEAD_MOST, HELD, OWN_HEAD, PENDING, PLAN, SEEN, STATES
from tailcut.wire.v2 import Response

_FILES = 1024  # descriptors for which the tables have room at first


class FastConnection(Protocol):
    """What the fast path needs of a connection."""

    transport: asyncio.Transport
    fd: int  # of its socket while it is on the fast path, else -1

    def returned(self, owed: int | None, head: bytes) -> None:
        """It has left the fast path. `owed` identifies a pending answer (for `FastPath.forget`); `head` is its last."""

    def buffer_updated(self, nbytes: int) -> None:
        """The shared receive buffer has `nbytes` bytes from its socket."""

    def take_up(self, data: bytes) -> None:
        """Go on with a message whose beginning, `data`, was received on the fast path."""

    def answer_owed(self, answer: Response) -> None:
        """Send the answer that it was waiting for when it left."""

    def failed(self, error: TailcutError) -> None:
        """Send an error instead of that answer."""


class Left(NamedTuple):
    """The state of a connection when it left the fast path."""

    owed: int | None  # its generation, where an answer is pending
    plan: int
    head: bytes  # its last one, where that is not the plan's own
    held: bytes  # the beginning of a message that is not complete


class FastConnections:
    """The connections on the fast path, by their descriptors, and those that left it with an answer pending."""

    def __init__(self) -> None:
        self.state = np.zeros((_FILES, STATES), np.int64)
        self.own_heads = np.zeros((_FILES, HEAD_MOST), np.uint8)
        self.here: dict[int, FastConnection] = {}
        self.late: dict[int, FastConnection] = {}  # by generation
        self._generation = 0

    def add(self, connection: FastConnection, fd: int, plan: int, own_head: bytes, now_ns: int) -> int:
        """Add a connection together with a request that it has just sent; returns its generation.

        Args:
            connection: not on the fast path yet.
            fd: descriptor of its socket.
            plan: number of the plan of its head.
            own_head: its head, where it differs from the plan's own; else empty.
            now_ns: when the request was received (monotonic).
        """
        while fd >= len(self.state):
            self.state = np.concatenate([self.state, np.zeros_like(self.state)])
            self.own_heads = np.concatenate([self.own_heads, np.zeros_like(self.own_heads)])
        self._generation += 1
        self.own_heads[fd, : len(own_head)] = np.frombuffer(own_head, np.uint8)
        self.state[fd] = self._generation, plan, 1, now_ns, len(own_head), 0
        connection.fd = fd
        self.here[fd] = connection
        return self._generation

    def remove(self, connection: FastConnection) -> Left:
        """Remove a connection; where an answer is pending, it is kept in `late`."""
        fd = connection.fd
        connection.fd = -1
        del self.here[fd]
        generation, plan, pending, _, own_head, held = self.state[fd].tolist()
        if pending:
            self.late[generation] = connection
        head, begun = self.own_heads[fd, :own_head].tobytes(), self.own_heads[fd, :held].tobytes()
        self.state[fd] = 0, -1, 0, 0, 0, 0
        return Left(generation if pending else None, plan, head, begun)

    def last_head(self, fd: int) -> tuple[int, bytes]:
        """The number of a connection's plan, and its last head where it differs from the plan's own."""
        plan, own_head = self.state[fd, [PLAN, OWN_HEAD]].tolist()
        return plan, self.own_heads[fd, :own_head].tobytes()

    def is_here(self, fd: int, generation: int) -> bool:
        """Whether a descriptor still belongs to the connection of that generation."""
        return bool(self.state[fd, GENERATION] == generation)

    def is_waiting(self, fd: int, generation: int) -> bool:
        """Whether a connection still wants its answer, on the fast path or after leaving it."""
        return self.is_here(fd, generation) or generation in self.late

    def busy(self, fd: int) -> bool:
        """Whether a connection here waits for an answer, or for the rest of its message."""
        return bool(self.state[fd, PENDING] or self.state[fd, HELD])

    def seen(self, fd: int) -> float:
        """When a connection last received or was sent something, in seconds of the loop's clock."""
        return float(self.state[fd, SEEN]) / 1e9

    def answered_elsewhere(self, fd: int) -> None:
        """The answer to a connection is left to its transport, so that it is no longer pending here."""
        self.state[fd, PENDING] = 0

    def held_since(self, before_s: float) -> list[FastConnection]:
        """The connections whose incomplete message began before `before_s`, in seconds of the loop's clock."""
        late = (self.state[:, HELD] > 0) & (self.state[:, SEEN] < before_s * 1e9)
        return [self.here[fd] for fd in np.flatnonzero(late).tolist()]

"""Which connections take the fast path, and the row of `state` (`kernels/socket_tables.py`) that each of them has.

A row is found by the connection's descriptor, and the kernel gives that to another connection as soon as it is free. So
each stay here has a generation, which is never used twice: what is on its way to one is never given to the next.
"""

import asyncio
from typing import NamedTuple, Protocol

import numpy as np

from tailcut.errors import TailcutError
from tailcut.kernels.socket_tables import GENERATION, HEAD_MOST, HELD, OWN_HEAD, PENDING, PLAN, SEEN, STATES
from tailcut.wire.v2 import Response

_FILES = 1024  # descriptors that the tables begin with


class FastConnection(Protocol):
    """A connection, as far as this way is concerned."""

    transport: asyncio.Transport
    fd: int  # of its socket while it is here, else -1

    def returned(self, owed: int | None, head: bytes) -> None:
        """It is here no more; `owed` names the answer that is on its way, for `FastPath.forget`; `head` is its last."""

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes of it are in the shared receive buffer."""

    def take_up(self, data: bytes) -> None:
        """It has sent this, the beginning of a message."""

    def answer_owed(self, answer: Response) -> None:
        """The answer that it was waiting for when it returned."""

    def failed(self, error: TailcutError) -> None:
        """There will be none."""


class Left(NamedTuple):
    """What was known of a connection when it left."""

    owed: int | None  # its generation, where its answer is on its way
    plan: int
    head: bytes  # its last one, where that is not the plan's own
    held: bytes  # the beginning of a message


class FastConnections:
    """The connections that are here, by their descriptors, and those that left with an answer on its way."""

    def __init__(self) -> None:
        self.state = np.zeros((_FILES, STATES), np.int64)
        self.own_heads = np.zeros((_FILES, HEAD_MOST), np.uint8)
        self.here: dict[int, FastConnection] = {}
        self.late: dict[int, FastConnection] = {}  # by generation
        self._generation = 0

    def add(self, connection: FastConnection, fd: int, plan: int, own_head: bytes, now_ns: int) -> int:
        """A connection comes with a request that it has just sent; returns its generation.

        Args:
            connection: not here yet.
            fd: of its socket.
            plan: number of its head's.
            own_head: its head, where that is not the plan's own.
            now_ns: when it was heard.
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
        """A connection leaves; where an answer is on its way to it, it is among the late ones."""
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
        """A connection's plan, and its last head where that is not the plan's own."""
        plan, own_head = self.state[fd, [PLAN, OWN_HEAD]].tolist()
        return plan, self.own_heads[fd, :own_head].tobytes()

    def is_here(self, fd: int, generation: int) -> bool:
        """Whether a descriptor is that generation's still."""
        return bool(self.state[fd, GENERATION] == generation)

    def is_waiting(self, fd: int, generation: int) -> bool:
        """Whether a client has not left; of one that has, its connection has said so."""
        return self.is_here(fd, generation) or generation in self.late

    def busy(self, fd: int) -> bool:
        """Whether a connection here waits for an answer, or for the rest of its message."""
        return bool(self.state[fd, PENDING] or self.state[fd, HELD])

    def seen(self, fd: int) -> float:
        """When a connection here was last heard or answered, in the loop's seconds."""
        return float(self.state[fd, SEEN]) / 1e9

    def answered_elsewhere(self, fd: int) -> None:
        """The answer to a connection here is its transport's to send, not on its way here any more."""
        self.state[fd, PENDING] = 0

    def held_since(self, before_s: float) -> list[FastConnection]:
        """Those whose message was begun before that, in the loop's seconds, and is not whole."""
        late = (self.state[:, HELD] > 0) & (self.state[:, SEEN] < before_s * 1e9)
        return [self.here[fd] for fd in np.flatnonzero(late).tolist()]

"""Accepts from a listener that several processes share, so that each gets its share of the connections.

The kernel wakes every process that watches the listener, and the first takes all that wait: with libuv, or any loop
that accepts whenever it can, nearly all of 128 simultaneous connections go to one of two processes
(docs/decisions/011). Here a process accepts no more than its share of all connections, including those that wait, and
takes these in one pass, because a loop that computes batches rarely checks its listener. A process that has its share
waits for a millisecond at a time. The number of these waits is limited, so that a process which hangs with the fewest
connections does not stop the others.
"""

import asyncio
import socket
import struct
from collections.abc import Callable

from tailcut import forks
from tailcut.server.listener import AT_ONCE, REST_S, Backoff, exhausted
from tailcut.server.state import ServerState
from tailcut.server.workers.scoreboard import Scoreboard

_GIVE_WAY_S = 0.001
_GIVE_WAY_TIMES = 5
_BACKLOG = struct.Struct("=24xI")  # of a listener's tcp_info: tcpi_unacked, which counts those that wait


class FairAcceptor:
    """Accepts from one shared listener for the worker at one place on the scoreboard."""

    def __init__(
        self,
        state: ServerState,
        listener: socket.socket,
        scoreboard: Scoreboard,
        index: int,
        protocol: Callable[[], asyncio.BaseProtocol],
    ) -> None:
        self._protocol = protocol
        self._loop = state.loop
        self._listener = listener
        self._scoreboard = scoreboard
        self._index = index
        self._gave_way = 0
        self._open = True
        self._backoff = Backoff(state)
        self._tasks: set[asyncio.Task[object]] = set()
        listener.setblocking(False)
        forks.watch(self)
        self._watch()

    def refuse(self) -> None:
        """Do nothing: the supervisor owns the listener, and decides when new connections are refused."""

    def close(self) -> None:
        """Stop accepting; accepted connections stay open, and other processes keep the listener."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def forked(self) -> None:
        """In a forked child, close the copy of the socket: it would hold the port after the server has ended."""
        if self._open:
            socket.close(self._listener.detach())  # close() would wait for the loop, which watches the object

    def _watch(self) -> None:
        if self._open:
            self._loop.add_reader(self._listener, self._accept)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._loop.call_later(seconds, self._watch)

    def _accept(self) -> None:
        count = min(self._share(), AT_ONCE)
        if count <= 0 and self._gave_way < _GIVE_WAY_TIMES:
            self._gave_way += 1
            self._pause(_GIVE_WAY_S)
            return
        self._gave_way = 0
        for _ in range(max(count, 1)):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):  # another process was faster
                return
            except ConnectionError:  # the client left
                continue
            except OSError as error:
                if not exhausted(error):
                    raise
                self._backoff.begin(error)  # other processes may accept meanwhile
                self._pause(REST_S)
                return
            self._backoff.end()
            self._take(connection)

    def _share(self) -> int:
        """How many of the waiting connections this process should accept; 0 or less if it has its share."""
        counts = self._scoreboard.accepting()
        fair = -(-(sum(counts) + waiting(self._listener)) // max(len(counts), 1))
        return fair - self._scoreboard.connections(self._index)

    def _take(self, connection: socket.socket) -> None:
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The protocol counts the connection when the loop has set it up; until then, this count holds.
        self._scoreboard.hold(self._index, self._scoreboard.connections(self._index) + 1)
        task: asyncio.Task[object] = self._loop.create_task(self._begin(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:  # the client left meanwhile
            connection.close()


def waiting(listener: socket.socket) -> int:
    """How many connections wait to be accepted; 1 where the kernel does not say, as for a Unix socket."""
    try:
        information = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BACKLOG.size)
    except OSError:
        return 1
    return max(int(_BACKLOG.unpack(information)[0]), 1)

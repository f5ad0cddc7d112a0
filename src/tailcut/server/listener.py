"""Accepts connections, and pauses while the process can open no more files.

The loop's own server is not used: when no descriptor is left, libuv accepts and at once closes every waiting
connection, and the clients see a reset. A listener that pauses leaves them in the kernel's backlog, and they are served
a moment later.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

from tailcut import forks
from tailcut.server.sockets import Listener
from tailcut.server.state import ServerState

_log = logging.getLogger("tailcut")
AT_ONCE = 64  # accepted in one pass of the loop at most, so that many new connections do not hold up the others
REST_S = 0.1
_IDLE_S = 1.0  # how long a connection must have been idle before it is closed to make room
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def exhausted(error: OSError) -> bool:
    """Whether accepting failed because no descriptors or memory are left."""
    return error.errno in _EXHAUSTED


class Backoff:
    """Handles pauses in accepting: each closes the connection that has been idle longest; the first is logged."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._count = 0

    def begin(self, error: OSError) -> None:
        """Note a pause, which `error` caused."""
        if not self._count:
            _log.warning("accepting connections is paused: %s", error.strerror)
        self._count += 1
        self._state.make_room(idle_s=_IDLE_S)

    def end(self) -> None:
        """Note that a connection was accepted."""
        if self._count:
            _log.warning("accepting connections again after %d pauses", self._count)
            self._count = 0


class Acceptor:
    """Accepts the connections of one listening socket, which it owns."""

    def __init__(self, state: ServerState, listener: Listener, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        listener.sock.setblocking(False)
        self._state = state
        self._protocol = protocol
        self._listener = listener
        self._opening: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._backoff = Backoff(state)
        forks.watch(self)
        state.loop.add_reader(listener.sock.fileno(), self._accept, AT_ONCE)

    def forked(self) -> None:
        """In a forked child, close the copy of the socket: it would hold the port after the server has ended."""
        self._listener.sock.close()

    def refuse(self) -> None:
        """Refuse new connections."""
        self._listener.refuse()

    def close(self) -> None:
        """Accept the connections that already wait, then stop listening."""
        if self._timer is None:
            self._accept(1 << 16)
        if self._timer is not None:
            self._timer.cancel()
        else:
            self._state.loop.remove_reader(self._listener.sock.fileno())
        self._listener.close()

    def _accept(self, count: int) -> None:
        for _ in range(count):
            try:
                client, _ = self._listener.sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # that client left before it was accepted
                continue
            except OSError as error:
                if not exhausted(error):
                    raise
                self._rest(error)
                return
            self._backoff.end()
            task = self._state.loop.create_task(self._open(client))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, client: socket.socket) -> None:
        try:
            client.setblocking(False)
            if not self._listener.is_unix:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._state.loop.connect_accepted_socket(self._protocol, client)
        except OSError:  # the client left meanwhile
            client.close()

    def _rest(self, error: OSError) -> None:
        """Pause, because nothing can be opened now: new connections wait in the backlog."""
        self._backoff.begin(error)
        loop = self._state.loop
        loop.remove_reader(self._listener.sock.fileno())
        self._timer = loop.call_later(REST_S, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._state.loop.add_reader(self._listener.sock.fileno(), self._accept, AT_ONCE)

"""Accepting connections: a listener that the loop reads, and that pauses while the process can open no more files.

Ours rather than the loop's own server: when no file is left, libuv accepts and closes at once every connection that
waits, and the clients see a reset. A listener that pauses leaves them in the kernel's backlog, and they are served a
moment later.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

from tailcut.server.sockets import Listener
from tailcut.server.state import ServerState

_log = logging.getLogger("tailcut")
AT_ONCE = 64  # accepted in one pass of the loop, so that a flood of newcomers does not hold up those that are served
REST_S = 0.1
_IDLE_S = 1.0  # idle at least, before a connection makes room
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def exhausted(error: OSError) -> bool:
    """Whether an accept failed for want of files or memory."""
    return error.errno in _EXHAUSTED


class Backoff:
    """What a door does while nothing can be opened: the one idle longest makes room, and it is said once."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._count = 0

    def begin(self, error: OSError) -> None:
        """Accepting pauses for a moment."""
        if not self._count:
            _log.warning("accepting connections is paused: %s", error.strerror)
        self._count += 1
        self._state.make_room(idle_s=_IDLE_S)

    def end(self) -> None:
        """Something was accepted."""
        if self._count:
            _log.warning("accepting connections again after %d pauses", self._count)
            self._count = 0


class Acceptor:
    """One listening socket, owned from here on, and the connections that come out of it."""

    def __init__(self, state: ServerState, listener: Listener, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        listener.sock.setblocking(False)
        self._state = state
        self._protocol = protocol
        self._listener = listener
        self._opening: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._backoff = Backoff(state)
        state.loop.add_reader(listener.sock.fileno(), self._accept, AT_ONCE)

    def refuse(self) -> None:
        """Refuse new connections."""
        self._listener.refuse()

    def close(self) -> None:
        """Accept the connections that already wait, then listen no more."""
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
            except ConnectionError:  # that one left before it was accepted
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
        except OSError:  # it left meanwhile
            client.close()

    def _rest(self, error: OSError) -> None:
        """Nothing can be opened now: newcomers wait in the backlog."""
        self._backoff.begin(error)
        loop = self._state.loop
        loop.remove_reader(self._listener.sock.fileno())
        self._timer = loop.call_later(REST_S, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._state.loop.add_reader(self._listener.sock.fileno(), self._accept, AT_ONCE)

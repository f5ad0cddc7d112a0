"""Accepting connections: a listener that the loop reads, and that rests while the process can open no more files.

Ours rather than the loop's own server: when no file is left, libuv accepts and closes at once everybody who waits,
and they see a reset. A listener that rests leaves them in the kernel's backlog, and they are served a moment later.
"""

import asyncio
import ctypes
import errno
import logging
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tailcut.server.http.connection import HttpConnection
from tailcut.server.state import ServerState

_log = logging.getLogger("tailcut")
_AT_ONCE = 64  # accepted in one pass of the loop, so that a flood of newcomers does not hold up those who are served
REST_S = 0.1
_IDLE_S = 1.0  # idle at least, before a connection makes room
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
# socket(7), SO_ATTACH_FILTER, on a TCP header: drop what has SYN and not ACK, take the rest. Code, jumps, constant.
_NO_SYN = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def refuse(listener: socket.socket) -> None:
    """Let nobody begin to connect any more; whose connection has begun still gets in.

    A listener that is closed resets every connection made since the last accept, with a request already sent perhaps.
    Between this and the close everybody can be taken in: who comes later is refused as if the listener were gone.
    """
    if listener.family == socket.AF_UNIX:
        with suppress(OSError):
            Path(listener.getsockname()).unlink()
    elif sys.platform.startswith("linux"):
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
        with suppress(OSError):  # forbidden here: then the last moment's newcomers are reset, as anywhere else
            listener.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_NO_SYN), ctypes.addressof(program))
            )


def exhausted(error: OSError) -> bool:
    """Whether an accept failed for want of files or memory."""
    return error.errno in _EXHAUSTED


class Backoff:
    """What a door does while nothing can be opened: the one idle longest makes room, and it is said once."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._count = 0

    def begin(self, error: OSError) -> None:
        """The door rests for a moment."""
        if not self._count:
            _log.warning("not accepting for now: %s", error.strerror)
        self._count += 1
        self._state.make_room(idle_s=_IDLE_S)

    def end(self) -> None:
        """Something was accepted."""
        if self._count:
            _log.warning("accepting again after %d rests", self._count)
            self._count = 0


class Acceptor:
    """One listening socket, owned from here on, and the connections that come out of it."""

    def __init__(
        self, state: ServerState, listener: socket.socket, protocol: Callable[[], asyncio.BaseProtocol] | None = None
    ) -> None:
        listener.setblocking(False)
        self._state = state
        self._protocol = protocol or (lambda: HttpConnection(state))
        self._listener = listener
        self._tcp = listener.family != socket.AF_UNIX
        self._opening: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._backoff = Backoff(state)
        state.loop.add_reader(listener.fileno(), self._accept, _AT_ONCE)

    @property
    def port(self) -> int:
        """The TCP port that is listened on."""
        return int(self._listener.getsockname()[1])

    def refuse(self) -> None:
        """Let nobody begin to connect any more."""
        refuse(self._listener)

    def close(self) -> None:
        """Accept the connections that already wait, then listen no more."""
        if self._timer is None:
            self._accept(1 << 16)
        if self._timer is not None:
            self._timer.cancel()
        else:
            self._state.loop.remove_reader(self._listener.fileno())
        self._listener.close()

    def _accept(self, count: int) -> None:
        for _ in range(count):
            try:
                client, _ = self._listener.accept()
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
            if self._tcp:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._state.loop.connect_accepted_socket(self._protocol, client)
        except OSError:  # it left meanwhile
            client.close()

    def _rest(self, error: OSError) -> None:
        """Nothing can be opened now: newcomers wait in the backlog."""
        self._backoff.begin(error)
        loop = self._state.loop
        loop.remove_reader(self._listener.fileno())
        self._timer = loop.call_later(REST_S, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._state.loop.add_reader(self._listener.fileno(), self._accept, _AT_ONCE)

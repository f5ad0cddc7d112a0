"""Accepting connections: a listener that the loop reads, and that rests while the process can open no more files.

Ours rather than the loop's own server: when no file is left, libuv accepts and closes at once every connection that
waits, and the clients see a reset. A listener that rests leaves them in the kernel's backlog, and they are served a
moment later.
"""

import asyncio
import ctypes
import errno
import ipaddress
import logging
import resource
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tailcut.errors import UsageError
from tailcut.server.limits import ServerLimits
from tailcut.server.state import ServerState

_log = logging.getLogger("tailcut")
_AT_ONCE = 64  # accepted in one pass of the loop, so that a flood of newcomers does not hold up those that are served
REST_S = 0.1
_IDLE_S = 1.0  # idle at least, before a connection makes room
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
# socket(7), SO_ATTACH_FILTER, on a TCP header: drop what has SYN and not ACK, take the rest. Code, jumps, constant.
_NO_SYN = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_BACKLOG = 4096
_OTHER_FILES = 64  # listeners, the loop's own, models, and those that are opened for a moment


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host and port (0: any free one), and a Unix socket and a gRPC port where asked for."""

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    grpc_port: int | None = None
    tls: bool = False  # on both ports; the Unix socket is plain


def open_listeners(address: Address) -> list[socket.socket]:
    """Listen on the address: TCP first, then the Unix socket where there is one.

    Raises:
        UsageError: it cannot be had.
    """
    listeners = [_listen(address.host, address.port, "")]
    if address.uds:
        unix = socket.socket(socket.AF_UNIX)
        try:
            _remove_stale(address.uds)
            unix.bind(address.uds)
            unix.listen(_BACKLOG)
        except OSError as error:
            raise UsageError(f"cannot listen on {address.uds}: {error.strerror or error}") from None
        listeners.append(unix)
    return listeners


def open_grpc_listener(address: Address) -> socket.socket:
    """Listen for gRPC.

    Raises:
        UsageError: its port cannot be had.
    """
    return _listen(address.host, address.grpc_port or 0, " for gRPC")


def _listen(host: str, port: int, what: str) -> socket.socket:
    family = _family(host)
    try:
        return socket.create_server((host, port), backlog=_BACKLOG, family=family, dualstack_ipv6=both_families(host))
    except OverflowError:
        reason = "the port must be 0 to 65535"
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # the standard library repeats the address there
        if error.errno == errno.EADDRINUSE:
            reason += "; port 0 takes one that is free"
    raise UsageError(f"cannot listen{what} on {authority(host, port)}: {reason}")


def authority(host: str, port: int) -> str:
    """Host and port as an address has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def both_families(host: str) -> bool:
    """Whether listening on this address takes clients over IPv4 as well as over IPv6."""
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        return address.version == 6 and address.is_unspecified and socket.has_dualstack_ipv6()
    return False


def close_listeners(address: Address) -> None:
    """Remove what listening left in the file system."""
    if address.uds:
        Path(address.uds).unlink(missing_ok=True)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _remove_stale(path: str) -> None:
    """Remove a socket that no process listens on any more; a living one stays, and listening will fail on it."""
    with suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as probe:
        if not Path(path).is_socket():
            return
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()


def fit_files(limits: ServerLimits) -> ServerLimits:
    """Raise the limit of open files as far as may be; where that is still too few, fewer connections are taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY or limits.connections + _OTHER_FILES <= soft:
        return limits
    connections = max(1, soft - _OTHER_FILES)
    _log.warning("the open-file limit of %d leaves room for %d connections: see ulimit -n", soft, connections)
    return replace(limits, connections=connections)


def refuse(listener: socket.socket) -> None:
    """Refuse new connections; one whose handshake has begun is still accepted.

    A listener that is closed resets every connection made since the last accept, with a request already sent perhaps.
    Between this and the close all of them can be accepted; later ones are refused as if the listener were gone.
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
        """Accepting pauses for a moment."""
        if not self._count:
            _log.warning("not accepting for now: %s", error.strerror)
        self._count += 1
        self._state.make_room(idle_s=_IDLE_S)

    def end(self) -> None:
        """Something was accepted."""
        if self._count:
            _log.warning("accepting again after %d pauses", self._count)
            self._count = 0


class Acceptor:
    """One listening socket, owned from here on, and the connections that come out of it."""

    def __init__(
        self, state: ServerState, listener: socket.socket, protocol: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        listener.setblocking(False)
        self._state = state
        self._protocol = protocol
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
        """Refuse new connections."""
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

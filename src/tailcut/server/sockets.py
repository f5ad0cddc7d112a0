"""The sockets that a server listens on: opened, shared with a successor, and closed without losing a connection.

With `reuse_port`, two servers listen on one address. The kernel keeps a list of their sockets, in the order in which
they began to listen, and gives each new connection to one of them by a hash (socket(7), SO_REUSEPORT). A program of one
instruction, which any member may set (SO_ATTACH_REUSEPORT_CBPF), returns the index in that list instead: 0 is the older
server, 1 the newer one; where the list has no such index, the hash decides.
"""

import ctypes
import errno
import ipaddress
import logging
import os
import resource
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tailcut.errors import UsageError
from tailcut.machine.open_files import open_files, raise_open_files
from tailcut.machine.waiting import watched_threads
from tailcut.server.limits import ServerLimits

_log = logging.getLogger("tailcut")
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_SO_ATTACH_REUSEPORT_CBPF = 51
# socket(7), SO_ATTACH_FILTER, on a TCP header: drop packets with SYN and without ACK. Code, jumps, constant.
_NO_SYN = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
_OLDER, _NEWER = 0, 1  # indices in the kernel's list
_BACKLOG = 4096
_MORE_FILES = 32  # descriptors for listeners, for the loop itself, and for files that are opened briefly


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen: a host and port (0: any free one), and a Unix socket and a gRPC port where asked for."""

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    grpc_port: int | None = None
    tls: bool = False  # on both ports; the Unix socket is plain
    reuse_port: bool = False  # share the ports and the Unix socket with another server


class Listener:
    """A listening socket; for a Unix socket also its file, which a successor may have replaced by its own."""

    def __init__(self, sock: socket.socket, path: str = "", *, hidden: str = "", shared: bool = False) -> None:
        """`hidden` is the path of a Unix socket's file until `take_over`; `shared`: the socket has SO_REUSEPORT."""
        self.sock = sock
        self._path = path
        self._hidden = hidden
        self._shared = shared
        self._inode = os.stat(hidden or path).st_ino if path else 0  # noqa: PTH116  a plain number is wanted
        if shared:
            self._steer(_OLDER)

    @property
    def is_unix(self) -> bool:
        """Whether it is a Unix socket."""
        return bool(self._path)

    def take_over(self) -> None:
        """Get all new connections from now on, instead of the server that had the address before."""
        if self._shared:
            self._steer(_NEWER)
        if self._hidden:
            Path(self._hidden).rename(self._path)
            self._hidden = ""

    def refuse(self) -> None:
        """Refuse new connections; one whose handshake has begun is still accepted.

        Closing a listener resets every connection that has not been accepted, even if it has already sent a request.
        Between this call and `close`, all of them can be accepted; later ones are refused as if the listener were gone.
        Connections that the kernel gives to another server on the same port are not affected.
        """
        self.remove_file()
        if not self.is_unix and sys.platform.startswith("linux"):
            program = b"".join(struct.pack("HBBI", *step) for step in _NO_SYN)
            _set_program(self.sock, _SO_ATTACH_FILTER, program, len(_NO_SYN))

    def remove_file(self) -> None:
        """Remove the file of a Unix socket, unless another server's has taken its place."""
        if self._path:
            with suppress(OSError):
                path = Path(self._hidden or self._path)
                if path.stat().st_ino == self._inode:
                    path.unlink()

    def close(self) -> None:
        """Stop listening, and remove the file of a Unix socket."""
        self.remove_file()
        self.sock.close()

    def _steer(self, index: int) -> None:
        """Have the kernel give new connections of this port to the server with that index in its list."""
        if sys.platform.startswith("linux"):
            _set_program(self.sock, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("HBBI", 0x06, 0, 0, index), 1)


def open_listeners(address: ListenAddress) -> list[Listener]:
    """Listen on an address; returns the listeners for TCP, the Unix socket and gRPC, in this order, where wanted.

    With `reuse_port`, a server that already has the address gets the new connections until `take_over`.

    Raises:
        UsageError: the address cannot be used.
    """
    listeners = [_listen(address, address.port, "")]
    try:
        if address.uds:
            listeners.append(_listen_unix(address.uds, shared=address.reuse_port))
        if address.grpc_port is not None:
            listeners.append(_listen(address, address.grpc_port, " for gRPC"))
    except UsageError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def take_over(listeners: Sequence[Listener]) -> None:
    """Get all new connections from now on."""
    for listener in listeners:
        listener.take_over()


def port_of(listener: Listener) -> int:
    """The TCP port of a listener."""
    return int(listener.sock.getsockname()[1])


def bound(address: ListenAddress, listeners: Sequence[Listener]) -> ListenAddress:
    """The address with the ports that the kernel chose in place of 0."""
    grpc_port = None if address.grpc_port is None else port_of(listeners[-1])
    return replace(address, port=port_of(listeners[0]), grpc_port=grpc_port)


def _listen(address: ListenAddress, port: int, what: str) -> Listener:
    host, shared = address.host, address.reuse_port
    if shared and port and _is_taken(host, port):
        _log.info(
            "another server also listens on %s: new connections come here once this server is ready",
            authority(host, port),
        )
    try:
        sock = socket.create_server(
            (host, port),
            backlog=_BACKLOG,
            family=_family(host),
            dualstack_ipv6=both_families(host),
            reuse_port=shared,
        )
    except OverflowError:
        reason = "the port must be 0 to 65535"
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # the standard library repeats the address there
        if error.errno == errno.EADDRINUSE:
            reason += (
                "; it can be shared only with a server that was started with --reuse-port, by the same user"
                if shared
                else "; port 0 takes one that is free"
            )
    else:
        return Listener(sock, shared=shared)
    raise UsageError(f"cannot listen{what} on {authority(host, port)}: {reason}")


def _is_taken(host: str, port: int) -> bool:
    """Whether a socket listens on this port."""
    try:
        socket.create_server((host, port), family=_family(host), dualstack_ipv6=both_families(host)).close()
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _listen_unix(path: str, *, shared: bool) -> Listener:
    hidden = f"{path}.{os.getpid()}" if shared else ""
    sock = socket.socket(socket.AF_UNIX)
    try:
        if not shared:
            _remove_stale(path)
        sock.bind(hidden or path)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise UsageError(f"cannot listen on {path}: {error.strerror or error}") from None
    return Listener(sock, path, hidden=hidden)


def authority(host: str, port: int) -> str:
    """Host and port as in a URL: an IPv6 address is in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def both_families(host: str) -> bool:
    """Whether listening on this address accepts clients over IPv4 as well as over IPv6."""
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        return address.version == 6 and address.is_unspecified and socket.has_dualstack_ipv6()
    return False


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _remove_stale(path: str) -> None:
    """Remove the file of a socket on which no process listens any more; listening fails where one does."""
    with suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as probe:
        if not Path(path).is_socket():
            return
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()


def fit_files(limits: ServerLimits) -> ServerLimits:
    """Raise the open-file limit as far as permitted; where it is still too low, reduce the number of connections.

    Raises:
        UsageError: there is no room for a single connection.
    """
    soft = raise_open_files()
    others = open_files() + watched_threads() + _MORE_FILES
    if soft == resource.RLIM_INFINITY or limits.connections + others <= soft:
        return limits
    connections = soft - others
    if connections < 1:
        raise UsageError(f"the open-file limit of {soft} is too low, a server needs {others + 1}: see ulimit -n")
    number = "1 connection" if connections == 1 else f"{connections} connections"
    _log.warning("the open-file limit of %d leaves room for %s: see ulimit -n", soft, number)
    return replace(limits, connections=connections)


def _set_program(sock: socket.socket, option: int, program: bytes, length: int) -> None:
    """Attach a packet-filter program to a socket; where that is forbidden, leave the socket as it is."""
    code = ctypes.create_string_buffer(program)
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("HP", length, ctypes.addressof(code)))

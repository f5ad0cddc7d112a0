"""A server's life: load, listen, drain, stop. Signals are handled here and nowhere else."""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import uvloop

from tailcut.errors import UsageError
from tailcut.server.http import HttpConnection
from tailcut.server.hub import Hub
from tailcut.server.limits import ServerLimits
from tailcut.server.routes import Site
from tailcut.server.served import Served
from tailcut.server.worker import Worker

_log = logging.getLogger("tailcut")
_BACKLOG = 4096
_DRAIN_STEP_S = 0.02


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host and port (0: any free one), and a Unix socket beside it where asked for."""

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the command line may set."""

    address: Address = field(default_factory=Address)
    limits: ServerLimits = field(default_factory=ServerLimits)
    direct_bytes: int = 65536
    spin_us: int = 0
    gc_freeze: bool = False


class Door(Protocol):
    """Something that accepts connections until it is closed."""

    def close(self) -> None: ...  # noqa: D102  said there


def serve(
    models: Sequence[Served],
    options: ServerOptions,
    on_ready: Callable[[Address], None],
    worker: Worker | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; returns when everything in flight has been answered.

    A worker accepts from its supervisor's listeners instead of its own, and SIGHUP retires it.

    Raises:
        UsageError: the address cannot be had.
    """
    raise_file_limit()
    uvloop.run(_serve(models, options, on_ready, worker))


async def _serve(
    models: Sequence[Served], options: ServerOptions, on_ready: Callable[[Address], None], worker: Worker | None
) -> None:
    site = Site(models)
    hub = Hub(
        site,
        options.limits,
        direct_bytes=options.direct_bytes,
        spin_us=options.spin_us,
        collect=options.gc_freeze,
    )
    address = options.address
    if worker is None:
        listeners = open_listeners(address)
        address = Address(address.host, listeners[0].getsockname()[1], address.uds)
        doors: list[Door] = [await _door(hub, listener) for listener in listeners]
    else:
        hub.on_count = worker.count
        doors = [*worker.doors(lambda: HttpConnection(hub))]
    drain = _Drain(hub, doors, worker)
    if options.gc_freeze:
        gc.collect()
        gc.freeze()
        gc.disable()
    site.ready = True
    if worker is not None:
        worker.report(site)
    on_ready(address)
    await drain.wait()
    hub.close()
    await asyncio.sleep(0)
    if worker is not None:
        worker.publish(site)
    else:
        close_listeners(address)


class _Drain:
    """From the first signal to the last answer. A second one exits at once; a worker's parent sees to that."""

    def __init__(self, hub: Hub, doors: Sequence[Door], worker: Worker | None) -> None:
        self._hub = hub
        self._doors = doors
        self._worker = worker
        self._stopping = asyncio.Event()
        hub.loop.add_signal_handler(signal.SIGTERM, self._begin, hub.limits.drain_s)
        hub.loop.add_signal_handler(signal.SIGINT, self._begin, 0.0)
        if worker is not None:
            hub.loop.add_signal_handler(signal.SIGHUP, self._retire)

    async def wait(self) -> None:
        """Return when a signal has come, accepting is over, and what was in hand is answered or past its deadline."""
        await self._stopping.wait()
        self._close()
        end = self._hub.loop.time() + self._hub.limits.deadline_s
        while self._hub.busy() and self._hub.loop.time() < end:  # noqa: ASYNC110  an event would cost every request
            await asyncio.sleep(_DRAIN_STEP_S)

    def _begin(self, accept_s: float) -> None:
        """Readiness off; accepting goes on for `accept_s`, so that whoever routes here can learn of it."""
        if self._hub.draining:
            if self._worker is None:
                os._exit(1)
            return
        if self._worker is None:
            _log.info("draining")
        self._hub.draining = True
        self._hub.site.ready = False
        self._hub.loop.call_later(accept_s, self._stopping.set)

    def _retire(self) -> None:
        """Others accept instead, and the service stays ready: here each connection's next answer is its last."""
        if not self._hub.draining:
            self._hub.draining = True
            self._close()
            self._leave_when_empty(self._hub.loop.time() + self._hub.limits.drain_s)

    def _leave_when_empty(self, end: float) -> None:
        if self._hub.members and self._hub.loop.time() < end:
            self._hub.loop.call_later(_DRAIN_STEP_S, self._leave_when_empty, end)
        else:
            self._stopping.set()

    def _close(self) -> None:
        if self._worker is not None:
            self._hub.on_count = None
            self._worker.leave()
        for door in self._doors:
            door.close()


async def _door(hub: Hub, listener: socket.socket) -> asyncio.Server:
    def connection() -> HttpConnection:
        return HttpConnection(hub)

    if listener.family == socket.AF_UNIX:
        return await hub.loop.create_unix_server(connection, sock=listener, backlog=_BACKLOG)
    return await hub.loop.create_server(connection, sock=listener, backlog=_BACKLOG)


def open_listeners(address: Address) -> list[socket.socket]:
    """Listen on the address: TCP first, then the Unix socket where there is one.

    Raises:
        UsageError: it cannot be had.
    """
    try:
        listeners = [
            socket.create_server(
                (address.host, address.port), backlog=_BACKLOG, family=_family(address.host), reuse_port=False
            )
        ]
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the port must be 0 to 65535"
        raise UsageError(f"cannot listen on {address.host}:{address.port}: {reason}") from None
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


def close_listeners(address: Address) -> None:
    """Remove what listening left in the file system."""
    if address.uds:
        Path(address.uds).unlink(missing_ok=True)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on any more; a living one stays, and listening will fail on it."""
    with suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as probe:
        if not Path(path).is_socket():
            return
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()


def raise_file_limit() -> None:
    """As many open files as the host admits: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

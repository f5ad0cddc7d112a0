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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from tailcut.errors import UsageError
from tailcut.memory.shared import SharedRegions
from tailcut.server.accept import Acceptor
from tailcut.server.catalog import Catalog
from tailcut.server.hub import Hub
from tailcut.server.limits import ServerLimits
from tailcut.server.routes import Site
from tailcut.server.served import Served
from tailcut.server.witness import Witness

if TYPE_CHECKING:
    from tailcut.server.grpc import GrpcServer

_log = logging.getLogger("tailcut")
_BACKLOG = 4096
_DRAIN_STEP_S = 0.02
_NEWCOMER_S = 0.5  # whoever was accepted last has this long to say what it wants
_OTHER_FILES = 64  # listeners, the loop's own, models, and those that are opened for a moment


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host and port (0: any free one), and a Unix socket and a gRPC port where asked for."""

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    grpc_port: int | None = None


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the command line may set."""

    address: Address = field(default_factory=Address)
    limits: ServerLimits = field(default_factory=ServerLimits)
    direct_bytes: int = 65536
    spin_us: int = 0
    gc_freeze: bool = False
    shared_memory: str | None = None  # the prefix that keys of regions must have
    model_control: bool = False  # clients may load and unload models
    token: str | None = None  # that requests which change the server must carry
    access_log: bool = False


def serve(models: Sequence[Served], options: ServerOptions, on_ready: Callable[[Address], None]) -> None:
    """Serve until SIGTERM or SIGINT; returns when everything in flight has been answered.

    Raises:
        UsageError: the address cannot be had.
    """
    options = replace(options, limits=_fit_files(options.limits))
    uvloop.run(_serve(models, options, on_ready))


async def _serve(models: Sequence[Served], options: ServerOptions, on_ready: Callable[[Address], None]) -> None:
    loop = asyncio.get_running_loop()
    catalog = Catalog(models, control=options.model_control, patience_s=options.limits.deadline_s)
    site = Site(catalog, SharedRegions(options.shared_memory), token=options.token)
    hub = Hub(
        site,
        options.limits,
        direct_bytes=options.direct_bytes,
        spin_us=options.spin_us,
        collect=options.gc_freeze,
        access=options.access_log,
    )
    witness = Witness(loop, site.events)
    stopping = asyncio.Event()
    grpc = _grpc_server(hub) if options.address.grpc_port is not None else None
    drain = _Drain(hub, stopping, grpc)
    loop.add_signal_handler(signal.SIGTERM, drain.begin, options.limits.drain_s)
    loop.add_signal_handler(signal.SIGINT, drain.begin, 0.0)
    acceptors = _listen(hub, options.address)
    port = acceptors[0].port
    grpc_port = await grpc.start(options.address.host, options.address.grpc_port or 0) if grpc else None
    if options.gc_freeze:
        gc.collect()
        gc.freeze()
        gc.disable()
    site.ready = True
    on_ready(Address(options.address.host, port, options.address.uds, grpc_port))
    await stopping.wait()
    for acceptor in acceptors:
        acceptor.close()
    await drain.finish()
    hub.close()
    witness.close()
    await asyncio.sleep(0)
    site.regions.unregister()
    await asyncio.to_thread(catalog.close)
    if options.address.uds:
        Path(options.address.uds).unlink(missing_ok=True)  # noqa: ASYNC240  the loop has nothing else left to do


class _Drain:
    """From the first signal to the last answer; a second signal exits at once."""

    def __init__(self, hub: Hub, stopping: asyncio.Event, grpc: "GrpcServer | None" = None) -> None:
        self._hub = hub
        self._stopping = stopping
        self._grpc = grpc

    def begin(self, accept_s: float) -> None:
        """Readiness off; accepting goes on for `accept_s`, so that whoever routes here can learn of it."""
        if self._hub.draining:
            os._exit(1)
        _log.info("draining")
        self._hub.draining = True
        self._hub.site.ready = False
        if self._grpc is not None:
            self._grpc.drain()
        self._hub.loop.call_later(accept_s, self._stopping.set)

    async def finish(self) -> None:
        """Wait for what is in hand, no longer than its deadline, and for the first words of who came last."""
        loop, hub = self._hub.loop, self._hub
        end = loop.time() + hub.limits.deadline_s
        newcomers_until = loop.time() + _NEWCOMER_S
        await asyncio.sleep(_DRAIN_STEP_S)
        while (hub.busy() and loop.time() < end) or (hub.silent() and loop.time() < newcomers_until):  # noqa: ASYNC110  an event would cost every request
            await asyncio.sleep(_DRAIN_STEP_S)
        if self._grpc is not None:
            await self._grpc.stop(max(0.0, end - self._hub.loop.time()))


def _grpc_server(hub: Hub) -> "GrpcServer":
    from tailcut.server.grpc import GrpcServer  # noqa: PLC0415  grpcio is an extra, and takes 60 ms to import

    return GrpcServer(hub)


def _listen(hub: Hub, address: Address) -> list[Acceptor]:
    try:
        listener = socket.create_server(
            (address.host, address.port), backlog=_BACKLOG, family=_family(address.host), reuse_port=False
        )
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the port must be 0 to 65535"
        raise UsageError(f"cannot listen on {address.host}:{address.port}: {reason}") from None
    acceptors = [Acceptor(hub, listener)]
    if address.uds:
        try:
            _remove_stale(address.uds)
            unix = socket.socket(socket.AF_UNIX)
            unix.bind(address.uds)
            unix.listen(_BACKLOG)
        except OSError as error:
            raise UsageError(f"cannot listen on {address.uds}: {error.strerror or error}") from None
        acceptors.append(Acceptor(hub, unix))
    return acceptors


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


def _fit_files(limits: ServerLimits) -> ServerLimits:
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

"""A server's life: load, listen, drain, stop. Signals are handled here and nowhere else."""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import uvloop

from tailcut.live.counts import ProcessSnapshot, counts_of
from tailcut.machine.cuda_driver import driver
from tailcut.machine.nvml import open_nvml
from tailcut.memory.shared import DeviceMemory, SharedRegions
from tailcut.runtime.tracing.timeline import Events
from tailcut.server import metadata
from tailcut.server.context import Context
from tailcut.server.event_monitor import EventMonitor
from tailcut.server.fastpath.fastpath import FastPath, suits
from tailcut.server.http.connection import HttpConnection
from tailcut.server.limits import ServerLimits
from tailcut.server.listener import Acceptor
from tailcut.server.load_failures import FailedModel
from tailcut.server.repository import ModelRepository, ModelSource
from tailcut.server.served_model import ServedModel
from tailcut.server.sockets import ListenAddress, Listener, bound, fit_files, open_listeners, take_over
from tailcut.server.source_watch import SourceWatch
from tailcut.server.state import ServerState
from tailcut.server.tls.certificates import GRPC, HTTP, Certificates
from tailcut.server.tls.connection import TlsAcceptor
from tailcut.server.tracing.opening import open_export
from tailcut.server.tracing.sampler import Sampler
from tailcut.server.tracing.settings import TracingSettings
from tailcut.server.tracing.tracer import Tracer
from tailcut.server.workers.process import WorkerProcess, as_counts
from tailcut.server.workers.secrets import CERTIFICATE, TOKEN, Secrets

if TYPE_CHECKING:
    from tailcut.server.grpc.service import GrpcServer

_log = logging.getLogger("tailcut")
Protocols = Callable[[], asyncio.BufferedProtocol]  # makes the protocol of an accepted socket
_DRAIN_STEP_S = 0.02
_SETTLE_S = 0.1  # for handshakes that have begun, before accepting ends
_NEWCOMER_S = 0.5  # how long the last accepted connections have to send a request


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the command line may set."""

    address: ListenAddress = field(default_factory=ListenAddress)
    limits: ServerLimits = field(default_factory=ServerLimits)
    direct_bytes: int = 65536
    busy_poll_us: int = 0
    fast_path: bool = True
    gc_freeze: bool = False
    shared_memory: str | None = None  # the prefix that keys of regions must have
    model_control: bool = False  # clients may load and unload models
    token: str | None = None  # required by requests that change the server
    require_token: bool = False  # require the token for all other requests, too, except health checks
    read_token: Callable[[], str] | None = None  # reads the token again, where there is one
    certificates: Certificates | None = None  # TLS on the ports
    secrets: Secrets | None = None  # certificate and token, where they can be reloaded without the models
    access_log: bool = False
    ui: bool = True  # a page at /
    tracing: TracingSettings | None = None
    library: ModelSource | None = None  # a model repository
    failed: Mapping[str, FailedModel] = field(default_factory=dict)  # models of the library that could not be loaded
    poll_s: float = 0.0  # between two scans of the library; 0: it is not scanned again
    reload: bool = False  # reload pipelines when their Python files change
    hung_up: Callable[[], bool] = lambda: False  # whether SIGHUP came before the server could handle it

    @property
    def models_change(self) -> bool:
        """Whether models may be loaded or unloaded while it serves."""
        return self.model_control or self.poll_s > 0


class Door(Protocol):
    """Something that accepts connections until it is closed."""

    def refuse(self) -> None: ...  # noqa: D102  documented where it is implemented
    def close(self) -> None: ...  # noqa: D102  documented where it is implemented


def serve(
    models: Sequence[ServedModel],
    options: ServerOptions,
    on_ready: Callable[[ListenAddress], None],
    worker: WorkerProcess | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; returns when everything in flight has been answered.

    A worker accepts from its supervisor's listeners instead of its own, retires on SIGHUP, and reloads its certificate
    and its token when the supervisor says so. A server without workers reloads both on SIGHUP, and all models unless
    only these two have changed. SIGUSR1 logs a line of counts.

    Raises:
        UsageError: the address cannot be used, or a library that traces need is missing.
    """
    options = replace(options, limits=fit_files(options.limits))
    uvloop.run(_serve(models, options, on_ready, worker))


async def _serve(
    models: Sequence[ServedModel],
    options: ServerOptions,
    on_ready: Callable[[ListenAddress], None],
    worker: WorkerProcess | None,
) -> None:
    events = Events()
    if worker is not None:
        models, events = worker.traces.adopt(models), worker.traces.own_events
    repository = _repository(models, options)
    context = Context(
        repository,
        SharedRegions(options.shared_memory, open_memory=_open_memory),
        token=options.token,
        require_token=options.require_token,
        read_token=options.read_token,
        ui=options.ui,
        nvml=open_nvml() if any(model.model.profile.settings.engine.device == "cuda" for model in models) else None,
    )
    context.events = (events,) if worker is None else worker.traces.events
    context.processes = partial(_alone, context)  # of a worker, replaced by the report of all of them
    state = ServerState(
        context,
        options.limits,
        direct_bytes=options.direct_bytes,
        busy_poll_us=options.busy_poll_us,
        collect=options.gc_freeze,
        access=options.access_log,
    )
    _equip(state, options, models, worker)
    address, plain = options.address, partial(HttpConnection, state)
    http, grpc, grpc_connection = _protocols(state, options, plain)
    listeners: list[Listener] = []
    if worker is None:
        listeners = open_listeners(address)
        address = bound(address, listeners)
        doors = _doors(state, listeners, plain, http, grpc_connection)
    else:
        state.on_count = worker.count
        doors = [*worker.doors(state, plain, http, grpc_connection)]
    if grpc is not None:
        doors.append(grpc)
    drain = _Drain(state, doors, options, worker, grpc)
    if options.gc_freeze:
        gc.collect()
        gc.freeze()
        gc.disable()
    elif not options.models_change:  # where models can be unloaded, none of their objects must be kept
        gc.freeze()  # what is there now stays: looking through it held the loop for 85 ms at every full collection
    _be_ready(context, worker, options.certificates)
    take_over(listeners)
    on_ready(address)
    event_monitor = EventMonitor(
        state.loop, events, context.counts
    )  # the time spent starting is not counted as a blocked loop
    if options.hung_up():
        drain.renew()
    SourceWatch(state.loop, _sources(models, options), drain.renew)
    repository.watch(options.poll_s)
    await drain.wait()
    repository.stop_watching()
    state.close()
    event_monitor.close()
    await asyncio.sleep(0)
    await _export_last(state)
    if worker is not None:
        worker.publish(context)
    context.regions.close()
    await asyncio.to_thread(repository.close)


def _doors(
    state: ServerState, listeners: Sequence[Listener], unix: Protocols, http: Protocols, grpc: Protocols | None
) -> list[Door]:
    """Accept from listeners of this process alone; the last one is for gRPC, where that is served."""
    protocols = [unix if listener.is_unix else http for listener in listeners]
    if grpc is not None:
        protocols[-1] = grpc
    return [Acceptor(state, listener, protocol) for listener, protocol in zip(listeners, protocols, strict=True)]


def _be_ready(context: Context, worker: WorkerProcess | None, certificates: Certificates | None) -> None:
    metadata.version()  # reads files now, so that no request has to wait for it
    context.ready = True
    if worker is not None:
        worker.report(context, partial(_read_secrets, context, certificates))


def _read_secrets(context: Context, certificates: Certificates | None, orders: bytes) -> None:
    """Reload the certificate or the token, as the supervisor orders; it has checked them and logged the result."""
    if certificates is not None and CERTIFICATE in orders:
        certificates.renew(logs=False)
    if TOKEN in orders:
        context.renew_token()


def _alone(context: Context) -> list[ProcessSnapshot]:
    """The counts of the only process."""
    return [ProcessSnapshot(os.getpid(), None, counts_of(as_counts(context)))]


def _open_memory(handle: bytes, index: int) -> DeviceMemory:
    return driver().open_memory(handle, index)


def _sources(models: Sequence[ServedModel], options: ServerOptions) -> list[Path]:
    """The folders whose Python files are watched."""
    return [model.sources for model in models if options.reload and model.sources is not None]


class _Drain:
    """From the first signal to the last answer. A second signal exits at once; for a worker, its parent does that."""

    def __init__(
        self,
        state: ServerState,
        doors: Sequence[Door],
        options: ServerOptions,
        worker: WorkerProcess | None,
        grpc: "GrpcServer | None" = None,
    ) -> None:
        self._state = state
        self._doors = doors
        self._worker = worker
        self._grpc = grpc
        self._certificates = options.certificates
        self._secrets = options.secrets
        self._stopping = asyncio.Event()
        state.loop.add_signal_handler(signal.SIGTERM, self._begin, state.limits.drain_s)
        state.loop.add_signal_handler(signal.SIGINT, self._begin, 0.0)
        state.loop.add_signal_handler(signal.SIGHUP, self._retire if worker is not None else self.renew)
        state.loop.add_signal_handler(signal.SIGUSR1, self._log_counts)
        self._renewing: asyncio.Task[None] | None = None
        self._stale = False  # files may have changed since they were read: SIGHUP came

    async def wait(self) -> None:
        """Return when a signal has come, accepting has ended, and all requests are answered or past their deadlines.

        The newest connections have a moment for their first bytes.
        """
        await self._stopping.wait()
        for door in self._doors:
            door.refuse()
        await asyncio.sleep(_SETTLE_S)
        self._close()
        loop, state = self._state.loop, self._state
        end = loop.time() + state.limits.deadline_s
        newcomers_until = loop.time() + _NEWCOMER_S
        await asyncio.sleep(_DRAIN_STEP_S)
        while (state.busy() and loop.time() < end) or (state.silent() and loop.time() < newcomers_until):  # noqa: ASYNC110  an event would cost every request
            await asyncio.sleep(_DRAIN_STEP_S)

    def _begin(self, accept_s: float) -> None:
        """Answer that the server is not ready, and go on accepting for `accept_s`, so that load balancers notice."""
        if self._state.draining:
            if self._worker is None:
                os._exit(1)
            return
        if self._worker is None:
            _log.info("draining")
        self._state.context.ready = False
        self._state.drain()
        if self._grpc is not None:
            self._grpc.drain()
        self._state.loop.call_later(accept_s, self._stopping.set)

    def _retire(self) -> None:
        """Leave accepting to other workers. The service stays ready; each connection here gets one last answer."""
        if not self._state.draining:
            self._state.drain()
            self._close()
            self._leave_when_empty(self._state.loop.time() + self._state.limits.drain_s)

    def renew(self) -> None:
        """Reload the certificate and the token, and all models if they may have changed."""
        self._stale = True
        if self._renewing is None or self._renewing.done():
            self._renewing = self._state.loop.create_task(self._read_anew())

    async def _read_anew(self) -> None:
        """Reload everything, as the successor of a worker would; a model that does not load keeps its old version."""
        while self._stale and not self._state.draining:
            self._stale = False
            secrets = self._secrets
            if secrets is not None and secrets.changed_alone():
                _log.info("no model has changed: all models are kept")
                if TOKEN in secrets.read():
                    self._state.context.renew_token()
                continue
            if secrets is not None:
                await asyncio.to_thread(secrets.note)
            if self._certificates is not None:
                self._certificates.renew()
            _log.info("reloading all models")
            self._state.context.renew_token()
            all_loaded = await self._state.context.models.renew()
            if secrets is not None and not all_loaded:
                secrets.forget()

    def _log_counts(self) -> None:
        _log.info("%s", self._state.context.counts.line())

    def _leave_when_empty(self, end: float) -> None:
        if self._state.members and self._state.loop.time() < end:
            self._state.loop.call_later(_DRAIN_STEP_S, self._leave_when_empty, end)
        else:
            self._stopping.set()

    def _close(self) -> None:
        if self._worker is not None:
            self._state.on_count = None
            self._worker.leave()
        for door in self._doors:
            door.close()


def _protocols(
    state: ServerState, options: ServerOptions, http: Protocols
) -> tuple[Protocols, "GrpcServer | None", Protocols | None]:
    """What the sockets of the ports for HTTP and gRPC speak: TLS first, where there is a certificate."""
    grpc = _grpc_server(state) if options.address.grpc_port is not None else None
    if options.certificates is None:
        return http, grpc, None if grpc is None else grpc.connection
    doors = [TlsAcceptor(state, options.certificates, HTTP, http)]
    if grpc is not None:
        doors.append(TlsAcceptor(state, options.certificates, GRPC, grpc.connection))
    return doors[0], grpc, None if grpc is None else doors[1]


def _repository(models: Sequence[ServedModel], options: ServerOptions) -> ModelRepository:
    return ModelRepository(
        models,
        control=options.model_control,
        patience_s=options.limits.deadline_s,
        library=options.library,
        failed=options.failed,
    )


def _equip(
    state: ServerState, options: ServerOptions, models: Sequence[ServedModel], worker: WorkerProcess | None
) -> None:
    """Make what only some servers have: a tracer, and a fast path, which uses the tracer."""
    state.tracer = _tracer(state, options, worker)
    # An access log needs a line for each request, which the fast path does not see.
    if options.fast_path and not options.access_log and (options.models_change or any(map(suits, models))):
        state.fast_path = FastPath.open(state)


async def _export_last(state: ServerState) -> None:
    """Export the last traces, for a bounded time."""
    if state.tracer is not None:
        await asyncio.to_thread(state.tracer.close)
        state.tracer.count(state.context.counts)


def _tracer(state: ServerState, options: ServerOptions, worker: WorkerProcess | None) -> Tracer | None:
    if options.tracing is None:
        return None
    scheme = "http" if options.certificates is None else "https"
    sink = open_export(options.tracing, scheme, None if worker is None else worker.post)
    return None if sink is None else Tracer(Sampler(options.tracing.sampling), sink, state.loop.call_soon)


def _grpc_server(state: ServerState) -> "GrpcServer":
    from tailcut.server.grpc.service import GrpcServer  # noqa: PLC0415  protobuf is an extra

    return GrpcServer(state)

"""A supervisor and its workers, the thin shell around `fleet.py`: it listens, and starts, signals and reaps workers.

Workers are new processes that run the same command line and inherit the listening sockets, one end of a socket pair
(over which they report that they are ready, are told to reload the certificate or the token, and notice the end of
their supervisor), the scoreboard, and the region of their traces. Everything else is told by signals: SIGTERM and
SIGINT drain a worker, SIGHUP retires it. The supervisor itself handles SIGTERM and SIGINT (drain all workers, exit 0; a
second one kills them and exits 1), SIGHUP (replace all workers, one after the other; or reload only the certificate or
the token, where nothing else has changed) and SIGUSR1 (log a line of counts).

The listening sockets stay open here while any worker serves, so that connections waiting in the kernel's queue survive
the end of every worker.
"""

import asyncio
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tailcut.machine.quota import affinity_mask, usable_cpus
from tailcut.machine.shares import Share, shares
from tailcut.machine.topology import topology
from tailcut.runtime.opening.defaults import DefaultChoice
from tailcut.server.limits import ServerLimits
from tailcut.server.sockets import ListenAddress, Listener, bound, fit_files, open_listeners, take_over
from tailcut.server.workers.fleet import Action, Do, Fleet, RestartPolicy
from tailcut.server.workers.process import ENVIRONMENT, Assignment, Report, as_counted
from tailcut.server.workers.scoreboard import Scoreboard
from tailcut.server.workers.secrets import Secrets
from tailcut.server.workers.shared_traces import TraceRegion

_log = logging.getLogger("tailcut")
_LONGEST_REPORT = 1 << 18  # bytes
Models = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """What to supervise: the number of workers, the command line that starts one, and the number of models in it.

    `drain_s` is how long a draining worker goes on accepting. `secrets` are what workers can reload; None where there
    are none. Paths in the command are relative to `folder`; None: the current folder.
    """

    size: int
    command: Sequence[str]
    models: int
    drain_s: float
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    secrets: Secrets | None = None
    folder: Path | None = None


def supervise(group: WorkerGroup, address: ListenAddress, on_ready: Callable[[ListenAddress, Models], None]) -> int:
    """Run the workers until SIGTERM or SIGINT; returns the exit code.

    `on_ready` is called once, when all of them serve, with the address and the models that a worker reports.

    The exit code is 0 after draining; 1 after a second signal, or after too many losses in a row; or that of the first
    worker, where it could not load.

    Raises:
        UsageError: the address cannot be used.
    """
    fit_files(ServerLimits(connections=1))  # workers inherit the limit
    listeners = open_listeners(address)
    scoreboard = Scoreboard.make(2 * group.size + 2, group.models)
    traces = TraceRegion.make(scoreboard.places, group.models)
    try:
        return asyncio.run(
            _Supervisor(
                group, listeners, scoreboard, traces, lambda models: on_ready(bound(address, listeners), models)
            ).run()
        )
    finally:
        for listener in listeners:
            listener.close()
        traces.close()
        scoreboard.close()


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    control: socket.socket
    index: int  # its place on the scoreboard


class _Supervisor:
    def __init__(
        self,
        group: WorkerGroup,
        listeners: Sequence[Listener],
        scoreboard: Scoreboard,
        traces: TraceRegion,
        on_ready: Callable[[Models], None],
    ) -> None:
        self._group = group
        self._listeners = listeners
        self._scoreboard = scoreboard
        self._traces = traces
        self._on_ready = on_ready
        self._fleet = Fleet(group.size, group.restart_policy)
        self._shares = _shares(group.size)
        self._children: dict[int, _Child] = {}
        self._free = list(range(scoreboard.places, 0, -1))  # places on the scoreboard; the smallest is taken first
        self._timer: asyncio.TimerHandle | None = None
        self._models: Models = []
        self._choices: dict[str, DefaultChoice] = {}  # measured settings of models without profile, by file hash
        self._announced = False
        self._hung_up = False  # SIGHUP came before all workers were ready
        self._stopping = False
        self._drain_by = signal.SIGTERM  # or SIGINT, after which a worker accepts no longer

    async def run(self) -> int:
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_signal_handler(signal.SIGTERM, self._stop, signal.SIGTERM)
        self._loop.add_signal_handler(signal.SIGINT, self._stop, signal.SIGINT)
        self._loop.add_signal_handler(signal.SIGHUP, self._renew)
        self._loop.add_signal_handler(signal.SIGUSR1, self._count)
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        if self._group.secrets is not None:
            self._group.secrets.note()
        self._do(self._fleet.begin(self._now()))
        try:
            return await self._ended
        finally:
            for child in self._children.values():
                child.process.kill()
                child.process.wait()
                child.control.close()

    # Events.

    def _stop(self, number: signal.Signals) -> None:
        if self._stopping:
            self._end(1)
            return
        self._stopping = True
        self._drain_by = number
        _log.info("draining")
        # The workers accept for a moment longer, so that connections that have begun are accepted.
        self._loop.call_later(self._group.drain_s if number == signal.SIGTERM else 0.0, self._refuse)
        self._do(self._fleet.stop(self._now()))

    def _refuse(self) -> None:
        for listener in self._listeners:
            listener.refuse()

    def _renew(self) -> None:
        if not self._announced:  # a worker that is loading may have read the old files
            self._hung_up = True
            return
        secrets = self._group.secrets
        if secrets is not None and secrets.changed_alone():
            _log.info("no model has changed: all workers are kept")
            self._order(secrets.read())
            return
        if secrets is not None:
            secrets.note()
        _log.info("replacing all workers, one after another")
        self._do(self._fleet.renew(self._now()))

    def _order(self, orders: bytes) -> None:
        """Tell all workers what to reload; one that is loading does so when it is ready."""
        for child in self._children.values() if orders else ():
            with suppress(OSError):  # it has ended: SIGCHLD follows
                child.control.send(orders)

    def _count(self) -> None:
        counts = self._scoreboard.totals()
        if "server" in counts:  # otherwise, no worker has published any yet
            _log.info("%s", as_counted(counts)[0].line())

    def _ready(self, worker: int) -> None:
        child = self._children[worker]
        self._loop.remove_reader(child.control)
        data = b""
        with suppress(OSError):  # it has ended without reading its orders
            data = child.control.recv(_LONGEST_REPORT)
        if data:  # otherwise, it has ended: SIGCHLD follows
            report = msgspec.json.decode(data, type=Report)
            self._models = report.models
            self._choices |= report.choices  # later workers use the settings of the first
            self._do(self._fleet.ready(worker, self._now()))

    def _reap(self) -> None:
        for worker, child in list(self._children.items()):
            code = child.process.poll()
            if code is None:
                continue
            del self._children[worker]
            self._loop.remove_reader(child.control)
            child.control.close()
            try:
                self._scoreboard.fold(child.index)
            except Exception:  # noqa: BLE001  whatever it has published, the worker must be replaced
                _log.exception("the counts of a worker that ended are lost")
            self._free.append(child.index)
            self._do(self._fleet.lost(worker, self._now(), code), code)

    def _tick(self) -> None:
        self._do(self._fleet.tick(self._now()))

    # Actions.

    def _do(self, actions: Sequence[Action], code: int = 0) -> None:
        for action in actions:
            match action.do:
                case Do.START:
                    self._start(action.worker, action.post)
                case Do.RETIRE:
                    _log.info("worker %d was replaced and is finishing its requests", action.post)
                    self._signal(action.worker, signal.SIGHUP)
                case Do.DRAIN:
                    self._signal(action.worker, self._drain_by)
                case Do.ANNOUNCE:
                    self._announced = True
                    take_over(self._listeners)
                    self._on_ready(self._models)
                    if self._hung_up:
                        self._renew()
                case Do.EXIT:
                    self._end(action.code)
                case _:
                    self._tell(action, code)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._fleet.due()
        if due is not None:
            self._timer = self._loop.call_at(due, self._tick)

    def _tell(self, action: Action, code: int) -> None:
        match action.do:
            case Do.FAIL:
                again = f"in {action.seconds:g} s" if action.seconds else "now"
                _log.warning("worker %d ended (%s): another starts %s", action.post, _described(code), again)
            case Do.ABANDON:
                if self._group.secrets is not None:
                    self._group.secrets.forget()
                _log.error("a new worker %d could not start: the old ones keep serving", action.post)
            case Do.NOT_BEGUN:
                _log.error("worker %d ended (%s) before all were ready: stopping", action.post, _described(code))
            case Do.GIVE_UP:
                limit = self._group.restart_policy.limit
                _log.error("worker %d ended %d times in a row: giving up", action.post, limit)

    def _start(self, worker: int, post: int) -> None:
        index = self._free.pop()
        ours, theirs = socket.socketpair()
        share = self._shares[post]
        assignment = Assignment(
            post=post,
            size=self._group.size,
            parent=os.getpid(),
            listeners=tuple(listener.sock.fileno() for listener in self._listeners),
            control=theirs.fileno(),
            scoreboard=self._scoreboard.descriptor,
            traces=self._traces.descriptor,
            places=self._scoreboard.places,
            index=index,
            models=self._group.models,
            cpus=share.cpus,
            pin=share.pin,
            node=share.node,
            choices=self._choices,
        )
        process = subprocess.Popen(  # noqa: S603  this interpreter
            self._group.command,
            cwd=self._group.folder,
            stdin=subprocess.DEVNULL,
            env=os.environ | {ENVIRONMENT: msgspec.json.encode(assignment).decode()},
            pass_fds=[*assignment.listeners, assignment.control, assignment.scoreboard, assignment.traces],
            start_new_session=True,  # Ctrl-C in the terminal must reach only the supervisor
        )
        theirs.close()
        ours.setblocking(False)
        self._children[worker] = _Child(process, ours, index)
        self._loop.add_reader(ours, self._ready, worker)

    def _signal(self, worker: int, number: signal.Signals) -> None:
        self._children[worker].process.send_signal(number)

    def _end(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)

    def _now(self) -> float:
        return self._loop.time()


def _shares(size: int) -> list[Share]:
    return shares(topology(), affinity_mask(), usable_cpus(), size)


def _described(code: int) -> str:
    """An exit code for the log: a number, or the name of a signal."""
    try:
        return f"exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"

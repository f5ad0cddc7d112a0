"""Adds to the runs of a load test the server's cost, and the cause where the client was late.

The server, the machine and its processes are observed before and after a run, never in between.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from tailcut.errors import NotFoundError
from tailcut.lab.cost import Spent, server_process
from tailcut.lab.lateness import Observation, ServerUse, cause
from tailcut.lab.load import LoadResult, LoadTarget
from tailcut.lab.served_engine import computed_ns, served_engine
from tailcut.machine.busy import CpuUse, cpu_look
from tailcut.machine.process import ProcessLook, ThreadLook, descendants, look, socket_process
from tailcut.machine.quota import cpu_quota


class SurroundingsMonitor:
    """Observes the runs against one server.

    Args:
        target: where it listens.
        models: those of its models that have load; empty where it speaks another protocol.
    """

    def __init__(self, target: LoadTarget, models: Sequence[str]) -> None:
        self._target = target
        self._models = models
        self._tcp_server = server_process(target)
        self._server = self._tcp_server or (socket_process(target.uds) if target.uds else None)

    def run(self, load: Callable[[], Sequence[LoadResult]]) -> list[LoadResult]:
        """Make runs of equal length; each result has the cost per request of all, and why the client was late."""
        results, seen = self.observe(load)
        because = None if seen is None else cause(seen)
        return [replace(result, late_because=because if result.client_behind else None) for result in results]

    def observe(self, load: Callable[[], Sequence[LoadResult]]) -> tuple[list[LoadResult], Observation | None]:
        """Make runs; returns them with their cost, and the observation (None: there is no /proc)."""
        computed = self._computed_ns()
        cpus, server = cpu_look(), self._look()
        results = load()
        server_after, cpus_after = self._look(), cpu_look()
        spent = Spent()
        cost = server_after.since(server) if server is not None and server_after is not None else None
        merged = replace(results[0], answered=sum(result.answered for result in results))
        spent.add(merged, cost if self._tcp_server is not None else None)
        results = [replace(result, server_cost=spent.per_request()) for result in results]
        if cpus is None or cpus_after is None:
            return results, None
        use = cpus_after.since(cpus)
        return results, Observation(
            use=use,
            own=frozenset((os.getpid(), *descendants(os.getpid()))),
            server_processes=frozenset(server_after.minor_faults if server_after is not None else ()),
            server=self._server_use(use, server, server_after, computed),
            quota_cpus=cpu_quota(),
            client_cpu=sum(result.client_cpu for result in results),
            client_processes=max(result.processes for result in results),
        )

    def _server_use(
        self, use: CpuUse, before: ProcessLook | None, after: ProcessLook | None, computed: dict[str, dict[str, int]]
    ) -> ServerUse | None:
        if before is None or after is None or self._server is None:
            return None
        engines = {name: served_engine(self._target, name) for name in self._models}
        since = {
            name: {step: ns - computed[name].get(step, 0) for step, ns in steps.items()}
            for name, steps in self._computed_ns().items()
            if name in computed
        }
        known = len(since) == len(self._models) > 0
        # Without the call times of a pipeline's steps, their computing would be taken for spinning.
        says = [
            engine.spins for engine in engines.values() if engine.spins is not None and (known or "" in engine.threads)
        ]
        allowed = [process.allowed for process in use.processes if process.pid in after.minor_faults]
        engine_ns, waited_ns = _beside_loops_ns(before, after)
        # In a call, each thread wants to run all the time; where it had to wait, its CPU time in the call is less.
        ran = engine_ns / max(1, engine_ns + waited_ns)
        in_calls_ns = ran * sum(engines[name].in_calls_ns(steps) for name, steps in since.items())
        return ServerUse(
            pid=self._server,
            cpus=after.since(before).cpu_ns / 1e9 / use.seconds,
            engine_cpus=engine_ns / 1e9 / use.seconds,
            allowed=frozenset().union(*allowed),
            spins=any(says) if says else None,
            computing=in_calls_ns / 1e9 / use.seconds if known else None,
        )

    def _computed_ns(self) -> dict[str, dict[str, int]]:
        """The time that each step of each model has computed, if the server is on this machine and says so."""
        if self._server is None:
            return {}
        result = {name: computed_ns(self._target, name) for name in self._models}
        return {name: ns for name, ns in result.items() if ns is not None}

    def _look(self) -> ProcessLook | None:
        try:
            return None if self._server is None else look(self._server)
        except NotFoundError:
            return None


def _beside_loops_ns(before: ProcessLook, after: ProcessLook) -> tuple[int, int]:
    """How long all threads ran and waited for a CPU, except the first of each process, which runs its event loop."""
    nothing = ThreadLook(0, 0, 0, 0)
    pairs = [(now, before.threads.get(key, nothing)) for key, now in after.threads.items() if key[0] != key[1]]
    ran = sum((now.cpu_ns or 0) - (then.cpu_ns or 0) for now, then in pairs)
    return ran, sum((now.waited_ns or 0) - (then.waited_ns or 0) for now, then in pairs)

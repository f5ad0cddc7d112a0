"""Explains in one line why a load test's client was late, from observations. Pure.

A client is late if it had something to send, but no CPU to send it on. So the causes are whatever used its CPUs (the
server, above all engine threads that spin between calls; other processes), and whatever kept it from using them (a
quota, the host of a virtual machine). All that used enough to matter are named, the largest first.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from tailcut.machine.busy import CpuUse, ProcessUse

_ROOM = 0.6  # idle CPUs: with this much room, the client did not lack CPU time
_STOLEN = 0.1  # of the time
_THROTTLED = 0.02  # of the time
_MATTERS = 0.2  # CPUs used by another process
_SPINNING = 0.3  # CPUs used by engine threads outside calls
_BUSY_SERVER = 0.4
_HIDDEN = 0.3  # CPUs used by invisible processes
_FULL = 0.9  # of a CPU for each client process
_MOST = 3  # causes in the line, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUse:
    """What the server used, in CPUs on average.

    `engine_cpus` is the use of all threads except the event loops, `computing` the part of it during engine calls, and
    `spins` says whether engine threads spin between calls; None where unknown.
    """

    pid: int
    cpus: float
    engine_cpus: float
    allowed: frozenset[int]
    spins: bool | None = None
    computing: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What was observed during a run."""

    use: CpuUse
    own: frozenset[int]  # the client's processes
    server_processes: frozenset[int] = frozenset()
    server: ServerUse | None = None
    quota_cpus: float | None = None
    client_cpu: float = 0.0  # cores that the client used or waited for
    client_processes: int = 1


def cause(seen: Observation) -> str | None:
    """Why the client was late, and what to do, in one line; None where no observation explains it."""
    use = seen.use
    if use.throttled_s > _THROTTLED * use.seconds:
        limit = "the CPU quota" if seen.quota_cpus is None else f"the CPU quota of {_cpus(seen.quota_cpus)}"
        return (
            f"{limit} throttled this process's control group {use.throttled_times} times, for {use.throttled_s:.2f} s "
            "in all: raise the quota, run client and server in groups of their own, or lower the rate"
        )
    if use.stolen > _STOLEN:
        return (
            f"the host of this virtual machine gave {use.stolen:.0%} of the CPU time to others: measure when it is "
            "quieter, or on another machine"
        )
    if len(use.cpus) - use.busy > _ROOM:
        return _at_its_limit(seen)
    causes = [*_server(seen), *_others(seen), *_hidden(seen)]
    causes.sort(key=lambda item: -item[0])
    return "; ".join(text for _, text in causes[:_MOST]) or _at_its_limit(seen)


def _server(seen: Observation) -> list[tuple[float, str]]:
    server = seen.server
    if server is None or not server.allowed & seen.use.cpus:
        return []
    there = len(seen.use.cpus)
    outside = server.engine_cpus - (server.computing or 0.0)
    alone = _all_but_one(seen.use.cpus)
    if server.spins and outside > _SPINNING:
        both = there == 2 and server.engine_cpus > 1.5
        where = "both CPUs" if both else f"{server.engine_cpus:.2f} of {_cpus(there)}"
        in_calls = "" if server.computing is None else f", of which calls take {server.computing:.2f}"
        start = f"start it with `taskset -c {alone}`, or set" if alone else "set"
        text = (
            f"the server's engine threads spin on {where} (pid {server.pid}: {server.cpus:.2f} CPUs{in_calls}): "
            f"{start} `engine.spinning = false`"
        )
        return [(server.cpus, text)]
    if server.cpus > _BUSY_SERVER:
        start = f"start it with `taskset -c {alone}`, or lower the rate" if alone else "lower the rate"
        text = f"the server (pid {server.pid}) uses {server.cpus:.2f} of {_cpus(there)}: {start}"
        return [(server.cpus, text)]
    return []


def _others(seen: Observation) -> list[tuple[float, str]]:
    """Other processes than the client's and the server's that may run on the client's CPUs."""
    known = seen.own | seen.server_processes
    others = [process for process in seen.use.processes if process.pid not in known]
    others = sorted((_here(other, seen.use.cpus) for other in others), key=lambda process: -process.cpus)
    together = sum(other.cpus for other in others)
    if together <= _MATTERS:
        return []
    named = [other for other in others if other.cpus > _MATTERS][:_MOST] or others[:1]
    rest = sum(other.cpus > 0 for other in others) - len(named)
    first, *more = [f"{process.name} (pid {process.pid})" for process in named]
    parts = [f"{first} uses {named[0].cpus:.2f} of {_cpus(len(seen.use.cpus))}"]
    parts += [f"{name} {process.cpus:.2f}" for name, process in zip(more, named[1:], strict=True)]
    left = together - sum(process.cpus for process in named)
    parts += [f"{rest} others {left:.2f} together"] if left > _MATTERS else []
    them = "it" if len(parts) == 1 else "them"
    return [(together, f"{', '.join(parts)}: stop {them}, or give {them} other CPUs than the client's")]


def _hidden(seen: Observation) -> list[tuple[float, str]]:
    """The use of the CPUs that no visible process accounts for."""
    known = sum(process.cpus for process in seen.use.processes)
    if seen.client_processes > 1:  # those have ended, and would be counted
        known += seen.client_cpu
    hidden = seen.use.busy - known
    if hidden <= _HIDDEN:
        return []
    text = (
        f"processes that cannot be seen from here use {hidden:.2f} of {_cpus(len(seen.use.cpus))}: they have ended, or "
        "belong to other containers"
    )
    return [(hidden, text)]


def _at_its_limit(seen: Observation) -> str | None:
    if seen.client_cpu <= _FULL * seen.client_processes:
        return None
    return f"the client itself needs more than {_cpus(seen.client_processes)}: add --processes auto, or lower the rate"


def _here(process: ProcessUse, cpus: frozenset[int]) -> ProcessUse:
    """A process with its probable use of these CPUs: it may have run on any CPU that it is allowed to use."""
    if not process.allowed:
        return process
    return replace(process, cpus=process.cpus * len(process.allowed & cpus) / len(process.allowed))


def _all_but_one(cpus: Collection[int]) -> str:
    """All CPUs but the last, which is for the client, in the form of taskset; empty where there is only one."""
    return _ranges(sorted(cpus)[:-1])


def _ranges(numbers: Sequence[int]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def _cpus(count: float) -> str:
    return "1 CPU" if count == 1 else f"{count:g} CPUs"

"""From what was observed to the cause of a late client, case by case."""

from dataclasses import replace

import pytest

from tailcut.lab.lateness import Observation, ServerUse, cause
from tailcut.machine.busy import CpuUse, ProcessUse

TWO, FOUR = frozenset({0, 1}), frozenset({0, 1, 2, 3})
CLIENT, SERVER = 10, 20


def process(name: str, pid: int, cpus: float, allowed: frozenset[int] = TWO) -> ProcessUse:
    return ProcessUse(pid, name, cpus, allowed)


def use(*processes: ProcessUse, cpus: frozenset[int] = TWO, busy: float | None = None) -> CpuUse:
    total = sum(item.cpus for item in processes) if busy is None else busy
    return CpuUse(10.0, cpus, total, 0.0, 0, 0.0, processes)


def seen(*processes: ProcessUse, server: ServerUse | None = None, busy: float | None = None) -> Observation:
    own, servers = frozenset({CLIENT}), frozenset({SERVER} if server is not None else ())
    return Observation(use=use(*processes, busy=busy), own=own, server_processes=servers, server=server)


def spinning(cpus: float, computing: float | None, *, spins: bool | None = True) -> ServerUse:
    return ServerUse(pid=SERVER, cpus=cpus, engine_cpus=cpus - 0.1, allowed=TWO, spins=spins, computing=computing)


OURS = process("python3", CLIENT, 0.1)
FULL = process("tailcut", SERVER, 1.8)
HOG = process("make", 30, 0.9)
CASES = [
    pytest.param(
        seen(OURS, FULL, server=spinning(1.8, 0.2)),
        "the server's engine threads spin on both CPUs (pid 20: 1.80 CPUs, of which calls take 0.20): start it with "
        "`taskset -c 0`, or set `engine.spinning = false`",
        id="spins",
    ),
    pytest.param(
        seen(OURS, process("tailcut", SERVER, 1.4), server=spinning(1.4, None)),
        "the server's engine threads spin on 1.30 of 2 CPUs (pid 20: 1.40 CPUs): start it with `taskset -c 0`, or set "
        "`engine.spinning = false`",
        id="spins on less than both, without statistics",
    ),
    pytest.param(
        seen(OURS, FULL, server=spinning(1.8, 1.6)),
        "the server (pid 20) uses 1.80 of 2 CPUs: start it with `taskset -c 0`, or lower the rate",
        id="computes, although it may spin",
    ),
    pytest.param(
        seen(OURS, FULL, server=spinning(1.8, None, spins=None)),
        "the server (pid 20) uses 1.80 of 2 CPUs: start it with `taskset -c 0`, or lower the rate",
        id="does not say whether it spins",
    ),
    pytest.param(
        seen(OURS, HOG, process("tailcut", SERVER, 0.6), server=spinning(0.6, 0.5)),
        "make (pid 30) uses 0.90 of 2 CPUs: stop it, or give it other CPUs than the client's; the server (pid 20) uses "
        "0.60 of 2 CPUs: start it with `taskset -c 0`, or lower the rate",
        id="another process, and the server",
    ),
    pytest.param(
        seen(OURS, HOG, process("cc1", 31, 0.5), *(process("sh", pid, 0.1) for pid in (32, 33, 34))),
        "make (pid 30) uses 0.90 of 2 CPUs, cc1 (pid 31) 0.50, 3 others 0.30 together: stop them, or give them other "
        "CPUs than the client's",
        id="several processes",
    ),
    pytest.param(
        seen(OURS, process("tailcut", SERVER, 1.8)),
        "tailcut (pid 20) uses 1.80 of 2 CPUs: stop it, or give it other CPUs than the client's",
        id="a server whose process is not known",
    ),
    pytest.param(
        seen(OURS, process("make", 30, 1.9, frozenset({2, 3})), busy=1.9),
        None,
        id="a process on CPUs that are not the client's",
    ),
    pytest.param(
        seen(OURS, busy=1.9),
        "processes that cannot be seen from here use 1.80 of 2 CPUs: they have ended, or belong to other containers",
        id="hidden",
    ),
    pytest.param(seen(OURS, HOG), None, id="CPUs with room"),
    pytest.param(
        replace(seen(process("python3", CLIENT, 1.0)), client_cpu=0.98),
        "the client itself needs more than 1 CPU: add --processes auto, or lower the rate",
        id="the client at its limit",
    ),
    pytest.param(
        replace(seen(process("python3", CLIENT, 0.4)), client_cpu=1.7, client_processes=2), None, id="two clients"
    ),
    pytest.param(
        Observation(
            use=replace(use(OURS, HOG), throttled_times=34, throttled_s=1.25), own=frozenset({CLIENT}), quota_cpus=0.5
        ),
        "the CPU quota of 0.5 CPUs throttled this process's control group 34 times, for 1.25 s in all: raise the "
        "quota, run client and server in groups of their own, or lower the rate",
        id="quota",
    ),
    pytest.param(
        Observation(use=replace(use(OURS, HOG), stolen=0.234), own=frozenset({CLIENT})),
        "the host of this virtual machine gave 23% of the CPU time to others: measure when it is quieter, or on "
        "another machine",
        id="stolen",
    ),
]


@pytest.mark.parametrize(("observed", "line"), CASES)
def test_the_cause(observed: Observation, line: str | None) -> None:
    """What used the CPUs that the client may run on, with a number for each; None where nothing explains it."""
    assert cause(observed) == line


def test_more_cpus() -> None:
    """The advice is to have the server leave the last CPU free; with one CPU there is none to leave."""
    server = replace(spinning(3.9, 0.2), allowed=FOUR)
    busy = process("tailcut", SERVER, 3.9, FOUR)
    observed = replace(seen(server=server), use=use(busy, cpus=frozenset({0, 1, 2, 3, 6})), server=server)
    assert cause(observed) is None
    observed = replace(observed, use=use(busy, process("x", 5, 1.0, FOUR), cpus=frozenset({0, 1, 2, 3, 6})))
    text = cause(observed)
    assert text is not None
    assert "spin on 3.80 of 5 CPUs" in text
    assert "taskset -c 0-3`" in text
    alone = replace(observed, use=use(busy, cpus=frozenset({3})))
    text = cause(alone)
    assert text is not None
    assert text.endswith("set `engine.spinning = false`")
    assert "taskset" not in text

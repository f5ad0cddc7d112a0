"""The cost of a load to its server, which is found by its port and measured before and after, per request."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from tests.lab.scripted import answer_ok, scripted
from tests.servers import Server

from tailcut.lab.client import closed_loop
from tailcut.lab.cost import Spent, server_process, watched
from tailcut.lab.load import LoadResult, LoadTarget, as_rows, summarise
from tailcut.lab.payload import encode
from tailcut.lab.records import Cost
from tailcut.machine.process import ProcessCost

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc")
NOTHING = summarise(as_rows([]), mode="closed", duration_s=1.0, rate_offered=None, concurrency=1)


def cost(cpu_ns: int, waited_ns: int | None = 0) -> ProcessCost:
    return ProcessCost(4, 2, 8, 0, cpu_ns, waited_ns)


def answered(count: int) -> LoadResult:
    return replace(NOTHING, answered=count)


def test_costs_add_up() -> None:
    """Loads are summed before they are divided; a cost that one load does not know is unknown for all."""
    spent = Spent()
    spent.add(answered(3), cost(600))
    spent.add(answered(1), cost(200, waited_ns=None))
    assert spent.per_request() == Cost(
        context_switches=2.0,
        involuntary_switches=1.0,
        page_faults=4.0,
        major_faults=0.0,
        cpu_ns=200.0,
        waited_ns=None,
    )
    spent.add(answered(1), None)
    assert spent.per_request() is None


def test_nothing_answered_costs_nothing_known() -> None:
    """Without an answered request there is nothing to divide by."""
    spent = Spent()
    spent.add(answered(0), cost(600))
    assert spent.per_request() is None


@linux
def test_a_server_is_found_by_its_port(server: Server, target: LoadTarget, unix_target: LoadTarget) -> None:
    """A port of this machine has its process; a Unix socket, another machine and a closed port have none."""
    assert server_process(target) == server.process.pid
    assert server_process(replace(target, host="localhost")) == server.process.pid
    assert server_process(unix_target) is None
    assert server_process(LoadTarget("192.0.2.1", server.port)) is None
    assert server_process(LoadTarget("127.0.0.1", 1)) is None


def test_a_server_in_this_process_has_no_cost_of_its_own() -> None:
    """Where client and server are one process, nobody can tell their costs apart."""
    with scripted(answer_ok) as target:
        assert server_process(target) is None


@linux
def test_every_answer_counts(server: Server, target: LoadTarget) -> None:
    """Refused requests and those of the warm-up were work for the server, and are counted with the rest."""
    payloads = [encode(target, "GET", "/nowhere")]
    result, outcome = watched(
        server.process.pid, lambda: closed_loop(target, payloads, concurrency=1, duration_s=0.1, warmup_s=0.1)
    )
    assert result.samples == 0
    assert result.answered > sum(result.errors.values()) > 10
    assert outcome is not None
    assert outcome.cpu_ns > 0


@linux
def test_a_server_that_ended_has_no_cost() -> None:
    """A process that is gone before the load, or by its end, leaves the cost unknown."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:

        def run() -> LoadResult:
            child.communicate(b"\n")
            return NOTHING

        assert watched(child.pid, run)[1] is None
    assert watched(child.pid, lambda: NOTHING)[1] is None
    assert watched(os.getpid(), lambda: NOTHING)[1] is not None
    assert watched(None, lambda: NOTHING)[1] is None

"""The costs of the way in, from loads of a server of which all costs are known."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import perceptron

from tailcut.lab.load import LoadResult
from tailcut.machine.process import ProcessCost
from tailcut.tuner.learning import facts_of, learn
from tailcut.tuner.records import Wanted
from tailcut.tuner.servers import Servers
from tailcut.tuner.simulate import WayIn
from tailcut.tuner.space import Wiring
from tailcut.tuner.ways import MANY, PROBED, Probe, best_wiring, measure_ways, way_in, way_settings


def closed(rate: float, latency_ns: float, client_ns: float = 0.0) -> LoadResult:
    latencies = np.full(1000, latency_ns, np.int64)
    client_cpu = client_ns * rate / 1e9
    return LoadResult("closed", 1000 / rate, None, rate, 1, latencies, latencies, answered=1000, client_cpu=client_cpu)


def known(way: WayIn, passes: int) -> Probe:
    """What the three loads find at a server with these costs."""
    request = way.receive_ns + way.answer_ns
    alone_cpu = request + way.batch_ns + passes * way.pass_ns
    client = way.client_ns + way.client_pass_ns
    alone = alone_cpu + client + way.outside_ns + 2 * way.wake_ns
    together = request + (way.batch_ns + way.pass_ns) / (MANY / 2)
    cost = ProcessCost(0, 0, 0, 0, 1000 * alone_cpu, 0)
    many = closed(1e9 / together, 0, way.client_ns)
    return Probe(closed(1e9 / alone, alone, client), cost, many, closed(1e9 / (request + way.batch_ns), 0))


def test_the_costs_come_back() -> None:
    """Inline and through a worker, whose lone answer takes a second pass of the loop and two wake-ups."""
    client = {"client_ns": 4000, "client_pass_ns": 9000}
    inline = WayIn(2000, 3000, 25_000, wake_ns=0, outside_ns=20_000, pass_ns=30_000, **client)
    worker = WayIn(2800, 4200, 70_000, wake_ns=35_000, outside_ns=20_000, pass_ns=26_000, **client)
    first, second = known(inline, 1), known(worker, 2)
    found = way_in(first, first), way_in(second, first)
    for way, expected in zip(found, (inline, worker), strict=True):
        assert asdict(way) == pytest.approx(asdict(expected), abs=2)


def test_noise_makes_no_negative_costs() -> None:
    """A server that was slower with batches than without them, and quicker alone than among many."""
    cost = ProcessCost(0, 0, 0, 0, 1000 * 5000, 0)
    odd = Probe(closed(1e5, 8000), cost, closed(20_000, 0), closed(50_000, 0))
    way = way_in(odd, odd)
    assert min(way.receive_ns, way.answer_ns, way.batch_ns, way.pass_ns, way.wake_ns, way.outside_ns) >= 0


def test_the_plainest_of_equal_ways() -> None:
    """Within three hundredths of the quickest, the first that was asked for."""
    raw, near, shared = Wiring("raw"), Wiring("raw", "unix"), Wiring("shared", "unix")
    assert best_wiring({raw: 100.0, near: 102.0, shared: 90.0}) == raw
    assert best_wiring({raw: 100.0, near: 120.0, shared: 121.0}) == near
    assert best_wiring({raw: 100.0, near: 120.0, shared: 180.0}) == shared


def test_what_real_servers_cost(tmp_path: Path) -> None:
    """Nanoseconds for each part, with an engine that computes nothing; only a worker thread has to be woken."""
    path = perceptron([16, 4], tmp_path / "m.onnx")
    learned = learn(Wanted(path), 1.0, lambda event: None)
    facts = facts_of(Wanted(path), learned)
    servers = Servers(path, learned.spec, learned.requests)
    try:
        ways = measure_ways(servers, {kind: way_settings(facts, kind) for kind in PROBED}, 0.9)
    finally:
        servers.keep()
    for way in ways.values():
        assert 200 < way.receive_ns + way.answer_ns < 2_000_000
        assert min(way.batch_ns, way.pass_ns, way.wake_ns, way.outside_ns) >= 0
    assert ways["inline"].wake_ns == 0

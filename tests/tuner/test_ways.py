"""The overhead of requests, estimated from loads of a server whose costs are all known."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import images, perceptron

from tailcut.engines import EngineOptions
from tailcut.engines.base import U8Input
from tailcut.lab.client import closed_loop
from tailcut.lab.load import LoadResult
from tailcut.machine.process import ProcessCost
from tailcut.tuner.engine_estimate import EngineEstimate
from tailcut.tuner.learning import facts_of, learn
from tailcut.tuner.pixels import as_pixels
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.servers import TrialServers
from tailcut.tuner.simulate import WayIn
from tailcut.tuner.space import Wiring
from tailcut.tuner.ways import (
    MANY,
    PROBED,
    Probe,
    RealEngine,
    best_wiring,
    disturbance_ns,
    measure_ways,
    real_engines,
    way_in,
    way_settings,
    wiring_settings,
)


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
    result = way_in(first, first), way_in(second, first)
    for way, expected in zip(result, (inline, worker), strict=True):
        assert asdict(way) == pytest.approx(asdict(expected), abs=2)


def test_noise_makes_no_negative_costs() -> None:
    """A server that was slower with batches than without them, and quicker alone than among many."""
    cost = ProcessCost(0, 0, 0, 0, 1000 * 5000, 0)
    odd = Probe(closed(1e5, 8000), cost, closed(20_000, 0), closed(50_000, 0))
    way = way_in(odd, odd)
    assert min(way.receive_ns, way.answer_ns, way.batch_ns, way.pass_ns, way.wake_ns, way.outside_ns) >= 0


@pytest.mark.parametrize(("rate", "slower_ns"), [(20_000, 12_000), (40_000, 0), (1000, 60_000)])
def test_what_the_loop_loses_after_a_real_engine(rate: float, slower_ns: int) -> None:
    """Beyond 30 us of the loop and 8 of the engine; never less than nothing, never more than twice the loop's time."""
    inline = Probe(closed(1e4, 0), None, closed(1e5, 0), closed(1e9 / 30_000, 0))
    assert disturbance_ns(closed(rate, 0), inline, 8000.0) == pytest.approx(slower_ns, abs=1)


def test_one_quick_engine_of_each_kind() -> None:
    """On one thread, the quickest; a call of two milliseconds is not worth it."""
    made = {
        EngineOptions(threads=1): 9_000,
        EngineOptions(threads=1, precision="bf16"): 7_000,
        EngineOptions(threads=2): 5_000,
        EngineOptions(name="openvino", threads=1): 2_000_000,
    }
    estimates = [EngineEstimate(options, {1: [np.full(9, ns)]}) for options, ns in made.items()]
    assert real_engines(estimates) == [RealEngine(EngineOptions(threads=1, precision="bf16"), 7_000.0)]


def test_the_plainest_of_equal_ways() -> None:
    """Within three hundredths of the quickest, the first that was asked for."""
    raw, near, shared = Wiring("raw"), Wiring("raw", "unix"), Wiring("shared", "unix")
    assert best_wiring({raw: 100.0, near: 102.0, shared: 90.0}) == raw
    assert best_wiring({raw: 100.0, near: 120.0, shared: 121.0}) == near
    assert best_wiring({raw: 100.0, near: 120.0, shared: 180.0}) == shared


def test_the_empty_engine_has_the_payload_of_the_clients(tmp_path: Path) -> None:
    """Pixels of a byte each where clients may send pixels, and no other outputs than those that they want."""
    path = images(tmp_path / "m.onnx")
    pixels = U8Input(scale=(1 / 255,))
    wanted = TuneRequest(path, normalize=pixels, outputs=("total",), fixed=("image:2=8", "image:3=8"))
    learned = learn(wanted, 1.0, lambda event: None)
    servers = TrialServers(path, learned.spec, learned.requests)
    facts, sent = facts_of(wanted, learned), as_pixels(pixels, learned.spec, servers.requests[0])
    try:
        for settings in (way_settings(facts, "inline"), wiring_settings(facts)):
            assert settings.engine.outputs == ("total",)
            arm = servers.arm(settings)
            assert arm.payloads[0].request.endswith(sent["image"].tobytes())
            for duration_s in (0.05, 0.5, 5.0):  # longer where a busy machine gives the server no time for an answer
                load = closed_loop(arm.target, arm.payloads, concurrency=1, duration_s=duration_s, warmup_s=0.0)
                if load.samples:
                    break
            assert load.samples
            assert not load.errors
    finally:
        servers.keep()


@pytest.mark.slow
def test_what_real_servers_cost(tmp_path: Path) -> None:
    """Nanoseconds for each part, with an engine that computes nothing; only a worker thread has to be woken."""
    path = perceptron([16, 4], tmp_path / "m.onnx")
    learned = learn(TuneRequest(path), 1.0, lambda event: None)
    facts = facts_of(TuneRequest(path), learned)
    servers = TrialServers(path, learned.spec, learned.requests)
    settings = {kind: way_settings(facts, kind) for kind in PROBED}
    try:
        ways = measure_ways(servers, settings, 0.9, [RealEngine(EngineOptions(threads=1), 5000.0)])
    finally:
        servers.keep()
    assert 0 <= ways.engine_ns["onnxruntime"] < 2_000_000
    for way in ways.by_dispatch.values():
        assert 200 < way.receive_ns + way.answer_ns < 2_000_000
        assert min(way.batch_ns, way.pass_ns, way.wake_ns, way.outside_ns) >= 0
    assert ways.of("inline", "onnxruntime").wake_ns == 0

"""Servers of a tune: what is sent to them by each way, and that nothing of it stays."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import perceptron

from tailcut.lab.client import closed_loop
from tailcut.lab.load import LoadResult
from tailcut.lab.trial import Arm
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.tuner.servers import TrialServers, sent_in_turn
from tailcut.tuner.space import BASELINE, SpaceFacts, Wiring, changed, wirings
from tailcut.tuner.ways import measured_wiring, way_settings

SPEC = ModelSpec("near", (TensorSpec("x", DType.FP32, (None, 16)),), (TensorSpec("y", DType.FP32, (None, 3)),))
FACTS = SpaceFacts(SPEC, 2, 2, frozenset(), local=True)
SHARED = Path("/dev/shm")


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[TrialServers]:
    random = np.random.default_rng(0)
    requests = [{"x": random.standard_normal((1, 16)).astype(np.float32)} for _ in range(8)]
    made = TrialServers(perceptron([16, 8, 3], tmp_path / "near.onnx"), SPEC, requests)
    yield made
    made.keep()


def regions() -> set[str]:
    return {path.name for path in SHARED.glob(f"tailcut-{os.getpid()}-*")}


def loaded(arm: Arm) -> LoadResult:
    return closed_loop(arm.target, arm.payloads, concurrency=4, duration_s=0.2, warmup_s=0.05)


@pytest.mark.skipif(not SHARED.is_dir(), reason="there is no /dev/shm")
def test_one_server_is_asked_by_every_way(servers: TrialServers) -> None:
    """TCP and a Unix socket, bodies and shared memory: each is answered, and the regions go with the server."""
    settings = changed(BASELINE, engine={"threads": 1}, io={"wire": "shared", "socket": "unix"})
    before, pids, targets = regions(), set(), set()
    for wiring in wirings(FACTS):
        arm = servers.arm(settings, changed(settings, io={"wire": wiring.wire, "socket": wiring.socket}).io)
        result = loaded(arm)
        assert result.answered
        assert not result.errors
        assert all(bool(payload.places) is (wiring.wire == "shared") for payload in arm.payloads)
        pids.add(arm.pid)
        targets.add(arm.target.uds is None)
    assert len(pids) == 1
    assert targets == {True, False}
    assert regions() - before
    servers.keep()
    assert regions() == before


@pytest.mark.skipif(not SHARED.is_dir(), reason="there is no /dev/shm")
def test_how_requests_travel_is_measured(servers: TrialServers) -> None:
    """One of what clients may use; then the overhead of requests is measured with it."""
    result = measured_wiring(servers, FACTS, 0.3)
    assert result in wirings(FACTS)
    settings = way_settings(replace(FACTS, wiring=result), "worker")
    assert (settings.io.wire, settings.io.socket) == (result.wire, result.socket)
    assert loaded(servers.arm(settings)).answered


def test_where_there_is_one_way_nothing_is_measured(servers: TrialServers) -> None:
    """No server is started for it."""
    assert measured_wiring(servers, replace(FACTS, local=False), 60.0) == Wiring("raw")
    assert not servers.start_s


def test_the_cost_of_a_change_is_reported(servers: TrialServers) -> None:
    """Start and memory of both servers, where both run."""
    item, other = (changed(BASELINE, engine={"threads": 1}, io={"fast_path": fast}) for fast in (True, False))
    for settings in (item, other):
        servers.arm(settings)
    words = servers.compared(other, item)
    assert words.count("s to start and ") == 2
    assert " MB; before " in words


def test_servers_of_a_claim_are_executed(servers: TrialServers) -> None:
    """Those before it are forked, and stop when claims begin; how long a start takes is known from the first on."""
    first, other, third = (changed(BASELINE, batching={"max_batch_size": size}) for size in (1, 2, 4))
    assert servers.start_s == servers.executing_s(1) == 0.0
    running = [servers.of(first)]
    assert 0 < servers.start_s < servers.executing_s(1) < servers.executing_s(64)
    running += [servers.of(settings) for settings in (other, third)]
    assert [server._forked for server in running] == [True] * 3
    servers.execute()
    assert [server.pid is None for server in running] == [True] * 3
    again = servers.of(other)
    assert not again._forked
    assert servers.of(other) is again


def test_what_is_sent_in_turn_is_of_all_the_data() -> None:
    """Of one shape 32 spread over all; of several shapes 64 in a shuffled order, fewer where they are large."""
    alike = [{"x": np.full((1, 4), number)} for number in range(320)]
    assert [int(item["x"][0, 0]) // 10 for item in sent_in_turn(alike)] == list(range(32))
    assert sent_in_turn(alike[:5]) == alike[:5]
    longer = [{"x": np.broadcast_to(np.float32(0), (1, length))} for length in range(1, 1281)]
    lengths = [item["x"].shape[1] for item in sent_in_turn(longer)]
    assert sorted((length - 1) // 20 for length in lengths) == list(range(64))
    assert max(lengths[:16]) > 640 > min(lengths[:16])


@pytest.mark.parametrize(("width", "count", "mixed"), [(1, 32, 32), (2, 16, 16), (64, 4, 8)])
def test_large_requests_are_fewer(width: int, count: int, mixed: int) -> None:
    """All together have 128 MiB as JSON, of which each of these numbers takes four bytes."""
    alike = [{"x": np.broadcast_to(np.float32(0), (1, width, (1 << 20) - 1000))} for _ in range(40)]
    assert len(sent_in_turn(alike)) == count
    assert len(sent_in_turn([*alike, {"x": np.zeros((1, 1, 1), np.float32)}])) == mixed

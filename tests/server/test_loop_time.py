"""What a client makes the event loop do holds up nobody else: hostile inputs, beside a good client."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import uvloop
from tests.effort import THOROUGH, some
from tests.engines.models import perceptron
from tests.server.beside import GoodClient, wait_beside_s
from tests.server.hostile import ALL, Hostile, corpora, make_models
from tests.server.sound import HEALTH
from tests.server.workers.test_supervisor import LINUX
from tests.servers import Server, raw_request, serving, until

from tailcut.machine.process import usage
from tailcut.machine.quota import usable_cpus
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, IoSettings, Settings
from tailcut.runtime.tracing.timeline import Events
from tailcut.server.event_monitor import EventMonitor
from tailcut.server.metrics import ServerCounts

REQUEST = raw_request("mlp", np.arange(4, dtype=np.float32).tobytes())
BUSY = "tailcut_loop_busy_us_total"
RATE = 200.0
ABOVE_QUIET_S = 0.05
TRIES = 3  # of an input that seems to hold up others: it does where it does so each time
INPUT_S = 0.35 if THOROUGH else 0.2  # for each: what holds the loop up does so at once


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of small models with the limits that it has when nothing is said."""
    folder = tmp_path_factory.mktemp("hostile")
    with serving(folder, *make_models(folder), "--grpc-port", "0") as running:
        yield running
        assert running.stop() == 0


@pytest.fixture
def client(server: Server) -> Iterator[GoodClient]:
    client = GoodClient(server, REQUEST, RATE)
    yield client
    client.close()


def quiet_s(client: GoodClient) -> float:
    done = threading.Event()
    threading.Timer(0.5, done.set).start()
    client.longest_wait_s(done)  # compiled code and buffers are there from now on
    done = threading.Event()
    threading.Timer(0.5, done.set).start()
    return client.longest_wait_s(done)


@LINUX
@pytest.mark.serial
def test_nobody_waits_for_a_hostile_client(server: Server, client: GoodClient) -> None:
    """The good client's worst answer is 50 ms above quiet at most, and each is right, whatever another client sends."""
    limit_s = quiet_s(client) + ABOVE_QUIET_S
    inputs: dict[str, Hostile] = some(dict([*ALL.items(), *corpora()]))
    held_up = [
        name
        for name, hostile in inputs.items()
        if all(wait_beside_s(server, client, hostile, limit_s=INPUT_S, quiet_s=0.01) > limit_s for _ in range(TRIES))
    ]
    assert held_up == []
    assert client.wrong == 0
    # Late for a timer by no more than two such waits: the loop's own look at itself, over the whole time.
    assert server.metric("tailcut_loop_longest_stall_seconds") > 0
    assert server.metric("tailcut_loop_longest_stall_cpu_seconds") < 2 * limit_s
    with server.connect() as wire:
        assert wire.ask(HEALTH).status == 200


def test_a_held_up_loop_is_seen() -> None:
    """The metric is the time by which the loop was late for a timer, and how much of it the loop's thread computed."""
    counts = ServerCounts()

    async def run() -> None:
        event_monitor = EventMonitor(asyncio.get_running_loop(), Events(), counts)
        for work in (time.sleep, _compute):
            work(0.1)
            await asyncio.sleep(0.03)
            if work is time.sleep:
                assert counts.loop_stall_ns > 80_000_000
                assert counts.loop_stall_cpu_ns < 80_000_000
        event_monitor.close()

    uvloop.run(run())
    assert counts.loop_stall_cpu_ns > 60_000_000


def test_the_loops_own_time_is_counted() -> None:
    """Of its thread's CPU time, what it computes and not what it sleeps."""
    counts = ServerCounts()

    async def run() -> None:
        event_monitor = EventMonitor(asyncio.get_running_loop(), Events(), counts)
        time.sleep(0.3)  # noqa: ASYNC251  the loop sleeps
        _compute(0.1)
        await asyncio.sleep(0.03)
        event_monitor.close()

    uvloop.run(run())
    assert 100_000_000 <= counts.loop_cpu_ns < 300_000_000


@pytest.mark.slow
@pytest.mark.skipif(not LINUX or usable_cpus() < 2, reason="a server on one CPU does not poll; its time is Linux's")
def test_polling_that_finds_nothing_is_no_work(tmp_path: Path) -> None:
    """A loop that polls its sockets all the time for a few requests uses its CPU, and is not called busy for it."""
    settings = Settings(batching=BatchingSettings(dispatch="inline"), io=IoSettings(busy_poll_us=10_000))
    profile = tmp_path / "mlp.profile.toml"
    Profile.of_model(perceptron([4, 3], tmp_path / "mlp.onnx"), settings).save(profile)
    with serving(tmp_path, profile) as server, server.connect() as wire:

        def ask() -> float:
            assert wire.ask(REQUEST).status == 200
            used = usage(server.process.pid)
            assert used is not None
            return used.cpu_ns / 1e9

        before, busy_before = ask(), server.metric(BUSY)
        until(lambda: ask() > before + 0.5, server)
        busy_s = (server.metric(BUSY) - busy_before) / 1e6
        assert 0 < busy_s < 0.25
        assert server.stop() == 0


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="workers need Linux")
def test_the_time_of_all_workers_is_added(tmp_path: Path) -> None:
    """Whichever of them is asked; each has a loop."""
    with serving(tmp_path, *make_models(tmp_path), "--workers", "2") as fleet:
        until(lambda: fleet.metric("tailcut_loops") == 2, fleet)
        before = [fleet.metric(BUSY) for _ in range(6)]
        assert before == sorted(before)
        assert fleet.stop() == 0


def test_a_saturated_fast_path_is_busy(server: Server) -> None:
    """Requests that wait in the kernel's buffers wait in no queue: the loop's time tells, beside the engine's."""
    names = (BUSY, "tailcut_engine_busy_us_total", "nv_inference_queue_duration_us")
    with server.connect() as wire:
        before = [server.metric(name) for name in names]
        for _ in range(500):
            assert wire.ask(REQUEST).status == 200
        loop, engine, queued = (server.metric(name) - each for name, each in zip(names, before, strict=True))
    assert loop > engine
    assert loop > queued


def _compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

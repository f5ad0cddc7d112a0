"""What a client makes the event loop do holds up nobody else: hostile inputs, beside a good client."""

import asyncio
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import uvloop
from tests.effort import some
from tests.server.beside import GoodClient, wait_beside_s
from tests.server.hostile import ALL, Hostile, corpora, make_models
from tests.server.sound import HEALTH
from tests.server.workers.test_supervisor import LINUX
from tests.servers import Server, raw_request, serving

from tailcut.runtime.tracing.timeline import Events
from tailcut.server.event_monitor import EventMonitor
from tailcut.server.metrics import ServerCounts

REQUEST = raw_request("mlp", np.arange(4, dtype=np.float32).tobytes())
RATE = 200.0
ABOVE_QUIET_S = 0.05
TRIES = 3  # of an input that seems to hold up others: it does where it does so each time
INPUT_S = 0.35  # for each: what holds the loop up does so at once


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


def _compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

"""A replica's server as a process of its own, without Ray."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import identity
from tests.servers import TIMEOUT_S

import tailcut
from tailcut.ray.server import ReplicaServer, StartError
from tailcut.spec import DType

HOLDER = """
import asyncio, sys
from tailcut.ray.server import ReplicaServer
async def main():
    server = await ReplicaServer.start([sys.argv[1]], [], host="127.0.0.1", cpus=0, on_end=print)
    print(server.pid, server.socket, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return identity(DType.FP32, (None, 4), tmp_path / "echo.onnx")


def test_it_serves_on_its_port_and_its_socket_until_it_is_stopped(model: Path) -> None:
    """What is in flight is answered; its folder is removed."""
    x = np.ones((1, 4), np.float32)

    async def run() -> None:
        ended = threading.Event()
        options = ["--drain", "0s", "--no-auto"]
        server = await ReplicaServer.start([f"m={model}"], options, host="127.0.0.1", cpus=0, on_end=ended.set)
        assert server.models == ["m"]
        for url in (server.url, f"unix:{server.socket}"):
            async with tailcut.AsyncClient(url) as client:
                assert ((await client.infer("m", {"x": x}))["y"] == x).all()
        await server.stop(TIMEOUT_S)
        assert not Path(server.socket).parent.exists()
        assert not ended.is_set()

    asyncio.run(run())


@pytest.mark.slow
def test_one_that_does_not_start_says_why(tmp_path: Path) -> None:
    """In the server's own words."""

    async def run() -> None:
        await ReplicaServer.start([str(tmp_path / "none.onnx")], [], host="127.0.0.1", cpus=0, on_end=print)

    with pytest.raises(StartError, match=r"none\.onnx"):
        asyncio.run(run())


def test_an_end_at_the_start_is_an_error_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it failed by itself or its start was given up: what ends the replica is not called."""
    ended, held, began = threading.Event(), threading.Event(), threading.Event()
    logs: list[threading.Thread] = []
    wait = ReplicaServer._wait_until_ready

    def late(server: ReplicaServer) -> None:  # its log has been read to the end before anything is known of the start
        server._process.wait()
        server._log.join(0.5)
        wait(server)

    def never(server: ReplicaServer) -> None:
        logs.append(server._log)
        began.set()
        held.wait(TIMEOUT_S)

    async def begin(model: Path) -> None:
        await ReplicaServer.start([str(model)], ["--no-auto"], host="127.0.0.1", cpus=0, on_end=ended.set)

    async def give_up(model: Path) -> None:
        task = asyncio.create_task(begin(model))
        assert await asyncio.to_thread(began.wait, TIMEOUT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(logs[0].join, TIMEOUT_S)
        held.set()

    monkeypatch.setattr(ReplicaServer, "_wait_until_ready", late)
    with pytest.raises(StartError, match=r"none\.onnx"):
        asyncio.run(begin(tmp_path / "none.onnx"))
    monkeypatch.setattr(ReplicaServer, "_wait_until_ready", never)
    asyncio.run(give_up(identity(DType.FP32, (None, 4), tmp_path / "echo.onnx")))
    assert not logs[0].is_alive()
    assert not ended.is_set()


def test_its_end_is_noticed(model: Path) -> None:
    """A replica without a server must not stay."""

    async def run() -> None:
        ended = threading.Event()
        server = await ReplicaServer.start([str(model)], ["--no-auto"], host="127.0.0.1", cpus=0, on_end=ended.set)
        os.kill(server.pid, signal.SIGKILL)
        assert await asyncio.to_thread(ended.wait, TIMEOUT_S)

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl(2)")
def test_it_does_not_outlive_its_replica(model: Path) -> None:
    """However the replica ends."""
    replica = subprocess.Popen([sys.executable, "-c", HOLDER, model], stdout=subprocess.PIPE, text=True)
    assert replica.stdout is not None
    pid = int(replica.stdout.readline().split()[0])
    replica.kill()
    replica.communicate()
    end = time.monotonic() + TIMEOUT_S
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < end
        time.sleep(0.02)

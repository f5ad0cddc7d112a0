"""When the fast path is opened: what a process has loaded before and after, and that nothing is lost between."""

import asyncio
import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
import uvloop
from tests.engines.models import identity
from tests.server.fastpath.test_fastpath import Client, until
from tests.servers import Server, json_request, raw_request, serving

from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.server.context import Context
from tailcut.server.fastpath.opener import FastPathOpener
from tailcut.server.fastpath.suiting import suits
from tailcut.server.limits import ServerLimits
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel
from tailcut.server.state import ServerState
from tailcut.spec import DType

FAST = "tailcut_connections_express"
ROW = np.arange(16, dtype=np.float32)
ANEW = {"PYTHONUNBUFFERED": "1"}  # a process of its own, which has inherited nothing


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return identity(DType.FP32, (None, 16), tmp_path_factory.mktemp("opener") / "echo.onnx")


def processes(server: Server) -> list[int]:
    """Those that serve."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children] or [pid]


def has_numba(pid: int) -> bool:
    return "llvmlite" in Path(f"/proc/{pid}/maps").read_text()


def asked_until(true: Callable[[], bool], server: Server, connections: int = 1) -> None:
    """Ask on a few connections, which repeat themselves, until something is so; each gets its own rows back."""
    end, number = time.monotonic() + 60, 0
    with ExitStack() as stack:
        wires = [stack.enter_context(server.connect()) for _ in range(connections)]
        while not true():
            assert time.monotonic() < end
            for _ in range(20):
                number += 1
                for index, wire in enumerate(wires):
                    row = (ROW + 1000 * index + number).astype(np.float32).tobytes()
                    wire.send(raw_request("echo", row))
                for index, wire in enumerate(wires):
                    row = (ROW + 1000 * index + number).astype(np.float32).tobytes()
                    answer = wire.read()
                    assert (answer.status, answer.body[-len(row) :]) == (200, row)


@pytest.mark.parametrize(("dtype", "does"), [(DType.FP32, True), (DType.INT64, True), (DType.BOOL, False)])
def test_which_models_suit(dtype: DType, does: bool, tmp_path: Path) -> None:
    """Those of raw rows that need no look at each byte, and those of floats in JSON."""
    with Model.open(identity(dtype, (None, 16), tmp_path / "echo.onnx")) as opened:
        assert suits(ServedModel(opened, "echo")) is does


def test_the_first_client_that_repeats_itself_opens_it(echo: Path, tmp_path: Path) -> None:
    """A process that is idle, or has other clients, has no numba; none of the requests meanwhile is lost."""
    with serving(tmp_path, echo, env=ANEW) as server:
        (pid,) = processes(server)
        for _ in range(5):
            with server.connect() as wire:
                assert wire.ask(raw_request("echo", ROW.tobytes())).status == 200
        with server.connect() as wire:
            for _ in range(200):
                assert wire.ask(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n").status == 200
        assert not has_numba(pid)
        asked_until(lambda: server.metric(FAST) == 8, server, 8)
        assert has_numba(pid)
        assert server.stop() == 0


def test_lists_of_floats_load_compiled_code_too(echo: Path, tmp_path: Path) -> None:
    """It reads them sooner, also in messages that differ too much for the fast path."""
    with serving(tmp_path, echo, env=ANEW) as server, server.connect() as wire:
        (pid,) = processes(server)
        end, number = time.monotonic() + 60, 0
        while not has_numba(pid):
            assert time.monotonic() < end
            number += 1
            data = {"name": "x", "shape": [1, 16], "datatype": "FP32", "data": (ROW + number).tolist()}
            answer = wire.ask(json_request("echo", {"id": "n" * (number % 7 + 1), "inputs": [data]}))
            assert json.loads(answer.body)["outputs"][0]["data"] == (ROW + number).tolist()
        assert number > 4
        assert server.metric(FAST) == 0


def test_each_worker_opens_its_own(echo: Path, tmp_path: Path) -> None:
    """It is opened in a worker whose clients want it."""
    with serving(tmp_path, echo, "--workers", "2", env=ANEW) as server:
        pids = processes(server)
        assert not any(map(has_numba, pids))
        asked_until(lambda: server.metric(FAST) == 8, server, 8)
        assert all(map(has_numba, pids))
        assert server.stop() == 0


def test_a_tuned_profile_opens_it_at_start(echo: Path, tmp_path: Path) -> None:
    """The tune has measured that clients use it; without evidence, a profile's fast path is opened by a client."""
    for evidence in ({}, {"limit_ms": 10.0}):
        path = tmp_path / f"{len(evidence)}.toml"
        msgspec.structs.replace(Profile.of_model(echo), evidence=evidence).save(path)
        with serving(tmp_path, f"echo={path}", env=ANEW) as server:
            assert has_numba(processes(server)[0]) is bool(evidence)


@contextmanager
def opening(state: ServerState) -> Iterator[threading.Event]:
    """Hold the loading of compiled code until the event is set."""
    from tailcut.server.fastpath import opener

    held, loads = threading.Event(), opener.loads
    opener.loads = lambda: held.wait(30) and loads()
    try:
        state.fast_path = FastPathOpener.of(state)
        yield held
    finally:
        held.set()
        opener.loads = loads


@pytest.mark.parametrize("change", ["serve", "reload", "drain", "close"])
def test_what_happens_while_it_is_loaded(echo: Path, change: str) -> None:
    """A reload and a drain go on as without it, and where the server has closed there is none afterwards."""

    async def story() -> None:
        models = ModelRepository([ServedModel(opened, "echo")])
        state = ServerState(Context(models, ready=True), ServerLimits(), direct_bytes=65536)
        with opening(state) as held:
            client = await Client(state).connect()
            await client.settle()
            (thread,) = [item for item in threading.enumerate() if item.name == "fast path"]
            if change == "reload":
                state._forget_plans()
            elif change == "drain":
                state.drain()
                await client.ask()
            elif change == "close":
                state.close()
            held.set()
            await asyncio.to_thread(thread.join)
            await asyncio.sleep(0)
        if change == "close":
            assert state.fast_path is None
        else:
            assert type(state.fast_path).__name__ == "FastPath"
        if change in {"serve", "reload"}:
            while not state.context.counts.fast_path:
                await client.ask()
        assert gc.isenabled()
        client.close()
        state.close()
        await until(lambda: not state.members and not opened.entry.scheduler.slab.in_use)
        assert state.context.counts.fast_path == 0

    with Model.open(Profile.of_model(echo)) as opened:
        uvloop.run(story())

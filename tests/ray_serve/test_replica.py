"""An actor of an application by itself, without a cluster: what it tells Serve of its servers."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.engines.models import perceptron
from tests.ray_serve.load import WIDTH
from tests.servers import TIMEOUT_S

from tailcut.ray.plan import ApplicationPlan
from tailcut.ray.policy import METRIC

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray Serve is not installed: make test-ray"),
]
DRAIN_S = 20.0
X = {"x": np.ones((1, WIDTH), np.float32)}


def replica(folder: Path, *options: str, token_file: Path | None = None) -> Any:
    """One that has two models at most, and no CPUs of its own."""
    from tailcut.ray.replica import MultiplexedReplica

    named = {name: str(perceptron([WIDTH, 4, 3], folder / f"{name}.onnx")) for name in ("a", "b")}
    plan = ApplicationPlan(
        multiplexed=named,
        models_per_replica=2,
        options=("--no-auto", *options),
        drain_s=DRAIN_S,
        token_file=None if token_file is None else str(token_file),
    )
    return MultiplexedReplica(msgspec.to_builtins(plan))


async def start(item: Any, folder: Path) -> list[Any]:
    """Its servers, as Serve has it load them."""
    return [await item._start(name, str(folder / f"{name}.onnx")) for name in ("a", "b")]


async def always(check: Callable[[], Awaitable[None]]) -> None:
    """Check until it raises."""
    while True:
        await check()


def test_requests_in_flight_are_those_of_all_servers(tmp_path: Path) -> None:
    """Each of them counts; one that made room counts no more."""

    async def run() -> None:
        item = replica(tmp_path)
        assert await item.record_autoscaling_stats() == {METRIC: 0}
        first, second = await start(item, tmp_path)
        try:
            await first.infer(X)
            assert (await item.record_autoscaling_stats())[METRIC] > 0
            await second.infer(X)
            assert (await item.record_autoscaling_stats())[METRIC] > 0
            await asyncio.sleep(1)  # in which the loops do nothing but tell of it
            assert (await item.record_autoscaling_stats())[METRIC] < 2
            await getattr(second, "__del__")()  # noqa: B009  as Serve calls it
            await first.infer(X)
            assert (await item.record_autoscaling_stats())[METRIC] > 0
        finally:
            await item.drain()

    asyncio.run(run())


def test_one_server_that_is_not_ready_is_reason_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica is healthy while all of its servers are, and says why it is not."""
    from tailcut.ray import replica as module

    monkeypatch.setattr(module, "_end", lambda: None)

    async def run() -> None:
        item = replica(tmp_path, "--drain", "2s")
        await item.check_health()
        _, second = await start(item, tmp_path)
        try:
            await item.check_health()
            os.kill(second.server.pid, signal.SIGTERM)  # its readiness is off while it drains
            with pytest.raises(RuntimeError, match="the server is not ready"):
                await asyncio.wait_for(always(item.check_health), TIMEOUT_S)
        finally:
            await item.drain()

    asyncio.run(run())


def test_a_model_makes_room_at_once(tmp_path: Path) -> None:
    """Clients do not reach its server on their own, so none has to learn of its end; all servers stop together."""

    async def run() -> None:
        item = replica(tmp_path)
        first, second = await start(item, tmp_path)
        await asyncio.gather(first.infer(X), second.infer(X))
        began = time.monotonic()
        await getattr(first, "__del__")()  # noqa: B009  as Serve calls it
        await item.drain()
        assert time.monotonic() - began < DRAIN_S / 2
        assert [local.server._process.returncode for local in (first, second)] == [0, 0]

    asyncio.run(run())


def test_a_call_in_flight_is_answered_first(tmp_path: Path) -> None:
    """The server is stopped once the last call is answered."""

    async def run() -> None:
        item = replica(tmp_path)
        first, second = await start(item, tmp_path)
        os.kill(first.server.pid, signal.SIGSTOP)
        call = asyncio.create_task(first.infer(X))
        await asyncio.sleep(0)
        stop = asyncio.create_task(getattr(first, "__del__")())  # noqa: B009  as above
        await second.infer(X)
        assert not first.server.draining
        os.kill(first.server.pid, signal.SIGCONT)
        assert (await call)["y"].shape == (1, 3)
        await stop
        await item.drain()

    asyncio.run(run())


def test_only_the_token_has_a_model_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a request without it learn which models there are; the server of a loaded one refuses it itself."""
    from starlette.requests import Request

    from tailcut.ray import replica as module

    (tmp_path / "token").write_text("secret")
    named, loaded = [""], []
    monkeypatch.setattr(module.serve, "get_multiplexed_model_id", lambda: named[0])

    async def run() -> None:
        item = replica(tmp_path, token_file=tmp_path / "token")

        async def load(model_id: str) -> Any:
            loaded.append(model_id)
            return item._running.get(model_id) or await item._start(model_id, str(tmp_path / f"{model_id}.onnx"))

        item._load = load

        async def ask(model_id: str, token: str = "") -> tuple[int, bytes]:
            named[0] = model_id
            headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
            scope = {"type": "http", "method": "GET", "path": "/v2/models/a", "root_path": "", "headers": headers}

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": b"", "more_body": False}

            answer = await item(Request(scope, receive))
            return answer.status_code, answer.body

        try:
            for model_id, token in (("a", ""), ("a", "guess"), ("", ""), ("c", "")):
                assert await ask(model_id, token) == (401, b'{"error":"this request requires the server\'s token"}')
            assert not loaded
            assert (await ask("", "secret"))[0] == 404
            assert (await ask("a", "secret"))[0] == 200
            assert (await ask("a"))[0] == 401
            assert loaded == ["a", "a"]
        finally:
            await item.drain()

    asyncio.run(run())

"""A replica's server as its own process uses it, without Ray."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.models import perceptron
from tests.servers import TIMEOUT_S

from tailcut.errors import InvalidInputError
from tailcut.ray.plan import ApplicationPlan
from tailcut.ray.tracing import traceparent

pytestmark = pytest.mark.skipif(find_spec("starlette") is None, reason="Ray Serve is not installed: make test-ray")
TRACE = f"00-{'ab' * 16}-{'12' * 8}-01"
X = {"x": np.ones((1, 4), np.float32)}


def run_with(folder: Path, use: Callable[[Any], Awaitable[None]]) -> None:
    """Have a server used."""
    from tailcut.ray.local import LocalServer

    plan = ApplicationPlan(sources=("m",), options=("--no-auto", "--access-log", "--log", "json"), drain_s=0.0)

    async def run() -> None:
        source = f"m={perceptron([4, 8, 3], folder / 'm.onnx')}"
        local = await LocalServer.start(plan, [source], "127.0.0.1", lambda: None, 0)
        try:
            await asyncio.wait_for(use(local), TIMEOUT_S)
        finally:
            await local.stop()
        local.server._log.join(TIMEOUT_S)

    asyncio.run(run())


class Caller:
    """A client of Serve's proxy, as an ASGI application has it.

    Args:
        path: that it asks for, of an application at /app.
    """

    def __init__(self, path: str) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.begun = asyncio.Event()
        self.gone = asyncio.Event()
        self._scope = {"type": "http", "method": "GET", "path": path, "root_path": "/app", "headers": []}
        self._asked = False

    async def ask(self, local: Any) -> None:
        """Ask, and receive the answer to its end."""
        from starlette.requests import Request

        answer = await local.answer(Request(self._scope, self._receive))
        await answer(self._scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.body += message["body"]
            if self.body:
                self.begun.set()


def test_server_sent_events(tmp_path: Path) -> None:
    """They are forwarded as they come; a watcher that leaves ends the server's answer as well."""

    async def use(local: Any) -> None:
        watcher = Caller("/app/live")
        task = asyncio.create_task(watcher.ask(local))
        await watcher.begun.wait()
        assert (watcher.status, watcher.headers[b"content-type"]) == (200, b"text/event-stream")
        assert watcher.body.startswith(b"event: about")
        assert len(local._http.connector._acquired) == 1
        watcher.gone.set()
        await task
        assert not local._http.connector._acquired
        cancelled = Caller("/app/live")
        task = asyncio.create_task(cancelled.ask(local))
        await cancelled.begun.wait()
        task.cancel()
        await asyncio.wait([task])
        assert not local._http.connector._acquired
        page = Caller("/app/")
        await page.ask(local)
        assert (page.status, b"<title>" in page.body) == (200, True)

    run_with(tmp_path, use)


def test_the_route_without_a_slash(tmp_path: Path) -> None:
    """Is redirected: links of the page are relative to it."""

    async def use(local: Any) -> None:
        caller = Caller("/app")
        await caller.ask(local)
        assert (caller.status, caller.headers[b"location"]) == (307, b"app/")

    run_with(tmp_path, use)


def log_of(folder: Path, capfd: pytest.CaptureFixture[str], use: Callable[[Any], Awaitable[None]]) -> list[Any]:
    """What a server that logs each request has logged of those that `use` makes."""
    run_with(folder, use)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("path", "").endswith("/infer")]


def test_the_trace_of_a_caller(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Reaches the server; one that is malformed does not, and without one there is none."""

    async def use(local: Any) -> None:
        await local.infer(X, traceparent=TRACE)
        await local.infer(X)
        with pytest.raises(InvalidInputError, match="is not a W3C traceparent"):
            await local.infer(X, traceparent="00-12-34")

    first, second = log_of(tmp_path, capfd, use)
    assert (first["trace_id"], second.get("trace_id")) == ("ab" * 16, None)


def test_the_current_span(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of a caller, to be handed over; and of the replica itself, where Serve traces."""
    trace = pytest.importorskip("opentelemetry.trace", reason="needs pip install 'tailcut[otel]'")
    context = trace.SpanContext(int("cd" * 16, 16), int("34" * 8, 16), is_remote=False, trace_flags=trace.TraceFlags(1))
    assert traceparent() is None

    async def use(local: Any) -> None:
        with trace.use_span(trace.NonRecordingSpan(context)):
            assert traceparent() == f"00-{'cd' * 16}-{'34' * 8}-01"
            await local.infer(X)

    (line,) = log_of(tmp_path, capfd, use)
    assert line["trace_id"] == "cd" * 16


def test_a_stop_waits_for_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of requests that were accepted last, as the options have it."""
    from tailcut.ray.local import LocalServer
    from tailcut.ray.server import ReplicaServer

    limits: list[float] = []
    real = ReplicaServer.stop

    async def stop(server: ReplicaServer, limit_s: float) -> None:
        limits.append(limit_s)
        await real(server, TIMEOUT_S)

    monkeypatch.setattr(ReplicaServer, "stop", stop)
    plan = ApplicationPlan(sources=("m",), options=("--no-auto", "--deadline", "120s"), drain_s=0.0)

    async def run() -> None:
        source = f"m={perceptron([4, 8, 3], tmp_path / 'm.onnx')}"
        await (await LocalServer.start(plan, [source], "127.0.0.1", lambda: None, 0)).stop()

    asyncio.run(run())
    assert limits == [pytest.approx(125.0, abs=1.0)]

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
from tailcut.ray.plan import Plan
from tailcut.ray.tracing import traceparent

pytestmark = pytest.mark.skipif(find_spec("starlette") is None, reason="Ray Serve is not installed: make test-ray")
TRACE = f"00-{'ab' * 16}-{'12' * 8}-01"
X = {"x": np.ones((1, 4), np.float32)}


def log_of(folder: Path, capfd: pytest.CaptureFixture[str], use: Callable[[Any], Awaitable[None]]) -> list[Any]:
    """What a server that logs each request has logged of those that `use` makes."""
    from tailcut.ray.local import LocalServer

    plan = Plan(sources=("m",), options=("--no-auto", "--access-log", "--log", "json"), drain_s=0.0)

    async def run() -> None:
        source = f"m={perceptron([4, 8, 3], folder / 'm.onnx')}"
        local = await LocalServer.start(plan, [source], "127.0.0.1", lambda: None, 0)
        try:
            await asyncio.wait_for(use(local), TIMEOUT_S)
        finally:
            await local.stop()
        local.server._log.join(TIMEOUT_S)

    asyncio.run(run())
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

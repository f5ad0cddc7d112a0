"""One real server for the tests of this folder, over TCP and a Unix socket."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client.blocking import Blocking
from tests.engines.models import identity, perceptron, two_in_two_out
from tests.servers import Server, serving

import tailcut
from tailcut.spec import DType


@pytest.fixture(scope="session")
def unix_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("client") / "s.sock"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, unix_path: Path) -> Iterator[Server]:
    """Serves mlp (4 -> 3), echo (float32 identity of 1,000), half (of FP16) and pair."""
    folder = tmp_path_factory.mktemp("models")
    perceptron([4, 8, 3], folder / "mlp.onnx")
    identity(DType.FP32, (None, 1000), folder / "echo.onnx")
    identity(DType.FP16, (None, 2), folder / "half.onnx")
    two_in_two_out(folder / "pair.onnx")
    sources = [folder / f"{name}.onnx" for name in ("mlp", "echo", "half", "pair")]
    with serving(folder, *sources, "--max-body", "1", "--uds", str(unix_path)) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture(params=[tailcut.Client, Blocking], ids=["sync", "async"])
def make(request: pytest.FixtureRequest) -> type:
    return request.param


@pytest.fixture(params=["tcp", "unix"])
def url(request: pytest.FixtureRequest, server: Server, unix_path: Path) -> str:
    return server.url if request.param == "tcp" else f"unix:{unix_path}"

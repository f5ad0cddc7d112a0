"""A real server, and small generated models, for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engines.models import perceptron, two_in_two_out
from tests.servers import Server, serving

from tailcut.lab.load import LoadTarget


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mlp.onnx (4 -> 3) and pair.onnx (two inputs, two outputs)."""
    folder = tmp_path_factory.mktemp("models")
    perceptron([4, 8, 3], folder / "mlp.onnx")
    two_in_two_out(folder / "pair.onnx")
    return folder


@pytest.fixture(scope="session")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of both, on a port and on a Unix socket."""
    folder = tmp_path_factory.mktemp("server")
    sources = [models / "mlp.onnx", models / "pair.onnx"]
    with serving(folder, *sources, "--uds", folder / "socket") as running:
        yield running
        assert running.stop() == 0


@pytest.fixture
def target(server: Server) -> LoadTarget:
    return LoadTarget(server.host, server.port)


@pytest.fixture
def unix_target(server: Server) -> LoadTarget:
    return LoadTarget(uds=str(server.stderr.parent / "socket"))

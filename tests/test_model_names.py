"""Models whose names need percent-encoding, through every command and client that names one in a URL."""

import json
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

import tailcut
from tailcut.lab.describe import served_models, served_spec
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import infer_once
from tests.engines.models import perceptron
from tests.servers import Server, serving

NAMES = ["a b", "50%", "what?", "a/b", "a#b", "größe", "模型", '"q"', "it's", "+", "\\"]
ROWS = np.ones((2, 4), np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """All of them, and one that is called after a file with a space in its name."""
    folder = tmp_path_factory.mktemp("names")
    path = perceptron([4, 3], folder / "file name.onnx")
    sources = [f"{name}={path}" for name in NAMES]
    with serving(folder, *sources, str(path), "--grpc-port", "0") as server:
        yield server


@pytest.fixture
def target(server: Server) -> LoadTarget:
    return LoadTarget("127.0.0.1", server.port)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tailcut", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("name", [*NAMES, "file name"])
def test_every_name_is_asked_by_every_client(server: Server, target: LoadTarget, name: str) -> None:
    """The load client, the blocking client and gRPC reach the model under its own name."""
    assert name in served_models(target)
    assert served_spec(target, name).name == name
    wanted = infer_once(target, name, {"x": ROWS})["y"]
    with tailcut.Client(server.url) as client:
        np.testing.assert_array_equal(client.infer(name, {"x": ROWS})["y"], wanted)
    grpc = LoadTarget("127.0.0.1", server.grpc_port, grpc=True)
    assert served_spec(grpc, name).inputs == served_spec(target, name).inputs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["what?", "模型"])
def test_bench_and_explain_take_every_name(server: Server, name: str) -> None:
    """Both commands measure the model that is named."""
    bench = run("bench", server.url, "--model", name, "--duration", "0.3s", "--rate", "50", "--json")
    assert bench.returncode == 0, bench.stderr
    assert [load["errors"] for load in json.loads(bench.stdout)["runs"]] == [{}]
    explain = run("explain", server.url, "--model", name, "--duration", "0.3s", "--json")
    assert "Traceback" not in explain.stderr
    assert explain.returncode == 0, explain.stderr

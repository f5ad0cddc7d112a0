"""The commands of docs/guide/ray.md, on a Ray that `ray start` begins: with a token, by `serve deploy FILE`."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.models import perceptron
from tests.ray_serve.load import WIDTH, truth
from tests.schemas import validated

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray Serve is not installed: make test-ray"),
]
SOURCE = Path(__file__).parents[2] / "src"
BIN = Path(sys.executable).parent
LIMIT_S = 300.0  # on a machine that does other work
ROW = np.ones((1, WIDTH), np.float32)


@dataclass
class Head:
    """A node that `ray start --head` began: how commands reach it."""

    environment: dict[str, str]
    folder: Path
    dashboard: str

    def run(self, *command: str) -> str:
        """The output of a command of this environment."""
        done = subprocess.run(
            [BIN / command[0], *command[1:]], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def status(self) -> dict[str, Any]:
        """What `serve status` says of the applications."""
        import yaml

        return yaml.safe_load(self.run("serve", "status", "--address", self.dashboard))["applications"]


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [item.getsockname()[1] for item in sockets]


@contextmanager
def started(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (
        log.open("wb") as output,
        subprocess.Popen([BIN / command[0], *command[1:]], env=environment, stdout=output, stderr=output) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()  # its children end with it
            process.wait(LIMIT_S)


@pytest.fixture
def head() -> Iterator[Head]:
    """One node with two CPUs, whose token is in a home of its own."""
    client, dashboard, agent = free_ports(3)
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as name:  # paths of sockets are short
        folder = Path(name)
        environment = os.environ | {
            "HOME": name,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(SOURCE),
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # at the end nothing is to be moved to another node
            "RAY_memory_monitor_refresh_ms": "0",  # other tests may fill the memory of this machine
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),  # compiled kernels
        }
        environment.pop("RAY_ADDRESS", None)
        made = Head(environment, folder, f"http://127.0.0.1:{dashboard}")
        made.run("ray", "get-auth-token", "--generate")
        command = ["ray", "start", "--head", "--block", "--port=0", "--num-cpus=2", "--object-store-memory=80000000"]
        command += [f"--temp-dir={folder / 'ray'}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
        log = folder / "start.log"
        with started(command, environment, log) as process:
            end = time.monotonic() + LIMIT_S
            while "Ray runtime started" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
            environment["RAY_ADDRESS"] = (folder / "ray" / "ray_current_cluster").read_text()
            yield made


class Proxy:
    """Serve's own proxy, asked on one connection after another."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self) -> np.ndarray:
        """The outputs for ROW."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=LIMIT_S)
        tensor = {"name": "x", "datatype": "FP32", "shape": list(ROW.shape), "data": ROW.ravel().tolist()}
        try:
            connection.request("POST", "/v2/models/m/infer", json.dumps({"inputs": [tensor]}))
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
        finally:
            connection.close()
        (output,) = json.loads(body)["outputs"]
        return np.array(output["data"], np.float32).reshape(output["shape"])


def test_serve_deploy_takes_the_file(head: Head, tmp_path: Path) -> None:
    """`tailcut ray config`, `serve deploy`, and both again for other weights: no answer is wrong, none fails."""
    import yaml

    model, file = tmp_path / "m.onnx", tmp_path / "m.yaml"
    contents = [perceptron([WIDTH, *inner, 4], tmp_path / f"{len(inner)}.onnx") for inner in ([], [8])]
    truths = [truth(content, ROW) for content in contents]
    (port,) = free_ports(1)

    def deploy(content: Path) -> None:
        shutil.copy(content, model)
        options = ["--cpus", "0.5", "--drain", "1s", "--host", "127.0.0.1", "-o", str(file)]
        head.run("tailcut", "ray", "config", str(model), *options)
        written = yaml.safe_load(file.read_text())
        written["http_options"]["port"] = port
        file.write_text(yaml.safe_dump(written, sort_keys=False))
        head.run("serve", "deploy", str(file), "--address", head.dashboard)

    def replicas() -> list[str]:
        return validated("ray replicas", head.run("tailcut", "ray", "replicas", "m", "--json"))["replicas"]

    deploy(contents[0])
    end = time.monotonic() + LIMIT_S
    while (result := head.status()["m"])["status"] != "RUNNING":
        assert result["status"] == "DEPLOYING", result
        assert time.monotonic() < end, result
    proxy, before = Proxy(port), replicas()
    assert len(before) == 1
    np.testing.assert_allclose(proxy.ask(), truths[0], rtol=1e-4, atol=1e-5)

    deploy(contents[1])
    old = True
    while old:
        assert time.monotonic() < end + LIMIT_S
        answer = proxy.ask()
        old = np.allclose(answer, truths[0], rtol=1e-4, atol=1e-5)
        assert old or np.allclose(answer, truths[1], rtol=1e-4, atol=1e-5)
        time.sleep(0.01)
    for _ in range(100):  # while the old replica drains, and goes
        np.testing.assert_allclose(proxy.ask(), truths[1], rtol=1e-4, atol=1e-5)
    while len(after := replicas()) > 1:
        assert time.monotonic() < end + LIMIT_S
    assert set(after).isdisjoint(before)

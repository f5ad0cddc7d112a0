"""One server replaces another on the same address while clients go on: no request fails, on no kind of connection."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from tests.servers import TIMEOUT_S, Server, Wire, json_request, serving

BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
HEADERS = {"Content-Type": "application/json"}
INFER = "/v2/models/mlp/infer"
ENOUGH = 50  # answers from each server


class Clients:
    """Threads that ask without a pause, and what they were answered."""

    def __init__(self) -> None:
        self.answers: dict[str, Counter[str]] = {}  # by the kind of client: how many by which version
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()

    def start(self, kind: str, ask: Callable[[], Iterator[str]]) -> None:
        """Ask from now on: `ask` yields the version that answered, for each request."""
        self.answers[kind] = Counter()
        self._threads.append(threading.Thread(target=self._run, args=(kind, ask)))
        self._threads[-1].start()

    def wait(self, version: str) -> None:
        """Until each kind of client has been answered by that version often enough."""
        with self._changed:
            seen = self._changed.wait_for(
                lambda: self.failures or all(count[version] >= ENOUGH for count in self.answers.values()), TIMEOUT_S
            )
        assert seen, self.answers
        assert not self.failures

    def stop(self) -> None:
        """End them all."""
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)

    def _run(self, kind: str, ask: Callable[[], Iterator[str]]) -> None:
        try:
            for version in ask():
                with self._changed:
                    self.answers[kind][version] += 1
                    self._changed.notify_all()
                if self._stop.is_set():
                    return
        except Exception as error:  # noqa: BLE001  whatever a client sees is a failed request
            with self._changed:
                self.failures.append(f"{kind}: {type(error).__name__}: {error}")
                self._changed.notify_all()


def kept_alive(port: int) -> Iterator[str]:
    """The standard library's client: one connection as long as the server keeps it; a reset is not repeated."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    while True:
        connection.request("POST", INFER, json.dumps(BODY), HEADERS)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        yield json.loads(body)["model_version"]


def connecting(port: int) -> Iterator[str]:
    """A new connection for each request."""
    while True:
        with Wire(socket.create_connection(("127.0.0.1", port), TIMEOUT_S)) as wire:
            answer = wire.ask(json_request("mlp", BODY, "Connection: close"))
        assert answer.status == 200, answer.body
        yield answer.json()["model_version"]


def over_unix(path: Path) -> Iterator[str]:
    """A new connection over the Unix socket for each request."""
    while True:
        with Wire(socket.socket(socket.AF_UNIX)) as wire:
            wire.sock.connect(str(path))
            answer = wire.ask(json_request("mlp", BODY, "Connection: close"))
        assert answer.status == 200, answer.body
        yield answer.json()["model_version"]


def over_grpc(port: int) -> Iterator[str]:
    """NVIDIA's client over one channel."""
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}")
    tensor = tritonclient.grpc.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
    while True:
        yield client.infer("mlp", [tensor]).get_response().model_version


@contextmanager
def clients_of(server: Server, unix: Path) -> Iterator[Clients]:
    """Clients of all kinds, two of each."""
    clients = Clients()
    assert server.grpc_port is not None
    grpc_port = server.grpc_port
    for number in range(2):
        clients.start(f"kept alive {number}", lambda: kept_alive(server.port))
        clients.start(f"connecting {number}", lambda: connecting(server.port))
    clients.start("unix", lambda: over_unix(unix))
    clients.start("grpc", lambda: over_grpc(grpc_port))
    try:
        yield clients
    finally:
        clients.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_is_replaced_under_load(models: Path, tmp_path: Path, workers: str) -> None:
    """A successor takes the port, the gRPC port and the Unix socket over, and the old server drains: nothing fails."""
    unix, grpc_port = tmp_path / "s.sock", free_port()
    options = ("--reuse-port", "--uds", unix, "--grpc-port", str(grpc_port), "--workers", workers, "--drain", "500ms")
    with serving(tmp_path, f"mlp:1={models / 'mlp.onnx'}", *options) as old, clients_of(old, unix) as clients:
        clients.wait("1")
        with serving(tmp_path, f"mlp:2={models / 'mlp.onnx'}", *options, port=old.port) as new:
            assert "another server also listens on 127.0.0.1" in new.stderr.read_text()
            old.process.send_signal(signal.SIGTERM)
            assert old.process.wait(TIMEOUT_S) == 0
            clients.wait("2")
            clients.stop()
            assert clients.failures == []
            assert new.stop() == 0
    assert not unix.exists()
    assert not list(tmp_path.glob("s.sock*"))


def test_new_connections_go_to_the_successor(models: Path, tmp_path: Path) -> None:
    """From the moment that it is ready, every one; the old server answers those that it has."""
    with (
        serving(tmp_path, f"mlp:1={models / 'mlp.onnx'}", "--reuse-port") as old,
        old.connect() as kept,
        serving(tmp_path, f"mlp:2={models / 'mlp.onnx'}", "--reuse-port", port=old.port) as new,
    ):
        versions = set()
        for _ in range(64):
            with new.connect() as wire:
                versions.add(wire.ask(json_request("mlp", BODY)).json()["model_version"])
        assert versions == {"2"}
        assert kept.ask(json_request("mlp", BODY)).json()["model_version"] == "1"


@pytest.mark.slow
def test_a_port_is_shared_only_by_both(models: Path, tmp_path: Path) -> None:
    """Where one of the two lacks --reuse-port, the second exits with 2 and a line that names the option."""
    with serving(tmp_path, models / "mlp.onnx") as first:
        command = [sys.executable, "-m", "tailcut", "serve", str(models / "mlp.onnx"), "--reuse-port"]
        command += ["--port", str(first.port)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=3 * TIMEOUT_S, check=False)
        assert second.returncode == 2
        assert "can be shared only with a server that was started with --reuse-port" in second.stderr.splitlines()[-1]

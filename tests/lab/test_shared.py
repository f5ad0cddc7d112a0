"""Load whose tensors lie in shared memory, over HTTP and gRPC."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.servers import Server, json_request, serving

from tailcut.errors import UsageError
from tailcut.lab.client import closed_loop, open_loop
from tailcut.lab.describe import served_samples, served_spec
from tailcut.lab.load import EXPECTED, LoadTarget
from tailcut.lab.processes import share_closed
from tailcut.lab.shared import SharedLoad

PREFIX = f"tailcut-load-{os.getpid()}-"


@pytest.fixture(scope="module")
def sharing(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of mlp and pair that takes shared memory, over HTTP and gRPC."""
    flags = ["--shared-memory", PREFIX, "--grpc-port", "0"]
    folder = tmp_path_factory.mktemp("sharing")
    with serving(folder, models / "mlp.onnx", models / "pair.onnx", *flags) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture(params=["http", "grpc"])
def place(request: pytest.FixtureRequest, sharing: Server) -> LoadTarget:
    grpc = request.param == "grpc"
    return LoadTarget(sharing.host, sharing.grpc_port if grpc else sharing.port, grpc=grpc)


def files() -> list[str]:
    return [path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(PREFIX)]


def registered(server: Server) -> bytes:
    with server.connect() as wire:
        return wire.ask(b"GET /v2/systemsharedmemory/status HTTP/1.1\r\nHost: x\r\n\r\n").body


@pytest.mark.parametrize("model", ["mlp", pytest.param("pair", marks=pytest.mark.slow)])
def test_every_request_is_answered_and_nothing_is_left(sharing: Server, place: LoadTarget, model: str) -> None:
    """Two regions while it runs, none after; no tensor is in a request, and connections have places of their own."""
    samples = served_samples(place, served_spec(place, model))
    inputs = [samples.make(1, seed) for seed in range(3)]
    with SharedLoad(place, PREFIX) as shared:
        payloads = shared.payloads(model, inputs)
        assert len(files()) == 2
        for payload, item in zip(payloads, inputs, strict=True):
            assert len({*payload.places}) == len(payload.places) >= 512
            assert all(array.tobytes() not in payload.request for array in item.values())
        assert closed_loop(place, payloads, concurrency=4, duration_s=0.2).errors == {}
        result = open_loop(place, payloads, rate=100, duration_s=0.3)
        assert (result.errors, result.samples > 5) == ({}, True)
    assert (files(), registered(sharing)) == ([], b"[]")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mlp", "pair"])
def test_processes_share_the_regions(sharing: Server, place: LoadTarget, model: str) -> None:
    """Each on its own connections, whose places are no other's."""
    samples = served_samples(place, served_spec(place, model))
    with SharedLoad(place, PREFIX) as shared:
        payloads = shared.payloads(model, [samples.make(1, seed) for seed in range(3)])
        parts = share_closed(place, payloads, concurrency=3, length_s=0.2, processes=2)
        assert all(part.outcomes[:, EXPECTED].all() for part in parts)
    assert (files(), registered(sharing)) == ([], b"[]")


def test_a_server_that_takes_none(target: LoadTarget) -> None:
    """One line that says what to do, and nothing is left."""
    with pytest.raises(UsageError, match="start the server with --shared-memory"), SharedLoad(target, PREFIX) as shared:
        shared.payloads("mlp", [{"x": np.zeros((1, 4), np.float32)}])
    assert files() == []


def test_ctrl_c_removes_the_regions(sharing: Server) -> None:
    """On both sides, in the middle of a run."""
    command = [sys.executable, "-m", "tailcut", "bench", sharing.url, "--model", "mlp", "--shared-memory", PREFIX]
    command += ["--concurrency", "1", "--duration", "60s"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as child:
        assert child.stderr.readline().startswith("closed loop")
        assert len(files()) == 2
        child.send_signal(signal.SIGINT)
        assert child.wait(20) != 0
    assert (files(), registered(sharing)) == ([], b"[]")
    with sharing.connect() as wire:
        entry = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
        assert wire.ask(json_request("mlp", {"inputs": [entry]})).status == 200

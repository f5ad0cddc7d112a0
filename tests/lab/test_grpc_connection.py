"""Load over gRPC, against Tailcut's own server of it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers import Server, serving

from tailcut.engines.samples import likely_samples
from tailcut.errors import UsageError
from tailcut.lab.arrivals import poisson_times
from tailcut.lab.client import closed_loop, open_loop
from tailcut.lab.describe import parse_url, served_models, served_spec
from tailcut.lab.grpc_connection import grpc_payload
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import infer_payload


@pytest.fixture(scope="module")
def both(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, LoadTarget]]:
    """A server on HTTP and gRPC, and its gRPC address."""
    with serving(tmp_path_factory.mktemp("grpc"), models / "mlp.onnx", "--grpc-port", "0") as running:
        text = re.search(r"gRPC on (127\.0\.0\.1:\d+)", running.stderr.read_text())
        assert text
        target, path = parse_url(f"grpc://{text[1]}")
        assert path == ""
        yield running, target


def test_the_server_describes_itself_alike(both: tuple[Server, LoadTarget]) -> None:
    """Names and signatures are the same over gRPC as over HTTP."""
    server, target = both
    http = LoadTarget(server.host, server.port)
    assert served_models(target) == served_models(http) == ["mlp"]
    assert served_spec(target, None) == served_spec(http, None)


def test_both_loops_over_grpc(both: tuple[Server, LoadTarget]) -> None:
    """Every planned call is answered, and a closed loop keeps its channels busy."""
    _, target = both
    payload = infer_payload(target, "mlp", likely_samples(served_spec(target, None)).make(1, 1), "binary")
    opened = open_loop(target, [payload], rate=100, duration_s=0.5, seed=1)
    assert opened.errors == {}
    assert opened.samples == len(poisson_times(100, 0.5, 1))
    closed = closed_loop(target, [payload], concurrency=3, duration_s=0.3)
    assert closed.errors == {}
    assert closed.samples > 10


def test_refusals_have_the_status_of_http(both: tuple[Server, LoadTarget]) -> None:
    """A model that is not there is a 404, whatever the wire."""
    _, target = both
    payload = grpc_payload("nope", likely_samples(served_spec(target, None)).make(1, 1))
    result = closed_loop(target, [payload], concurrency=1, duration_s=0.1)
    assert result.samples == 0
    assert result.errors.keys() == {"404"}


def test_one_form_of_tensors(both: tuple[Server, LoadTarget]) -> None:
    """JSON and raw bodies are HTTP's."""
    _, target = both
    with pytest.raises(UsageError, match="leave out --wire"):
        infer_payload(target, "mlp", likely_samples(served_spec(target, None)).make(1, 1), "json")


@pytest.mark.slow
def test_bench_over_grpc_in_two_processes(both: tuple[Server, LoadTarget]) -> None:
    """The command takes a grpc:// target like any other."""
    _, target = both
    script = Path(sys.executable).with_name("tailcut")
    arguments = ["--rate", "50", "--duration", "500ms", "--processes", "2", "--json"]
    command = [str(script), "bench", f"grpc://{target.authority}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["errors"] == {}
    assert run["client_processes"] == 2

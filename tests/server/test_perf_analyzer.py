"""NVIDIA's load generator, unchanged, against our server, where this machine has it."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engines.models import perceptron
from tests.servers import Server, serving

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
import perf_analyzer  # noqa: E402  a program, not a package

sys.path.remove(BENCHMARKS)
REASON = perf_analyzer.missing() or "not set up: python benchmarks/perf_analyzer.py does it"
pytestmark = pytest.mark.skipif(perf_analyzer.missing() is not None or not perf_analyzer.installed(), reason=REASON)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("perf")
    with serving(
        folder, perceptron([4, 8, 3], folder / "mlp.onnx"), "--grpc-port", "0", "--shared-memory", "/"
    ) as running:
        yield running
        assert running.stop() == 0


@pytest.mark.parametrize("kind", perf_analyzer.RUNS)
def test_a_run_ends_well_and_its_counts_are_ours(server: Server, kind: str) -> None:
    """It sends its requests, reads our statistics, and finds in them what it sent."""
    port = server.port if kind.startswith("HTTP") else server.grpc_port
    arguments = [*perf_analyzer.RUNS[kind], "--request-count", "200", "--concurrency-range", "2", "-b", "3"]
    if "shared" in kind:
        assert "accepts any key" in server.stderr.read_text()
    done = perf_analyzer.analyze(perf_analyzer.installed(), "mlp", f"localhost:{port}", arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    client, _, ours = done.stdout.partition("Server:")
    assert "Request count: 200" in client
    rows, requests = (
        int(re.search(rf"{name}: (\d+)", ours)[1]) for name in ("Inference count", "Successful request count")
    )
    assert 195 <= requests <= 200  # it asks for the counts when some requests are on their way already
    assert rows == 3 * requests

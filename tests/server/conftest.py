"""A real server, and small generated models, for the tests of this folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.engines.models import dynamic_sequence, gather_rows, identity, perceptron, two_in_two_out
from tests.server.sound import check_back, check_exact, usage
from tests.servers import Server, serving

from tailcut.cli.main import main
from tailcut.spec import DType


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mlp.onnx (4 -> 3), echo.onnx (float32 identity of 1,000), big.onnx (50,000) and pair.onnx."""
    folder = tmp_path_factory.mktemp("models")
    perceptron([4, 8, 3], folder / "mlp.onnx")
    identity(DType.FP32, (None, 1000), folder / "echo.onnx")
    identity(DType.FP32, (None, 50_000), folder / "big.onnx")
    identity(DType.INT8, (None, 4), folder / "ints.onnx")
    two_in_two_out(folder / "pair.onnx")
    gather_rows(folder / "gather.onnx")
    dynamic_sequence(folder / "sequence.onnx")
    return folder


@pytest.fixture(scope="session")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of all of them with a 1 MiB body limit, computing on worker threads."""
    sources = [models / f"{name}.onnx" for name in ("mlp", "echo", "big", "ints", "pair", "gather", "sequence")]
    with serving(tmp_path_factory.mktemp("server"), *sources, "--max-body", "1", "--no-auto") as running:
        yield running
        assert running.stop() == 0


@pytest.fixture
def sound(server: Server) -> Iterator[None]:
    """After the test, check that the server is ready and exact, and has leaked no rows, buffers, tasks or files."""
    before = usage(server)
    yield
    check_exact(server)
    check_back(server, before)


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `tailcut serve` prints on stderr, including native code, for arguments that it must refuse with exit code 2.

    It runs in this process, which is faster than starting another one, and never gets as far as serving.
    """

    def never(*_: object) -> None:
        raise AssertionError("it would serve")

    def refused(*arguments: str | Path) -> str:
        assert main(["serve", *map(str, arguments), "--port", "0"]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        return err

    monkeypatch.setattr("tailcut.server.app.serve", never)
    return refused

"""What `tailcut bench` sends: headers, and options that other requests would leave unused. Against real servers."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.cli.conftest import Bench
from tests.engines.models import perceptron
from tests.servers import Server, serving

from tailcut.cli.main import main

QUICK = ("--concurrency", "1", "--duration", "100ms", "--json")
TOKEN = ("--header", "Authorization: Bearer secret")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of four numbers, and data for it: groups of five rows, and lines."""
    folder = tmp_path_factory.mktemp("requests")
    perceptron([4, 8, 3], folder / "mlp.onnx")
    np.savez(folder / "fives.npz", **{f"x/{group}": np.ones((5, 4), np.float32) for group in range(20)})
    (folder / "lines.jsonl").write_text("\n".join(json.dumps({"x": [1, 2, 3, line]}) for line in range(200)))
    np.savez(folder / "few.npz", **{"x/0": np.ones((5, 4), np.float32)})
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """Every request needs the token."""
    token = folder / "token"
    token.write_text("secret")
    token.chmod(0o600)
    flags = ("--token-file", token, "--require-token", "--grpc-port", "0")
    with serving(folder, folder / "mlp.onnx", *flags) as running:
        yield running


@pytest.mark.parametrize(
    "more",
    [(), ("--wire", "json"), pytest.param(("--processes", "2"), marks=pytest.mark.slow), ("--mix", "mlp=50")],
    ids=" ".join,
)
def test_headers_are_sent_with_inference_requests(bench: Bench, server: Server, more: tuple[str, ...]) -> None:
    """And with the questions before them, whatever the wire: no other client could ask a server that needs a token."""
    quick = ("--duration", "200ms", "--json") if "--mix" in more else QUICK
    done = bench(server.url, *quick, *TOKEN, *more)
    assert done.returncode == 0, done.stderr
    assert [run["errors"] for run in json.loads(done.stdout)["runs"]] == [{}]
    refused = bench(server.url, *quick, *more)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "answers 401" in refused.stderr


def test_headers_are_metadata_over_grpc(bench: Bench, server: Server) -> None:
    """Whose names are of small letters."""
    done = bench(f"grpc://{server.host}:{server.grpc_port}", *QUICK, *TOKEN)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runs"][0]["errors"] == {}


@pytest.mark.parametrize("data", ["fives.npz", "lines.jsonl"])
@pytest.mark.parametrize("scenario", ["multi-stream", "offline"])
def test_several_samples_of_several_arrays(
    bench: Bench, server: Server, folder: Path, scenario: str, data: str
) -> None:
    """Arrays of one length, as the lines of a file are, fill requests together."""
    more = ("--samples", "320", "--duration", "100ms", "--json")
    done = bench(server.url, *TOKEN, "--scenario", scenario, "--data", folder / data, *more)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runs"][0]["errors"] == {}


def test_too_few_samples_of_one_length(bench: Bench, server: Server, folder: Path) -> None:
    """The message says what a request needs."""
    done = bench(server.url, *TOKEN, "--scenario", "offline", "--data", folder / "few.npz")
    assert (done.returncode, done.stdout) == (2, "")
    assert "a request needs 32 rows of one length, and the data file has at most 5 of one" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("", "--header", "nonsense"), "'nonsense' is not a header"),
        (("", "--header", "Content-Type: text/plain"), "--header Content-Type is set from the body"),
        (("/x", "--header", "content-length: 3"), "--header content-length is set from the body"),
        (("", "--header", "Authorization: x", "--token-file", "token"), "cannot be combined"),
        (("", "--expect", "404"), "--expect is only for custom requests"),
        (("/x", "--data", "a.npz"), "--data cannot be combined with a custom request: leave out the path: http://127"),
        (("", "--body", "b", "--model", "m"), "--model cannot be combined with a custom request: leave out --body"),
        (("/x", "--body", "b", "--wire", "json"), "leave out --body and the path: http://127.0.0.1:9"),
        (
            ("/v2/models/e/infer", "--data", "texts.npz", "--model", "qq"),
            "--data and --model cannot be combined with a custom request: leave out the path: http://127.0.0.1:9",
        ),
        (("/v2/models/e/infer",), "needs a body: leave out the path (http://127.0.0.1:9) for generated requests"),
    ],
)
def test_what_would_be_unused_is_refused(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, before anything is sent."""
    path, *options = arguments
    assert main(["bench", f"http://127.0.0.1:9{path}", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert words in line

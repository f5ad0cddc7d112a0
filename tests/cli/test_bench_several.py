"""`tailcut bench` on several models at once, and with requests of several lengths: real servers, every wire."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.cli.conftest import Bench
from tests.cli.test_bench import bench_process
from tests.engines.models import masked_mean, perceptron
from tests.schemas import validated
from tests.servers import Server, serving

LENGTHS = (3, 3, 3, 9, 9, 30)  # of the requests in turn


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models text (ids and mask of any length) and mlp, and data for text as arrays by length and as lines."""
    folder = tmp_path_factory.mktemp("several")
    masked_mean(folder / "text.onnx")
    perceptron([4, 8, 3], folder / "mlp.onnx")
    lines = [json.dumps({"ids": [1] * length, "mask": [1] * length}) for length in LENGTHS]
    (folder / "text.jsonl").write_text("\n".join(lines))
    groups = {
        f"{name}/{length}": np.ones((LENGTHS.count(length), length), np.int64)
        for name in ("ids", "mask")
        for length in set(LENGTHS)
    }
    np.savez(folder / "text.npz", **groups)
    np.savez(folder / "mlp.npz", x=np.ones((5, 4), np.float32))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    options = ("--uds", folder / "socket", "--grpc-port", "0", "--shared-memory", "tailcut-several-")
    with serving(folder, folder / "text.onnx", folder / "mlp.onnx", *options) as running:
        yield running


def test_two_models_at_once(bench: Bench, server: Server, folder: Path) -> None:
    """Each has its own rate, arrivals, inputs and result, and the page, Markdown and schema know them."""
    page, data = folder / "mix.html", ("--data", f"text={folder / 'text.jsonl'}")
    mix = ("--mix", "text=60,mlp=150:constant", "--arrivals", "bursty", "--duration", "400ms")
    done = bench(server.url, *mix, *data, "--json", "--report", page)
    assert done.returncode == 0, done.stderr
    assert "open loops at once, text 60/s bursty, mlp 150/s constant for 0.4 s" in done.stderr
    text, mlp = validated("bench", done.stdout)["runs"]
    assert [(run["model"], run["mixed"], run["arrivals"]) for run in (text, mlp)] == [
        ("text", True, "bursty"),
        ("mlp", True, "constant"),
    ]
    assert (text["rate_offered"], mlp["rate_offered"]) == (60, 150)
    assert mlp["samples"] == 60
    assert (text["errors"], mlp["errors"], mlp["lengths"]) == ({}, {}, None)
    assert (text["lengths"]["min"], text["lengths"]["max"]) == (3, 30)
    assert "text: 60/s offered, bursty" in page.read_text()
    table = bench(server.url, *mix, "--markdown").stdout
    assert "mlp: 150/s offered, constant" in table
    assert "client CPUs" in table


@pytest.mark.parametrize(
    "more", [("--shared-memory", "tailcut-several-"), pytest.param(("--wire", "json"), marks=pytest.mark.slow)]
)
def test_a_mix_in_other_forms(bench: Bench, server: Server, more: tuple[str, ...]) -> None:
    """JSON, and tensors in shared memory."""
    done = bench(server.url, "--mix", "text=40,mlp=40", "--duration", "400ms", *more)
    assert done.returncode == 0, done.stderr
    assert "text: 40.0/s offered" in done.stdout
    assert "mlp: 40.0/s offered" in done.stdout
    assert "late p99" in done.stdout
    assert "client CPU" in done.stdout


@pytest.mark.slow
def test_a_mix_over_grpc_and_against_an_earlier_one(server: Server, folder: Path) -> None:
    """gRPC has its own client; runs are paired by model."""
    first = folder / "first.json"
    arguments = ("--mix", "text=120,mlp=120", "--duration", "1s")
    assert bench_process(f"grpc://{server.host}:{server.grpc_port}", *arguments, "-o", first).returncode == 0
    done = bench_process(server.url, *arguments, "--against", first, "--json")
    record = validated("bench", done.stdout)
    assert [entry["run"] for entry in record["comparison"]] == [0, 1]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--mix", "text=10,none=10"), "the server has no model 'none': it has text, mlp"),
        (("--mix", "text=10,text=20"), "--mix names text twice"),
        (("--mix", "text=0"), "the rate of text must be greater than 0"),
        (("--mix", "text=10", "--rate", "5"), "cannot be combined"),
        (("--mix", "text=10", "--concurrency", "5"), "cannot be combined"),
        (("--mix", "text=10", "--slo", "5ms"), "cannot be combined"),
        (("--mix", "text=10", "--model", "text"), "leave out --model"),
        (("--mix", "text=10", "--processes", "2"), "leave out --processes"),
        (("--mix", "text=10", "--data", "x.npz"), "is not NAME=FILE"),
        (("--model", "text", "--data", "x.npz", "--data", "y.npz"), "only with --mix"),
        (("--model", "text", "--data", "none.jsonl"), "none.jsonl: no such data file"),
    ],
)
def test_mistakes_are_one_line(bench: Bench, server: Server, more: tuple[str, ...], words: str) -> None:
    """Exit code 2, one line on stderr, and no load."""
    done = bench(server.url, *more)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert words in line


@pytest.mark.slow
@pytest.mark.parametrize("data", ["text.jsonl", "text.npz"])
@pytest.mark.parametrize(
    "way",
    [
        ("http", "--concurrency", "2"),
        ("http", "--wire", "json", "--rate", "150"),
        ("http", "--processes", "2", "--rate", "150"),
        ("http", "--shared-memory", "tailcut-several-", "--rate", "150"),
        ("unix", "--rate", "150"),
        ("grpc", "--rate", "150"),
    ],
)
def test_requests_of_several_lengths(
    bench: Bench, server: Server, folder: Path, data: str, way: tuple[str, ...]
) -> None:
    """Over every wire and connection the file's mixture is sent: half of length 3, a third of 9, the rest 30."""
    kind, *more = way
    urls = {"http": server.url, "unix": f"http+unix://{folder / 'socket'}"}
    url = urls.get(kind, f"grpc://{server.host}:{server.grpc_port}")
    done = bench(url, "--model", "text", "--data", folder / data, "--duration", "600ms", *more, "--json")
    assert done.returncode == 0, done.stderr
    (run,) = validated("bench", done.stdout)["runs"]
    lengths = run["lengths"]
    assert [lengths[key] for key in ("input", "unit", "min", "p25", "p75", "max")] == ["ids", "elements", 3, 3, 9, 30]
    parts = {part["to"]: part["samples"] / run["samples"] for part in lengths["quartiles"]}
    assert parts == pytest.approx({3: 1 / 2, 9: 1 / 3, 30: 1 / 6}, abs=0.06)


def test_lengths_on_the_console_and_the_page(bench: Bench, server: Server, folder: Path) -> None:
    """A table of each quarter, with what its percentiles need."""
    page = folder / "lengths.html"
    arguments = ("--model", "text", "--data", folder / "text.jsonl", "--rate", "100", "--duration", "600ms")
    done = bench(server.url, *arguments, "--report", page)
    assert "ids of length 3 to 30, median 3, p99 30" in done.stdout
    assert "Latency by length" in page.read_text()

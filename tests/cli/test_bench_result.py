"""Results of `tailcut bench`: nothing is lost, and a result that cannot be compared is reported before the load."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Bench
from tests.schemas import validated
from tests.servers import Server, serving

from tailcut.models import digits_model


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("result"), digits_model()) as running:
        yield running


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result at 30 requests a second, and one in flight."""
    unknown = dict.fromkeys(["p50", "p95", "p99", "p99_9", "max"])
    shared = {"latency_ms": unknown, "latencies_us": [], "model": "digits"}
    runs = [
        {"mode": "open", "rate_offered": 30, "concurrency": 8, "arrivals": "poisson", **shared},
        {"mode": "closed", "rate_offered": None, "concurrency": 1, "arrivals": None, **shared},
    ]
    path = tmp_path_factory.mktemp("before") / "before.json"
    path.write_text(json.dumps({"runs": runs}))
    return path


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (("--rate", "31"), "31/s poisson of digits"),
        (("--rate", "30", "--arrivals", "constant"), "30/s constant of digits"),
        (("--concurrency", "2,4"), "2 in flight of digits and 4 in flight of digits"),
        (("--mix", "digits=29"), "29/s poisson of digits"),
        (("--rate", "31", "--slo", "1s"), "31/s poisson of digits"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_compared_is_not_measured(
    bench: Bench, server: Server, before: Path, load: tuple[str, ...], words: str
) -> None:
    """One line says what the earlier result has; not a request is sent, for which an hour would be too short a test."""
    done = bench(server.url, *load, "--duration", "1h", "--against", before)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "nothing to compare: its runs are 30/s poisson of digits and 1 in flight of digits" in line
    assert line.endswith(f"and the new ones would be {words}")


@pytest.mark.parametrize(
    "load",
    [
        ("--rate", "30"),
        pytest.param(("--concurrency", "1,2"), marks=pytest.mark.slow),
        pytest.param(("--mix", "digits=30"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_what_can_is(bench: Bench, server: Server, before: Path, load: tuple[str, ...]) -> None:
    """A run of several is enough."""
    done = bench(server.url, *load, "--duration", "100ms", "--against", before, "--json")
    (entry,) = validated("bench", done.stdout)["comparison"]
    assert entry["run"] == 0


def test_a_result_without_its_like_is_kept(bench: Bench, server: Server, before: Path, tmp_path: Path) -> None:
    """What a scenario measures is known only afterwards: it is written and shown, and the exit code is 1."""
    written = tmp_path / "after.json"
    load = ("--scenario", "offline", "--samples", "64")
    done = bench(server.url, *load, "--against", before, "-o", written, "--json")
    assert done.returncode == 1
    assert validated("bench", done.stdout) == json.loads(written.read_text())
    assert json.loads(done.stdout)["comparison"] == []
    assert "--against: no run of the earlier result has the same load as one of these" in done.stderr


def test_a_result_that_cannot_be_written_is_shown(
    bench: Bench, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the disk is full by then."""

    def full(path: Path, content: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("tailcut.atomic.write_atomically", full)
    written = tmp_path / "after.json"
    done = bench(server.url, "--concurrency", "1", "--duration", "100ms", "-o", written, "--json")
    assert done.returncode == 2
    assert validated("bench", done.stdout)["runs"][0]["errors"] == {}
    assert f"{written}: No space left on device" in done.stderr

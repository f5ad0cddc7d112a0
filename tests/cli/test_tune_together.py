"""`tailcut tune A.onnx B.onnx` as a user runs it: a real joint tune of two models, Ctrl-C, and mistakes in one line."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import asdict
from tests.engines.models import perceptron
from tests.processes import interrupted, killed_at_end
from tests.report.test_html import ASKED
from tests.schemas import validated
from tests.servers import serving
from tests.tuner.results import INDEPENDENT

from tailcut.cli.tune_together import JointFiles, write_result
from tailcut.lab.arrivals import Poisson
from tailcut.models import digits_model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.together.records import JointOutcome, JointSide
from tailcut.tuner.together.result_records import JointRequest

TUNE = [sys.executable, "-m", "tailcut", "tune"]
BOTH = ["small.onnx", "wide.onnx"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    perceptron([16, 32, 4], folder / "small.onnx")
    perceptron([32, 256, 8], folder / "wide.onnx")
    (folder / "trace.txt").write_text("".join(f"{at / 100} {'wide' if at % 3 else 'small'}\n" for at in range(200)))
    return folder


@pytest.fixture(scope="module")
def tuned(folder: Path) -> tuple[dict, str]:
    """What a short joint tune prints on stdout, read, and on stderr."""
    command = [*TUNE, *BOTH, "--rates", "300,200", "--slo", "200ms,400ms", "--budget", "30s", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return validated("tune", done.stdout), done.stderr


@pytest.mark.slow
def test_both_models_are_verified_together(tuned: tuple[dict, str]) -> None:
    """Each has baseline and tuned at its own rate against its own limit, with right answers and a ratio."""
    result = tuned[0]
    assert [item["name"] for item in result["models"]] == ["small", "wide"]
    assert [(item["rate"], item["limit_ms"], item["slo_ms"]) for item in result["models"]] == [
        (300.0, 200.0, 200.0),
        (200.0, 400.0, 400.0),
    ]
    assert result["verified"] is True
    for item in result["models"]:
        assert item["right"] is True
        for arm in ("baseline", "tuned"):
            outcome = item["verification"][arm]
            assert outcome["samples"] >= 459
            assert outcome["errors"] == 0
            assert outcome["rate_offered"] == item["rate"]
            assert outcome["within"] in {True, False, None}
        ratio = item["verification"]["p99_ratio"]
        assert ratio["low"] <= ratio["point"] <= ratio["high"]
    assert sys.platform != "linux" or all(share > 0 for share in result["cpu_cores"].values())


@pytest.mark.slow
def test_the_race_was_of_simulated_combinations(tuned: tuple[dict, str]) -> None:
    """Those that raced are among the simulated ones, but for the defaults; so is what is best for each model alone."""
    result, story = tuned
    raced = [item for item in result["combinations"] if item["raced"] is not None]
    assert len(raced) >= 1
    assert all(item["setting"].startswith("small: ") and "; wide: " in item["setting"] for item in raced)
    assert sum(item["alone"] for item in result["combinations"]) == 1
    assert result["simulated"] >= 4
    assert story.index("a complete search takes about") < story.index("combinations on")
    assert "small: measuring" in story
    assert "wide: measuring" in story
    assert "combinations on" in story


@pytest.mark.slow
def test_each_profile_names_its_neighbour(tuned: tuple[dict, str], folder: Path) -> None:
    """With name, content, rate and limit, so that the server can tell other neighbours from those."""
    small, wide = (Profile.load(folder / item["profile"]) for item in tuned[0]["models"])
    assert small.together is not None
    assert wide.together is not None
    (neighbour,) = small.together.neighbours
    assert (neighbour.name, neighbour.sha256) == ("wide", wide.model.sha256)
    assert (neighbour.rate, neighbour.limit_ms) == (200.0, 400.0)
    assert (small.together.rate, small.together.limit_ms) == (300.0, 200.0)
    assert [neighbour.name for neighbour in wide.together.neighbours] == ["small"]
    assert small.evidence["verified"] is True
    assert small.evidence["tuned"]["samples"] >= 459
    assert small.evidence["service"]["sizes"][0] == 1


@pytest.mark.slow
def test_the_server_warns_of_other_neighbours(tuned: tuple[dict, str], folder: Path, tmp_path: Path) -> None:
    """Nothing where both are served, under whatever name; one line where one is missing."""
    small, wide = (folder / item["profile"] for item in tuned[0]["models"])
    with serving(tmp_path, small, f"other={wide}") as server:
        with server.connect() as wire:
            assert wire.ask(b"GET /v2/models/other/ready HTTP/1.1\r\nHost: x\r\n\r\n").status == 200
        server.stop()
        assert "measured together" not in server.stderr.read_text()
    with serving(tmp_path, small) as server:
        server.stop()
        lines = [line for line in server.stderr.read_text().splitlines() if "measured together" in line]
    assert len(lines) == 1
    assert "small: measured together with wide, but served without wide: retune" in lines[0]


@pytest.mark.slow
def test_the_report_shows_both_models(tuned: tuple[dict, str], folder: Path) -> None:
    """One page, named after both, with each model's p99 against its limit and how to do it again."""
    page = (folder / "small+wide.report.html").read_text(encoding="utf-8")
    assert tuned[0]["report"] == "small+wide.report.html"
    assert "small + wide" in page
    assert "p99 limit 200.0 ms" in page
    assert "tailcut tune small.onnx wide.onnx --rates 300,200" in page


@pytest.mark.slow
def test_control_c_keeps_the_best_so_far(folder: Path) -> None:
    """An interrupted joint tune of a trace writes both profiles, unverified, and leaves with 130."""
    command = [*TUNE, *BOTH, "--trace", "trace.txt", "--budget", "10s", "--report", "stopped.html"]
    child = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with killed_at_end(child):
        assert child.stderr is not None
        for line in child.stderr:
            if line.startswith("racing"):
                break
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "not verified" in out
    assert "interrupted: the profiles contain the best settings so far" in err
    stopped = Profile.load(folder / "small.profile.toml")
    assert stopped.evidence["verified"] is False
    assert "Not verified" in (folder / "stopped.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_control_c_before_the_race_writes_nothing(folder: Path) -> None:
    """Profiles that lie there stay as they are; one line says so, and the command leaves with 130."""
    kept = [folder / name.replace(".onnx", ".profile.toml") for name in BOTH]
    for name, path in zip(BOTH, kept, strict=True):
        Profile.of_model(folder / name).save(path)
    before = [path.read_bytes() for path in kept]
    command = [*TUNE, *BOTH, "--rates", "300,200", "--budget", "10s", "--report", "kept.html"]
    code, out, err = interrupted(command, folder, "combinations on")
    assert code == 130, err
    assert out == ""
    assert err.splitlines()[-1] == "tailcut: interrupted before anything raced: no file was written"
    assert [path.read_bytes() for path in kept] == before
    assert not (folder / "kept.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (BOTH, "either --rates 100,20 or --trace FILE"),
        ([*BOTH, "--rates", "1,2", "--trace", "trace.txt"], "either --rates 100,20 or --trace FILE"),
        ([*BOTH, "--rates", "100"], "--rates 100: 1 rate for 2 models"),
        ([*BOTH, "--rates", "1,2,3"], "--rates 1,2,3: 3 rates for 2 models"),
        ([*BOTH, "--rates", "1,-2"], "'-2' is not a rate"),
        ([*BOTH, "--rates", "1,quick"], "'quick' is not a rate"),
        ([*BOTH, "--rates", "1,2", "--slo", "10ms"], "--slo 10ms: 1 limit for 2 models"),
        ([*BOTH, "--rates", "1,2", "--slo", "10ms,0ms"], "must be greater than 0"),
        ([*BOTH, "--rates", "1,2", "--slo", "10ms,soon"], "'soon' is not a duration"),
        ([*BOTH, "--rates", "1,2", "--data", "x.npz"], "--data: 1 file for 2 models"),
        ([*BOTH, "--rates", "1,2", "--objective", "cost"], "leave out"),
        ([*BOTH, "--rates", "1,2", "--rate", "3"], "leave out"),
        (["small.onnx", "small.onnx", "--rates", "1,2"], "two models have the same name (small)"),
        (["small.onnx", "nowhere.onnx", "--rates", "1,2"], "nowhere.onnx: no such model file"),
        (["small.onnx", "other.toml", "--rates", "1,2"], "other.toml is a profile: give the model itself"),
        (["small.onnx", *[f"{number}.onnx" for number in range(8)], "--rates", "1"], "up to 8 models"),
        ([*BOTH, "--trace", "nowhere.txt"], "nowhere.txt: no such trace"),
        ([*BOTH, "--rates", "1,2", "--report", "wide.onnx"], "--report wide.onnx would overwrite wide.onnx"),
        (
            [*BOTH, "--rates", "1,2", "--report", "wide.profile.toml"],
            "the profile of wide: wide.profile.toml would overwrite the file of --report",
        ),
        (
            [*BOTH, "--trace", "strange.txt"],
            "line 2 names no model 'tall': write SECONDS NAME, with one of small, wide",
        ),
    ],
)
def test_a_mistake_is_one_line(folder: Path, mistake: Callable[..., str], arguments: list[str], words: str) -> None:
    """What is wrong and where, before any time is spent."""
    (folder / "strange.txt").write_text("0 small\n1 tall\n2 wide\n")
    assert words in mistake(folder, "tune", *arguments)


def test_a_result_whose_files_cannot_be_written_is_kept(tmp_path: Path) -> None:
    """As when the disk is full by then: it names the profiles that were written, and the error does, too."""
    first, second = tmp_path / "a.profile.toml", tmp_path / "none" / "b.profile.toml"
    model = Profile.of_model(digits_model())
    sides = [JointSide(name, Poisson(1.0), 10.0, 10.0, [], [], INDEPENDENT, Settings(), model) for name in ("a", "b")]
    asked = JointRequest(
        **asdict(ASKED) | {"slo_ms": [10.0] * 2, "data": [None] * 2, "rates": [1.0] * 2, "trace": None}
    )
    written = write_result(JointOutcome(sides), asked, JointFiles((first, second), tmp_path / "report.html"))
    assert [item.profile for item in written.result.models] == [str(first), None]
    assert written.result.report is None
    assert written.error is not None
    assert written.error.filename == str(second)
    assert f"only {first} was written" in written.error.strerror
    assert first.exists()

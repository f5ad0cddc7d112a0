"""The demo from end to end: real tuning, real servers, real load, with a budget too small to prove much."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.schemas import validated

COMMAND = [sys.executable, "-m", "tailcut", "demo"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    here = tmp_path_factory.mktemp("demo")  # the folder is named from here, as `make demo` names it
    command = [*COMMAND, "--budget", "5s", "--keep", "out/kept", "--json"]
    process = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=180, check=False)
    return process, here / "out" / "kept"


@pytest.mark.slow
def test_it_ends_well_and_prints_one_json_object(done):
    """Exit code 0; stdout is one JSON object and nothing else."""
    process, _ = done
    assert process.returncode == 0, process.stderr
    assert validated("demo", process.stdout).keys() == {"accuracy", "load", "tune", "profile", "report"}


@pytest.mark.slow
def test_both_headlines_are_printed(done):
    """What was gained at the same traffic and within the same tail, or that it was not shown."""
    lines = [line.split()[:2] for line in done[0].stderr.splitlines()]
    assert ["same", "traffic:"] in lines
    assert ["same", "tail:"] in lines


@pytest.mark.slow
def test_the_model_still_reads_digits_through_the_server(done):
    """Held-out samples are read right over HTTP before and after, at least 97 % of them."""
    accuracy = validated("demo", done[0].stdout)["accuracy"]
    assert min(accuracy["baseline"], accuracy["tuned"]) >= 0.97


@pytest.mark.slow
def test_both_arms_were_loaded_without_errors(done):
    """Every request to baseline and tuned was answered, at one and the same rate."""
    load = validated("demo", done[0].stdout)["load"]
    assert load.keys() == {"baseline", "tuned"}
    assert [arm["errors"] for arm in load.values()] == [0, 0]
    assert all(arm["samples"] > 0 and arm["throughput"] > 0 for arm in load.values())
    assert load["baseline"]["rate_offered"] == load["tuned"]["rate_offered"]


@pytest.mark.slow
def test_profile_report_model_and_samples_stay_in_the_kept_folder(done):
    """What the demo made can be looked at and served afterwards."""
    outcome, folder = validated("demo", done[0].stdout), done[1]
    assert outcome["profile"] == "out/kept/digits.profile.toml"
    assert (folder / "digits.profile.toml").is_file()
    assert "<html" in (folder / Path(outcome["report"]).name).read_text(encoding="utf-8")
    assert {"digits.onnx", "digits.npz"} <= {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_the_story_names_what_to_type(done):
    """The story on stderr shows every rung, and each step's command for a user's own model."""
    story = done[0].stderr
    for words in ("tailcut tune MODEL.onnx", "tailcut serve MODEL.profile.toml", "tailcut bench http://"):
        assert words in story
    for rung in ("algorithmic", "layout", "parallelism", "simd", "allocation", "io"):
        assert rung in story


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "soon"], "soon"),
        (["--budget", "1s"], "--budget 1s: a tune needs at least 5 seconds"),
        (["--budget", "5s", "--keep", "/dev/null/x"], "/dev/null"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, mistake: Callable[..., str], arguments: list[str], words: str) -> None:
    """A budget that is none and a folder that cannot be made are named."""
    assert words in mistake(tmp_path, "demo", *arguments)

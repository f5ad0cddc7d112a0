"""A real tune of a pipeline: from the command line to a profile that is served, and mistakes in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.pipelines import samples
from tests.schemas import validated
from tests.servers import serving

from tailcut import Client, Model
from tailcut.cli.main import main
from tailcut.runtime.profile import Profile
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.pipelines.learning import learn_pipeline, mixing
from tailcut.tuner.records import TuneRequest

TUNE = [sys.executable, "-m", "tailcut", "tune"]
TEXTS = ["a cat", "the train to the city", "tickets", "a dog and a cat play in the garden"] * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    shutil.copy(samples.__file__, folder / "samples.py")
    samples.write_model(folder / "twice.onnx")
    np.savez(folder / "texts.npz", text=np.array(TEXTS))
    return folder


@pytest.fixture(scope="module")
def tuned(folder: Path) -> tuple[dict, str]:
    """What a short tune prints on stdout, read, and on stderr."""
    command = [
        *TUNE,
        "samples.py:pipeline",
        "--data",
        "texts.npz",
        "--budget",
        "24s",
        "--rate",
        "150",
        "--slo",
        "200ms",
    ]
    done = subprocess.run([*command, "--json"], cwd=folder, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return validated("tune", done.stdout), done.stderr


@pytest.mark.slow
def test_every_step_is_a_rung(tuned: tuple[dict, str]) -> None:
    """Estimated in process, raced as whole configurations, explained step by step, and verified against the untuned."""
    result, story = tuned
    assert [rung["name"] for rung in result["rungs"]] == ["tokenize", "twice.onnx", "add_up"]
    estimated = [item["verdict"] for rung in result["rungs"] for item in rung["candidates"]].count("estimated")
    assert estimated >= 3
    assert sum(item["raced"] is not None for item in result["estimated"]) >= 1
    assert set(result["verification"]) >= {"baseline", "tuned", "highest_rate", "p99_ratio"}
    assert result["verification"]["baseline"]["errors"] == result["verification"]["tuned"]["errors"] == 0
    assert result["accuracy"]["right"]
    assert "a complete search takes about" in story
    assert [item["name"] for item in result["settings"]["pipeline"]["stages"]] == ["tokenize", "add_up"]


@pytest.mark.slow
def test_the_profile_serves_the_same_answers(tuned: tuple[dict, str], folder: Path) -> None:
    """Over HTTP and in process: those of the pipeline as it is written."""
    file = folder / tuned[0]["profile"]
    assert file.name == "samples.profile.toml"
    assert Profile.load(file).model.path == str(folder.resolve() / "samples.py:pipeline")
    expected = [samples.truth(text.encode()) for text in TEXTS[:4]]
    with serving(folder, file) as server, Client(f"http://127.0.0.1:{server.port}") as client:
        for text, truth in zip(TEXTS[:4], expected, strict=True):
            assert client.infer("texts", {"text": np.array([text], object)})["sum"].tolist() == [truth]
    with Model.open(file) as model:
        assert model.infer_sync({"text": np.array(TEXTS[:4], object)})["sum"].tolist() == expected


@pytest.mark.slow
def test_another_tune_takes_estimates_over_and_checks_the_profile(tuned: tuple[dict, str], folder: Path) -> None:
    """What a stage takes is stored as soon as it is known; the profile's settings race again."""
    command = [*TUNE, "--retune", tuned[0]["profile"], "--data", "texts.npz", "--budget", "6s", "-o", "again.toml"]
    command += ["--rate", "150", "--slo", "200ms", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    result = validated("tune", done.stdout)
    assert result["reused_estimates"] >= 2
    assert result["retune"] is not None
    assert result["unchanged"] is (result["retune"]["changed"] == {})


@pytest.mark.slow
def test_a_changed_file_is_one_line(tuned: tuple[dict, str], tmp_path: Path, folder: Path) -> None:
    """The pipeline's own, and that of a model in it."""
    for name in ("samples.py", "twice.onnx", "samples.profile.toml"):
        shutil.copy(folder / name, tmp_path / name)
    profile = tmp_path / "samples.profile.toml"
    raw = profile.read_text()
    source = (tmp_path / "samples.py").read_text()
    (tmp_path / "samples.py").write_text(source + "\n")
    assert "has another SHA-256 than samples.profile.toml: tune it again" in refused(profile)
    (tmp_path / "samples.py").write_text(source)
    (tmp_path / "twice.onnx").write_bytes((tmp_path / "twice.onnx").read_bytes() + b"\x00")
    assert "twice.onnx has another SHA-256 than in the profile: tune it again" in refused(profile)
    assert profile.read_text() == raw
    assert json.loads(json.dumps(tuned[0]["settings"]["pipeline"]))["models"][0]["file"] == "twice.onnx"


def refused(profile: Path) -> str:
    """The line with which `tailcut serve` ends."""
    command = [sys.executable, "-m", "tailcut", "serve", profile.name, "--port", "0"]
    done = subprocess.run(command, cwd=profile.parent, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr.strip().splitlines()[-1]


def test_mistakes(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A stage that does not take made-up requests wants --data; what is for models only is refused."""
    (folder / "picky.py").write_text(
        "from tailcut import InvalidInputError, Pipeline, stage\n\n\n"
        '@stage(inputs={"image": "BYTES"}, outputs={"size": "INT64"})\n'
        "def decode(image):\n"
        '    raise InvalidInputError("not a JPEG file")\n\n\n'
        'pipeline = Pipeline("picky", [decode])\n'
    )
    monkeypatch.chdir(folder)

    def mistake(*arguments: str) -> str:
        assert main([*arguments]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        return err.splitlines()[-1]

    words = mistake("tune", "picky.py:pipeline", "--budget", "5s")
    assert "picky.py:pipeline does not accept generated requests: give real ones with --data" in words
    assert "not a JPEG file" in words
    assert "--fix is for models only" in mistake("tune", "samples.py:pipeline", "--fix", "rows=1")
    assert "by itself" in mistake("tune", "samples.py:pipeline", "twice.onnx", "--rates", "1,2")


MIXING = """
import numpy as np
from tailcut import Pipeline, stage
TAKES = {"inputs": {"score": "FP32"}, "threads": True}
@stage(outputs={"rank": "INT64"}, **TAKES)
def order(score):
    return np.argsort(np.argsort(score))
@stage(outputs={"noise": "FP32", "rank": "INT64"}, **TAKES)
def noise(score, random=np.random.default_rng()):
    return random.random(len(score), np.float32), np.zeros(len(score), np.int64)
@stage(outputs={"twice": "FP32"}, **TAKES)
def twice(score):
    return 2 * score
@stage(inputs={"score": "FP32"}, outputs={"rank": "INT64"}, threads=True, whole_requests=True)
def whole(score):
    return np.argsort(np.argsort(score))
pipeline = Pipeline("mixing", [noise, twice, order])
right = Pipeline("right", [noise, twice, whole])
"""


@pytest.mark.parametrize(("variable", "names"), [("pipeline", ["order"]), ("right", [])])
def test_stages_whose_rows_belong_together_are_found(tmp_path: Path, variable: str, names: list[str]) -> None:
    """Not one that says so, nor one that is random."""
    (tmp_path / "mixing.py").write_text(MIXING)
    events: list[Event] = []
    scores = np.random.default_rng(0).standard_normal(30).astype(np.float32)
    wanted = TuneRequest(tmp_path / f"mixing.py:{variable}", data={"score": scores}, bound=None)
    known = learn_pipeline(wanted, 1.0, events.append)
    try:
        assert mixing(known.model, known.inputs) == names
    finally:
        known.model.close()
    texts = [event.text for event in events if isinstance(event, Phase) and "whole_requests" in event.text]
    assert [name for name in names if f"stage {name!r}" in known.advice] == names
    assert len(texts) == len(names)
    assert ("@stage(whole_requests=True)" in known.advice) == bool(names)

"""The files that a tune of one model writes."""

from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import perceptron
from tests.report.test_html import ASKED
from tests.tuner.results import INDEPENDENT

from tailcut.cli.tune_files import TuneFiles, tune_files
from tailcut.cli.tune_one import write_result
from tailcut.cli.tune_wanted import fixed_of, names_in
from tailcut.engines import EngineOptions
from tailcut.engines.none import read_signature
from tailcut.errors import UsageError
from tailcut.models import digits_model
from tailcut.planning.measured import read_measured
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.engine_estimate import EngineEstimate
from tailcut.tuner.journal import Journal, Key
from tailcut.tuner.pipelines.search import untuned_profile
from tailcut.tuner.records import TuneOutcome, TuneRequest
from tailcut.tuner.simulate import WayIn
from tailcut.tuner.space import BASELINE

ENGINE = EngineOptions(threads=1)


def test_the_profile_can_be_planned_with(tmp_path: Path) -> None:
    """It has what the journal has of its own configuration, so that the journal need not lie beside it."""
    files = TuneFiles(tmp_path / "d.profile.toml", tmp_path / "d.html", tmp_path / "d.trials.jsonl")
    journal = Journal(files.journal, Key(Profile.of_model(digits_model()).model.sha256, "engines", "machine", "x"))
    journal.add_estimate(EngineEstimate(ENGINE, {1: [np.arange(1000, 2000)]}, [], {1: 800.0}))
    journal.add_way(BASELINE, WayIn(1, 2, 3, 4, 5))
    spec = read_signature(digits_model(), ENGINE, "digits")
    outcome = TuneOutcome(spec, Settings(engine=ENGINE), 100.0, [], rows=INDEPENDENT)
    write_result(outcome, TuneRequest(digits_model()), ASKED, files)
    files.journal.unlink()
    result = read_measured(files.profile)
    assert result.source == files.profile
    assert np.median(result.service.quantiles_us) == 1.5
    assert result.service.way_in["wake_ns"] == 4


@pytest.mark.parametrize("missing", ["profile", "report"])
def test_a_result_whose_files_cannot_be_written_is_kept(tmp_path: Path, missing: str) -> None:
    """As when the disk is full by then: it names the profile where that was written, and the error does, too."""
    paths = {name: tmp_path / ("none" if name == missing else ".") / name for name in ("profile", "report")}
    files = TuneFiles(paths["profile"], paths["report"], tmp_path / "d.trials.jsonl")
    spec = read_signature(digits_model(), ENGINE, "digits")
    outcome = TuneOutcome(spec, Settings(engine=ENGINE), 100.0, [], rows=INDEPENDENT)
    written = write_result(outcome, TuneRequest(digits_model()), ASKED, files)
    assert written.error is not None
    assert written.error.filename == str(paths[missing])
    assert written.result.report is None
    has_profile = missing == "report"
    assert written.result.profile == (str(files.profile) if has_profile else None)
    assert files.profile.exists() is has_profile
    assert (f"{files.profile} was written" in written.error.strerror) is has_profile


def test_a_profile_checked_again_is_replaced_by_itself_only(tmp_path: Path) -> None:
    """It is where the new one is written; where that has another name, no report replaces it."""
    model = perceptron([4, 2], tmp_path / "m.onnx")
    retune, other = tmp_path / "old.toml", tmp_path / "new.toml"
    assert tune_files(model, None, None, retune=retune).profile == retune
    assert tune_files(model, retune, None, retune=retune).profile == retune
    assert tune_files(model, other, None, retune=retune).profile == other
    with pytest.raises(UsageError, match=r"would overwrite .*old\.toml, which is read"):
        tune_files(model, other, retune, retune=retune)


PIPELINES = """
from tailcut import Pipeline, stage
@stage(inputs={"x": "FP32[4]"}, outputs={"y": "FP32[4]"}, threads=True)
def same(x):
    return x
@stage(inputs={"x": "FP32[4]"}, outputs={"input": "FP32[4]"}, threads=True)
def first(x):
    return x
one, two, three = Pipeline("one", [same]), Pipeline("two", [same]), Pipeline("three", [first, "m.profile.toml"])
"""


def saved(model: Path, path: Path) -> Path:
    (untuned_profile(str(model)) if ":" in model.name else Profile.of_model(model)).save(path)
    return path


def test_two_pipelines_of_a_file_have_a_profile_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second one's is named after its variable, too; a line says so, unless the user names it."""
    (tmp_path / "m.py").write_text(PIPELINES)
    item, two = tmp_path / "m.py:one", tmp_path / "m.py:two"
    first = tune_files(item, None, None)
    assert [path.name for path in (first.profile, first.report, first.journal)] == [
        "m.profile.toml",
        "m.report.html",
        "m.trials.jsonl",
    ]
    saved(item, first.profile)
    assert tune_files(item, None, None) == first
    assert capsys.readouterr().err == ""
    second = tune_files(two, None, None)
    assert [path.name for path in (second.profile, second.report, second.journal)] == [
        "m.two.profile.toml",
        "m.two.report.html",
        "m.two.trials.jsonl",
    ]
    line = f"tailcut: the profile is {second.profile}: {first.profile} is for {tmp_path.resolve() / 'm.py:one'}"
    assert capsys.readouterr().err.splitlines() == [line]
    saved(two, second.profile)
    first.profile.unlink()
    assert tune_files(two, None, None) == second
    capsys.readouterr()
    tune_files(two, tmp_path / "own.toml", None)
    assert capsys.readouterr().err == ""


def test_a_pipeline_does_not_replace_the_profile_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither that of its own step, nor that of a model whose file has the same name; and the other way round."""
    (tmp_path / "m.py").write_text(PIPELINES)
    model = perceptron([4, 2], tmp_path / "m.onnx")
    profile = saved(model, tmp_path / "m.profile.toml")
    assert tune_files(tmp_path / "m.py:one", None, None).profile == tmp_path / "m.one.profile.toml"
    assert f"{profile} is for {model.resolve()}" in capsys.readouterr().err
    assert tune_files(tmp_path / "m.py:three", None, None).profile == tmp_path / "m.three.profile.toml"
    assert f"{profile} is a step of the pipeline" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"-o .*m\.profile\.toml would overwrite .*m\.profile\.toml, which is read"):
        tune_files(tmp_path / "m.py:three", profile, None)
    with pytest.raises(UsageError, match=r"--report .*m\.onnx would overwrite .*m\.onnx, which is read"):
        tune_files(tmp_path / "m.py:three", None, model)
    saved(tmp_path / "m.py:one", profile)
    with pytest.raises(
        UsageError, match=r"m\.profile\.toml is for the pipeline .*m\.py:one: name another file with -o"
    ):
        tune_files(model, None, None)
    assert tune_files(model, tmp_path / "own.toml", None).profile == tmp_path / "own.toml"


def test_names_may_have_spaces_around_them() -> None:
    """Of outputs, and of dimensions."""
    assert names_in("y, z", "--outputs") == ("y", "z")
    assert fixed_of("height=8, width=9") == ("height=8", "width=9")
    assert names_in(None, "--outputs") == ()
    for text in ("", "y,", ",y", " "):
        with pytest.raises(UsageError, match=f"^--outputs '{text}' has an empty name"):
            names_in(text, "--outputs")
        with pytest.raises(UsageError, match=f"^--fix '{text}' has an empty name"):
            fixed_of(text)

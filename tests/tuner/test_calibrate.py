"""Static int8 in a tune: copies for both engines, what is left out and why, and a profile that runs one elsewhere."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import perceptron
from tests.report.test_html import ASKED
from tests.tuner.results import INDEPENDENT

from tailcut.cli.tune_files import TuneFiles
from tailcut.cli.tune_one import write_result
from tailcut.engines import EngineOptions, open_engine
from tailcut.errors import ProfileError, UsageError
from tailcut.models import digits_data, digits_model
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.tuner.accuracy import Accuracy
from tailcut.tuner.calibrate import CalibrationError, Calibrator, Material
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.records import TuneOutcome, TuneRequest
from tailcut.tuner.session import open_session
from tailcut.tuner.space import changed, engine_choices


def images() -> np.ndarray:
    with np.load(digits_data()) as data:
        return np.array(data["image"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate")
    shutil.copy(digits_model(), folder / "digits.onnx")
    return folder


@pytest.fixture(scope="module")
def calibrated(folder: Path) -> Iterator[tuple[ModelSpace, list[str]]]:
    """A space with its copies, and the events of calibration."""
    message: list[str] = []

    def tell(event: Event) -> None:
        if isinstance(event, Phase):
            message.append(event.text)

    space = ModelSpace(open_session(TuneRequest(folder / "digits.onnx", data={"image": images()}, budget_s=60.0), tell))
    space.calibrate()
    yield space, message
    space.close()


@pytest.mark.slow
def test_both_engines_have_a_copy(calibrated: tuple[ModelSpace, list[str]]) -> None:
    """Each answers correctly on requests not used for its ranges, is reported in one line, and is measured."""
    space, message = calibrated
    assert set(space.copies) == {"onnxruntime", "openvino"}
    for name, copy in space.copies.items():
        assert copy.accuracy.right
        assert copy.operators > len(copy.in_float)
        assert any(
            line.startswith(f"static int8 for {name}: ") and f"over {copy.requests} requests" in line
            for line in message
        )
    measured = {(engine_choice.name, engine_choice.precision) for engine_choice in engine_choices(space.facts)}
    assert measured >= {("onnxruntime", "int8_static"), ("openvino", "int8_static")}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_what_was_measured_is_what_ships(
    calibrated: tuple[ModelSpace, list[str]], folder: Path, tmp_path: Path, engine: str
) -> None:
    """The profile and its copy, in another folder, serve the model's answers; another copy is refused in one line."""
    space, _ = calibrated
    options = {"name": engine, "precision": "int8_static", "threads": 1}
    session = space._session
    outcome = TuneOutcome(session.spec, changed(session.with_wire("binary"), engine=options), 1.0, [], INDEPENDENT)
    space.take(outcome)
    files = TuneFiles(folder / "d.profile.toml", folder / "d.report.html", folder / "d.trials.jsonl")
    result = write_result(outcome, session.wanted, ASKED, files).result
    assert result.quantized is not None
    assert result.quantized.engine == engine
    for name in ("digits.onnx", "d.profile.toml", "d.int8.onnx"):
        shutil.copy(folder / name, tmp_path / name)
    profile = Profile.load(tmp_path / "d.profile.toml")
    assert profile.evidence["quantized"]["requests"] == space.copies[engine].requests
    assert profile.engine_file == tmp_path / "d.int8.onnx"
    exact = open_engine(digits_model(), EngineOptions(threads=1))
    with Model.open(tmp_path / "d.profile.toml") as model:
        assert model.spec.batched
        scores = model.infer_sync({"image": images()[:9]})["scores"]
    assert np.abs(scores - exact.run({"image": images()[:9]})["scores"]).max() < 0.5
    exact.close()
    (tmp_path / "d.int8.onnx").write_bytes((tmp_path / "digits.onnx").read_bytes())
    with pytest.raises(ProfileError, match=r"d\.int8\.onnx has another SHA-256"):
        Model.open(tmp_path / "d.profile.toml")


@pytest.mark.parametrize(
    ("flags", "budget_s", "order"),
    [
        ({"avx512_vnni"}, 60.0, ["copies", "engines"]),
        ({"avx2"}, 60.0, ["engines", "copies", "engines"]),
        ({"avx2"}, 10.0, ["engines"]),
    ],
)
def test_copies_come_first_where_they_are_likely_to_win(
    folder: Path, monkeypatch: pytest.MonkeyPatch, flags: set[str], budget_s: float, order: list[str]
) -> None:
    """Convolutions on a processor that multiplies int8 quickly; else what is left of the time is theirs, if any."""
    done: list[str] = []
    wanted = TuneRequest(folder / "digits.onnx", data={"image": images()}, budget_s=budget_s)
    space = ModelSpace(open_session(wanted, lambda event: None))
    space.facts = replace(space.facts, isa=frozenset(flags))
    monkeypatch.setattr(ModelSpace, "calibrate", lambda self: done.append("copies"))
    monkeypatch.setattr(ModelSpace, "_estimate", lambda self, choices: done.append("engines") or [])
    with pytest.raises(UsageError, match="no engine configuration could be measured"):
        space.predicted()
    space.close()
    assert done == order


@pytest.mark.slow
def test_operators_stay_in_float_until_answers_are_right(calibrated: tuple[ModelSpace, list[str]]) -> None:
    """All methods with everything in int8, then more in float, up to half; if nothing helps, the reason is reported."""
    space, _ = calibrated
    tried: list[int] = []

    def judge(answers: object) -> Accuracy:
        tried.append(len(tried))
        return Accuracy(right=len(tried) == 4, reason="far off", value=float(len(tried)))

    session = space._session
    material = Material.of(session.wanted.model, session.requests, session.gate)
    with Calibrator(replace(material, judge=judge), space.folder, 30.0) as calibrator:
        copy = calibrator.copy_for("onnxruntime", calibrator.start(), 60.0)
        assert len(tried) == 4
        assert len(copy.in_float) == 2 < copy.operators
        with pytest.raises(CalibrationError, match=r"far off with \d of \d operators in float"):
            calibrator.copy_for("openvino", calibrator.start(), 60.0)


def test_what_is_left_out_is_reported_in_one_line(tmp_path: Path) -> None:
    """Too few requests to calibrate with, and a model that asks for exact answers is not calibrated at all."""
    message: list[str] = []
    path = perceptron([64, 32, 4], tmp_path / "m.onnx")
    data = {"x": np.random.default_rng(0).standard_normal((15, 64)).astype(np.float32)}
    wanted = TuneRequest(path, data=data, budget_s=30.0)
    for item in (wanted, replace(wanted, bound=None), replace(wanted, budget_s=10.0), replace(wanted, data=None)):
        space = ModelSpace(open_session(item, lambda event: message.append(getattr(event, "text", ""))))
        message.clear()
        space.calibrate()
        space.close()
        assert not space.copies
        if item is wanted:
            assert message[-1] == "static int8 left out: it needs at least 16 requests in --data, and there are 15"
        else:
            assert not message


def test_a_process_that_ends_costs_one_precision(folder: Path, tmp_path: Path) -> None:
    """A crash of the quantiser is one line."""
    session = open_session(TuneRequest(folder / "digits.onnx", data={"image": images()}, budget_s=30.0), lambda _: None)
    material = Material.of(session.wanted.model, session.requests, session.gate)
    with Calibrator(material, tmp_path, 10.0) as calibrator:
        calibrator._child.kill()
        with pytest.raises(CalibrationError, match="the process that quantises the model exited"):
            calibrator.start()
    assert not list(tmp_path.iterdir())

"""What one model may be served with: engines that answer wrongly."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import perceptron

from tailcut.engines import EngineOptions
from tailcut.tuner.gate import Gate
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.session import open_session
from tailcut.tuner.simulate import Ways
from tailcut.tuner.ways import USUAL


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return perceptron([64, 128, 8], tmp_path_factory.mktemp("models") / "m.onnx")


@pytest.fixture
def judged(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelSpace]:
    """The space of a model whose copy in int8 is not right enough."""
    data = {"x": np.random.default_rng(0).standard_normal((48, 64)).astype(np.float32)}
    session = open_session(TuneRequest(model, data, rate=200.0, slo_ms=50.0, budget_s=20.0), lambda event: None)
    space = ModelSpace(session)
    choices = [EngineOptions(threads=1), *(EngineOptions(precision="int8", threads=count) for count in (1, 2))]
    monkeypatch.setattr("tailcut.tuner.model_space.engine_choices", lambda facts: choices)
    monkeypatch.setattr(ModelSpace, "calibrate", lambda self: None)
    strict = Gate(session.gate._questions, 0.999999)
    monkeypatch.setattr(session.learned.gate, "judge_engine", strict.judge_engine)
    monkeypatch.setattr("tailcut.tuner.model_space.with_wiring", lambda session, facts: facts)
    monkeypatch.setattr("tailcut.tuner.model_space.ways_of", lambda session, facts, estimates: Ways(USUAL))
    try:
        yield space
    finally:
        session.servers.keep()
        space.close()


def refusals(space: ModelSpace) -> list[tuple[str, str]]:
    """What was rejected: its rung, and why."""
    rungs = space._session.outcome.rungs
    return [(rung.name, item.reason) for rung in rungs for item in rung.candidates if item.verdict == "rejected"]


@pytest.mark.slow
def test_an_engine_that_answers_wrongly_is_not_predicted(judged: ModelSpace) -> None:
    """One configuration of it is measured, to be offered; no way to serve it is among the predicted ones."""
    predicted = judged.predicted()
    assert {item.settings.engine.precision for item in predicted} == {"f32"}
    ((kind, rejected),) = judged._session.rejected.items()
    assert kind == ("onnxruntime", "int8")
    assert rejected.predicted
    assert [
        estimate.options.threads
        for estimate in judged.estimates
        if estimate.options.precision == "int8" and not estimate.error
    ] == [1]
    refused = refusals(judged)
    assert [rung for rung, _ in refused] == ["simd", "simd"]
    assert all("wrong answers" in reason for _, reason in refused)


@pytest.mark.slow
def test_an_engine_that_is_not_offered_is_listed_once(judged: ModelSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no bound accepts its answers, each configuration is an estimate that failed, and nothing else."""
    monkeypatch.setattr(judged._session.learned.gate, "accepting", lambda *_: None)
    judged.predicted()
    assert [rung for rung, _ in refusals(judged)] == ["simd", "simd"]
    assert not judged._session.rejected
    assert [settings.engine.precision for settings in judged._session.refused] == ["int8"]

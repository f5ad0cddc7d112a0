"""What one model may be served with: engines that answer wrongly."""

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


@pytest.mark.slow
def test_an_engine_that_answers_wrongly_is_not_predicted(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One configuration of it is measured, to be offered; no way to serve it is among the predicted ones."""
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
        predicted = space.predicted()
    finally:
        session.servers.keep()
        space.close()
    assert {item.settings.engine.precision for item in predicted} == {"f32"}
    ((kind, rejected),) = session.rejected.items()
    assert kind == ("onnxruntime", "int8")
    assert rejected.predicted
    assert [
        estimate.options.threads
        for estimate in space.estimates
        if estimate.options.precision == "int8" and not estimate.error
    ] == [1]
    refused = [
        candidate for rung in session.outcome.rungs for candidate in rung.candidates if candidate.verdict == "rejected"
    ]
    assert all("wrong answers" in item.reason for item in refused)
    assert len(refused) == 2

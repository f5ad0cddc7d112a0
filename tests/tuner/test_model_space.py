"""What one model may be served with: engines that answer wrongly, and ways in whose costs are not measured."""

from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import perceptron

from tailcut.engines import EngineOptions
from tailcut.tuner.budget import TimePlan
from tailcut.tuner.estimate import EngineEstimate
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.gate import Gate
from tailcut.tuner.journal import lines_of
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.service import measured_service
from tailcut.tuner.session import open_session
from tailcut.tuner.simulate import Ways
from tailcut.tuner.space import BASELINE, changed
from tailcut.tuner.ways import USUAL


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return perceptron([64, 128, 8], tmp_path_factory.mktemp("models") / "m.onnx")


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
    monkeypatch.setattr(ModelSpace, "_measured_ways", lambda self: Ways(USUAL))
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


def test_slow_calls_need_no_measured_ways(model: Path, tmp_path: Path) -> None:
    """Where a call takes ten milliseconds and time is short, usual costs do, and the profile's evidence has them."""
    text: list[Event] = []
    journal = tmp_path / "m.trials.jsonl"
    session = open_session(TuneRequest(model, budget_s=20.0, journal=journal), text.append)
    space = ModelSpace(session)
    slow = EngineEstimate(EngineOptions(threads=1), {1: [np.full(9, 10_000_000)]}, cpu_ns={1: 1e7})
    session.journal.add_estimate(slow)
    space.estimates = [slow]
    session.plan = TimePlan(session.plan.began - 12.0, 20.0)
    ways = space._measured_ways()
    space.close()
    assert dict(ways.by_dispatch) == USUAL
    assert not session.servers._running
    assert any("the usual cost of receiving requests" in event.text for event in text if isinstance(event, Phase))
    lines = lines_of(journal, session.servers.profile(BASELINE).model)
    settings = changed(BASELINE, engine={"threads": 1})
    result = measured_service(lines, settings, 2.0)
    assert result is not None
    assert result.way_in["receive_ns"] == USUAL["worker"].receive_ns

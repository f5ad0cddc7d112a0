"""The shell that climbs: what it tells of a model, and what becomes of answers that are wrong at the end."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from tests.engines.models import perceptron, save, value

from tailcut.report.html import render_tune_html
from tailcut.spec import DType
from tailcut.tuner.accuracy import Accuracy
from tailcut.tuner.climb import Climb, Outcome, Wanted
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.result import evidence, result
from tailcut.tuner.rungs import Candidate, changed, starting_settings


def told(outcome: Outcome) -> dict:
    """The outcome as the command prints it."""
    objective = {"seed": 0, "slo_ms": None, "accuracy": "0.999", "metric": None, "data": None}
    found = result(outcome, model={"name": "m", "sha256": "0"}, machine={}, objective=objective, command="tailcut tune")
    return found | {"profile": "p", "report": "r"}


def test_a_random_model_is_tuned_for_speed_only(tmp_path: Path) -> None:
    """Said once; no candidate is refused for its answers, none in a lower precision is kept, and reports say so."""
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["n"]), helper.make_node("Add", ["x", "n"], ["y"])]
    ends = [[value(name, DType.FP32, (None, 4))] for name in ("x", "y")]
    events: list[Event] = []
    data = {"x": np.ones((32, 4), np.float32)}
    climb = Climb(Wanted(save(tmp_path / "m.onnx", nodes, *ends), data, rate=300.0, budget_s=10.0), events.append)
    best = starting_settings()
    climb._capacity = 1000.0
    try:
        batched = Candidate("batching.max_batch=4", changed(best, batching={"max_batch": 4}))
        entry, _ = climb._try(best, batched, 0.5)
        assert "wrong answers" not in entry["reason"]
        accuracy = climb._check(best)
    finally:
        climb._retire()
    assert sum("the model itself is random" in event.text for event in events if isinstance(event, Phase)) == 1
    outcome = Outcome(climb._spec, best, 300.0, [], accuracy=accuracy, random_outputs=climb._gate.random_outputs)
    assert outcome.wrong == ""
    found = told(outcome)
    assert found["accuracy"]["random_outputs"] == ["y"]
    assert (found["accuracy"]["right"], found["accuracy"]["worst"]) == (True, None)
    assert evidence(found)["accuracy"]["random_outputs"] == ["y"]
    assert "draws it at random: y." in render_tune_html(found)


def test_wrong_answers_at_the_end_are_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verification ends with them; the one line names the settings and the request."""
    path = perceptron([4, 8, 3], tmp_path / "m.onnx")
    climb = Climb(Wanted(path, {"x": np.ones((8, 4), np.float32)}, rate=300.0, budget_s=10.0), lambda event: None)
    settings = changed(starting_settings(), batching={"max_batch": 4})
    outcome = Outcome(climb._spec, settings, 300.0, [])
    wrong = Accuracy(right=False, reason="request 3, asked with 15 others: output 'y': cosine 0.5 (at least 0.999)")
    monkeypatch.setattr(climb, "_check", lambda *_: wrong)
    try:
        climb._verify(outcome)
    finally:
        climb._retire()
    assert outcome.arms == {}
    assert outcome.wrong.startswith("wrong answers with batching.max_batch=4 ")
    assert outcome.wrong.endswith("request 3, asked with 15 others: output 'y': cosine 0.5 (at least 0.999)")
    assert told(outcome)["verification"] is None

"""A tune's phases on real models and servers: what is refused, what is kept, and what a way in costs."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from tests.engines.models import masked_mean, perceptron, save, value

from tailcut.report.html import render_tune_html
from tailcut.spec import DType
from tailcut.tuner.accuracy import Accuracy
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.finalists import Predicted
from tailcut.tuner.learning import facts_of, learn
from tailcut.tuner.records import Outcome, Wanted
from tailcut.tuner.result import evidence, result
from tailcut.tuner.search import Search
from tailcut.tuner.servers import Servers
from tailcut.tuner.space import BASELINE, changed, serving_choices
from tailcut.tuner.ways import PROBED, measure_ways, way_settings


@pytest.mark.parametrize("minds_mask", [True, False])
def test_padding_races_only_where_answers_stay_right(tmp_path: Path, minds_mask: bool) -> None:
    """A model that counts the filling answers wrongly when padded: its buckets are rejected before they race."""
    path = masked_mean(tmp_path / "m.onnx", minds_mask=minds_mask)
    random = np.random.default_rng(0)
    data = {f"ids/{length}": random.integers(1, 32, (4, length)) for length in (3, 7, 12, 19)}
    data |= {name.replace("ids", "mask"): np.ones_like(ids) for name, ids in data.items()}
    search = Search(Wanted(path, data, rate=300.0, slo_ms=100.0, budget_s=12.0), lambda event: None)
    choices = [one for one in serving_choices(search._facts, BASELINE.engine) if one.batching.dispatch == "worker"]
    padded = next(one for one in choices if one.batching.padding)
    plain = next(one for one in choices if not one.batching.padding)
    try:
        search._measure_baseline()
        won = search._race(search._chosen([Predicted(one, 300.0, 1.0, 10.0, 0) for one in (padded, plain)]))
    finally:
        search._servers.keep()
    refused = [one for rung in search._rungs.values() for one in rung.candidates if one["verdict"] == "rejected"]
    assert [("wrong answers" in one["reason"], "padding" in one["setting"]) for one in refused] == (
        [] if minds_mask else [(True, True)]
    )
    assert minds_mask or won == plain


def test_nothing_significant_does_not_select_the_baseline(tmp_path: Path) -> None:
    """Where two finalists are alike one of them wins, and the settings are not the baseline's."""
    path = perceptron([16, 32, 4], tmp_path / "m.onnx")
    search = Search(Wanted(path, slo_ms=50.0, budget_s=8.0), lambda event: None)
    choices = list(serving_choices(search._facts, BASELINE.engine))[:2]
    try:
        search._measure_baseline()
        won = search._race(search._chosen([Predicted(one, 1000.0, 1.0, 10.0, 0) for one in choices]))
    finally:
        search._servers.keep()
    assert won in choices


def test_what_a_way_in_costs(tmp_path: Path) -> None:
    """Nanoseconds for each part, with an engine that computes nothing; only a worker thread has to be woken."""
    path = perceptron([16, 4], tmp_path / "m.onnx")
    learned = learn(Wanted(path), 1.0, lambda event: None)
    facts = facts_of(Wanted(path), learned)
    servers = Servers(path, learned.spec, learned.requests)
    try:
        ways = measure_ways(servers, {kind: way_settings(facts, kind) for kind in PROBED}, 0.9)
    finally:
        servers.keep()
    for way in ways.values():
        assert 200 < way.receive_ns + way.answer_ns < 2_000_000
        assert min(way.batch_ns, way.pass_ns, way.wake_ns, way.outside_ns) >= 0
    assert ways["inline"].wake_ns == 0


def test_the_story_says_what_limits(tmp_path: Path) -> None:
    """Whether rows may be batched, what the baseline carries, and the limit that its own tail sets."""
    said: list[Event] = []
    search = Search(Wanted(perceptron([16, 4], tmp_path / "m.onnx"), budget_s=6.0), said.append)
    try:
        found = search._measure_baseline()
    finally:
        search._servers.keep()
    words = " / ".join(event.text for event in said if isinstance(event, Phase))
    assert "rows independent, batched" in words
    assert "the limit of p99 is" in words
    assert found.rate > 0
    assert found.limit_ms > 0
    assert search._outcome.objective.limit_ms == found.limit_ms


def test_an_exhaustive_race_takes_the_whole_space(tmp_path: Path) -> None:
    """Everything that was simulated races, up to a limit that is said; a usual race takes a few."""
    said: list[Event] = []
    path = perceptron([16, 4], tmp_path / "m.onnx")
    predicted = [
        Predicted(changed(BASELINE, batching={"max_batch_size": size}), 1000.0 - size, 1.0, 10.0, 0)
        for size in range(1, 131)
    ]
    previous = changed(BASELINE, batching={"max_batch_size": 500})
    search = Search(Wanted(path, budget_s=30.0, exhaustive=True, previous=previous), said.append)
    chosen = search._chosen(predicted)
    assert chosen[:96] == [one.settings for one in predicted[:96]]
    assert chosen[96:] == [previous]
    words = " / ".join(event.text for event in said if isinstance(event, Phase))
    assert "racing 96 configurations (the best by simulation of 130), in groups of 9: about" in words
    few = Search(Wanted(path, budget_s=30.0), said.append)._chosen(predicted)
    assert 1 <= len(few) <= 8


def told(outcome: Outcome) -> dict:
    """The outcome as the command prints it."""
    objective = {"seed": 0, "slo_ms": None, "accuracy": "0.999", "metric": None, "data": None}
    found = result(outcome, model={"name": "m", "sha256": "0"}, machine={}, objective=objective, command="tailcut tune")
    return found | {"profile": "p", "report": "r"}


def test_a_random_model_is_tuned_for_speed_only(tmp_path: Path) -> None:
    """Said once; no finalist is refused for its answers, no lower precision is offered, and reports say so."""
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["n"]), helper.make_node("Add", ["x", "n"], ["y"])]
    ends = [[value(name, DType.FP32, (None, 4))] for name in ("x", "y")]
    events: list[Event] = []
    data = {"x": np.ones((32, 4), np.float32)}
    path = save(tmp_path / "m.onnx", nodes, *ends)
    search = Search(Wanted(path, data, slo_ms=100.0, budget_s=10.0), events.append)
    try:
        search._measure_baseline()
        settings = search._baseline("binary")
        won = search._race([settings])
        accuracy = search._gate.check(search._servers.of(settings).target, settings, 0.3)
    finally:
        search._servers.keep()
    assert won == settings
    assert not search._facts.lower_precision
    assert sum("the model itself is random" in event.text for event in events if isinstance(event, Phase)) == 1
    outcome = Outcome(search._spec, settings, 300.0, [], accuracy=accuracy, random_outputs=search._gate.random_outputs)
    assert outcome.wrong == ""
    found = told(outcome)
    assert found["accuracy"]["random_outputs"] == ["y"]
    assert (found["accuracy"]["right"], found["accuracy"]["worst"]) == (True, None)
    assert evidence(found)["accuracy"]["random_outputs"] == ["y"]
    assert "draws it at random: y." in render_tune_html(found)


def test_wrong_answers_at_the_end_are_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verification ends with them; the one line names the settings and the request."""
    path = perceptron([4, 8, 3], tmp_path / "m.onnx")
    search = Search(Wanted(path, {"x": np.ones((8, 4), np.float32)}, budget_s=10.0), lambda event: None)
    settings = changed(search._baseline("binary"), batching={"max_batch_size": 4})
    outcome = search._outcome
    outcome.settings = settings
    wrong = Accuracy(right=False, reason="request 3, asked with 15 others: output 'y': cosine 0.5 (at least 0.999)")
    monkeypatch.setattr(search._gate, "check", lambda *_, whole: wrong)
    try:
        search._verify()
    finally:
        search._servers.keep()
    assert outcome.arms == {}
    assert outcome.wrong.startswith("wrong answers with batching.max_batch_size=4 ")
    assert outcome.wrong.endswith("request 3, asked with 15 others: output 'y': cosine 0.5 (at least 0.999)")
    assert told(outcome)["verification"] is None

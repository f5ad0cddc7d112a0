"""A race on real servers: what is refused, what is kept, and what a looser bound would bring."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from tests.engines.models import masked_mean, perceptron, save, value
from tests.tuner.results import INDEPENDENT, told

from tailcut.report.html import render_tune_html
from tailcut.runtime.profile import Profile
from tailcut.spec import DType
from tailcut.tuner.claims import carry
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.finalists import Predicted
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.offers import offers_of
from tailcut.tuner.records import Outcome, Wanted
from tailcut.tuner.result import evidence
from tailcut.tuner.selection import Selection
from tailcut.tuner.session import Session, open_session
from tailcut.tuner.space import BASELINE, changed, serving_choices


def opened(wanted: Wanted, tell: Callable[[Event], None] = lambda event: None) -> tuple[Session, Selection]:
    session = open_session(wanted, tell)
    return session, Selection(session, ModelSpace(session))


@pytest.mark.parametrize("minds_mask", [True, False])
def test_padding_races_only_where_answers_stay_right(tmp_path: Path, minds_mask: bool) -> None:
    """A model that counts the filling answers wrongly when padded: its buckets are rejected before they race."""
    path = masked_mean(tmp_path / "m.onnx", minds_mask=minds_mask)
    random = np.random.default_rng(0)
    data = {f"ids/{length}": random.integers(1, 32, (4, length)) for length in (3, 7, 12, 19)}
    data |= {name.replace("ids", "mask"): np.ones_like(ids) for name, ids in data.items()}
    session = open_session(Wanted(path, data, rate=300.0, slo_ms=100.0, budget_s=12.0), lambda event: None)
    space = ModelSpace(session)
    selection = Selection(session, space)
    choices = [one for one in serving_choices(space.facts, BASELINE.engine) if one.batching.dispatch == "worker"]
    padded = next(one for one in choices if one.batching.padding)
    plain = next(one for one in choices if not one.batching.padding)
    try:
        carry(session)
        won = selection.race(selection.chosen([Predicted(one, 300.0, 1.0, 10.0, 0) for one in (padded, plain)]))
    finally:
        session.servers.keep()
    refused = [one for rung in session.outcome.rungs for one in rung.candidates if one.verdict == "rejected"]
    assert [("wrong answers" in one.reason, "padding" in one.setting) for one in refused] == (
        [] if minds_mask else [(True, True)]
    )
    assert minds_mask or won == plain


def test_nothing_significant_does_not_select_the_baseline(tmp_path: Path) -> None:
    """Where two finalists are alike one of them wins, and the settings are not the baseline's."""
    path = perceptron([16, 32, 4], tmp_path / "m.onnx")
    session = open_session(Wanted(path, slo_ms=50.0, budget_s=8.0), lambda event: None)
    space = ModelSpace(session)
    selection = Selection(session, space)
    choices = list(serving_choices(space.facts, BASELINE.engine))[:2]
    try:
        carry(session)
        won = selection.race(selection.chosen([Predicted(one, 1000.0, 1.0, 10.0, 0) for one in choices]))
    finally:
        session.servers.keep()
    assert won in choices


def test_an_exhaustive_race_takes_the_whole_space(tmp_path: Path) -> None:
    """Everything that was simulated races, up to a limit that is said; a usual race takes a few."""
    said: list[Event] = []
    path = perceptron([16, 4], tmp_path / "m.onnx")
    predicted = [
        Predicted(changed(BASELINE, batching={"max_batch_size": size}), 1000.0 - size, 1.0, 10.0, 0)
        for size in range(1, 131)
    ]
    previous = Profile.of_model(path, changed(BASELINE, batching={"max_batch_size": 500}))
    _, selection = opened(Wanted(path, budget_s=30.0, exhaustive=True, previous=previous), said.append)
    chosen = selection.chosen(predicted)
    assert chosen[:96] == [one.settings for one in predicted[:96]]
    assert chosen[96:] == [previous.settings]
    words = " / ".join(event.text for event in said if isinstance(event, Phase))
    assert "racing 96 configurations (the best by simulation of 130), in groups of 9: about" in words
    few = opened(Wanted(path, budget_s=30.0))[1].chosen(predicted)
    assert 1 <= len(few) <= 8


def test_a_random_model_is_tuned_for_speed_only(tmp_path: Path) -> None:
    """Said once; no finalist is refused for its answers, no lower precision is offered, and reports say so."""
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["n"]), helper.make_node("Add", ["x", "n"], ["y"])]
    ends = [[value(name, DType.FP32, (None, 4))] for name in ("x", "y")]
    events: list[Event] = []
    data = {"x": np.ones((32, 4), np.float32)}
    path = save(tmp_path / "m.onnx", nodes, *ends)
    session = open_session(Wanted(path, data, slo_ms=100.0, budget_s=10.0), events.append)
    space = ModelSpace(session)
    try:
        carry(session)
        settings = session.with_wire("binary")
        won = Selection(session, space).race([settings])
        accuracy = session.check(settings, 0.3)
    finally:
        session.servers.keep()
    assert won == settings
    assert not space.facts.lower_precision
    assert sum("the model itself is random" in event.text for event in events if isinstance(event, Phase)) == 1
    outcome = Outcome(session.spec, settings, 300.0, [], INDEPENDENT, accuracy=accuracy)
    outcome.random_outputs = session.gate.random_outputs
    assert outcome.wrong == ""
    found = told(outcome)
    assert found.accuracy is not None
    assert found.accuracy.random_outputs == ["y"]
    assert (found.accuracy.right, found.accuracy.worst) == (True, None)
    assert evidence(found)["accuracy"]["random_outputs"] == ["y"]
    assert "draws it at random: y." in render_tune_html(found)


def test_a_precision_that_is_rejected_is_offered_and_the_advice_holds(tmp_path: Path) -> None:
    """Int8 is too far off for a strict bound; with the bound that the offer names the same server is accepted."""
    path = perceptron([64, 128, 8], tmp_path / "m.onnx")
    data = {"x": np.random.default_rng(0).standard_normal((48, 64)).astype(np.float32)}
    wanted = Wanted(path, data, rate=200.0, slo_ms=100.0, budget_s=10.0, bound=0.999999)
    session, selection = opened(wanted)
    plain = session.with_wire("binary")
    int8 = changed(plain, engine={"precision": "int8", "threads": 1})
    ways = [Predicted(plain, 900.0, 2.0, 10.0, 0), Predicted(int8, 1000.0, 1.1, 10.0, 0)]
    try:
        carry(session)
        assert selection.race(selection.chosen(ways)) == plain
    finally:
        session.servers.keep()
    (rejected,) = session.rejected.values()
    assert rejected.settings == int8
    assert 0.8 <= rejected.bound < 0.999999
    (offer,) = offers_of([rejected], ways[0], session.outcome.objective)
    assert offer.p50_ratio == pytest.approx(0.55)
    assert offer.accuracy.worst is not None
    looser, _ = opened(replace(wanted, bound=offer.bound))
    try:
        assert looser.check(int8, 0.5, whole=True).right
    finally:
        looser.servers.keep()


def test_where_all_finalists_answer_wrongly_the_next_best_race(tmp_path: Path) -> None:
    """The best by simulation are all int8, and too far off: the best float32 configuration is tried, not given up."""
    path = perceptron([64, 128, 8], tmp_path / "m.onnx")
    data = {"x": np.random.default_rng(0).standard_normal((48, 64)).astype(np.float32)}
    session, selection = opened(Wanted(path, data, rate=200.0, slo_ms=100.0, budget_s=10.0, bound=0.999999))
    plain = changed(session.with_wire("binary"), engine={"threads": 1})
    wrong = [changed(plain, engine={"precision": "int8"}, batching={"max_batch_size": size}) for size in (4, 8, 16)]
    rates = {plain: 500.0} | dict(zip(wrong, (1000.0, 990.0, 980.0), strict=True))
    try:
        carry(session)
        selection.chosen([Predicted(one, rate, 1.0, 10.0, 0) for one, rate in rates.items()])
        assert selection.race(wrong[:2]) == plain
    finally:
        session.servers.keep()
    refused = [one.setting for rung in session.outcome.rungs for one in rung.candidates if one.verdict == "rejected"]
    assert len(refused) == 2  # the third of the same engine and precision is not started


def test_the_choice_among_equals_is_told_with_its_reason(tmp_path: Path) -> None:
    """Two configurations that are alike are measured once more: alone, and for CPU and memory."""
    told: list[Event] = []
    path = perceptron([64, 1024, 1024, 8], tmp_path / "m.onnx")
    session, selection = opened(Wanted(path, slo_ms=500.0, budget_s=10.0), told.append)
    quiet = changed(session.with_wire("binary"), engine={"threads": 1, "spinning": False})
    twin = changed(quiet, memory={"gc_freeze": True})
    try:
        carry(session)
        won = selection.race(selection.chosen([Predicted(one, 1000.0, 1.0, 10.0, 0) for one in (quiet, twin)]))
    finally:
        session.servers.keep()
    tie = session.outcome.tie_break
    if tie is not None:  # a stall may tell them apart
        assert tie.chosen == won
        assert {one.settings for one in tie.equals} == {quiet, twin}
        assert all(one.alone_ms > 0 and (one.cpu_us or 1) > 0 for one in tie.equals)
        assert any(isinstance(event, Phase) and tie.reason in event.text for event in told)

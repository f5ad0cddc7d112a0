"""What a tune says before it searches, and that wrong answers at the end are not timed."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import perceptron
from tests.tuner.results import printed

from tailcut.errors import UsageError
from tailcut.tuner import claims, verification
from tailcut.tuner.accuracy import Accuracy
from tailcut.tuner.baseline import Baseline
from tailcut.tuner.budget import SearchSize, TimePlan
from tailcut.tuner.claims import announce, carry, p99_takes_long, prove, within_reach
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.search import tune_model
from tailcut.tuner.session import open_session
from tailcut.tuner.space import changed
from tailcut.tuner.waterfall import waterfall


def test_the_story_says_what_limits(tmp_path: Path) -> None:
    """Whether rows may be batched, what the baseline sustains, the limit of its own tail, and how long all takes."""
    text: list[Event] = []
    session = open_session(TuneRequest(perceptron([16, 4], tmp_path / "m.onnx"), budget_s=6.0), text.append)
    try:
        result = carry(session)
        announce(session, result, SearchSize(13))
    finally:
        session.servers.keep()
    words = " / ".join(event.text for event in text if isinstance(event, Phase))
    assert "rows independent, batched" in words
    assert "the p99 limit is" in words
    assert re.search(r"a complete search takes about \d+ s; --budget 6s tries less of it", words)
    assert result.rate > 0
    assert result.limit_ms > 0
    assert session.outcome.objective.limit_ms == result.limit_ms


@pytest.mark.parametrize(
    ("rate", "of", "what_helps"), [(0.3, "at 0.3 req/s", ", or a higher --rate"), (400.0, "of a model this slow", "")]
)
def test_why_the_p99_is_not_verified(rate: float, of: str, what_helps: str) -> None:
    """A model that sustains far more than the rate is not called slow, and a higher rate helps only there."""
    text = p99_takes_long(Baseline(1000.0, 16, rate, 5.0), 5630.0, 10.0, "p50", 15220).text
    assert text == (
        f"the p99 {of} takes 5,630 s to verify: within 10 s the tune verifies its p50 "
        f"(--budget 15220s for the p99{what_helps})"
    )


def test_a_rate_out_of_reach_is_refused(tmp_path: Path) -> None:
    """Over twice what the best configuration, or the measured baseline, sustains."""
    path = perceptron([16, 4], tmp_path / "m.onnx")
    session = open_session(TuneRequest(path, rate=1000.0, slo_ms=20.0), lambda _: None)
    predicted = PredictedConfiguration(session.base, 0.0, 1.0, 10.0, 0, capacity=500.0)
    within_reach(session, [predicted])
    predicted = replace(predicted, capacity=499.0)
    with pytest.raises(UsageError, match=r"^--rate 1000: no configuration is expected to sustain more than 499 req/s"):
        within_reach(session, [predicted])
    session.outcome.capacity = 500.0
    within_reach(session, [predicted])


@pytest.mark.slow
def test_a_rate_out_of_reach_ends_before_the_race(tmp_path: Path) -> None:
    """Whatever the objective is."""
    path = perceptron([16, 4], tmp_path / "m.onnx")
    for objective in ("latency", "goodput"):
        events: list[Event] = []
        wanted = TuneRequest(path, rate=1e7, slo_ms=20.0, objective=objective, budget_s=4.0)
        with pytest.raises(UsageError, match="--rate 10000000: no configuration"):
            tune_model(wanted, events.append)
        assert not any("racing" in event.text for event in events if isinstance(event, Phase))


def test_wrong_answers_at_the_end_are_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verification ends with them; the one line names the settings and the request."""
    path = perceptron([4, 8, 3], tmp_path / "m.onnx")
    session = open_session(TuneRequest(path, {"x": np.ones((8, 4), np.float32)}, budget_s=10.0), lambda event: None)
    settings = changed(session.with_wire("binary"), batching={"max_batch_size": 4})
    outcome = session.outcome
    outcome.settings = settings
    wrong = Accuracy(right=False, reason="request 3, asked with 15 others: output 'y': cosine 0.5 (at least 0.999)")
    monkeypatch.setattr(session.gate, "check", lambda *_, whole: wrong)
    try:
        prove(session)
    finally:
        session.servers.keep()
    assert outcome.arms == {}
    assert outcome.wrong.startswith("wrong answers with batching.max_batch_size=4 ")
    assert outcome.wrong.endswith("request 3, asked with 15 others: output 'y': cosine 0.5 (at least 0.999)")
    assert printed(outcome).verification is None


def test_without_time_for_a_median_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two servers that answer once in two seconds: blocks too short for an arrival would only take long."""
    text: list[Event] = []
    path = perceptron([4, 8, 3], tmp_path / "m.onnx")
    session = open_session(TuneRequest(path, {"x": np.ones((8, 4), np.float32)}, budget_s=10.0), text.append)
    outcome = session.outcome
    outcome.settings = changed(session.with_wire("binary"), batching={"max_batch_size": 4})
    outcome.capacity, outcome.rate = 0.5, 0.25
    session.compared.pop("reference", None)
    session.plan = TimePlan(time.monotonic() - 8.0, 10.0)
    monkeypatch.setattr(claims, "verify", lambda *_, **__: pytest.fail("there is no time"))
    try:
        prove(session)
    finally:
        session.servers.keep()
    words = [event.text for event in text if isinstance(event, Phase)]
    assert any(re.fullmatch(r"not verified: 2 servers need 28 s .* are left: raise --budget", line) for line in words)
    result = printed(outcome)
    assert result.verification is not None
    assert [arm.samples for arm in (result.verification.baseline, result.verification.tuned)] == [0, 0]
    assert result.accuracy is not None
    assert result.accuracy.right


@pytest.mark.slow
def test_a_verification_that_is_stopped_has_left_its_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is stored as it was measured, that of the highest rate too."""
    path, journal = perceptron([4, 8, 3], tmp_path / "m.onnx"), tmp_path / "m.trials.jsonl"
    session = open_session(TuneRequest(path, rate=100.0, slo_ms=20.0, budget_s=60.0, journal=journal), lambda _: None)
    session.outcome.settings = changed(session.with_wire("binary"), batching={"max_batch_size": 4})
    rounds = []

    def stopped(*_: object, **__: object) -> None:
        rounds.append(1)
        if len(rounds) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(verification, "closed_block", stopped)
    monkeypatch.setattr(verification, "_SELDOM", 1)
    try:
        carry(session)
        with pytest.raises(KeyboardInterrupt):
            prove(session)
    finally:
        session.servers.keep()
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    arms = [line["arm"] for line in lines if line["kind"] == "verified"]
    assert arms == ["baseline", "reference", "tuned"] * 2
    assert next(line["arm"] for line in lines if line["kind"] == "highest") == "tuned"
    assert all(line["samples"] or line["errors"] for line in lines if line["kind"] == "highest")


@pytest.mark.slow
def test_the_steps_of_the_rungs_are_stored_round_by_round(tmp_path: Path) -> None:
    """Three rounds at least, a line for each step in each of them."""
    path, journal = perceptron([4, 8, 3], tmp_path / "m.onnx"), tmp_path / "m.trials.jsonl"
    session = open_session(TuneRequest(path, rate=50.0, slo_ms=500.0, budget_s=5.0, journal=journal), lambda _: None)
    steps = [session.base, changed(session.with_wire("binary"), batching={"max_batch_size": 4})]
    try:
        carry(session)
        waterfall(session, steps, 0.12)
    finally:
        session.servers.keep()
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    sizes = [line["settings"]["batching"]["max_batch_size"] for line in lines if line["kind"] == "step"]
    assert len(sizes) >= 2
    assert sizes == [settings.batching.max_batch_size for settings in steps] * (len(sizes) // 2)

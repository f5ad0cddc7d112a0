"""Settings that the verification proves worse are not kept."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from msgspec.structs import replace
from rich.console import Console
from tests.engines.models import perceptron
from tests.report.test_html import ASKED
from tests.tuner.results import INDEPENDENT, printed

from tailcut.lab.trial import FAILED_MS, ArmRuns
from tailcut.report.console import tune_summary
from tailcut.report.html import render_tune_html
from tailcut.report.markdown import tune_markdown
from tailcut.report.tune_words import arm_title, cost_words, headline, limits_words, tune_facts
from tailcut.report.words import milliseconds
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.spec import ModelSpec
from tailcut.tuner import claims
from tailcut.tuner.objective import Objective, ObjectiveKind
from tailcut.tuner.records import RungRecord, TuneOutcome, TuneRequest
from tailcut.tuner.result import evidence, result
from tailcut.tuner.result_records import HighestRate, NotKept, TunedModel
from tailcut.tuner.session import open_session
from tailcut.tuner.space import BASELINE, changed
from tailcut.tuner.worse import instead, proven_worse


def runs(scale: float, speed: float, seed: int) -> ArmRuns:
    random = np.random.default_rng(seed)
    arm = ArmRuns()
    for _ in range(12):
        arm.blocks.append(random.lognormal(sigma=0.4, size=150) * scale)
        arm.throughputs.append(speed * random.lognormal(sigma=0.03))
    return arm


def outcome(kind: ObjectiveKind, *, tail: float, speed: float) -> TuneOutcome:
    """Of tuned settings with such ratios to the baseline, whose p99 is about 2.6 ms; the limit is 10 ms."""
    result = TuneOutcome(None, Settings(), 100.0, [], INDEPENDENT, Objective(kind, 10.0, 100.0))  # type: ignore[arg-type]
    result.arms = {"baseline": runs(1.0, 100.0, 1), "tuned": runs(tail, 100.0 * speed, 2)}
    return result


@pytest.mark.parametrize(
    ("kind", "tail", "speed", "worse"),
    [
        ("latency", 0.5, 0.7, ""),
        ("latency", 1.0, 0.7, "throughput"),
        ("latency", 1.6, 2.0, "p99"),
        ("throughput", 1.6, 2.0, ""),
        ("throughput", 0.5, 0.7, "throughput"),
        ("goodput", 1.6, 2.0, ""),
        ("goodput", 8.0, 2.0, "p99"),
        ("goodput", 1.6, 1.0, "p99"),
        ("goodput", 0.5, 2.0, ""),
        ("goodput", 1.0, 1.0, ""),
        ("cost", 1.6, 0.7, "p99"),
    ],
)
def test_a_loss_without_the_gain_that_was_asked_for(kind: ObjectiveKind, tail: float, speed: float, worse: str) -> None:
    """Is worse; with the gain it is its price."""
    reason = proven_worse(outcome(kind, tail=tail, speed=speed), "baseline", 0)
    assert reason.startswith(worse)
    assert bool(reason) == bool(worse)
    assert not reason or reason.endswith("of the baseline's")


def test_more_traffic_within_the_limit_is_a_gain_too() -> None:
    """Where the limit is kept at a rate that the baseline does not carry, a longer tail below it is no loss."""
    result = outcome("goodput", tail=1.6, speed=1.0)
    result.highest = HighestRate(10.0, 120.0, 300.0, (5.0, 6.0), 2000, within=True)
    assert proven_worse(result, "baseline", 0) == ""
    result.highest = replace(result.highest, within=False)
    assert proven_worse(result, "baseline", 0)


def test_a_gain_over_the_baseline_excuses_no_loss_to_the_previous_profile() -> None:
    """Of that profile no highest rate is known: it may carry as much."""
    result = outcome("goodput", tail=1.0, speed=1.0)
    result.arms |= {"previous": runs(0.4, 130.0, 3)}
    result.highest = HighestRate(10.0, 120.0, 300.0, (5.0, 6.0), 2000, within=True)
    assert proven_worse(result, "previous", 0).endswith("of the previous profile's")
    kept = instead(result, 0)
    assert kept is not None
    assert kept.kept == "previous"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("previous", "arm", "reason"),
    [
        ((2.2, 70.0), "reference", "of the baseline's"),
        ((1.0, 100.0), "previous", "of the previous profile's"),
    ],
)
def test_the_previous_profile_is_kept_unless_it_is_worse_itself(
    previous: tuple[float, float], arm: str, reason: str
) -> None:
    """A loss to the baseline alone says nothing for it."""
    result = outcome("latency", tail=2.0, speed=0.7)
    result.arms |= {"previous": runs(*previous, 3), "reference": runs(1.0, 100.0, 4)}
    kept = instead(result, 0)
    assert kept is not None
    assert (kept.kept, kept.reason.endswith(reason)) == (arm, True)


@pytest.mark.slow
def test_a_loss_to_a_previous_profile_that_is_worse_than_the_baseline_leaves_the_baseline() -> None:
    """What is better than both is kept, and the line says why."""
    result = outcome("latency", tail=1.0, speed=1.0)
    result.arms |= {"previous": runs(0.5, 100.0, 3)}
    result.arms["tuned"], result.arms["baseline"] = runs(1.0, 100.0, 2), runs(0.2, 100.0, 1)
    assert proven_worse(result, "previous", 0)
    kept = instead(result, 0)
    assert kept is not None
    assert (kept.kept, kept.reason.endswith("of the baseline's")) == ("baseline", True)


def test_failed_requests_are_a_loss() -> None:
    """A server that loses 2 % of the requests has no p99."""
    result = outcome("latency", tail=1.0, speed=1.0)
    for block in result.arms["tuned"].blocks:
        block[:3] = FAILED_MS
    assert proven_worse(result, "baseline", 0) == "p99 by failed requests of the baseline's"


@pytest.mark.slow
def test_settings_that_are_proven_worse_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the baseline's, in the profile and in its evidence; the console and the reports say so."""
    path, text = perceptron([4, 8, 3], tmp_path / "m.onnx"), []
    session = open_session(TuneRequest(path, budget_s=8.0), lambda event: text.append(getattr(event, "text", "")))
    outcome = session.outcome

    def measured(*_: object, **__: object) -> None:
        outcome.arms = {"baseline": runs(1.0, 100.0, 1), "reference": runs(0.8, 120.0, 2), "tuned": runs(2.0, 90.0, 3)}

    monkeypatch.setattr(claims, "verify", measured)
    try:
        outcome.settings = changed(session.with_wire("binary"), batching={"max_batch_size": 64})
        outcome.rungs = [RungRecord("batching", kept=["batching.max_batch_size=64"])]
        claims.prove(session)
    finally:
        session.servers.keep()
    assert outcome.not_kept is not None
    assert outcome.not_kept.kept == "reference"
    assert outcome.settings == session.with_wire("binary")
    assert outcome.unchanged
    assert any("is not kept: " in line and line.endswith("holds the baseline's settings") for line in text)
    result = printed(outcome)
    kept = evidence(result)
    assert kept["tuned"] == kept["reference"]
    assert kept["kept"] == []
    assert "p99_ratio" not in kept
    title, sentence = headline(result)
    assert title == "Not kept"
    assert sentence.endswith("of the baseline's; the profile holds the baseline's.")
    assert arm_title("tuned", result) == "not kept"
    console = Console(width=300, record=True)
    console.print(tune_summary(result))
    assert "The settings found are proven worse" in console.export_text()
    assert "Not kept" in tune_markdown(result)


@pytest.mark.slow
@pytest.mark.parametrize(("tail", "speed", "kept"), [(2.0, 90.0, "reference"), (0.5, 130.0, None)])
def test_a_previous_profile_that_won_gives_way_to_a_better_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tail: float, speed: float, kept: str | None
) -> None:
    """Also where it is the winner itself, and nothing would change."""
    path = perceptron([4, 8, 3], tmp_path / "m.onnx")
    before = changed(BASELINE, engine={"name": "onnxruntime"}, batching={"max_batch_size": 4, "bind": False})
    session = open_session(TuneRequest(path, budget_s=8.0, previous=Profile.of_model(path, before)), lambda event: None)
    outcome = session.outcome
    outcome.arms = {"baseline": runs(1.0, 100.0, 1), "reference": runs(1.0, 100.0, 2)}
    outcome.arms |= {"tuned": runs(tail, speed, 3), "previous": runs(tail, speed, 4)}
    outcome.settings = before
    claims._take_back(session, {"tuned": before, "previous": before, "reference": session.with_wire("binary")})
    assert (outcome.not_kept and outcome.not_kept.kept) == kept
    assert outcome.settings == (session.with_wire("binary") if kept else before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kept", "server"), [("reference", "the baseline server"), ("previous", "the previous profile's")]
)
def test_limits_are_judged_by_what_is_kept(kept: Literal["reference", "previous"], server: str) -> None:
    """Memory, deadline and CPUs are those of its server, and no ratio of the other one is reported."""
    item = outcome("cost", tail=8.0, speed=0.5)
    item.spec = ModelSpec("m", (), ())
    item.arms |= {kept: runs(0.3, 100.0, 3)}
    item.memory_peaks = {"tuned": 900_000_000, kept: 100_000_000}
    item.not_kept = NotKept("engine.threads=2", "p99 x8.00 (7.00 to 9.00) of the baseline's", kept)
    item.cpus_used = 1.0
    model = TunedModel.of(item.spec, "m", "m.onnx", "0")
    asked = replace(ASKED, slo_ms=4.0, memory_bytes=500_000_000, cpus=2)
    made = result(item, model=model, machine={}, objective=asked, command="tailcut tune")
    checked = made.verification
    assert checked is not None
    assert (checked.memory_within, checked.slo_met, checked.cpus_within) == (True, True, True)
    words = limits_words(made)
    assert words.startswith(f"{server}")
    assert "peaked at 100 MB: within the limit of 500 MB" in words
    assert tune_facts(made) == [("deadline of 4 ms", "met", "judged by the p99's interval")]
    assert cost_words(made) == ""
    assert "to the baseline" not in tune_markdown(made)
    page = render_tune_html(made)
    assert "p99, baseline" not in page
    assert "the tune was interrupted" not in page


@pytest.mark.slow
def test_with_retune_they_give_way_to_the_previous_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if they are better than the baseline's: the profile that was checked again stays as it is."""
    path = perceptron([4, 8, 3], tmp_path / "m.onnx")
    before = changed(BASELINE, engine={"name": "onnxruntime"}, batching={"max_batch_size": 4, "bind": False})
    wanted = TuneRequest(path, budget_s=8.0, previous=Profile.of_model(path, before))
    session = open_session(wanted, lambda event: None)
    outcome = session.outcome

    def measured(*_: object, **__: object) -> None:
        outcome.arms = {"baseline": runs(4.0, 50.0, 1), "previous": runs(1.0, 100.0, 2), "tuned": runs(2.0, 90.0, 3)}

    monkeypatch.setattr(claims, "verify", measured)
    try:
        outcome.settings = changed(session.with_wire("binary"), batching={"max_batch_size": 64})
        claims.prove(session)
    finally:
        session.servers.keep()
    assert outcome.not_kept is not None
    assert outcome.not_kept.kept == "previous"
    assert outcome.not_kept.reason.endswith("of the previous profile's")
    assert outcome.settings == before
    assert headline(printed(outcome))[1].endswith("; the profile holds its previous settings.")


def test_no_ratio_is_claimed_at_a_rate_that_the_baseline_cannot_sustain() -> None:
    """Its latencies grow for as long as the overload lasts, so they mean nothing."""
    text = result_of_overload()
    assert text.count("the baseline cannot sustain this rate") == 1
    assert "x0.0" not in text


def result_of_overload() -> str:
    item = outcome("latency", tail=1.0, speed=2.0)
    item.spec = ModelSpec("m", (), ())
    item.arms["baseline"].blocks = [block * 1000 for block in item.arms["baseline"].blocks[:3]]
    item.overloaded = frozenset({"baseline"})
    result = printed(item)
    assert result.verification is not None
    assert result.verification.tail_ratio is result.verification.p99_ratio is None
    assert result.verification.baseline.p99_ms is None
    assert headline(replace(result, unchanged=False)) == (
        "No ratio",
        f"The baseline cannot sustain this rate. The tuned p99 is {milliseconds(result.verification.tuned.p99_ms)} ms.",
    )
    console = Console(width=300, record=True)
    console.print(tune_summary(replace(result, unchanged=False)))
    return console.export_text()

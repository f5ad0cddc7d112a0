"""A race: what is refused, what is kept, and what a looser bound would bring; on real servers or as it was recorded."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import helper
from tests.engines.models import masked_mean, perceptron, save, value
from tests.tuner.results import INDEPENDENT, printed

from tailcut.lab.load import LoadTarget
from tailcut.lab.trial import Arm
from tailcut.report.html import render_tune_html
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.spec import DType
from tailcut.tuner.accuracy import Accuracy
from tailcut.tuner.budget import TimePlan
from tailcut.tuner.claims import carry
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.finalists import PredictedConfiguration, kinds_of
from tailcut.tuner.gate import Gate
from tailcut.tuner.heats import Heats, HeatScores
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.offers import offers_of
from tailcut.tuner.racing import FEWEST_HEATS, RaceEntrant, Racing
from tailcut.tuner.records import Equal, TuneOutcome, TuneRequest
from tailcut.tuner.result import evidence
from tailcut.tuner.selection import Selection
from tailcut.tuner.servers import TrialServers
from tailcut.tuner.session import TuneSession, open_session
from tailcut.tuner.space import BASELINE, changed, serving_choices
from tailcut.tuner.tie_break import MeasuredUsage


def opened(wanted: TuneRequest, tell: Callable[[Event], None] = lambda event: None) -> tuple[TuneSession, Selection]:
    session = open_session(wanted, tell)
    return session, Selection(session, ModelSpace(session))


@pytest.mark.slow
@pytest.mark.parametrize("minds_mask", [True, False])
def test_padding_races_only_where_answers_stay_right(tmp_path: Path, minds_mask: bool) -> None:
    """A model that counts the filling answers wrongly when padded: its buckets are rejected before they race."""
    path = masked_mean(tmp_path / "m.onnx", minds_mask=minds_mask)
    random = np.random.default_rng(0)
    data = {f"ids/{length}": random.integers(1, 32, (4, length)) for length in (3, 7, 12, 19)}
    data |= {name.replace("ids", "mask"): np.ones_like(ids) for name, ids in data.items()}
    session = open_session(TuneRequest(path, data, rate=300.0, slo_ms=100.0, budget_s=12.0), lambda event: None)
    space = ModelSpace(session)
    selection = Selection(session, space)
    choices = [
        serving_choice
        for serving_choice in serving_choices(space.facts, BASELINE.engine)
        if serving_choice.batching.dispatch == "worker"
    ]
    padded = next(choice for choice in choices if choice.batching.padding)
    plain = next(choice for choice in choices if not choice.batching.padding)
    try:
        carry(session)
        won = selection.race(
            selection.chosen([PredictedConfiguration(item, 300.0, 1.0, 10.0, 0) for item in (padded, plain)])
        )
    finally:
        session.servers.keep()
    refused = [
        candidate for rung in session.outcome.rungs for candidate in rung.candidates if candidate.verdict == "rejected"
    ]
    assert [("wrong answers" in item.reason, "padding" in item.setting) for item in refused] == (
        [] if minds_mask else [(True, True)]
    )
    assert minds_mask or won == plain


@dataclass
class Recorded:
    """What takes the place of servers: what each configuration scored in every heat, and took where it was equal."""

    scores: Mapping[Settings, float]
    usages: Mapping[Settings, MeasuredUsage] = field(default_factory=dict)
    asked: list[Settings] = field(default_factory=list)

    def heats(self, entrants: Sequence[RaceEntrant]) -> Heats:
        result = Heats.of(len(entrants))
        for _ in range(FEWEST_HEATS):
            result.add([self.scores[entrants[index].settings] for index in result.racing])
        return result

    def check(self, settings: Settings) -> Accuracy:
        """Those without a score answer wrongly."""
        self.asked.append(settings)
        return Accuracy(right=settings in self.scores, reason="recorded")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recorded]:
    def stand_in(*measurements: Mapping[Settings, object]) -> Recorded:
        result = Recorded(*measurements)  # type: ignore[arg-type]
        monkeypatch.setattr(TrialServers, "launch", lambda self, *settings: None)
        monkeypatch.setattr(TrialServers, "arm", lambda self, settings: Arm(LoadTarget(), [], None))
        monkeypatch.setattr(TrialServers, "of", lambda self, settings: SimpleNamespace(target=LoadTarget()))
        monkeypatch.setattr(Gate, "advise", lambda *_: None)
        monkeypatch.setattr(TuneSession, "check", lambda self, settings, seconds, whole=False: result.check(settings))
        monkeypatch.setattr(Racing, "heats", lambda self, entrants, until, fewest=0: result.heats(entrants))
        monkeypatch.setattr(TrialServers, "compared", lambda self, settings, other: "")
        monkeypatch.setattr(
            Racing, "usages", lambda self, entrants, rate: [result.usages[entrant.settings] for entrant in entrants]
        )
        return result

    return stand_in


def test_nothing_significant_does_not_select_the_baseline(tmp_path: Path, recorded: Callable[..., Recorded]) -> None:
    """Of two finalists that are hardly distinguishable, one wins, and the settings are not the baseline's."""
    session, selection = opened(TuneRequest(perceptron([16, 32, 4], tmp_path / "m.onnx"), slo_ms=50.0, budget_s=8.0))
    choices = list(serving_choices(ModelSpace(session).facts, BASELINE.engine))[:2]
    assert session.base not in choices
    recorded(dict(zip(choices, (1000.0, 1001.0), strict=True)), dict.fromkeys(choices, MeasuredUsage((1.0, 1.0, 1.0))))
    won = selection.race(selection.chosen([PredictedConfiguration(choice, 1000.0, 1.0, 10.0, 0) for choice in choices]))
    assert won in choices
    assert session.outcome.race_winner == session.outcome.settings == won


def test_an_exhaustive_race_takes_the_whole_space(tmp_path: Path) -> None:
    """Everything that was simulated races, up to a limit that is reported; a usual race takes a few."""
    text: list[Event] = []
    path = perceptron([16, 4], tmp_path / "m.onnx")
    predicted = [
        PredictedConfiguration(changed(BASELINE, batching={"max_batch_size": size}), 1000.0 - size, 1.0, 10.0, 0)
        for size in range(1, 131)
    ]
    previous = Profile.of_model(path, changed(BASELINE, batching={"max_batch_size": 500}))
    _, selection = opened(TuneRequest(path, budget_s=30.0, exhaustive=True, previous=previous), text.append)
    chosen = selection.chosen(predicted)
    assert chosen[:96] == [item.settings for item in predicted[:96]]
    assert chosen[96:] == [previous.settings]
    words = " / ".join(event.text for event in text if isinstance(event, Phase))
    assert "racing 96 configurations (of 130, the best by simulation), in groups of 9: about" in words
    few = opened(TuneRequest(path, budget_s=30.0))[1].chosen(predicted)
    assert 1 <= len(few) <= 8


def test_a_random_model_is_tuned_for_speed_only(tmp_path: Path) -> None:
    """Said once; no finalist is refused for its answers, no lower precision is offered, and reports say so."""
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["n"]), helper.make_node("Add", ["x", "n"], ["y"])]
    ends = [[value(name, DType.FP32, (None, 4))] for name in ("x", "y")]
    events: list[Event] = []
    data = {"x": np.ones((32, 4), np.float32)}
    path = save(tmp_path / "m.onnx", nodes, *ends)
    session = open_session(TuneRequest(path, data, slo_ms=100.0, budget_s=10.0), events.append)
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
    outcome = TuneOutcome(session.spec, settings, 300.0, [], INDEPENDENT, accuracy=accuracy)
    outcome.random_outputs = session.gate.random_outputs
    assert outcome.wrong == ""
    result = printed(outcome)
    assert result.accuracy is not None
    assert result.accuracy.random_outputs == ["y"]
    assert (result.accuracy.right, result.accuracy.worst) == (True, None)
    assert evidence(result)["accuracy"]["random_outputs"] == ["y"]
    assert "draws them at random: y." in render_tune_html(result)


@pytest.mark.slow
def test_a_precision_that_is_rejected_is_offered_and_the_advice_holds(tmp_path: Path) -> None:
    """Int8 is too far off for a strict bound; with the bound that the offer names the same server is accepted."""
    path = perceptron([64, 128, 8], tmp_path / "m.onnx")
    data = {"x": np.random.default_rng(0).standard_normal((48, 64)).astype(np.float32)}
    wanted = TuneRequest(path, data, rate=200.0, slo_ms=100.0, budget_s=10.0, bound=0.999999)
    session, selection = opened(wanted)
    plain = session.with_wire("binary")
    int8 = changed(plain, engine={"precision": "int8", "threads": 1})
    ways = [PredictedConfiguration(plain, 900.0, 2.0, 10.0, 0), PredictedConfiguration(int8, 1000.0, 1.1, 10.0, 0)]
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


def test_where_all_finalists_answer_wrongly_the_next_best_race(
    tmp_path: Path, recorded: Callable[..., Recorded]
) -> None:
    """The best by simulation are all int8, and too far off: the best float32 configuration is tried, not given up."""
    path = perceptron([64, 128, 8], tmp_path / "m.onnx")
    session, selection = opened(TuneRequest(path, slo_ms=100.0, budget_s=10.0))
    plain = changed(session.with_wire("binary"), engine={"threads": 1})
    wrong = [changed(plain, engine={"precision": "int8"}, batching={"max_batch_size": size}) for size in (4, 8, 16)]
    rates = {plain: 500.0} | dict(zip(wrong, (1000.0, 990.0, 980.0), strict=True))
    measured = recorded({plain: 500.0})
    selection.chosen([PredictedConfiguration(item, rate, 1.0, 10.0, 0) for item, rate in rates.items()])
    assert selection.race(wrong[:2]) == plain
    refused = [
        candidate.setting
        for rung in session.outcome.rungs
        for candidate in rung.candidates
        if candidate.verdict == "rejected"
    ]
    assert len(refused) == 1
    assert not {*wrong[1:]} & {*measured.asked}  # the others of the same engine and precision are not started


def test_where_all_answer_wrongly_the_baseline_stays(tmp_path: Path, recorded: Callable[..., Recorded]) -> None:
    """With the plain wire, and a note."""
    message: list[Event] = []
    session, selection = opened(
        TuneRequest(perceptron([4, 8], tmp_path / "m.onnx"), slo_ms=50.0, budget_s=8.0), message.append
    )
    recorded({})
    choice = changed(session.with_wire("binary"), engine={"precision": "int8"})
    assert selection.race(
        selection.chosen([PredictedConfiguration(choice, 1000.0, 1.0, 10.0, 0)])
    ) == session.with_wire("binary")
    assert any(isinstance(event, Phase) and "keeping the baseline" in event.text for event in message)


def test_the_choice_among_equals_is_reported_with_its_reason(tmp_path: Path, recorded: Callable[..., Recorded]) -> None:
    """Configurations that are alike are measured once more, and the one that takes clearly less CPU wins."""
    message: list[Event] = []
    path = perceptron([4, 8], tmp_path / "m.onnx")
    session, selection = opened(TuneRequest(path, slo_ms=500.0, budget_s=60.0), message.append)
    quiet = changed(session.with_wire("binary"), engine={"threads": 1, "spinning": False})
    twin = changed(quiet, memory={"gc_freeze": True})
    slower = changed(quiet, engine={"threads": 2})
    medians = (1.0, 1.0, 1.0, 1.0)
    usages = {quiet: MeasuredUsage(medians, cpu_us=50.0), twin: MeasuredUsage(medians, cpu_us=100.0)}
    recorded({twin: 1000.0, quiet: 990.0, slower: 800.0}, usages)
    won = selection.race(
        selection.chosen([PredictedConfiguration(item, 1000.0, 1.0, 10.0, 0) for item in (twin, quiet, slower)])
    )
    assert won == quiet
    tie = session.outcome.tie_break
    assert tie is not None
    assert tie.chosen == quiet
    assert tie.equals == (Equal(twin, 1.0, 100.0, None), Equal(quiet, 1.0, 50.0, None))
    assert "0.5 of the CPU" in tie.reason
    assert any(isinstance(event, Phase) and tie.reason in event.text for event in message)


class Changes:
    """A space with such changes of a winner."""

    anyway: Sequence[Settings] = ()

    def __init__(self, thrifty: Settings, refined: Settings) -> None:
        self._thrifty, self._refined = thrifty, refined

    def kinds(self, settings: Settings) -> list[tuple[object, int]]:
        return kinds_of(settings)

    def thrifty(self, winner: Settings) -> list[Settings]:
        return [self._thrifty]

    def refinements(self, winner: Settings) -> list[Settings]:
        return [] if winner == self._refined else [self._refined]


def test_what_races_in_any_case_comes_before_all_but_the_best(tmp_path: Path) -> None:
    """If there is no time for all finalists, the last are left out."""
    session, _ = opened(TuneRequest(perceptron([4, 8], tmp_path / "m.onnx"), slo_ms=500.0, budget_s=60.0))
    best, second, written = (changed(BASELINE, engine={"threads": threads}) for threads in (1, 2, 3))
    space = Changes(best, best)
    space.anyway = [written]
    predicted = [PredictedConfiguration(item, rate, 1.0, 10.0, 0) for item, rate in ((second, 900.0), (best, 1000.0))]
    assert Selection(session, space).chosen(predicted) == [best, written, second]


@pytest.mark.parametrize(("gain", "stays"), [(1.04, True), (1.08, False)])
def test_settings_in_use_are_replaced_only_by_what_is_clearly_better(
    tmp_path: Path, recorded: Callable[..., Recorded], gain: float, stays: bool
) -> None:
    """Neither an equal that takes less CPU, nor a finalist or a small change with a gain of 4 %, replaces them."""
    path = perceptron([4, 8], tmp_path / "m.onnx")
    in_use = changed(BASELINE, engine={"threads": 2})
    thrifty = changed(in_use, engine={"spinning": False})
    other = changed(in_use, engine={"threads": 1})
    better = changed(in_use, memory={"gc_freeze": True})
    previous = Profile.of_model(path, in_use)
    session, _ = opened(TuneRequest(path, slo_ms=500.0, budget_s=60.0, previous=previous))
    selection = Selection(session, Changes(thrifty, better))
    costs = {in_use: MeasuredUsage((1.0,) * 4, cpu_us=100.0), thrifty: MeasuredUsage((1.0,) * 4, cpu_us=10.0)}
    recorded({in_use: 1000.0, thrifty: 1000.0, other: 1040.0, better: 1000.0 * gain}, costs)
    assert selection.race([other, in_use]) == in_use
    won = selection.refine(in_use)
    assert won == session.outcome.settings == (in_use if stays else better)


@pytest.mark.parametrize("rejected", [False, True])
def test_control_c_in_the_race_leaves_settings_in_use(
    tmp_path: Path, recorded: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch, rejected: bool
) -> None:
    """The best by simulation takes their place only where they answer wrongly."""
    path = perceptron([4, 8], tmp_path / "m.onnx")
    in_use, other = (changed(BASELINE, engine={"threads": threads}) for threads in (2, 1))
    session, selection = opened(TuneRequest(path, slo_ms=500.0, previous=Profile.of_model(path, in_use)))
    assert session.outcome.settings == in_use
    recorded({other: 1000.0} | ({} if rejected else {in_use: 1000.0}))

    def stopped(*_: object) -> Heats:
        raise KeyboardInterrupt

    monkeypatch.setattr(Racing, "heats", stopped)
    with pytest.raises(KeyboardInterrupt):
        selection.race([other, in_use])
    outcome = session.outcome
    outcome.interrupted = True
    assert outcome.settings == (other if rejected else in_use)
    assert outcome.nothing_won is not rejected


@pytest.mark.parametrize("stops", [True, False])
def test_the_best_of_earlier_groups_leads_until_the_last_race(
    tmp_path: Path, recorded: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    """Neither a group that scores less, nor one whose servers all end, takes its place before Ctrl-C."""
    path = perceptron([4, 8], tmp_path / "m.onnx")
    session, selection = opened(TuneRequest(path, slo_ms=500.0, exhaustive=True))
    plain = changed(session.with_wire("binary"), engine={"threads": 1})
    choices = [changed(plain, batching={"max_batch_size": 1 + number}) for number in range(27)]
    ended = choices[18:]
    usage = dict.fromkeys(choices, MeasuredUsage((1.0,) * 4))
    measured = recorded(
        {item: 1000.0 - 100.0 * (number // 9) - 10 * (number % 9) for number, item in enumerate(choices)}, usage
    )
    races: list[int] = []

    def heats(self: Racing, entrants: Sequence[RaceEntrant], until: float, fewest: int = 0) -> Heats:
        races.append(len(entrants))
        if stops and len(races) == 4:
            raise KeyboardInterrupt
        return measured.heats(entrants)

    monkeypatch.setattr(Racing, "heats", heats)
    monkeypatch.setattr(TrialServers, "has_ended", lambda self, settings: settings in ended)
    outcome = session.outcome
    with pytest.raises(KeyboardInterrupt) if stops else contextlib.nullcontext():
        assert selection.race(choices) == choices[0]
    assert races == [9, 9, 9, 4]
    assert outcome.settings == outcome.race_winner == choices[0]
    assert outcome.tie_break is None or outcome.tie_break.chosen == choices[0]


def test_a_group_whose_servers_end_leaves_settings_in_use(
    tmp_path: Path, recorded: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They race in a later group, and Ctrl-C before that keeps them."""
    path = perceptron([4, 8], tmp_path / "m.onnx")
    in_use = changed(BASELINE, engine={"threads": 7})
    session, selection = opened(
        TuneRequest(path, slo_ms=500.0, exhaustive=True, previous=Profile.of_model(path, in_use))
    )
    choices = [changed(in_use, batching={"max_batch_size": 2 + number}) for number in range(9)]
    recorded(dict.fromkeys([*choices, in_use], 1000.0), dict.fromkeys(choices, MeasuredUsage((1.0,) * 4)))
    monkeypatch.setattr(TrialServers, "has_ended", lambda self, settings: settings in choices)
    assert selection._race_group(choices, alone=False) == []
    assert session.outcome.settings == in_use


@pytest.mark.slow
def test_equals_are_measured_on_real_servers(tmp_path: Path) -> None:
    """Two configurations that are alike: what each takes alone and at a rate is known, and one of them is chosen."""
    session, _ = opened(TuneRequest(perceptron([64, 1024, 1024, 8], tmp_path / "m.onnx"), slo_ms=500.0, budget_s=10.0))
    quiet = changed(session.with_wire("binary"), engine={"threads": 1, "spinning": False})
    twin = changed(quiet, memory={"gc_freeze": True})
    try:
        entrants = [RaceEntrant(item, session.servers.arm(item)) for item in (quiet, twin)]
        usages = session.racing.usages(entrants, 100.0)
    finally:
        session.servers.keep()
    assert len(usages) == 2
    assert all(usage.median_ms > 0 and (usage.cpu_us or 1) > 0 and (usage.memory_bytes or 1) > 0 for usage in usages)


def test_of_many_equals_only_as_many_are_counted_as_there_is_time_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best of them: counting what a slow model takes lasts three seconds for each."""
    session, selection = opened(TuneRequest(perceptron([16, 4], tmp_path / "m.onnx"), budget_s=120.0))
    session.outcome.rate = 10.0
    counted: list[int] = []

    def usages(entrants: Sequence[RaceEntrant], rate: float) -> list[MeasuredUsage]:
        counted.append(len(entrants))
        return [MeasuredUsage((1.0,) * 4, 100.0, None) for _ in entrants]

    monkeypatch.setattr(Racing, "usages", lambda self, entrants, rate: usages(entrants, rate))
    heats = Heats([HeatScores([100.0 + number / 10] * 4) for number in range(6)])
    entrants = [
        RaceEntrant(changed(BASELINE, engine={"threads": number + 1}), Arm(LoadTarget("127.0.0.1", 1), []))
        for number in range(6)
    ]
    selection._best(heats, entrants)
    session.outcome.rate = 1000.0
    selection._best(heats, entrants)
    assert counted == [2, 4]
    assert session.outcome.tie_break is not None
    assert session.outcome.tie_break.equals[0].settings == entrants[5].settings


@pytest.mark.parametrize(("spent_s", "count"), [(0.0, 4), (50.0, 2)])
def test_finalists_without_time_to_race_are_not_started(
    tmp_path: Path, recorded: Callable[..., Recorded], spent_s: float, count: int
) -> None:
    """Two race whatever is left; those that are left out are named, and those with the best prospects are not."""
    message: list[Event] = []
    path = perceptron([4, 8], tmp_path / "m.onnx")
    session, selection = opened(TuneRequest(path, slo_ms=500.0, budget_s=60.0), message.append)
    plain = changed(session.with_wire("binary"), engine={"threads": 1})
    choices = [changed(plain, batching={"max_batch_size": size}) for size in (1, 2, 4, 8)]
    measured = recorded({item: 1000.0 / 2**number for number, item in enumerate(choices)})
    chosen = selection.chosen(
        [PredictedConfiguration(item, 1000.0 - number, 1.0, 10.0, 0) for number, item in enumerate(choices)]
    )
    session.plan = TimePlan(time.monotonic() - spent_s, 60.0)
    assert selection.race(chosen) == choices[0]
    assert set(chosen[:count]) <= set(measured.asked)
    assert not set(chosen[count:]) & set(measured.asked)
    left_out = [event.text for event in message if isinstance(event, Phase) and "left out" in event.text]
    assert len(left_out) == (count < 4)


@pytest.mark.parametrize("in_use", [False, True])
def test_without_time_for_a_heat_the_best_by_simulation_wins(
    tmp_path: Path, recorded: Callable[..., Recorded], in_use: bool
) -> None:
    """At a rate so low that a heat takes longer than the budget nothing races; settings in use stay."""
    message: list[Event] = []
    path = perceptron([4, 8], tmp_path / "m.onnx")
    previous = Profile.of_model(path, changed(BASELINE, batching={"max_batch_size": 64})) if in_use else None
    wanted = TuneRequest(path, rate=0.3, slo_ms=500.0, objective="latency", budget_s=10.0, previous=previous)
    session, selection = opened(wanted, message.append)
    choices = [changed(session.with_wire("binary"), engine={"threads": threads}) for threads in (2, 1)]
    known = [*choices, *([] if previous is None else [previous.settings])]
    recorded(dict.fromkeys(known, 1.0))
    won = selection.race(
        selection.chosen(
            [PredictedConfiguration(item, 1.0, 1.0, 10.0, 0, p99_ms=item.engine.threads) for item in choices]
        )
    )
    assert won == (choices[1] if previous is None else previous.settings)
    assert session.outcome.race_winner == session.outcome.settings == won
    assert session.outcome.raced == {}
    text = [event.text for event in message if isinstance(event, Phase)]
    kept = "taking the best by simulation" if previous is None else "keeping the settings in use"
    assert f"no race: a heat takes 80 s, more than is left of the budget: {kept}" in text

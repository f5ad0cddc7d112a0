"""What goes wrong in the middle of a tune costs one measurement: refused leaders, servers that do not start, memory."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from tests.engines.models import perceptron

from tailcut.lab.arrivals import Poisson
from tailcut.lab.trial import ArmRuns
from tailcut.runtime.settings import Settings
from tailcut.tuner import servers as servers_module
from tailcut.tuner.accuracy import Accuracy
from tailcut.tuner.budget import TimePlan
from tailcut.tuner.claims import carry, prove
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.noise import Noise
from tailcut.tuner.objective import ObjectiveKind
from tailcut.tuner.records import TieBreak, TuneRequest
from tailcut.tuner.result_records import Candidate, CandidateVerdict
from tailcut.tuner.selection import Selection
from tailcut.tuner.session import TuneSession, open_session
from tailcut.tuner.space import changed
from tailcut.tuner.together.records import JointWanted
from tailcut.tuner.together.search import JointSearch
from tailcut.tuner.waterfall import UNCHANGED, effect, explain

WRONG = Accuracy(right=False, reason="far off")


def opened(folder: Path, tell: list[Event] | None = None) -> TuneSession:
    path = perceptron([16, 4], folder / "m.onnx")
    message = [] if tell is None else tell
    return open_session(TuneRequest(path, rate=300.0, slo_ms=100.0, budget_s=8.0), message.append)


def alike(session: TuneSession, count: int) -> list[Settings]:
    """So many configurations that all start."""
    plain = changed(session.with_wire("binary"), engine={"threads": 1})
    return [changed(plain, batching={"max_batch_size": 2**number}) for number in range(count)]


def of_no_copy(session: TuneSession) -> Settings:
    """Settings whose server does not start: there is no copy in static int8."""
    return changed(session.with_wire("binary"), engine={"precision": "int8_static", "threads": 1})


@pytest.mark.parametrize("stopped", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_leader_that_was_refused_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool) -> None:
    """Ctrl-C leaves the next one, which is not refused; where all are refused, the baseline stays and none has won."""
    session = opened(tmp_path)
    selection, choices = Selection(session, ModelSpace(session)), alike(session, 2)
    check, refused = session.check, []

    def strict(settings: Settings, seconds: float, *, whole: bool = False) -> Accuracy:
        if not whole:
            return check(settings, seconds)
        if refused and stopped:
            raise KeyboardInterrupt
        refused.append(settings)
        session.outcome.tie_break = TieBreak(settings, "equal", ())
        return WRONG

    monkeypatch.setattr(TuneSession, "check", lambda _, settings, seconds, **more: strict(settings, seconds, **more))
    try:
        carry(session)
        session.plan = TimePlan(time.monotonic(), 8.0)
        if stopped:
            with pytest.raises(KeyboardInterrupt):
                selection.race(choices)
        else:
            assert selection.race(choices) == session.with_wire("binary")
    finally:
        session.servers.keep()
    outcome = session.outcome
    assert outcome.settings not in refused
    assert outcome.race_winner == (outcome.settings if stopped else None)
    assert outcome.tie_break is None


@pytest.mark.slow
def test_no_combination_is_kept_before_it_was_checked(tmp_path: Path) -> None:
    """Ctrl-C while the first servers of a joint tune start leaves the engines' defaults."""
    paths = [perceptron([16, size, 4], tmp_path / f"m{size}.onnx") for size in (8, 12)]

    def tell(event: Event) -> None:
        if isinstance(event, Phase) and event.text.startswith("simulated") and "combinations" in event.text:
            raise KeyboardInterrupt

    wanted = JointWanted(
        tuple(TuneRequest(path, slo_ms=50.0) for path in paths), (Poisson(50.0), Poisson(50.0)), budget_s=6.0
    )
    outcome = JointSearch(wanted, tell).run()
    assert outcome.interrupted
    assert all(side.unchanged for side in outcome.sides)


class Killing(Noise):
    """Kills a server as the kernel does where memory is short, when it probes for the last of so many times."""

    def __init__(self, session: TuneSession, settings: Settings, probes: int) -> None:
        super().__init__()
        self._session, self._settings, self._left = session, settings, probes

    def probe(self) -> None:
        self._left -= 1
        if not self._left:
            pid = self._session.servers.of(self._settings).pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            while not self._session.servers.has_ended(self._settings):  # a moment: the kernel's, not the machine's
                pass
        super().probe()


def killing(session: TuneSession, settings: Settings, probes: int) -> None:
    session.outcome.noise = session.racing.noise = Killing(session, settings, probes)


@pytest.mark.slow
@pytest.mark.parametrize("probes", [1, 2])
@pytest.mark.parametrize("kind", ["goodput", "latency"])
def test_a_finalist_that_is_killed_has_lost(tmp_path: Path, kind: ObjectiveKind, probes: int) -> None:
    """In the first heat or in a later one: it counts as failed, the reason is recorded, and the other one wins."""
    session = opened(tmp_path)
    session.outcome.objective = replace(session.outcome.objective, kind=kind)
    killed, other = alike(session, 2)
    try:
        carry(session)
        session.plan = TimePlan(time.monotonic(), 20.0)
        killing(session, killed, probes)
        assert Selection(session, ModelSpace(session)).race([killed, other]) == other
    finally:
        session.servers.keep()
    outcome = session.outcome
    assert list(outcome.raced) == [other]
    reasons = {entry.setting: entry.reason for entry in outcome.rungs[0].candidates if entry.verdict == "rejected"}
    assert reasons == {session.describe(killed): "its server exited under load"}


@pytest.mark.slow
def test_a_refinement_that_is_killed_is_not_kept(tmp_path: Path) -> None:
    """However quick it was."""
    session = opened(tmp_path)
    winner, killed = alike(session, 2)
    try:
        carry(session)
        session.plan = TimePlan(time.monotonic(), 60.0)
        killing(session, killed, 3)
        assert not Selection(session, ModelSpace(session)).is_better(killed, winner, 0.0)
    finally:
        session.servers.keep()


@pytest.mark.slow
def test_a_step_that_is_killed_costs_its_own_rungs(tmp_path: Path) -> None:
    """The two rungs beside it are unmeasured; the tune goes on."""
    session = opened(tmp_path)
    killed, last = alike(session, 2)
    session.outcome.settings = last
    try:
        carry(session)
        session.plan = TimePlan(time.monotonic(), 120.0)
        killing(session, killed, 2)
        explain(session, Steps([killed, last, last, last, last, last]), lambda *_: False)
    finally:
        session.servers.keep()
    rungs = session.outcome.rungs
    assert all("exited under load" in (rung.note or "") for rung in rungs[:2])
    assert [rung.note for rung in rungs[2:]] == [UNCHANGED] * 4


@pytest.mark.slow
@pytest.mark.parametrize("probes", [1, 4])
def test_tuned_settings_whose_server_is_killed_give_way_to_the_next_best(tmp_path: Path, probes: int) -> None:
    """They are measured from the start, and a line says why."""
    message: list[Event] = []
    session = opened(tmp_path, message)
    killed, other = alike(session, 2)
    outcome = session.outcome
    outcome.settings, outcome.raced = killed, {killed: 9.0, other: 8.0}
    outcome.race_winner, outcome.tie_break = killed, TieBreak(killed, "equal", ())
    outcome.rungs[0].kept.append("batching.max_batch_size=1")
    try:
        carry(session)
        session.plan = TimePlan(time.monotonic(), 15.0)
        killing(session, killed, probes)
        prove(session)
    finally:
        session.servers.keep()
    assert outcome.settings == outcome.race_winner == other
    assert outcome.tie_break is None
    assert [rung.kept for rung in outcome.rungs if rung.kept] == []
    assert "whose server exited" in (outcome.rungs[0].note or "")
    assert outcome.arms["tuned"].errors == 0
    assert len(outcome.arms["tuned"].latencies)
    assert any("its server exited under load" in event.text for event in message if isinstance(event, Phase))


@pytest.mark.slow
def test_a_combination_that_is_killed_gives_way_to_the_next_best(tmp_path: Path) -> None:
    """In the race and in the verification, in which in the end the engines' defaults stay."""
    models = tuple(
        TuneRequest(perceptron([64, 32, 8], tmp_path / f"{name}.onnx"), slo_ms=50.0) for name in ("one", "two")
    )
    search = JointSearch(JointWanted(models, (Poisson(200.0), Poisson(100.0)), budget_s=12.0), lambda _: None)
    kills = [1]

    class KillingAll(Noise):
        def probe(self) -> None:
            for combination, server in search._servers._running.items() if kills else ():
                if combination != search._baseline and server.pid is not None:
                    kills.clear()
                    os.kill(server.pid, signal.SIGKILL)
                    while not search._servers.has_ended(combination):
                        pass
                    break
            super().probe()

    search._outcome.noise = KillingAll()
    search._tell = lambda event: kills.append(1) if "verifying" in getattr(event, "text", "") else None
    outcome = search.run()
    assert [reason for _, reason in outcome.rejected] == ["its server exited under load"] * 2
    assert not outcome.wrong
    assert all(len(side.runs["tuned"].latencies) for side in outcome.sides)


class Steps:
    """A space with such rungs."""

    def __init__(self, steps: Sequence[Settings]) -> None:
        self._steps = steps

    def steps(self, winner: Settings) -> Sequence[Settings]:
        return self._steps

    def without(self, winner: Settings, rung: str) -> Settings:
        return winner


@pytest.mark.slow
def test_a_step_that_does_not_start_costs_its_own_rungs(tmp_path: Path) -> None:
    """The two rungs beside it are unmeasured, and the others are measured."""
    session = opened(tmp_path)
    (first,) = alike(session, 1)
    session.outcome.settings = first
    try:
        carry(session)
        session.plan = TimePlan(time.monotonic(), 12.0)
        explain(session, Steps([first, of_no_copy(session), first, first, first, first]), lambda *_: False)
    finally:
        session.servers.keep()
    rungs = session.outcome.rungs
    assert rungs[0].candidates
    assert all("one of its two servers did not start" in (rung.note or "") for rung in rungs[1:3])
    assert [rung.note for rung in rungs[3:]] == [UNCHANGED] * 3


@pytest.mark.slow
def test_a_worse_step_that_the_winner_is_no_better_without_is_kept_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A longer tail at one rate may be the price of more traffic within the limit."""
    session = opened(tmp_path)
    first, second = alike(session, 2)
    session.outcome.settings = second

    def worse(before: Settings, after: Settings, runs: Mapping[Settings, ArmRuns]) -> Candidate:
        return msgspec.structs.replace(effect(before, after, runs), verdict=CandidateVerdict.WORSE, reason="p99 x2")

    monkeypatch.setattr("tailcut.tuner.waterfall.effect", worse)
    try:
        carry(session)
        session.plan = TimePlan(time.monotonic(), 12.0)
        explain(session, Steps([first, second, second, second, second, second]), lambda *_: False)
    finally:
        session.servers.keep()
    rungs = session.outcome.rungs
    assert [rung.candidates[0].reason for rung in rungs[:2]] == ["p99 x2; the winner is no better without it"] * 2
    assert all(rung.kept for rung in rungs[:2])


@pytest.mark.slow
def test_tuned_settings_that_do_not_start_give_way_to_the_next_best(tmp_path: Path) -> None:
    """Of those that raced and were not refused; what is verified is what the profile gets."""
    message: list[Event] = []
    session = opened(tmp_path, message)
    broken, (refused, kept, slower) = of_no_copy(session), alike(session, 3)
    outcome = session.outcome
    outcome.settings = broken
    outcome.raced = {broken: 9.0, refused: 8.0, kept: 7.0, slower: 1.0}
    try:
        carry(session)
        session.plan = TimePlan(time.monotonic(), 15.0)
        session.reject(refused, "wrong answers")
        prove(session)
    finally:
        session.servers.keep()
    assert outcome.settings == kept
    assert len(outcome.arms["tuned"].latencies)
    assert any("could not be served" in event.text for event in message if isinstance(event, Phase))


@pytest.mark.slow
def test_servers_run_beside_each_other_as_memory_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two race where there is none left, and rungs stay unmeasured; both say why."""
    message: list[Event] = []
    session = opened(tmp_path, message)
    choices = alike(session, 4)
    monkeypatch.setattr(servers_module, "free_bytes", lambda: 0)
    try:
        carry(session)
        session.plan = TimePlan(time.monotonic(), 60.0)
        session.outcome.settings = Selection(session, ModelSpace(session)).race(choices)
        session.plan = TimePlan(time.monotonic(), 60.0)
        explain(session, Steps(alike(session, 6)), lambda *_: False)
    finally:
        session.servers.keep()
    assert set(session.outcome.raced) == set(choices[:2])
    assert sum("not enough memory for its server" in event.text for event in message if isinstance(event, Phase)) == 2
    assert all("memory for 0" in (rung.note or "") for rung in session.outcome.rungs)

"""What goes wrong in the middle of a tune costs one measurement: refused leaders, servers that do not start, memory."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.engines.models import perceptron

from tailcut.lab.arrivals import Poisson
from tailcut.runtime.settings import Settings
from tailcut.tuner import servers as servers_module
from tailcut.tuner.accuracy import Accuracy
from tailcut.tuner.budget import TimePlan
from tailcut.tuner.claims import carry, prove
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.records import TieBreak, TuneRequest
from tailcut.tuner.selection import Selection
from tailcut.tuner.session import TuneSession, open_session
from tailcut.tuner.space import changed
from tailcut.tuner.together.records import JointWanted
from tailcut.tuner.together.search import JointSearch
from tailcut.tuner.waterfall import UNCHANGED, explain

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


@pytest.mark.parametrize("stopped", [True, False])
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
        session.reject(refused, "wrong answers")
        prove(session)
    finally:
        session.servers.keep()
    assert outcome.settings == kept
    assert len(outcome.arms["tuned"].latencies)
    assert any("could not be served" in event.text for event in message if isinstance(event, Phase))


def test_servers_run_beside_each_other_as_memory_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two race where there is none left, and rungs stay unmeasured; both say why."""
    message: list[Event] = []
    session = opened(tmp_path, message)
    choices = alike(session, 4)
    monkeypatch.setattr(servers_module, "free_bytes", lambda: 0)
    try:
        carry(session)
        session.outcome.settings = Selection(session, ModelSpace(session)).race(choices)
        session.plan = TimePlan(time.monotonic(), 60.0)
        explain(session, Steps(alike(session, 6)), lambda *_: False)
    finally:
        session.servers.keep()
    assert set(session.outcome.raced) == set(choices[:2])
    assert sum("no memory for its server" in event.text for event in message if isinstance(event, Phase)) == 2
    assert all("memory for 0" in (rung.note or "") for rung in session.outcome.rungs)

"""What enters a race: configurations that answer wrongly are tried as long as there is time, and leave no server."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from tests.engines.models import perceptron, save, value

from tailcut.errors import TailcutError
from tailcut.lab.load import LoadTarget
from tailcut.lab.trial import Arm
from tailcut.runtime.settings import Settings
from tailcut.spec import DType
from tailcut.tuner.accuracy import Accuracy
from tailcut.tuner.budget import TimePlan
from tailcut.tuner.claims import carry
from tailcut.tuner.entry import FEWEST, Entry
from tailcut.tuner.finalists import PredictedConfiguration, kinds_of
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.racing import RaceLoad
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.selection import Selection
from tailcut.tuner.servers import TrialServers
from tailcut.tuner.session import TuneSession, open_session
from tailcut.tuner.space import changed


def centred(path: Path) -> Path:
    """y = x - the mean of all rows: other rows beside a request change its answer."""
    mean = helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1)
    ends = [[value(name, DType.FP32, (None, 4))] for name in ("x", "y")]
    return save(path, [mean, helper.make_node("Sub", ["x", "mean"], ["y"])], *ends)


def sizes(session: TuneSession, count: int) -> list[Settings]:
    plain = changed(session.with_wire("binary"), engine={"threads": 1})
    return [changed(plain, batching={"max_batch_size": 2 + number}) for number in range(count)]


def predicted(choices: Sequence[Settings]) -> list[PredictedConfiguration]:
    return [PredictedConfiguration(item, 1000.0 - place, 1.0, 10.0, 0) for place, item in enumerate(choices)]


def test_where_every_answer_is_wrong_no_server_is_left(tmp_path: Path) -> None:
    """Batched by order, a model that mixes rows: each refused server is stopped, and the baseline is kept."""
    text: list[str] = []
    data = {"x": np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)}
    wanted = TuneRequest(centred(tmp_path / "m.onnx"), data, slo_ms=50.0, budget_s=5.0, rows="independent")
    session = open_session(wanted, lambda event: text.append(getattr(event, "text", "")))
    space = ModelSpace(session)
    selection = Selection(session, space)
    try:
        carry(session)
        session.plan = TimePlan(time.monotonic() - 4.0, 5.0)  # the race should be over
        selection.chosen(predicted(sizes(session, 20)))
        won = selection.race(sizes(session, 3))
        running = dict(session.servers._running)
    finally:
        session.servers.keep()
        space.close()
    assert won == session.with_wire("binary")
    assert len(session.refused) == FEWEST
    assert len(running) == 1
    assert any("there is no time for others: keeping the baseline" in line for line in text)


@pytest.mark.parametrize(("spent_s", "most"), [(0.0, 10), (50.0, 2)])
@pytest.mark.parametrize("starts", [True, False])
def test_only_a_few_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spent_s: float, most: int, starts: bool
) -> None:
    """Of fifty that answer wrongly, or whose servers do not start; two where no time is left."""
    asked: list[Settings] = []
    session = open_session(TuneRequest(perceptron([4, 8], tmp_path / "m.onnx"), budget_s=60.0), lambda _: None)

    def arm(self: TrialServers, settings: Settings) -> None:
        asked.append(settings)
        if not starts:
            raise TailcutError("it does not start")

    monkeypatch.setattr(TrialServers, "launch", lambda self, *settings: None)
    monkeypatch.setattr(TrialServers, "arm", arm)
    monkeypatch.setattr(TuneSession, "check", lambda *_, **__: Accuracy(right=False, reason="wrong"))
    selection = Selection(session, ModelSpace(session))
    choices = sizes(session, 50)
    selection.chosen(predicted(choices))
    session.plan = TimePlan(time.monotonic() - spent_s, 60.0)
    assert selection.race(choices[:4]) == session.with_wire("binary")
    assert FEWEST <= len(asked) <= most


def test_without_time_for_a_heat_one_right_server_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model so slow that nothing races, the best by simulation is checked, and no other server is started."""
    started: list[Settings] = []
    text: list[str] = []
    wanted = TuneRequest(perceptron([4, 8], tmp_path / "m.onnx"), budget_s=60.0)
    session = open_session(wanted, lambda event: text.append(getattr(event, "text", "")))

    def arm(self: TrialServers, settings: Settings) -> Arm:
        started.append(settings)
        return Arm(LoadTarget(), ())

    monkeypatch.setattr(TrialServers, "launch", lambda self, *settings: None)
    monkeypatch.setattr(TrialServers, "arm", arm)
    monkeypatch.setattr(
        TuneSession, "check", lambda self, settings, *_, **__: Accuracy(right=settings != choices[0], reason="wrong")
    )
    selection = Selection(session, ModelSpace(session))
    choices = sizes(session, 4)
    selection.chosen(predicted(choices))
    session.racing.load = RaceLoad((1, 2), 100.0)
    assert selection.race(choices) == choices[1]
    assert started == choices[:2]
    assert any("no race: a heat takes 480 s" in line for line in text)


def test_a_server_that_others_share_is_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What differs from the baseline only in what clients send runs on the baseline's server."""
    session = open_session(TuneRequest(perceptron([4, 8], tmp_path / "m.onnx"), budget_s=60.0), lambda _: None)
    monkeypatch.setattr(TuneSession, "check", lambda *_, **__: Accuracy(right=False, reason="wrong"))
    try:
        session.servers.of(session.base)
        assert Entry(session, kinds_of).enter([session.with_wire("binary")]) == []
        assert len(session.servers._running) == 1
    finally:
        session.servers.keep()


@pytest.mark.parametrize(("took_s", "asked"), [(0.3, 1), (0.0, 2)])
def test_a_whole_check_of_a_slow_model_is_not_repeated(tmp_path: Path, took_s: float, asked: int) -> None:
    """It sent every question once, and a second one would do no more; in a quick one there is time for more."""
    session = open_session(TuneRequest(perceptron([4, 8], tmp_path / "m.onnx"), budget_s=60.0), lambda _: None)
    checks: list[bool] = []

    class Gate:
        def check(self, *_: object, whole: bool) -> Accuracy:
            checks.append(whole)
            time.sleep(took_s)
            return Accuracy(right=True, reason=f"{len(checks)}")

    session.learned = replace(session.learned, gate=Gate())  # type: ignore[arg-type]
    try:
        first, second = (session.check(session.base, 0.2, whole=True) for _ in range(2))
        session.check(session.base, 0.2)
    finally:
        session.servers.keep()
    assert checks == [True] * asked + [False]
    assert (first == second) == (asked == 1)


@pytest.mark.parametrize(("whole", "asked"), [(True, 1), (False, 2)])
def test_a_check_that_sent_everything_is_not_repeated(tmp_path: Path, whole: bool, asked: int) -> None:
    """A slow model has so few questions that the check before the race may send all of them."""
    session = open_session(TuneRequest(perceptron([4, 8], tmp_path / "m.onnx"), budget_s=60.0), lambda _: None)
    checks: list[bool] = []

    class Gate:
        def check(self, *_: object, whole: bool) -> Accuracy:
            checks.append(whole)
            time.sleep(0.3)
            return Accuracy(right=True, reason="right", whole=sent_all)

    sent_all = whole
    session.learned = replace(session.learned, gate=Gate())  # type: ignore[arg-type]
    try:
        session.check(session.base, 0.2)
        session.check(session.base, 0.2, whole=True)
    finally:
        session.servers.keep()
    assert len(checks) == asked

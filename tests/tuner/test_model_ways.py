"""The request overheads that a tune uses: measured, or typical figures."""

from pathlib import Path

import numpy as np
from tests.engines.models import perceptron

from tailcut.engines import EngineOptions
from tailcut.tuner.budget import TimePlan
from tailcut.tuner.engine_estimate import EngineEstimate
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.journal import lines_of
from tailcut.tuner.learning import facts_of
from tailcut.tuner.model_ways import ways_of
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.service import measured_service
from tailcut.tuner.session import open_session
from tailcut.tuner.space import BASELINE, changed
from tailcut.tuner.ways import USUAL


def test_slow_calls_need_no_measured_ways(tmp_path: Path) -> None:
    """Where a call takes ten milliseconds and time is short, usual costs do, and the profile's evidence has them."""
    text: list[Event] = []
    journal = tmp_path / "m.trials.jsonl"
    model = perceptron([64, 128, 8], tmp_path / "m.onnx")
    session = open_session(TuneRequest(model, budget_s=20.0, journal=journal), text.append)
    slow = EngineEstimate(EngineOptions(threads=1), {1: [np.full(9, 10_000_000)]}, cpu_ns={1: 1e7})
    session.journal.add_estimate(slow)
    session.plan = TimePlan(session.plan.began - 12.0, 20.0)
    facts = facts_of(session.wanted, session.learned)
    ways = ways_of(session, facts, [slow])
    assert dict(ways.by_dispatch) == USUAL
    assert not session.servers._running
    assert any("the usual cost of receiving requests" in event.text for event in text if isinstance(event, Phase))
    lines = lines_of(journal, session.servers.profile(BASELINE).model)
    settings = changed(BASELINE, engine={"threads": 1})
    result = measured_service(lines, settings, 2.0)
    assert result is not None
    assert result.way_in["receive_ns"] == USUAL["worker"].receive_ns


def test_late_ways_are_not_measured(tmp_path: Path) -> None:
    """Where the race should have ended, as on a busy machine, the usual costs do for a quick model, too."""
    text: list[Event] = []
    model = perceptron([64, 128, 8], tmp_path / "m.onnx")
    session = open_session(TuneRequest(model, budget_s=20.0), text.append)
    session.plan = TimePlan(session.plan.began - 15.0, 20.0)
    quick = EngineEstimate(EngineOptions(threads=1), {1: [np.full(9, 10_000)]}, cpu_ns={1: 1e4})
    ways = ways_of(session, facts_of(session.wanted, session.learned), [quick])
    assert dict(ways.by_dispatch) == USUAL
    words = "assuming the usual cost of receiving requests: there is no time left to measure it"
    assert Phase(words) in text

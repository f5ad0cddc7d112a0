"""The verification of a joint tune takes the time that is left for it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.tuner.test_verification import Clock

from tailcut.lab.arrivals import Poisson
from tailcut.runtime.settings import Settings
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.together import verification
from tailcut.tuner.together.records import JointOutcome, JointWanted
from tailcut.tuner.together.search import JointSearch
from tailcut.tuner.together.verification import measure_arms


@pytest.mark.parametrize(("rate", "drain_s"), [(100.0, 0.0), (100.0, 2.5), (4.0, 0.0), (4.0, 2.0), (0.1, 0.0)])
def test_it_ends_within_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float, drain_s: float
) -> None:
    """Also of a slow or hardly asked model, and of servers whose queues take long to drain."""
    models = tuple(TuneRequest(tmp_path / f"{name}.onnx", budget_s=60.0, began=0.0) for name in ("one", "two"))
    search = JointSearch(JointWanted(models, (Poisson(rate), Poisson(rate)), budget_s=60.0, began=0.0), lambda _: None)
    search._plan_verification()
    clock, side, blocks = Clock(search._plan.explain_until), SimpleNamespace(name="m", runs={}), []

    def block(_: object, __: object, ___: object, name: str, seconds: float, ____: int) -> float:
        clock.spend(seconds + drain_s)
        side.runs[name].blocks.append(np.ones(int(rate * seconds)))
        blocks.append(name)
        return 0.0

    monkeypatch.setattr(verification, "time", clock)
    monkeypatch.setattr(verification, "_block", block)
    sides: Any = [side]
    servers: Any = SimpleNamespace(keep=lambda *_: None)
    arms = {"baseline": (Settings(),), "tuned": (Settings(),)}
    measure_arms(servers, arms, JointOutcome(sides), search._verification)
    assert 50.0 < clock.now <= 66.0
    assert blocks.count("tuned") == blocks.count("baseline") >= 3

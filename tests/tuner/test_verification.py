"""How long a verification takes: rounds on a clock that is moved by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tailcut.lab.trial import Arm, ArmRuns
from tailcut.tuner import verification
from tailcut.tuner.budget import TimePlan
from tailcut.tuner.noise import Noise
from tailcut.tuner.objective import Objective
from tailcut.tuner.racing import RaceLoad


class Clock:
    """Seconds that pass when a block is measured."""

    def __init__(self, now: float) -> None:
        self.now = now

    def monotonic(self) -> float:
        """The time."""
        return self.now

    def spend(self, seconds: float) -> None:
        """Let it pass."""
        self.now += seconds


@pytest.mark.parametrize(("rate", "drain_s"), [(0.5, 0.0), (2.0, 1.0), (20.0, 0.5), (1000.0, 0.0)])
def test_a_slow_model_is_verified_within_the_budget(
    monkeypatch: pytest.MonkeyPatch, rate: float, drain_s: float
) -> None:
    """However slow: a model of which not even a median can be known, and one whose closed blocks take long to end."""
    plan, clock = TimePlan(0.0, 60.0), Clock(33.0)

    def opened(arms: list[Arm], runs: list[ArmRuns], *, rate: float, duration_s: float, seed: int) -> None:
        for run in runs:
            clock.spend(duration_s)
            run.blocks.append(np.ones(int(rate * duration_s)))

    def closed(arms: list[Arm], runs: list[ArmRuns], *, concurrency: int, duration_s: float) -> None:
        clock.spend(len(arms) * (duration_s + drain_s))

    monkeypatch.setattr(verification, "time", clock)
    monkeypatch.setattr(verification, "open_block", opened)
    monkeypatch.setattr(verification, "closed_block", closed)
    monkeypatch.setattr(verification, "_highest_rate", lambda *_: 0.0)
    outcome: Any = SimpleNamespace(
        objective=Objective("goodput", 50.0, rate), capacity=2 * rate, clients=2, rate=rate, noise=Noise()
    )
    plan.needs_verification_s(min(verification.verification_s(rate, 3), plan.most_verify_s))
    arms: Any = {name: SimpleNamespace(pid=None) for name in ("baseline", "reference", "tuned")}
    verification.verify(outcome, arms, RaceLoad((1, 2), 0.2), plan, seed=1)
    assert 50.0 < clock.now <= 66.0

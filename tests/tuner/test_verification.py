"""How long a verification takes: rounds on a clock that is moved by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tailcut.lab.records import SaturatedLoop
from tailcut.lab.trial import Arm, ArmRuns
from tailcut.tuner import saturated, traffic, verification
from tailcut.tuner.baseline import Baseline
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
    monkeypatch.setattr(verification.SaturatedBlocks, "measure", lambda self, _: clock.spend(1.2 * self.block_s))
    outcome: Any = SimpleNamespace(
        objective=Objective("goodput", 50.0, rate),
        capacity=2 * rate,
        own_limit=True,
        clients=2,
        rate=rate,
        noise=Noise(),
    )
    plan.needs_verification_s(min(verification.verification_s(rate, 3), plan.most_verify_s))
    arms: Any = {name: SimpleNamespace(pid=None) for name in ("baseline", "reference", "tuned")}
    verification.verify(outcome, arms, RaceLoad((1, 2), 0.2), plan, seed=1)
    assert 50.0 < clock.now <= 66.0


class Server:
    """Answers at once up to its capacity; above it, its queue grows all the time."""

    pid, target, payloads = None, None, ()

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity

    def latencies_ms(self, rate: float, duration_s: float) -> np.ndarray:
        """Of evenly spaced requests."""
        due_s = np.arange(1, int(rate * duration_s) + 1) / rate
        return 0.5 + 1e3 * due_s * max(0.0, 1 - self.capacity / rate)


@pytest.mark.parametrize(
    ("limit_ms", "capacity"),
    [
        (5.0, 2000.0),
        pytest.param(18.0, 600.0, marks=pytest.mark.slow),
        pytest.param(84.0, 150.0, marks=pytest.mark.slow),
        (100.0, 100.0),
    ],
)
def test_more_traffic_is_shown_in_time(monkeypatch: pytest.MonkeyPatch, limit_ms: float, capacity: float) -> None:
    """Also if the baseline sustains the first of its rates, for tails of 5 to 100 ms."""
    known = Baseline(capacity, 16, capacity / 2, limit_ms)
    outcome, spent_s, clock = verified(monkeypatch, known, 1.27, 120.0)
    highest = outcome.highest
    assert highest is not None
    assert highest.within
    assert highest.baseline == pytest.approx(1.5 * capacity)
    assert highest.tuned == pytest.approx(3 * capacity)
    assert min(len(run.latencies) for run in outcome.arms.values()) >= 459
    assert outcome.saturated == SaturatedLoop(16, 4 * capacity)
    assert sum(spent_s[:8]) <= 15.0  # four blocks of each; the search before them takes 3
    assert clock.now <= 130.0


@pytest.mark.parametrize("times", [1.2, 2.0, 3.5])
def test_an_overloaded_baseline_is_offered_just_enough(monkeypatch: pytest.MonkeyPatch, times: float) -> None:
    """Three short blocks show that it cannot carry the rate; all else is the tuned server's."""
    known = Baseline(200.0, 16, times * 200.0, 20.0, own_limit=False)
    outcome, _, clock = verified(monkeypatch, known, 1.0, 60.0)
    assert outcome.overloaded == {"baseline", "reference"}
    assert [len(outcome.arms[name].blocks) for name in ("baseline", "reference")] == [3, 3]
    assert sum(map(len, outcome.arms["baseline"].blocks)) < 250
    assert len(outcome.arms["tuned"].latencies) >= 459
    assert clock.now <= 66.0


def test_a_late_verification_has_time_for_the_first_headline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one gives way: the p99 of all arms at one rate is known a moment later."""
    known = Baseline(1000.0, 16, 500.0, 100.0)
    outcome, spent_s, clock = verified(monkeypatch, known, 1.27, 60.0, late_s=12.0)
    assert min(len(run.latencies) for run in outcome.arms.values()) >= 459
    assert outcome.highest is None
    assert spent_s == []
    assert clock.now <= 68.0


def test_a_baseline_that_sustains_more_than_its_closed_loop_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate just above the capacity is no overload until the blocks show it."""
    known = Baseline(200.0, 16, 195.0, 20.0, own_limit=False)
    outcome, _, _ = verified(monkeypatch, known, 1.2, 60.0)
    assert outcome.overloaded == frozenset()
    assert len(outcome.arms["baseline"].blocks) == len(outcome.arms["tuned"].blocks) >= 8


@pytest.mark.parametrize("gain", [1.15, 1.7, 2.0])
def test_the_first_headline_of_a_slow_model_has_its_samples(monkeypatch: pytest.MonkeyPatch, gain: float) -> None:
    """Whether the second one cannot be shown, because the baseline carries as much, or takes longer than planned."""
    known = Baseline(98.0, 16, 49.0, 51.3)
    outcome, _, clock = verified(monkeypatch, known, 1.0, 120.0, gain=gain)
    assert min(len(run.latencies) for run in outcome.arms.values()) >= 459
    assert clock.now <= 130.0


def verified(  # noqa: PLR0917  both servers and the time are described
    monkeypatch: pytest.MonkeyPatch,
    known: Baseline,
    carried: float,
    budget_s: float,
    late_s: float = 0.0,
    gain: float = 4.0,
) -> tuple[Any, list[float], Clock]:
    """The outcome, what the second headline's blocks took, and the clock.

    Args:
        monkeypatch: replaces loops and clock.
        known: the baseline.
        carried: what it really carries, to its capacity.
        budget_s: of the tune.
        late_s: that the search took too long.
        gain: what the tuned server sustains, to the baseline's capacity.
    """
    capacity, spent_s = known.capacity, []
    plan, clock = TimePlan(0.0, budget_s), Clock(0.0)
    slow = verification.verification_s(known.rate, 3) > plan.most_verify_s
    compared = ("baseline",) if slow else ("baseline", "reference")
    needed_s = verification.verification_s(known.rate, 1 + len(compared)) + traffic.traffic_s(known, capacity)
    plan.needs_verification_s(min(needed_s, plan.most_verify_s))
    clock.now = plan.rungs_until + late_s

    def opened(arms: list[Any], runs: list[ArmRuns], *, rate: float, duration_s: float, seed: int) -> None:
        for arm, run in zip(arms, runs, strict=True):
            run.blocks.append(arm.latencies_ms(rate, duration_s))
            took_s = duration_s + max(0.0, run.blocks[-1][-1] / 1e3)
            run.achieved.append(len(run.blocks[-1]) / max(duration_s, duration_s * rate / arm.capacity))
            clock.spend(took_s + 0.1)  # with the warm-up

    def closed(arms: list[Any], runs: list[ArmRuns], *, concurrency: int, duration_s: float) -> None:
        clock.spend(len(arms) * duration_s * 1.2)

    def open_run(arm: Any, *, rate: float, duration_s: float, seed: int) -> Any:
        clock.spend(duration_s)
        latencies = Server(gain * capacity).latencies_ms(rate, duration_s)
        return SimpleNamespace(latencies_ns=latencies * 1e6, samples=len(latencies), errors={})

    def closed_run(*_: Any, **__: Any) -> Any:
        clock.spend(0.5)
        return SimpleNamespace(rate_achieved=gain * capacity)

    def offered(*arguments: Any, **options: Any) -> None:
        began = clock.now
        opened(*arguments, **options)
        spent_s.append(clock.now - began)

    for module, block in ((verification, opened), (traffic, offered)):
        monkeypatch.setattr(module, "time", clock)
        monkeypatch.setattr(module, "open_block", block)
    monkeypatch.setattr(verification, "closed_block", closed)
    monkeypatch.setattr(verification, "open_run", open_run)
    monkeypatch.setattr(verification, "closed_run", closed_run)
    monkeypatch.setattr(saturated, "closed_run", closed_run)
    outcome: Any = SimpleNamespace(
        objective=Objective("goodput", known.limit_ms, known.rate),
        capacity=capacity,
        own_limit=known.own_limit,
        clients=16,
        rate=known.rate,
        noise=Noise(),
    )
    arms: Any = {name: Server(carried * capacity) for name in compared} | {"tuned": Server(gain * capacity)}
    verification.verify(outcome, arms, RaceLoad((2, 16), 0.2), plan, seed=1)
    return outcome, spent_s, clock

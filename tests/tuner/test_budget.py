"""How a tune spends its time."""

import pytest

from tailcut.tuner.budget import Plan


@pytest.mark.parametrize("budget", [5.0, 30.0, 120.0, 600.0])
def test_phases_follow_one_another_within_the_budget(budget: float) -> None:
    """Race, refinement, rungs, then a quarter for the verification."""
    plan = Plan(1000.0, budget)
    assert 1000 < plan.race_until < plan.refine_until < plan.explain_until <= 1000 + 0.76 * budget
    assert plan.verification_s(plan.explain_until) >= 0.24 * budget
    before = plan.answers_s + plan.capacity_s + plan.calibrate_s + plan.estimate_s + 3 * plan.way_s
    assert before < plan.race_until - 1000


def test_short_budgets_quantise_nothing() -> None:
    """An eighth of less than twenty seconds is too little to calibrate in."""
    assert Plan(0.0, 19.0).calibrate_s == 0.0
    assert Plan(0.0, 20.0).calibrate_s == pytest.approx(2.4)


def test_a_slow_models_verification_comes_first() -> None:
    """What its p99 takes is taken from the search, but never more than nearly half."""
    plan, slow = Plan(0.0, 100.0), Plan(0.0, 100.0)
    slow.needs_verification_s(40.0)
    assert slow.race_until < plan.race_until
    slow.needs_verification_s(400.0)
    assert slow.explain_until >= 54.0
    assert slow.verification_s(60.0) >= 200.0


def test_what_is_left_over_goes_to_the_verification() -> None:
    """A search that ends early leaves its time to the samples."""
    plan = Plan(0.0, 100.0)
    assert plan.verification_s(40.0) == 60.0
    assert plan.spent_s(40.0) == 40.0

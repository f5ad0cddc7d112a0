"""How a tune spends its time."""

import pytest

from tailcut.tuner.budget import Plan, SearchSize, complete_s, joint_race_s
from tailcut.tuner.verification import told_within, verification_s


@pytest.mark.parametrize("budget", [5.0, 30.0, 120.0, 600.0])
def test_phases_follow_one_another_within_the_budget(budget: float) -> None:
    """Race, refinement, rungs, then a quarter for the verification."""
    plan = Plan(1000.0, budget)
    assert 1000 < plan.race_until < plan.refine_until < plan.explain_until <= 1000 + 0.76 * budget
    assert plan.verification_s(plan.explain_until) >= 0.2 * budget
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
    assert slow.verification_s(60.0) >= 400.0


def test_what_is_left_over_goes_to_the_verification() -> None:
    """A search that ends early leaves its time to the samples."""
    plan = Plan(0.0, 100.0)
    assert plan.verification_s(40.0) == plan.end - 40.0
    assert 95.0 <= plan.end < 100.0
    assert plan.spent_s(40.0) == 40.0


def test_a_slow_model_is_expected_to_take_longer() -> None:
    """The estimate is the budget, unless the verification needs more than the search leaves it."""
    plan = Plan(0.0, 30.0)
    assert plan.expected_s == pytest.approx(30.0)
    plan.needs_verification_s(600.0)
    assert 600.0 < plan.expected_s < 630.0


@pytest.mark.parametrize(("start_s", "count"), [(0.1, 8), (0.8, 4), (30.0, 2)])
def test_as_many_finalists_as_there_is_time_to_start(start_s: float, count: int) -> None:
    """All eight where servers start quickly; never less than two."""
    assert Plan(0.0, 30.0).finalists(8.0, start_s, 8) == count


def test_after_an_exhaustive_race_the_rest_has_its_time() -> None:
    """The ends of the phases after it move; one that ended in time moves nothing."""
    plan = Plan(0.0, 100.0)
    end, race_until = plan.end, plan.race_until
    plan.race_ended(race_until - 1.0)
    assert plan.end == end
    plan.race_ended(race_until + 200.0)
    assert plan.end == pytest.approx(end + 200.0)
    assert plan.refine_until > race_until + 200.0
    assert plan.spent_s(300.0) == 300.0


def test_what_a_slow_model_can_be_verified_by() -> None:
    """The tail where there is time for it; the budget is kept in any case."""
    assert told_within(60.0, 1000.0, 3) == "p99"
    assert told_within(60.0, 10.0, 3) == "p95"
    assert told_within(1.0, 10.0, 3) == "p50"
    plan = Plan(0.0, 60.0)
    plan.needs_verification_s(min(verification_s(10.0, 3), plan.most_verify_s))
    assert plan.expected_s == pytest.approx(60.0)


def test_a_complete_search_takes_longer_for_more_and_slower() -> None:
    """More engines, slower starts, slower models and more rungs each take longer; a quick model about a minute."""
    quick = complete_s(SearchSize(13, 6.0), 6, 1.0, 5000.0)
    assert 40 < quick < 150
    assert complete_s(SearchSize(40, 6.0), 6, 1.0, 5000.0) > quick
    assert complete_s(SearchSize(13, 6.0), 6, 4.0, 5000.0) > quick
    assert complete_s(SearchSize(13, 6.0), 9, 1.0, 5000.0) > quick
    assert complete_s(SearchSize(13, 6.0), 6, 1.0, 20.0) > 3 * quick
    assert complete_s(SearchSize(13, 16.0), 6, 1.0, 5000.0) == quick + 10


def test_a_joint_race_takes_longer_for_more_models_and_rarer_requests() -> None:
    """Each combination starts a server, is asked for its answers, and runs its heats."""
    quick = joint_race_s(5, 2, 2.0, 0.5)
    assert quick == 5 * (2.0 + 2 * 1.5 + 12 * 0.5)
    assert joint_race_s(5, 3, 2.0, 0.5) > quick
    assert joint_race_s(5, 2, 2.0, 9.0) > quick

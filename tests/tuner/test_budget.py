"""How a tune spends its time."""

import pytest

from tailcut.tuner.budget import SearchSize, TimePlan, complete_s, joint_race_s
from tailcut.tuner.verification import percentile_within, verification_s


@pytest.mark.parametrize("budget", [5.0, 30.0, 120.0, 600.0])
def test_phases_follow_one_another_within_the_budget(budget: float) -> None:
    """Race, refinement, rungs, then a quarter for the verification."""
    plan = TimePlan(1000.0, budget)
    assert 1000 < plan.race_until < plan.refine_until < plan.explain_until <= 1000 + 0.76 * budget
    assert plan.verification_s(plan.explain_until) >= 0.2 * budget
    before = plan.answers_s + plan.capacity_s + plan.calibrate_s + plan.estimate_s + 3 * plan.way_s
    assert before < plan.race_until - 1000


def test_short_budgets_quantise_nothing() -> None:
    """An eighth of less than twenty seconds is too little to calibrate in; a slow model's verification takes of it."""
    slow = TimePlan(0.0, 22.0)
    slow.needs_verification_s(20.0)
    assert slow.calibrate_s == 0.0 < TimePlan(0.0, 22.0).calibrate_s
    assert TimePlan(0.0, 19.0).calibrate_s == 0.0
    assert TimePlan(0.0, 20.0).calibrate_s == pytest.approx(2.4)


def test_a_slow_models_verification_comes_first() -> None:
    """What its p99 takes is taken from the search, but never more than nearly half."""
    plan, slow = TimePlan(0.0, 100.0), TimePlan(0.0, 100.0)
    slow.needs_verification_s(40.0)
    assert slow.race_until < plan.race_until
    slow.needs_verification_s(400.0)
    assert slow.explain_until >= 54.0
    assert slow.verification_s(60.0) == pytest.approx(42.0)


@pytest.mark.parametrize("budget", [20.0, 60.0, 120.0])
@pytest.mark.parametrize("late", [0.0, 0.1, 0.25])
def test_a_verification_that_begins_late_keeps_the_budget(budget: float, late: float) -> None:
    """Where the phases before it took longer than planned, it is shorter: the tune ends within 10 % of its budget."""
    plan = TimePlan(0.0, budget)
    plan.needs_verification_s(plan.most_verify_s)
    begins = plan.explain_until + late * budget
    assert begins + plan.verification_s(begins) <= 1.1 * budget


def test_what_is_left_over_goes_to_the_verification() -> None:
    """A search that ends early leaves its time to the samples."""
    plan = TimePlan(0.0, 100.0)
    assert plan.verification_s(40.0) == plan.end - 40.0
    assert 95.0 <= plan.end < 100.0
    assert plan.spent_s(40.0) == 40.0


def test_a_slow_model_is_expected_to_take_longer() -> None:
    """The estimate is the budget, unless the verification needs more than the search leaves it."""
    plan = TimePlan(0.0, 30.0)
    assert plan.expected_s == pytest.approx(30.0)
    plan.needs_verification_s(600.0)
    assert 600.0 < plan.expected_s < 630.0


@pytest.mark.parametrize(("start_s", "count"), [(0.1, 8), (1.2, 5), (30.0, 2)])
def test_as_many_finalists_as_there_is_time_to_start(start_s: float, count: int) -> None:
    """All eight where servers start quickly; never less than two."""
    assert TimePlan(0.0, 30.0).finalists(8.0, start_s, 8) == count


@pytest.mark.parametrize("start_s", [1.0, 2.0])
def test_a_minute_is_enough_for_four_finalists(start_s: float) -> None:
    """Whatever a quantised copy and a slow baseline take before: the engines are measured for less long."""
    plan = TimePlan(0.0, 60.0)
    began = 6.0 + plan.capacity_s + plan.calibrate_s
    estimating_s = plan.estimating_s(began, start_s, 20, 100.0)
    assert 4.0 < estimating_s <= plan.estimate_s
    assert 4 <= plan.finalists(began + estimating_s + 1.0, start_s, 8) <= 5


def test_engines_are_measured_as_long_as_usual_where_there_is_time() -> None:
    """With two minutes, no server waits for a shorter measurement; with no time left, some is measured anyway."""
    plan = TimePlan(0.0, 120.0)
    assert plan.estimating_s(15.0, 1.0, 20, 100.0) == plan.estimate_s
    assert plan.estimating_s(70.0, 1.0, 20, 100.0) == pytest.approx(0.08 * 120)


@pytest.mark.parametrize(("capacity", "finalists"), [(100.0, 5), (4.0, 4), (1.0, 1)])
def test_engines_of_a_slow_model_have_the_time_of_servers_that_could_not_race(capacity: float, finalists: int) -> None:
    """Of a model that answers once a second, no heat fits: one server is enough, and each engine is called longer."""
    plan = TimePlan(0.0, 120.0)
    seconds = plan.race_until - 40.0 - finalists * 3.0 / 0.65
    assert plan.estimating_s(40.0, 3.0, 7, capacity) == pytest.approx(max(seconds - 2.4, 9.6))


def test_a_short_budget_limits_the_warm_up_of_servers() -> None:
    """It takes as long as a user's server in a long tune only."""
    assert [TimePlan(0.0, budget_s).warm_up_s for budget_s in (5.0, 120.0, 3600.0)] == [0.5, 1.5, 10.0]


@pytest.mark.parametrize(("budget_s", "block_s"), [(8.0, 0.12), (36.0, 0.15), (120.0, 0.2)])
def test_blocks_are_short_where_a_race_has_little_time(budget_s: float, block_s: float) -> None:
    """One heat of short blocks selects better than none."""
    assert TimePlan(0.0, budget_s).block_s == pytest.approx(block_s)


def test_few_engines_leave_their_time_to_the_race() -> None:
    """Two seconds each of a quick model, and a hundred calls each of a slow one, where there is time for that."""
    plan = TimePlan(0.0, 120.0)
    assert plan.estimating_s(15.0, 1.0, 7, 300.0) == 14.0
    assert plan.estimating_s(15.0, 1.0, 1, 10.0) == 10.0
    assert plan.estimating_s(15.0, 1.0, 7, 10.0) == plan.estimate_s


def test_copies_that_are_unlikely_to_win_have_what_is_left() -> None:
    """Of a quick model there is time for them behind the other engines; of a slow one only in a longer budget."""
    quick, slow = TimePlan(0.0, 120.0), TimePlan(0.0, 120.0)
    assert quick.has_time_for_copies(10.0 + quick.estimate_s, 1.0)
    slow.needs_verification_s(slow.most_verify_s)
    assert not slow.has_time_for_copies(12.0 + slow.estimate_s, 2.5)
    assert TimePlan(0.0, 360.0).has_time_for_copies(12.0 + 72.0, 2.5)
    assert not TimePlan(0.0, 19.0).has_time_for_copies(0.0, 0.1)


def test_finalists_that_start_late_race_all_the_same() -> None:
    """A race has a tenth of the budget from when its servers run."""
    plan = TimePlan(0.0, 60.0)
    assert plan.race_ends(20.0) == plan.race_until
    assert plan.race_ends(34.0) == pytest.approx(40.0)


def test_after_an_exhaustive_race_the_rest_has_its_time() -> None:
    """The ends of the phases after it move; one that ended in time moves nothing."""
    plan = TimePlan(0.0, 100.0)
    end, race_until = plan.end, plan.race_until
    plan.race_ended(race_until - 1.0)
    assert plan.end == end
    plan.race_ended(race_until + 200.0)
    assert plan.end == pytest.approx(end + 200.0)
    assert plan.refine_until > race_until + 200.0
    assert plan.spent_s(300.0) == 300.0


def test_what_a_slow_model_can_be_verified_by() -> None:
    """The tail where there is time for it; the budget is kept in any case."""
    assert percentile_within(60.0, 1000.0, 3) == "p99"
    assert percentile_within(60.0, 10.0, 3) == "p95"
    assert percentile_within(1.0, 10.0, 3) == "p50"
    plan = TimePlan(0.0, 60.0)
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


def test_a_late_end_names_the_phases_that_took_longer_than_planned() -> None:
    """By how much each made it later: what the one before it overran does not count again, and little is not named."""
    plan = TimePlan(100.0, 20.0)
    plan.phase_ended("the first", 104.0, 105.0)
    plan.phase_ended("the second", 118.0, 108.0)
    plan.phase_ended("the third", 122.0, 112.0)
    plan.phase_ended("the fourth", 128.3, 118.0)
    plan.phase_ended("the last", 134.0, 119.0)
    assert plan.late_words(122.0) == ""
    words = "the tune took 34 s with --budget 20s: longer than planned were the second 10 s, the last 5 s"
    assert plan.late_words(134.0) == words


def test_a_phase_that_catches_up_leaves_less_to_the_next() -> None:
    """What is late again afterwards is its own."""
    plan = TimePlan(0.0, 10.0)
    plan.phase_ended("the first", 5.0, 2.0)
    plan.phase_ended("the second", 5.0, 5.0)
    plan.phase_ended("the third", 14.0, 10.0)
    assert plan.late_words(14.0).endswith("longer than planned were the third 4 s, the first 3 s")


def test_engines_leave_time_for_the_cost_of_receiving_requests() -> None:
    """It is measured after them for a quick model, and what is left until the race starts several servers."""
    plan = TimePlan(0.0, 90.0)
    quick, slow = (plan.estimating_s(26.0, 0.6, 20, capacity) for capacity in (2500.0, 100.0))
    assert slow - quick == pytest.approx(0.07 * 90.0)
    ended = 26.0 + quick + 0.09 * 90.0
    assert plan.finalists(ended, 0.6, 8) >= 4

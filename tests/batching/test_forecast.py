"""When a model will be done: no clock, no engine."""

from tailcut.batching.cost import CostModel
from tailcut.batching.forecast import Forecast


def learned(max_batch_size: int = 4, instances: int = 1, batch_ns: int = 100, row_ns: int = 10) -> Forecast:
    forecast = Forecast(max_batch_size, instances)
    for size in forecast.cost.sizes:
        forecast.cost.observe(size, batch_ns + row_ns * size)
    return forecast


def test_waiting_rows_take_their_batches_time() -> None:
    """9 rows in batches of 4, 4 and 1, counted from now on."""
    assert learned().done_ns(9, 1_000, busy=False) == 1_000 + 2 * 140 + 110


def test_a_batch_that_computes_has_to_end_first() -> None:
    """What is left of it, and nothing of one that is over its time."""
    forecast = learned()
    forecast.formed(None, 4, 1_000, 1_000)
    assert forecast.done_ns(1, 1_040, busy=True) == 1_040 + 100 + 110
    assert forecast.done_ns(1, 9_000, busy=True) == 9_000 + 110


def test_instances_share_the_work() -> None:
    """Two of them are done in half the time."""
    assert learned(instances=2).done_ns(8, 0, busy=False) == 140


def test_the_time_between_batches_is_learned_while_somebody_waits() -> None:
    """A request that was ready when the last batch ended has waited for the worker; one that came later has not."""
    forecast = learned()
    for start in range(0, 100_000, 1_000):
        forecast.ended(None, 4, start, start + 140, learn=True)
        forecast.formed(None, 4, start + 100, start + 190)
    assert 49 < forecast.between_ns <= 50
    forecast.ended(None, 4, 200_000, 200_140, learn=True)
    forecast.formed(None, 4, 300_000, 300_010)
    assert 49 < forecast.between_ns <= 50
    assert 139 < forecast.done_ns(4, 0, busy=False) - forecast.between_ns < 141


def test_keys_that_differ_in_cost_are_learned_apart() -> None:
    """And together, for what is not known by its key yet."""
    forecast = learned()
    forecast.costs = {8: CostModel(4), 16: CostModel(4)}
    forecast.ended(16, 2, 0, 5_000, learn=True)
    assert forecast.of(16).estimate_ns(2) == 5_000
    assert forecast.of(8).estimate_ns(2) == 0
    assert forecast.of("other") is forecast.cost
    assert forecast.cost.estimate_ns(2) == 120 + 0.1 * (5_000 - 120)


def test_a_batch_that_failed_teaches_no_cost() -> None:
    """It may have ended at once."""
    forecast = learned()
    forecast.ended(None, 4, 0, 1, learn=False)
    assert forecast.cost.estimate_ns(4) == 140


def test_far_deadlines_need_no_closer_look() -> None:
    """There is time for every waiting row in a full batch of its own, and for two more."""
    forecast = learned()
    assert not forecast.is_near(10_000, waiting=20)
    assert forecast.is_near(10_000, waiting=80)


def test_broken_promises_widen_the_safety_margin_and_kept_ones_narrow_it() -> None:
    """A late answer adds 2 %, 300 in time take it off again, and the margin is never over half or below none."""
    forecast = learned()
    forecast.observe_answer(0, 10_000, 10_001)
    assert abs(forecast.safety_margin - 0.02) < 1e-9
    for _ in range(299):
        forecast.observe_answer(0, 10_000, 5_000)
    assert forecast.safety_margin > 0.0
    for _ in range(10):
        forecast.observe_answer(0, 10_000, 5_000)
    assert forecast.safety_margin == 0.0
    for _ in range(100):
        forecast.observe_answer(0, 10_000, 10_001)
    assert forecast.safety_margin == 0.5


def test_an_answer_at_the_last_moment_is_late() -> None:
    """It still has to reach the client: the last 2 % of the time given are not planned with."""
    forecast = learned()
    forecast.observe_answer(0, 10_000, 9_900)
    assert forecast.safety_margin > 0.0


def test_who_gave_less_time_than_a_batch_takes_was_promised_nothing() -> None:
    """An idle model accepts it, to learn its speed: that it was too late does not count against the forecast."""
    forecast = learned()
    forecast.observe_answer(0, 100, 5_000)
    assert forecast.safety_margin == 0.0


def test_a_wider_safety_margin_refuses_earlier() -> None:
    """8 rows take 280 ns: 300 are time enough, and with a tenth of them kept back the door opens 10 later."""
    forecast = learned()
    assert forecast.opens_ns(1_300, 8, 1_000, busy=False) <= 1_000
    for _ in range(5):
        forecast.observe_answer(0, 10_000, 10_001)
    assert forecast.opens_ns(1_300, 8, 1_000, busy=False) == 1_010
    assert learned().is_near(10_000, waiting=69) is False
    assert forecast.is_near(10_000, waiting=69) is True

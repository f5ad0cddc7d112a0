"""When a batch leaves and how large: no clock, no thread."""

from tailcut.batching.cost import CostModel
from tailcut.batching.policy import Dispatch, Queue, Wait, decide


def learned(max_batch_size: int, per_batch_ns: int, per_row_ns: int) -> CostModel:
    cost = CostModel(max_batch_size)
    for size in cost.sizes:
        cost.observe(size, per_batch_ns + per_row_ns * size)
    return cost


def test_with_nothing_learned_all_that_is_ready_goes() -> None:
    """The first batch takes what there is, up to the largest batch."""
    assert decide(Queue(5, 0, 0.0, 1), 0, CostModel(8)) == Dispatch(5)
    assert decide(Queue(50, 0, 0.0, 1), 0, CostModel(8)) == Dispatch(8)


def test_rows_go_together_where_that_is_cheaper() -> None:
    """A fixed cost a batch makes the largest batch the best."""
    assert decide(Queue(20, 0, 0.0, 1), 0, learned(16, 100_000, 1_000)) == Dispatch(16)


def test_rows_go_alone_where_batching_gains_nothing() -> None:
    """When two rows take twice as long as one, nobody waits for a neighbour's row to compute."""
    assert decide(Queue(20, 0, 0.0, 1), 0, learned(16, 0, 8_000_000)) == Dispatch(1)


def test_idle_engines_share() -> None:
    """Two idle engines take half each."""
    assert decide(Queue(8, 0, 0.0, 2), 0, learned(16, 100_000, 1_000)) == Dispatch(4)


def test_nothing_is_held_back_by_default() -> None:
    """One ready row and an idle engine: it goes, however soon the next would come."""
    assert decide(Queue(1, 0, 1.0, 1), 0, learned(16, 1_000_000, 1)) == Dispatch(1)


def test_a_hold_back_waits_only_while_it_pays() -> None:
    """Asked to, it waits for a row that saves more engine time than its coming costs, and no longer than asked."""
    cost = learned(16, 1_000_000, 1_000)
    soon = Queue(1, 1_000, 10_000.0, 1)
    assert decide(soon, 2_000, cost, hold_ns=50_000) == Wait(51_000)
    assert decide(soon, 51_500, cost, hold_ns=50_000) == Dispatch(1)
    assert decide(Queue(1, 1_000, 5_000_000.0, 1), 2_000, cost, hold_ns=50_000) == Dispatch(1)
    linear = learned(16, 0, 1_000_000)
    assert decide(soon, 2_000, linear, hold_ns=50_000) == Dispatch(1)


def test_the_cost_of_sizes_between_the_known_is_read_off_a_line() -> None:
    """12 rows cost what lies half way between 8 and 16."""
    cost = learned(16, 1_000, 100)
    assert cost.estimate_ns(12) == 1_000 + 1_200


def test_the_cost_follows_a_change() -> None:
    """A machine that slows down is believed after a few dozen batches."""
    cost = learned(4, 0, 1_000)
    for _ in range(100):
        cost.observe(4, 40_000)
    assert cost.estimate_ns(4) > 39_000


def test_what_the_door_promises_by_follows_at_once() -> None:
    """The cost of the size worth taking is never older than the last batch of that size."""
    cost = learned(4, 1_000, 1)
    assert (cost.limit, cost.limit_ns) == (4, 1_004)
    cost.observe(4, 101_004)
    assert cost.limit_ns == cost.estimate_ns(4) == 11_004


def test_rows_are_counted_in_the_batches_they_will_make() -> None:
    """35 rows where 16 are worth taking: two full batches and one of 3."""
    cost = learned(16, 100_000, 1_000)
    assert cost.batches(35) == (3, 2 * 116_000 + cost.estimate_ns(3))
    assert cost.batches(32) == (2, 2 * 116_000)
    assert CostModel(4).batches(9) == (3, 0.0)


def test_a_size_that_a_stall_made_look_bad_is_tried_again() -> None:
    """With enough rows ready, one batch in 64 is a size larger than what seems worth taking."""
    cost = learned(8, 1_000_000, 1_000)
    for _ in range(40):
        cost.observe(8, 20_000_000)
    assert cost.limit == 4
    took = {4: 1_004_000, 8: 1_008_000}
    seen = []
    for _ in range(600):
        rows = cost.best(50)
        seen.append(rows)
        cost.observe(rows, took[rows])
    assert cost.limit == 8
    assert seen.count(4) > 60
    assert set(seen[-100:]) == {8}


def test_trying_again_costs_little_where_it_is_in_vain() -> None:
    """A model that gains nothing by batching computes one batch in 64 of two rows."""
    cost = learned(8, 0, 1_000_000)
    seen = []
    for _ in range(640):
        rows = cost.best(50)
        seen.append(rows)
        cost.observe(rows, rows * 1_000_000)
    assert set(seen) == {1, 2}
    assert seen.count(2) <= 11

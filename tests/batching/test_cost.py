"""What a batch costs: read between sizes, and the size that is worth taking."""

import pytest

from tailcut.batching.cost import CostModel

US = 1_000


def learned(costs_us: dict[int, int], max_batch_size: int = 32, times: int = 64) -> CostModel:
    """A cost model that has observed each size so many times."""
    model = CostModel(max_batch_size)
    for _ in range(times):
        for rows, cost in costs_us.items():
            model.observe(rows, cost * US)
    return model


@pytest.mark.parametrize(
    ("max_batch_size", "sizes"), [(1, [1]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12]), (3, [1, 2, 3])]
)
def test_costs_are_kept_for_powers_of_two_and_the_largest_batch(max_batch_size: int, sizes: list[int]) -> None:
    """Whatever the largest batch is."""
    assert CostModel(max_batch_size).sizes == sizes


def test_nothing_is_known_at_first() -> None:
    """An estimate is 0, and all rows that are ready are taken."""
    model = CostModel(8)
    assert model.estimate_ns(4) == 0
    assert [model.best(ready) for ready in (1, 5, 8, 100)] == [1, 5, 8, 8]


@pytest.mark.parametrize(("rows", "cost_us"), [(1, 100), (2, 120), (3, 140), (4, 160), (8, 320), (32, 1280)])
def test_a_cost_is_read_between_known_sizes_and_beyond_them(rows: int, cost_us: int) -> None:
    """By a straight line between two of them, and by the same time per row outside."""
    assert learned({1: 100, 2: 120, 4: 160}).estimate_ns(rows) == pytest.approx(cost_us * US)


def test_the_average_follows_the_newest_batches() -> None:
    """A cost that doubles is known to have done so after a few dozen batches."""
    model = learned({1: 100})
    for _ in range(64):
        model.observe(1, 200 * US)
    assert model.estimate_ns(1) == pytest.approx(200 * US, rel=0.01)


@pytest.mark.parametrize(
    ("costs_us", "limit"),
    [
        ({1: 100, 2: 110, 4: 130, 8: 170}, 8),  # each size costs less per row
        ({1: 100, 2: 200, 4: 400, 8: 800}, 1),  # no size does
        ({1: 100, 2: 120, 4: 240, 8: 480}, 2),  # only the second does
    ],
)
def test_a_batch_is_no_larger_than_pays(costs_us: dict[int, int], limit: int) -> None:
    """Rows wait for each other only where that cuts the time per row."""
    model = learned(costs_us, 8, 63)
    assert model.limit == limit
    assert model.limit_ns == pytest.approx(costs_us[limit] * US)
    assert model.batches(3 * limit) == (3, pytest.approx(3 * costs_us[limit] * US))


def test_a_size_that_looked_bad_is_tried_again() -> None:
    """Once in 64 observations the next larger size is taken; where it has become cheap, it stays."""
    model = learned({1: 100, 2: 400}, 2, 60)
    assert model.limit == 1
    sizes = []
    for _ in range(200):
        rows = model.best(2)
        sizes.append(rows)
        model.observe(rows, 110 * US)
    assert 2 in sizes[:65]
    assert model.best(2) == 2

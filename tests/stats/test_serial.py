"""Intervals of points that follow one another hold what they say, where those of independent points do not."""

import numpy as np
import pytest

from tailcut.stats import Sample, is_above, percentile_interval
from tailcut.stats.serial import independent_points, is_above_serially, serial_percentile_interval


def waits(random: np.random.Generator, size: int, load: float) -> np.ndarray:
    """Time in an M/D/1 queue with a service time of 1, in its steady state, by Lindley's recursion."""
    walk = np.concatenate([[0], np.cumsum(1 - random.exponential(1 / load, size + 999))])
    return (walk - np.minimum.accumulate(walk) + 1)[1000:]


@pytest.mark.slow
@pytest.mark.parametrize(("load", "size"), [(0.5, 1500), (0.6, 2000), (0.7, 5000)])
def test_intervals_of_a_queue_cover(load: float, size: int) -> None:
    """In 95 % of 400 seeded runs the p99 of a queue lies inside; taken as independent, in fewer than 85 %."""
    random = np.random.default_rng(5)
    truth = np.quantile(waits(random, 2_000_000, load), 0.99)
    serial = independent = 0
    for _ in range(400):
        sample = waits(random, size, load)
        item, other = serial_percentile_interval(sample, 0.99), percentile_interval(Sample.of(sample), 0.99)
        assert item is not None
        assert other is not None
        serial += item.low <= truth <= item.high
        independent += other.low <= truth <= other.high
    assert serial / 400 >= 0.95
    assert independent / 400 < 0.85


@pytest.mark.parametrize(
    ("load", "size"),
    [
        (0.5, 600),
        (0.7, 1500),
        pytest.param(0.85, 5000, marks=pytest.mark.slow),
        pytest.param(0.7, 600, marks=pytest.mark.slow),
        pytest.param(0.7, 5000, marks=pytest.mark.slow),
        pytest.param(0.9, 1500, marks=pytest.mark.slow),
    ],
)
def test_no_upper_end_lies_below_the_p99_of_a_busy_queue(load: float, size: int) -> None:
    """In at most 2 % of 200 seeded runs, where half a per cent is promised."""
    random = np.random.default_rng(8)
    truth = np.quantile(waits(random, 1_000_000, load), 0.99)
    below = 0
    for _ in range(200):
        interval = serial_percentile_interval(waits(random, size, load), 0.99)
        assert interval is not None
        below += interval.high < truth
    assert below <= 4


def test_independent_points_stay_independent() -> None:
    """With nothing between neighbours the interval covers too, and is at most half as wide again on average."""
    random = np.random.default_rng(6)
    held, widths = 0, []
    for _ in range(300):
        points = random.exponential(size=3000)
        item, other = serial_percentile_interval(points, 0.99), percentile_interval(Sample.of(points), 0.99)
        assert item is not None
        assert other is not None
        held += item.low <= -np.log(0.01) <= item.high
        widths.append((item.high - item.low) / (other.high - other.low))
    assert held / 300 >= 0.98
    assert np.mean(widths) < 1.5


def test_a_stall_is_one_event() -> None:
    """A hundred slow requests in a row count for a few points, the same hundred spread out for nearly all."""
    spread = np.ones(10_000)
    spread[::100] = 9.0
    row = np.ones(10_000)
    row[:100] = 9.0
    assert independent_points(row, 0.985) < 1000
    assert independent_points(spread, 0.985) == 10_000


def test_too_few_are_unknown() -> None:
    """458 points know no p99."""
    assert serial_percentile_interval(np.arange(458), 0.99) is None
    assert serial_percentile_interval(np.arange(459), 0.99) is not None


def test_late_answers_in_a_row_show_less() -> None:
    """Two hundred of ten thousand show more than 1 % where they are spread out, and not as one stall."""
    spread = np.zeros(10_000, bool)
    spread[::50] = True
    row = np.zeros(10_000, bool)
    row[3000:3200] = True
    assert is_above_serially(spread, 0.01)
    assert not is_above_serially(row, 0.01)
    assert is_above_serially(np.ones(100, bool), 0.01)
    assert not is_above_serially(np.zeros(100, bool), 0.01)


def test_a_rate_that_a_queue_sustains_is_rarely_called_too_high() -> None:
    """In 1 % of seeded runs; were answers independent, in many."""
    random = np.random.default_rng(7)
    truth = np.quantile(waits(random, 2_000_000, 0.7), 0.99)
    runs = [waits(random, 4000, 0.7) > truth for _ in range(200)]
    assert np.mean([is_above_serially(late, 0.01) for late in runs]) <= 0.05
    assert np.mean([is_above(int(late.sum()), len(late), 0.01) for late in runs]) > 0.15

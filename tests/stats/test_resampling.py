"""The bootstrap of rows, the line, the fences and the trend that micro-benchmarks stand on."""

import numpy as np
import pytest

from tailcut.errors import InvalidInputError
from tailcut.stats import Sample, bootstrap_interval, fit_line, median_interval, median_ratio_interval, outliers, trend


def test_a_seed_repeats_an_interval() -> None:
    """The same points and seed give the same interval, another seed a slightly different one."""
    points = np.random.default_rng(0).normal(10, 1, 101)
    assert median_interval(points, seed=1) == median_interval(points, seed=1)
    assert median_interval(points, seed=1) != median_interval(points, seed=2)


def test_large_samples_are_drawn_in_parts() -> None:
    """A sample too large for all draws at once gives an interval all the same, as narrow as its size allows."""
    points = np.random.default_rng(0).normal(10, 1, 30_001)
    interval = median_interval(points)
    assert 9.95 < interval.low <= interval.point <= interval.high < 10.05


def test_rows_stay_together() -> None:
    """Of rows whose two figures are alike the difference is nothing in every draw."""
    column = np.random.default_rng(0).normal(size=50)
    rows = np.column_stack([column, column])
    interval = bootstrap_interval(rows, lambda draws: (draws[..., 0] - draws[..., 1]).sum(axis=-1))
    assert (interval.low, interval.point, interval.high) == (0, 0, 0)


@pytest.mark.parametrize("points", [[1.0], [1.0, np.nan, 2.0], []])
def test_what_cannot_be_resampled(points: list[float]) -> None:
    """One point, or points that are no numbers."""
    with pytest.raises(InvalidInputError):
        median_interval(np.array(points))


def test_drift_divides_out_of_neighbours() -> None:
    """On a machine that slows down tenfold while it measures, a true ratio of 1.1 still has an interval of 2 %."""
    random = np.random.default_rng(0)
    drift = np.geomspace(1, 10, 101)
    old, new = (drift * scale * random.normal(1, 0.02, 101) for scale in (1.0, 1.1))
    ratio = median_ratio_interval(new, old)
    assert ratio.low <= 1.1 <= ratio.high
    assert ratio.high - ratio.low < 0.025
    with pytest.raises(InvalidInputError):
        median_ratio_interval(new, old[:50])
    with pytest.raises(InvalidInputError):
        median_ratio_interval(new, old - old.max())


def test_a_line_is_found() -> None:
    """Slope and intercept of points on a line, exactly; of noisy ones with wild spikes, inside a narrow interval."""
    x = np.resize([50, 100, 150], 99)
    exact = fit_line(x, 7.0 * x + 30)
    assert exact.slope.point == pytest.approx(7)
    assert exact.intercept == pytest.approx(30)
    assert exact.bend == pytest.approx(0)
    noise = np.random.default_rng(0).normal(0, 20, 99)
    noise[::7] += 10_000
    noisy = fit_line(x, 7.0 * x + 30 + noise)
    assert 6 < noisy.slope.low < 7 < noisy.slope.high < 8
    assert fit_line(x, x**2.0).bend < -0.05
    with pytest.raises(InvalidInputError):
        fit_line(np.full(20, 5), np.arange(20))


def test_tukeys_fences() -> None:
    """With quartiles about 25 and 75, 160 is mild and 240 severe, and so on the low side; all are counted."""
    result = outliers(Sample.of([*range(1, 100), 160, 240, -60, -140]))
    assert (result.low_severe, result.low_mild, result.high_mild, result.high_severe) == (1, 1, 1, 1)
    assert result.total == 4
    assert outliers(Sample.of([5.0] * 10)).total == 0


def test_a_trend_is_distinguished_from_noise() -> None:
    """A climb of 10 % over the series is found to 2 %; noise of the same size has none; spikes change nothing."""
    random = np.random.default_rng(0)
    noise = random.normal(1, 0.02, 200)
    climbing = trend(noise * np.linspace(1, 1.1, 200))
    assert climbing.significant
    assert climbing.change == pytest.approx(0.1, abs=0.02)
    assert not climbing.steady(0.02)
    assert trend(noise).steady(0.02)
    spiked = noise.copy()
    spiked[::17] *= 50
    assert trend(spiked).steady(0.02)


def test_noise_has_a_trend_in_one_of_a_hundred() -> None:
    """The test for a trend errs in about 1 % of 1,000 steady series."""
    random = np.random.default_rng(4)
    assert 2 <= sum(trend(random.exponential(size=60)).significant for _ in range(1000)) <= 22


def test_long_series_are_thinned() -> None:
    """Ten thousand points take no pair of all of them, and a climb is still found."""
    climbing = trend(np.linspace(1, 2, 10_000))
    assert climbing.change == pytest.approx(2 / 3, rel=0.02)
    with pytest.raises(InvalidInputError):
        trend(np.ones(3))

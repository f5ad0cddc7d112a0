"""What is kept of a model's activations, and the ranges that are chosen from it."""

import numpy as np
import pytest

from tailcut.engines.activations import Activation, Histogram
from tailcut.errors import UnsupportedError


def test_ranges() -> None:
    """All that was seen; without the rarest numbers; or with the least squared error, which clips lone outliers."""
    middles = np.linspace(-1.0, 9.0, 101)
    counts = np.where(middles <= 1.0, 1000.0, 0.0)
    counts[-1] = 1.0
    histogram = Histogram(counts, middles, -1.05, 9.05)
    assert histogram.whole() == (-1.05, 9.05)
    low, high = histogram.within_percentile()
    assert low == pytest.approx(-1.0)
    assert high == pytest.approx(1.0)
    low, high = histogram.least_error()
    assert histogram.error(low, high) <= histogram.error(*histogram.whole())
    without = Histogram(counts[:21], middles[:21], -1.05, 1.05)
    assert histogram.noise > without.noise


def test_activations_are_counted_over_requests() -> None:
    """The ends of all numbers, and the mean of each channel on axis 1, whatever the number of rows; nothing of none."""
    random = np.random.default_rng(0)
    activation = Activation()
    offsets = np.array([[[0], [10], [20]]], np.float32)
    arrays = [random.standard_normal((rows, 3, 5), np.float32) + offsets for rows in (1, 4, 0)]
    for array in arrays:
        activation.add(array, random)
    together = np.concatenate(arrays)
    assert (activation.lowest, activation.highest) == (together.min(), together.max())
    np.testing.assert_allclose(activation.means, together.mean(axis=(0, 2)), rtol=1e-5)
    histogram = activation.histogram()
    assert histogram.whole() == (together.min(), together.max())
    assert histogram.counts.sum() == 2 * 1024


def test_numbers_that_are_not_finite_have_no_range() -> None:
    """They are refused, and not quantised to anything."""
    activation = Activation()
    activation.add(np.array([[1.0, np.nan]], np.float32), np.random.default_rng(0))
    with pytest.raises(UnsupportedError, match="infinite or NaN"):
        activation.histogram()

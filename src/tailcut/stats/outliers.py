"""Outliers by Tukey's fences, which are counted and shown, but never removed.

A point is a mild outlier if it is more than 1.5 interquartile ranges beyond the nearer quartile, and a severe one
beyond 3 (Tukey, Exploratory Data Analysis, chapter 2). In a normal distribution, 0.7 % are mild or worse; a shared
machine has more, nearly all of them high.
"""

from dataclasses import dataclass

import numpy as np

from tailcut.stats.sample import Sample, percentile

_MILD, _SEVERE = 1.5, 3.0


@dataclass(frozen=True, slots=True)
class Outliers:
    """The number of points beyond each fence, and the positions of the fences."""

    low_severe: int
    low_mild: int
    high_mild: int
    high_severe: int
    fences: tuple[float, float, float, float]

    @property
    def total(self) -> int:
        """The number of all outliers."""
        return self.low_severe + self.low_mild + self.high_mild + self.high_severe


def outliers(sample: Sample) -> Outliers:
    """Count the points of a sample beyond each of Tukey's four fences."""
    low, high = percentile(sample, 0.25), percentile(sample, 0.75)
    reach = high - low
    fences = (low - _SEVERE * reach, low - _MILD * reach, high + _MILD * reach, high + _SEVERE * reach)
    values = sample.values
    below_severe, below_mild = (int(np.searchsorted(values, fence)) for fence in fences[:2])
    above_mild, above_severe = (len(values) - int(np.searchsorted(values, fence, "right")) for fence in fences[2:])
    return Outliers(below_severe, below_mild - below_severe, above_mild - above_severe, above_severe, fences)

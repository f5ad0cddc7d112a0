"""Points that stand apart, by Tukey's fences: labelled, counted and shown, never removed.

A point is mild beyond 1.5 times the distance of the quartiles from the nearer quartile, severe beyond 3 times (Tukey,
Exploratory Data Analysis, chapter 2). Of a normal distribution 0.7 % are mild or worse; a machine with neighbours has
more, nearly all of them high.
"""

from dataclasses import dataclass

import numpy as np

from tailcut.stats.sample import Sample, percentile

_MILD, _SEVERE = 1.5, 3.0


@dataclass(frozen=True, slots=True)
class Outliers:
    """How many points lie beyond each fence, and where the fences stand."""

    low_severe: int
    low_mild: int
    high_mild: int
    high_severe: int
    fences: tuple[float, float, float, float]

    @property
    def total(self) -> int:
        """All that stand apart."""
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

"""Whether a series still changes, for the end of a warm-up and for checking a finished measurement.

The direction is by the Mann-Kendall rank test, which checks for every pair of points whether the later one is higher;
the size is by the Theil-Sen slope, the median of the slopes of all pairs (Sen, J. Am. Stat. Assoc. 63, 1968). Single
spikes affect neither.
"""

from dataclasses import dataclass

import numpy as np

from tailcut.errors import InvalidInputError

_Z_99 = 2.576  # the 0.995-quantile of the normal distribution
_MOST_POINTS = 400  # 80,000 pairs; a longer series is thinned out


@dataclass(frozen=True, slots=True)
class Trend:
    """The change of a series from beginning to end, as a share of its median, and whether it is more than noise."""

    change: float
    significant: bool

    def steady(self, tolerance: float) -> bool:
        """Whether it changes by less than the tolerance, or by no more than noise."""
        return not self.significant or abs(self.change) < tolerance


def trend(series: np.ndarray) -> Trend:
    """The trend of positive figures in the order of time, of shape (n,).

    Raises:
        InvalidInputError: there are fewer than four.
    """
    values = np.asarray(series, np.float64)
    if len(values) < 4:
        raise InvalidInputError(f"a trend needs at least four points, got {len(values)}")
    if len(values) > _MOST_POINTS:
        values = values[:: -(-len(values) // _MOST_POINTS)]
    n = len(values)
    earlier, later = np.triu_indices(n, 1)
    rises = values[later] - values[earlier]
    score = float(np.sign(rises).sum())
    # The variance without the correction for ties: with ties, the test is slightly less sensitive.
    deviation = (n * (n - 1) * (2 * n + 5) / 18) ** 0.5
    slope = float(np.median(rises / (later - earlier)))
    middle = float(np.median(values))
    change = slope * (n - 1) / middle if middle > 0 else 0.0
    return Trend(change, abs(score) > 1 and (abs(score) - 1) / deviation > _Z_99)

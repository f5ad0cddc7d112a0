"""Does a series still move? What a warm-up waits for, and what a finished measurement is checked for.

The direction is Mann and Kendall's rank test, which asks of every pair of points whether the later one is higher; the
size is Theil and Sen's slope, the median of the slopes of all pairs (Sen, J. Am. Stat. Assoc. 63, 1968). Single spikes
move neither.
"""

from dataclasses import dataclass

import numpy as np

from tailcut.errors import InvalidInputError

_Z_99 = 2.576  # the 0.995-quantile of the normal distribution
_MOST_POINTS = 400  # 80,000 pairs; a longer series is thinned


@dataclass(frozen=True, slots=True)
class Trend:
    """How a series moved from beginning to end, as a share of its median, and whether that is more than noise."""

    change: float
    significant: bool

    def steady(self, tolerance: float) -> bool:
        """Whether it moves by less than the tolerance, or by no more than noise would."""
        return not self.significant or abs(self.change) < tolerance


def trend(series: np.ndarray) -> Trend:
    """The trend of positive figures in their order of time.

    Raises:
        InvalidInputError: fewer than four.
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
    # The variance without the correction for ties: with ties the test is a little less ready to see a trend.
    deviation = (n * (n - 1) * (2 * n + 5) / 18) ** 0.5
    slope = float(np.median(rises / (later - earlier)))
    middle = float(np.median(values))
    change = slope * (n - 1) / middle if middle > 0 else 0.0
    return Trend(change, abs(score) > 1 and (abs(score) - 1) / deviation > _Z_99)

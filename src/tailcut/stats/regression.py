"""The straight line through total times against numbers of calls: its slope is the time of one call.

What a sample costs once, whatever the number of calls, is in the intercept and not in the slope, so the slope checks
the median of the quotients by another way.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from tailcut.errors import InvalidInputError
from tailcut.stats.bootstrap import bootstrap_interval
from tailcut.stats.sample import Interval

_Z_99 = NormalDist().inv_cdf(0.995)


@dataclass(frozen=True, slots=True)
class Line:
    """A fitted line: its slope with the 99 % interval, where it starts, and the share of variance it explains."""

    slope: Interval
    intercept: float
    r2: float


def fit_line(x: np.ndarray, y: np.ndarray, *, seed: int = 0) -> Line:
    """Least squares with an intercept; the interval by resampling the points.

    Raises:
        InvalidInputError: fewer than ten points, or all at one x.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x) < 10 or len(x) != len(y) or np.ptp(x) == 0:
        raise InvalidInputError("a line needs at least ten points at two places or more")
    # Scaled and centred: the sums of squares below then lose no digits.
    scale_x, scale_y = float(np.ptp(x)), float(np.abs(y).max()) or 1.0
    points = np.column_stack([(x - x.mean()) / scale_x, (y - y.mean()) / scale_y])
    found = bootstrap_interval(points, _slopes, confidence=_expanded(len(x)), seed=seed)
    unit = scale_y / scale_x
    slope = Interval(found.point * unit, found.low * unit, found.high * unit)
    left = points[:, 1] - found.point * points[:, 0]
    spread = float(points[:, 1].var())
    r2 = 1 - float(left.var()) / spread if spread > 0 else 1.0
    return Line(slope, float(y.mean() - slope.point * x.mean()), r2)


def _expanded(n: int) -> float:
    """The confidence to ask of the percentile bootstrap so that it covers at 99 % with n points and two parameters.

    Draws of n points are too narrow by (n - 2) / n in variance, and know nothing of Student's t; skewed times need both
    (Hesterberg, What Teachers Should Know About the Bootstrap, Am. Statistician 69, 2015: expanded percentiles).
    """
    t = _Z_99 + (_Z_99**3 + _Z_99) / (4 * (n - 2))
    return 2 * NormalDist().cdf(t * (n / (n - 2)) ** 0.5) - 1


def _slopes(draws: np.ndarray) -> np.ndarray:
    x, y = draws[..., 0], draws[..., 1]
    x = x - x.mean(axis=-1, keepdims=True)
    spread = (x * x).sum(axis=-1)
    slopes: np.ndarray = (x * y).sum(axis=-1) / np.where(spread > 0, spread, 1.0)
    return slopes

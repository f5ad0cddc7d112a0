"""The straight line through total times against numbers of calls, whose slope is the time of one call.

The fixed cost of a sample is in the intercept and not in the slope, so the slope is an independent check of the median
of the quotients. The line goes through the medians at the fewest and at the most calls: least squares follows every
spike of a busy machine, and gave negative slopes there. The median of a sum of n times is below its mean by a term that
does not grow with n, so the slope is still that of the means.
"""

from dataclasses import dataclass

import numpy as np

from tailcut.errors import InvalidInputError
from tailcut.stats.bootstrap import bootstrap_interval, medians
from tailcut.stats.sample import Interval


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its slope with a 99 % interval, its intercept, and how far the points between its ends are off it.

    `bend` is the median at the numbers of calls in between, divided by the value of the line there, minus 1.
    """

    slope: Interval
    intercept: float
    bend: float


def fit_line(x: np.ndarray, y: np.ndarray, *, seed: int = 0) -> Line:
    """The line through the medians of y at the least and the greatest x.

    The points at each x are in the order of time: those with the same index are neighbours in time, and drawn together.

    Raises:
        InvalidInputError: there are fewer than five points at some x, or only one x.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    places, counts = np.unique(x, return_counts=True)
    if len(places) < 2 or len(x) != len(y) or counts.min() < 5:
        raise InvalidInputError("a line needs at least five points at each of two places or more")
    rows = np.column_stack([y[x == position][: counts.min()] for position in places])
    run = float(places[-1] - places[0])

    def slopes(draws: np.ndarray) -> np.ndarray:
        rise: np.ndarray = medians(draws[..., -1]) - medians(draws[..., 0])
        return rise / run

    slope = bootstrap_interval(rows, slopes, seed=seed)
    middles = medians(rows.T)
    intercept = float(middles[0] - slope.point * places[0])
    fitted = intercept + slope.point * places[1:-1]
    bend = float(np.mean(middles[1:-1] / fitted)) - 1 if len(fitted) and (fitted > 0).all() else 0.0
    return Line(slope, intercept, bend)

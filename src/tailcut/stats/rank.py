"""The centre of paired differences, with an interval that single outliers cannot widen.

The Hodges-Lehmann estimate: the median of all averages of two differences (Walsh averages). Its interval comes from
Wilcoxon's signed-rank distribution, which is exact for symmetric differences; those of interleaved measurements are
symmetric if nothing has changed (Hollander, Wolfe and Chicken, Nonparametric Statistical Methods, 3rd ed., section
3.3). A stall of the machine in one pair of ten makes Student's t useless; here it costs one rank.
"""

import math
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from tailcut.errors import InvalidInputError
from tailcut.stats.sample import CONFIDENCE, Interval

PAIRS_NEEDED = 8  # with fewer, no signed-rank interval reaches 99 %: 2 / 2**7 is over 1 %


def signed_rank_interval(differences: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """The centre of paired differences, of shape (n,) with at least 8 for 99 %, with its interval.

    Raises:
        InvalidInputError: there are too few for that confidence.
    """
    values = np.asarray(differences, np.float64).reshape(-1)
    count = len(values)
    skipped = _tail_rank(count, (1 - confidence) / 2)
    if skipped < 0:
        raise InvalidInputError(f"{count} pairs are too few for an interval of {confidence:.0%}")
    rows, columns = np.triu_indices(count)
    averages = np.sort((values[rows] + values[columns]) / 2)
    return Interval(float(np.median(averages)), float(averages[skipped]), float(averages[-1 - skipped]))


@cache
def _tail_rank(count: int, tail: float) -> int:
    """The largest rank sum whose lower tail has at most this probability; -1 where there is none."""
    if count > 60:  # here the normal approximation is accurate to one rank
        mean, spread = count * (count + 1) / 4, math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
        return int(mean + spread * NormalDist().inv_cdf(tail) - 0.5)
    ways = np.zeros(count * (count + 1) // 2 + 1)
    ways[0] = 1.0
    for rank in range(1, count + 1):
        ways[rank:] = ways[rank:] + ways[:-rank]
    return int(np.searchsorted(np.cumsum(ways) / 2.0**count, tail, side="right")) - 1

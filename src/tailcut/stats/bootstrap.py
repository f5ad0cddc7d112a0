"""Ratios between interleaved measurements, with intervals by a paired block bootstrap.

A run measures A B A B ...: block i of one side stands next to block i of the other. Resampling draws *pairs of blocks*
with replacement, which keeps what the machine did to both alike, then points within each drawn block, which
keeps the noise inside a block (Davison and Hinkley, Bootstrap Methods and their Application, section 3.8: hierarchical
data). With one block a side only the second step is left, and slow drift of the machine goes unseen.
"""

import math
from collections.abc import Sequence

import numpy as np

from tailcut.errors import InvalidInputError
from tailcut.stats.rank import PAIRS_NEEDED, signed_rank_interval
from tailcut.stats.sample import CONFIDENCE, Interval, Sample

# The 0.995-quantile of Student's t by degrees of freedom; index 0 unused.
_STUDENT_99 = (np.inf, 63.66, 9.925, 5.841, 4.604, 4.032, 3.707)


def ratio_interval(  # noqa: PLR0913  a bootstrap is its parameters
    new: Sequence[Sample],
    old: Sequence[Sample],
    q: float,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The ratio of the q-percentiles, new to old, of the blocks of each side taken together.

    Args:
        new, old: blocks in the order they were measured, as many of one as of the other.
        q: 0 to 1.
        confidence: of the interval.
        resamples: bootstrap draws.
        seed: of the draws, so that a result can be computed again.

    Raises:
        InvalidInputError: no blocks, or not equally many.
    """
    if not new or len(new) != len(old):
        raise InvalidInputError(
            f"a comparison needs as many blocks of one side as of the other: {len(new)} and {len(old)}"
        )
    sides = [[sample.values for sample in side] for side in (new, old)]
    random = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for draw in range(resamples):
        pairs = random.integers(0, len(new), len(new))
        above, below = (_quantile([_again(side[i], random) for i in pairs], q) for side in sides)
        ratios[draw] = above / below
    alpha = (1 - confidence) / 2
    low, high = np.quantile(ratios, [alpha, 1 - alpha])
    point = _quantile(sides[0], q) / _quantile(sides[1], q)
    return Interval(point, min(float(low), point), max(float(high), point))


def paired_ratio_interval(new: Sequence[float], old: Sequence[float]) -> Interval:
    """The ratio of paired positive figures (one throughput for each block, say), new to old, with its 99 % interval.

    On the logarithms of the pairs' ratios: by signed ranks from 8 pairs on, by Student's t below, where a bootstrap
    would be far too sure of itself, having only those few to draw from.

    Raises:
        InvalidInputError: fewer than three pairs, not equally many, or a figure that is not positive.
    """
    if len(new) != len(old) or len(new) < 3 or min(*new, *old) <= 0:
        raise InvalidInputError("a paired ratio needs at least three pairs of positive figures")
    logs = np.log(np.asarray(new, float) / np.asarray(old, float))
    if len(logs) >= PAIRS_NEEDED:
        centre = signed_rank_interval(logs)
        return Interval(*(float(np.exp(value)) for value in (centre.point, centre.low, centre.high)))
    middle = float(logs.mean())
    reach = _STUDENT_99[len(logs) - 1] * float(logs.std(ddof=1)) / len(logs) ** 0.5
    return Interval(*(float(np.exp(value)) for value in (middle, middle - reach, middle + reach)))


def _again(block: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return block[random.integers(0, len(block), len(block))]


def _quantile(blocks: Sequence[np.ndarray], q: float) -> float:
    joined = np.concatenate(blocks)
    rank = max(0, math.ceil(q * len(joined)) - 1)
    return float(np.partition(joined, rank)[rank])

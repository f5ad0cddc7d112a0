"""Ratios between interleaved measurements, with intervals by a paired block bootstrap.

A run measures A B A B ...: block i of one side stands next to block i of the other. Resampling draws *pairs of blocks*
with replacement, which keeps what the machine did to both alike, then points within each drawn block, which
keeps the noise inside a block (Davison and Hinkley, Bootstrap Methods and their Application, section 3.8: hierarchical
data). With one block a side only the second step is left, and slow drift of the machine goes unseen. A few blocks vary
less among themselves than blocks do, so the draws' percentiles are expanded for their number; and where they are too
few for that, the interval also holds that of Student's t over the ratios of the pairs.

Micro-benchmarks measure one point of each side in a round. There the rows of one array are drawn, all draws at once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from tailcut.errors import InvalidInputError
from tailcut.stats.rank import PAIRS_NEEDED, signed_rank_interval
from tailcut.stats.sample import CONFIDENCE, Interval, Sample, percentile

_POINTS_AT_ONCE = 2_000_000  # 16 MB of float64: the draws of large samples are made in parts
_PAIRS = 3  # that Student's t needs
_FEW_BLOCKS = 8  # with fewer, expanded percentiles are too sure of themselves
# The 0.995-quantile of Student's t by degrees of freedom; index 0 unused.
_STUDENT_99 = (np.inf, 63.66, 9.925, 5.841, 4.604, 4.032, 3.707)


@dataclass(frozen=True, slots=True)
class _Side:
    """Blocks of one side, one after the other: where each begins, and how long it is."""

    points: np.ndarray
    begins: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "_Side":
        lengths = np.array([len(sample.values) for sample in samples])
        return cls(np.concatenate([sample.values for sample in samples]), np.cumsum(lengths) - lengths, lengths)

    def again(self, blocks: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Points drawn within each of these blocks, as many as it has; a call for each block would draw the same."""
        begins, lengths = self.begins[blocks], self.lengths[blocks]
        if (lengths == lengths[0]).all():  # a single bound is quicker
            places = (random.integers(0, lengths[0], (len(blocks), lengths[0])) + begins[:, None]).ravel()
        else:
            places = random.integers(0, lengths.repeat(lengths)) + begins.repeat(lengths)
        drawn: np.ndarray = self.points[places]
        return drawn


def ratio_interval(  # noqa: PLR0913  two sides, and how they are drawn
    new: Sequence[Sample],
    old: Sequence[Sample],
    q: float,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The ratio of the q-percentiles, new to old, of the blocks of each side taken together, with its interval.

    Args:
        new, old: blocks in the order they were measured, as many of one as of the other.
        q: 0 to 1.
        confidence: of the interval; of fewer than eight blocks at least 99 %.
        resamples: bootstrap draws.
        seed: of the draws, so that a result can be computed again.

    Raises:
        InvalidInputError: no blocks, or not equally many.
    """
    if not new or len(new) != len(old):
        raise InvalidInputError(
            f"a comparison needs the same number of blocks on both sides: {len(new)} and {len(old)}"
        )
    sides = [_Side.of(new), _Side.of(old)]
    random = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for draw in range(resamples):
        pairs = random.integers(0, len(new), len(new))
        above, below = (_quantile(side.again(pairs, random), q) for side in sides)
        ratios[draw] = above / below
    drawn = len(new) if len(new) > 1 else min(len(new[0]), len(old[0]))
    ratio = _bounds(_quantile(sides[0].points, q) / _quantile(sides[1].points, q), ratios, _expanded(confidence, drawn))
    if not _PAIRS <= len(new) < _FEW_BLOCKS:
        return ratio
    student = paired_ratio_interval(*([percentile(sample, q) for sample in side] for side in (new, old)))
    return Interval(ratio.point, min(ratio.low, student.low), max(ratio.high, student.high))


def bootstrap_interval(
    points: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """A statistic of points drawn from one population, with its interval: the draws' percentiles, expanded.

    Args:
        points: of shape (n,), or (n, k) where the k figures of a row belong together.
        statistic: takes draws of shape (draws, n) or (draws, n, k) and gives one figure for each.
        confidence: of the interval.
        resamples: bootstrap draws.
        seed: of the draws, so that a result can be computed again.

    Raises:
        InvalidInputError: fewer than two points, or not all finite.
    """
    points = np.asarray(points, np.float64)
    n = len(points)
    if n < 2 or not np.isfinite(points).all():
        raise InvalidInputError(f"a bootstrap needs at least two finite points, got {n}")
    random = np.random.default_rng(seed)
    step = max(1, _POINTS_AT_ONCE // points.size)
    draws = [
        statistic(points[random.integers(0, n, (min(step, resamples - done), n), np.uint32)])
        for done in range(0, resamples, step)
    ]
    return _bounds(float(statistic(points[np.newaxis])[0]), np.concatenate(draws), _expanded(confidence, n))


def medians(draws: np.ndarray) -> np.ndarray:
    """The median of each row, a point of it: of an even number the lower of the two in the middle."""
    rank = max(0, math.ceil(draws.shape[-1] / 2) - 1)
    middle: np.ndarray = np.partition(draws, rank, axis=-1)[..., rank]
    return middle


def median_interval(points: np.ndarray, *, seed: int = 0) -> Interval:
    """The median of points with its 99 % bootstrap interval."""
    return bootstrap_interval(points, medians, seed=seed)


def median_ratio_interval(new: np.ndarray, old: np.ndarray, *, seed: int = 0) -> Interval:
    """The median of the ratios of neighbours in time, new to old, with its 99 % bootstrap interval.

    A round measures both sides right after each other, so whatever slows the machine for longer than a round
    divides out before anything is averaged.

    Raises:
        InvalidInputError: not equally many, fewer than two, or a figure that is not positive.
    """
    new, old = np.asarray(new, np.float64), np.asarray(old, np.float64)
    if new.shape != old.shape or new.size < 2 or min(new.min(), old.min()) <= 0:
        raise InvalidInputError("a ratio of neighbours needs at least two pairs of positive figures")
    return bootstrap_interval(new / old, medians, seed=seed)


def paired_ratio_interval(new: Sequence[float], old: Sequence[float]) -> Interval:
    """The ratio of paired positive figures (one throughput for each block, say), new to old, with its 99 % interval.

    On the logarithms of the pairs' ratios: by signed ranks from 8 pairs on, by Student's t below, where a bootstrap
    would be far too sure of itself, having only those few to draw from.

    Raises:
        InvalidInputError: fewer than three pairs, not equally many, or a figure that is not positive.
    """
    if len(new) != len(old) or len(new) < _PAIRS or min(*new, *old) <= 0:
        raise InvalidInputError("a paired ratio needs at least three pairs of positive figures")
    logs = np.log(np.asarray(new, float) / np.asarray(old, float))
    if len(logs) >= PAIRS_NEEDED:
        centre = signed_rank_interval(logs)
        return Interval(*(float(np.exp(value)) for value in (centre.point, centre.low, centre.high)))
    middle = float(logs.mean())
    reach = _STUDENT_99[len(logs) - 1] * float(logs.std(ddof=1)) / len(logs) ** 0.5
    return Interval(*(float(np.exp(value)) for value in (middle, middle - reach, middle + reach)))


def _bounds(point: float, draws: np.ndarray, confidence: float) -> Interval:
    alpha = (1 - confidence) / 2
    low, high = np.quantile(draws, [alpha, 1 - alpha])
    return Interval(point, min(float(low), point), max(float(high), point))


def _expanded(confidence: float, n: int) -> float:
    """The confidence to ask of the draws' percentiles so that they cover as promised with n points.

    Draws vary less than samples do, by (n - 1) / n in variance, and know nothing of Student's t (Hesterberg, What
    Teachers Should Know About the Bootstrap, The American Statistician 69, 2015: expanded percentiles).
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    t = z + (z**3 + z) / (4 * (n - 1))
    return 2 * NormalDist().cdf(t * (n / (n - 1)) ** 0.5) - 1


def _quantile(points: np.ndarray, q: float) -> float:
    rank = max(0, math.ceil(q * len(points)) - 1)
    return float(np.partition(points, rank)[rank])

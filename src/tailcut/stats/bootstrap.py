"""Ratios between interleaved measurements, with intervals by a paired block bootstrap.

A run measures A B A B ...: block i of one side is next to block i of the other. Resampling draws *pairs of blocks* with
replacement, which preserves influences of the machine on both, and then points within each drawn block, which preserves
the noise inside a block (Davison and Hinkley, Bootstrap Methods and their Application, section 3.8: hierarchical data).
With one block per side, only the second step is left, and slow drift of the machine is not seen. Draws of a few blocks
vary less than blocks do, so the percentiles of the draws are expanded for their number; and where there are too few for
that, the interval also includes that of Student's t over the ratios of the pairs.

Micro-benchmarks measure one point of each side per round. For these, rows of one array are drawn, all draws at once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from tailcut.errors import InvalidInputError
from tailcut.stats.rank import PAIRS_NEEDED, signed_rank_interval
from tailcut.stats.sample import CONFIDENCE, Interval, Sample, percentile

_POINTS_AT_ONCE = 2_000_000  # 16 MB of float64: draws of large samples are made in parts
_PAIRS = 3  # needed for Student's t
_FEW_BLOCKS = 8  # with fewer, intervals by expanded percentiles are too narrow
# The 0.995-quantile of Student's t by degrees of freedom; index 0 is unused.
_STUDENT_99 = (np.inf, 63.66, 9.925, 5.841, 4.604, 4.032, 3.707)


@dataclass(frozen=True, slots=True)
class _Side:
    """The blocks of one side, concatenated: where each begins, and its length."""

    points: np.ndarray
    begins: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "_Side":
        lengths = np.array([len(sample.values) for sample in samples])
        return cls(np.concatenate([sample.values for sample in samples]), np.cumsum(lengths) - lengths, lengths)

    def again(self, blocks: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Points drawn within each of these blocks, as many as the block has; equal to the draws block by block."""
        begins, lengths = self.begins[blocks], self.lengths[blocks]
        if (lengths == lengths[0]).all():  # a single bound is faster
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
    """The ratio of the q-percentiles, new to old, of all blocks of each side together, with its interval.

    Args:
        new, old: equally many blocks, in the order in which they were measured.
        q: the percentile, from 0 to 1.
        confidence: of the interval; with fewer than eight blocks, at least 99 %.
        resamples: the number of bootstrap draws.
        seed: of the draws, so that a result can be reproduced.

    Raises:
        InvalidInputError: there are no blocks, or not equally many.
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
    """A statistic of independent points, with its interval: the expanded percentiles of bootstrap draws.

    Args:
        points: of shape (n,), or (n, k) where the k figures of a row belong together.
        statistic: takes draws of shape (draws, n) or (draws, n, k), and returns one figure for each draw.
        confidence: of the interval.
        resamples: the number of bootstrap draws.
        seed: of the draws, so that a result can be reproduced.

    Raises:
        InvalidInputError: there are fewer than two points, or not all are finite.
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
    """The median of each row as one of its points: for an even number, the lower of the two in the middle."""
    rank = max(0, math.ceil(draws.shape[-1] / 2) - 1)
    middle: np.ndarray = np.partition(draws, rank, axis=-1)[..., rank]
    return middle


def median_interval(points: np.ndarray, *, seed: int = 0) -> Interval:
    """The median of points, with its 99 % bootstrap interval."""
    return bootstrap_interval(points, medians, seed=seed)


def median_ratio_interval(new: np.ndarray, old: np.ndarray, *, seed: int = 0) -> Interval:
    """The median of the ratios of neighbours in time, new to old, with its 99 % bootstrap interval.

    A round measures both sides one right after the other, so anything that slows the machine for longer than a round
    cancels out before averaging.

    Raises:
        InvalidInputError: there are not equally many, fewer than two, or a figure is not positive.
    """
    new, old = np.asarray(new, np.float64), np.asarray(old, np.float64)
    if new.shape != old.shape or new.size < 2 or min(new.min(), old.min()) <= 0:
        raise InvalidInputError("a ratio of neighbours needs at least two pairs of positive figures")
    return bootstrap_interval(new / old, medians, seed=seed)


def paired_ratio_interval(new: Sequence[float], old: Sequence[float]) -> Interval:
    """The ratio of paired positive figures (such as a throughput per block), new to old, with its 99 % interval.

    It is computed on the logarithms of the pairs' ratios: by signed ranks for 8 pairs or more, by Student's t for
    fewer, where a bootstrap interval would be far too narrow.

    Raises:
        InvalidInputError: there are fewer than three pairs, not equally many, or a figure is not positive.
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
    """The confidence for the draws' percentiles with which the interval has the wanted coverage for n points.

    The variance of draws is smaller than that of samples, by (n - 1) / n, and draws do not account for Student's t
    (Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69, 2015: expanded
    percentiles).
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    t = z + (z**3 + z) / (4 * (n - 1))
    return 2 * NormalDist().cdf(t * (n / (n - 1)) ** 0.5) - 1


def _quantile(points: np.ndarray, q: float) -> float:
    rank = max(0, math.ceil(q * len(points)) - 1)
    return float(np.partition(points, rank)[rank])

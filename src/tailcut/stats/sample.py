"""A sample of one quantity, and its percentiles with confidence intervals.

Intervals are distribution-free, from order statistics: the number of points below the q-quantile is binomial(n, q)
for any distribution, so two of the sorted points enclose it with at least the wanted confidence (David and Nagaraja,
Order Statistics, 3rd ed., section 7.1).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from tailcut.errors import InvalidInputError

CONFIDENCE = 0.99


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the bounds of its confidence interval."""

    point: float
    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """At least two finite points, sorted."""

    values: np.ndarray

    @classmethod
    def of(cls, values: ArrayLike) -> "Sample":
        """A sample of one-dimensional values.

        Raises:
            InvalidInputError: there are fewer than two, or not all are finite.
        """
        array = np.sort(np.asarray(values, np.float64).reshape(-1))
        if len(array) < 2 or not np.isfinite(array).all():
            raise InvalidInputError(f"a sample needs at least two finite points, got {len(array)}")
        array.flags.writeable = False
        return cls(array)

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def median(self) -> float:
        """The 0.5-quantile."""
        return percentile(self, 0.5)


def samples_needed(q: float, confidence: float = CONFIDENCE) -> int:
    """The number of points needed to know the q-percentile: with fewer, all of them may be below it.

    The largest of n is below the quantile with probability q**n. At 99 %: 90 for p95, 459 for p99, 4,603 for p99.9.

    Raises:
        InvalidInputError: `q` is not between 0 and 1.
    """
    if not 0 < q < 1:
        raise InvalidInputError(f"a percentile must be between 0 and 1, got {q}")
    tail = max(q, 1 - q)
    return math.ceil(math.log(1 - confidence) / math.log(tail))


def percentile(sample: Sample, q: float) -> float:
    """The q-percentile, with q from 0 to 1: the smallest point with at least a share q of the points at or below it."""
    return float(sample.values[max(0, math.ceil(q * len(sample)) - 1)])


def percentile_interval(sample: Sample, q: float, confidence: float = CONFIDENCE) -> Interval | None:
    """The q-percentile with its interval; None where the sample is too small for it."""
    n = len(sample)
    if n < samples_needed(q, confidence):
        return None
    low, high = _ranks(n, q, confidence)
    return Interval(percentile(sample, q), float(sample.values[low]), float(sample.values[high]))


def _ranks(n: int, q: float, confidence: float) -> tuple[int, int]:
    """The indices of the sorted points that enclose the quantile: quantiles of the binomial distribution.

    They are found near the normal approximation, by the exact distribution function.
    """
    spread = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(n * q * (1 - q))
    reach = range(max(0, int(n * q - 2 * spread) - 5), min(n, int(n * q + 2 * spread) + 6) + 1)
    below = _binomial_cdf(n, q, reach)
    alpha = (1 - confidence) / 2
    # X of the n points are below the quantile; the sorted point with index k is if X > k.
    low = max((k for k in reach if below[k] <= alpha), default=-1)
    high = min((k for k in reach if below[k] >= 1 - alpha), default=n)
    return min(max(low, 0), n - 1), min(high, n - 1)


def _binomial_cdf(n: int, q: float, reach: range) -> dict[int, float]:
    log_q, log_p = math.log(q), math.log1p(-q)
    total, cdf = 0.0, {}
    for k in reach:
        log_mass = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_q + (n - k) * log_p
        total += math.exp(log_mass)
        cdf[k] = total
    return cdf

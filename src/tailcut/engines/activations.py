"""Samples of a model's activations over some requests, and the ranges that int8 should cover. Pure.

onnxruntime's calibrators are not used: their histograms take 1.4 s per request for a detector of 320 x 320 pixels,
where a sample takes 0.25 s, and their search by entropy has as many bins at its beginning as at its end, so that it
finds nothing but the ends.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tailcut.errors import UnsupportedError

Method = Literal["minmax", "least error", "percentile"]
METHODS: tuple[Method, ...] = ("minmax", "least error", "percentile")
_BINS = 2048
_SAMPLE = 1024  # numbers kept of each activation per request
_RARE = 1e-4  # share of all numbers, at both ends together, that the percentile excludes
_SHARES = np.linspace(1.0, 0.05, 39)  # shares of either end that are tried for the least error
_STEPS = 255


@dataclass(slots=True)
class Activation:
    """Statistics of an activation over all requests: its range, a sample of its numbers, and the mean of each channel.

    Channels are on axis 1, as in convolutions and Gemm.
    """

    lowest: float = math.inf
    highest: float = -math.inf
    samples: list[np.ndarray] = field(default_factory=list)
    sums: np.ndarray = field(default_factory=lambda: np.zeros(0))
    counts: int = 0

    def add(self, array: np.ndarray, random: np.random.Generator) -> None:
        """Add an array of one request."""
        numbers = array.reshape(-1)
        if not numbers.size:
            return
        self.lowest = min(self.lowest, float(numbers.min()))
        self.highest = max(self.highest, float(numbers.max()))
        self.samples.append(numbers[random.integers(0, numbers.size, _SAMPLE)])
        if array.ndim > 1 and self.sums.shape in {(0,), (array.shape[1],)}:
            sums = array.sum(axis=(0, *range(2, array.ndim)), dtype=np.float64)
            self.sums = sums + self.sums if self.counts else sums
            self.counts += numbers.size // array.shape[1]

    @property
    def means(self) -> np.ndarray:
        """The mean of each channel, float64 [channels]."""
        return self.sums / max(1, self.counts)

    def histogram(self) -> "Histogram":
        """The histogram of its numbers.

        Raises:
            UnsupportedError: a number is infinite or NaN.
        """
        if not (math.isfinite(self.lowest) and math.isfinite(self.highest)):
            raise UnsupportedError("a value inside the model is infinite or NaN, which int8 cannot represent")
        counts, edges = np.histogram(np.concatenate(self.samples), _BINS, (self.lowest, self.highest))
        return Histogram(counts.astype(np.float64), (edges[:-1] + edges[1:]) / 2, self.lowest, self.highest)


@dataclass(frozen=True, slots=True)
class Histogram:
    """The distribution of an activation's numbers.

    Args:
        counts: numbers in each bin, float64 [bins].
        middles: the centres of the bins, float64 [bins].
        lowest, highest: the smallest and the largest number.
    """

    counts: np.ndarray
    middles: np.ndarray
    lowest: float
    highest: float

    @property
    def noise(self) -> float:
        """The mean square of int8's rounding error over the whole range, relative to that of the numbers."""
        power = float(self.counts @ self.middles**2)
        return self.error(self.lowest, self.highest) / power if power else 0.0

    def error(self, low: float, high: float) -> float:
        """The sum of int8's squared errors for a range: rounding inside it, clipping outside."""
        low, high = min(0.0, low), max(0.0, high)  # 0 itself is always exact
        beyond = np.maximum(0.0, np.maximum(low - self.middles, self.middles - high))
        rounding = ((high - low) / _STEPS) ** 2 / 12
        return float(self.counts @ np.where(beyond > 0, beyond**2, rounding))

    def whole(self) -> tuple[float, float]:
        """The range of all numbers."""
        return self.lowest, self.highest

    def within_percentile(self) -> tuple[float, float]:
        """The range without the rarest numbers on either side."""
        shares = np.cumsum(self.counts) / max(1.0, self.counts.sum())
        low, high = np.searchsorted(shares, (_RARE / 2, 1 - _RARE / 2))
        last = len(self.middles) - 1
        return max(self.lowest, float(self.middles[low])), min(self.highest, float(self.middles[min(high, last)]))

    def least_error(self) -> tuple[float, float]:
        """The range with the least sum of squared errors."""
        high = min((self.highest * share for share in _SHARES), key=lambda end: self.error(self.lowest, end))
        return min((self.lowest * share for share in _SHARES), key=lambda end: self.error(end, high)), high


CHOICES: dict[Method, Callable[[Histogram], tuple[float, float]]] = {
    "least error": Histogram.least_error,
    "percentile": Histogram.within_percentile,
    "minmax": Histogram.whole,
}

"""Which requests can share a batch by their shapes: those of the same shape, or of the same bucket. Pure."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from tailcut.runtime.padding import Lengths
from tailcut.runtime.settings import PaddingSettings


@dataclass(frozen=True, slots=True)
class ShapeMix:
    """The shapes of a model's requests.

    Args:
        shares: the share of the requests that have each shape, the most frequent first; they add up to 1.
        longer: elements computed, padding included, relative to the elements of the requests.
    """

    shares: tuple[float, ...] = (1.0,)
    longer: float = 1.0

    def keys(self, count: int, seed: int) -> np.ndarray:
        """Draw the shapes of `count` requests: int64 [count], indices into `shares`."""
        if len(self.shares) == 1:
            return np.zeros(count, np.int64)
        return np.random.default_rng(seed).choice(len(self.shares), count, p=self.shares).astype(np.int64)


ALIKE = ShapeMix()


def mix_of(requests: Sequence[Mapping[str, np.ndarray]], *, batched: bool) -> ShapeMix:
    """The mix of the data's requests without padding; `batched`: the first axis does not count."""
    rows = 1 if batched else 0
    return ShapeMix(_shares(tuple((name, *array.shape[rows:]) for name, array in each.items()) for each in requests))


def padded_mix(lengths: Sequence[Lengths], padding: PaddingSettings) -> ShapeMix:
    """The mix of requests of these lengths with padding; one that fits no bucket keeps its length.

    Raises:
        ValueError: there are no lengths.
    """
    if not lengths:
        raise ValueError("padding needs the lengths of requests")
    buckets = [_bucket(each, padding) for each in lengths]
    return ShapeMix(_shares(buckets), sum(map(prod, buckets)) / max(1, sum(map(prod, lengths))))


def _bucket(lengths: Lengths, padding: PaddingSettings) -> Lengths:
    places = [bisect_left(sizes, length) for sizes, length in zip(padding.dimensions, lengths, strict=True)]
    pairs = list(zip(padding.dimensions, places, strict=True))
    if any(index == len(sizes) for sizes, index in pairs):
        return lengths
    return tuple(sizes[index] for sizes, index in pairs)


def _shares(kinds: Iterable[Hashable]) -> tuple[float, ...]:
    counts = Counter(kinds)
    total = counts.total()
    return tuple(count / total for _, count in counts.most_common()) or (1.0,)

"""How long an output is for an input of a given length, learned from the model's sizes at many lengths. Pure.

Convolutions, pools and resizes have sizes of the form `scale * floor((length + shift) / stride) + offset`. Chains of
them keep that form, because a floor of a floor is one floor, and a ceiling is a floor with another shift. Other sizes
cannot be predicted, so padding is not offered for them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, slots=True)
class Cut:
    """Which axis of an output depends on the inputs' length, and how.

    The size is `size` at the length `anchor`, and grows by `scale` for each further `stride`. `dimension` is the index
    of the length on which it depends, where inputs have several.
    """

    axis: int
    anchor: int
    size: int
    stride: int = 1
    scale: int = 1
    dimension: int = 0

    def at(self, length: int) -> int:
        """The size of the output's axis for inputs of this length."""
        return self.size + self.scale * ((length - self.anchor) // self.stride)

    def take(self, array: np.ndarray, length: int) -> np.ndarray:
        """A view of the part of an output that belongs to inputs of this length."""
        return array[(slice(None),) * self.axis + (slice(self.at(length)),)]


def probe_lengths(buckets: Iterable[int]) -> list[int]:
    """Lengths at which sizes are compared, ascending: powers of two, buckets, their neighbours, and some between."""
    ends = sorted({0, *buckets})
    lengths = {1 << power for power in range(ends[-1].bit_length())}
    for low, high in pairwise(ends):
        lengths |= {high, high - 1, (low + high) // 2}
    return sorted(length for length in lengths if length >= 1)


def learn_cut(axis: int, size_at: Callable[[int], int], lengths: list[int]) -> Cut | None:
    """The cut that gives the model's sizes at all these lengths; None where they are not of this form.

    Args:
        axis: of the output.
        size_at: returns the size of that axis for an input of a length; it is called for a few other lengths, too.
        lengths: ascending; their sizes must not be all the same.
    """
    low, high = lengths[0], lengths[-1]
    plain = Cut(axis, high, size_at(high), scale=size_at(high) - size_at(high - 1))
    if plain.scale > 0 and _fits(plain, size_at, lengths):  # true for nearly all models, which have no stride
        return plain
    top = _first_of(size_at, low, high)
    bottom = _first_above(size_at, low, high)
    scale = size_at(top) - size_at(top - 1)
    risen = size_at(top) - size_at(bottom)
    if scale < 1 or risen < 0 or risen % scale:
        return None
    steps = risen // scale
    # A single step does not reveal the stride: any that is longer than the known lengths fits them.
    stride = (top - bottom) // steps if steps else max(top - low, high - top + 1)
    if stride < 1 or (steps and (top - bottom) % steps):
        return None
    cut = Cut(axis, top, size_at(top), stride, scale)
    return cut if _fits(cut, size_at, lengths) else None


def _fits(cut: Cut, size_at: Callable[[int], int], lengths: list[int]) -> bool:
    return all(cut.at(length) == size_at(length) for length in lengths)


def _first_of(size_at: Callable[[int], int], low: int, high: int) -> int:
    """The shortest length that has the size of the longest, if sizes never fall."""
    wanted = size_at(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if size_at(middle) == wanted else (middle, high)
    return high


def _first_above(size_at: Callable[[int], int], low: int, high: int) -> int:
    """The shortest length that has a larger size than the shortest length, if sizes never fall."""
    least = size_at(low)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if size_at(middle) > least else (middle, high)
    return high

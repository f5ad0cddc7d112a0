"""Batch buckets: a captured graph has one size, so a batch is computed in the smallest bucket that holds it. Pure."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


def power_of_two(rows: int) -> int:
    """The smallest power of two that holds this many rows: less than half of it is filling."""
    return 1 << (rows - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Buckets:
    """Sizes in rows, ascending and different; powers of two hold the batches that none of them does."""

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or self.sizes[0] < 1 or any(a >= b for a, b in zip(self.sizes, self.sizes[1:], strict=False)):
            raise ValueError(f"buckets must be positive and ascending, not {self.sizes}")

    def of(self, rows: int) -> int:
        """The smallest size that holds this many rows."""
        index = bisect_left(self.sizes, rows)
        return power_of_two(rows) if index == len(self.sizes) else self.sizes[index]


def bucket_of(setting: Literal["auto", "off"] | tuple[int, ...]) -> Callable[[int], int]:
    """How many rows a batch of this many is computed as, by `engine.cuda.buckets`."""
    if setting == "off":
        return lambda rows: rows
    return power_of_two if setting == "auto" else Buckets(setting).of


@dataclass(frozen=True, slots=True)
class GraphKey:
    """What a captured graph was captured for: it computes nothing else.

    Args:
        slot: whose memory it reads and writes.
        shapes: of its inputs, rows of the bucket included.
    """

    slot: int
    shapes: tuple[tuple[int, ...], ...]

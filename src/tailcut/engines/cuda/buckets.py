"""Batch buckets: a captured graph has a fixed size, so a batch is padded to the smallest bucket that holds it. Pure."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


def power_of_two(rows: int) -> int:
    """The smallest power of two that holds this many rows: less than half of it is padding."""
    return 1 << (rows - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Buckets:
    """Sizes in rows, strictly ascending; larger batches are padded to powers of two."""

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or self.sizes[0] < 1 or any(a >= b for a, b in zip(self.sizes, self.sizes[1:], strict=False)):
            raise ValueError(f"buckets must be positive and ascending, not {self.sizes}")

    def of(self, rows: int) -> int:
        """The smallest size that holds this many rows."""
        index = bisect_left(self.sizes, rows)
        return power_of_two(rows) if index == len(self.sizes) else self.sizes[index]


def bucket_of(setting: Literal["auto", "off"] | tuple[int, ...]) -> Callable[[int], int]:
    """The function from the rows of a batch to the rows that are computed, for a setting `engine.cuda.buckets`."""
    if setting == "off":
        return lambda rows: rows
    return power_of_two if setting == "auto" else Buckets(setting).of


@dataclass(frozen=True, slots=True)
class GraphKey:
    """Identifies a captured graph, which can compute nothing else.

    Args:
        slot: the slot whose memory it reads and writes.
        shapes: of its inputs, with the rows of the bucket.
    """

    slot: int
    shapes: tuple[tuple[int, ...], ...]

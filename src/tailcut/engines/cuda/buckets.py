"""Batch buckets: a captured graph has one size, so a batch is computed in the smallest bucket that holds it. Pure."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tailcut.errors import CapacityError

LARGEST = 1024  # rows of the largest bucket


@dataclass(frozen=True, slots=True)
class Buckets:
    """Sizes in rows, ascending and different."""

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or self.sizes[0] < 1 or any(a >= b for a, b in zip(self.sizes, self.sizes[1:], strict=False)):
            raise ValueError(f"buckets must be positive and ascending, not {self.sizes}")

    @classmethod
    def up_to(cls, most: int) -> "Buckets":
        """Powers of two, and `most` itself: less than half of a bucket is ever filling, but for its last row."""
        sizes = {1 << power for power in range(most.bit_length()) if 1 << power <= most}
        return cls(tuple(sorted({*sizes, most})))

    @classmethod
    def of_sizes(cls, sizes: tuple[int, ...]) -> "Buckets":
        """These, and the powers of two beyond the largest for batches that none of them holds."""
        return cls((*sizes, *(size for size in cls.up_to(LARGEST).sizes if sizes and size > sizes[-1])))

    def of(self, rows: int) -> int:
        """The smallest size that holds so many rows.

        Raises:
            CapacityError: there is none.
        """
        index = bisect_left(self.sizes, rows)
        if rows < 1 or index == len(self.sizes):
            raise CapacityError(f"a batch of {rows} rows fits no bucket: the largest has {self.sizes[-1]}")
        return self.sizes[index]


def bucket_of(setting: Literal["auto", "off"] | tuple[int, ...]) -> Callable[[int], int]:
    """How many rows a batch of so many is computed as, by `engine.cuda.buckets`."""
    if setting == "off":
        return lambda rows: rows
    return (Buckets.up_to(LARGEST) if setting == "auto" else Buckets.of_sizes(setting)).of


@dataclass(frozen=True, slots=True)
class GraphKey:
    """What a captured graph was captured for: it computes nothing else.

    Args:
        slot: whose memory it reads and writes.
        shapes: of its inputs, rows of the bucket included.
    """

    slot: int
    shapes: tuple[tuple[int, ...], ...]

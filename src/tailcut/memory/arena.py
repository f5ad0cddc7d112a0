"""A bump allocator for the scratch arrays of one batch, which are all freed at once."""

import math

import numpy as np
from numpy.typing import DTypeLike

from tailcut.errors import CapacityError, InvalidInputError
from tailcut.memory.aligned import ALIGNMENT, aligned_empty


class Arena:
    """One block of memory from which aligned arrays are allocated front to back; `reset` frees them all.

    Not thread-safe: an arena belongs to one worker. Arrays allocated before a reset must not be used after it.

    Args:
        size_bytes: the size of the block, which is rounded up to whole cache lines.

    Raises:
        InvalidInputError: the size is below 1.
    """

    __slots__ = ("_block", "_used")

    def __init__(self, size_bytes: int) -> None:
        if size_bytes < 1:
            raise InvalidInputError(f"an arena needs at least one byte, got {size_bytes}")
        self._block = aligned_empty(-(-size_bytes // ALIGNMENT) * ALIGNMENT, np.uint8)
        self._used = 0

    @property
    def size_bytes(self) -> int:
        """The size of the block, in bytes."""
        return self._block.nbytes

    @property
    def used_bytes(self) -> int:
        """The allocated bytes, including padding for alignment."""
        return self._used

    def alloc(self, shape: int | tuple[int, ...], dtype: DTypeLike = np.float32) -> np.ndarray:
        """An aligned C-contiguous array with undefined contents.

        Raises:
            CapacityError: it does not fit; the message says how much was asked for and how much is left.
            InvalidInputError: a dimension is negative, or the dtype has Python objects.
        """
        dtype = np.dtype(dtype)
        dims = (shape,) if isinstance(shape, int) else tuple(shape)
        if dtype.hasobject or any(dim < 0 for dim in dims):
            problem = (
                f"dtype {dtype} holds Python objects" if dtype.hasobject else f"negative dimension in {list(dims)}"
            )
            raise InvalidInputError(f"the arena cannot allocate that: {problem}")
        size = math.prod(dims) * dtype.itemsize
        end = self._used + size
        if end > self.size_bytes:
            left = self.size_bytes - self._used
            raise CapacityError(
                f"{size} bytes for {list(dims)} of {dtype} do not fit: {left} of {self.size_bytes} are left"
            )
        array = self._block[self._used : end].view(dtype).reshape(dims)
        self._used = -(-end // ALIGNMENT) * ALIGNMENT
        return array

    def mark(self) -> int:
        """The current position, for `reset`."""
        return self._used

    def reset(self, mark: int = 0) -> None:
        """Free everything that was allocated since the mark.

        Raises:
            InvalidInputError: the mark is negative or beyond the current position.
        """
        if not 0 <= mark <= self._used:
            raise InvalidInputError(f"mark {mark} is not between 0 and {self._used}")
        self._used = mark

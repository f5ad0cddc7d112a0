"""A bump allocator: scratch arrays of one batch, given back all at once."""

import math

import numpy as np
from numpy.typing import DTypeLike

from tailcut.errors import CapacityError, InvalidInputError
from tailcut.memory.aligned import ALIGNMENT, aligned_empty


class Arena:
    """One block of memory from which aligned arrays are cut front to back; `reset` takes them all back.

    Not thread-safe: an arena belongs to one worker. Arrays cut before a reset must not be used after it.

    Args:
        size_bytes: rounded up to whole cache lines.
    """

    __slots__ = ("_block", "_used")

    def __init__(self, size_bytes: int) -> None:
        if size_bytes < 1:
            raise InvalidInputError(f"an arena needs at least one byte, got {size_bytes}")
        self._block = aligned_empty(-(-size_bytes // ALIGNMENT) * ALIGNMENT, np.uint8)
        self._used = 0

    @property
    def size_bytes(self) -> int:
        """All of it."""
        return self._block.nbytes

    @property
    def used_bytes(self) -> int:
        """What is cut off, alignment included."""
        return self._used

    def alloc(self, shape: int | tuple[int, ...], dtype: DTypeLike = np.float32) -> np.ndarray:
        """An aligned C-contiguous array; its contents are whatever stood there.

        Raises:
            CapacityError: it does not fit; says how much was asked for and how much is left.
            InvalidInputError: a dimension is negative, or the dtype holds Python objects.
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
        """A place to come back to."""
        return self._used

    def reset(self, mark: int = 0) -> None:
        """Take back everything cut since the mark.

        Raises:
            InvalidInputError: the mark is not behind the present place.
        """
        if not 0 <= mark <= self._used:
            raise InvalidInputError(f"mark {mark} is not between 0 and {self._used}")
        self._used = mark

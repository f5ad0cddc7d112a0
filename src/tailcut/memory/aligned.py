"""Memory aligned for vector units and caches: aligned arrays, and a matrix with aligned rows."""

import ctypes
import math
import mmap
import os
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from tailcut.errors import CapacityError, InvalidInputError, ShapeMismatchError

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register (AVX-512)
_HUGE_PAGE = 2 << 20


def aligned_empty(
    shape: int | tuple[int, ...], dtype: DTypeLike = np.float32, alignment: int = ALIGNMENT, *, huge_pages: bool = False
) -> np.ndarray:
    """A C-contiguous array of zeros whose address is a multiple of `alignment` bytes.

    The memory is mapped from the kernel, which zeroes pages when they are first touched.

    Args:
        shape: the dimensions.
        dtype: any fixed-size dtype.
        alignment: in bytes; a power of two.
        huge_pages: advise the kernel to back it with transparent huge pages (madvise(2), MADV_HUGEPAGE).

    Raises:
        InvalidInputError: the alignment is not a power of two, a dimension is negative, or the dtype has objects.
        CapacityError: there is not enough memory.
    """
    if alignment < 1 or alignment & (alignment - 1):
        raise InvalidInputError(f"alignment must be a power of two, got {alignment}")
    dtype = np.dtype(dtype)
    if dtype.hasobject:
        raise InvalidInputError(f"dtype {dtype} contains Python objects: raw memory cannot hold them")
    dims = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(dim < 0 for dim in dims):
        raise InvalidInputError(f"dimensions must not be negative, got {list(dims)}")
    size = math.prod(dims) * dtype.itemsize
    step = max(alignment, _HUGE_PAGE) if huge_pages else alignment
    try:
        raw = (
            _pages(size + step, huge_pages=huge_pages)
            if huge_pages or size >= _HUGE_PAGE
            else np.zeros(size + step, np.uint8)
        )
    except (MemoryError, OverflowError, OSError):
        raise CapacityError(f"no memory for {size} bytes: {list(dims)} of {dtype}") from None
    start = -raw.ctypes.data % step
    return raw[start : start + size].view(dtype).reshape(dims)


def lock_pages(array: np.ndarray) -> None:
    """Keep the pages of an array in memory (mlock(2)): all are allocated at once, and none is swapped out.

    Raises:
        CapacityError: the process may not lock that much, or the system cannot lock memory.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mlock(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes))
    except (AttributeError, OSError, TypeError):
        raise CapacityError("this system cannot lock memory") from None
    if failed:
        reason = os.strerror(ctypes.get_errno())
        raise CapacityError(f"{array.nbytes:,} bytes cannot be locked in memory: {reason} (see ulimit -l)")


def _pages(size_bytes: int, *, huge_pages: bool) -> np.ndarray:
    # Private, unlike the default of mmap: otherwise, a forked child would write to its parent's arrays.
    region = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge_pages and hasattr(mmap, "MADV_HUGEPAGE"):
        region.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(region, np.uint8)


class AlignedMatrix:
    """A row-major float32 matrix; every row starts on a 64-byte boundary, so rows are padded to whole cache lines.

    Args:
        rows, cols: at least 1 each.

    Raises:
        InvalidInputError: a dimension is below 1.
    """

    __slots__ = ("_padded", "array")

    def __init__(self, rows: int, cols: int) -> None:
        if rows < 1 or cols < 1:
            raise InvalidInputError(f"a matrix needs at least one row and column, got {rows} x {cols}")
        stride = -(-cols * 4 // ALIGNMENT) * ALIGNMENT // 4
        self._padded = aligned_empty((rows, stride), np.float32)
        self.array = self._padded[:, :cols]  # float32 [rows, cols], a view without the padding

    @classmethod
    def from_array(cls, values: ArrayLike) -> Self:
        """Make a matrix of a two-dimensional array, which is copied and converted to float32.

        Raises:
            ShapeMismatchError: it has another number of dimensions.
        """
        source = np.asarray(values, np.float32)
        if source.ndim != 2:
            raise ShapeMismatchError(f"a matrix has shape (rows, cols), got {source.shape}")
        matrix = cls(*source.shape)
        matrix.array[:] = source
        return matrix

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows and columns."""
        return self.array.shape[0], self.array.shape[1]

    def __getitem__(self, index: tuple[int, int]) -> float:
        return float(self.array[index])

    def __setitem__(self, index: tuple[int, int], value: float) -> None:
        self.array[index] = value

    def __matmul__(self, other: "AlignedMatrix") -> "AlignedMatrix":
        return self.matmul(other)

    def __repr__(self) -> str:
        return f"AlignedMatrix({self.shape[0]}, {self.shape[1]})"

    def matmul(self, other: "AlignedMatrix", out: "AlignedMatrix | None" = None) -> "AlignedMatrix":
        """The product self @ other by BLAS, written to `out` where one is given; returns it.

        Raises:
            ShapeMismatchError: the inner dimensions or the shape of `out` do not fit; the message names both shapes.
            InvalidInputError: `out` is one of the factors.
        """
        (rows, inner), (other_inner, cols) = self.shape, other.shape
        if inner != other_inner:
            raise ShapeMismatchError(
                f"cannot multiply {rows} x {inner} by {other_inner} x {cols}: {inner} is not {other_inner}"
            )
        if out is None:
            out = AlignedMatrix(rows, cols)
        elif out.shape != (rows, cols):
            raise ShapeMismatchError(f"out is {out.shape[0]} x {out.shape[1]}, the product is {rows} x {cols}")
        if out is self or out is other:
            raise InvalidInputError("out must not be one of the factors: it is written while they are read")
        np.matmul(self.array, other.array, out=out.array)
        return out

"""Loops compiled by numba, each with its equivalent in plain numpy in `reference.py`.

More are in `images`, `precision` and `rows`.

Import this module only where the kernels run: numba takes half a second to load, and each kernel compiles at its first
call for a dtype (and is cached on disk).

All release the GIL, and none uses numba's own threads: its default layer aborts the process when two callers enter it
at once. The caller checks shapes and indices; a kernel checks nothing. Arrays are C-contiguous or have whole
rows (an `AlignedMatrix`'s array); `out` is overwritten and must not overlap a source.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from tailcut.kernels.cache import compiled

_TILE_K = 32  # a tile of b is 32 x 256 float32 = 32 KiB: it stays in the first-level cache for all rows of a
_TILE_COLS = 256

_F = TypeVar("_F", bound=Callable[..., None])
_FUSED = {"contract", "reassoc"}  # multiply and add in one instruction, sums in any order


def _kernel(*, fastmath: set[str] | None = None) -> Callable[[_F], _F]:
    """Compile at the first call, and keep the function's type for type checkers."""
    return compiled(fastmath=fastmath or False)


@_kernel(fastmath=_FUSED)
def matmul_ikj(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Write a @ b, float32 [n, k] by [k, m]; the innermost loop runs along rows of b and out, so it vectorises."""
    rows, inner = a.shape
    cols = b.shape[1]
    for i in range(rows):
        line = out[i]
        for j in range(cols):
            line[j] = 0.0
        for k in range(inner):
            factor = a[i, k]
            for j in range(cols):
                line[j] += factor * b[k, j]


@_kernel(fastmath=_FUSED)
def matmul_tiled(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Write a @ b, float32 [n, k] by [k, m], a tile of b at a time; four of its rows go into each pass over out."""
    rows, inner = a.shape
    cols = b.shape[1]
    out[:, :] = 0.0
    for j_start in range(0, cols, _TILE_COLS):
        j_stop = min(j_start + _TILE_COLS, cols)
        for k_start in range(0, inner, _TILE_K):
            k_stop = min(k_start + _TILE_K, inner)
            whole = k_stop - (k_stop - k_start) % 4
            for i in range(rows):
                line = out[i, j_start:j_stop]
                for k in range(k_start, whole, 4):
                    a0, a1, a2, a3 = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
                    b0, b1 = b[k, j_start:j_stop], b[k + 1, j_start:j_stop]
                    b2, b3 = b[k + 2, j_start:j_stop], b[k + 3, j_start:j_stop]
                    for j in range(len(line)):
                        line[j] += a0 * b0[j] + a1 * b1[j] + a2 * b2[j] + a3 * b3[j]
                for k in range(whole, k_stop):
                    factor, row = a[i, k], b[k, j_start:j_stop]
                    for j in range(len(line)):
                        line[j] += factor * row[j]


@_kernel()
def gather_rows(source: np.ndarray, indices: np.ndarray, out: np.ndarray) -> None:
    """Copy source[indices[i]] to out[i]: [rows, m], int64 [n], [n, m]."""
    for i in range(len(indices)):
        row = indices[i]
        for j in range(source.shape[1]):
            out[i, j] = source[row, j]


@_kernel(fastmath=_FUSED)
def normalize_u8(image: np.ndarray, scale: np.ndarray, offset: np.ndarray, out: np.ndarray) -> None:
    """Write image * scale + offset: uint8 [height, width, c], two float32 [c], to float32 [c, height, width]."""
    height, width, channels = image.shape
    for c in range(channels):
        factor, shift = scale[c], offset[c]
        for y in range(height):
            for x in range(width):
                out[c, y, x] = image[y, x, c] * factor + shift


@_kernel(fastmath={"contract"})
def multiply_add_chains(values: np.ndarray, factor: np.float32, term: np.float32, rounds: int) -> None:
    """Replace every x of float32 `values` by x * factor + term, 16 times a round: it measures the machine's peak rate.

    A value stays in a register for 16 dependent steps; the chains of neighbours overlap, so that all units work.
    """
    for _ in range(rounds):
        for i in range(len(values)):
            x = values[i]
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            values[i] = x * factor + term

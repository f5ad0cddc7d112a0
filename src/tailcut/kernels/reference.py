"""Each kernel of `compiled.py` in plain numpy: the oracle of its tests, and the way that needs no compiler.

Same signatures, same results but for the order of float32 sums. `out` is always the caller's, and is overwritten.
"""

import numpy as np


def matmul_ikj(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Write a @ b: float32 [n, k] by [k, m] into [n, m]."""
    np.matmul(a, b, out=out)


def matmul_tiled(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Write a @ b: float32 [n, k] by [k, m] into [n, m]."""
    np.matmul(a, b, out=out)


def gather_rows(source: np.ndarray, indices: np.ndarray, out: np.ndarray) -> None:
    """Copy source[indices[i]] to out[i]: float32 [rows, m], int64 [n], float32 [n, m]."""
    np.take(source, indices, axis=0, out=out, mode="clip")  # "raise" would buffer the output


def normalize_u8(image: np.ndarray, scale: np.ndarray, offset: np.ndarray, out: np.ndarray) -> None:
    """Write image * scale + offset: uint8 [height, width, c], two float32 [c], to float32 [c, height, width]."""
    out[:] = (image.astype(np.float32) * scale + offset).transpose(2, 0, 1)


def multiply_add_chains(values: np.ndarray, factor: np.float32, term: np.float32, rounds: int) -> None:
    """Replace every x of float32 `values` by x * factor + term, 16 times a round."""
    for _ in range(16 * rounds):
        values *= factor
        values += term

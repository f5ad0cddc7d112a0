"""Each kernel in plain numpy: the reference of its tests, and the fallback that needs no compiler.

Same signatures, and the same results except for the order of float32 sums. `out` belongs to the caller, and is
overwritten.
"""

import ml_dtypes
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


def normalize_nchw(  # noqa: PLR0913, PLR0917  an image, its crop, its channels
    image: np.ndarray,
    top: int,
    left: int,
    swap: bool,  # noqa: FBT001  numba takes no keyword-only arguments
    scale: np.ndarray,
    offset: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write crop * scale + offset as planes: uint8 [height, width, 3] to float32 [3, rows, columns]."""
    crop = image[top : top + out.shape[1], left : left + out.shape[2], :: -1 if swap else 1]
    out[:] = (crop.astype(np.float32) * scale + offset).transpose(2, 0, 1)


def normalize_nhwc(  # noqa: PLR0913, PLR0917  an image, its crop, its channels
    image: np.ndarray,
    top: int,
    left: int,
    swap: bool,  # noqa: FBT001  numba takes no keyword-only arguments
    scale: np.ndarray,
    offset: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write crop * scale + offset as pixels: uint8 [height, width, 3] to float32 [rows, columns, 3]."""
    crop = image[top : top + out.shape[0], left : left + out.shape[1], :: -1 if swap else 1]
    out[:] = crop.astype(np.float32) * scale + offset


def float32_to_bf16(values: np.ndarray, out: np.ndarray) -> None:
    """Write float32 [n] as bf16, rounded to the nearest, ties to even."""
    out[:] = values.astype(ml_dtypes.bfloat16).view(np.uint16)


def bf16_to_float32(values: np.ndarray, out: np.ndarray) -> None:
    """Write bf16 [n] (as uint16) as float32 [n]."""
    out[:] = values.view(ml_dtypes.bfloat16).astype(np.float32)


def float32_to_f16(values: np.ndarray, out: np.ndarray) -> None:
    """Write float32 [n] as halves, rounded to the nearest, ties to even; over 65504 becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        out[:] = values.astype(np.float16).view(np.uint16)


def f16_to_float32(values: np.ndarray, out: np.ndarray) -> None:
    """Write halves [n] (as uint16) as float32 [n]."""
    out[:] = values.view(np.float16).astype(np.float32)


def quantize_rows(values: np.ndarray, scales: np.ndarray, zeros: np.ndarray, out: np.ndarray) -> None:
    """Write round(row / scale) + zero, clipped to -128..127: float32 [n, m], float32 [n], int32 [n] to int8 [n, m]."""
    with np.errstate(over="ignore", under="ignore"):
        out[:] = np.clip(np.rint(values / scales[:, None]) + zeros[:, None], -128, 127)


def dequantize_rows(values: np.ndarray, scales: np.ndarray, zeros: np.ndarray, out: np.ndarray) -> None:
    """Write (row - zero) * scale: int8 [n, m], float32 [n], int32 [n] to float32 [n, m]."""
    out[:] = (values - zeros[:, None]).astype(np.float32) * scales[:, None]


def softmax_rows(values: np.ndarray, out: np.ndarray) -> None:
    """Write the softmax of each row: float32 [n, m], m > 0, without NaN."""
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    np.divide(powers, powers.sum(axis=1, keepdims=True), out=out)


def top_k_rows(values: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
    """Write the k largest of each row, descending, and their indices: float32 [n, m], to [n, k] and int64 [n, k]."""
    places[:] = np.argsort(-values, axis=1, kind="stable")[:, : out.shape[1]]
    out[:] = np.take_along_axis(values, places, axis=1)


def scatter_rows(source: np.ndarray, indices: np.ndarray, out: np.ndarray) -> None:
    """Copy source[i] to out[indices[i]]: float32 [n, m], int64 [n], [rows, m]."""
    out[indices] = source


def mean_pool(values: np.ndarray, mask: np.ndarray, out: np.ndarray) -> None:
    """Write the mean over the tokens whose mask is not 0: float32 [n, tokens, m], int64 [n, tokens] to [n, m]."""
    used = (mask != 0).astype(np.float32)
    totals = np.matmul(used[:, None, :], values)[:, 0]
    np.divide(totals, np.maximum(used.sum(axis=1, keepdims=True), 1), out=out)

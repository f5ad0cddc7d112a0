"""Post-processing of a model's outputs, row by row: softmax, top-k, scatter, mean over tokens; numba kernels.

`gather_rows` is in `compiled.py`, where what holds for every kernel is described.
"""

import numba
import numpy as np

from tailcut.kernels.jit import FUSED, as_float32, kernel, larger

_ROUND = np.float32(12582912.0)  # 1.5 * 2**23: adding it rounds to a whole number, and subtracting leaves that number
_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = (
    np.float32(0.693359375),
    np.float32(-2.12194440e-4),
)  # their sum is ln 2 in more bits than float32 has
_SMALLEST = np.float32(-87.0)  # below it, exp leaves the normal float32 numbers


@numba.njit(nogil=True, fastmath={"contract"}, forceinline=True)  # type: ignore[untyped-decorator]
def _exp(x: np.float32) -> np.float32:
    """Exp of x <= 0, within 2 units in the last place: 2**whole times a Taylor polynomial of the remainder.

    The remainder is at most ln(2) / 2, where the eighth term is below half a unit. A call of exp has no vector form
    without Intel's SVML; arithmetic has.
    """
    x = max(x, _SMALLEST)
    whole = (x * _LOG2_E + _ROUND) - _ROUND
    rest = x - whole * _LN2_HIGH - whole * _LN2_LOW
    power = np.float32(1 / 5040)
    power = power * rest + np.float32(1 / 720)
    power = power * rest + np.float32(1 / 120)
    power = power * rest + np.float32(1 / 24)
    power = power * rest + np.float32(1 / 6)
    power = power * rest + np.float32(0.5)
    power = power * rest + np.float32(1)
    power = power * rest + np.float32(1)
    result: np.float32 = power * as_float32(np.uint32(np.int32(whole) + np.int32(127)) << np.uint32(23))
    return result


@kernel("float32[:,::1],float32[:,::1]", fastmath=FUSED)
def softmax_rows(values: np.ndarray, out: np.ndarray) -> None:
    """Write the softmax of each row: float32 [n, m], m > 0, without NaN; -inf gives (almost) 0."""
    for i in range(values.shape[0]):
        source, line = values[i], out[i]
        largest = source[0]
        for j in range(len(source)):
            largest = larger(source[j], largest)
        total = np.float32(0)
        for j in range(len(source)):
            power = _exp(source[j] - largest)
            line[j] = power
            total += power
        factor = np.float32(1) / total
        for j in range(len(source)):
            line[j] *= factor


@kernel("float32[:,::1],float32[:,::1],int64[:,::1]", fastmath=FUSED)
def top_k_rows(values: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
    """Write the k largest of each row, descending, and their indices: float32 [n, m], to [n, k] and int64 [n, k].

    Equal values keep their order. The values must be finite, and k at most m. It takes two vectorised passes for each
    of the k, and is meant for the small k of a classifier.
    """
    width = values.shape[1]
    left = np.empty(width, np.float32)
    for i in range(values.shape[0]):
        source = values[i]
        for j in range(width):
            left[j] = source[j]
        for rank in range(out.shape[1]):
            largest = left[0]
            for j in range(width):
                largest = larger(left[j], largest)
            index = np.int32(width)
            for j in range(width):
                here = np.int32(j) if left[j] == largest else np.int32(width)
                index = np.int32(min(index, here))
            out[i, rank], places[i, rank] = largest, index
            left[index] = -np.inf


@kernel("float32[:,::1],int64[::1],float32[:,::1]")
def scatter_rows(source: np.ndarray, indices: np.ndarray, out: np.ndarray) -> None:
    """Copy source[i] to out[indices[i]]: float32 [n, m], int64 [n], [rows, m]; of equal indices the last wins."""
    for i in range(len(indices)):
        line, target = source[i], out[indices[i]]
        for j in range(len(line)):
            target[j] = line[j]


@kernel("float32[:,:,::1],int64[:,::1],float32[:,::1]", fastmath=FUSED)
def mean_pool(values: np.ndarray, mask: np.ndarray, out: np.ndarray) -> None:
    """Write the mean over the tokens whose mask is not 0: float32 [n, tokens, m], int64 [n, tokens] to [n, m].

    A row without such a token becomes zeros.
    """
    for i in range(values.shape[0]):
        line = out[i]
        line[:] = np.float32(0)
        count = 0
        for t in range(values.shape[1]):
            if mask[i, t]:
                count += 1
                token = values[i, t]
                for j in range(len(token)):
                    line[j] += token[j]
        factor = np.float32(1) / np.float32(max(count, 1))
        for j in range(len(line)):
            line[j] *= factor

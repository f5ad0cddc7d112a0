"""The distance between two answers to one request, as one number."""

import numpy as np

from tailcut.engines.base import Arrays

_FLOOR = 1e-6  # outputs with a smaller root mean square are compared with this instead: their differences are rounding


def distance(expected: Arrays, result: Arrays) -> float:
    """The largest distance of any output: for floats, the norm of the difference as a share of the expected norm.

    For integers and booleans, it is the share of elements that differ. It is infinite where shapes or dtypes differ,
    and where only one answer has NaN or infinity; and 0 for answers without elements.
    """
    return max((_apart(array, result[name]) for name, array in expected.items()), default=0.0)


def _apart(expected: np.ndarray, result: np.ndarray) -> float:
    if expected.shape != result.shape or expected.dtype != result.dtype:
        return np.inf
    if expected.size == 0:
        return 0.0
    if expected.dtype.kind not in "fcV":
        return float(np.mean(expected != result))
    wide, other = expected.astype(np.float64), result.astype(np.float64)
    known = np.isfinite(wide)
    if (known != np.isfinite(other)).any():
        return np.inf
    wide, other = wide[known], other[known]
    smallest = _FLOOR * float(wide.size) ** 0.5
    return float(np.linalg.norm(wide - other)) / max(float(np.linalg.norm(wide)), smallest) if wide.size else 0.0

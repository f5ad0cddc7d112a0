"""Converts numbers whose dtype numpy chose, such as those of a list, to another dtype: exactly or not at all. Pure."""

from collections.abc import Iterable
from typing import Any

import numpy as np


def array_of(value: Any, want: np.dtype) -> np.ndarray:
    """An array of the dtype that numpy chooses for a list, except that whole numbers stay whole.

    Numpy converts `[2**63, 1]` to floats, because it takes 1 for an int64, and no integer dtype holds both types.

    Raises:
        ValueError: nested lists differ in length.
        TypeError: the value cannot be converted.
        OverflowError: `want` is an integer dtype, and a number is out of its range.
    """
    array = np.asarray(value)
    if want.kind in "ui" and array.dtype.kind in "fO" and array.size:
        items = np.asarray(value, object)
        if _are_whole(items.reshape(-1).tolist()):
            return np.asarray(value, want)
    return array


def is_of_kind(array: np.ndarray, want: np.dtype) -> bool:
    """Whether numbers are of the kind of a dtype: whole numbers also count as floats, and empty arrays as any kind."""
    kinds = "bui" if want.kind in "ui" else "b" if want.kind == "b" else "buif"
    return not array.size or array.dtype == want or array.dtype.kind in kinds


def as_dtype(array: np.ndarray, want: np.dtype) -> np.ndarray | None:
    """Numbers converted to another dtype; None where they are of another kind or out of its range."""
    if not is_of_kind(array, want):
        return None
    if array.dtype == want:
        return array
    if array.size and want.kind in "ui":
        limits = np.iinfo(want)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            return None
    with np.errstate(over="ignore"):
        result = array.astype(want)
    if want.kind not in "bui":
        infinite = np.isinf(result)
        if infinite.any() and np.isfinite(array[infinite]).any():
            return None
    return result


def _are_whole(items: Iterable[object]) -> bool:
    return all(isinstance(item, int | np.integer) for item in items)

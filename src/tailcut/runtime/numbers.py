"""Numbers whose dtype numpy chose, such as those of a list, as another dtype: exactly, or not at all. Pure."""

from collections.abc import Iterable
from typing import Any

import numpy as np


def array_of(value: Any, want: np.dtype) -> np.ndarray:
    """An array in the dtype that numpy takes for a list; whole numbers, of which it may make floats, stay whole.

    It makes floats of `[2**63, 1]`, because no dtype for integers holds them beside negative ones.

    Raises:
        ValueError: lists that differ in length.
        TypeError: it cannot be converted.
        OverflowError: whole numbers are wanted, and one is out of the range.
    """
    array = np.asarray(value)
    if want.kind in "ui" and array.dtype.kind in "fO" and array.size:
        items = np.asarray(value, object)
        if _are_whole(items.reshape(-1).tolist()):
            return np.asarray(value, want)
    return array


def is_of_kind(array: np.ndarray, want: np.dtype) -> bool:
    """Whether numbers are of the kind of a dtype: whole numbers are also floats; what is empty has no kind."""
    kinds = "bui" if want.kind in "ui" else "b" if want.kind == "b" else "buif"
    return not array.size or array.dtype == want or array.dtype.kind in kinds


def as_dtype(array: np.ndarray, want: np.dtype) -> np.ndarray | None:
    """Numbers whose dtype numpy chose, as another one; None where they are of another kind or out of its range."""
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

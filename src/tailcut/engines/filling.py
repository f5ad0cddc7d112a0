"""The inputs of generated requests: how they are described and filled."""

from typing import Literal

import msgspec
import numpy as np

from tailcut.spec import TensorSpec

ROWS = -1  # in a shape: the number of rows of the request

Values = Literal["normal", "integers", "constant", "mask", "positions", "text", "numerals"]


class SampleInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one input of a generated request is filled.

    `normal`: standard normal; `integers`: from `low` to `high` - 1; `constant`: `low`; `mask`: on the last axis, ones
    followed by zeros; `positions`: 0, 1, 2 and so on, modulo `high`; `text`: strings; `numerals`: strings of digits.
    """

    shape: tuple[int, ...]  # ROWS (-1) for an axis whose size is the number of rows
    values: Values = "normal"
    low: int = 0
    high: int = 1


def fill(tensor: TensorSpec, sample: SampleInput, rows: int, random: np.random.Generator) -> np.ndarray:
    """One input as a new, C-contiguous array in the tensor's dtype."""
    shape = tuple(rows if dim == ROWS else dim for dim in sample.shape)
    dtype = tensor.dtype.numpy
    match sample.values:
        case "text" | "numerals":
            words = np.empty(shape, object)
            lead = "" if sample.values == "numerals" else "text "
            words.reshape(-1)[:] = [f"{lead}{number}" for number in range(words.size)]
            return words
        case "normal":
            return random.standard_normal(shape).astype(dtype)
        case "constant":
            return np.full(shape, sample.low, dtype)
        case "positions":
            steps = np.arange(shape[-1] if shape else 1) % max(sample.high, 1)
            return np.resize(steps, shape).astype(dtype)
        case "mask":
            length = shape[-1] if shape else 1
            ends = random.integers(1, max(length, 1) + 1, (*shape[:-1], 1))
            return (np.arange(length) < ends).reshape(shape).astype(dtype)
        case "integers":
            return random.integers(sample.low, max(sample.high, sample.low + 1), shape).astype(dtype)

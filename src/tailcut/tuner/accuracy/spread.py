"""How a floating-point output is divided into rows and columns, and how much it varies over the data."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROUNDING = 1e-6  # of the output's typical magnitude: float32 after a few operations
_COARSER = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
_FEW_COLUMNS = 8  # a row of up to this many numbers is a regressor's, each with a unit of its own
_FEWEST_ROWS = 4  # with fewer, the spread is unknown
_CONSTANT = 1e-6  # of the magnitude: what varies less is constant over the data


def rounding_in(dtype: np.dtype) -> float:
    """The rounding error of a number of this dtype, as a share of its magnitude."""
    return _COARSER.get(dtype.name, ROUNDING)


@dataclass(frozen=True, slots=True)
class RowLayout:
    """How the arrays of one output are read as rows."""

    vector: bool  # one-dimensional and a single row: of the same length in every request, and longer than 1
    width: int  # numbers in a row; 0 where it differs from request to request

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray]) -> "RowLayout":
        """The layout that all arrays of an output share."""
        shapes = {array.shape for array in arrays}
        vector = len(shapes) == 1 and all(len(shape) == 1 and shape[0] > 1 for shape in shapes)
        widths = {_width(shape, vector=vector) for shape in shapes}
        return cls(vector, widths.pop() if len(widths) == 1 else 0)

    def rows(self, array: np.ndarray) -> np.ndarray:
        """The array as float64 [rows, numbers]."""
        width = _width(array.shape, vector=self.vector)
        return array.astype(np.float64).reshape(array.size // width if width else 0, width)


def _width(shape: tuple[int, ...], *, vector: bool) -> int:
    return shape[0] if vector else int(np.prod(shape[1:], dtype=np.int64)) if len(shape) > 1 else 1


@dataclass(frozen=True, slots=True)
class Spread:
    """The standard deviation of the reference over the data, and the largest error that does not count.

    In rows of many numbers, and in probabilities that add up to 1, the numbers of a row matter relative to each other.
    There the deviation is that of all numbers from their common mean: for inputs that a classifier finds similar, its
    scores hardly vary from row to row, and that variation does not matter.
    """

    by_column: bool
    sizes: np.ndarray  # [columns], or [1] for all numbers together
    floors: np.ndarray  # likewise
    typical: float  # the median over rows of the largest magnitude in a row, zeros left out

    @classmethod
    def of(cls, layout: RowLayout, arrays: Sequence[np.ndarray]) -> "Spread":
        """The spread of a reference output over all requests."""
        rows = [_finite(layout.rows(array)) for array in arrays if array.size]
        maxima = np.concatenate([np.abs(part).max(axis=1) for part in rows]) if rows else np.empty(0)
        rounding = max(rounding_in(array.dtype) for array in arrays)
        typical = _typical(maxima)
        together = _size(*_moments([part.reshape(-1, 1) for part in rows]))
        if not 1 <= layout.width <= _FEW_COLUMNS or all(map(_is_distribution, rows)):
            return cls(by_column=False, sizes=together, floors=np.array([rounding * typical]), typical=typical)
        sizes = _size(*_moments(rows))
        sizes = np.where(sizes == 0, together, sizes)  # a column that is always 0: use the spread of all columns
        joined = np.abs(np.concatenate(rows))
        floors = rounding * np.array([_typical(joined[:, column]) for column in range(layout.width)])
        return cls(by_column=True, sizes=sizes, floors=floors, typical=typical)

    def ratios(self, error: np.ndarray) -> np.ndarray:
        """Absolute errors [rows, numbers] divided by the spread: [rows, columns], or [rows, 1] for whole rows."""
        if not self.by_column:
            error = np.sqrt((error**2).mean(axis=1, keepdims=True))
        counted = np.where(error <= self.floors, 0.0, error)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(counted == 0, 0.0, counted / self.sizes))


def _moments(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, int]:
    """Variance and mean square of each column, and the number of rows; the first row is subtracted for precision."""
    count = sum(map(len, parts))
    if not count:
        return np.zeros(1), np.zeros(1), 0
    first = parts[0][0]
    mean = sum((part - first).sum(axis=0) for part in parts) / count
    variance = sum(((part - first - mean) ** 2).sum(axis=0) for part in parts) / count
    square = sum((part**2).sum(axis=0) for part in parts) / count
    return np.asarray(variance), np.asarray(square), count


def _size(variance: np.ndarray, square: np.ndarray, count: int) -> np.ndarray:
    """The standard deviation; the root mean square where there are too few rows for one, or all are equal."""
    deviation, magnitude = np.sqrt(variance), np.sqrt(square)
    unknown = (count < _FEWEST_ROWS) | (deviation <= _CONSTANT * magnitude)
    return np.asarray(np.where(unknown, magnitude, deviation))


def _is_distribution(rows: np.ndarray) -> bool:
    """Whether rows are probabilities that add up to 1, as a classifier returns."""
    return rows.shape[1] > 1 and bool((rows >= -ROUNDING).all() and (np.abs(rows.sum(axis=1) - 1) < 1e-3).all())


def _typical(magnitudes: np.ndarray) -> float:
    present = magnitudes[magnitudes > 0]
    return float(np.median(present)) if len(present) else 1.0


def _finite(rows: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(rows), rows, 0.0)

"""What is known of a tensor's rows: the values that rules take and return, and the exceptions that they raise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from tailcut.engines.rows.sizes import ONE, ROWS, ZERO, Size, joint, number, product
from tailcut.spec import Rows

Sizes = tuple[Size, ...]
ITEMS = 64  # the most elements of a tensor that are followed one by one


@dataclass(frozen=True, slots=True)
class RowAxis:
    """Where the rows are: element `(o * rows + row) * inner + i` along `axis` belongs to `row`; o < outer, i < inner.

    `[batch, heads]` reshaped to `[batch * heads]` has inner = heads; transposed before, it has outer = heads.
    """

    axis: int
    outer: Size = ONE
    inner: Size = ONE

    @property
    def size(self) -> Size:
        """The length of the axis."""
        return self.outer * ROWS * self.inner

    def at(self, axis: int) -> "RowAxis":
        """The same grouping on another axis."""
        return replace(self, axis=axis)


@dataclass(frozen=True, slots=True)
class Position:
    """Elements that are `scale * row + rest`, with 0 <= rest < `below` and rest a function of the row's own inputs.

    ANYWHERE stands for any other function of the row's index in the batch.
    """

    scale: Size = ONE
    below: Size = ONE


ANYWHERE = Position(ZERO, ZERO)


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor each of whose rows, if it has rows, depends on the same row of the inputs and on nothing else.

    `shape` is None if it is unknown (only without rows). Without `rows`, the tensor is the same for any rows; a small
    one has its elements in `items` (an array of Size; `real` for floating point), which may contain the number of rows.
    `below` bounds integers that are not in `items`: 0 <= element < below; booleans that are never true are below 1.
    `floor` is the bound of non-integral floats after rounding down. With rows, `position` marks row numbers, and
    `leads` says that the first element along the last axis is the row's own number (as in GatherND's index tuples). If
    there is a `filler`, each row is padded with it along the last axis to the length of the longest row.
    """

    shape: Sizes | None
    rows: RowAxis | None = None
    items: np.ndarray | None = None
    real: bool = False
    below: Size | None = None
    floor: Size | None = None
    position: Position | None = None
    leads: bool = False
    filler: str | None = None

    @property
    def counts(self) -> bool:
        """Whether its elements contain the number of rows."""
        return self.items is not None and any(item.rows for item in self.items.flat)

    @property
    def numbered(self) -> bool:
        """Whether its elements depend on a row's index in the batch."""
        return self.position is not None or self.leads

    @property
    def impure(self) -> bool:
        """Whether a row depends on its index in the batch, or on the length of other rows."""
        return self.numbered or self.filler is not None

    @property
    def untracked(self) -> "Value":
        """The same tensor without its elements.

        Raises:
            Mixes: they contain the number of rows.
        """
        if self.counts:
            raise Mixes("computes with the number of rows")
        return replace(self, items=None)

    @property
    def sizes(self) -> Sizes:
        """The shape.

        Raises:
            Unclear: it cannot be followed.
        """
        if self.shape is None:
            raise Unclear("has an input whose shape cannot be followed")
        return self.shape

    @property
    def rank(self) -> int:
        """The number of axes. Raises Unclear as `sizes` does."""
        return len(self.sizes)

    @property
    def groups(self) -> tuple[Size, Size]:
        """The products of all sizes before and after the rows, in row-major order."""
        assert self.rows is not None  # noqa: S101  for mypy: only called with rows
        before, behind = self.sizes[: self.rows.axis], self.sizes[self.rows.axis + 1 :]
        return product(before) * self.rows.outer, self.rows.inner * product(behind)


@dataclass(frozen=True, slots=True)
class Spoiled:
    """A tensor whose rows cannot be separated, with the verdict and its reason."""

    verdict: Rows
    reason: str


class Unclear(Exception):  # noqa: N818  a verdict, no error
    """A rule cannot follow this use of an operator; `why` continues a sentence that begins with the operator's name."""

    def __init__(self, why: str, where: str = "") -> None:
        super().__init__(why)
        self.why, self.where = why, where


class Foreign(Unclear):
    """It is not even known that equal inputs give equal outputs."""


class Mixes(Unclear):
    """The operator makes rows depend on each other, on their number or on their order."""


def known(items: np.ndarray, *, real: bool = False) -> Value:
    """A tensor without rows whose elements are known."""
    return Value(tuple(number(size) for size in items.shape), items=items, real=real)


def vector(items: Sequence[Size], *, real: bool = False) -> Value:
    """A tensor of one axis whose elements are known."""
    return known(array(items), real=real)


def array(items: Sequence[Size]) -> np.ndarray:
    """Sizes as a one-dimensional array of objects."""
    filled = np.empty(len(items), object)
    filled[:] = items
    return filled


def broadcast(*values: Value) -> Value:
    """The shape and rows after numpy's broadcasting, with rows aligned.

    Raises:
        Mixes: rows meet another axis, a fixed number of rows, or rows in another order.
        Unclear: a shape cannot be followed.
    """
    rank = max(value.rank for value in values)
    rows: RowAxis | None = None
    for value in values:
        if value.rows is not None:
            moved = value.rows.at(value.rows.axis + rank - value.rank)
            if rows is not None and moved != rows:
                raise Mixes("combines rows with other rows")
            rows = moved
    shape = []
    for axis in range(rank):
        meet = [(value, value.sizes[axis - rank + value.rank]) for value in values if axis >= rank - value.rank]
        if rows is not None and axis == rows.axis:
            for value, size in meet:
                if value.rows is None and size.integer != 1:
                    _refuse_company(size)
            shape.append(rows.size)
        else:
            shape.append(reduce(joint, [size for _, size in meet]))
    return Value(tuple(shape), rows)


def _refuse_company(size: Size) -> None:
    if size.integer is None:
        raise Unclear("aligns the rows with an axis that may be another")
    raise Mixes(f"works for a fixed number of rows only ({size})")

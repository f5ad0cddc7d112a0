"""Where the rows of each tensor are, and the checks that rules make on their operands.

Along `axis`, element `(o * rows + row) * inner + i` belongs to `row`: `inner` is more than 1 if heads were folded into
the rows, and `outer`, the number of values of o, if rows were folded into time steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy

from tailcut.engines.torch.rows.nodes import nodes_in, shape_of, symbols_of
from tailcut.spec import Rows

_ONE = sympy.Integer(1)


@dataclass(frozen=True, slots=True)
class Lies:
    """Where a tensor's rows are; `axis` is None if no element depends on a row or on the number of rows."""

    axis: int | None
    inner: sympy.Expr = _ONE
    outer: sympy.Expr = _ONE

    def at(self, axis: int) -> "Lies":
        """The same grouping on another axis."""
        return Lies(axis, self.inner, self.outer)


Place = Lies | tuple[Any, ...] | None  # None: not a tensor
NOWHERE = Lies(None)


@dataclass(frozen=True, slots=True)
class RowsSpoiledError(Exception):
    """An operator whose result has no independent rows, or may have none."""

    rows: Rows
    reason: str


def dependent(reason: str) -> RowsSpoiledError:
    """An error for rows that depend on each other."""
    return RowsSpoiledError(Rows.DEPENDENT, reason)


def unknown(reason: str) -> RowsSpoiledError:
    """An error for rows whose independence is unknown."""
    return RowsSpoiledError(Rows.UNKNOWN, reason)


def single(location: Place) -> Lies:
    """The place of one tensor.

    Raises:
        RowsSpoiledError: the node has several results, or is not a tensor.
    """
    if not isinstance(location, Lies):
        raise unknown("takes several results at once")
    return location


def without(location: Lies, axes: set[int], fault: str, *, kept: bool) -> Lies:
    """Where the rows are after these axes have been reduced; with `kept`, the axes stay with size 1.

    Raises:
        RowsSpoiledError: the rows are on one of these axes.
    """
    if location.axis in axes:
        raise dependent(fault)
    return location if kept else location.at((location.axis or 0) - sum(axis < (location.axis or 0) for axis in axes))


class Places:
    """Where the rows are in the results of the nodes so far.

    Args:
        rows: the symbol that stands for the number of rows.
    """

    def __init__(self, rows: sympy.Symbol) -> None:
        self.rows = rows
        self._places: dict[Any, Place] = {}

    def __getitem__(self, node: Any) -> Place:
        return self._places[node]

    def __setitem__(self, node: Any, location: Place) -> None:
        self._places[node] = location

    def get(self, node: Any) -> Place:
        """The place of a node's rows; None for a value that is not a node."""
        return self._places.get(node)

    def operands(self, node: Any) -> list[Any]:
        """The nodes among a node's arguments."""
        return [arg for arg in nodes_in((node.args, node.kwargs)) if arg in self._places]

    def of(self, node: Any) -> Lies:
        """Where the rows of a tensor are.

        Raises:
            RowsSpoiledError: it has no rows.
        """
        location = single(self[node])
        if location.axis is None:
            raise unknown("has rows only in its other operands")
        return location

    def need_constant(self, nodes: Sequence[Any]) -> None:
        """Check that none of these tensors has rows; None stands for an omitted tensor.

        Raises:
            RowsSpoiledError: a tensor has rows.
        """
        for node in nodes:
            if node is not None and single(self[node]).axis is not None:
                raise unknown("has weights that depend on rows")

    def axes_of_rows(self, node: Any) -> list[int]:
        """The axes of a result whose size depends on the number of rows."""
        return [axis for axis, size in enumerate(shape_of(node)) if self.rows in size.free_symbols]

    def counts(self, node: Any) -> bool:
        """Whether a value's size, or the number that it is, depends on the number of rows."""
        return self.rows in symbols_of(node)

    def counts_among(self, arguments: Sequence[Any]) -> bool:
        """Whether one of a node's arguments counts the rows."""
        return any(self.counts(arg) for arg in nodes_in(arguments))


Rule = Callable[[Places, Any], Place]
Table = Mapping[str, Rule]

"""Operators that move and regroup elements without computing."""

from typing import Any

import sympy

from tailcut.engines.torch.rows.nodes import product, shape_of
from tailcut.engines.torch.rows.places import Lies, Place, Places, Table, dependent, single, unknown
from tailcut.engines.torch.rows.rules_reduce import last_axes

_VIEWS = (
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_copy", "_reshape_alias",
)  # fmt: skip


def _view(places: Places, node: Any) -> Place:
    """Elements keep their order, so the numbers of elements before and after each row stay the same."""
    location = places.of(node.args[0])
    before = product(shape_of(node.args[0])[: location.axis]) * location.outer
    shape = shape_of(node)
    for axis, size in enumerate(shape):
        if places.rows in size.free_symbols:
            outer = before / product(shape[:axis])
            inner = size / places.rows / outer
            after = product(shape[axis + 1 :])
            whole = all(sympy.fraction(part)[1] == 1 for part in (outer, inner))
            if whole and not any(places.rows in part.free_symbols for part in (outer, inner, after)):
                return Lies(axis, inner, outer)
            break
    raise dependent("folds the rows into another axis")


def _transpose(places: Places, node: Any) -> Place:
    location, rank = places.of(node.args[0]), len(shape_of(node))
    first, second = (int(axis) % rank for axis in node.args[1:3])
    return location.at({first: second, second: first}.get(location.axis or 0, location.axis or 0))


def _t(places: Places, node: Any) -> Place:
    location = places.of(node.args[0])
    return location.at(len(shape_of(node)) - 1 - (location.axis or 0))


def _permute(places: Places, node: Any) -> Place:
    location, rank = places.of(node.args[0]), len(shape_of(node))
    return location.at([int(axis) % rank for axis in node.args[1]].index(location.axis or 0))


def expand(places: Places, node: Any) -> Place:
    """Axes of size 1 are repeated; a tensor without rows may be repeated for each row, along one axis.

    For such a tensor, `repeat` does the same.
    """
    location, shape = single(places[node.args[0]]), shape_of(node)
    moved = len(shape) - len(shape_of(node.args[0]))
    axes = places.axes_of_rows(node)
    if location.axis is not None:
        axes = [axis for axis in axes if axis != location.axis + moved]
        if axes:
            raise dependent("spreads rows over other rows")
        return location.at(location.axis + moved)
    if len(axes) != 1:
        raise unknown("spreads over several axes")
    own = axes[0] - moved
    if own >= 0 and shape_of(node.args[0])[own] != 1:
        raise dependent("tells a row by its place")
    return Lies(axes[0], shape[axes[0]] / places.rows)


def _repeat(places: Places, node: Any) -> Place:
    location, rank = places.of(node.args[0]), len(shape_of(node))
    axis = (location.axis or 0) + rank - len(shape_of(node.args[0]))
    if node.args[1][axis] != 1 or len(places.axes_of_rows(node)) != 1:
        raise dependent("repeats the rows")
    return location.at(axis)


def _constant_pad_nd(places: Places, node: Any) -> Place:
    return last_axes(places, node, len(node.args[1]) // 2)


RULES: Table = {
    **dict.fromkeys(_VIEWS, _view),
    **dict.fromkeys(("expand", "broadcast_to", "expand_as"), expand),
    **dict.fromkeys(("constant_pad_nd", "pad"), _constant_pad_nd),
    "transpose": _transpose,
    "t": _t,
    "permute": _permute,
    "repeat": _repeat,
}

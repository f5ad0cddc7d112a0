"""Operators that pick parts of a tensor, or join several."""

from typing import Any

from tailcut.engines.torch.rows.nodes import argument, axis_of, shape_of
from tailcut.engines.torch.rows.places import Place, Places, Table, dependent, single, unknown, without


def _select(places: Places, node: Any) -> Place:
    return without(places.of(node.args[0]), {axis_of(node)}, "picks a row", kept=False)


def _unbind(places: Places, node: Any) -> Place:
    axis = int(argument(node, 1, "dim") or 0) % len(shape_of(node.args[0]))
    location = without(places.of(node.args[0]), {axis}, "picks rows", kept=False)
    return tuple(location for _ in node.meta["val"])


def _slice(places: Places, node: Any) -> Place:
    location = places.of(node.args[0])
    if axis_of(node) == location.axis and shape_of(node) != shape_of(node.args[0]):
        raise dependent("picks rows")
    return location


def _split(places: Places, node: Any) -> Place:
    location = places.of(node.args[0])
    if int(argument(node, 2, "dim") or 0) % len(shape_of(node.args[0])) == location.axis:
        raise dependent("picks rows")
    return tuple(location for _ in node.meta["val"])


def _cat(places: Places, node: Any) -> Place:
    tensors = node.args[0]
    rank, dim = len(shape_of(tensors[0])), int(argument(node, 1, "dim") or 0)
    joined = {single(places[tensor]) for tensor in tensors}
    if len(joined) != 1:
        raise unknown("joins tensors with rows and without")
    [location] = joined
    if dim % rank == location.axis:
        raise dependent("joins rows")
    return location


def _stack(places: Places, node: Any) -> Place:
    rank, dim = len(shape_of(node)), int(argument(node, 1, "dim") or 0) % len(shape_of(node))
    joined = {single(places[tensor]) for tensor in node.args[0]}
    if len(joined) != 1 or rank < 1:
        raise unknown("joins tensors with rows and without")
    [location] = joined
    return location.at((location.axis or 0) + (dim <= (location.axis or 0)))


def _gather(places: Places, node: Any) -> Place:
    location = places.of(node.args[0])
    if axis_of(node) == location.axis or single(places[node.args[2]]) != location:
        raise unknown("gathers across rows")
    return location


def _index_select(places: Places, node: Any) -> Place:
    places.need_constant([node.args[2]])
    if axis_of(node) == places.of(node.args[0]).axis:
        raise dependent("picks rows")
    return places.of(node.args[0])


def _index(places: Places, node: Any) -> Place:
    """One index: a constant one of another axis than the rows', or each row's own indices into a table without rows."""
    given = [(axis, index) for axis, index in enumerate(node.args[1]) if index is not None]
    data = single(places[node.args[0]])
    if len(given) != 1:
        raise unknown("has several indices")
    [(axis, index)] = given
    location, rank = single(places[index]), len(shape_of(index))
    if data.axis is None:
        return location.at((location.axis or 0) + axis)
    if location.axis is not None or axis == data.axis:
        raise unknown("picks across rows")
    return data.at(data.axis + (rank - 1 if axis < data.axis else 0))


RULES: Table = {
    "select": _select,
    "unbind": _unbind,
    **dict.fromkeys(("slice", "narrow"), _slice),
    **dict.fromkeys(("split", "chunk", "split_with_sizes", "tensor_split"), _split),
    **dict.fromkeys(("cat", "concat"), _cat),
    "stack": _stack,
    "gather": _gather,
    "index_select": _index_select,
    "index": _index,
}

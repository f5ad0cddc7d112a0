"""Operators that multiply with weights or other tensors: products, convolutions, attention, recurrence."""

from typing import Any

from tailcut.engines.torch.rows.nodes import argument, shape_of
from tailcut.engines.torch.rows.places import Lies, Place, Places, Table, dependent, single, unknown

_CONVOLUTIONS = (
    "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "_convolution",
)  # fmt: skip


def _convolution(places: Places, node: Any) -> Place:
    data = places.of(node.args[0])
    if (
        data.axis != 0
        or len(shape_of(node.args[0])) != len(shape_of(node))
        or any(
            single(places[operand]).axis is not None
            for operand in places.operands(node)
            if operand is not node.args[0] and places[operand] is not None
        )
    ):
        raise unknown("has weights or channels that depend on rows")
    return data


def _linear(places: Places, node: Any) -> Place:
    location = places.of(node.args[0])
    if location.axis == len(shape_of(node.args[0])) - 1:
        raise dependent("sums over the rows")
    places.need_constant([node.args[1], argument(node, 2, "bias")])
    return location


def _addmm(places: Places, node: Any) -> Place:
    places.need_constant([node.args[0], node.args[2]])
    location = places.of(node.args[1])
    if location.axis != 0:
        raise dependent("sums over the rows")
    return location


def _matmul(places: Places, node: Any) -> Place:
    left, right = node.args[:2]
    ranks = [len(shape_of(left)), len(shape_of(right))]
    rank = len(shape_of(node))
    if min(ranks) < 2:
        raise unknown("multiplies vectors")
    locations: set[Lies] = set()
    for operand, own, summed in ((left, ranks[0], ranks[0] - 1), (right, ranks[1], ranks[1] - 2)):
        location = single(places[operand])
        if location.axis is None:
            continue
        if location.axis == summed:
            raise dependent("sums over the rows")
        locations.add(location.at(location.axis + rank - own))
    if len(locations) != 1:
        raise dependent("multiplies rows with other rows")
    [location] = locations
    both = all(single(places[operand]).axis is not None for operand in (left, right))
    if both and location.axis is not None and location.axis >= rank - 2:
        raise dependent("multiplies rows with other rows")
    return location


def _scaled_dot_product_attention(places: Places, node: Any) -> Place:
    query, rank = places.of(node.args[0]), len(shape_of(node.args[0]))
    mask = argument(node, 3, "attn_mask")
    if argument(node, 4, "dropout_p"):
        raise dependent("draws at random")
    if query.axis is None or query.axis >= rank - 2 or {places.of(operand) for operand in node.args[1:3]} != {query}:
        raise unknown("attends over rows")
    if mask is not None:
        location, own = single(places[mask]), len(shape_of(mask))
        axis = query.axis - rank + own
        aligned = location == query.at(axis)
        if not aligned and (location.axis is not None or (axis >= 0 and shape_of(mask)[axis] != 1)):
            raise unknown("masks rows by other rows")
    return query


def _embedding(places: Places, node: Any) -> Place:
    places.need_constant([node.args[0]])
    return places.of(node.args[1])


def _lstm(places: Places, node: Any) -> Place:
    """Operands: input, states of (layers, rows, features), ..., and whether the rows come first."""
    first = bool(node.args[8])
    for state in node.args[1]:
        if places.of(state) != Lies(1):
            raise unknown("has states without rows")
    return (_recurrent(places, node, first=first), Lies(1), Lies(1))


def _gru(places: Places, node: Any) -> Place:
    if places.of(node.args[1]) != Lies(1):
        raise unknown("has states without rows")
    return (_recurrent(places, node, first=bool(node.args[8])), Lies(1))


def _recurrent(places: Places, node: Any, *, first: bool) -> Lies:
    location = places.of(node.args[0])
    if location != Lies(0 if first else 1):
        raise dependent("takes the rows for times")
    return location


RULES: Table = {
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    **dict.fromkeys(("matmul", "mm", "bmm"), _matmul),
    "linear": _linear,
    "addmm": _addmm,
    "scaled_dot_product_attention": _scaled_dot_product_attention,
    "embedding": _embedding,
    "lstm": _lstm,
    "gru": _gru,
}

"""Operators of com.microsoft that converters and exporters write; some now exist in ONNX, too."""

from dataclasses import replace

from tailcut.engines.rows import rules_join, rules_layout, rules_pick, rules_vision
from tailcut.engines.rows.operation import Operation, Rule, Table, axis_of
from tailcut.engines.rows.rules_matmul import multiplied, parameters_without_rows
from tailcut.engines.rows.rules_sequence import without_rows
from tailcut.engines.rows.rules_vision import batch_rows
from tailcut.engines.rows.sizes import ONE, floor_divide, number
from tailcut.engines.rows.values import Mixes, Unclear, Value, broadcast


def _distances(operation: Operation) -> Value:
    """CDist: distances from each row of `[M, N]` to each row of `[K, N]`, as `[M, K]`."""
    a, b = operation.need(0), operation.need(1)
    if any(value.rows is not None and value.rows.axis != 0 for value in (a, b)):
        raise Mixes("sums over the rows")
    if a.rows is not None and b.rows is not None:
        raise Mixes("combines rows with other rows")
    return Value((a.sizes[0], b.sizes[0]), a.rows if b.rows is None else b.rows.at(1))


def _inverse(operation: Operation) -> Value:
    """The inverse of square matrices; for others, the engine accesses memory out of bounds without an error."""
    value = operation.need(0)
    if value.rows is not None and value.rows.axis >= value.rank - 2:
        raise Mixes("mixes the rows", f"over axis {value.rows.axis}")
    if value.sizes[-1] != value.sizes[-2]:
        raise Unclear("has matrices that may not be square")
    return Value(value.sizes, value.rows)


def _hash(operation: Operation) -> Value:
    """MurmurHash3: each element separately."""
    value = operation.need(0)
    return Value(value.sizes, value.rows)


def _unfold(operation: Operation) -> Value:
    """Windows along one axis, whose elements are on a new last axis."""
    value = operation.need(0)
    axis = axis_of(operation.integer("dim", -1), value.rank)
    if value.rows is not None and value.rows.axis == axis:
        raise Mixes("mixes the rows", f"over axis {axis}")
    size, step = number(operation.integer("size", 1)), number(operation.integer("step", 1))
    count = floor_divide(value.sizes[axis] - size, step) + ONE
    return Value((*value.sizes[:axis], count, *value.sizes[axis + 1 :], size), value.rows)


def _where(operation: Operation) -> Value:
    """Inputs: condition, two tensors each with scale and zero point, the result's scale and zero point."""
    without_rows(operation, (2, 3, 5, 6, 7, 8))
    return broadcast(operation.need(0), operation.need(1), operation.need(4))


def _dynamic_transpose(operation: Operation) -> Value:
    """ConvTransposeWithDynamicPads: X, W, pads, B."""
    value = operation.need(0)
    parameters_without_rows(operation, 1)
    rows = batch_rows(value)
    channels = operation.need(1).sizes[1] * number(operation.integer("group", 1))
    return Value((value.sizes[0], channels, *(operation.unknown(axis) for axis in range(2, value.rank))), rows)


def _integers(operation: Operation) -> Value:
    return multiplied(operation.need(0), operation.need(1))


def _nhwc_max_pool(operation: Operation) -> Value:
    value = rules_vision.channels_first(operation.need(0))
    return rules_vision.channels_last(rules_vision.pooled(replace(operation, inputs=(value,))))


RULES: Table = {
    # As in ONNX, but the axis of ExpandDims is a scalar, and the step of Range is optional.
    "CropAndResize": rules_vision.RULES["RoiAlign"],
    "ExpandDims": rules_layout.RULES["Unsqueeze"],
    "GatherND": rules_pick.RULES["GatherND"],
    "GridSample": rules_vision.RULES["GridSample"],
    "Pad": rules_join.RULES["Pad"],
    "Range": rules_layout.RULES["Range"],
    "Trilu": rules_pick.RULES["Trilu"],
    "Unique": rules_pick.RULES["Unique"],
    "CDist": Rule(_distances),
    "ConvTransposeWithDynamicPads": Rule(_dynamic_transpose),
    "Inverse": Rule(_inverse),
    "MatMulInteger16": Rule(_integers),
    "MurmurHash3": Rule(_hash),
    "NhwcMaxPool": Rule(_nhwc_max_pool),
    "QLinearConv": rules_vision.RULES["QLinearConv"],
    "QLinearWhere": Rule(_where),
    "UnfoldTensor": Rule(_unfold),
}

"""Sequences of tensors of the same shape, represented by one of them; splits along the rows are not followed."""

from dataclasses import replace

from tailcut.engines.rows.operation import Operation, Rule, Table, axis_of
from tailcut.engines.rows.sizes import ONE, Size
from tailcut.engines.rows.values import Unclear, Value


def _split_to_sequence(operation: Operation) -> Value:
    """A split into single elements, into parts of one size, or into parts of listed sizes."""
    value = operation.need(0).untracked
    axis = axis_of(operation.integer("axis", 0), value.rank)
    rows = value.rows
    if rows is not None and rows.axis == axis:
        raise Unclear("splits the rows")
    if operation.value(1) is None and not operation.integer("keepdims", 1):
        moved = rows and rows.at(rows.axis - (axis < rows.axis))
        return replace(value, shape=(*value.sizes[:axis], *value.sizes[axis + 1 :]), rows=moved)
    part = ONE if operation.value(1) is None else _part(operation, value.sizes[axis])
    return replace(value, shape=(*value.sizes[:axis], part, *value.sizes[axis + 1 :]))


def _part(operation: Operation, whole: Size) -> Size:
    """The size of every part.

    Raises:
        Unclear: the parts are not known to have the same size.
    """
    parts = operation.items(1, "its sizes")
    first = parts[0]
    if any(part != first for part in parts) or not first.integer:
        raise Unclear("splits an axis into parts of several sizes")
    if not operation.need(1).rank and whole.over(first) is None:
        raise Unclear("splits an axis into parts of several sizes")
    return first


def _sequence_at(operation: Operation) -> Value:
    if operation.need(1).rows is not None:
        raise Unclear("takes a parameter from the rows")
    return operation.need(0)


def _construct(operation: Operation) -> Value:
    """A sequence of tensors with the same shape."""
    first, *others = operation.given
    if any(value.counts or value.impure for value in operation.given):
        raise Unclear("lists what a row shows of others")
    if any((value.sizes, value.rows) != (first.sizes, first.rows) for value in others):
        raise Unclear("lists tensors of several shapes")
    return Value(first.sizes, first.rows)


def _concatenated(operation: Operation) -> Value:
    """All tensors joined along another axis than the rows', or stacked along a new one."""
    value, new = operation.need(0), operation.integer("new_axis", 0)
    axis = axis_of(operation.attributes["axis"], value.rank + new)
    if value.rows is not None and value.rows.axis == axis and not new:
        raise Unclear("joins rows with other rows")
    count = operation.unknown(axis)  # the same for any rows
    shape = (*value.sizes[:axis], count, *value.sizes[axis + (0 if new else 1) :])
    moved = value.rows and value.rows.at(value.rows.axis + (1 if new and axis <= value.rows.axis else 0))
    return Value(shape, moved)


def _length(_: Operation) -> Value:
    return Value(())


RULES: Table = {
    "SequenceConstruct": Rule(_construct, counts=True, numbered=True, filled=True),
    "ConcatFromSequence": Rule(_concatenated),
    "SequenceLength": Rule(_length),
    "SplitToSequence": Rule(_split_to_sequence),
    "SequenceAt": Rule(_sequence_at),
}

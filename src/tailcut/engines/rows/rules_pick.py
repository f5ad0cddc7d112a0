"""Operators that read or write elements by index: allowed along other axes, but mixing along the rows."""

import numpy as np

from tailcut.engines.rows.operation import Operation, Rule, Table, axis_of
from tailcut.engines.rows.sizes import ONE, number
from tailcut.engines.rows.values import ITEMS, Mixes, RowAxis, Sizes, Unclear, Value, array, known


def _gather(operation: Operation) -> Value:
    value, indices = operation.need(0), operation.need(1)
    axis = axis_of(operation.integer("axis", 0), value.rank)
    if value.items is not None and indices.items is not None:
        places = [index.integer for index in indices.items.flat if index.integer is not None]
        if len(places) == indices.items.size:
            picked = np.take(value.items, np.array(places, np.intp), axis)
            shape = (*value.items.shape[:axis], *indices.items.shape, *value.items.shape[axis + 1 :])
            return known(picked.reshape(shape), real=value.real)
    value, indices = value.untracked, indices.untracked
    sizes = (*value.sizes[:axis], *indices.sizes, *value.sizes[axis + 1 :])
    if value.rows is not None and value.rows.axis == axis:
        return _gather_own(value, indices, axis, sizes)
    if value.numbered or indices.numbered:
        raise Mixes("computes with a row's place in the batch")
    if value.rows is not None and indices.rows is not None:
        raise Mixes("picks from each row what other rows name")
    if value.rows is not None:
        moved = value.rows.axis if value.rows.axis < axis else value.rows.axis + indices.rank - 1
        return Value(sizes, value.rows.at(moved), real=value.real, below=value.below)
    return Value(sizes, indices.rows and indices.rows.at(indices.rows.axis + axis), real=value.real, below=value.below)


def _gather_own(value: Value, indices: Value, axis: int, shape: Sizes) -> Value:
    """x[row numbers]: each row picks from itself if the index stays within the row's own part of the axis."""
    rows, position = value.rows, indices.position
    if rows is None or position is None or indices.rows is None:
        raise Mixes("picks rows by number")
    own = position.scale == rows.inner and (rows.inner - position.below).natural
    if rows.outer != ONE or not own or value.numbered:
        raise Unclear("picks rows by computed numbers")
    return Value(shape, indices.rows.at(indices.rows.axis + axis), real=value.real, below=value.below)


def _gather_elements(operation: Operation) -> Value:
    value, indices = operation.need(0), operation.need(1)
    axis = axis_of(operation.integer("axis", 0), value.rank)
    rows = _aligned((value, indices), axis)
    return Value(indices.sizes, rows, real=value.real, below=value.below)


def _scatter_elements(operation: Operation) -> Value:
    value = operation.need(0)
    axis = axis_of(operation.integer("axis", 0), value.rank)
    rows = _aligned((value, operation.need(1), operation.need(2)), axis)
    return Value(value.sizes, rows)


def _aligned(values: tuple[Value, ...], axis: int) -> RowAxis | None:
    """The row axis that all share, which must not be `axis`; None if none has rows."""
    row_axes = {value.rows for value in values}
    if row_axes == {None}:
        return None
    if len(row_axes) > 1:
        raise Mixes("picks elements across rows")
    rows = row_axes.pop()
    if rows is not None and rows.axis == axis:
        raise Mixes(f"picks elements by number along the row axis {axis}")
    return rows


def _gather_nd(operation: Operation) -> Value:
    value, indices = operation.need(0), operation.need(1)
    shared, depth = operation.integer("batch_dims", 0), indices.sizes[-1].integer
    if depth is None or value.numbered:
        raise Unclear("takes index tuples of unknown length")
    shape = (*indices.sizes[:-1], *value.sizes[shared + depth :])
    if value.rows is None and indices.rows is None:
        return Value(shape)
    if indices.rows is not None and indices.rows.axis == indices.rank - 1:
        raise Mixes("takes index tuples from several rows")
    if indices.leads:
        own = value.rows is not None and value.rows == RowAxis(0) and shared == 0
        if not own or indices.rows is None:
            raise Unclear("picks rows by computed numbers")
        return Value(shape, indices.rows)
    if value.rows is None:
        if shared:
            raise Mixes("works for a fixed number of rows only")
        return Value(shape, indices.rows)
    if value.rows.axis < shared and indices.rows == value.rows:
        return Value(shape, value.rows)
    if value.rows.axis >= shared + depth and indices.rows is None:
        return Value(shape, value.rows.at(value.rows.axis - shared - depth + indices.rank - 1))
    raise Mixes("picks rows by number")


def _scatter_nd(operation: Operation) -> Value:
    value, indices, updates = operation.need(0), operation.need(1), operation.need(2)
    depth = indices.sizes[-1].integer
    if depth is None or value.numbered or updates.numbered:
        raise Unclear("takes index tuples of unknown length")
    if value.rows is None:
        if indices.rows is None and updates.rows is None:
            return Value(value.sizes)
        raise Mixes("writes rows into a tensor without rows")
    if indices.leads:
        # Each row writes at its own row number: only rows that are counted from the front stay separate.
        if value.rows == RowAxis(0) and indices.rows is not None and updates.rows == indices.rows:
            return Value(value.sizes, value.rows)
        raise Unclear("writes rows by computed numbers")
    if indices.rows is None and value.rows.axis >= depth:
        row_axis = value.rows.axis - depth + indices.rank - 1
        if updates.rows is None or updates.rows == value.rows.at(row_axis):
            if updates.rows is None:
                raise Mixes("works for a fixed number of rows only")
            return Value(value.sizes, value.rows)
    raise Mixes("writes rows by number")


def _compress(operation: Operation) -> Value:
    value, condition = operation.need(0), operation.need(1)
    if value.rows is None and condition.rows is None:
        raise Unclear("keeps an unknown number of elements")
    axis = operation.attributes.get("axis")
    if condition.rows is not None or value.rows is None:
        raise Mixes("keeps as many elements as all rows together choose")
    if axis is None or axis_of(axis, value.rank) == value.rows.axis:
        raise Mixes("keeps rows by number")
    chosen_axis = axis_of(axis, value.rank)
    shape = tuple(
        operation.unknown(chosen_axis) if here == chosen_axis else size for here, size in enumerate(value.sizes)
    )
    return Value(shape, value.rows)


def _trilu(operation: Operation) -> Value:
    value = operation.need(0)
    if value.rows is not None and value.rows.axis >= value.rank - 2:
        raise Mixes("treats rows by their place")
    diagonal = operation.value(1)
    if diagonal is not None and diagonal.rows is not None:
        raise Unclear("takes a parameter from the rows")
    return Value(value.sizes, value.rows)


def _one_hot(operation: Operation) -> Value:
    indices, depth, values = operation.need(0), operation.items(1, "its depth")[0], operation.need(2)
    if depth.rows or indices.counts:
        raise Mixes("computes with the number of rows")
    if values.rows is not None:
        raise Unclear("takes a parameter from the rows")
    axis = axis_of(operation.integer("axis", -1), indices.rank + 1)
    shape = (*indices.sizes[:axis], depth, *indices.sizes[axis:])
    rows = indices.rows and indices.rows.at(indices.rows.axis + (1 if axis <= indices.rows.axis else 0))
    return Value(shape, rows)


def _reverse_sequence(operation: Operation) -> Value:
    value, lengths = operation.need(0), operation.need(1)
    batch, time = operation.integer("batch_axis", 1), operation.integer("time_axis", 0)
    if value.rows is None and lengths.rows is None:
        return Value(value.sizes)
    if value.rows is None or value.rows.axis == time:
        raise Mixes("reverses the order of rows")
    if value.rows.axis == batch:
        if lengths.rows != value.rows.at(0):
            raise Mixes("works for a fixed number of rows only")
    elif lengths.rows is not None:
        raise Mixes("takes lengths from other rows")
    return Value(value.sizes, value.rows)


def _found(operation: Operation) -> Value:
    """An operator that returns as many elements as it finds in all rows together."""
    if any(value.rows for value in operation.given):
        raise Mixes("finds as many elements as all rows together contain")
    raise Unclear("finds an unknown number of elements")


def _nonzero(operation: Operation) -> Value:
    """The indices of the non-zero elements of a weight: the same for any rows."""
    value = operation.need(0)
    if value.rows is not None:
        raise Mixes("finds as many elements as all rows together contain")
    if not value.rank:
        raise Unclear("finds an unknown number of elements")
    numbers = [] if value.items is None else [item.number for item in value.items.flat]
    if value.items is None or None in numbers:
        return Value((number(value.rank), operation.unknown(1)))
    places = np.argwhere(np.array([item != 0 for item in numbers]).reshape(value.items.shape)).T
    if places.size > ITEMS:
        return Value(tuple(map(number, places.shape)))
    return known(array([number(int(index)) for index in places.flat]).reshape(places.shape))


def _eye_like(operation: Operation) -> Value:
    value = operation.need(0)
    if value.rows is not None:
        raise Mixes("treats rows by their place")
    return Value(value.sizes)


RULES: Table = {
    "Gather": Rule(_gather, counts=True, numbered=True),
    "GatherElements": Rule(_gather_elements),
    "GatherND": Rule(_gather_nd, numbered=True),
    "Scatter": Rule(_scatter_elements),
    "ScatterElements": Rule(_scatter_elements),
    "ScatterND": Rule(_scatter_nd, numbered=True),
    "Compress": Rule(_compress),
    "Trilu": Rule(_trilu),
    "OneHot": Rule(_one_hot, counts=True),
    "ReverseSequence": Rule(_reverse_sequence),
    "NonZero": Rule(_nonzero),
    "Unique": Rule(_found),
    "NonMaxSuppression": Rule(_found),
    "EyeLike": Rule(_eye_like),
}

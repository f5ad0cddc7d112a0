"""Operators that join, slice and pad tensors along an axis; along the row axis, only whole groups of all rows."""

from dataclasses import replace

import numpy as np

from tailcut.engines.rows.operation import END, Operation, Rule, Table, axis_of
from tailcut.engines.rows.sizes import ONE, ROWS, ZERO, Size, floor_divide, number, opaque, smaller
from tailcut.engines.rows.values import ITEMS, Mixes, RowAxis, Sizes, Unclear, Value, known


def _concat(operation: Operation) -> Value:
    values = operation.given
    rank = values[0].rank
    axis = axis_of(operation.integer("axis", 1), rank)
    columns = [value.items for value in values if value.items is not None]
    if len(columns) == len(values) and sum(column.size for column in columns) <= ITEMS:
        return known(np.concatenate(columns, axis), real=any(value.real for value in values))
    if any(value.counts for value in values):
        raise Mixes("computes with the number of rows")
    leads = _leading(values, axis)
    row_axes = {value.rows for value in values}
    if None in row_axes and len(row_axes) > 1:
        raise Mixes("joins rows with a fixed number of rows")
    rows = values[0].rows
    size = sum((value.sizes[axis] for value in values), start=ZERO)
    if rows is not None and rows.axis == axis:
        rows = _stacked(values, axis)
    elif len(row_axes) > 1:
        raise Mixes("joins rows that lie in another order")
    shape = tuple(size if index == axis else other for index, other in enumerate(values[0].sizes))
    return Value(shape, rows, leads=leads)


def _leading(values: tuple[Value, ...], axis: int) -> bool:
    """Whether the result is index tuples whose first element is the row's own number."""
    first = values[0]
    if not any(value.numbered for value in values):
        return False
    alone = first.position is not None and first.position.scale == ONE and first.position.below == ONE
    proper = axis == first.rank - 1 and (first.leads or (alone and first.sizes[-1] == ONE))
    if not proper or any(value.numbered for value in values[1:]):
        raise Unclear("joins rows' places in the batch in a way that cannot be followed")
    return True


def _stacked(values: tuple[Value, ...], axis: int) -> RowAxis:
    """Rows joined along the row axis: `[rows]` and `[rows]` become `[2 * rows]`, with outer = 2."""
    every = [value.rows for value in values if value.rows is not None]
    if any(rows.axis != axis or rows.inner != every[0].inner for rows in every):
        raise Mixes("joins rows that lie in another order")
    return RowAxis(axis, sum((rows.outer for rows in every[1:]), start=every[0].outer), every[0].inner)


def _split(operation: Operation) -> list[Value]:
    value, count = operation.need(0), len(operation.outputs)
    axis = axis_of(operation.integer("axis", 0), value.rank)
    whole = value.sizes[axis]
    if "split" in operation.attributes:
        parts: Sizes = tuple(number(size) for size in operation.attributes["split"])
    elif operation.value(1) is not None:
        parts = operation.items(1, "its sizes")
    else:
        parts = _equal_parts(whole, count)
    sizes = [part.integer for part in parts if part.integer is not None]
    if value.items is not None and len(sizes) == len(parts):
        return [known(piece, real=value.real) for piece in np.split(value.items, np.cumsum(sizes)[:-1], axis)]
    value = value.untracked
    answers, start = [], ZERO
    for part in parts:
        answers.append(_piece(value, axis, start, start + part))
        start = start + part
    return answers


def _equal_parts(whole: Size, count: int) -> Sizes:
    each = whole.over(number(count))
    if each is not None:
        return (each,) * count
    if whole.integer is None:
        raise Unclear("splits an axis into parts that cannot be followed")
    longest = -(-whole.integer // count)
    return (*(number(longest),) * (count - 1), number(whole.integer - longest * (count - 1)))


def _piece(value: Value, axis: int, start: Size, end: Size) -> Value:
    """Elements `start` to `end` along an axis; along the rows, only whole groups of all rows may be removed."""
    rows = value.rows
    if rows is not None and rows.axis == axis:
        step = ROWS * rows.inner
        first, last = start.over(step), end.over(step)
        if first is None or last is None:
            if start.integer or end.integer:
                raise Mixes("picks rows by their place")
            raise Unclear("cuts the rows in a way that cannot be followed")
        if not (first.natural and (last - first).natural and (rows.outer - last).natural):
            raise Unclear("cuts the rows in a way that cannot be followed")
        rows = replace(rows, outer=last - first)
    if value.leads and axis == value.rank - 1:
        raise Unclear("cuts index tuples")
    length = end - start
    if length.integer is not None and length.integer < 0:
        length = ZERO
    shape = tuple(length if index == axis else size for index, size in enumerate(value.sizes))
    return replace(value, shape=shape, rows=rows, items=None)


def _slice(operation: Operation) -> Value:
    value = operation.need(0)
    bounds: list[Sizes] = []
    for index, name in enumerate(("starts", "ends"), start=1):
        fixed = operation.attributes.get(name)
        bounds.append(operation.items(index, name) if fixed is None else tuple(number(item) for item in fixed))
    starts, ends = bounds
    axes = operation.ints("axes", 3) or tuple(range(len(starts)))
    steps = operation.ints("steps", 4) or (1,) * len(starts)
    if value.items is not None:
        items = _sliced_items(value.items, axes, starts, ends, steps)
        if items is not None:
            return known(items, real=value.real)
        value = value.untracked
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        value = _cut(value, axis_of(axis, value.rank), start, end, step)
    return value


def _sliced_items(
    items: np.ndarray, axes: tuple[int, ...], starts: Sizes, ends: Sizes, steps: tuple[int, ...]
) -> np.ndarray | None:
    windows = [slice(None)] * items.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        first, last = start.integer, end.integer
        if first is None or last is None:
            return None
        # With a negative step, an end before the first element is written as a number below -length.
        to_start = step < 0 and last < -items.shape[axis]
        windows[axis] = slice(first, None if to_start else last, step)
    window: np.ndarray = items[tuple(windows)]
    return window


def _cut(value: Value, axis: int, start: Size, end: Size, step: int) -> Value:
    size = value.sizes[axis]
    along_rows = value.rows is not None and value.rows.axis == axis
    first, last = _bound(start, size), _bound(end, size)
    if step == 1:
        if first == ZERO and last == size:
            return value
        if first is not None and last is not None and (along_rows or _within(first, size)):
            return _piece(value, axis, first, last if along_rows else _end(last, size))
    if along_rows:
        if first is None or last is None:
            raise Unclear("cuts the rows in a way that cannot be followed")
        raise Mixes("picks rows by their place")
    if value.leads and axis == value.rank - 1:
        raise Unclear("cuts index tuples")
    length = _stepped(first, last, size, step)
    if length is None:
        length = opaque("cut", size, start, end, number(step))
    shape = tuple(length if index == axis else size for index, size in enumerate(value.sizes))
    return replace(value, shape=shape, items=None)


def _bound(bound: Size, size: Size) -> Size | None:
    """A start or an end counted from the front; None if it is unknown."""
    if bound.integer is not None:
        if bound.integer >= END:
            return size
        return bound if bound.integer >= 0 else _from_behind(bound, size)
    return bound if bound.natural else None


def _from_behind(bound: Size, size: Size) -> Size | None:
    if size.integer is not None and bound.integer is not None:
        return number(max(size.integer + bound.integer, 0))
    return ZERO if bound.integer is not None and bound.integer <= -END else size + bound


def _within(first: Size, size: Size) -> bool:
    return first.integer is not None and (size.integer is None or first.integer <= size.integer)


def _end(last: Size, size: Size) -> Size:
    """The end, clipped to the axis; a single element is assumed to exist."""
    return last if last == ONE and size.integer is None else smaller(last, size)


def _stepped(first: Size | None, last: Size | None, size: Size, step: int) -> Size | None:
    if first is None or last is None or step < 1 or not _within(first, size):
        return None
    return floor_divide(_end(last, size) - first + number(step - 1), number(step))


def _pad(operation: Operation) -> Value:
    value = operation.need(0)
    if "pads" in operation.attributes or "paddings" in operation.attributes:
        pads: Sizes = tuple(
            number(pad) for pad in operation.attributes.get("pads", operation.attributes.get("paddings"))
        )
    else:
        pads = operation.items(1, "its pads")
    if value.counts:
        raise Mixes("computes with the number of rows")
    axes = operation.ints("axes", 3)
    places = range(value.rank) if axes is None else [axis_of(axis, value.rank) for axis in axes]
    shape, count = list(value.sizes), len(pads) // 2
    for index, axis in enumerate(places):
        before, behind = pads[index], pads[index + count]
        if value.rows is not None and axis == value.rows.axis and not (before == behind == ZERO):
            raise Mixes("adds rows")
        if before.rows or behind.rows:
            raise Mixes("computes with the number of rows")
        shape[axis] = shape[axis] + before + behind
    constant = operation.value(2)
    if constant is not None and constant.rows is not None:
        raise Unclear("takes a parameter from the rows")
    return Value(tuple(shape), value.rows)


def _center_crop_pad(operation: Operation) -> Value:
    value, sizes = operation.need(0), operation.items(1, "its shape")
    axes = operation.ints("axes", None) or tuple(range(value.rank))
    shape = list(value.sizes)
    for axis, size in zip((axis_of(axis, value.rank) for axis in axes), sizes, strict=True):
        if value.rows is not None and axis == value.rows.axis and size != value.rows.size:
            raise Mixes("cuts or adds rows")
        shape[axis] = size
    return Value(tuple(shape), value.rows)


RULES: Table = {
    "Concat": Rule(_concat, counts=True, numbered=True),
    "Split": Rule(_split, counts=True),
    "Slice": Rule(_slice, counts=True, numbered=True),
    "Pad": Rule(_pad, counts=True),
    "CenterCropPad": Rule(_center_crop_pad, counts=True),
}

"""Operators that pick, join and cut elements along an axis: harmless beside the rows, mixing along them."""

from dataclasses import replace

import numpy as np

from tailcut.engines.rows.operation import END, Operation, Rule, Table, axis_of
from tailcut.engines.rows.sizes import ONE, ROWS, ZERO, Size, floor_divide, number, opaque, smaller
from tailcut.engines.rows.values import ITEMS, Mixes, RowAxis, Sizes, Unclear, Value, array, known


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
    found = {value.rows for value in values}
    if None in found and len(found) > 1:
        raise Mixes("joins rows with a fixed number of rows")
    rows = values[0].rows
    size = sum((value.sizes[axis] for value in values), start=ZERO)
    if rows is not None and rows.axis == axis:
        rows = _stacked(values, axis)
    elif len(found) > 1:
        raise Mixes("joins rows that lie in another order")
    shape = tuple(size if place == axis else one for place, one in enumerate(values[0].sizes))
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
    """Rows behind rows: `[rows]` and `[rows]` become `[2 * rows]`, with outer = 2."""
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
    if value.items is not None:
        return _split_items(value.items, parts, axis, real=value.real)
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


def _split_items(items: np.ndarray, parts: Sizes, axis: int, *, real: bool) -> list[Value]:
    sizes = [part.integer for part in parts]
    if None in sizes:
        raise Unclear("splits a shape in a way that cannot be followed")
    return [known(piece, real=real) for piece in np.split(items, np.cumsum(sizes)[:-1], axis)]


def _piece(value: Value, axis: int, start: Size, end: Size) -> Value:
    """Elements start to end along an axis. Along the rows only whole groups of all rows may be cut off."""
    rows = value.rows
    if rows is not None and rows.axis == axis:
        step = ROWS * rows.inner
        first, last = start.over(step), end.over(step)
        if first is None or last is None:
            raise Mixes("picks rows by their place")
        if not (first.natural and (last - first).natural and (rows.outer - last).natural):
            raise Unclear("cuts the rows in a way that cannot be followed")
        rows = replace(rows, outer=last - first)
    if value.leads and axis == value.rank - 1:
        raise Unclear("cuts index tuples")
    length = end - start
    if length.integer is not None and length.integer < 0:
        length = ZERO
    shape = tuple(length if place == axis else size for place, size in enumerate(value.sizes))
    return replace(value, shape=shape, rows=rows, items=None)


def _slice(operation: Operation) -> Value:
    value = operation.need(0)
    bounds: list[Sizes] = []
    for place, name in enumerate(("starts", "ends"), start=1):
        fixed = operation.attributes.get(name)
        bounds.append(operation.items(place, name) if fixed is None else tuple(number(item) for item in fixed))
    starts, ends = bounds
    axes = operation.ints("axes", 3) or tuple(range(len(starts)))
    steps = operation.ints("steps", 4) or (1,) * len(starts)
    if value.items is not None:
        return known(_sliced_items(value.items, axes, starts, ends, steps), real=value.real)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        value = _cut(value, axis_of(axis, value.rank), start, end, step)
    return value


def _sliced_items(
    items: np.ndarray, axes: tuple[int, ...], starts: Sizes, ends: Sizes, steps: tuple[int, ...]
) -> np.ndarray:
    windows = [slice(None)] * items.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        first, last = start.integer, end.integer
        if first is None or last is None:
            raise Unclear("cuts a shape in a way that cannot be followed")
        # Counted backwards, an end before the first element is written as a number below -length.
        to_start = step < 0 and last < -items.shape[axis]
        windows[axis] = slice(first, None if to_start else last, step)
    return items[tuple(windows)]


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
        raise Mixes("picks rows by their place")
    if value.leads and axis == value.rank - 1:
        raise Unclear("cuts index tuples")
    length = _stepped(first, last, size, step)
    if length is None:
        length = _cut_length(size, start, end, step)
    shape = tuple(length if place == axis else one for place, one in enumerate(value.sizes))
    return replace(value, shape=shape, items=None)


def _bound(bound: Size, size: Size) -> Size | None:
    """A start or an end counted from the front, or None where that is not known."""
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
    """The end within the axis. A single element is taken to be there."""
    return last if last == ONE and size.integer is None else smaller(last, size)


def _stepped(first: Size | None, last: Size | None, size: Size, step: int) -> Size | None:
    if first is None or last is None or step < 1 or not _within(first, size):
        return None
    return floor_divide(_end(last, size) - first + number(step - 1), number(step))


def _cut_length(size: Size, start: Size, end: Size, step: int) -> Size:
    return opaque("cut", size, start, end, number(step))


def _gather(operation: Operation) -> Value:
    value, indices = operation.need(0), operation.need(1)
    axis = axis_of(operation.integer("axis", 0), value.rank)
    if value.items is not None and indices.items is not None:
        return known(_gathered_items(value, indices, axis), real=value.real)
    if value.counts or indices.counts:
        raise Mixes("computes with the number of rows")
    shape = (*value.sizes[:axis], *indices.sizes, *value.sizes[axis + 1 :])
    if value.rows is not None and value.rows.axis == axis:
        return _gather_own(value, indices, axis, shape)
    if value.numbered or indices.numbered:
        raise Mixes("computes with a row's place in the batch")
    if value.rows is not None and indices.rows is not None:
        raise Mixes("picks from each row what other rows name")
    if value.rows is not None:
        moved = value.rows.axis if value.rows.axis < axis else value.rows.axis + indices.rank - 1
        return Value(shape, value.rows.at(moved), below=value.below)
    return Value(shape, indices.rows and indices.rows.at(indices.rows.axis + axis))


def _gather_own(value: Value, indices: Value, axis: int, shape: Sizes) -> Value:
    """x[row numbers]: each row picks from itself, where the index stays within the row's own part of the axis."""
    rows, position = value.rows, indices.position
    if rows is None or position is None or indices.rows is None:
        raise Mixes("picks rows by number")
    own = position.scale == rows.inner and (position.below in (ONE, rows.inner))
    if rows.outer != ONE or not own or value.numbered:
        raise Unclear("picks rows by computed numbers")
    return Value(shape, indices.rows.at(indices.rows.axis + axis), below=value.below)


def _gathered_items(value: Value, indices: Value, axis: int) -> np.ndarray:
    assert value.items is not None and indices.items is not None  # noqa: S101, PT018  for mypy
    places = [index.integer for index in indices.items.flat]
    if None in places:
        raise Mixes("computes with the number of rows") if value.counts else Unclear("picks sizes by number")
    found = np.take(value.items, np.array(places, np.intp).reshape(indices.items.shape), axis)
    return found if isinstance(found, np.ndarray) else array([found]).reshape(())


def _gather_elements(operation: Operation) -> Value:
    value, indices = operation.need(0), operation.need(1)
    axis = axis_of(operation.integer("axis", 0), value.rank)
    rows = _aligned(operation, (value, indices), axis)
    return Value(indices.sizes, rows, below=value.below)


def _scatter_elements(operation: Operation) -> Value:
    value = operation.need(0)
    axis = axis_of(operation.integer("axis", 0), value.rank)
    rows = _aligned(operation, (value, operation.need(1), operation.need(2)), axis)
    return Value(value.sizes, rows)


def _aligned(operation: Operation, values: tuple[Value, ...], axis: int) -> RowAxis | None:
    """The row axis that all share beside `axis`; None where none has rows."""
    found = {value.rows for value in values}
    if found == {None}:
        return None
    if len(found) > 1:
        raise Mixes("picks elements across rows")
    rows = found.pop()
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
        # Each row writes at its own number: only rows that are counted from the front keep to themselves.
        if value.rows == RowAxis(0) and indices.rows is not None and updates.rows == indices.rows:
            return Value(value.sizes, value.rows)
        raise Unclear("writes rows by computed numbers")
    if indices.rows is None and value.rows.axis >= depth:
        place = value.rows.axis - depth + indices.rank - 1
        if updates.rows is None or updates.rows == value.rows.at(place):
            return _written(value, updates, place)
    raise Mixes("writes rows by number")


def _written(value: Value, updates: Value, place: int) -> Value:
    if updates.rows is None:
        raise Mixes("works for a fixed number of rows only")
    return Value(value.sizes, value.rows)


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
    for place, axis in enumerate(places):
        before, behind = pads[place], pads[place + count]
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


def _compress(operation: Operation) -> Value:
    value, condition = operation.need(0), operation.need(1)
    if value.rows is None and condition.rows is None:
        raise Unclear("keeps an unknown number of elements")
    axis = operation.attributes.get("axis")
    if condition.rows is not None or value.rows is None:
        raise Mixes("keeps as many elements as all rows together choose")
    if axis is None or axis_of(axis, value.rank) == value.rows.axis:
        raise Mixes("keeps rows by number")
    place = axis_of(axis, value.rank)
    shape = tuple(operation.unknown(place) if here == place else size for here, size in enumerate(value.sizes))
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
    """As many elements as are found in all rows together."""
    if any(value.rows for value in operation.given):
        raise Mixes("finds as many elements as all rows together contain")
    raise Unclear("finds an unknown number of elements")


def _eye_like(operation: Operation) -> Value:
    value = operation.need(0)
    if value.rows is not None:
        raise Mixes("treats rows by their place")
    return Value(value.sizes)


RULES: Table = {
    "Concat": Rule(_concat, counts=True, numbered=True),
    "Split": Rule(_split, counts=True),
    "Slice": Rule(_slice, counts=True, numbered=True),
    "Gather": Rule(_gather, counts=True, numbered=True),
    "GatherElements": Rule(_gather_elements),
    "GatherND": Rule(_gather_nd, numbered=True),
    "Scatter": Rule(_scatter_elements),
    "ScatterElements": Rule(_scatter_elements),
    "ScatterND": Rule(_scatter_nd, numbered=True),
    "Pad": Rule(_pad, counts=True),
    "CenterCropPad": Rule(_center_crop_pad, counts=True),
    "Compress": Rule(_compress),
    "Trilu": Rule(_trilu),
    "OneHot": Rule(_one_hot, counts=True),
    "ReverseSequence": Rule(_reverse_sequence),
    "NonZero": Rule(_found),
    "Unique": Rule(_found),
    "NonMaxSuppression": Rule(_found),
    "EyeLike": Rule(_eye_like),
}

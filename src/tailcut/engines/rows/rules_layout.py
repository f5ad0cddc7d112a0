"""Operators that move and regroup elements without computing: where the rows are afterwards."""

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite, prod

import numpy as np

from tailcut.engines.rows.operation import Operation, Rule, Table, axis_of
from tailcut.engines.rows.rules_text import flattened_tokens
from tailcut.engines.rows.sizes import ONE, ROWS, Size, floor_divide, number, opaque, product
from tailcut.engines.rows.values import (
    ITEMS,
    Mixes,
    Position,
    RowAxis,
    Sizes,
    Unclear,
    Value,
    array,
    broadcast,
    known,
    vector,
)


def regroup(value: Value, target: Sequence[Size | None]) -> Value:
    """The same elements in row-major order with another shape; None is the size that follows from the others (-1).

    Rows stay separate if the product of the sizes before the new row axis divides that before the old one, and likewise
    after it: `[rows, 12]` may become `[rows * 3, 4]`, but not `[2, rows * 6]`.

    Raises:
        Mixes: the groups cut through rows.
        Unclear: the sizes cannot be compared.
    """
    if value.rows is None:
        return Value(_row_free_shape(value, target))
    before, behind = value.groups
    sizes = _resolved(before * ROWS * behind, target)
    with_rows = [axis for axis, size in enumerate(sizes) if size.rows]
    if not with_rows:
        raise Mixes("expects a fixed number of rows")
    axis = with_rows[0]
    if len(with_rows) > 1 or sizes[axis].per_row is None:
        raise Unclear("regroups the rows in a way that cannot be followed")
    outer, inner = _factors(value.groups, target, sizes, axis)
    if inner is None or outer is None:
        if all(size.integer is not None for size in (before, behind, *sizes[:axis], *sizes[axis + 1 :])):
            raise Mixes("regroups elements across rows")
        raise Unclear("regroups the rows in a way that cannot be followed")
    return Value(sizes, RowAxis(axis, outer, inner))


def _factors(
    groups: tuple[Size, Size], target: Sequence[Size | None], sizes: Sizes, axis: int
) -> tuple[Size | None, Size | None]:
    """The factors before and after the rows on their new axis; None for one that is not certainly an integer.

    If the target names the size of the row axis, one side suffices, because the number of elements stays the same.
    """
    (before, behind), per_row = groups, sizes[axis].per_row
    outer = None if None in target[:axis] else before.over(product(sizes[:axis]))
    inner = None if None in target[axis + 1 :] else behind.over(product(sizes[axis + 1 :]))
    if target[axis] is None or per_row is None:
        return outer, inner
    if outer is not None:
        return outer, per_row.over(outer)
    return (None if inner is None else per_row.over(inner)), inner


def _resolved(total: Size, target: Sequence[Size | None]) -> Sizes:
    """The target with the size that follows from the number of elements."""
    if target.count(None) > 1:
        raise Unclear("has two sizes of -1")
    known = product(size for size in target if size is not None)
    following = total.over(known)
    if None in target and following is None:
        if total.rows and not known.rows:
            numbers = total.per_row.integer if total.per_row is not None else None, known.integer
            if None not in numbers:
                raise Mixes("regroups elements across rows")
            raise Unclear("regroups the rows in a way that cannot be followed")
        # The number of rows cancels if both contain it once.
        parts = total.per_row, known.per_row
        if parts[0] is None or parts[1] is None:
            parts = total, known
        following = opaque("quotient", *(part for part in parts if part is not None))
    return tuple((following or ONE) if size is None else size for size in target)


def _row_free_shape(value: Value, target: Sequence[Size | None]) -> Sizes:
    if any(size is not None and size.rows for size in target):
        raise Mixes("expects a fixed number of rows")
    total = product(value.sizes)
    return _resolved(total, target)


def _reshape(operation: Operation) -> Value:
    value = operation.need(0)
    if "shape" in operation.attributes:
        items: Sizes = tuple(number(size) for size in operation.attributes["shape"])
    else:
        items = operation.items(1, "its target shape")
    target: list[Size | None] = []
    for index, size in enumerate(items):
        if size.integer == 0 and not operation.integer("allowzero", 0):
            target.append(value.sizes[index])
        else:
            target.append(None if size.integer == -1 else size)
    if value.items is not None:
        numbers = [-1 if size is None else size.integer for size in target]
        if None not in numbers:
            return known(value.items.reshape([size for size in numbers if size is not None]), real=value.real)
        value = value.untracked
    if value.shape is None and None not in target:
        return Value(tuple(size for size in target if size is not None))
    if value.leads and (not target or target[-1] != value.sizes[-1]):
        raise Unclear("regroups index tuples")
    result = regroup(value, target)
    return replace(value, shape=result.shape, rows=result.rows)


def _flatten(operation: Operation) -> Value:
    value = operation.need(0)
    axis = operation.integer("axis", 1)
    axis = axis if axis >= 0 else axis + value.rank
    if value.filler is not None:
        return flattened_tokens(value, axis)
    return regroup(value, [product(value.sizes[:axis]), product(value.sizes[axis:])])


def _transpose(operation: Operation) -> Value:
    value = operation.need(0)
    permutation = operation.ints("perm", None) or tuple(reversed(range(value.rank)))
    if sorted(permutation) != list(range(value.rank)):
        raise Unclear("names other axes than its input has")
    if value.leads and permutation[-1] != value.rank - 1:
        raise Unclear("transposes index tuples")
    if value.items is not None:
        return known(value.items.transpose(permutation), real=value.real)
    rows = value.rows and value.rows.at(permutation.index(value.rows.axis))
    return replace(value, shape=tuple(value.sizes[axis] for axis in permutation), rows=rows)


def _squeeze(operation: Operation) -> Value:
    value = operation.need(0)
    axes = operation.ints("axes", 1)
    if axes is None:
        if value.rows is not None:
            raise Mixes("drops the row axis where there is one row")
        if any(size.integer is None for size in value.sizes):
            raise Unclear("drops axes of length 1, which cannot be determined")
        axes = tuple(axis for axis, size in enumerate(value.sizes) if size.integer == 1)
    gone = {axis_of(axis, value.rank) for axis in axes}
    if value.rows is not None and value.rows.axis in gone:
        raise Mixes("expects one row: it drops the row axis")
    if value.leads and value.rank - 1 in gone:
        raise Unclear("drops an axis of index tuples")
    if value.items is not None:
        return known(value.items.squeeze(tuple(gone)), real=value.real)
    kept = [axis for axis in range(value.rank) if axis not in gone]
    rows = value.rows and value.rows.at(kept.index(value.rows.axis))
    return replace(value, shape=tuple(value.sizes[axis] for axis in kept), rows=rows)


def _unsqueeze(operation: Operation) -> Value:
    value = operation.need(0)
    axes = operation.ints("axes", 1) or ()
    rank = value.rank + len(axes)
    new = {axis_of(axis, rank) for axis in axes}
    if value.items is not None:
        return known(np.expand_dims(value.items, tuple(new)), real=value.real)
    if value.leads and rank - 1 in new:
        raise Unclear("adds an axis behind index tuples")
    old = [axis for axis in range(rank) if axis not in new]
    shape = [ONE] * rank
    for index, axis in enumerate(old):
        shape[axis] = value.sizes[index]
    rows = value.rows and value.rows.at(old[value.rows.axis])
    return replace(value, shape=tuple(shape), rows=rows)


def _expand(operation: Operation) -> Value:
    value, target = operation.need(0), operation.items(1, "its target shape")
    if any(size.number is not None and not size.natural for size in target):
        raise Unclear("takes a target shape that cannot be followed")
    result = broadcast(value, _filled(target, value))
    if value.items is not None:
        shape = [size.integer for size in result.sizes if size.integer is not None]
        if len(shape) == result.rank and prod(shape) <= ITEMS:
            return known(np.broadcast_to(value.items, shape), real=value.real)
    if value.counts:
        raise Mixes("computes with the number of rows")
    if value.leads and result.sizes[-1] != value.sizes[-1]:
        raise Unclear("expands index tuples")
    return replace(value, shape=result.shape, rows=result.rows, items=None)


def _filled(target: Sizes, like: Value | None = None) -> Value:
    """A tensor of one repeated value; its rows, if it has any, are equal and may be grouped like another tensor's."""
    axes = [axis for axis, size in enumerate(target) if size.rows]
    if not axes:
        return Value(target)
    per_row = target[axes[0]].per_row
    if len(axes) > 1 or per_row is None:
        raise Unclear("makes a tensor whose rows cannot be followed")
    if like is not None and like.rows is not None and like.rows.size == target[axes[0]]:
        return Value(target, like.rows.at(axes[0]))
    # Repeated values may be grouped in any way; this one suits what usually follows in exports: [rows * heads, ...].
    return Value(target, RowAxis(axes[0], ONE, per_row))


def _constant_of_shape(operation: Operation) -> Value:
    target = operation.items(0, "its shape")
    result = _filled(target)
    fill = operation.attributes.get("value")
    count = product(target).integer
    if count is not None and count <= ITEMS and result.rows is None:
        filler = 0.0 if fill is None else fill.item()
        if isinstance(filler, int | float) and isfinite(filler):
            items = array([number(filler)] * count).reshape([size.factor.numerator for size in target])
            return known(items, real=isinstance(filler, float))
    return result


def _tile(operation: Operation) -> Value:
    value, repeats = operation.need(0), operation.items(1, "its repeats")
    if value.counts or len(repeats) != value.rank:
        raise Unclear("repeats a shape in a way that cannot be followed")
    rows, shape = value.rows, []
    if value.leads and repeats[-1].integer != 1:
        raise Unclear("repeats index tuples")
    for axis, (size, times) in enumerate(zip(value.sizes, repeats, strict=True)):
        if times.rows:
            if times.per_row is None or rows is not None:
                raise Mixes("repeats rows as often as there are rows")
            rows = RowAxis(axis, ONE, times.per_row * size)
        elif rows is not None and axis == rows.axis:
            rows = RowAxis(axis, rows.outer * times, rows.inner)
        shape.append(size * times)
    return replace(value, shape=tuple(shape), rows=rows, items=None)


def _shape(operation: Operation) -> Value:
    sizes = operation.need(0).sizes
    start, end = operation.integer("start", 0), operation.integer("end", len(sizes))
    items = sizes[start:end]
    return vector(items)


def _size(operation: Operation) -> Value:
    return known(array([product(operation.need(0).sizes)]).reshape(()))


def _range(operation: Operation) -> Value:
    (start,), (limit,) = (operation.items(index, "its limits") for index in range(2))
    (delta,) = (ONE,) if operation.value(2) is None else operation.items(2, "its step")
    real = operation.need(0).real
    if delta.integer is None or not (start.whole and limit.whole) or (real and (start.rows or limit.rows)):
        raise Mixes("counts the rows") if start.rows or limit.rows else Unclear("counts in broken steps")
    count = limit - start
    if delta.integer != 1:
        count = floor_divide(count + number(delta.integer - 1), delta)
    if not (count.rows or start.rows):
        length, first = count.integer, start.integer
        if length is not None and first is not None and 0 <= length <= ITEMS:
            return vector([number(first + delta.integer * index) for index in range(length)], real=real)
        return Value((count,), real=real, below=limit if start.natural and delta.integer > 0 else None)
    return _row_numbers(start, count, delta)


def _row_numbers(start: Size, count: Size, delta: Size) -> Value:
    per_row = count.per_row
    if start.integer != 0 or delta != ONE or per_row is None:
        raise Mixes("counts the rows")
    return Value((count,), RowAxis(0, ONE, per_row), position=Position(per_row, per_row))


RULES: Table = {
    "Reshape": Rule(_reshape, counts=True, numbered=True),
    "Flatten": Rule(_flatten, filled=True),
    "Transpose": Rule(_transpose, counts=True, numbered=True),
    "Squeeze": Rule(_squeeze, counts=True, numbered=True),
    "Unsqueeze": Rule(_unsqueeze, counts=True, numbered=True),
    "Expand": Rule(_expand, counts=True, numbered=True),
    "Tile": Rule(_tile, counts=True, numbered=True),
    "ConstantOfShape": Rule(_constant_of_shape, counts=True),
    "Shape": Rule(_shape, counts=True, numbered=True),
    "Size": Rule(_size, counts=True, numbered=True),
    "Range": Rule(_range, counts=True),
}

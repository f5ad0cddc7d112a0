"""Operators that combine elements along axes: reductions, softmax, cumulative sums, searches and sorting."""

from functools import reduce

import numpy as np

from tailcut.engines.rows.operation import Operation, Rule, Table, axis_of
from tailcut.engines.rows.sizes import ONE, Size, larger, number, smaller
from tailcut.engines.rows.values import Mixes, Sizes, Unclear, Value, array, known

_FOLDS = {"ReduceProd": Size.__mul__, "ReduceSum": Size.__add__, "ReduceMax": larger, "ReduceMin": smaller}


def _reduce(operation: Operation) -> Value:
    value = operation.need(0)
    axes = operation.ints("axes", 1)
    if not axes:
        if operation.integer("noop_with_empty_axes", 0):
            return value
        axes = tuple(range(value.rank))
    over = sorted({axis_of(axis, value.rank) for axis in axes})
    keep = bool(operation.integer("keepdims", 1))
    if value.items is not None:
        return _reduced_items(operation, value, tuple(over), keep=keep)
    if value.counts:
        raise Mixes("computes with the number of rows")
    return _dropped(value, over, keep=keep)


def _dropped(value: Value, over: list[int], *, keep: bool, below: Size | None = None) -> Value:
    """The value with some axes reduced to one element each. Raises Mixes if the row axis is one of them."""
    rows = value.rows
    if rows is not None and rows.axis in over:
        raise Mixes("mixes the rows", f"over axis {rows.axis}")
    if keep:
        return Value(tuple(ONE if axis in over else size for axis, size in enumerate(value.sizes)), rows, below=below)
    kept = [axis for axis in range(value.rank) if axis not in over]
    return Value(tuple(value.sizes[axis] for axis in kept), rows and rows.at(kept.index(rows.axis)), below=below)


def _reduced_items(operation: Operation, value: Value, over: tuple[int, ...], *, keep: bool) -> Value:
    fold = _FOLDS.get(operation.kind)
    if fold is None or value.items is None:
        if value.counts:
            raise Mixes("computes with the number of rows")
        return _dropped(value, list(over), keep=keep)
    kept = [axis for axis in range(value.rank) if axis not in over]
    shape = [value.items.shape[axis] for axis in kept]
    columns = value.items.transpose(*kept, *over).reshape(*shape, -1)
    folded = array([reduce(fold, columns[index]) for index in np.ndindex(*shape)]).reshape(shape)
    return known(np.expand_dims(folded, over) if keep else folded, real=value.real)


def _softmax(operation: Operation) -> Value:
    """Up to opset 12 over all axes from `axis` on, later over `axis` alone."""
    value = operation.need(0)
    flattens = operation.opset < 13
    axis = axis_of(operation.integer("axis", 1 if flattens else -1), value.rank)
    if value.rows is not None and (value.rows.axis >= axis if flattens else value.rows.axis == axis):
        raise Mixes("mixes the rows", f"over axis {value.rows.axis}")
    return Value(value.sizes, value.rows)


def along(operation: Operation, axis: int) -> Value:
    """An operator that combines elements along one axis and keeps the shape."""
    value = operation.need(0)
    if value.rows is not None and value.rows.axis == axis_of(axis, value.rank):
        raise Mixes("mixes the rows", f"over axis {value.rows.axis}")
    if any(given.rows is not None for given in operation.given[1:]):
        raise Unclear("takes a parameter from the rows")
    return Value(value.sizes, value.rows)


def _cumulative(operation: Operation) -> Value:
    axes = operation.ints("axis", 1)
    if axes is None or len(axes) != 1:
        raise Unclear("sums along an axis that cannot be followed")
    return along(operation, axes[0])


def _lp_normalization(operation: Operation) -> Value:
    return along(operation, operation.integer("axis", -1))


def _mean_variance(operation: Operation) -> Value:
    value = operation.need(0)
    axes = {axis_of(axis, value.rank) for axis in operation.ints("axes", None) or (0, 2, 3)}
    if value.rows is not None and value.rows.axis in axes:
        raise Mixes("mixes the rows", f"over axis {value.rows.axis}")
    return Value(value.sizes, value.rows)


def _arg(operation: Operation) -> Value:
    value = operation.need(0)
    axis = axis_of(operation.integer("axis", 0), value.rank)
    return _dropped(value, [axis], keep=bool(operation.integer("keepdims", 1)), below=value.sizes[axis])


def _top_k(operation: Operation) -> list[Value]:
    value = operation.need(0)
    axis = axis_of(operation.integer("axis", -1), value.rank)
    count = operation.ints("k", None)
    k = number(count[0]) if count else operation.items(1, "its count")[0]
    if value.rows is not None and value.rows.axis == axis:
        raise Mixes("mixes the rows", f"over axis {axis}")
    if k.rows:
        raise Mixes("computes with the number of rows")
    shape: Sizes = tuple(k if index == axis else size for index, size in enumerate(value.sizes))
    return [Value(shape, value.rows), Value(shape, value.rows, below=value.sizes[axis])]


_REDUCTIONS = (
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum"),
    *("ReduceLogSumExp", "ReduceSumSquare"),
)

RULES: Table = {
    **{kind: Rule(_reduce, counts=True) for kind in _REDUCTIONS},
    "Softmax": Rule(_softmax),
    "LogSoftmax": Rule(_softmax),
    "Hardmax": Rule(_softmax),
    "CumSum": Rule(_cumulative),
    "CumProd": Rule(_cumulative),
    "LpNormalization": Rule(_lp_normalization),
    "MeanVarianceNormalization": Rule(_mean_variance),
    "ArgMax": Rule(_arg),
    "ArgMin": Rule(_arg),
    "TopK": Rule(_top_k, counts=True),
}

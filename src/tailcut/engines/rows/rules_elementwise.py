"""Operators that compute each element from the elements at the same place, after broadcasting.

Small integer tensors are computed too, symbolically: they are the shapes that other operators take. Row numbers
(`Range(0, rows)`) survive a multiplication and an addition, as exports compute flat indices.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from tailcut.engines.rows.operation import Operation, Rule, Table
from tailcut.engines.rows.sizes import (
    ONE,
    ZERO,
    Size,
    floor_divide,
    larger,
    number,
    opaque,
    sign,
    smaller,
)
from tailcut.engines.rows.values import ITEMS, Mixes, Position, Sizes, Unclear, Value, array, broadcast, known

_REAL = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_WHOLE = {TensorProto.INT32, TensorProto.INT64}  # wide enough for any size

Arithmetic = Callable[[Sizes, bool], Size | None]


def _add(items: Sizes, real: bool) -> Size:  # noqa: FBT001
    return sum(items[1:], start=items[0])


def _subtract(items: Sizes, real: bool) -> Size:  # noqa: FBT001
    return items[0] - items[1]


def _multiply(items: Sizes, real: bool) -> Size:  # noqa: FBT001
    return items[0] * items[1]


def _divide(items: Sizes, real: bool) -> Size | None:  # noqa: FBT001
    a, b = items
    if not real:
        return floor_divide(a, b) if a.natural and b.natural else None
    exact = a.over(b)
    if exact is not None:
        return exact
    if b.number:
        return a * number(1 / b.number)
    return opaque("ratio", a, b, whole=False, natural=a.natural and b.natural) if b.number is None else None


def _modulo(items: Sizes, real: bool) -> Size | None:  # noqa: FBT001
    a, b = items
    if real or not (a.natural and b.natural):
        return None
    return ZERO if a.over(b) is not None else opaque("modulo", a, b)


def _least(items: Sizes, real: bool) -> Size:  # noqa: FBT001
    result = items[0]
    for item in items[1:]:
        result = smaller(result, item)
    return result


def _greatest(items: Sizes, real: bool) -> Size:  # noqa: FBT001
    result = items[0]
    for item in items[1:]:
        result = larger(result, item)
    return result


def _truth(kind: str, holds: Callable[[int], bool]) -> Arithmetic:
    """A comparison: known where the sign of the difference is the same for every request."""

    def compare(items: Sizes, real: bool) -> Size:  # noqa: FBT001
        which = sign(items[0] - items[1])
        return opaque(kind, *items) if which is None else number(int(holds(which)))

    return compare


def _not(items: Sizes, real: bool) -> Size:  # noqa: FBT001
    return opaque("not", *items) if items[0].number is None else number(int(items[0].number == 0))


def _and(items: Sizes, real: bool) -> Size:  # noqa: FBT001
    known = [item.number for item in items]
    if 0 in known:
        return ZERO
    return opaque("and", *items) if None in known else ONE


def _or(items: Sizes, real: bool) -> Size:  # noqa: FBT001
    known = [item.number for item in items]
    if any(known):
        return ONE
    return opaque("or", *items) if None in known else ZERO


def _where(items: Sizes, real: bool) -> Size:  # noqa: FBT001
    condition, a, b = items
    if a == b:
        return a
    if condition.number is None:
        return opaque("where", *items, whole=a.whole and b.whole, natural=a.natural and b.natural)
    return a if condition.number else b


def _negate(items: Sizes, real: bool) -> Size:  # noqa: FBT001
    return ZERO - items[0]


def _absolute(items: Sizes, real: bool) -> Size | None:  # noqa: FBT001
    if items[0].natural:
        return items[0]
    return number(abs(items[0].number)) if items[0].number is not None else None


def _rounded(kind: str) -> Arithmetic:
    def rounded(items: Sizes, real: bool) -> Size | None:  # noqa: FBT001
        (item,) = items
        if item.whole:
            return item
        if item.number is None:
            return opaque(kind, item, natural=item.natural)
        down = item.number.numerator // item.number.denominator
        exact = {"Floor": down, "Ceil": down + 1, "Round": round(item.number)}
        return number(exact[kind])

    return rounded


def _elements(values: tuple[Value, ...], arithmetic: Arithmetic) -> Value | None:
    """The result with its elements, where those of all inputs are known."""
    columns = [value.items for value in values if value.items is not None]
    if len(columns) < len(values):
        return None
    columns = np.broadcast_arrays(*columns)
    if columns[0].size > ITEMS:
        return None
    real = any(value.real for value in values)
    results = np.empty(columns[0].shape, object)
    for place in np.ndindex(results.shape):
        result = arithmetic(tuple(column[place] for column in columns), real)
        if result is None:
            return None
        results[place] = result
    return known(results, real=real)


def elementwise(operation: Operation) -> Value:
    """Any operator without a rule for elements: the inputs are broadcast."""
    return broadcast(*operation.given)


def _computed(arithmetic: Arithmetic, *, truth: bool = False) -> Rule:
    """An operator that is also computed on small tensors; `truth`: the result is boolean."""

    def apply(operation: Operation) -> Value:
        values = operation.given
        found = _elements(values, arithmetic)
        if found is not None:
            return replace(found, real=found.real and not truth)
        if any(value.numbered for value in values):
            place = _positions(operation)
            if place is None:
                raise Mixes("computes with a row's place in the batch")
            return place
        if any(value.counts for value in values):
            raise Mixes("computes with the number of rows")
        return replace(broadcast(*values), below=_bound(operation))

    return Rule(apply, counts=True, numbered=True)


def _bound(operation: Operation) -> Size | None:
    """Where all branches of Where, or both terms of a sum, are bounded, so is the result."""
    values = operation.given
    if operation.kind == "Where":
        first, second = _limit(values[1]), _limit(values[2])
        return first if first == second else None
    if operation.kind in ("Add", "Sum") and len(values) == 2:  # noqa: PLR2004
        first, second = _limit(values[0]), _limit(values[1])
        return None if first is None or second is None else first + second - ONE
    return None


def _limit(value: Value) -> Size | None:
    """A size that every element lies below, where all are at least 0."""
    if value.below is not None or value.items is None:
        return value.below
    item = value.items.flat[0] if value.items.size == 1 else None
    return item + ONE if item is not None and item.natural and item.whole and not item.rows else None


def _positions(operation: Operation) -> Value | None:
    """`scale * row + rest` times a size, or plus a bounded term; None where it is anything else."""
    values = sorted(operation.given, key=lambda value: value.position is None)
    if len(values) != 2 or values[0].position is None or values[1].numbered:  # noqa: PLR2004
        return None
    (numbered, other), position = values, values[0].position
    if operation.kind == "Mul" and other.items is not None and other.items.size == 1:
        scale: Size = other.items.flat[0]
        if scale.rows or not (scale.natural and scale.whole):
            return None
        below = ONE if position.below == ONE else (position.below - ONE) * scale + ONE
        return replace(broadcast(*operation.given), position=Position(position.scale * scale, below))
    if operation.kind == "Add" and not other.counts:
        limit = _limit(other)
        if limit is not None:
            below = position.below + limit - ONE
            return replace(broadcast(*operation.given), position=Position(position.scale, below))
    return None


def _cast(operation: Operation) -> Value:
    (value,) = operation.inputs[:1]
    if value is None:
        raise Unclear("has no input")
    target = operation.integer("to", 0)
    if target in _REAL:
        if value.numbered:
            raise Mixes("computes with a row's place in the batch")
        return replace(value, real=value.items is not None, below=None)
    if target in _WHOLE:
        if value.items is None or all(item.whole for item in value.items.flat):
            return replace(value, real=False)
        if value.real and all(item.natural for item in value.items.flat):
            return known(_mapped(_whole, value.items))
    if value.counts:
        raise Mixes("computes with the number of rows")
    if value.numbered:
        raise Mixes("computes with a row's place in the batch")
    if target == TensorProto.BOOL and value.items is not None:
        return known(_mapped(lambda item: _not((_not((item,), False),), False), value.items))
    return replace(value, items=None, below=None)


def _mapped(function: Callable[[Size], Size], items: np.ndarray) -> np.ndarray:
    return array([function(item) for item in items.flat]).reshape(items.shape)


def _whole(item: Size) -> Size:
    """Cut off behind the point; only for sizes of at least 0."""
    rounded = _rounded("Floor")((item,), True)
    assert rounded is not None  # noqa: S101  for mypy
    return rounded


def _identity(operation: Operation) -> Value:
    return operation.need(0)


def _first_only(operation: Operation) -> Value:
    """The first input decides the shape; the others give scalars or a type."""
    if any(value.rows for value in operation.given[1:]) and operation.kind != "CastLike":
        raise Unclear("takes a parameter from the rows")
    return Value(operation.need(0).sizes, operation.need(0).rows)


def _clip(operation: Operation) -> Value:
    value = operation.need(0)
    limits = [limit for limit in operation.inputs[1:] if limit is not None]
    if value.items is not None and not operation.attributes and all(limit.items is not None for limit in limits):
        items = value.items
        for place, choose in ((1, larger), (2, smaller)):
            limit = operation.value(place)
            if limit is not None and limit.items is not None:
                items = _mapped(lambda item, choose=choose, end=limit.items.flat[0]: choose(item, end), items)
        return known(items, real=value.real)
    if any(given.counts for given in operation.given):
        raise Mixes("computes with the number of rows")
    return _first_only(operation)


_PLAIN = """
Abs Acos Acosh Asin Asinh Atan Atanh BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BitShift Celu Cos Cosh Elu Erf Exp Gelu
HardSigmoid HardSwish IsInf IsNaN LeakyRelu Log Mish PRelu Pow Reciprocal RegexFullMatch Relu Selu Shrink Sigmoid Sign
Sin Sinh Softplus Softsign Sqrt StringConcat Swish Tan Tanh ThresholdedRelu Xor Affine ImageScaler ParametricSoftplus
ScaledTanh
""".split()

RULES: Table = {
    **{kind: Rule(elementwise) for kind in _PLAIN},
    "Add": _computed(_add),
    "Sum": _computed(_add),
    "Sub": _computed(_subtract),
    "Mul": _computed(_multiply),
    "Div": _computed(_divide),
    "Mod": _computed(_modulo),
    "Min": _computed(_least),
    "Max": _computed(_greatest),
    "Mean": Rule(elementwise),
    "Neg": _computed(_negate),
    "Abs": _computed(_absolute),
    "Floor": _computed(_rounded("Floor")),
    "Ceil": _computed(_rounded("Ceil")),
    "Round": _computed(_rounded("Round")),
    "Equal": _computed(_truth("Equal", lambda which: which == 0), truth=True),
    "Less": _computed(_truth("Less", lambda which: which < 0), truth=True),
    "LessOrEqual": _computed(_truth("LessOrEqual", lambda which: which <= 0), truth=True),
    "Greater": _computed(_truth("Greater", lambda which: which > 0), truth=True),
    "GreaterOrEqual": _computed(_truth("GreaterOrEqual", lambda which: which >= 0), truth=True),
    "And": _computed(_and, truth=True),
    "Or": _computed(_or, truth=True),
    "Not": _computed(_not, truth=True),
    "Where": _computed(_where),
    "Identity": Rule(_identity, counts=True, numbered=True),
    "Cast": Rule(_cast, counts=True, numbered=True),
    "CastLike": Rule(_first_only),
    "Clip": Rule(_clip, counts=True),
}

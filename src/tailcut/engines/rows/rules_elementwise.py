"""Operators that compute each element from the elements at the same position, after broadcasting.

Small tensors of numbers are also computed symbolically, because other operators take them as shapes. Row numbers
(`Range(0, rows)`) are followed through a multiplication and an addition, as exports compute flat indices.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto

from tailcut.engines.rows.arithmetic import REAL, TRUTH, WHOLE, negation, rounded
from tailcut.engines.rows.bounds import bound_as_floats, bound_of, floor_of, limit_of
from tailcut.engines.rows.operation import Operation, Rule, Table
from tailcut.engines.rows.sizes import ONE, Size, larger, smaller
from tailcut.engines.rows.values import ANYWHERE, ITEMS, Mixes, Position, Unclear, Value, array, broadcast, known

_REAL = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_WIDE = {TensorProto.INT32, TensorProto.INT64}  # wide enough for any size


def elementwise(operation: Operation) -> Value:
    """An operator whose elements are not followed: the inputs are broadcast."""
    return broadcast(*operation.given)


def _paired(operation: Operation) -> Value:
    """Inputs of one shape, which the engine does not broadcast."""
    first = operation.need(0)
    if any(value.rows != first.rows for value in operation.given):
        raise Mixes("works for a fixed number of rows only")
    return Value(first.sizes, first.rows)


def _computed(operation: Operation) -> Value:
    values = operation.given
    result = _elements(operation.kind, values)
    if result is not None:
        return result
    if any(value.numbered for value in values):
        return _positions(operation)
    if any(value.counts for value in values):
        raise Mixes("computes with the number of rows")
    result = broadcast(*values)
    if operation.kind == "Floor":
        return replace(result, real=True, below=values[0].floor)
    floor = floor_of(operation) if operation.kind == "Div" else None
    return replace(result, real=floor is not None, below=bound_of(operation), floor=floor)


def _exclusive(operation: Operation) -> Value:
    return replace(broadcast(*operation.given), below=bound_of(operation))


def _elements(kind: str, values: tuple[Value, ...]) -> Value | None:
    """The result with its elements, if those of all inputs are known."""
    given: list[Any] = [value.items for value in values if value.items is not None]
    if len(given) < len(values):
        return None
    columns: Sequence[Any] = np.broadcast_arrays(*given)
    if columns[0].size > ITEMS:
        return None
    real = any(value.real for value in values)
    arithmetic = (REAL if real else WHOLE)[kind]
    results = np.empty(columns[0].shape, object)
    for index in np.ndindex(results.shape):
        result = arithmetic(tuple(column[index] for column in columns))
        if result is None:
            return None
        results[index] = result
    return known(results, real=real and kind not in TRUTH)


def _positions(operation: Operation) -> Value:
    """`scale * row + rest` times a size, or plus a bounded term, keeps its form; anything else is ANYWHERE."""
    values = sorted(operation.given, key=lambda value: value.position is None)
    position, other = values[0].position or ANYWHERE, values[-1]
    result = replace(broadcast(*values), position=ANYWHERE)
    if len(values) != 2 or position == ANYWHERE or other.numbered or other.counts:
        return result
    if operation.kind == "Mul" and other.items is not None and other.items.size == 1:
        scale: Size = other.items.flat[0]
        if scale.natural and scale.whole:
            below = (position.below - ONE) * scale + ONE
            return replace(result, position=Position(position.scale * scale, below))
    limit = limit_of(other)
    if operation.kind == "Add" and limit is not None:
        return replace(result, position=Position(position.scale, position.below + limit - ONE))
    return result


def _cast(operation: Operation) -> Value:
    value, target = operation.need(0), operation.integer("to", 0)
    items = value.items
    if target in _REAL and not value.numbered:
        return replace(value, real=True, below=bound_as_floats(value, target), floor=None)
    if target in _WIDE:
        if items is None:
            return replace(value, real=False, below=value.below if value.floor is None else value.floor, floor=None)
        if all(item.whole for item in items.flat):
            return replace(value, real=False)
        if all(item.natural for item in items.flat):
            return known(_mapped(lambda item: rounded("Floor", item), items))
    if value.counts:
        raise Mixes("computes with the number of rows")
    if value.numbered:
        raise Mixes("computes with a row's place in the batch")
    if target == TensorProto.BOOL and items is not None:
        return known(_mapped(lambda item: negation((negation((item,)),)), items))
    return replace(value, items=None, real=False, below=None, floor=None)


def _mapped(function: Callable[[Size], Size], items: np.ndarray) -> np.ndarray:
    return array([function(item) for item in items.flat]).reshape(items.shape)


def _identity(operation: Operation) -> Value:
    return operation.need(0)


def _first_only(operation: Operation) -> Value:
    """The first input decides the shape; the others are scalars or give a type."""
    if any(value.rows for value in operation.given[1:]) and operation.kind != "CastLike":
        raise Unclear("takes a parameter from the rows")
    return Value(operation.need(0).sizes, operation.need(0).rows)


def _clip(operation: Operation) -> Value:
    value, limits = operation.need(0), operation.inputs[1:]
    if value.items is not None and not operation.attributes:
        items: np.ndarray | None = value.items
        for limit, choose in zip(limits, (larger, smaller), strict=False):
            if limit is not None and items is not None:
                items = None if limit.items is None else _clipped(items, limit.items.flat[0], choose)
        if items is not None:
            return known(items, real=value.real)
    if any(given.counts for given in operation.given):
        raise Mixes("computes with the number of rows")
    return _first_only(operation)


def _clipped(items: np.ndarray, end: Size, choose: Callable[[Size, Size], Size]) -> np.ndarray:
    return _mapped(lambda item: choose(item, end), items)


_PLAIN = (  # without parameters that affect more than one element
    *(
        "Abs",
        "Acos",
        "Acosh",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "BitCast",
        "BitShift",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
    ),
    *("BitwiseXor", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "IsInf", "IsNaN"),
    *("LeakyRelu", "Log", "Mean", "Mish", "PRelu", "Pow", "Reciprocal", "RegexFullMatch", "Relu", "Selu", "Shrink"),
    *("Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "StringConcat", "Swish", "Tan", "Tanh"),
    "ThresholdedRelu",
    *("Affine", "ParametricSoftplus", "Scale", "ScaledTanh"),  # of ONNX's first, experimental operators
)

RULES: Table = {
    **{kind: Rule(elementwise) for kind in _PLAIN},
    **{kind: Rule(_computed, counts=True, numbered=True) for kind in WHOLE},
    "SwiGLU": Rule(_paired),
    "Xor": Rule(_exclusive),
    "Identity": Rule(_identity, counts=True, numbered=True),
    "Cast": Rule(_cast, counts=True, numbered=True),
    "CastLike": Rule(_first_only),
    "Clip": Rule(_clip, counts=True),
}

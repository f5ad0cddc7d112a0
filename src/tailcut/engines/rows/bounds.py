"""Upper bounds of elements that are not known one by one: results of index arithmetic that stay below a size.

Floats are bounded only between a cast of bounded integers, one division, and the cast back, as `torch.div(index, n,
rounding_mode="floor")` is exported: no step rounds a value across an integer.
"""

from collections.abc import Callable, Mapping

from onnx import TensorProto

from tailcut.engines.rows.arithmetic import greatest
from tailcut.engines.rows.operation import Operation
from tailcut.engines.rows.sizes import ONE, ZERO, Size, number
from tailcut.engines.rows.values import Value

# Below 2^24, float32 represents every integer i, and i / n stays below the next integer. The limit is half of that if
# an engine multiplies by 1 / n instead; the rest is a margin.
_EXACT = 2**22
_EXACT_TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE)


def limit_of(value: Value) -> Size | None:
    """A size below which all elements are, if they are known to be integers of at least 0; otherwise None."""
    if value.real:
        return None
    if value.below is not None or value.items is None:
        return value.below
    items = tuple(value.items.flat)
    if not items or not all(item.natural and item.whole and not item.rows for item in items):
        return None
    return greatest(items) + ONE


def bound_of(operation: Operation) -> Size | None:
    """The bound below which the result's elements are, if those of its inputs are bounded."""
    bound = _BOUNDS.get(operation.kind)
    return None if bound is None else bound(operation)


def bound_as_floats(value: Value, target: int) -> Size | None:
    """The bound of integers that are cast to floats, if the float type represents each of them."""
    most = None if value.below is None else value.below.integer
    return value.below if most is not None and most <= _EXACT and target in _EXACT_TYPES else None


def floor_of(operation: Operation) -> Size | None:
    """The bound, after rounding down, of bounded integral floats divided by an integer."""
    value, divisor = operation.need(0), _single(operation.need(1))
    most = None if value.below is None or not value.real else value.below.integer
    by = None if divisor is None or not operation.need(1).real else divisor.integer
    if most is None or by is None or not 0 < by <= _EXACT or most > _EXACT:
        return None
    return number(-(-most // by))


def _single(value: Value) -> Size | None:
    return value.items.flat[0] if value.items is not None and value.items.size == 1 else None


def _rest(operation: Operation) -> Size | None:
    """The bound of an integer remainder with the divisor's sign."""
    divisor = None if operation.integer("fmod", 0) else limit_of(operation.need(1))
    return None if divisor is None else divisor - ONE


def _quotient(operation: Operation) -> Size | None:
    """The bound of an integer quotient."""
    most, divisor = limit_of(operation.need(0)), _single(operation.need(1))
    if most is None or divisor is None or operation.need(1).real or not (divisor.positive and divisor.whole):
        return None
    if most.integer is not None and divisor.integer is not None:
        return number(-(-most.integer // divisor.integer))
    return most.over(divisor)


def _sum(operation: Operation) -> Size | None:
    first, second = (limit_of(operation.need(index)) for index in (0, 1))
    return None if first is None or second is None else first + second - ONE


def _choice(operation: Operation) -> Size | None:
    """The bound of a Where; if the condition is never true, that of the second branch alone."""
    condition, first, second = (limit_of(operation.need(index)) for index in (0, 1, 2))
    return second if condition == ONE or first == second else None


def _less(operation: Operation) -> Size | None:
    """1 (never true) if elements of at least 0 are compared with a number of at most 0."""
    divisor = _single(operation.need(1))
    never = operation.need(0).below is not None and divisor is not None and (ZERO - divisor).natural
    return ONE if never else None


def _both(operation: Operation) -> Size | None:
    """1 (never true) if either input is never true."""
    return ONE if ONE in {limit_of(operation.need(index)) for index in (0, 1)} else None


def _one(operation: Operation) -> Size | None:
    """1 (never true) if both inputs are never true."""
    return ONE if {limit_of(operation.need(index)) for index in (0, 1)} == {ONE} else None


_BOUNDS: Mapping[str, Callable[[Operation], Size | None]] = {
    "Mod": _rest,
    "Div": _quotient,
    "Add": _sum,
    "Where": _choice,
    "Less": _less,
    "And": _both,
    "Xor": _one,
}

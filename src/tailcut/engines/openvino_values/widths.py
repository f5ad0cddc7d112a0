"""Where OpenVINO does not compute in a tensor's dtype: 64-bit numbers, uint32, and 8-bit integers that should wrap.

OpenVINO 2026.4.1 on the CPU computes int64, uint32 and uint64 as int32, and float64 as float32. Sums, differences and
products of integers are exact in 32 bits; quotients, remainders, powers, comparisons, selections and reductions are
computed in float32, which represents all integers only up to 2**24. 8-bit integers saturate where they should wrap.
None of this raises an error.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tailcut.engines.openvino_values.flow import COMPARED, ROUNDED, Known, Operator
from tailcut.engines.openvino_values.host import Sizes
from tailcut.engines.openvino_values.spans import Box, Interval, span_of_array

INT32: Interval = (-(2**31), 2**31 - 1)
UINT31: Interval = (0, 2**31 - 1)
FLOAT24: Interval = (-(2**24), 2**24)
_BELOW_24: Interval = (1 - 2**24, 2**24 - 1)  # a comparison with these is exact, whatever the other number
_DIVIDED: Interval = (-(2**23), 2**23)  # the rounded quotient times the divisor has to be exact, too
_USUAL = (0, 1, 2**8, 2**16)
WIDE = {"i64": INT32, "u32": UINT31, "u64": UINT31}  # computed as int32
NAMES = {
    "i8": "int8", "u8": "uint8", "i16": "int16", "u16": "uint16", "i32": "int32", "u32": "uint32", "i64": "int64",
    "u64": "uint64", "f64": "float64",
}  # fmt: skip
_SMALL = {"i8", "u8", "i16", "u16"}
_FLOATS = {"f16", "bf16", "f32"}
_EXACT = {
    "Abs", "Add", "BitwiseAnd", "BitwiseLeftShift", "BitwiseNot", "BitwiseOr", "BitwiseRightShift", "BitwiseXor",
    "Concat", "CumSum", "Maximum", "Minimum", "Multiply", "Negative", "OneHot", "Pad", "ScatterElementsUpdate",
    "ScatterNDUpdate", "ScatterUpdate", "Subtract",
}  # fmt: skip
_OPERANDS = {  # by type, the operands that are values of the result; all for other types
    "OneHot": (2, 3), "Pad": (0, 3), "ScatterElementsUpdate": (0, 2), "ScatterNDUpdate": (0, 2),
    "ScatterUpdate": (0, 2), "CumSum": (0,), "Select": (1, 2), "ReduceL1": (0,), "ReduceL2": (0,), "ReduceMax": (0,),
    "ReduceMean": (0,), "ReduceMin": (0,), "ReduceProd": (0,), "ReduceSum": (0,), "Interpolate": (0,),
}  # fmt: skip
_DIVIDING = {"Divide", "FloorMod", "Mod"}
_CHOSEN = {"Concat", "Interpolate", "Maximum", "Minimum", "OneHot", "Pad", "ReduceMax", "ReduceMin", "Select"}
_MOVED = {
    "Broadcast", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Reverse", "Slice", "Split", "Squeeze",
    "StridedSlice", "Tile", "Transpose", "Unsqueeze", "VariadicSplit",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ExactRange:
    """A tensor, and the interval of its values in which OpenVINO computes exactly."""

    value: Known
    between: Interval

    def holds_in(self, box: Box, known: dict[int, Interval]) -> bool:
        """Whether it holds for all requests of a box."""
        low, high = self.value.span.within(box, known)
        return self.between[0] <= low and high <= self.between[1]

    def holds_for(self, inputs: Sequence[np.ndarray], sizes: Sizes) -> bool:
        """Whether it holds for a request's exact values; False if the host cannot compute them."""
        if self.value.host is None:
            return False
        try:
            low, high = span_of_array(self.value.host.compute(inputs, sizes))
        except (KeyError, ValueError, IndexError, MemoryError):
            return False
        return self.between[0] <= low and high <= self.between[1]


@dataclass(frozen=True, slots=True)
class Width:
    """What an operator needs to be computed exactly: all ranges of any one of its alternatives (`ways`).

    Args:
        kind: the operator's type.
        dtype: the type in which it should compute.
        ways: the alternatives, each of which suffices.
        always: the graph itself has to guarantee it, whatever a request's values are.
    """

    kind: str
    dtype: str
    ways: tuple[tuple[ExactRange, ...], ...]
    always: bool = False

    @property
    def can_check(self) -> bool:
        """Whether any request meets it: one whose values are all the same small number."""
        boxes = (Box(dict.fromkeys(self.places, (number, number)), free=(0, 0)) for number in _USUAL)
        return not self.always and any(map(self.holds_in, boxes))

    def is_met(self, inputs: Mapping[int, Interval]) -> bool:
        """Whether every request with inputs in these intervals meets it."""
        return self.holds_in(Box(inputs, free=INT32))

    @property
    def places(self) -> list[int]:
        """The indices of the inputs whose values decide it."""
        return sorted(set[int]().union(*(bound.value.span.places() for way in self.ways for bound in way)))

    @property
    def sized_by(self) -> dict[str, Any]:
        """The tensors whose sizes have to be known, by name."""
        result: dict[str, Any] = {}
        for bound in (bound for way in self.ways for bound in way):
            result |= bound.value.span.sized_by()
            result |= bound.value.host.sized_by if bound.value.host is not None else {}
        return result

    def holds_in(self, box: Box, known: dict[int, Interval] | None = None) -> bool:
        """Whether it holds for all requests of a box."""
        shared = {} if known is None else known
        return any(all(bound.holds_in(box, shared) for bound in way) for way in self.ways)

    def holds_for(self, inputs: Sequence[np.ndarray], sizes: Sizes) -> bool:
        """Whether it holds for a request's exact values."""
        return any(all(bound.holds_for(inputs, sizes) for bound in way) for way in self.ways)


def unlike(operator: Operator) -> str:
    """What OpenVINO does wrongly in an operator whatever its values, as words; "" without a fault."""
    if _rounds_float64(operator):
        return f"computes in float32 what is float64 in this model ({operator.kind})"
    if operator.kind == "Divide" and any(known.varies for known in operator.operands):
        given = _type(operator.node.output(0))
        return f"rounds quotients of {NAMES[given]}, which should be truncated" if given in {"i8", "u8"} else ""
    return ""


def _rounds_float64(operator: Operator) -> bool:
    """Whether an operator computes with float64 values, which OpenVINO has rounded to float32."""
    node, kind = operator.node, operator.kind
    given = [known for known, port in zip(operator.operands, node.input_values(), strict=True) if _type(port) == "f64"]
    wide = any(known.varies for known in given)
    made = any(_type(port) == "f64" for port in node.outputs()) and any(known.varies for known in operator.operands)
    if kind in {"If", "Loop", "TensorIterator"} or not (wide or made) or kind in _MOVED | {"ShapeOf"}:
        return False
    if kind == "Convert":
        return _type(node.output(0)) not in _FLOATS if wide else False
    if kind == "Result":  # an input that is returned unchanged keeps its bits
        return _is_given(node.input_value(0)) and not _is_given(node.input_value(0), {"Identity"})
    return not (kind == "Concat" and not any(map(_is_given, node.input_values())))


def widths(operator: Operator, inputs: Mapping[int, Interval]) -> Iterator[Width]:
    """Yield what an operator needs to be exact, unless the graph and the inputs' intervals guarantee it."""
    if operator.results and any(known.varies for known in operator.operands):
        for width in _all(operator):
            if not width.is_met(inputs):
                yield width


def _all(operator: Operator) -> Iterator[Width]:
    node, kind = operator.node, operator.kind
    places = _OPERANDS.get(kind, range(len(operator.operands)))
    numbers = [operator.operands[index] for index in places if index < len(operator.operands)]
    if kind == "Convert":
        yield from _cast(operator)
    elif kind in COMPARED:
        given = _type(node.input_value(0))
        if _is_whole(node.input_value(0)) and given not in _SMALL:
            yield Width(kind, given, _comparing(numbers, WIDE.get(given, INT32)))
    elif _type(node.output(0)) in _SMALL:
        if kind in _EXACT | ROUNDED and not kind.startswith("Bitwise") and kind not in _CHOSEN:
            yield Width(kind, _type(node.output(0)), (_bounds(operator.results[:1], _span_of(node)),), always=True)
    elif _is_whole(node.output(0)):
        yield from _arithmetic(operator, numbers)


def _arithmetic(operator: Operator, numbers: Sequence[Known]) -> Iterator[Width]:
    """Yield what arithmetic on 32-bit or 64-bit numbers needs."""
    kind, dtype, result = operator.kind, _type(operator.node.output(0)), operator.results[0]
    between = WIDE.get(dtype, INT32)
    if kind == "Clamp":
        yield Width(
            kind, dtype, (_bounds(numbers, FLOAT24), (*_bounds(numbers, between), ExactRange(result, _BELOW_24)))
        )
    elif kind in ROUNDED or (kind == "MatMul" and dtype in WIDE):
        between = _meet(_DIVIDED if kind in _DIVIDING else FLOAT24, between)
        yield Width(kind, dtype, (_bounds([*numbers, result], between),))
    elif dtype in WIDE and kind in _MOVED:
        yield Width(kind, dtype, (_bounds([result], between),))
    elif kind in _EXACT and (dtype in WIDE or result.rounded):
        if result.rounded:
            between = _meet(FLOAT24, between)
        if kind in {"Maximum", "Minimum"}:  # a constant that is too large saturates, and is never chosen
            numbers = [known for known in numbers if known.varies]
        yield Width(kind, dtype, (_bounds([*numbers, result], between),))


def _cast(operator: Operator) -> Iterator[Width]:
    node, (operand,) = operator.node, operator.operands
    given, wanted = _type(node.input_value(0)), _type(node.output(0))
    if given == "boolean":
        return
    if wanted in WIDE and (wanted != "i64" or not _is_whole(node.input_value(0))):
        yield Width("Convert", wanted, (_bounds([operand], WIDE[wanted]),))
    elif wanted in _SMALL and _is_whole(node.input_value(0)):
        yield Width("Convert", wanted, (_bounds([operand], _span_of(node)),))
    elif wanted == "f64" and _is_whole(node.input_value(0)):
        yield Width("Convert", wanted, (_bounds([operand], FLOAT24),))


def _comparing(operands: Sequence[Known], between: Interval) -> tuple[tuple[ExactRange, ...], ...]:
    first, second = operands
    return (
        _bounds(operands, _meet(FLOAT24, between)),
        (ExactRange(first, _meet(_BELOW_24, between)), ExactRange(second, between)),
        (ExactRange(second, _meet(_BELOW_24, between)), ExactRange(first, between)),
    )


def _bounds(values: Sequence[Known], between: Interval) -> tuple[ExactRange, ...]:
    return tuple(ExactRange(value, between) for value in values)


def _meet(first: Interval, second: Interval) -> Interval:
    return max(first[0], second[0]), min(first[1], second[1])


def _is_given(port: Any, through: Collection[str] = _MOVED) -> bool:
    """Whether a tensor has unchanged elements of an input, which passed only `through` operators of these types."""
    while port.get_node().get_type_name() in through:
        port = port.get_node().input_value(0)
    return bool(port.get_node().get_type_name() == "Parameter")


def _span_of(node: Any) -> Interval:
    """The range of the dtype of an operator's result."""
    span = np.iinfo(node.output(0).get_element_type().to_dtype())
    return float(span.min), float(span.max)


def _is_whole(port: Any) -> bool:
    return bool(port.get_element_type().is_integral()) and _type(port) != "boolean"


def _type(port: Any) -> str:
    return str(port.get_element_type().get_type_name())

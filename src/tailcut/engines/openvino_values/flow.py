"""What is known of each tensor in an OpenVINO graph: whether a request's values determine it, and its bounds.

Sizes do not count as values: what follows from `ShapeOf` alone is the same for all requests of the same sizes, and new
sizes are compared with another engine (`shape_check.py`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from openvino import opset13 as ops

from tailcut.engines.openvino_values.host import Host, can_compute, is_integral, name_of
from tailcut.engines.openvino_values.spans import NOTHING, PLACES, Span, hull, span_of

_LARGE = 2**31 - 1  # a larger bound counts as none


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a tensor.

    Args:
        varies: its values depend on a request's values.
        low: the graph bounds its values from below, whatever the request.
        high: the graph bounds its values from above.
        host: how to compute it on the host; None if that is not possible.
        source: the index of the input whose elements, or some of them, it consists of; None without one.
        whole: it has all elements of that input.
        sized: its size depends on values.
        span: how to compute an interval that contains its values.
        rounded: OpenVINO may fuse the operators that read it with one that it computes in float32.
    """

    varies: bool = False
    low: bool = True
    high: bool = True
    host: Host | None = None
    source: int | None = None
    whole: bool = False
    sized: bool = False
    span: Span = PLACES
    rounded: bool = False


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator with what is known of its operands and results; `inner`: it is inside a loop or a branch.

    The results of loops and branches are not known yet.
    """

    node: Any
    operands: tuple[Known, ...]
    inner: bool
    results: tuple[Known, ...] = ()

    @property
    def kind(self) -> str:
        """The name of its type."""
        return str(self.node.get_type_name())


_UNKNOWN = Known(varies=True, low=False, high=False, span=NOTHING)
_KEPT = {"Reshape", "Squeeze", "Unsqueeze", "Transpose", "Convert", "Broadcast", "Tile"}  # they keep all elements
_PICKED = {"Gather", "GatherElements", "GatherND", "Slice", "StridedSlice", "Split", "VariadicSplit", "Reverse"}
_FIRST = {"ReverseSequence", "Floor", "Ceiling", "Round", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum", "CumSum"}
_JOINED = {  # by type, the operands between whose bounds the result lies
    "Add": (0, 1), "Multiply": (0, 1), "Concat": None, "Select": (1, 2), "Range": (0, 1, 2), "Pad": (0, 3),
    "OneHot": (2, 3), "ScatterUpdate": (0, 2), "ScatterElementsUpdate": (0, 2), "ScatterNDUpdate": (0, 2),
    "Divide": (0, 1),
}  # fmt: skip
_BOUNDED = {
    "Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual", "LogicalAnd", "LogicalOr", "LogicalNot",
    "LogicalXor", "IsNaN", "IsInf", "IsFinite", "Sigmoid", "HardSigmoid", "HSigmoid", "Softmax", "Tanh", "Sin", "Cos",
    "Sign", "Erf", "NonZero", "NonMaxSuppression", "NMSRotated", "MulticlassNms", "MatrixNms", "Bucketize",
    "SearchSorted", "ReduceLogicalAnd", "ReduceLogicalOr", "Multinomial",
}  # fmt: skip
_SIZED_BY = {  # by type, the operands whose values decide the result's size
    "Broadcast": (1,), "Interpolate": (1, 2), "OneHot": (1,), "Pad": (1, 2), "Range": (0, 1, 2), "Reshape": (1,),
    "Slice": (1, 2, 3, 4), "StridedSlice": (1, 2, 3), "Tile": (1,), "TopK": (1,), "VariadicSplit": (2,),
    "NonZero": (0,), "NonMaxSuppression": (0, 1, 2, 3, 4), "NMSRotated": (0, 1), "MulticlassNms": (0, 1),
    "MatrixNms": (0, 1), "Unique": (0,), "If": (0,), "Loop": (0, 1), "StringSplit": (0,),
}  # fmt: skip

COMPARED = {"Equal", "Greater", "GreaterEqual", "Less", "LessEqual", "NotEqual"}
ROUNDED = COMPARED | {  # what OpenVINO computes in float32 even for integers
    "Clamp", "Divide", "FloorMod", "Interpolate", "Mod", "Power", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "Select", "SquaredDifference",
}  # fmt: skip
_TOGETHER = {  # what it may fuse with these
    "Abs", "Add", "Broadcast", "Convert", "Identity", "LogicalAnd", "LogicalNot", "LogicalOr", "LogicalXor", "Maximum",
    "Minimum", "Multiply", "Negative", "Reshape", "Sign", "Squeeze", "Subtract", "Transpose", "Unsqueeze",
}  # fmt: skip


def operators(model: Any, inputs: Mapping[str, int]) -> Iterator[Operator]:
    """Yield the operators of an `openvino.Model`, operands first.

    Args:
        model: the graph.
        inputs: the index of each Parameter, by the name of its tensor.
    """
    known: dict[str, Known] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Parameter":
            index = inputs.get(name_of(node.output(0)))
            if index is not None:
                host = Host(node, 0, source=index)
                known[name_of(node.output(0))] = replace(
                    _UNKNOWN, host=host, source=index, whole=True, span=Span(source=index)
                )
                continue
        yield from _follow(node, known, inner=False)


def _follow(node: Any, known: dict[str, Known], *, inner: bool) -> Iterator[Operator]:
    """Yield an operator and those inside it, and record in `known` what is known of its results."""
    operands = tuple(known.get(name_of(port), _UNKNOWN) for port in node.input_values())
    operator = Operator(node, operands, inner)
    if operator.kind in {"If", "Loop", "TensorIterator"}:
        yield operator
        result: Mapping[int, Known] = yield from _inside(operator)
        results = tuple(result.get(port.get_index()) or _result(operator, port) for port in node.outputs())
    else:
        results = tuple(_result(operator, port) for port in node.outputs())
        yield replace(operator, results=results)
    known.update(zip(map(name_of, node.outputs()), results, strict=True))


def _inside(operator: Operator) -> Any:
    """Yield the operators inside a loop or branches; return what is known of their results."""
    node = operator.node
    if operator.kind == "If":
        bodies = [
            (node.get_then_body(), node.get_input_descriptions(0), node.get_output_descriptions(0)),
            (node.get_else_body(), node.get_input_descriptions(1), node.get_output_descriptions(1)),
        ]
    else:
        bodies = [(node.get_function(), node.get_input_descriptions(), node.get_output_descriptions())]
    result: dict[int, list[Known]] = {}
    for body, given, returned in bodies:
        known: dict[str, Known] = {}
        for parameter in body.get_parameters():  # values that a loop carries or counts
            known[name_of(parameter.output(0))] = Known(varies=True)
        for description in given:
            parameter = body.get_parameters()[description.body_parameter_index]
            known[name_of(parameter.output(0))] = _handed_in(description, operator.operands[description.input_index])
        for inner in body.get_ordered_ops():
            if inner.get_type_name() != "Parameter":
                yield from _follow(inner, known, inner=True)
        results = body.get_results()
        for description in returned:
            value = known[name_of(results[description.body_value_index].input_value(0))]
            result.setdefault(description.output_index, []).append(value)
    return {
        index: Known(
            varies=True,
            low=all(v.low for v in values),
            high=all(v.high for v in values),
            sized=True,
            span=Span(hull, tuple(v.span for v in values)),
        )
        for index, values in result.items()
    }


def _handed_in(description: Any, outer: Known) -> Known:
    kind = type(description).__name__
    if kind.startswith("Invariant"):
        return outer
    if kind.startswith("Slice"):
        return replace(outer, host=None, whole=False)
    return Known(varies=True)  # changes from one iteration to the next


def _result(operator: Operator, port: Any) -> Known:
    node, kind, operands = operator.node, operator.kind, operator.operands
    if kind == "Result":
        return operands[0]
    if kind == "ShapeOf":
        host = _sizes(operator)
        return Known(host=host, span=PLACES if host is None else Span(host=host))
    sized = any(operand.sized for operand in operands) or any(
        index < len(operands) and operands[index].varies for index in _SIZED_BY.get(kind, ())
    )
    rounded = is_integral(port) and (kind in ROUNDED or (kind in _TOGETHER and any(o.rounded for o in operands)))
    span = Span(data=node) if kind == "Constant" else span_of(node, port, [operand.span for operand in operands])
    host = None
    hosts = [operand.host for operand in operands if operand.host is not None]
    if len(hosts) == len(operands) and can_compute(node):
        host = Host(node, port.get_index(), tuple(hosts))
    if not any(operand.varies for operand in operands) and kind != "ReadValue":
        decided = host is not None and kind != "Constant" and is_integral(port)
        return Known(host=host, sized=sized, span=Span(host=host) if decided else span, rounded=rounded)
    low, high = _bounds(operator, port)
    first = operands[0]
    return Known(
        varies=True,
        low=low,
        high=high,
        host=host,
        source=first.source if kind in _KEPT | _PICKED else None,
        whole=first.whole and kind in _KEPT,
        sized=sized,
        span=span,
        rounded=rounded,
    )


def _sizes(operator: Operator) -> Host | None:
    """How the host computes the sizes of a tensor; None if they depend on values."""
    node, measured = operator.node, operator.operands[0].host
    if measured is not None and measured.source >= 0:
        return Host(node, 0, (measured,))
    shape = node.input_value(0).get_partial_shape()
    if shape.is_static:  # a constant instead, which keeps no weights in memory
        return Host(ops.constant(np.array(list(shape.to_shape()), np.int64)), 0)
    return None if operator.operands[0].sized else Host(node, 0)


def _bounds(operator: Operator, port: Any) -> tuple[bool, bool]:
    """Whether a result has a lower and an upper bound."""
    kind, operands = operator.kind, operator.operands
    if kind in _BOUNDED or (kind in {"TopK", "Unique"} and port.get_index() > 0):
        return True, True
    if kind in _JOINED:
        places = _JOINED[kind]
        joined = [operand for index, operand in enumerate(operands) if places is None or index in places]
        low, high = all(operand.low for operand in joined), all(operand.high for operand in joined)
        return (low, high) if kind not in {"Multiply", "Divide"} else (low and high, low and high)
    if kind in _RULES:
        return _RULES[kind](operator.node, operands)
    if kind in _KEPT | _PICKED | _FIRST | {"TopK", "Unique", "MaxPool"}:
        if kind == "Convert" and operator.node.input_value(0).get_element_type().get_type_name() == "boolean":
            return True, True
        return operands[0].low, operands[0].high
    return False, False


def _clamp(node: Any, operands: Sequence[Known]) -> tuple[bool, bool]:
    attributes = node.get_attributes()
    return operands[0].low or attributes["min"] > -_LARGE, operands[0].high or attributes["max"] < _LARGE


def _minimum(_: Any, operands: Sequence[Known]) -> tuple[bool, bool]:
    return all(operand.low for operand in operands), any(operand.high for operand in operands)


def _maximum(_: Any, operands: Sequence[Known]) -> tuple[bool, bool]:
    return any(operand.low for operand in operands), all(operand.high for operand in operands)


def _modulo(_: Any, operands: Sequence[Known]) -> tuple[bool, bool]:
    bounded = operands[1].low and operands[1].high
    return bounded, bounded


def _subtract(_: Any, operands: Sequence[Known]) -> tuple[bool, bool]:
    return operands[0].low and operands[1].high, operands[0].high and operands[1].low


_RULES: Mapping[str, Callable[[Any, Sequence[Known]], tuple[bool, bool]]] = {
    "Clamp": _clamp,
    "FloorMod": _modulo,
    "Maximum": _maximum,
    "Minimum": _minimum,
    "Mod": _modulo,
    "Negative": lambda _node, operands: (operands[0].high, operands[0].low),
    "Abs": lambda _node, operands: (True, operands[0].low and operands[0].high),
    "Relu": lambda _node, operands: (True, operands[0].high),
    "Subtract": _subtract,
}

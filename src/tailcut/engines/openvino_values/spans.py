"""Interval arithmetic: the smallest and the largest value that a tensor may have, from those of the inputs.

A float about which nothing is known may be any number. An integer about which nothing is known is a size or an index:
operators without a rule here return indices, and new sizes are compared with another engine (`shape_check.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tailcut.engines.openvino_values.host import Host, Sizes, name_of

Interval = tuple[float, float]
ANY: Interval = (-np.inf, np.inf)
_PLACES: Interval = (0, 2.0**16)
_TRUTH: Interval = (0, 1)
_COUNT = 2.0**16  # assumed number of elements of a sum if no size is known
_INT32: Interval = (-(2.0**31), 2.0**31 - 1)


@dataclass(frozen=True)
class Box:
    """What is known of a request.

    Args:
        spans: the intervals of its inputs' values, by input index.
        inputs: their arrays; empty if sizes are not known either.
        sizes: the sizes of tensors, by name.
        free: the interval of values that depend on sizes, if those are not known.
    """

    spans: Mapping[int, Interval]
    inputs: Sequence[np.ndarray] = ()
    sizes: Sizes = field(default_factory=dict)
    free: Interval = ANY


Rule = Callable[..., Interval]


@dataclass(frozen=True, eq=False)
class Span:
    """How to compute the interval of a tensor.

    Args:
        rule: computes it from the operands' intervals, and from the number of summed elements if there is a `table`.
        operands: the spans of the operands that the rule needs.
        source: the index of the input, if it is one.
        host: how to compute it on the host, if it depends on sizes only.
        table: the tensor whose elements are summed.
        axes: the axes along which they are summed; None for all.
        data: the values of a constant.
    """

    rule: Rule | None = None
    operands: tuple["Span", ...] = ()
    source: int = -1
    host: Host | None = None
    table: Any = None
    axes: tuple[int, ...] | None = None
    data: Any = None

    @cached_property
    def parts(self) -> list["Span"]:
        """The span and all that it is computed from, operands first; graphs are too deep for recursion."""
        result: dict[int, Span] = {}
        waiting: list[tuple[Span, bool]] = [(self, False)]
        while waiting:
            span, is_ready = waiting.pop()
            if is_ready:
                result[id(span)] = span
            elif id(span) not in result:
                waiting.append((span, True))
                waiting += [(operand, False) for operand in span.operands if id(operand) not in result]
        return list(result.values())

    def places(self) -> set[int]:
        """The indices of the inputs whose values it needs."""
        return {span.source for span in self.parts if span.source >= 0}

    def sized_by(self) -> dict[str, Any]:
        """The tensors whose sizes it needs, by name."""
        result: dict[str, Any] = {}
        for span in self.parts:
            result |= {} if span.table is None else {name_of(span.table): span.table}
            result |= span.host.sized_by if span.host is not None else {}
        return result

    def within(self, box: Box, known: dict[int, Interval]) -> Interval:
        """Its interval for a request; `known` caches intervals by the id of their span."""
        if id(self) not in known:
            for span in self.parts:
                if id(span) not in known:
                    known[id(span)] = span._compute(box, known)  # noqa: SLF001  its own
        return known[id(self)]

    def _compute(self, box: Box, known: Mapping[int, Interval]) -> Interval:
        if self.source >= 0:
            return box.spans.get(self.source, ANY)
        if self.data is not None:
            return self._constant
        if self.host is not None:
            return _computed(self.host, box)
        assert self.rule is not None  # noqa: S101  of the three above, or a rule
        operands = [known[id(operand)] for operand in self.operands]
        if self.table is not None:
            operands.append((0, self._count(box)))
        try:
            with np.errstate(all="ignore"):
                low, high = self.rule(*operands)
        except OverflowError:
            return ANY
        return ANY if np.isnan(low) or np.isnan(high) else (float(low), float(high))

    @cached_property
    def _constant(self) -> Interval:
        return span_of_array(np.asarray(self.data.data))

    def _count(self, box: Box) -> float:
        shape = self.table.get_partial_shape()
        if shape.rank.is_dynamic:
            return _COUNT
        dims = [None if dim.is_dynamic else dim.get_length() for dim in shape]
        known = box.sizes.get(name_of(self.table), tuple(dims))
        chosen = [known[axis] for axis in (range(len(dims)) if self.axes is None else self.axes)]
        if None not in chosen:
            return float(np.prod([float(size) for size in chosen if size is not None]))
        return _COUNT if box.inputs else max(0.0, min(box.free[1], _INT32[1]))


NOTHING = Span(lambda: ANY)
PLACES = Span(lambda: _PLACES)


def span_of_array(array: np.ndarray) -> Interval:
    """The interval of known numbers; (0, 0) for an empty array."""
    if not array.size:
        return 0, 0
    if array.dtype.kind not in "iufb":
        return ANY
    return float(array.min()), float(array.max())


def span_of(node: Any, port: Any, operands: Sequence[Span]) -> Span:
    """How to compute the interval of an operator's result."""
    kind, whole = node.get_type_name(), port.get_element_type().is_integral()
    if port.get_element_type().get_type_name() == "boolean":
        return Span(lambda: _TRUTH)
    special = _SPECIAL.get(kind)
    if special is not None:
        return special(node, operands) if whole or kind in _OF_FLOATS else NOTHING
    rule, places = _RULES.get(kind, (None, ()))
    if rule is None or (kind in {"TopK", "Unique", "MaxPool"} and port.get_index() > 0):
        return PLACES if whole else NOTHING
    chosen = operands if places is None else [operands[index] for index in places if index < len(operands)]
    if kind == "Divide" and not whole:
        rule = _float_quotients
    return Span(_whole(rule, port) if whole else rule, tuple(chosen))


def _clamp(node: Any, operands: Sequence[Span]) -> Span:
    bounds = node.get_attributes()["min"], node.get_attributes()["max"]
    return Span(lambda a: _clip(a, bounds), tuple(operands[:1]))


def _add_up(node: Any, operands: Sequence[Span]) -> Span:
    rule = _whole(_SUMS[node.get_type_name()], node.output(0))
    return Span(rule, tuple(operands[:1]), table=node.input_value(0), axes=_axes_of(node))


def _scatter(node: Any, operands: Sequence[Span]) -> Span:
    parts = operands[0], operands[2]
    if node.get_attributes().get("reduction", "none") in {"none", "min", "max"}:
        return Span(hull, parts)
    return Span(_whole(_scattered, node.output(0)), parts, table=node.input_value(2))


def _multiply_matrices(node: Any, operands: Sequence[Span]) -> Span:
    rule = _whole(_dot, node.output(0))
    return Span(rule, tuple(operands), table=node.input_value(0), axes=(_inner_axis(node),))


def _computed(host: Host, box: Box) -> Interval:
    """The interval of values that depend on sizes only."""
    if not box.inputs and host.is_sized:
        return box.free
    try:
        return span_of_array(host.compute(box.inputs, box.sizes))
    except (KeyError, ValueError, IndexError, MemoryError):
        return _PLACES


def _whole(rule: Rule, port: Any) -> Rule:
    """A rule for integers: 32-bit results wrap, as onnxruntime's do."""
    if port.get_element_type().get_type_name() != "i32":
        return rule

    def wrapped(*operands: Interval) -> Interval:
        low, high = rule(*operands)
        return (low, high) if low >= _INT32[0] and high <= _INT32[1] else _INT32

    return wrapped


def _convert(node: Any, operands: Sequence[Span]) -> Span:
    given, wanted = node.input_value(0).get_element_type(), node.output(0).get_element_type()
    if not wanted.is_integral() or given.is_integral():
        return Span(lambda a: a, tuple(operands[:1]))
    span = np.iinfo(wanted.to_dtype())
    bounds = max(float(span.min), _INT32[0]), min(float(span.max), _INT32[1])
    return Span(lambda a: _clip(a, bounds), tuple(operands[:1]))


def _axes_of(node: Any) -> tuple[int, ...] | None:
    """The axes along which an operator sums; None for all."""
    if len(node.input_values()) < 2:
        return None
    axes = node.input_value(1).get_node()
    return tuple(int(axis) for axis in axes.data.reshape(-1)) if axes.get_type_name() == "Constant" else None


def _inner_axis(node: Any) -> int:
    rank = node.input_value(0).get_partial_shape().rank
    vector = rank.is_static and rank.get_length() == 1
    return -2 if node.get_attributes()["transpose_a"] and not vector else -1


def _clip(a: Interval, bounds: Interval) -> Interval:
    return min(max(a[0], bounds[0]), bounds[1]), max(min(a[1], bounds[1]), bounds[0])


def hull(*spans: Interval) -> Interval:
    """The smallest interval that contains all the given ones."""
    return min(span[0] for span in spans), max(span[1] for span in spans)


def _products(a: Interval, b: Interval) -> Interval:
    results = [0.0 if x == 0 or y == 0 else x * y for x in a for y in b]
    return min(results), max(results)


def _quotients(a: Interval, b: Interval) -> Interval:
    if b[0] <= 0 <= b[1]:
        return _around(a)
    results = [x / y for x in a for y in b]
    return min(results), max(results)


def _float_quotients(a: Interval, b: Interval) -> Interval:
    return ANY if b[0] <= 0 <= b[1] else _quotients(a, b)


def _around(a: Interval) -> Interval:
    most = max(abs(a[0]), abs(a[1]))
    return -most, most


def _absolute(a: Interval) -> Interval:
    return (0 if a[0] <= 0 <= a[1] else min(abs(a[0]), abs(a[1]))), max(abs(a[0]), abs(a[1]))


def _remainder(a: Interval, b: Interval) -> Interval:
    most = max(abs(b[0]), abs(b[1]))
    return max(-most, min(a[0], 0)), min(most, max(a[1], 0))


def _power(a: Interval, b: Interval) -> Interval:
    if b[0] < 0:
        return ANY
    most = max(abs(a[0]), abs(a[1]), 1.0) ** b[1]
    return (0 if a[0] >= 0 else -most), most


def _shifted(a: Interval, b: Interval) -> Interval:
    return _products(a, (1, 2.0 ** max(b[1], 0)))


def _bits(a: Interval, b: Interval) -> Interval:
    most = max(a[1], b[1])
    return (0, 2.0 ** np.ceil(np.log2(most + 1)) - 1) if min(a[0], b[0]) >= 0 else hull(a, b, _INT32)


def _sum(a: Interval, count: Interval) -> Interval:
    return min(a[0], 0.0 if a[0] >= 0 else a[0] * count[1]), max(a[1], 0.0 if a[1] <= 0 else a[1] * count[1])


def _squares(a: Interval, count: Interval) -> Interval:
    return _sum((0, max(abs(a[0]), abs(a[1])) ** 2), count)


def _product(a: Interval, count: Interval) -> Interval:
    most = max(abs(a[0]), abs(a[1]), 1.0) ** count[1]
    return (0 if a[0] >= 0 else -most), most


def _scattered(a: Interval, b: Interval, count: Interval) -> Interval:
    added = _sum(b, count)
    return a[0] + min(added[0], 0), a[1] + max(added[1], 0)


def _dot(a: Interval, b: Interval, count: Interval) -> Interval:
    return _sum(_products(a, b), count)


def _same(a: Interval) -> Interval:
    return a


_SUMS: Mapping[str, Rule] = {
    "CumSum": _sum,
    "ReduceL1": lambda a, count: _sum(_absolute(a), count),
    "ReduceL2": _squares,
    "ReduceProd": _product,
    "ReduceSum": _sum,
}
_SPECIAL: Mapping[str, Callable[[Any, Sequence[Span]], Span]] = {
    **dict.fromkeys(_SUMS, _add_up),
    **dict.fromkeys(("ScatterUpdate", "ScatterElementsUpdate", "ScatterNDUpdate"), _scatter),
    "Clamp": _clamp,
    "Convert": _convert,
    "MatMul": _multiply_matrices,
}
_OF_FLOATS = {"Clamp", "Convert", *_SUMS}  # other operators may return any float
_KEEPING = (
    "Broadcast Ceiling DepthToSpace Floor Gather GatherElements GatherND Identity MaxPool ReduceMax ReduceMean "
    "ReduceMin Reshape Reverse ReverseSequence Roll Round ShuffleChannels Slice SpaceToDepth Split Squeeze "
    "StridedSlice Tile TopK Transpose Unique Unsqueeze VariadicSplit"
)
# By type: the rule, and the indices of its operands (None: all).
_RULES: Mapping[str, tuple[Rule, tuple[int, ...] | None]] = {
    **dict.fromkeys(_KEEPING.split(), (_same, (0,))),
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "HSigmoid", "Softmax"), (lambda: _TRUTH, ())),
    **dict.fromkeys(("Tanh", "Sin", "Cos", "Sign", "Erf"), (lambda: (-1, 1), ())),
    "Abs": (_absolute, (0,)),
    "Add": (lambda a, b: (a[0] + b[0], a[1] + b[1]), None),
    "BitwiseAnd": (lambda a, b: (0, min(a[1], b[1])) if min(a[0], b[0]) >= 0 else hull(a, b, (0, 0)), None),
    "BitwiseLeftShift": (_shifted, None),
    "BitwiseRightShift": (lambda a, _b: hull(a, (0, 0)), None),
    "BitwiseNot": (lambda a: (-a[1] - 1, -a[0] - 1), (0,)),
    "BitwiseOr": (_bits, None),
    "BitwiseXor": (_bits, None),
    "Concat": (hull, None),
    "Divide": (_quotients, None),
    "Exp": (lambda a: (np.exp(a[0]), np.exp(a[1])), (0,)),
    "FakeQuantize": (hull, (3, 4)),
    "FloorMod": (lambda _a, b: (min(b[0], 0), max(b[1], 0)), None),
    "Maximum": (lambda a, b: (max(a[0], b[0]), max(a[1], b[1])), None),
    "Minimum": (lambda a, b: (min(a[0], b[0]), min(a[1], b[1])), None),
    "Mod": (_remainder, None),
    "Multiply": (_products, None),
    "Negative": (lambda a: (-a[1], -a[0]), (0,)),
    "OneHot": (hull, (2, 3)),
    "Pad": (hull, (0, 3)),
    "Power": (_power, None),
    "Range": (hull, (0, 1)),
    "Relu": (lambda a: (max(a[0], 0), max(a[1], 0)), (0,)),
    "Select": (hull, (1, 2)),
    "Sqrt": (lambda a: (0, np.sqrt(max(a[1], 0))), (0,)),
    "SquaredDifference": (lambda a, b: _squares((a[0] - b[1], a[1] - b[0]), (0, 1)), None),
    "Subtract": (lambda a, b: (a[0] - b[1], a[1] - b[0]), None),
}

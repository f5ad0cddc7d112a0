"""What OpenVINO's operators demand of indices, counts and sizes without checking it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tailcut.engines.openvino_values.flow import Known, Operator
from tailcut.engines.openvino_values.host import Sizes, name_of

_REDUCED = ("Max", "Min", "Mean", "Sum", "Prod", "L1", "L2", "LogicalAnd", "LogicalOr")
# By type, the operands that say which elements go where. If they do not fit, the result is memory of other requests.
_TARGETS: Mapping[str, Mapping[int, str]] = {
    "BatchToSpace": {1: "block", 2: "crops", 3: "crops"},
    "ConvolutionBackpropData": {2: "output shape"},
    "EmbeddingBagOffsets": {2: "offsets"},
    "EmbeddingBagOffsetsSum": {2: "offsets"},
    "EmbeddingSegmentsSum": {2: "segments", 3: "segments"},
    "Gather": {2: "axis"},
    "GroupConvolutionBackpropData": {2: "output shape"},
    "Interpolate": {1: "sizes", 2: "scales", 3: "axes"},
    "Pad": {1: "pads", 2: "pads"},
    "PSROIPooling": {1: "regions"},
    "Reshape": {1: "shape"},
    "Roll": {2: "axes"},
    "ROIPooling": {1: "regions"},
    "ScatterElementsUpdate": {3: "axis"},
    "ScatterUpdate": {3: "axis"},
    "SpaceToBatch": {1: "block", 2: "pads", 3: "pads"},
    "Split": {1: "axis"},
    "Squeeze": {1: "axes"},
    "Transpose": {1: "order"},
    "Unsqueeze": {1: "axes"},
    "VariadicSplit": {1: "axis", 2: "lengths"},
    **{f"Reduce{name}": {1: "axes"} for name in _REDUCED},
}
# By type: the operand, the axis of the first operand whose size bounds it, and what it holds.
_ROWS: Mapping[str, tuple[int, int, str]] = {
    "EmbeddingBagOffsets": (1, 0, "indices"),
    "EmbeddingBagOffsetsSum": (1, 0, "indices"),
    "EmbeddingBagPacked": (1, 0, "indices"),
    "EmbeddingBagPackedSum": (1, 0, "indices"),
    "EmbeddingSegmentsSum": (1, 0, "indices"),
    "GRUSequence": (2, 1, "lengths"),
    "LSTMSequence": (3, 1, "lengths"),
    "RNNSequence": (2, 1, "lengths"),
    "ROIAlign": (2, 0, "indices"),
}
_COUNTS = {"lengths", "count"}  # may equal a size; indices are below it
# By type: the operand, and the one that holds the axis (None: an attribute holds it).
_ALONG: Mapping[str, tuple[int, int | None]] = {
    "Gather": (1, 2),
    "GatherElements": (1, None),
    "ScatterElementsUpdate": (1, 3),
    "ScatterUpdate": (1, 3),
}
_FROM_ZERO = {"opset1", "opset7"}  # of Gather: in later ones, negative indices count from the end
# By type: the operand, what it holds, and its smallest value.
_NUMBERS: Mapping[str, tuple[int, str, int]] = {
    "Broadcast": (1, "shape", 0),
    "NonMaxSuppression": (2, "count", 0),
    "OneHot": (1, "depth", 1),
    "Tile": (1, "repeats", 0),
}


@dataclass(frozen=True, slots=True)
class Demand:
    """What an operator demands of an operand.

    Args:
        kind: the operator's type.
        part: the role of the operand, such as "indices".
        value: the operand.
        table: the tensor whose sizes bound the operand, if they are free.
        axes: the table's axes; if there are several, the operand's last axis has an index for each.
        dims: the sizes of these axes, if they are the same for all requests.
        sized: the sizes of the table depend on values.
        least: the smallest value allowed; None if negative values count from the end.
        beyond: how far the largest value allowed is after the last element.
        most: the largest value allowed if there is no table; None: unbounded.
        inner: the operator is inside a loop or a branch.
    """

    kind: str
    part: str
    value: Known
    table: Any = None
    axes: tuple[int, ...] = ()
    dims: tuple[int, ...] | None = None
    sized: bool = False
    least: int | None = 0
    beyond: int = 0
    most: int | None = None
    inner: bool = False

    @property
    def is_met(self) -> bool:
        """Whether no request can violate it: no values decide the operand, or the graph keeps them in bounds."""
        value = self.value
        has_most = bool(self.axes) or self.most is not None
        kept = value.low and (value.high or not has_most)
        return not value.varies or (kept and value.host is None and value.source is None)

    @property
    def can_check(self) -> bool:
        """Whether the host can check it for a request."""
        has_bounds = self.dims is not None or not self.sized
        return has_bounds and (self.value.host is not None or self.value.source is not None)

    @property
    def sized_by(self) -> dict[str, Any]:
        """The tensors whose sizes have to be known for a request, by name."""
        result = {} if self.table is None else {name_of(self.table): self.table}
        return result | (self.value.host.sized_by if self.value.host is not None else {})

    def limits(self, sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest value allowed, inclusive; one for each of `axes` if there are several."""
        if not self.axes:
            most = np.inf if self.most is None else self.most
            return np.array(self.least), np.array(most)
        dims = self.dims or tuple(sizes[name_of(self.table)][axis] for axis in self.axes)
        counts = np.array(dims if len(dims) > 1 else dims[0])
        return -counts if self.least is None else np.full_like(counts, self.least), counts - 1 + self.beyond


def demands(operator: Operator) -> Iterator[Demand]:
    """Yield an operator's demands, except those that the graph itself meets."""
    for demand in _all(operator):
        if not demand.is_met:
            yield demand


def unfit(operator: Operator) -> str:
    """The role of an operand that depends on a request's values and cannot be checked; "" without one."""
    for index, part in _TARGETS.get(operator.kind, {}).items():
        if index < len(operator.operands) and operator.operands[index].varies:
            return part
    if operator.kind == "Broadcast" and operator.operands[1].varies and not _is_single(operator.node.input_value(0)):
        return "shape"
    return ""


def _all(operator: Operator) -> Iterator[Demand]:
    node, kind = operator.node, operator.kind
    if kind in _ROWS:
        index, axis, part = _ROWS[kind]
        yield _index(operator, index, (axis,), least=0, beyond=part in _COUNTS, part=part)
    elif kind in _ALONG:
        index, chosen = _ALONG[kind]
        axes = (int(node.get_attributes()["axis"]),) if chosen is None else _constant(node, chosen)
        least = 0 if kind == "Gather" and node.get_type_info().version_id in _FROM_ZERO else None
        yield _index(operator, index, axes, least=least)
    elif kind in {"GatherND", "ScatterNDUpdate"}:
        first = node.get_attributes().get("batch_dims", 0)
        last = node.input_value(1).get_partial_shape()
        depth = last[len(last) - 1] if last.rank.is_static and len(last) else None
        count = depth.get_length() if depth is not None and depth.is_static else 0
        yield _index(operator, 1, tuple(range(first, first + count)))
    elif kind == "TopK":
        yield _index(operator, 1, (node.get_attributes()["axis"],), least=0, beyond=True, part="count")
    elif kind == "ReverseSequence":
        yield _index(operator, 1, (node.get_attributes()["seq_axis"],), least=0, beyond=True, part="lengths")
    elif kind == "CumSum":
        rank = node.input_value(0).get_partial_shape().rank
        count = rank.get_length() if rank.is_static else 1
        yield Demand(kind, "axis", operator.operands[1], least=-count, most=count - 1, inner=operator.inner)
    elif kind in _NUMBERS and _NUMBERS[kind][0] < len(operator.operands):
        index, part, least = _NUMBERS[kind]
        yield Demand(kind, part, operator.operands[index], least=least, inner=operator.inner)


def _index(  # noqa: PLR0913  a demand's own fields
    operator: Operator,
    index: int,
    axes: tuple[int, ...],
    *,
    least: int | None = None,
    beyond: bool = False,
    part: str = "indices",
) -> Demand:
    """The demand on an operand that the first operand's sizes bound; `axes` is empty if they are unknown."""
    table, first = operator.node.input_value(0), operator.operands[0]
    dims = _fixed(table, axes)
    return Demand(
        operator.kind,
        part,
        operator.operands[index],
        table if dims is None else None,  # a reference would keep its weights in memory
        axes,
        dims,
        sized=first.sized or not axes,
        least=least,
        beyond=int(beyond),
        inner=operator.inner,
    )


def _constant(node: Any, index: int) -> tuple[int, ...]:
    """The axis that an operator takes as an operand; empty if it is not constant."""
    chosen = node.input_value(index).get_node()
    return (int(chosen.data.reshape(-1)[0]),) if chosen.get_type_name() == "Constant" else ()


def _fixed(table: Any, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    shape = table.get_partial_shape()
    if not axes or shape.rank.is_dynamic or any(shape[axis].is_dynamic for axis in axes):
        return None
    return tuple(shape[axis].get_length() for axis in axes)


def _is_single(port: Any) -> bool:
    """Whether a tensor has one element, which can be broadcast to any shape."""
    shape = port.get_partial_shape()
    return shape.is_static and all(dim.get_length() == 1 for dim in shape)

"""What a graph says about the sizes and values that its inputs must have, beyond the signature.

Only operators that read an input directly, or through operators that keep its elements, are looked at: an embedding
bounds the token ids, a convolution fixes the channels, a matrix product the features. Of the weights only their shapes
matter, so the graph may come without its external data.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto

from tailcut.engines.hints import InputHints

_Shapes = Mapping[str, tuple[int, ...]]
_ELEMENTWISE = {"Cast", "Identity", "Clip", "Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Sqrt", "Exp", "Log", "Dropout"}
_SCALING = {"Add", "Sub", "Mul", "Div"}
_RESHAPING = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Expand"}  # the values stay, the axes do not
_RECURRENT = {"LSTM", "GRU", "RNN"}
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


@dataclass(frozen=True, slots=True)
class _ElementSource:
    """A tensor whose elements are those of an input; `axes` maps its axes to the input's, () where that is unknown."""

    name: str
    axes: tuple[int, ...]
    scalable: bool  # arithmetic keeps what the elements stand for; not so for indices


def read_hints(model: onnx.ModelProto) -> InputHints:
    """The hints of a graph; what cannot be analysed gives fewer hints, never an error."""
    weights: dict[str, tuple[int, ...]] = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    sources: dict[str, _ElementSource] = {}
    names: dict[str, tuple[str | None, ...]] = {}
    for value in model.graph.input:
        if value.name not in weights:
            kind = value.type.tensor_type
            names[value.name] = tuple(dim.dim_param or None for dim in kind.shape.dim)
            sources[value.name] = _ElementSource(
                value.name, tuple(range(len(kind.shape.dim))), kind.elem_type in _FLOATS
            )
    sizes: dict[tuple[str, int], int] = {}
    below: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output:
            weights[node.output[0]] = _constant_shape(node)
        elif node.input and node.output:
            for dimension, size in _required(node, sources, weights):
                sizes.setdefault(dimension, size)
            for name, bound in _bounded(node, sources, weights):
                below[name] = min(bound, below.get(name, bound))
            passed = _passed_on(node, sources, weights)
            if passed is not None:
                sources[node.output[0]] = passed
    return InputHints(names, sizes, below)


def _passed_on(node: onnx.NodeProto, sources: Mapping[str, _ElementSource], weights: _Shapes) -> _ElementSource | None:
    """The input whose elements a node's output consists of; None without one."""
    source = sources.get(node.input[0])
    if node.op_type in _SCALING and len(node.input) == 2:
        other = node.input[0] if source is None else node.input[1]
        source = source or sources.get(node.input[1])
        keeps = source is not None and source.scalable and len(weights.get(other, (0,) * 99)) <= len(source.axes)
        return source if keeps else None
    if source is None or node.op_type in _ELEMENTWISE:
        return source if node.op_type in _ELEMENTWISE else None
    if node.op_type == "Transpose":
        perm = _attribute(node, "perm") or tuple(reversed(range(len(source.axes))))
        whole = sorted(perm) == list(range(len(source.axes)))
        return _ElementSource(source.name, tuple(source.axes[axis] for axis in perm) if whole else (), source.scalable)
    return _ElementSource(source.name, (), source.scalable) if node.op_type in _RESHAPING else None


def _required(
    node: onnx.NodeProto, sources: Mapping[str, _ElementSource], weights: _Shapes
) -> Iterator[tuple[tuple[str, int], int]]:
    """Yield ((input, axis), size) for each axis whose size the node's weights determine."""
    source, weight = sources.get(node.input[0]), weights.get(node.input[1]) if len(node.input) > 1 else None
    if source is None or not weight:
        return
    rank = len(source.axes)
    if node.op_type == "Conv" and len(weight) == rank and rank > 2:
        yield (source.name, source.axes[1]), weight[1] * (_attribute(node, "group") or 1)
    elif node.op_type == "BatchNormalization" and rank > 1:
        yield (source.name, source.axes[1]), weight[0]
    elif node.op_type == "MatMul" and rank > 1 and len(weight) > 1:
        yield (source.name, source.axes[-1]), weight[-2]
    elif node.op_type == "Gemm" and rank == 2 and len(weight) == 2:
        axis = source.axes[0 if _attribute(node, "transA") else 1]
        yield (source.name, axis), weight[1 if _attribute(node, "transB") else 0]
    elif node.op_type in _RECURRENT and rank == 3 and len(weight) == 3:
        yield (source.name, source.axes[2]), weight[2]


def _bounded(
    node: onnx.NodeProto, sources: Mapping[str, _ElementSource], weights: _Shapes
) -> Iterator[tuple[str, int]]:
    """Yield (input, entries) for a Gather that looks up an input's integers in a table of weights."""
    table = weights.get(node.input[0]) if node.op_type == "Gather" and len(node.input) == 2 else None
    axis = _attribute(node, "axis") or 0
    if table and -len(table) <= axis < len(table) and node.input[1] in sources:
        yield sources[node.input[1]].name, table[axis]


def _constant_shape(node: onnx.NodeProto) -> tuple[int, ...]:
    for attribute in node.attribute:
        if attribute.name == "value":
            return tuple(attribute.t.dims)
        if attribute.name in {"value_ints", "value_floats"}:
            return (max(len(attribute.ints), len(attribute.floats)),)
    return ()


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return None

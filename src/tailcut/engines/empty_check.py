"""Refuses empty inputs on which operators of onnxruntime would crash the process, since they do not check for them.

In onnxruntime 1.32, a recurrent layer aborts if it has no steps or no sequences; Unique along an axis and
FeatureVectorizer abort, too. Einsum divides by the batch size and STFT by the window size, which may be zero. So do
quantised attention and SkipLayerNormalization, into which onnxruntime fuses an addition and a normalisation. A
transposed convolution of an empty tensor reads out of bounds. Only for requests with an empty input, the sizes of the
operands are inferred and checked.
"""

from typing import Self

import onnx

from tailcut.engines.base import Arrays
from tailcut.engines.graph import nodes_inside, nodes_of
from tailcut.errors import InvalidInputError

_ENDING = {"ConvTranspose", "Einsum", "FeatureVectorizer", "GRU", "LSTM", "QAttention", "RNN", "STFT", "Unique"} | {
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
}
# Operators that onnxruntime may fuse into one of these. Unknown sizes are accepted if another input has elements: in a
# decoder's first step, only the past is empty.
_FUSED = {"LayerNormalization", "ReduceMean", "RMSNormalization", "SimplifiedLayerNormalization"}
_SHAPE_ELEMENTS = 1024  # a constant with at most this many may hold a shape
_MOST_KNOWN = 4096

_Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class EmptyCheck:
    """Finds operators of a graph that would crash on inputs without elements.

    Args:
        model: the graph, with or without its external weights; no weights are kept.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = _without_weights(model)
        hidden = (node.op_type for node in nodes_inside(model) if node.op_type in _ENDING)
        self._hidden = next(hidden, "")  # in subgraphs and functions, where no shapes are inferred
        self._known: dict[_Shapes, str] = {}

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Self | None:
        """The check for a graph; None if the graph has no such operator."""
        return cls(model) if any(node.op_type in _ENDING | _FUSED for node in nodes_of(model)) else None

    def check(self, inputs: Arrays) -> None:
        """Check a request before it is computed.

        Raises:
            InvalidInputError: an operand of such an operator would have no elements, or might have none.
        """
        for name, array in inputs.items():
            if not array.size:
                self._check(name, inputs)
                return

    def _check(self, empty: str, inputs: Arrays) -> None:
        shapes = tuple((name, array.shape) for name, array in inputs.items())
        operator = self._known.get(shapes)
        if operator is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            operator = self._known[shapes] = self._hidden or self._empty_operator(shapes)
        if operator:
            shape = list(inputs[empty].shape)
            raise InvalidInputError(f"input {empty!r} of shape {shape} has no elements, and {operator} needs some")

    def _empty_operator(self, shapes: _Shapes) -> str:
        """The first such operator of the graph that has an operand without elements, or one of unknown size; or ""."""
        model, sizes = onnx.ModelProto(), dict(shapes)
        model.CopyFrom(self._model)
        for value in model.graph.input:
            for dim, size in zip(value.type.tensor_type.shape.dim, sizes.get(value.name, ()), strict=False):
                dim.dim_value = size
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        full: set[str] = {""}  # an operand may be left out
        empty: set[str] = set()
        for tensor in graph.initializer:
            (empty if 0 in tensor.dims else full).add(tensor.name)
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            if kind.HasField("shape") and all(dim.dim_value > 0 for dim in kind.shape.dim):
                full.add(value.name)
            elif any(dim.HasField("dim_value") and dim.dim_value == 0 for dim in kind.shape.dim):
                empty.add(value.name)
        none = all(0 in shape for _, shape in shapes)
        for node in graph.node:
            unknown = node.op_type in _ENDING or (none and node.op_type in _FUSED)
            if (unknown and not full.issuperset(node.input)) or (node.op_type in _FUSED and empty & {*node.input}):
                return str(node.op_type)
        return ""


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the shapes of all weights, the values of small ones (shapes), and outputs without shapes."""
    copy = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    copy.graph.name = model.graph.name
    copy.graph.node.extend(model.graph.node)
    copy.graph.input.extend(model.graph.input)
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1 or max(tensor.dims, default=1) > _SHAPE_ELEMENTS:
            copy.graph.initializer.add(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
        else:
            copy.graph.initializer.add().CopyFrom(tensor)
    for value in model.graph.output:
        copy.graph.output.add(name=value.name).type.tensor_type.elem_type = value.type.tensor_type.elem_type
    return copy

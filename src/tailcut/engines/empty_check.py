"""Requests without elements that would end the process: some operators of onnxruntime compute them unchecked.

In 1.32 a recurrent layer aborts without steps or sequences, and so does Unique along an axis; Einsum divides by a batch
of none, STFT by a window of none; and a transposed convolution of an empty volume reads past its memory. Only requests
that have an input without elements are looked at, by inferring the sizes of such operators' operands.
"""

from typing import Self

import onnx

from tailcut.engines.base import Arrays
from tailcut.engines.graph import nodes_inside, nodes_of
from tailcut.errors import InvalidInputError

_ENDING = {"ConvTranspose", "Einsum", "GRU", "LSTM", "RNN", "STFT", "Unique"}
_SHAPE_ELEMENTS = 1024  # of a weight that a tensor's shape may be made of
_MOST_KNOWN = 4096

_Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class EmptyCheck:
    """What the operators of a graph would do with inputs without elements.

    Args:
        model: the graph; its weights may be elsewhere, and none of them are kept.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = _without_weights(model)
        hidden = (node.op_type for node in nodes_inside(model) if node.op_type in _ENDING)
        self._hidden = next(hidden, "")  # where no shapes are inferred
        self._known: dict[_Shapes, str] = {}

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Self | None:
        """None for a graph that has no such operator."""
        return cls(model) if any(node.op_type in _ENDING for node in nodes_of(model)) else None

    def check(self, inputs: Arrays) -> None:
        """Look at a request before it is computed.

        Raises:
            InvalidInputError: an operand of such an operator would have no elements, or could have none.
        """
        empty = next((name for name, array in inputs.items() if not array.size), None)
        if empty is None:
            return
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
        full = {tensor.name for tensor in graph.initializer if 0 not in tensor.dims} | {""}  # an operand left out
        full.update(value.name for value in (*graph.input, *graph.value_info, *graph.output) if _has_elements(value))
        endings = (node for node in graph.node if node.op_type in _ENDING)
        return next((node.op_type for node in endings if not full.issuperset(node.input)), "")


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with all shapes, but no values that are no shapes, and nothing said of its results."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if max(tensor.dims, default=1) > _SHAPE_ELEMENTS or len(tensor.dims) > 1:
            name, dims, kind = tensor.name, list(tensor.dims), tensor.data_type
            tensor.Clear()
            tensor.name, tensor.data_type = name, kind
            tensor.dims.extend(dims)
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    del copy.graph.value_info[:]
    return copy


def _has_elements(value: onnx.ValueInfoProto) -> bool:
    """Whether it is known that a tensor has some."""
    kind = value.type.tensor_type
    return kind.HasField("shape") and all(dim.dim_value > 0 for dim in kind.shape.dim)

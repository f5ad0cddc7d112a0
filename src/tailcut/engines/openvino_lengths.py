"""Recurrent layers whose lengths OpenVINO ignores.

LSTM, GRU and RNN take a length for each row, after which they keep their state and return zeros. OpenVINO 2026.4.1
respects the length if all sizes of the layer's input are fixed. If one is free, it silently computes every row to its
end, whether alone or in a batch. A reference computed with OpenVINO would be wrong in the same way, so such a model is
refused when it is loaded.
"""

from collections.abc import Iterator
from typing import Any

_LENGTHS = {"LSTMSequence": 3, "GRUSequence": 2, "RNNSequence": 2}  # the index of the operand with the lengths
_TIME = 1  # axis of the first operand
_MOVES = {"Broadcast", "Convert", "Gather", "Reshape", "Slice", "Squeeze", "StridedSlice", "Tile", "Unsqueeze"}


def ignored_lengths(model: Any) -> str:
    """The type of a layer in an `openvino.Model` whose lengths are ignored: LSTM, GRU or RNN; empty without one."""
    for node in _nodes(model):
        kind = node.get_type_name()
        if kind in _LENGTHS and node.input_value(0).get_partial_shape().is_dynamic and not _is_whole(node):
            return str(kind.removesuffix("Sequence"))
    return ""


def _nodes(model: Any) -> Iterator[Any]:
    """Yield all operators, including those in the bodies of loops and branches."""
    for node in model.get_ops():
        yield node
        kind = node.get_type_name()
        if kind == "If":
            yield from _nodes(node.get_then_body())
            yield from _nodes(node.get_else_body())
        elif kind in {"Loop", "TensorIterator"}:
            yield from _nodes(node.get_function())


def _is_whole(node: Any) -> bool:
    """Whether every length is the whole input, as front ends fill it in, so that ignoring it changes nothing."""
    lengths = node.input_value(_LENGTHS[node.get_type_name()]).get_node()
    while lengths.get_type_name() in _MOVES:
        lengths = lengths.input_value(0).get_node()
    if lengths.get_type_name() != "Constant":
        return bool(lengths.get_type_name() == "ShapeOf")
    time = node.input_value(0).get_partial_shape()[_TIME]
    return not time.is_dynamic and int(lengths.data.min()) >= time.get_length()

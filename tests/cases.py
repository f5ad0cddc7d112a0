"""Models with dependent rows, and some with independent rows but unusual axis names, with requests for them.

The truth for a request is onnxruntime's own answer to that request alone. The served answer must equal it, whatever
other requests come at the same time and over whichever protocol.
"""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper

from tests.case_parts import Arrays, Case, check_same, save_all
from tests.case_parts import floats as _floats
from tests.case_parts import independent as _independent
from tests.case_parts import made_model as _model
from tests.case_parts import node as _node
from tests.case_parts import value_info as _value
from tests.shape_cases import SHAPES

__all__ = ["CASES", "Arrays", "Case", "check_same", "save_all"]


def _on_x(nodes: list[onnx.NodeProto], *y: int | str | None, weights: Arrays | None = None, rows: int = 0) -> Case:
    """x float32 [n, 4] -> y; `rows` is the fewest rows that a request has."""
    model = _model(nodes, [_value("x", T.FLOAT, "n", 4)], [_value("y", T.FLOAT, *y)], weights)
    return Case(model, [{"x": _floats(n, n, 4)} for n in (rows + 2, rows + 1, 17, 40, rows + 3, rows)])


def softmax_over_rows() -> Case:
    return _on_x([_node("Softmax", ["x"], ["y"], axis=0)], "n", 4)


def statistics_of_the_batch() -> Case:
    """A normalisation layer that was exported in training mode."""
    nodes = [
        _node("ReduceMean", ["x"], ["mean"], axes=[0]),
        _node("Sub", ["x", "mean"], ["d"]),
        _node("Mul", ["d", "d"], ["d2"]),
        _node("ReduceMean", ["d2"], ["variance"], axes=[0]),
        _node("Add", ["variance", "epsilon"], ["safe"]),
        _node("Sqrt", ["safe"], ["spread"]),
        _node("Div", ["d", "spread"], ["y"]),
    ]
    return _on_x(nodes, "n", 4, weights={"epsilon": np.array(1e-3, np.float32)}, rows=1)


def largest_rows() -> Case:
    nodes = [_node("TopK", ["x", "k"], ["y", "places"], axis=0)]
    return _on_x(nodes, "k", 4, weights={"k": np.array([2])}, rows=2)


def gram() -> Case:
    nodes = [_node("Transpose", ["x"], ["t"], perm=[1, 0]), _node("MatMul", ["x", "t"], ["y"])]
    return _on_x(nodes, "n", "n")


def attention_over_rows() -> Case:
    nodes = [
        _node("Transpose", ["x"], ["t"], perm=[1, 0]),
        _node("MatMul", ["x", "t"], ["scores"]),
        _node("Softmax", ["scores"], ["share"], axis=-1),
        _node("MatMul", ["share", "x"], ["y"]),
    ]
    return _on_x(nodes, "n", 4)


def running_sum() -> Case:
    return _on_x([_node("CumSum", ["x", "zero"], ["y"])], "n", 4, weights={"zero": np.array(0)})


def point_cloud() -> Case:
    """Each point beside the largest features of all points."""
    nodes = [
        _node("MatMul", ["x", "w"], ["f"]),
        _node("Relu", ["f"], ["r"]),
        _node("ReduceMax", ["r"], ["most"], axes=[0], keepdims=1),
        _node("Sub", ["r", "most"], ["y"]),
    ]
    return _on_x(nodes, "n", 5, weights={"w": _floats(1, 4, 5)}, rows=1)


def mean_of_all() -> Case:
    """A scalar."""
    return _on_x([_node("ReduceMean", ["x"], ["y"], keepdims=0)], rows=1)


def flattened() -> Case:
    return _on_x([_node("Reshape", ["x", "flat"], ["y"])], "m", weights={"flat": np.array([-1])}, rows=1)


def differences() -> Case:
    """Each row but the first, less the one before it."""
    weights = {"zero": np.array([0]), "one": np.array([1]), "last": np.array([-1]), "end": np.array([1 << 40])}
    nodes = [
        _node("Slice", ["x", "one", "end", "zero"], ["later"]),
        _node("Slice", ["x", "zero", "last", "zero"], ["earlier"]),
        _node("Sub", ["later", "earlier"], ["y"]),
    ]
    return _on_x(nodes, "m", 4, weights=weights, rows=1)


def branches() -> Case:
    """Doubled or negated, by the sum of all rows."""
    bodies = []
    for operator, inputs in (("Add", ["x", "x"]), ("Neg", ["x"])):
        graph = helper.make_graph(
            [_node(operator, inputs, [f"{operator}_y"])], operator, [], [_value(f"{operator}_y", T.FLOAT, "n", 4)]
        )
        bodies.append(graph)
    nodes = [
        _node("ReduceSum", ["x"], ["sum"], keepdims=0),
        _node("Greater", ["sum", "zero"], ["positive"]),
        _node("If", ["positive"], ["y"], then_branch=bodies[0], else_branch=bodies[1]),
    ]
    return _on_x(nodes, "n", 4, weights={"zero": np.array(0, np.float32)})


def quantised_together() -> Case:
    """Dynamic int8: one scale for the whole input."""
    weights = {
        "w": np.clip(_floats(5, 4, 3) * 40, -127, 127).astype(np.int8),
        "wz": np.array(0, np.int8),
        "ws": np.array(0.05, np.float32),
    }
    nodes = [
        _node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        _node("MatMulInteger", ["q", "w", "z", "wz"], ["i"]),
        _node("Cast", ["i"], ["f"], to=T.FLOAT),
        _node("Mul", ["s", "ws"], ["scale"]),
        _node("Mul", ["f", "scale"], ["y"]),
    ]
    case = _on_x(nodes, "n", 3, weights=weights, rows=1)
    scales = (1, 50, 0.1, 200, 1, 1)
    return Case(case.model, [{"x": r["x"] * np.float32(s)} for r, s in zip(case.requests, scales, strict=True)])


def numbered() -> Case:
    """The number of each row."""
    nodes = [
        _node("Shape", ["x"], ["shape"], start=0, end=1),
        _node("Squeeze", ["shape"], ["count"]),
        _node("Range", ["zero", "count", "one"], ["y"]),
    ]
    weights = {"zero": np.array(0), "one": np.array(1)}
    model = _model(nodes, [_value("x", T.FLOAT, "n", 4)], [_value("y", T.INT64, "n")], weights)
    return Case(model, [{"x": _floats(n, n, 4)} for n in (2, 1, 9, 0)])


def pairwise() -> Case:
    """Every image scored against every text."""
    nodes = [_node("Transpose", ["text"], ["t"], perm=[1, 0]), _node("MatMul", ["image", "t"], ["scores"])]
    inputs = [_value("image", T.FLOAT, "image_batch", 8), _value("text", T.FLOAT, "text_batch", 8)]
    model = _model(nodes, inputs, [_value("scores", T.FLOAT, "image_batch", "text_batch")])
    sizes = ((1, 1), (1, 5), (3, 2), (9, 9), (0, 2))
    return Case(model, [{"image": _floats(a, a, 8), "text": _floats(50 + b, b, 8)} for a, b in sizes])


def joined() -> Case:
    """The rows of two inputs, one after the other."""
    inputs = [_value("a", T.FLOAT, "n", 2), _value("b", T.FLOAT, "m", 2)]
    model = _model([_node("Concat", ["a", "b"], ["y"], axis=0)], inputs, [_value("y", T.FLOAT, "all", 2)])
    return Case(model, [{"a": _floats(a, a, 2), "b": _floats(b, b, 2)} for a, b in ((1, 1), (2, 7), (30, 1), (0, 3))])


def edges() -> Case:
    """A graph: each edge shows the node that it comes from."""
    inputs = [_value("x", T.FLOAT, "nodes", 2), _value("source", T.INT64, "edges")]
    model = _model([_node("Gather", ["x", "source"], ["y"])], inputs, [_value("y", T.FLOAT, "edges", 2)])
    requests = [{"x": _floats(n, n, 2), "source": np.random.default_rng(n).integers(0, n, 2 * n)} for n in (3, 5, 9)]
    return Case(model, [*requests, {"x": _floats(2, 2, 2), "source": np.empty(0, np.int64)}])


def found() -> Case:
    """As many rows as there are hits, with the number of the picture in each."""
    nodes = [
        _node("Greater", ["x", "half"], ["hit"]),
        _node("NonZero", ["hit"], ["places"]),
        _node("Transpose", ["places"], ["found"], perm=[1, 0]),
    ]
    weights = {"half": np.array(0.5, np.float32)}
    model = _model(nodes, [_value("x", T.FLOAT, "n", 4)], [_value("found", T.INT64, "hits", 2)], weights)
    rows = [[[1, 0, 0, 1]], [[0, 0, 0, 0]], [[1, 1, 1, 1]], [[0, 1, 0, 0], [1, 0, 0, 0]]]
    return Case(model, [{"x": np.array(r, np.float32)} for r in rows])


def detector() -> Case:
    """Boxes that are left by non-maximum suppression: picture, class and place of each."""
    nodes = [_node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["kept"])]
    weights = {"most": np.array(3), "overlap": np.array(0.5, np.float32), "least": np.array(0.2, np.float32)}
    inputs = [_value("boxes", T.FLOAT, "n", 6, 4), _value("scores", T.FLOAT, "n", 1, 6)]
    model = _model(nodes, inputs, [_value("kept", T.INT64, "hits", 3)], weights)
    requests = []
    for n in (1, 2, 5):
        corners = np.sort(np.abs(_floats(n, n, 6, 2, 2)), axis=2).reshape(n, 6, 4)
        requests.append({"boxes": corners, "scores": np.abs(_floats(n + 9, n, 1, 6))})
    nothing = requests[0] | {"scores": np.zeros((1, 1, 6), np.float32)}
    return Case(model, [*requests, nothing])


def time_major_lstm() -> Case:
    weights = {"w": _floats(2, 1, 16, 6) * 0.3, "r": _floats(3, 1, 16, 4) * 0.3}
    nodes = [_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4)]
    model = _model(nodes, [_value("x", T.FLOAT, "t", 1, 6)], [_value("y", T.FLOAT, "t", 1, 1, 4)], weights)
    return Case(model, [{"x": _floats(n, n, 1, 6)} for n in (2, 7, 33, 1)])


def time_major_gru() -> Case:
    weights = {"w": _floats(2, 1, 12, 6) * 0.3, "r": _floats(3, 1, 12, 4) * 0.3}
    nodes = [_node("GRU", ["x", "w", "r"], ["y"], hidden_size=4)]
    model = _model(nodes, [_value("x", T.FLOAT, "t", 1, 6)], [_value("y", T.FLOAT, "t", 1, 1, 4)], weights)
    return Case(model, [{"x": _floats(n, n, 1, 6)} for n in (2, 7, 33, 1)])


def distinct() -> Case:
    """Words that occur, in order."""
    model = _model([_node("Unique", ["x"], ["y"])], [_value("x", T.INT64, "n")], [_value("y", T.INT64, "m")])
    return Case(model, [{"x": np.random.default_rng(n).integers(0, 6, n)} for n in (1, 4, 20)])


def unknown_names() -> Case:
    """Axes as named by TensorFlow's converter."""
    return _independent("serving_default_x:0", ["unk__1", 4], ["unk__2", 3])


def unnamed_axes() -> Case:
    return _independent("x", [None, 4], [None, 3])


def every_axis_another_name() -> Case:
    """Axes as named by Paddle's exporter."""
    return _independent("x", ["DynamicDimension.0", 4], ["DynamicDimension.7", 3])


def sentences() -> Case:
    """Embedded words of any number, averaged."""
    nodes = [_node("Gather", ["table", "ids"], ["e"]), _node("ReduceMean", ["e"], ["y"], axes=[1], keepdims=0)]
    inputs, outputs = [_value("ids", T.INT64, "unk__3", "unk__4")], [_value("y", T.FLOAT, "unk__5", 8)]
    requests = [{"ids": np.random.default_rng(n).integers(0, 8, (r, n))} for r, n in ((1, 5), (2, 9), (1, 5), (7, 3))]
    return Case(_model(nodes, inputs, outputs, {"table": _floats(3, 8, 8)}), requests, batched=True)


def labels() -> Case:
    """A classifier whose labels are strings."""
    nodes = [
        _node("Gemm", ["x", "w", "b"], ["scores"]),
        _node("ArgMax", ["scores"], ["place"], axis=1, keepdims=0),
        _node(
            "LabelEncoder",
            ["place"],
            ["label"],
            domain="ai.onnx.ml",
            keys_int64s=[0, 1, 2],
            values_strings=["setosa", "versicolor", "virginica"],
        ),
    ]
    outputs = [_value("label", T.STRING, "n"), _value("scores", T.FLOAT, "n", 3)]
    model = _model(nodes, [_value("x", T.FLOAT, "n", 4)], outputs, {"w": _floats(1, 4, 3), "b": _floats(2, 3)})
    requests = [{"x": _floats(n, n, 4)} for n in (1, 3, 1, 9)]
    return Case(model, requests, batched=True, openvino="it does not support strings")


_MAKERS: tuple[Callable[[], Case], ...] = (
    softmax_over_rows,
    statistics_of_the_batch,
    largest_rows,
    gram,
    attention_over_rows,
    running_sum,
    point_cloud,
    mean_of_all,
    flattened,
    differences,
    branches,
    quantised_together,
    numbered,
    pairwise,
    joined,
    edges,
    found,
    detector,
    time_major_lstm,
    time_major_gru,
    distinct,
    unknown_names,
    unnamed_axes,
    every_axis_another_name,
    sentences,
    labels,
    *SHAPES,
)
CASES: dict[str, Case] = {make.__name__: make() for make in _MAKERS}

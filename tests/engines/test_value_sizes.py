"""Which outputs are as large as values say, by the operators before them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from tests.case_parts import Arrays, made_model, node, value_info

from tailcut.engines.value_sizes import open_shapes


def model(nodes: list[onnx.NodeProto], weights: Arrays | None = None) -> onnx.ModelProto:
    """x float32 [1, 4] and n int64 [2] -> y, declared as [1, 4]."""
    inputs = [value_info("x", T.FLOAT, 1, 4), value_info("n", T.INT64, 2)]
    return made_model(nodes, inputs, [value_info("y", T.FLOAT, 1, 4)], weights)


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        ([node("NonZero", ["x"], ["y"])], (None, None)),
        ([node("Tile", ["x", "n"], ["y"])], (None, None)),
        ([node("Compress", ["x", "hits"], ["y"], axis=1)], (1, None)),
        ([node("Compress", ["x", "hits"], ["c"], axis=1), node("Relu", ["c"], ["y"])], (1, None)),
        ([node("Reshape", ["x", "n"], ["y"])], (None, None)),
    ],
)
def test_sizes_by_values(nodes: list[onnx.NodeProto], shape: tuple) -> None:
    """They are left open, and those that the operators settle are not."""
    start = [node("ReduceMax", ["x"], ["most"], axes=[0], keepdims=0), node("Cast", ["most"], ["hits"], to=T.BOOL)]
    assert open_shapes(model([*start, *nodes])) == {"y": shape}


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Relu", ["x"], ["y"])],
        [node("Shape", ["x"], ["s"]), node("Reshape", ["x", "s"], ["y"])],
        [node("Reshape", ["x", "fixed"], ["y"])],
        [node("NonZero", ["x"], ["z"]), node("Cast", ["z"], ["f"], to=T.FLOAT), node("ReduceSum", ["f"], ["y"])],
        [node("NonZero", ["fixed"], ["z"]), node("Expand", ["x", "fixed"], ["y"])],
    ],
)
def test_sizes_that_are_always_the_same(nodes: list[onnx.NodeProto]) -> None:
    """By other shapes, by weights, or by an operator that leaves nothing of a size that it was given."""
    assert open_shapes(model(nodes, {"fixed": np.array([1, 4])})) == {}


def test_a_loop_returns_as_many_steps_as_its_input_says() -> None:
    """Its length is a value, and so is that of what follows it."""
    body = onnx.helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Identity", ["x"], ["step"])],
        "body",
        [value_info("i", T.INT64), value_info("go", T.BOOL)],
        [value_info("on", T.BOOL), value_info("step", T.FLOAT, 1, 4)],
    )
    nodes = [node("ReduceSum", ["n"], ["count"], keepdims=0), node("Loop", ["count", ""], ["y"], body=body)]
    assert open_shapes(model(nodes)) == {"y": (None, 1, 4)}

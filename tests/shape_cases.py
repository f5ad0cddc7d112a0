"""Cases whose tensors are not what an engine's memory could be bound to, whatever the file says of them."""

import numpy as np
from onnx import TensorProto as T

from tests.case_parts import Case, floats, independent, made_model, node, value_info


def passed_on() -> Case:
    """An input that is an output as well: engines leave memory that is bound to it as it was."""
    outputs = [value_info("y", T.FLOAT, "n", 4), value_info("x", T.FLOAT, "n", 4)]
    model = made_model([node("Relu", ["x"], ["y"])], [value_info("x", T.FLOAT, "n", 4)], outputs)
    return Case(model, [{"x": floats(n, n, 4)} for n in (1, 3, 1, 9, 40, 2)], batched=True)


def echo_of_one_row() -> Case:
    outputs = [value_info("x", T.FLOAT, 1, 4), value_info("y", T.FLOAT, 1, 4)]
    model = made_model([node("Relu", ["x"], ["y"])], [value_info("x", T.FLOAT, 1, 4)], outputs)
    return Case(model, [{"x": floats(n, 1, 4)} for n in (1, 2, 3)])


def fewer_columns_declared() -> Case:
    """The file says 2, and there are 3: onnxruntime only warns of that."""
    return independent("x", ["n", 4], ["n", 2])


def fewer_axes_declared() -> Case:
    return independent("x", ["n", 4], ["n"])


def other_rows_declared() -> Case:
    """One row of four that becomes two of two."""
    nodes = [node("Reshape", ["x", "square"], ["y"])]
    weights = {"square": np.array([2, 2])}
    model = made_model(nodes, [value_info("x", T.FLOAT, 1, 4)], [value_info("y", T.FLOAT, 1, 4)], weights)
    return Case(model, [{"x": floats(n, 1, 4)} for n in (1, 2, 3)])


def as_many_as_declared() -> Case:
    """Hits in a row, of which the file says that there are four, which is so for most values."""
    nodes = [node("Squeeze", ["x", "first"], ["row"]), node("NonZero", ["row"], ["places"])]
    weights = {"first": np.array([0])}
    model = made_model(nodes, [value_info("x", T.FLOAT, 1, 4)], [value_info("places", T.INT64, 1, 4)], weights)
    rows = [[1, 2, 3, 4], [0, 0, 0, 0], [0, 1, 0, 2], [5, 6, 7, 8]]
    return Case(model, [{"x": np.array([row], np.float32)} for row in rows])


SHAPES = (
    passed_on,
    echo_of_one_row,
    fewer_columns_declared,
    fewer_axes_declared,
    other_rows_declared,
    as_many_as_declared,
)

"""Cases whose outputs cannot be bound to memory, whatever shapes their files declare."""

import numpy as np
from onnx import TensorProto as T

from tests.case_parts import Case, floats, independent, made_model, node, value_info


def passed_on() -> Case:
    """An input that is also an output: engines do not write the memory that is bound to it."""
    outputs = [value_info("y", T.FLOAT, "n", 4), value_info("x", T.FLOAT, "n", 4)]
    model = made_model([node("Relu", ["x"], ["y"])], [value_info("x", T.FLOAT, "n", 4)], outputs)
    return Case(model, [{"x": floats(n, n, 4)} for n in (1, 3, 1, 9, 40, 2)], batched=True)


def echo_of_one_row() -> Case:
    outputs = [value_info("x", T.FLOAT, 1, 4), value_info("y", T.FLOAT, 1, 4)]
    model = made_model([node("Relu", ["x"], ["y"])], [value_info("x", T.FLOAT, 1, 4)], outputs)
    return Case(model, [{"x": floats(n, 1, 4)} for n in (1, 2, 3)])


def fewer_columns_declared() -> Case:
    """The file declares 2 columns, but there are 3: onnxruntime only warns."""
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
    """The hits in a row; the file declares four, which is right for most values."""
    nodes = [node("Squeeze", ["x", "first"], ["row"]), node("NonZero", ["row"], ["places"])]
    weights = {"first": np.array([0])}
    model = made_model(nodes, [value_info("x", T.FLOAT, 1, 4)], [value_info("places", T.INT64, 1, 4)], weights)
    rows = [[1, 2, 3, 4], [0, 0, 0, 0], [0, 1, 0, 2], [5, 6, 7, 8]]
    return Case(model, [{"x": np.array([row], np.float32)} for row in rows])


def matched() -> Case:
    """Each row multiplied by the row with the same index, or all rows by a single one."""
    nodes = [node("Mul", ["x", "q"], ["p"]), node("ReduceSum", ["p", "last"], ["y"], keepdims=0)]
    inputs = [value_info("x", T.FLOAT, "docs", 8), value_info("q", T.FLOAT, "queries", 8)]
    model = made_model(nodes, inputs, [value_info("y", T.FLOAT, "n")], {"last": np.array([1])})
    sizes = ((1, 1), (5, 1), (1, 3), (4, 4), (2, 3), (30, 1), (9, 9))
    requests = [{"x": floats(a, a, 8), "q": floats(70 + b, b, 8)} for a, b in sizes]
    return Case(model, requests, batched=True)


def towers() -> Case:
    """Images and texts, embedded separately."""
    nodes = [node("MatMul", ["a", "v"], ["image"]), node("MatMul", ["b", "w"], ["text"])]
    inputs = [value_info("a", T.FLOAT, "images", 8), value_info("b", T.FLOAT, "texts", 4)]
    outputs = [value_info("image", T.FLOAT, "images", 3), value_info("text", T.FLOAT, "texts", 3)]
    model = made_model(nodes, inputs, outputs, {"v": floats(1, 8, 3), "w": floats(2, 4, 3)})
    sizes = ((1, 3), (1, 1), (2, 2), (20, 1), (7, 7))
    return Case(model, [{"a": floats(a, a, 8), "b": floats(30 + b, b, 4)} for a, b in sizes], batched=True)


def towers_of_words() -> Case:
    """Two separate texts of any length, embedded and averaged."""
    nodes = [node("ReduceMean", ["a"], ["y"], axes=[1]), node("ReduceMean", ["b"], ["z"], axes=[1])]
    inputs = [value_info("a", T.FLOAT, "questions", "long"), value_info("b", T.FLOAT, "answers", "wide")]
    outputs = [value_info("y", T.FLOAT, "questions", 1), value_info("z", T.FLOAT, "answers", 1)]
    sizes = ((1, 3, 2), (1, 1, 5), (2, 2, 5), (9, 2, 4), (6, 6, 3))
    requests = [{"a": floats(a, a, size), "b": floats(b, b, size + 1)} for a, b, size in sizes]
    return Case(made_model(nodes, inputs, outputs), requests, batched=True)


SHAPES = (
    passed_on,
    echo_of_one_row,
    fewer_columns_declared,
    fewer_axes_declared,
    other_rows_declared,
    as_many_as_declared,
    matched,
    towers,
    towers_of_words,
)

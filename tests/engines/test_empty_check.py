"""Requests without elements: refused where an operator would end the process, computed where none would."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.engines.models import save, value

from tailcut.engines.base import EngineOptions
from tailcut.engines.empty_check import EmptyCheck
from tailcut.engines.onnxruntime import OnnxRuntimeEngine
from tailcut.errors import InvalidInputError
from tailcut.spec import DType

F32 = DType.FP32
WEIGHTS = {name: np.full((1, 9, size), 0.1, np.float32) for name, size in (("W", 2), ("R", 3))}


def recurrent(path: Path) -> Path:
    """x [N, L, 2] -> the last state of a GRU [N, 3]."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["steps", "W", "R"], ["", "last"], hidden_size=3),
        helper.make_node("Squeeze", ["last", "axis"], ["y"]),
    ]
    inputs, outputs = [value("x", F32, (None, None, 2))], [value("y", F32, (None, 3))]
    return save(path, nodes, inputs, outputs, WEIGHTS | {"axis": np.array([0])})


def decoder(path: Path) -> Path:
    """x [N, L, 2] after past [N, P, 2] -> the products of all with all [N, P + L, P + L]."""
    nodes = [
        helper.make_node("Concat", ["past", "x"], ["all"], axis=1),
        helper.make_node("Einsum", ["all", "all"], ["y"], equation="nik,njk->nij"),
    ]
    inputs = [value("past", F32, (None, None, 2)), value("x", F32, (None, None, 2))]
    return save(path, nodes, inputs, [value("y", F32, (None, None, None))], {})


def test_what_would_end_the_process_is_refused(tmp_path: Path) -> None:
    """No steps, and no sequences; what has both is computed."""
    engine = OnnxRuntimeEngine(recurrent(tmp_path / "m.onnx"), EngineOptions())
    for shape in ((1, 0, 2), (0, 3, 2)):
        for _ in range(2):
            with pytest.raises(InvalidInputError, match=r"input 'x' of shape .* has no elements, and GRU needs some"):
                engine.run({"x": np.ones(shape, np.float32)})
    assert engine.run({"x": np.ones((2, 3, 2), np.float32)})["y"].shape == (2, 3)


def test_an_input_without_elements_is_not_an_operand_without_them(tmp_path: Path) -> None:
    """A decoder's first step has no past; a batch of none is refused."""
    engine = OnnxRuntimeEngine(decoder(tmp_path / "m.onnx"), EngineOptions())
    first = {"past": np.ones((2, 0, 2), np.float32), "x": np.ones((2, 1, 2), np.float32)}
    assert engine.run(first)["y"].tolist() == [[[2]], [[2]]]
    with pytest.raises(InvalidInputError, match="Einsum"):
        engine.run({name: array[:0] for name, array in first.items()})


def test_sizes_that_nobody_infers(tmp_path: Path) -> None:
    """Behind an operator of an unknown domain, and inside a function: refused, as they may be 0."""
    model = onnx.load(decoder(tmp_path / "m.onnx"))
    model.graph.node[0].domain = "mine"
    model.opset_import.append(helper.make_opsetid("mine", 1))
    first = {"past": np.ones((2, 0, 2), np.float32), "x": np.ones((2, 1, 2), np.float32)}
    check = EmptyCheck.of(model)
    assert check is not None
    check.check({name: np.ones((2, 1, 2), np.float32) for name in first})
    with pytest.raises(InvalidInputError):
        check.check(first)
    model = onnx.load(decoder(tmp_path / "m.onnx"))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("mine", "product", ["a"], ["b"], [model.graph.node[1]], opset))
    model.graph.node[1].CopyFrom(helper.make_node("product", ["all"], ["y"], domain="mine"))
    check = EmptyCheck.of(model)
    assert check is not None
    with pytest.raises(InvalidInputError, match="Einsum"):
        check.check(first)


def test_a_normalisation_after_an_addition(tmp_path: Path) -> None:
    """onnxruntime makes one operator of both, which divides by the number of rows; some are normalised."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "scale"], ["y"]),
    ]
    inputs, outputs = [value("x", F32, (None, None, 8))], [value("y", F32, (None, None, 8))]
    path = save(tmp_path / "m.onnx", nodes, inputs, outputs, {"scale": np.ones(8, np.float32)})
    engine = OnnxRuntimeEngine(path, EngineOptions())
    with pytest.raises(InvalidInputError, match="LayerNormalization"):
        engine.run({"x": np.ones((1, 0, 8), np.float32)})
    assert engine.run({"x": np.ones((1, 1, 8), np.float32)})["y"].shape == (1, 1, 8)


def test_a_graph_without_such_an_operator_is_not_looked_at(tmp_path: Path) -> None:
    """Whatever it is asked."""
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, [value("x", F32, (None, 2))], [value("y", F32, (None, 2))], {})
    assert EmptyCheck.of(onnx.load(path)) is None

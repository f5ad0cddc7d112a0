"""What is read from a model's file without an engine."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.engines.models import endless, external_weights, perceptron, save, value

from tailcut.engines.traits import read_traits
from tailcut.errors import ModelFileError
from tailcut.spec import DType


def test_weights_are_counted_wherever_they_lie(tmp_path: Path) -> None:
    """In the file itself, and in files beside it."""
    inside = perceptron([64, 256], tmp_path / "inside.onnx")
    assert read_traits(inside).weight_bytes >= 64 * 256 * 4
    outside = external_weights(tmp_path / "outside.onnx")
    beside = sum(file.stat().st_size for file in tmp_path.iterdir() if file != inside)
    assert outside.stat().st_size < read_traits(outside).weight_bytes <= beside


def test_a_loop_is_found_inside_a_branch_and_inside_a_function(tmp_path: Path) -> None:
    """An operator that runs as long as values say counts wherever it stands; others do not."""
    assert not read_traits(perceptron([4, 3], tmp_path / "plain.onnx")).endless
    loop = onnx.load(endless(tmp_path / "loop.onnx"))
    assert read_traits(tmp_path / "loop.onnx").endless == "Loop"
    branch = helper.make_graph([loop.graph.node[1]], "branch", [], [value("y", DType.FP32, (None, 4))])
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "other", [], [value("y", DType.FP32, (None, 4))]
    )
    nodes = [
        loop.graph.node[0],
        helper.make_node("If", ["always"], ["y"], then_branch=branch, else_branch=other),
    ]
    path = save(tmp_path / "branch.onnx", nodes, loop.graph.input, loop.graph.output, {"always": np.array(True)})
    assert read_traits(path).endless == "Loop"
    opset = [helper.make_opsetid("", 17)]
    function = helper.make_function("own", "repeat", ["x", "rounds"], ["y"], loop.graph.node, opset)
    called = helper.make_graph(
        [helper.make_node("repeat", ["x", "rounds"], ["y"], domain="own")], "g", loop.graph.input, loop.graph.output
    )
    model = helper.make_model(called, functions=[function], opset_imports=[*opset, helper.make_opsetid("own", 1)])
    onnx.save(model, tmp_path / "function.onnx")
    assert read_traits(tmp_path / "function.onnx").endless == "Loop"


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    """As when it is loaded."""
    (tmp_path / "m.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelFileError):
        read_traits(tmp_path / "m.onnx")

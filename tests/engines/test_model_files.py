"""The files of a model, found without its graph being parsed."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.engines.models import perceptron

from tailcut.engines.model_files import model_files
from tailcut.errors import ModelFileError


def external(folder: Path, location: str) -> Path:
    """A model with two tensors in a file beside it, as onnx writes it."""
    nodes = [helper.make_node("Add", ["x", "a"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    tensors = [numpy_helper.from_array(np.full(4096, value, np.float32), name) for name, value in (("a", 1), ("b", 2))]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4096]) for name in "xy")
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], tensors))
    (folder / location).parent.mkdir(exist_ok=True)
    onnx.save_model(model, folder / "m.onnx", save_as_external_data=True, location=location, size_threshold=0)
    return folder / "m.onnx"


@pytest.mark.parametrize("location", ["m.onnx.data", "weights/" + "w" * 150 + ".bin"])
def test_external_weights(tmp_path: Path, location: str) -> None:
    """By names of any length, each file once."""
    path = external(tmp_path, location)
    assert model_files(path) == [path, tmp_path / location]


def test_a_model_of_one_file(tmp_path: Path) -> None:
    path = perceptron([4, 3], tmp_path / "m.onnx")
    assert model_files(path) == [path]


def test_weights_that_look_like_a_name(tmp_path: Path) -> None:
    """Chance bytes name no file, also where they end the file."""
    path = perceptron([4, 3], tmp_path / "m.onnx")
    for end in (b"", b"\xff", b"\xff\xff", b"\x04\0\0\0\0", b"\x04gone"):
        path.write_bytes(path.read_bytes() + b"\x0a\x08location\x12" + end)
        assert model_files(path) == [path]


@pytest.mark.parametrize("before", range(9))
def test_a_name_across_two_steps_of_the_search(tmp_path: Path, before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found as any other."""
    path = external(tmp_path, "m.onnx.data")
    monkeypatch.setattr(
        "tailcut.engines.model_files._STEP_BYTES", path.read_bytes().index(b"\x0a\x08location") + before
    )
    assert model_files(path) == [path, tmp_path / "m.onnx.data"]


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError):
        model_files(tmp_path / "none.onnx")

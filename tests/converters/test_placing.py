"""Where the files of a conversion go: the weights of one model are never those of another."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.engines import models

from tailcut.converters.placing import name_after, put_beside
from tailcut.engines import EngineOptions, open_engine
from tailcut.errors import UsageError


def written(folder: Path, scale: float, weights: str) -> Path:
    """A model as a library writes it, all ones times a number, with its weights in a file of this name."""
    folder.mkdir()
    path = models.perceptron([4, 3], folder / "model.onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tensor.dims, scale, np.float32), tensor.name))
    onnx.save(model, path, save_as_external_data=True, location=weights, size_threshold=0)
    return path


def answer(path: Path) -> np.ndarray:
    engine = open_engine(path, EngineOptions(threads=1))
    result = engine.run({"x": np.ones((1, 4), np.float32)})["y"]
    engine.close()
    return result


def test_weights_are_named_after_the_target(tmp_path: Path) -> None:
    """Whatever a library calls them, so that two models in one folder keep their own."""
    for scale, weights in ((1.0, "model.onnx_data"), (2.0, "model.onnx.data")):
        target = tmp_path / f"times{scale:.0f}.onnx"
        path = written(tmp_path / weights, scale, weights)
        truth = answer(path)
        put_beside(target, name_after(target, path))
        assert np.array_equal(answer(target), truth)
    assert {path.name for path in tmp_path.glob("times*")} == {
        "times1.onnx", "times1.onnx.data", "times2.onnx", "times2.onnx.data",
    }  # fmt: skip
    assert not np.array_equal(answer(tmp_path / "times1.onnx"), truth)


def test_a_model_without_weights_of_its_own_replaces_one_with_them(tmp_path: Path) -> None:
    """And the other way round."""
    target = tmp_path / "m.onnx"
    for number, scale in enumerate((1.0, None, 3.0)):
        folder = tmp_path / str(number)
        if scale is None:
            folder.mkdir()
        path = models.perceptron([4, 3], folder / "model.onnx") if scale is None else written(folder, scale, "w.bin")
        truth = answer(path)
        put_beside(target, name_after(target, path))
        assert np.array_equal(answer(target), truth)


def test_a_graph_is_never_beside_the_weights_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the second move fails, the model is gone, and not wrong."""
    target = tmp_path / "m.onnx"
    put_beside(target, name_after(target, written(tmp_path / "first", 1.0, "w.bin")))
    graph = name_after(target, written(tmp_path / "second", 2.0, "w.bin"))
    move = Path.replace

    def failing(path: Path, to: Path) -> Path:
        if path.suffix == ".onnx":
            raise OSError(28, "No space left on device")
        return move(path, to)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="No space left"):
        put_beside(target, graph)
    assert not target.exists()


def test_the_weights_of_another_model_are_not_replaced(tmp_path: Path) -> None:
    """In one line; those of the target itself, and those that no model reads any more, are."""
    models.external_weights(tmp_path / "b.onnx").rename(tmp_path / "a.onnx")  # it reads b.onnx.data
    path = written(tmp_path / "new", 1.0, "w.bin")
    before = (tmp_path / "b.onnx.data").read_bytes()
    with pytest.raises(UsageError, match=r"b\.onnx\.data: has the weights of a\.onnx: write b\.onnx to another"):
        name_after(tmp_path / "b.onnx", path)
    assert (tmp_path / "b.onnx.data").read_bytes() == before
    (tmp_path / "a.onnx").unlink()
    put_beside(tmp_path / "b.onnx", name_after(tmp_path / "b.onnx", path))
    assert answer(tmp_path / "b.onnx").shape == (1, 3)

"""Clients may see a tensor in another shape than the model."""

from pathlib import Path

import numpy as np
import pytest
from tests.engines import models

from tailcut import Model
from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.base import Reshape
from tailcut.errors import UnsupportedError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings

SPLIT = Reshape(name="x", client=(-1, 2, 2), model=(-1, 4))
FLAT = Reshape(name="y", client=(-1, 3, 1), model=(-1, 3))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "none"])
def test_answers_are_the_same_elements(tmp_path: Path, name: str) -> None:
    """Bound and unbound; the signature is the clients'."""
    path = models.perceptron([4, 3], tmp_path / "mlp.onnx")
    plain = open_engine(path, EngineOptions(name=name, threads=1))
    engine = open_engine(path, EngineOptions(name=name, threads=1, reshapes=(SPLIT, FLAT)))
    assert engine.spec.inputs[0].shape == (None, 2, 2)
    x = np.random.default_rng(0).standard_normal((5, 2, 2)).astype(np.float32)
    expected = plain.run({"x": x.reshape(5, 4)})["y"].reshape(5, 3, 1)
    assert np.array_equal(engine.run({"x": x})["y"], expected)
    y = np.empty((5, 3, 1), np.float32)
    engine.bind({"x": x}, {"y": y})()
    assert np.array_equal(y, expected)
    engine.close()


def test_a_model_with_reshapes_is_batched(tmp_path: Path) -> None:
    """They are part of a profile, and rows are proven through them."""
    path = models.perceptron([4, 3], tmp_path / "mlp.onnx")
    engine = EngineOptions(threads=1, reshapes=(SPLIT, FLAT))
    Profile.of_model(path, Settings(engine=engine)).save(tmp_path / "p.toml")
    with Model.open(tmp_path / "p.toml") as model:
        assert model.spec.batched
        assert model.infer_sync({"x": np.zeros((2, 2, 2), np.float32)})["y"].shape == (2, 3, 1)


@pytest.mark.parametrize(
    ("reshape", "words"),
    [
        (Reshape(name="z", client=(-1,), model=(-1,)), "no tensor 'z'"),
        (Reshape(name="x", client=(-1, 2, 2), model=(-1, 5)), r"is FP32 \[-1, 4\] in the model"),
        (Reshape(name="x", client=(-1, 2, 3), model=(-1, 4)), "differ in size"),
        (Reshape(name="x", client=(-1, -1), model=(-1, 4)), "differ in size"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(tmp_path: Path, reshape: Reshape, words: str) -> None:
    """When the model is loaded."""
    path = models.perceptron([4, 3], tmp_path / "mlp.onnx")
    with pytest.raises(UnsupportedError, match=words):
        open_engine(path, EngineOptions(threads=1, reshapes=(reshape,)))

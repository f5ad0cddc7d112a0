"""Clients may see a tensor in another shape than the model."""

from pathlib import Path

import numpy as np
import pytest
from tests.engines import models

from tailcut import Model
from tailcut.engines import Engine, EngineOptions, open_engine
from tailcut.engines.base import Reshape
from tailcut.errors import EngineError, UnsupportedError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings

SPLIT = Reshape(name="x", client=(-1, 2, 2), model=(-1, 4))
FLAT = Reshape(name="y", client=(-1, 3, 1), model=(-1, 3))
X = np.random.default_rng(0).standard_normal((5, 2, 2)).astype(np.float32)


def check_answers(engine: Engine, expected: np.ndarray) -> None:
    """The answers to X, unbound and bound."""
    assert np.array_equal(engine.run({"x": X})["y"], expected)
    y = np.empty(expected.shape, np.float32)
    engine.bind({"x": X}, {"y": y})()
    assert np.array_equal(y, expected)
    engine.close()


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "none"])
def test_answers_are_the_same_elements(tmp_path: Path, name: str) -> None:
    """ExactRange and unbound; the signature is the clients'."""
    path = models.perceptron([4, 3], tmp_path / "mlp.onnx")
    plain = open_engine(path, EngineOptions(name=name, threads=1))
    engine = open_engine(path, EngineOptions(name=name, threads=1, reshapes=(SPLIT, FLAT)))
    assert engine.spec.inputs[0].shape == (None, 2, 2)
    check_answers(engine, plain.run({"x": X.reshape(5, 4)})["y"].reshape(5, 3, 1))


def test_a_model_with_reshapes_is_batched(tmp_path: Path) -> None:
    """They are part of a profile, and rows are proven through them."""
    path = models.perceptron([4, 3], tmp_path / "mlp.onnx")
    engine = EngineOptions(threads=1, reshapes=(SPLIT, FLAT))
    Profile.of_model(path, Settings(engine=engine)).save(tmp_path / "p.toml")
    with Model.open(tmp_path / "p.toml") as model:
        assert model.spec.batched
        assert model.infer_sync({"x": np.zeros((2, 2, 2), np.float32)})["y"].shape == (2, 3, 1)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "none"])
def test_sizes_that_the_model_leaves_free(tmp_path: Path, name: str) -> None:
    """They are those of the clients; a model that computes other ones fails in one line."""
    path = models.scaled_free(tmp_path / "scaled.onnx")
    ends = Reshape(name="x", client=(-1, 2, 2), model=(-1, 4)), Reshape(name="y", client=(-1, 4, 1), model=(-1, 4))
    engine = open_engine(path, EngineOptions(name=name, threads=1, reshapes=ends))
    check_answers(engine, np.zeros((5, 4, 1)) if name == "none" else 2 * X.reshape(5, 4, 1))


def test_an_output_whose_size_only_clients_see(tmp_path: Path) -> None:
    """Its shape is the one that clients see."""
    path = models.scaled_free(tmp_path / "scaled.onnx")
    told = Reshape(name="y", client=(-1, 4), model=(-1, 4))
    engine = open_engine(path, EngineOptions(threads=1, reshapes=(told,)))
    assert [tensor.shape for tensor in (*engine.spec.inputs, *engine.spec.outputs)] == [(None, None), (None, 4)]
    flat = X.reshape(5, 4)
    assert np.array_equal(engine.run({"x": flat})["y"], 2 * flat)
    engine.close()


def test_an_output_of_another_size_is_an_error(tmp_path: Path) -> None:
    """Where the model leaves it free, it is known when it is computed."""
    path = models.scaled_free(tmp_path / "scaled.onnx")
    wrong = Reshape(name="y", client=(-1, 3, 1), model=(-1, 3))
    engine = open_engine(path, EngineOptions(threads=1, reshapes=(wrong,)))
    with pytest.raises(EngineError, match=r"^tensor 'y' has shape \[2, 4\], not \[-1, 3\]$"):
        engine.run({"x": np.zeros((2, 4), np.float32)})
    engine.close()


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

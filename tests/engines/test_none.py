"""The engine that computes nothing."""

from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import perceptron, two_in_two_out

from tailcut.engines import EngineOptions, open_engine
from tailcut.errors import InvalidInputError, ReleasedError

NONE = EngineOptions(name="none")


def test_zeros_of_the_right_shape(tmp_path: Path) -> None:
    """A row for each row, in the outputs' own dtype, bound or not."""
    engine = open_engine(perceptron([4, 8, 3], tmp_path / "m.onnx"), NONE)
    x = np.ones((5, 4), np.float32)
    (name,) = engine.spec.output_names
    result = engine.run({engine.spec.input_names[0]: x})[name]
    assert (result.shape, result.dtype, result.any()) == ((5, 3), np.float32, False)
    y = np.ones((5, 3), np.float32)
    engine.bind({engine.spec.input_names[0]: x}, {name: y})()
    assert not y.any()


def test_the_signature_is_the_models(tmp_path: Path) -> None:
    """Arrays are checked as every engine checks them."""
    path = two_in_two_out(tmp_path / "pair.onnx")
    engine, real = open_engine(path, NONE), open_engine(path, EngineOptions())
    assert (engine.spec.inputs, engine.spec.outputs) == (real.spec.inputs, real.spec.outputs)
    with pytest.raises(InvalidInputError, match="missing"):
        engine.bind({}, {})


def test_closed_is_closed(tmp_path: Path) -> None:
    """As with any engine."""
    engine = open_engine(perceptron([4, 3], tmp_path / "m.onnx"), NONE)
    engine.close()
    with pytest.raises(ReleasedError):
        engine.run({"x": np.ones((1, 4), np.float32)})

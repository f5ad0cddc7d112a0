"""The bundled model is what the package says it is."""

import numpy as np
import pytest

from tailcut.engines import EngineOptions, open_engine
from tailcut.models import digits_data, digits_model
from tailcut.spec import DType, TensorSpec


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_reads_held_out_digits(engine: str) -> None:
    """Both engines read at least 98 of 100 digits that the training never saw, one by one as in a batch."""
    with np.load(digits_data()) as data:
        images, labels = data["image"], data["labels"]
    opened = open_engine(digits_model(), EngineOptions(name=engine, threads=1))
    together = opened.run({"image": images})["scores"]
    alone = opened.run({"image": images[7:8]})["scores"]
    opened.close()
    assert (together.argmax(1) == labels).mean() >= 0.98
    np.testing.assert_allclose(alone[0], together[7], rtol=1e-4, atol=1e-5)


def test_signature() -> None:
    """One image tensor in, one score for each digit out, the batch free, and the file small enough to ship."""
    engine = open_engine(digits_model(), EngineOptions())
    assert engine.spec.name == "digits"
    assert engine.spec.inputs == (TensorSpec("image", DType.FP32, (None, 1, 8, 8)),)
    assert engine.spec.outputs == (TensorSpec("scores", DType.FP32, (None, 10)),)
    assert digits_model().stat().st_size < 2 << 20
    engine.close()


def test_samples() -> None:
    """The samples are whole numbers of 0 to 16, so that they survive the uint8 wire, and hold every digit."""
    with np.load(digits_data()) as data:
        images, labels = data["image"], data["labels"]
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    assert images.shape == (len(labels), 1, 8, 8)
    assert set(np.unique(images)) <= set(range(17))
    assert set(labels) == set(range(10))

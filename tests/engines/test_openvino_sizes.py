"""Sizes that do not fit a graph are found without computing it."""

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from tests.engines import models

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.openvino_sizes import SizedReference, SizeInference
from tailcut.engines.openvino_values import ValueCheck
from tailcut.errors import EngineError


def images(height: int) -> dict[str, np.ndarray]:
    return {"x": np.zeros((1, 3, height, 10), np.float32)}


@pytest.mark.parametrize("by_name", [False, True])
def test_sizes_are_inferred_on_a_copy(tmp_path: Path, *, by_name: bool) -> None:
    """What does not fit is refused with the operator's name, whatever came before; the model stays as it is."""
    path = models.pooled(tmp_path / "pooled.onnx")
    model = ov.Core().read_model(path)
    before = [str(port.partial_shape) for port in model.inputs]
    engine = open_engine(path, EngineOptions(threads=1))
    sizes = SizeInference(model, engine.spec, by_name=by_name)
    for height in (1, 8, 1):
        if height == 1:
            with pytest.raises(EngineError, match=r"^openvino refuses these sizes: \S+: Kernel .* larger than"):
                sizes.infer(images(height))
        else:
            sizes.infer(images(height))
    assert [str(port.partial_shape) for port in model.inputs] == before
    engine.close()


def test_a_reference_answers_only_what_openvino_can_compute(tmp_path: Path) -> None:
    """Its engine would answer more; what both refuse is said in the engine's words."""
    path = models.pooled(tmp_path / "pooled.onnx")
    engine = open_engine(path, EngineOptions(threads=1))
    model = ov.Core().read_model(path)
    values = ValueCheck(model, engine.spec, path, "use that engine")
    reference = SizedReference(engine, SizeInference(model, engine.spec), values, "use that engine")
    assert engine.run(images(1))["y"].shape == (1, 3)
    assert np.array_equal(reference.run(images(4))["y"], engine.run(images(4))["y"])
    with pytest.raises(EngineError, match=r"^openvino refuses .*: use that engine$"):
        reference.run(images(1))
    with pytest.raises(EngineError, match="onnxruntime failed"):
        reference.run({"x": np.zeros((1, 4, 8, 8), np.float32)})
    reference.close()

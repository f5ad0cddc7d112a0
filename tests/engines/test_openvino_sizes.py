"""Sizes that do not fit a graph are found without computing it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.engines import models
from tests.engines.openvino_values.graphs import save

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.openvino_core import core
from tailcut.engines.openvino_sizes import SizedReference, SizeInference
from tailcut.engines.openvino_values import ValueCheck
from tailcut.errors import EngineError
from tailcut.spec import Rows


def images(height: int) -> dict[str, np.ndarray]:
    return {"x": np.zeros((1, 3, height, 10), np.float32)}


@pytest.mark.parametrize("by_name", [False, True])
def test_sizes_are_inferred_on_a_copy(tmp_path: Path, *, by_name: bool) -> None:
    """What does not fit is refused with the operator's name, whatever came before; the model stays as it is."""
    path = models.pooled(tmp_path / "pooled.onnx")
    model = core().read_model(path)
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
    model = core().read_model(path)
    values = ValueCheck(model, engine.spec, path, "use that engine")
    reference = SizedReference(engine, SizeInference(model, engine.spec), values, "use that engine")
    assert engine.run(images(1))["y"].shape == (1, 3)
    assert np.array_equal(reference.run(images(4))["y"], engine.run(images(4))["y"])
    with pytest.raises(EngineError, match=r"^openvino refuses .*: use that engine$"):
        reference.run(images(1))
    with pytest.raises(EngineError, match="onnxruntime failed"):
        reference.run({"x": np.zeros((1, 4, 8, 8), np.float32)})
    reference.close()


COMPRESS = "(float[n] x) => (float[k] y) <float c = {0.5}> { m = Greater(x, c) y = Compress<axis = 0>(x, m) }"


def test_a_bound_output_that_is_not_filled_is_refused(tmp_path: Path) -> None:
    """OpenVINO leaves the rest of it as it was, which are the rows of earlier requests; the engine goes on."""
    engine = open_engine(save(tmp_path / "compress.onnx", COMPRESS), EngineOptions(name="openvino", threads=1))
    engine.spec = replace(engine.spec, rows=Rows.INDEPENDENT)
    x, y = np.full(7, 0.777, np.float32), np.zeros(7, np.float32)
    call = engine.bind({"x": x}, {"y": y})
    call()
    assert (y == x).all()
    x[1:] = 0.1
    with pytest.raises(EngineError, match=r"^output 'y' has shape \[1\] instead of \[7\]: .*: use --batching off$"):
        call()
    x[:] = 0.9
    call()
    assert (y == x).all()
    engine.close()


def test_outputs_whose_sizes_follow_from_the_inputs_are_not_looked_at(tmp_path: Path) -> None:
    """Those that depend on values are; where the sizes do not fit the graph, all of them."""
    for graph, shape, places in [
        (COMPRESS, (7,), (0,)),
        ("(float[n, 4] x) => (float[n, 2, 2] y) <int64[3] s = {-1, 2, 2}> { y = Reshape(x, s) }", (3, 4), ()),
        ("(float[n, 4] x) => (float[m, 8] y) <int64[2] s = {-1, 8}> { y = Reshape(x, s) }", (3, 4), (0,)),
    ]:
        path = save(tmp_path / "model.onnx", graph)
        engine = open_engine(path, EngineOptions(threads=1))
        assert SizeInference(core().read_model(path), engine.spec).open_outputs([shape]) == places
        engine.close()

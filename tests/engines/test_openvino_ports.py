"""Tensors of OpenVINO's models are found, also where it has lost their names."""

from pathlib import Path

import numpy as np
import pytest
from tests.engines.openvino_values.graphs import save

from tailcut.engines import EngineOptions, open_engine


@pytest.mark.parametrize(
    "graph",
    [
        "(float[n, 4] x) => (float[n, 4] y) { y = Dropout(x) }",
        "(float[n, 4] x) => (float[n, 4] y, float[n, 4] z) { y = Dropout(x) z = Relu(x) }",
        "(float[n, 4] a, float[n, 4] x) => (float[n, 4] y, float[n, 4] z) { y = Dropout(x) z = Sub(x, a) }",
        "(float[n, 4] x) => (float[n, 4] y, float[n, 4] z) { y = Dropout(x) z = Dropout(x) }",
        "(float[n, 4] x) => (float[n, 4] y, float[n, 4] z) { y = Cast<to = 1>(x) z = Relu(x) }",
        "(float[2, 4] x) => (float[2, 4] y) { y = Dropout(x) }",
    ],
)
def test_an_input_that_is_an_output_too(tmp_path: Path, graph: str) -> None:
    """OpenVINO takes the operator between them out: the input has the output's name then, and its memory."""
    path = save(tmp_path / "model.onnx", graph)
    random = np.random.default_rng(0)
    engine = open_engine(path, EngineOptions(name="openvino", threads=1))
    truth = open_engine(path, EngineOptions(threads=1))
    request = {name: random.standard_normal((2, 4), np.float32) for name in engine.spec.input_names}
    for name, expected in truth.run(request).items():
        assert np.array_equal(engine.run(request)[name], expected)
    answer = {name: np.zeros((2, 4), np.float32) for name in engine.spec.output_names}
    engine.bind(request, answer)()
    for name, expected in truth.run(request).items():
        assert np.array_equal(answer[name], expected)
    engine.close()
    truth.close()

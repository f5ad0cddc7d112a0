"""Tensors of OpenVINO's models are found, also where it has lost their names."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops
from tests.engines.openvino_values.graphs import save

from tailcut.engines import EngineOptions, open_engine
from tailcut.spec import Rows


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


@pytest.mark.parametrize(
    "returned", [["sum", "p"], ["p", "q"], ["sum", "cast"], ["cast", "p", "sum"], ["sum", "total"]]
)
def test_an_ir_that_returns_an_input(tmp_path: Path, returned: list[str]) -> None:
    """Each output has memory of its own: an input as it is, or cast to its own type, and a sum with two names."""
    a, b = (ops.parameter([-1, 4], np.float32, name=name) for name in "ab")
    total, cast = ops.add(a, b), ops.convert(b, "f32")
    nodes = {"sum": total, "total": total, "p": a, "q": a, "cast": cast}
    for node, names in [(a, {"a", "p", "q"}), (b, {"b"}), (total, {"sum", "total"}), (cast, {"cast"})]:
        node.output(0).set_names(names)
    results = [ops.result(nodes[name]) for name in returned]
    for result, name in zip(results, returned, strict=True):
        result.set_friendly_name(name)
    ov.save_model(ov.Model(results, [a, b], "returned"), tmp_path / "returned.xml", compress_to_fp16=False)
    engine = open_engine(tmp_path / "returned.xml", EngineOptions(name="openvino", threads=1))
    engine.spec = replace(engine.spec, rows=Rows.INDEPENDENT)
    assert engine.spec.output_names == tuple(returned)
    for rows in (3, 1, 5):
        x, y = np.random.default_rng(rows).standard_normal((2, rows, 4), np.float32)
        kept = {"sum": x + y, "total": x + y, "p": x.copy(), "q": x.copy(), "cast": y.copy()}
        answer = {name: np.zeros((rows, 4), np.float32) for name in returned}
        engine.bind({"a": x, "b": y}, answer)()
        result = engine.run({"a": x, "b": y})
        for name in returned:
            assert np.array_equal(answer[name], kept[name])
            assert np.array_equal(result[name], kept[name])
    engine.close()

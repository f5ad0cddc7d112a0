"""Copies of a model in static int8: what they compute, what stays in float, and what is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.engines import models

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.activations import METHODS, Method
from tailcut.engines.base import Form
from tailcut.engines.quantise import Calibration, shift_of
from tailcut.errors import UnsupportedError
from tailcut.models import digits_data, digits_model
from tailcut.spec import DType, Rows

FORMS: tuple[Form, ...] = ("onnxruntime", "openvino")


def images() -> np.ndarray:
    with np.load(digits_data()) as data:
        return np.array(data["image"])


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    """The bundled convolutional net, with ranges from half of its samples."""
    calibration = Calibration(digits_model(), tmp_path_factory.mktemp("digits"))
    for start in range(0, 180, 20):
        calibration.collect({"image": images()[start : start + 20]})
    return calibration


def run(path: Path, options: EngineOptions, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    engine = open_engine(path, options)
    try:
        return engine.run(inputs)
    finally:
        engine.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_a_copy_reads_digits_as_the_model_does(digits: Calibration, tmp_path: Path, form: Form, method: Method) -> None:
    """Its scores for samples that no range was taken from are near, and no digit is taken for another one."""
    path = tmp_path / "copy.onnx"
    digits.write(form, method, [], path)
    inputs = {"image": images()[180:]}
    exact = run(digits_model(), EngineOptions(threads=1), inputs)["scores"]
    scores = run(path, EngineOptions(name=form, precision="int8_static", threads=1), inputs)["scores"]
    assert not np.array_equal(scores, exact)
    assert np.abs(scores - exact).max() < 0.05 * np.ptp(exact)
    assert (scores.argmax(1) == exact.argmax(1)).mean() >= 0.99


def test_weights_have_a_scale_per_channel_and_rows_stay_independent(digits: Calibration, tmp_path: Path) -> None:
    """Every product reads int8 weights, each output channel with its own scale; a scale of the batch there is none."""
    path = tmp_path / "copy.onnx"
    digits.write("onnxruntime", "minmax", [], path)
    graph = onnx.load(path).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {node.output[0]: node for node in graph.node}
    products = [node for node in graph.node if node.op_type in {"Conv", "Gemm", "MatMul"}]
    assert len(products) == len(digits.operators) > 2
    for node in products:
        reads = made_by[node.input[1]]
        assert reads.op_type == "DequantizeLinear"
        assert weights[reads.input[0]].data_type == onnx.TensorProto.INT8
        assert weights[reads.input[1]].dims[0] > 1
    engine = open_engine(path, EngineOptions(precision="int8_static"))
    assert engine.spec.rows is Rows.INDEPENDENT
    engine.close()


def test_operators_can_stay_in_float(digits: Calibration, tmp_path: Path) -> None:
    """The weights of those that are named are the model's own, and the answers come nearer."""
    inputs = {"image": images()[180:]}
    exact = run(digits_model(), EngineOptions(threads=1), inputs)["scores"]
    errors = []
    for in_float in ([], digits.ends(), digits.operators):
        path = tmp_path / "copy.onnx"
        digits.write("openvino", "minmax", in_float, path)
        quantised = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
        assert (onnx.TensorProto.INT8 in quantised) is (in_float != digits.operators)
        errors.append(np.abs(run(path, EngineOptions(threads=1), inputs)["scores"] - exact).max())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-4


def test_the_most_sensitive_operator_reads_what_int8_tells_least_of(tmp_path: Path) -> None:
    """A layer behind a few very large numbers comes before one behind numbers of one size."""
    random = np.random.default_rng(0)
    weights = {f"w{layer}": random.standard_normal((64, 64)).astype(np.float32) / 8 for layer in range(3)}
    weights["w0"][:, 0] *= 300
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], name="first"),
        helper.make_node("MatMul", ["a", "w1"], ["b"], name="after outliers"),
        helper.make_node("Tanh", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "w2"], ["y"], name="last"),
    ]
    ends = [models.value("x", DType.FP32, (None, 64))], [models.value("y", DType.FP32, (None, 64))]
    path = models.save(tmp_path / "m.onnx", nodes, *ends, weights)
    calibration = Calibration(path, tmp_path)
    for _ in range(8):
        calibration.collect({"x": random.standard_normal((4, 64)).astype(np.float32)})
    assert calibration.most_sensitive()[0] == "after outliers"
    assert calibration.ends() == ["first", "last"]
    assert calibration.requests == 8


def test_the_mean_error_of_the_weights_is_taken_out(tmp_path: Path) -> None:
    """Where inputs are of one sign, rounding the weights moves every output; its bias makes up for that."""
    random = np.random.default_rng(3)
    weights = {"w": random.standard_normal((256, 16)).astype(np.float32), "b": np.zeros(16, np.float32)}
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="dense")
    ends = [models.value("x", DType.FP32, (None, 256))], [models.value("y", DType.FP32, (None, 16))]
    path = models.save(tmp_path / "m.onnx", [node], *ends, weights)
    calibration = Calibration(path, tmp_path)
    x = (4 + random.random((64, 256))).astype(np.float32)
    calibration.collect({"x": x})
    calibration.write("openvino", "minmax", [], tmp_path / "copy.onnx")
    exact = x @ weights["w"]
    y = run(tmp_path / "copy.onnx", EngineOptions(precision="int8_static"), {"x": x})["y"]
    shift = shift_of(node, weights["w"], x.mean(axis=0), 127)
    assert shift is not None
    assert np.abs((y - exact).mean(axis=0)).mean() < 0.2 * np.abs(shift).mean()


def test_old_models_and_constants_in_nodes_are_taken(tmp_path: Path) -> None:
    """A graph of an operator set without scales per channel, with its weights in a Constant node."""
    random = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(random.standard_normal((32, 8)).astype(np.float32))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weight),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    path = models.save(
        tmp_path / "m.onnx",
        nodes,
        [models.value("x", DType.FP32, (None, 32))],
        [models.value("y", DType.FP32, (None, 8))],
    )
    model = onnx.load(path)
    model.opset_import[0].version = 9
    onnx.save(model, path)
    calibration = Calibration(path, tmp_path)
    x = random.standard_normal((16, 32)).astype(np.float32)
    calibration.collect({"x": x})
    calibration.write("onnxruntime", "minmax", [], tmp_path / "copy.onnx")
    y = run(tmp_path / "copy.onnx", EngineOptions(precision="int8_static"), {"x": x})["y"]
    exact = run(path, EngineOptions(), {"x": x})["y"]
    assert np.abs(y - exact).max() < 0.05 * np.abs(exact).max()


def test_what_cannot_be_quantised_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to multiply by, infinite values inside, more than an ONNX file holds, and a float file for a copy."""
    plain = models.identity(DType.FP32, (None, 4), tmp_path / "plain.onnx")
    with pytest.raises(UnsupportedError, match="no convolution or product with constant weights"):
        Calibration(plain, tmp_path)
    path = models.perceptron([16, 8, 4], tmp_path / "m.onnx")
    calibration = Calibration(path, tmp_path)
    calibration.collect({"x": np.full((1, 16), np.inf, np.float32)})
    with pytest.raises(UnsupportedError, match="infinite or NaN"):
        calibration.write("onnxruntime", "minmax", [], tmp_path / "copy.onnx")
    with pytest.raises(UnsupportedError, match="runs a quantised copy, which tailcut tune --data writes"):
        open_engine(path, EngineOptions(precision="int8_static"))
    outside = tmp_path / "outside.onnx"
    onnx.save(onnx.load(path), outside, save_as_external_data=True, location="outside.data", size_threshold=0)
    monkeypatch.setattr("tailcut.engines.edits._MOST_BYTES", 100)
    with pytest.raises(UnsupportedError, match="larger than 2 GiB"):
        Calibration(outside, tmp_path)

"""Recurrent layers whose lengths OpenVINO ignores are refused, and all others are answered rightly."""

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from tests.engines import models

from tailcut.engines import Engine, EngineOptions, open_engine
from tailcut.engines.agreement import distance
from tailcut.engines.openvino_core import core
from tailcut.engines.openvino_instance import Instance
from tailcut.engines.openvino_lengths import ignored_lengths
from tailcut.errors import UnsupportedError

F32 = {"INFERENCE_PRECISION_HINT": "f32"}
KINDS = ("LSTM", "GRU", "RNN")
LENGTHS = np.array([6, 3, 1], np.int32)
X = np.random.default_rng(1).standard_normal((3, 6, 3)).astype(np.float32)


def some_kinds(lengths: str) -> list:
    """Every kind with these lengths; where each is compiled several times, `make test` has one alone."""
    return [pytest.param(kind, lengths, marks=[pytest.mark.slow] * (kind != "LSTM")) for kind in KINDS]


def opened(path: Path, name: str = "openvino", *fixed: str) -> Engine:
    return open_engine(path, EngineOptions(name=name, threads=1, fixed_dims=fixed))


def as_ir(onnx_file: Path) -> Path:
    path = onnx_file.with_suffix(".xml")
    ov.save_model(core().read_model(str(onnx_file)), path, compress_to_fp16=False)
    return path


@pytest.mark.parametrize(
    ("kind", "shape"), [*((kind, (None, None, 3)) for kind in KINDS), ("GRU", (None, 6, 3)), ("GRU", (3, "time", 3))]
)
def test_lengths_that_openvino_ignores_are_refused(tmp_path: Path, kind: str, shape: models.Dims) -> None:
    """By itself it is off by half of its answers; an IR file is refused as its ONNX file is."""
    path = models.recurrent(kind, tmp_path / "lengths.onnx", shape=shape)
    for file, advice in ((path, "use onnxruntime"), (as_ir(path), "convert the model to ONNX, and use onnxruntime")):
        with pytest.raises(UnsupportedError) as caught:
            opened(file)
        assert str(caught.value) == (
            f"{file}: openvino ignores the sequence lengths of {kind} layers whose sizes are free: {advice}, "
            "or give all sizes with fixed_dims"
        )
    request = {"x": X, "lengths": LENGTHS}
    truth = opened(path, "onnxruntime")
    ignorant = Instance(core().compile_model(path, "CPU", F32), truth.spec)
    assert distance(truth.run(request), ignorant.run(request)) > 0.2
    truth.close()


@pytest.mark.parametrize(("kind", "lengths"), [*some_kinds("input"), ("GRU", [6, 3, 1])])
def test_lengths_are_heeded_where_all_sizes_are_fixed(tmp_path: Path, kind: str, lengths: str | list[int]) -> None:
    """By the file, or by the engine's options, in ONNX and in IR."""
    free = models.recurrent(kind, tmp_path / "free.onnx", shape=(None, None, 3), lengths=lengths)
    fixed = models.recurrent(kind, tmp_path / "fixed.onnx", shape=(3, 6, 3), lengths=lengths)
    request = {"x": X, "lengths": LENGTHS} if lengths == "input" else {"x": X}
    truth = opened(fixed, "onnxruntime")
    axes = ("lengths:0=3",) if lengths == "input" else ()
    for engine in (
        opened(fixed),
        opened(as_ir(fixed)),
        opened(free, "openvino", "batch=3", "free1=6"),
        opened(as_ir(free), "openvino", "x:0=3", "x:1=6", *axes),
    ):
        assert distance(truth.run(request), engine.run(request)) < 1e-5
        engine.close()
    truth.close()


@pytest.mark.parametrize(("kind", "lengths"), [*some_kinds("none"), ("GRU", [6, 6, 6])])
def test_full_lengths_are_no_reason_to_refuse(tmp_path: Path, kind: str, lengths: str | list[int]) -> None:
    """Front ends give full lengths to a layer that has none."""
    shape = (None, None, 3) if lengths == "none" else (None, 6, 3)
    path = models.recurrent(kind, tmp_path / "full.onnx", shape=shape, lengths=lengths)
    truth = opened(path, "onnxruntime")
    for file in (path, as_ir(path)):
        engine = opened(file)
        assert distance(truth.run({"x": X}), engine.run({"x": X})) < 1e-5
        engine.close()
    truth.close()


def test_short_constant_lengths_are_refused(tmp_path: Path) -> None:
    """OpenVINO ignores them, too."""
    path = models.recurrent("GRU", tmp_path / "short.onnx", shape=(None, 6, 3), lengths=[6, 3, 1])
    with pytest.raises(UnsupportedError, match="sequence lengths of GRU layers"):
        opened(path)


@pytest.mark.parametrize("lengths", ["input", "none"])
def test_layers_in_branches_and_loops_are_found(tmp_path: Path, lengths: str) -> None:
    """In either branch of an If, and in the body of a loop."""
    layer = models.recurrent("GRU", tmp_path / "layer.onnx", shape=(None, None, 3), lengths=lengths)
    ops = ov.opset13
    for wrap in ("then", "else", "loop"):
        body = core().read_model(layer)
        outer = [ops.parameter(port.partial_shape, port.element_type) for port in body.inputs]
        if wrap == "loop":
            node = ops.tensor_iterator()
            node.set_body(body)
        else:
            node = ops.if_op(ops.constant(True).output(0))
            empty = ov.Model([ops.constant(np.float32(0))], [], "empty")
            node.set_then_body(body if wrap == "then" else empty)
            node.set_else_body(body if wrap == "else" else empty)
        for parameter, inner in zip(outer, body.get_parameters(), strict=True):
            if wrap == "loop":
                node.set_invariant_input(inner, parameter.output(0))
            else:
                sides = (inner, None) if wrap == "then" else (None, inner)
                node.set_input(parameter.output(0), *sides)
        result = body.get_results()[1]
        if wrap == "loop":
            answer = node.get_iter_value(result.output(0), -1)
        else:
            sides = (result, empty.get_results()[0])
            answer = node.set_output(*(sides if wrap == "then" else sides[::-1]))
        model = ov.Model([ops.result(answer)], outer, "outer")
        assert ignored_lengths(model) == ("GRU" if lengths == "input" else "")

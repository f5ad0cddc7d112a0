"""Every option is honoured or refused in one line, and none changes the answers beyond its precision."""

import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.engines import models

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.base import U8Input
from tailcut.engines.edits import prepare
from tailcut.engines.onnxruntime import _session_options
from tailcut.errors import UnsupportedError
from tailcut.machine.fingerprint import isa_flags
from tailcut.spec import DType

ENGINES = ["onnxruntime", "openvino"]
IMAGES = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
SETTINGS = [
    *(
        {"graph": graph, "layout": layout}
        for graph, layout in itertools.product(("off", "basic", "all"), ("plain", "blocked"))
    ),
    {"threads": 0},
    {"threads": 2},
    {"threads": 2, "instances": 2},
    {"threads": 2, "pinning": True},
    {"threads": 64, "pinning": True},
    {"pinning": True},
    {"spinning": False},
    {"prepack": False},
    {"arena": False},
    {"arena_growth": "as_requested"},
]
GROWN = """
import re, sys
from pathlib import Path
import numpy as np
from tailcut.engines import EngineOptions, open_engine
def virtual_kb():
    return int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
engine = open_engine(Path(sys.argv[1]), EngineOptions(threads=1, arena_growth=sys.argv[2]))
x = np.ones((9, 1 << 20), np.float32)
before = virtual_kb()
engine.run({"x": x})
print(virtual_kb() - before)
"""


@pytest.fixture
def convolution(tmp_path: Path) -> Path:
    return models.convolution(tmp_path / "convolution.onnx")


def answer(path: Path, images: np.ndarray = IMAGES, **options) -> np.ndarray:
    engine = open_engine(path, EngineOptions(**{"threads": 1, **options}))
    scores = engine.run({"image": images})["scores"]
    engine.close()
    return scores


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_settings_keep_the_answers(convolution: Path, engine: str, settings: dict) -> None:
    """However a model is loaded, its float32 answers stay the same."""
    wanted = answer(convolution, graph="off")
    np.testing.assert_allclose(answer(convolution, name=engine, **settings), wanted, rtol=1e-3, atol=1e-4)


def test_settings_reach_onnxruntime() -> None:
    """Threads, arena, spinning, prepacking and places are what the session is made with."""
    options = EngineOptions(threads=2, arena=False, spinning=False, prepack=False, pinning=True)
    session = _session_options(options)
    assert session.intra_op_num_threads == 2
    assert session.inter_op_num_threads == 1
    assert not session.enable_cpu_mem_arena
    assert session.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert session.get_session_config_entry("session.disable_prepacking") == "1"
    if len(os.sched_getaffinity(0)) > 1:
        second = sorted(os.sched_getaffinity(0))[1]
        assert session.get_session_config_entry("session.intra_op_thread_affinities") == str(second + 1)


@pytest.mark.parametrize(("threads", "instances"), [(1, 1), (1, 2), (2, 1)])
@pytest.mark.parametrize("rows", [None, 1])
def test_settings_reach_openvino(tmp_path: Path, rows: int | None, threads: int, instances: int) -> None:
    """Instances are streams of one compiled model where sizes are fixed, and else a compiled model each."""
    path = models.identity(DType.FP32, (rows, 4), tmp_path / "m.onnx")
    engine = open_engine(path, EngineOptions(name="openvino", threads=threads, instances=instances))
    held = [engine._idle.get() for _ in range(instances)]
    compiled = [instance._bound.get_compiled_model() for instance in held]
    streams = 1 if rows is None else instances
    assert len({instance.input_ports[0].get_node() for instance in held}) == instances // streams
    for model in compiled:
        assert model.get_property("NUM_STREAMS") == streams
        assert model.get_property("INFERENCE_NUM_THREADS") == threads * streams
        assert model.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert engine._idle.empty()
    engine.close()


def test_bf16(convolution: Path) -> None:
    """openvino computes in bfloat16 where the processor can, close to float32; elsewhere one line says it cannot."""
    if {"avx512_bf16", "amx_bf16", "bf16"} & isa_flags():
        got, wanted = answer(convolution, name="openvino", precision="bf16"), answer(convolution)
        assert not np.array_equal(got, wanted)
        np.testing.assert_allclose(got, wanted, rtol=0.05, atol=0.05)
    else:
        with pytest.raises(UnsupportedError, match="no bfloat16 instructions"):
            answer(convolution, name="openvino", precision="bf16")
    with pytest.raises(UnsupportedError, match="onnxruntime has no bf16 kernels"):
        answer(convolution, precision="bf16")


def test_bf16_without_the_instructions(convolution: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without bfloat16 is detected before the model is loaded."""
    monkeypatch.setattr("tailcut.engines.openvino.isa_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(UnsupportedError, match="this processor has no bfloat16 instructions"):
        answer(convolution, name="openvino", precision="bf16")


@pytest.mark.parametrize("engine", ENGINES)
def test_int8(tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantised weights answer close to float32, the same at every load, and leave no file behind."""
    path = models.perceptron([64, 64, 10], tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = sorted(tmp_path.iterdir())
    results = []
    for precision in ("f32", "int8", "int8"):
        opened = open_engine(path, EngineOptions(name=engine, precision=precision, threads=1))
        results.append(opened.run({"x": x})["y"])
        opened.close()
    exact, first, second = results
    assert not np.array_equal(exact, first)
    assert np.array_equal(first, second)
    np.testing.assert_allclose(first, exact, atol=0.15)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("flags", "largest"), [({"avx2"}, 64), ({"avx2", "avx512_vnni"}, 127)])
def test_weights_have_seven_bits_where_sums_would_saturate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: set[str], largest: int
) -> None:
    """Without VNNI, pairs of products are added in 16 bits: with eight bits a deep model had a cosine of 0.85."""
    monkeypatch.setattr("tailcut.engines.edits.isa_flags", lambda: frozenset(flags))
    path = models.perceptron([64, 64, 10], tmp_path / "m.onnx")
    graph = prepare(path, EngineOptions(precision="int8")).graph.graph
    weights = [numpy_helper.to_array(t) for t in graph.initializer if t.data_type == TensorProto.INT8 and t.dims]
    assert max(np.abs(array.astype(int)).max() for array in weights) == largest


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "fold", [U8Input(scale=(1 / 255,), offset=(-0.5,)), U8Input(scale=(0.1, 0.2, 0.3), offset=(1.0, 0.0, -1.0))]
)
def test_u8_input(convolution: Path, engine: str, fold: U8Input) -> None:
    """With the scale folded into the graph, bytes in give what scaled floats gave, by `run` and bound."""
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), np.uint8)
    scale, offset = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (fold.scale, fold.offset))
    wanted = answer(convolution, images * scale + offset)
    opened = open_engine(convolution, EngineOptions(name=engine, threads=1, u8_input=fold))
    assert opened.spec.inputs[0].dtype is DType.UINT8
    np.testing.assert_allclose(opened.run({"image": images})["scores"], wanted, rtol=1e-3, atol=1e-3)
    scores = np.zeros((2, 5), np.float32)
    opened.bind({"image": images}, {"scores": scores})()
    np.testing.assert_allclose(scores, wanted, rtol=1e-3, atol=1e-3)
    opened.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_u8_input_of_an_output(tmp_path: Path, engine: str) -> None:
    """An input that is used by several nodes, and one that is not float32, come out right."""
    path = tmp_path / "m.onnx"
    nodes = [
        helper.make_node("Add", ["x", "x"], ["double"]),
        helper.make_node("Add", ["double", "x"], ["triple"]),
        helper.make_node("Add", ["n", "n"], ["twice"]),
    ]
    inputs = [models.value("x", DType.FP32, (None, 2)), models.value("n", DType.INT32, (None, 1))]
    outputs = [models.value("triple", DType.FP32, (None, 2)), models.value("twice", DType.INT32, (None, 1))]
    models.save(path, nodes, inputs, outputs)
    opened = open_engine(path, EngineOptions(name=engine, threads=1, u8_input=U8Input(scale=(0.5,), offset=(1.0,))))
    assert [tensor.dtype for tensor in opened.spec.inputs] == [DType.UINT8, DType.INT32]
    got = opened.run({"x": np.array([[2, 4]], np.uint8), "n": np.array([[7]], np.int32)})
    assert got["triple"].tolist() == [[6.0, 9.0]]
    assert got["twice"].tolist() == [[14]]
    opened.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_u8_input_that_makes_no_sense(tmp_path: Path, engine: str) -> None:
    """A model without a float32 input, and a scale for each channel of an input without channels, are refused."""
    whole = models.identity(DType.INT64, (None, 3), tmp_path / "whole.onnx")
    with pytest.raises(UnsupportedError, match="needs a model with a float32 or float16 input"):
        open_engine(whole, EngineOptions(name=engine, u8_input=U8Input()))
    flat = models.identity(DType.FP32, (None,), tmp_path / "flat.onnx")
    with pytest.raises(UnsupportedError, match="no channel axis"):
        open_engine(flat, EngineOptions(name=engine, u8_input=U8Input(scale=(1.0, 2.0), offset=(0.0, 0.0))))
    image = models.convolution(tmp_path / "image.onnx")
    with pytest.raises(UnsupportedError, match=r"2 scales.*3 channels"):
        open_engine(image, EngineOptions(name=engine, u8_input=U8Input(scale=(1.0, 2.0), offset=(0.0,))))


@pytest.mark.parametrize("engine", ENGINES)
def test_external_weights_survive_the_edits(tmp_path: Path, engine: str) -> None:
    """A model whose weights lie beside it can be quantised and take bytes."""
    path = models.external_weights(tmp_path / "m.onnx")
    opened = open_engine(path, EngineOptions(name=engine, precision="int8", u8_input=U8Input()))
    assert opened.run({"x": np.ones((2, 64), np.uint8)})["y"].shape == (2, 32)
    opened.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_file_is_not_touched(convolution: Path, engine: str) -> None:
    """Edits are made on a copy: the model's file stays as it was."""
    before = convolution.read_bytes()
    answer(convolution, np.zeros((1, 3, 8, 8), np.uint8), name=engine, u8_input=U8Input(), precision="int8")
    assert convolution.read_bytes() == before
    onnx.checker.check_model(onnx.load(convolution))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_the_arena_grows_as_configured(tmp_path: Path) -> None:
    """Three tensors of 36 MiB at a time: by powers of two, or by no more than a sixth beyond what they take."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"]),
        helper.make_node("Mul", ["twice", "x"], ["square"]),
        helper.make_node("Sub", ["square", "twice"], ["y"]),
    ]
    ends = [[models.value(name, DType.FP32, (None, None))] for name in ("x", "y")]
    path = models.save(tmp_path / "m.onnx", nodes, *ends)
    grown = []
    for growth in ("power_of_two", "as_requested"):
        command = [sys.executable, "-c", GROWN, str(path), growth]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        grown.append(int(done.stdout) >> 10)
    assert grown[1] < 126 < grown[0]

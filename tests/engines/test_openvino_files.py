"""OpenVINO IR, TensorFlow, TensorFlow Lite and Paddle files answer as the frameworks that wrote them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops
from tests.engines import models

from tailcut import Model
from tailcut.engines import Engine, EngineOptions, open_engine
from tailcut.engines.agreement import distance
from tailcut.engines.base import U8Input
from tailcut.engines.files import FileKind, default_engine, kind_of
from tailcut.engines.openvino_core import core
from tailcut.engines.traits import read_traits
from tailcut.errors import EngineError, InvalidInputError, ModelFileError, UnsupportedError
from tailcut.spec import Rows

DATA = Path(__file__).parent.parent / "data" / "models"  # made by scripts/make_model_files.py
FILES = {  # what wrote the answers, the kind, and the names of input and output
    "saved_model": ("tensorflow", FileKind.SAVED_MODEL, "x", "y"),
    "frozen.pb": ("tensorflow", FileKind.GRAPH, "x", "Identity"),
    "dense.tflite": ("tensorflow", FileKind.LITE, "serving_default_x", "StatefulPartitionedCall"),
    "dense.pdmodel": ("paddle", FileKind.PADDLE, "x", "relu_0.tmp_0"),
}


def opened(path: Path, **options: object) -> Engine:
    return open_engine(path, EngineOptions(**{"name": "openvino", "threads": 1, **options}))  # type: ignore[arg-type]


def as_ir(onnx_file: Path) -> Path:
    """The same model as an OpenVINO IR."""
    path = onnx_file.with_suffix(".xml")
    ov.save_model(core().read_model(str(onnx_file)), path, compress_to_fp16=False)
    return path


@pytest.mark.parametrize("file", FILES)
def test_answers_are_those_of_the_framework(file: str) -> None:
    """The answers to one request are those that TensorFlow and Paddle themselves gave to it."""
    framework, kind, x, y = FILES[file]
    truth = np.load(DATA / f"{framework}.npz")
    assert kind_of(DATA / file) is kind
    assert default_engine(DATA / file) == "openvino"
    engine = opened(DATA / file)
    assert (engine.spec.input_names, engine.spec.output_names) == ((x,), (y,))
    assert engine.spec.inputs[0].shape == (None, 4)
    assert np.allclose(engine.run({x: truth["x"]})[y], truth["y"], atol=1e-6)
    engine.close()


def test_a_tensorflow_lite_file_of_any_name(tmp_path: Path) -> None:
    """Its content tells its format; OpenVINO decides by the file extension."""
    truth = np.load(DATA / "tensorflow.npz")
    shutil.copy(DATA / "dense.tflite", tmp_path / "model.lite")
    engine = opened(tmp_path / "model.lite")
    answer = engine.run({"serving_default_x": truth["x"]})
    assert np.allclose(answer["StatefulPartitionedCall"], truth["y"], atol=1e-6)
    engine.close()


def test_strings_are_refused_by_name() -> None:
    """OpenVINO has no type for those of TensorFlow Lite."""
    with pytest.raises(UnsupportedError, match=r"tensor 's' holds strings, or has an unknown type: convert"):
        opened(DATA / "strings.tflite")


def test_an_output_that_never_has_elements_is_refused(tmp_path: Path) -> None:
    """So OpenVINO reads what comes from operators of TensorFlow's in a TensorFlow Lite file."""
    x = ops.parameter([-1, 4], np.float32, name="x")
    nothing = ops.slice(x, np.array([0]), np.array([0]), np.array([1]), np.array([0]))
    ov.save_model(ov.Model([ops.relu(x), nothing], [x]), tmp_path / "m.xml")
    with pytest.raises(UnsupportedError, match="never has elements: openvino does not know an operator"):
        opened(tmp_path / "m.xml")


def test_an_ir_answers_as_the_onnx_file_that_it_was_made_of(tmp_path: Path) -> None:
    """Two inputs and two outputs keep their names and order, on arrays that are bound and on others."""
    source = models.two_in_two_out(tmp_path / "pair.onnx")
    truth, engine = open_engine(source, EngineOptions(threads=1)), opened(as_ir(source))
    assert engine.spec.input_names == truth.spec.input_names
    assert engine.spec.output_names == truth.spec.output_names
    inputs = {name: np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32) for name in ("a", "b")}
    expected = truth.run(inputs)
    assert all(np.array_equal(array, expected[name]) for name, array in engine.run(inputs).items())
    engine.close()


def test_rows_are_unknown_without_a_graph_that_is_analysed(tmp_path: Path) -> None:
    """A first axis that is free proves nothing; one that is fixed excludes a batch."""
    free = opened(as_ir(models.perceptron([4, 3], tmp_path / "free.onnx"))).spec
    fixed = opened(as_ir(models.no_batch(tmp_path / "fixed.onnx"))).spec
    assert (free.rows, free.rows_reason) == (Rows.UNKNOWN, "rows are not analysed in the graph of an OpenVINO IR")
    assert fixed.rows is Rows.DEPENDENT


def test_new_sizes_are_right_after_a_single_key(tmp_path: Path) -> None:
    """OpenVINO by itself is off by a factor of 20 from 31 keys on; its reference is not, and so it is found out."""
    source = models.attention(tmp_path / "attention.onnx")
    truth, engine = open_engine(source, EngineOptions(threads=1)), opened(as_ir(source))
    for length in (1, 2, 31, 40, 64, 1, 40):
        request = {"x": np.random.default_rng(length).standard_normal((1, length, 16)).astype(np.float32)}
        assert distance(truth.run(request), engine.run(request)) < 1e-4
    engine.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_sizes_that_do_not_fit_each_other_are_refused(tmp_path: Path, threads: int) -> None:
    """With one thread OpenVINO by itself answers them with the outputs of the call before, another client's."""
    source = models.two_in_two_out(tmp_path / "pair.onnx")
    engine = opened(as_ir(source), threads=threads)
    good = {name: np.ones((2, 4), np.float32) for name in ("a", "b")}
    with pytest.raises(EngineError, match="openvino refuses these sizes"):
        engine.run(good | {"b": np.ones((3, 4), np.float32)})
    assert np.array_equal(engine.run(good)["total"], np.full((2, 4), 2, np.float32))
    engine.close()


def test_a_refused_size_leaves_the_others_right(tmp_path: Path) -> None:
    """Sizes that do not fit inside the graph are seen before the model gets them."""
    source = models.halved_and_doubled(tmp_path / "even.onnx")
    truth, engine = open_engine(source, EngineOptions(threads=1)), opened(as_ir(source))
    for size in (8, 5, 8, 16, 7, 16, 8):
        request = {"x": np.random.default_rng(size).standard_normal((1, 1, size, size)).astype(np.float32)}
        if size % 2:
            with pytest.raises(EngineError, match="openvino"):
                engine.run(request)
        else:
            assert distance(truth.run(request), engine.run(request)) < 1e-6
    engine.close()


def test_outputs_and_dimensions_can_be_chosen(tmp_path: Path) -> None:
    """As for ONNX: an output alone, and a free dimension with a size, by INPUT:AXIS."""
    path = as_ir(models.dynamic_sequence(tmp_path / "lengths.onnx"))
    engine = opened(path, outputs=("total",), fixed_dims=("x:1=5",))
    assert engine.spec.output_names == ("total",)
    assert engine.spec.inputs[0].shape == (None, 5)
    assert np.allclose(engine.run({"x": np.ones((2, 5), np.float32)})["total"], 5)
    engine.close()
    for options, words in [
        ({"outputs": ("nothing",)}, "no output 'nothing'"),
        ({"fixed_dims": ("y:1=5",)}, "no input has a dimension 'y:1'"),
        ({"u8_input": U8Input()}, "u8_input edits ONNX graphs only"),
        ({"precision": "int8"}, "precision int8 is for ONNX files"),
    ]:
        with pytest.raises(UnsupportedError, match=words):
            opened(path, **options)


def bounded(path: Path, *dims: tuple[int, int]) -> Path:
    """An IR whose only input has axes of these sizes."""
    shape = ov.PartialShape([ov.Dimension(*dim) for dim in dims])
    x = ops.parameter(shape, np.float32, name="x")
    y = ops.exp(x)
    x.output(0).set_names({"x"})
    y.output(0).set_names({"y"})
    ov.save_model(ov.Model([y], [x], "bounded"), path, compress_to_fp16=False)
    return path


@pytest.mark.parametrize("batching", ["on", "auto"])
def test_a_bounded_number_of_rows(tmp_path: Path, batching: str) -> None:
    """No batch is larger: a request with more rows is split, or refused where it must run whole."""
    path = bounded(tmp_path / "rows.xml", (1, 4), (3, 3))
    x = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    with Model.open(path, batching=batching) as model:
        assert model.spec.most_rows == 4
        assert np.allclose(model.infer_sync({"x": x[:4]})["y"], np.exp(x[:4]), atol=1e-5)
        if batching == "on":
            assert model.rows.batched
            assert np.allclose(model.infer_sync({"x": x})["y"], np.exp(x), atol=1e-5)
        else:
            with pytest.raises(InvalidInputError, match="input 'x': axis 0 is 9, but the model takes 1 to 4"):
                model.infer_sync({"x": x})


def test_sizes_out_of_bounds_are_the_clients_mistake(tmp_path: Path) -> None:
    """And named by their axis; a row by itself is not tried where there must be more."""
    engine = opened(bounded(tmp_path / "sizes.xml", (2, -1), (1, 8), (3, 3)))
    assert (engine.spec.rows, engine.spec.rows_reason) == (Rows.DEPENDENT, "the model takes 2 or more rows")
    assert engine.spec.most_rows is None
    for shape, words in [((1, 8, 3), "axis 0 is 1, .* 2 or more"), ((2, 9, 3), "axis 1 is 9, .* 1 to 8")]:
        with pytest.raises(InvalidInputError, match=words):
            engine.run({"x": np.zeros(shape, np.float32)})
    assert (engine.run({"x": np.zeros((2, 8, 3), np.float32)})["y"] == 1).all()
    engine.close()


def test_a_bound_call_says_once_what_refused_it(tmp_path: Path) -> None:
    """In the words of what did: here the sizes of an operator that takes pairs of rows."""
    x = ops.parameter([-1, 4], np.float32, name="x")
    y = ops.reshape(ops.reshape(x, np.array([-1, 8]), special_zero=False), np.array([-1, 4]), special_zero=False)
    x.output(0).set_names({"x"})
    y.output(0).set_names({"y"})
    ov.save_model(ov.Model([y], [x], "pairs"), tmp_path / "pairs.xml")
    engine = opened(tmp_path / "pairs.xml")
    engine.spec = replace(engine.spec, rows=Rows.INDEPENDENT)
    for rows in (2, 3):
        call = engine.bind({"x": np.ones((rows, 4), np.float32)}, {"y": np.zeros((rows, 4), np.float32)})
        if rows % 2:
            with pytest.raises(EngineError, match=r"^openvino refuses these sizes"):
                call()
        else:
            call()
    engine.close()


def test_a_state_between_calls_is_refused(tmp_path: Path) -> None:
    """A model that remembers would answer one client with what another one sent."""
    x = ops.parameter([1, 2], np.float32, name="x")
    state = ops.read_value(x, "memory", np.float32, [1, 2])
    total = ops.add(x, state)
    model = ov.Model([ops.result(total)], [ops.assign(total, "memory")], [x], "stateful")
    ov.save_model(model, tmp_path / "stateful.xml")
    with pytest.raises(UnsupportedError, match="keeps a state between calls"):
        opened(tmp_path / "stateful.xml")


def damaged_ir(folder: Path, *, keep_graph: int | None = None, keep_weights: int | None = None) -> Path:
    path = as_ir(models.perceptron([4, 8, 3], folder / "mlp.onnx"))
    path.write_bytes(path.read_bytes()[:keep_graph])
    weights = path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:keep_weights])
    return path


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    """A graph cut short, weights cut short, weights missing, a SavedModel of random bytes."""
    paths = [damaged_ir(tmp_path, keep_graph=900)]
    (tmp_path / "weights").mkdir()
    paths.append(damaged_ir(tmp_path / "weights", keep_weights=20))
    (tmp_path / "alone").mkdir()
    paths.append(damaged_ir(tmp_path / "alone"))
    paths[-1].with_suffix(".bin").unlink()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x08\x01\x12\x7fgarbage")
    paths.append(tmp_path / "saved")
    shutil.copy(DATA / "dense.tflite", tmp_path / "cut.tflite")
    (tmp_path / "cut.tflite").write_bytes((tmp_path / "cut.tflite").read_bytes()[:300])
    paths.append(tmp_path / "cut.tflite")
    for path in paths:
        with pytest.raises(ModelFileError) as caught:
            opened(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: openvino cannot load it: ")
        assert len(message.splitlines()) == 1
        assert "/src/" not in message
        assert ".cpp" not in message


def test_traits_come_without_a_graph_in_onnx(tmp_path: Path) -> None:
    """Weights beside the graph count, and a loop is seen."""
    path = as_ir(models.perceptron([64, 64], tmp_path / "mlp.onnx"))
    assert read_traits(path).weight_bytes > 64 * 64 * 4
    assert not read_traits(path).endless

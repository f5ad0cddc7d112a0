"""Edits of a model's graph: maps become tensors, constants become weights, and what int8 would do for a model."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.engines import models

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.base import U8Input
from tailcut.engines.edits import benefits_from_int8, constants_to_initializers, prepare, replace_zipmaps
from tailcut.engines.graph import read_spec
from tailcut.errors import ModelFileError, UnsupportedError
from tailcut.spec import DType, Rows, TensorSpec

ROWS = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
LABELS = [["setosa", "versicolor", "vîrginica"], [7, -1, 2], [0, 1]]


@pytest.mark.parametrize("labels", LABELS, ids=str)
@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_a_zipmap_gives_its_tensor(tmp_path: Path, labels: list, precision: str) -> None:
    """The scores that the maps hold come as one tensor under the maps' name, with the classes beside it."""
    path = models.zipmap(tmp_path / "m.onnx", labels)
    wanted, maps = ort.InferenceSession(path).run(None, {"x": ROWS})
    engine = open_engine(path, EngineOptions(threads=1, precision=precision))
    label = DType.BYTES if isinstance(labels[0], str) else DType.INT64
    assert engine.spec.outputs == (
        TensorSpec("output_label", label, (None,)),
        TensorSpec("output_probability", DType.FP32, (None, len(labels)), classes=tuple(labels)),
    )
    got = engine.run({"x": ROWS})
    assert got["output_label"].tolist() == list(wanted)
    np.testing.assert_array_equal(got["output_probability"], [[row[label] for label in labels] for row in maps])
    engine.close()


def test_openvino_names_the_operator_that_it_does_not_have(tmp_path: Path) -> None:
    """The operators of scikit-learn's converter are onnxruntime's; openvino's refusal is one line that says so."""
    path = models.zipmap(tmp_path / "m.onnx", [0, 1])
    with pytest.raises(ModelFileError, match=r"no operator ai.onnx.ml.LinearClassifier.*: use onnxruntime") as caught:
        open_engine(path, EngineOptions(name="openvino"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_zipmap_inside_a_graph_stays(tmp_path: Path) -> None:
    """Maps that no output shows are the model's own business, and other sequences are refused as before."""
    model = onnx.load(models.zipmap(tmp_path / "m.onnx", [0, 1], name="maps"))
    assert not replace_zipmaps(_without_output(model, "maps"))
    assert [node.op_type for node in model.graph.node] == ["LinearClassifier", "ZipMap"]


def _without_output(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    model.graph.output.remove(next(value for value in model.graph.output if value.name == name))
    return model


def test_a_model_cannot_name_classes_by_itself(tmp_path: Path) -> None:
    """Metadata under the name that the edit uses is dropped, whatever it holds."""
    path = models.perceptron([4, 2], tmp_path / "m.onnx")
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = "tailcut.classes.y", "no list"
    onnx.save(model, path)
    assert read_spec(prepare(path, EngineOptions()).graph, path, None).outputs[0].classes == ()


def test_constants_become_weights(tmp_path: Path) -> None:
    """Constant nodes are initialisers afterwards, of the same values; those of outputs stay."""
    model = onnx.load(models.constants(tmp_path / "m.onnx"))
    model.graph.node.append(helper.make_node("Constant", [], ["fixed"], value_ints=[1, 2]))
    model.graph.output.append(models.value("fixed", DType.INT64, (2,)))
    before = ort.InferenceSession(model.SerializeToString()).run(None, {"x": np.ones((2, 64), np.float32)})
    constants_to_initializers(model)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Add", "Constant"]
    assert [tensor.name for tensor in model.graph.initializer] == ["w", "shift"]
    after = ort.InferenceSession(model.SerializeToString()).run(None, {"x": np.ones((2, 64), np.float32)})
    np.testing.assert_array_equal(before[0], after[0])


def test_weights_in_constant_nodes_are_quantised(tmp_path: Path) -> None:
    """int8 computes with them in int8, as with initialisers."""
    path = models.constants(tmp_path / "m.onnx")
    graph = prepare(path, EngineOptions(precision="int8")).graph.graph
    assert "MatMulInteger" in {node.op_type for node in graph.node}


@pytest.mark.parametrize(
    ("make", "benefits"),
    [
        (lambda path: models.perceptron([64, 64, 10], path), True),
        (lambda path: models.perceptron([8, 4], path), False),
        (models.constants, True),
        (models.two_in_two_out, False),
        (models.gather_rows, False),
        (lambda path: models.zipmap(path, [0, 1]), False),
    ],
)
def test_who_benefits_from_int8(tmp_path: Path, make, benefits: bool) -> None:
    """Multiplications by enough constant weights do; sums, look-ups, trees and tiny layers do not."""
    assert benefits_from_int8(onnx.load(make(tmp_path / "m.onnx"))) is benefits


def test_old_files_are_edited_too(tmp_path: Path) -> None:
    """A file of the first versions lists its weights as inputs; what edits add is no input of it."""
    path = models.perceptron([64, 32], tmp_path / "m.onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model.ir_version = 3
    onnx.save(model, path)
    for options in (EngineOptions(precision="int8"), EngineOptions(u8_input=U8Input())):
        engine = open_engine(path, options)
        assert engine.spec.input_names == ("x",)
        engine.close()


CHANNELS = U8Input(scale=(0.1, 0.2, 0.3), offset=(1.0, 0.0, -1.0))


@pytest.mark.parametrize(
    ("engine", "dtype"), [("onnxruntime", DType.FP32), ("onnxruntime", DType.FP16), ("openvino", DType.FP16)]
)
@pytest.mark.parametrize(
    ("shape", "channels", "axis"),
    [
        ((None, 3, 4, 5), "auto", 1),
        ((None, 4, 5, 3), "auto", 3),
        ((None, "height", "width", 3), "auto", 3),
        ((None, 3, 4, 3), "auto", 1),
        ((None, 3, 4, 3), "last", 3),
        ((None, "rows", 4, 3), "first", 1),
    ],
)
def test_u8_input_finds_the_channels(  # noqa: PLR0917  a case is its parameters
    tmp_path: Path, engine: str, dtype: DType, shape, channels: str, axis: int
) -> None:
    """Channels first or last, in float32 and float16: each channel is scaled by its own number."""
    path = models.identity(dtype, shape, tmp_path / "m.onnx")
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3)[: len(shape)], np.uint8)
    images = np.resize(images, [2, *(dim if isinstance(dim, int) else 3 for dim in shape[1:])])
    fold = U8Input(scale=CHANNELS.scale, offset=CHANNELS.offset, channels=channels)
    opened = open_engine(path, EngineOptions(name=engine, threads=1, u8_input=fold))
    assert opened.spec.inputs[0].dtype is DType.UINT8
    line = [-1 if index == axis else 1 for index in range(4)]
    scale, offset = (np.array(numbers, np.float32).reshape(line) for numbers in (fold.scale, fold.offset))
    got = opened.run({"x": images})["y"]
    assert got.dtype == dtype.numpy
    np.testing.assert_allclose(got, (images * scale + offset).astype(dtype.numpy), rtol=1e-3)
    opened.close()


def test_u8_input_reaches_subgraphs(tmp_path: Path) -> None:
    """An input that only a branch reads is scaled there as well."""
    branches = {}
    for name, factor in (("then_branch", 1.0), ("else_branch", 2.0)):
        out = f"{name}_y"
        nodes = [helper.make_node("Mul", ["x", "factor"], [out])]
        weights = [numpy_helper.from_array(np.array(factor, np.float32), "factor")]
        branches[name] = helper.make_graph(nodes, name, [], [models.value(out, DType.FP32, (None, 2))], weights)
    inputs = [models.value("x", DType.FP32, (None, 2)), models.value("which", DType.BOOL, ())]
    node = helper.make_node("If", ["which"], ["y"], **branches)
    path = models.save(tmp_path / "m.onnx", [node], inputs, [models.value("y", DType.FP32, (None, 2))])
    engine = open_engine(path, EngineOptions(u8_input=U8Input(scale=(0.5,))))
    got = engine.run({"x": np.array([[2, 4]], np.uint8), "which": np.array(False)})["y"]
    np.testing.assert_array_equal(got, [[2, 4]])
    engine.close()


def test_u8_input_of_a_wrong_number_of_channels(tmp_path: Path) -> None:
    """The refusal says how many numbers and channels there are, and on which axis."""
    path = models.identity(DType.FP32, (None, 4, 5, 6), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match=r"3 scales or offsets, but the input has 4 channels \(axis 1\)"):
        prepare(path, EngineOptions(u8_input=CHANNELS))


def test_types_of_constants(tmp_path: Path) -> None:
    """int64 and float lists keep their types; strings stay nodes."""
    nodes = [
        helper.make_node("Constant", [], ["floats"], value_floats=[1.0, 2.0]),
        helper.make_node("Constant", [], ["ints"], value_ints=[1, 2]),
        helper.make_node("Constant", [], ["words"], value_strings=[b"a"]),
    ]
    path = models.save(tmp_path / "m.onnx", nodes, [], [models.value("z", DType.FP32, (2,))])
    model = onnx.load(path)
    constants_to_initializers(model)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds == {"floats": TensorProto.FLOAT, "ints": TensorProto.INT64}
    assert [node.output[0] for node in model.graph.node] == ["words"]


def test_only_the_outputs_that_are_wanted(tmp_path: Path) -> None:
    """The signature has them alone, the engine computes them alone, and an unknown name is refused with the others."""
    x = models.value("x", DType.FP32, (None, 4))
    ends = [models.value(name, DType.FP32, (None, 4)) for name in ("y", "z")]
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    path = models.save(tmp_path / "m.onnx", nodes, [x], ends)
    for name in ("onnxruntime", "openvino"):
        engine = open_engine(path, EngineOptions(name=name, threads=1, outputs=("z",)))
        assert engine.spec.output_names == ("z",)
        answer = engine.run({"x": ROWS})
        assert list(answer) == ["z"]
        np.testing.assert_array_equal(answer["z"], -ROWS)
        engine.close()
    assert prepare(path, EngineOptions(outputs=("z", "y"))).source == path
    with pytest.raises(UnsupportedError, match="no output 'w': it has y, z"):
        prepare(path, EngineOptions(outputs=("w",)))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("options", [{}, {"outputs": ("y",)}])
def test_what_no_output_needs_is_left_out(tmp_path: Path, name: Any, options: dict[str, Any]) -> None:
    """onnxruntime would compute it, and here refuse more than a row."""
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Reshape", ["x", "one"], ["row"]),
        helper.make_node("Sigmoid", ["row"], ["z"]),
    ]
    x, y, z = (models.value(name, DType.FP32, (None, 4)) for name in "xyz")
    path = models.save(tmp_path / "m.onnx", nodes, [x], [y, z] if options else [y], {"one": np.array([1, 4])})
    engine = open_engine(path, EngineOptions(name=name, threads=1, **options))
    assert engine.spec.rows is Rows.INDEPENDENT
    np.testing.assert_array_equal(engine.run({"x": ROWS})["y"], np.maximum(ROWS, 0))
    engine.close()
    assert [node.op_type for node in prepare(path, engine.options).graph.graph.node] == ["Relu"]


def test_a_graph_is_not_edited_for_constants_or_with_weights_elsewhere(tmp_path: Path) -> None:
    """The engine reads the file itself, as it stands."""
    path = models.constants(tmp_path / "constants.onnx")
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value_float=0.5))
    onnx.save(model, path)
    assert prepare(path, EngineOptions()).source == path
    path = models.external_weights(tmp_path / "elsewhere.onnx")
    model = onnx.load(path, load_external_data=False)
    model.graph.node.append(helper.make_node("Relu", ["x"], ["unused"]))
    onnx.save(model, path)
    assert prepare(path, EngineOptions()).source == path


def _free_image(path: Path) -> Path:
    """Convolution and mean over an image of any size, whose second output keeps that size."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["features"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[2, 3], keepdims=0),
    ]
    weights = {"w": np.random.default_rng(3).standard_normal((2, 3, 3, 3)).astype(np.float32)}
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "height", None])
    ends = [
        helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["N", 2]),
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 2, "height", "width"]),
    ]
    return models.save(path, nodes, [image], ends, weights)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_dimensions_that_are_fixed(tmp_path: Path, name: str) -> None:
    """By name and by place: the signature has their sizes, in the outputs as well, and rows can be bound."""
    path = _free_image(tmp_path / "m.onnx")
    images = np.random.default_rng(4).standard_normal((2, 3, 8, 6)).astype(np.float32)
    free = open_engine(path, EngineOptions(threads=1))
    expected = free.run({"image": images})
    assert not free.spec.fixed_rows
    fixed = open_engine(path, EngineOptions(name=name, threads=1, fixed_dims=("height=8", "image:3=6")))
    assert [tensor.shape for tensor in (*fixed.spec.inputs, *fixed.spec.outputs)] == [
        (None, 3, 8, 6),
        (None, 2),
        (None, 2, 8, 6),
    ]
    assert fixed.spec.fixed_rows
    outputs = {tensor.name: np.empty((2, *tensor.row_shape), np.float32) for tensor in fixed.spec.outputs}
    fixed.bind({"image": images}, outputs)()
    for key, array in outputs.items():
        np.testing.assert_allclose(array, expected[key], rtol=1e-4, atol=1e-5)
    free.close()
    fixed.close()


@pytest.mark.parametrize(
    ("fixed", "words"),
    [
        ("depth=3", "no input of the model has a dimension 'depth': its free dimensions are N, height, image:3"),
        ("height", "'height' is not NAME=SIZE"),
        ("height=0", "'height=0' is not NAME=SIZE"),
        ("image:1=4", "image:1 is 3 in the model, and cannot be 4"),
        ("image:4=4", "no input of the model has a dimension 'image:4'"),
    ],
)
def test_dimensions_that_cannot_be_fixed(tmp_path: Path, fixed: str, words: str) -> None:
    """An unknown name, no size, or another one than the model's."""
    path = _free_image(tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match=re.escape(words)):
        prepare(path, EngineOptions(fixed_dims=(fixed,)))

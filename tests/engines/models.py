"""Small generated ONNX models, one for each kind of signature that an engine must support."""

import itertools
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tailcut.engines.graph import _DTYPES
from tailcut.spec import DType

ONNX_TYPE = {dtype: number for number, dtype in _DTYPES.items()}
Dims = tuple[int | str | None, ...]


def value(name: str, dtype: DType, shape: Dims) -> onnx.ValueInfoProto:
    dims = [("batch" if index == 0 else f"free{index}") if dim is None else dim for index, dim in enumerate(shape)]
    return helper.make_tensor_value_info(name, ONNX_TYPE[dtype], dims)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray] | None = None,
) -> Path:
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def perceptron(widths: list[int], path: Path) -> Path:
    """x float32 [batch, widths[0]] -> y float32 [batch, widths[-1]], dense layers with a Relu between."""
    random = np.random.default_rng(0)
    nodes, weights, x = [], {}, "x"
    for layer, (low, high) in enumerate(itertools.pairwise(widths)):
        last = layer == len(widths) - 2
        weights[f"w{layer}"] = random.standard_normal((low, high)).astype(np.float32) / np.float32(low**0.5)
        weights[f"b{layer}"] = random.standard_normal(high).astype(np.float32)
        dense = "y" if last else f"dense{layer}"
        nodes.append(helper.make_node("Gemm", [x, f"w{layer}", f"b{layer}"], [dense]))
        if not last:
            nodes.append(helper.make_node("Relu", [dense], [f"relu{layer}"]))
            x = f"relu{layer}"
    ends = [value("x", DType.FP32, (None, widths[0]))], [value("y", DType.FP32, (None, widths[-1]))]
    return save(path, nodes, *ends, weights)


def quantised(path: Path, copy: Path) -> Path:
    """Write a copy that counts as static int8, with the same answers: an unused constant is int8."""
    model = onnx.load(path)
    weights = {"int8": np.zeros(1, np.int8), "scale": np.ones((), np.float32), "zero": np.zeros((), np.int8)}
    model.graph.initializer.extend(numpy_helper.from_array(item, name) for name, item in weights.items())
    model.graph.node.append(helper.make_node("DequantizeLinear", list(weights), ["unused"]))
    onnx.save(model, copy)
    return copy


def identity(dtype: DType, shape: Dims, path: Path) -> Path:
    """y = x."""
    return save(
        path, [helper.make_node("Identity", ["x"], ["y"])], [value("x", dtype, shape)], [value("y", dtype, shape)]
    )


def two_in_two_out(path: Path) -> Path:
    """a, b float32 [batch, 4] -> total = a + b, difference = a - b."""
    nodes = [helper.make_node("Add", ["a", "b"], ["total"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    ends = [[value(name, DType.FP32, (None, 4)) for name in names] for names in (("a", "b"), ("total", "difference"))]
    return save(path, nodes, *ends)


def dynamic_sequence(path: Path) -> Path:
    """x float32 [batch, length] -> double [batch, length] = 2 x, total [batch, 1] = sum over the length."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["double"]),
        helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=1),
    ]
    outputs = [value("double", DType.FP32, (None, None)), value("total", DType.FP32, (None, 1))]
    return save(path, nodes, [value("x", DType.FP32, (None, None))], outputs, {"axes": np.array([1])})


def sums(path: Path) -> Path:
    """x float32 [batch, length] -> total [batch, 1] = sum over the length."""
    nodes = [helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=1)]
    ends = [value("x", DType.FP32, (None, None))], [value("total", DType.FP32, (None, 1))]
    return save(path, nodes, *ends, {"axes": np.array([1])})


def no_batch(path: Path) -> Path:
    """x float32 [3, 2], s float32 scalar -> y float32 [3, 2] = x * s."""
    inputs = [value("x", DType.FP32, (3, 2)), value("s", DType.FP32, ())]
    return save(path, [helper.make_node("Mul", ["x", "s"], ["y"])], inputs, [value("y", DType.FP32, (3, 2))])


def gather_rows(path: Path) -> Path:
    """index int64 [batch, 1] -> row float32 [batch, 1, 3] of a table of 5; onnxruntime raises for an index outside."""
    table = np.arange(15, dtype=np.float32).reshape(5, 3)
    nodes = [helper.make_node("Gather", ["table", "index"], ["row"])]
    ends = [value("index", DType.INT64, (None, 1))], [value("row", DType.FP32, (None, 1, 3))]
    return save(path, nodes, *ends, {"table": table})


def external_weights(path: Path) -> Path:
    """A perceptron 64-32 whose weights are in a separate file, `<name>.data`."""
    perceptron([64, 32], path)
    model = onnx.load(path)
    onnx.save(
        model,
        path,
        save_as_external_data=True,
        location=f"{path.name}.data",
        size_threshold=0,
        all_tensors_to_one_file=True,
    )
    return path


def convolution(path: Path) -> Path:
    """image float32 [batch, 3, 8, 8] -> scores float32 [batch, 5]."""
    random = np.random.default_rng(0)
    weights = {
        "k": random.standard_normal((16, 3, 3, 3)).astype(np.float32),
        "w": random.standard_normal((16, 5)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["c"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["scores"]),
    ]
    ends = [value("image", DType.FP32, (None, 3, 8, 8))], [value("scores", DType.FP32, (None, 5))]
    return save(path, nodes, *ends, weights)


def images(path: Path) -> Path:
    """image float32 [batch, 2, height, width] -> half [batch, 3, half the height, half the width], total [batch, 2].

    A convolution that pads its edges with zeros, so that the padding of a bucket changes nothing.
    """
    w = np.random.default_rng(0).standard_normal((3, 2, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["half"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceSum", ["image", "axes"], ["total"], keepdims=0),
    ]
    outputs = [value("half", DType.FP32, (None, 3, "h", "w")), value("total", DType.FP32, (None, 2))]
    weights = {"w": w, "axes": np.array([2, 3])}
    return save(path, nodes, [value("image", DType.FP32, (None, 2, None, None))], outputs, weights)


def pairs(path: Path) -> Path:
    """a [batch, length of a, 2], b [batch, length of b, 2] -> scores [batch, length of a, length of b]."""
    nodes = [
        helper.make_node("Transpose", ["b"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["a", "t"], ["scores"]),
    ]
    inputs = [value(name, DType.FP32, ("batch", f"long_{name}", 2)) for name in "ab"]
    return save(path, nodes, inputs, [value("scores", DType.FP32, ("batch", "long_a", "long_b"))])


def unsupported_type(path: Path) -> Path:
    """x complex64 [batch, 2] -> y = x: a type that the protocol does not have."""
    ends = [[helper.make_tensor_value_info(name, TensorProto.COMPLEX64, ["batch", 2])] for name in ("x", "y")]
    return save(path, [helper.make_node("Identity", ["x"], ["y"])], *ends)


def endless(path: Path) -> Path:
    """x float32 [batch, 4], rounds int64 [batch, 1] -> y = x, after as many rounds as the largest asks for."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["sum", "nothing"], ["more"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["batch", 4]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch", 4]),
        ],
        [numpy_helper.from_array(np.zeros(4, np.float32), "nothing")],
    )
    nodes = [
        helper.make_node("ReduceMax", ["rounds"], ["most"], keepdims=0),
        helper.make_node("Loop", ["most", "", "x"], ["y"], body=body),
    ]
    inputs = [value("x", DType.FP32, (None, 4)), value("rounds", DType.INT64, (None, 1))]
    return save(path, nodes, inputs, [value("y", DType.FP32, (None, 4))])


def masked_mean(path: Path, *, minds_mask: bool = True, width: int = 8) -> Path:
    """ids, mask int64 [batch, length] -> tokens float32 [batch, length, width], mean float32 [batch, width].

    Embeds, mixes every token with its neighbours by masked attention, and averages what the mask leaves; without
    `minds_mask` filled-up tokens count like others.
    """
    random = np.random.default_rng(0)
    weights = {
        "table": random.standard_normal((32, width)).astype(np.float32),
        "one": np.ones((), np.float32),
        "away": np.full((), -1e4, np.float32),
        "middle": np.array([1]),
        "last": np.array([2]),
    }
    scores = helper.make_node("Add", ["raw", "bias"], ["scores"])
    if not minds_mask:
        scores = helper.make_node("Identity", ["raw"], ["scores"])
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("Cast", ["mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "kept"], ["gone"]),
        helper.make_node("Mul", ["gone", "away"], ["far"]),
        helper.make_node("Unsqueeze", ["far", "middle"], ["bias"]),
        helper.make_node("Transpose", ["x"], ["keys"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "keys"], ["raw"]),
        scores,
        helper.make_node("Softmax", ["scores"], ["share"], axis=-1),
        helper.make_node("MatMul", ["share", "x"], ["tokens"]),
        helper.make_node("Unsqueeze", ["kept", "last"], ["wide"]),
        helper.make_node("Mul", ["tokens", "wide"], ["present"]),
        helper.make_node("ReduceSum", ["present", "middle"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["wide", "middle"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
    ]
    inputs = [value(name, DType.INT64, (None, "length")) for name in ("ids", "mask")]
    outputs = [value("tokens", DType.FP32, (None, "length", width)), value("mean", DType.FP32, (None, width))]
    return save(path, nodes, inputs, outputs, weights)


def nonzero(path: Path) -> Path:
    """x float32 [4, 2] -> where int64 [2, as many as are not zero]: an output whose size the values decide."""
    nodes = [helper.make_node("NonZero", ["x"], ["where"])]
    return save(path, nodes, [value("x", DType.FP32, (4, 2))], [value("where", DType.INT64, (2, None))])


def zipmap(path: Path, labels: list[str] | list[int], name: str = "output_probability") -> Path:
    """x float32 [batch, 4] -> output_label [batch] and maps of the scores, as scikit-learn's converter writes it."""
    random = np.random.default_rng(0)
    kind = "strings" if isinstance(labels[0], str) else "int64s"
    key = TensorProto.STRING if kind == "strings" else TensorProto.INT64
    keys = {f"classlabels_{'strings' if kind == 'strings' else 'ints'}": labels}
    count = len(labels)
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["x"],
            ["output_label", "probabilities"],
            domain="ai.onnx.ml",
            coefficients=random.standard_normal(count * 4).astype(np.float32).tolist(),
            intercepts=random.standard_normal(count).astype(np.float32).tolist(),
            post_transform="SOFTMAX",
            multi_class=1,
            **keys,
        ),
        helper.make_node("ZipMap", ["probabilities"], [name], domain="ai.onnx.ml", **{f"classlabels_{kind}": labels}),
    ]
    maps = helper.make_map_type_proto(key, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    outputs = [
        helper.make_tensor_value_info("output_label", key, [1]),  # one label, as LightGBM's converter has it
        helper.make_value_info(name, helper.make_sequence_type_proto(maps)),
    ]
    graph = helper.make_graph(nodes, path.stem, [value("x", DType.FP32, (None, 4))], outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 1)], ir_version=8), path)
    return path


def constants(path: Path) -> Path:
    """x float32 [batch, 64] -> y float32 [batch, 32]; the weights are a Constant node, as some exporters have them."""
    weights = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weights, "")),
        helper.make_node("Constant", [], ["shift"], value_float=0.5),
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "shift"], ["y"]),
    ]
    return save(path, nodes, [value("x", DType.FP32, (None, 64))], [value("y", DType.FP32, (None, 32))])


def attention(path: Path, *, over_rows: bool = False) -> Path:
    """x float32 [batch, length, 16] -> y of the same shape: x attends to itself; `over_rows`: without the batch."""
    shape = (None, 16) if over_rows else (None, None, 16)
    nodes = [
        helper.make_node("Transpose", ["x"], ["keys"], perm=[1, 0] if over_rows else [0, 2, 1]),
        helper.make_node("MatMul", ["x", "keys"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["share"], axis=-1),
        helper.make_node("MatMul", ["share", "x"], ["y"]),
    ]
    return save(path, nodes, [value("x", DType.FP32, shape)], [value("y", DType.FP32, shape)])


def scaled_free(path: Path) -> Path:
    """x float32 [batch, n] -> y = 2 x, whose shape is not declared."""
    nodes = [helper.make_node("Mul", ["x", "two"], ["y"])]
    ends = [[value(name, DType.FP32, (None, None))] for name in ("x", "y")]
    return save(path, nodes, *ends, {"two": np.array(2, np.float32)})


def pooled(path: Path) -> Path:
    """x float32 [batch, 3, height, width] -> y float32 [batch, 3], pooled by 2x2: nothing is left of one line.

    onnxruntime answers it nevertheless.
    """
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["features"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["features"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["half"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["y"]),
    ]
    weight = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32)
    ends = [[value("x", DType.FP32, (None, 3, None, None))], [value("y", DType.FP32, (None, 3))]]
    return save(path, nodes, *ends, {"weight": weight})


def halved_and_doubled(path: Path) -> Path:
    """x float32 [batch, 1, height, width] -> y = x + what is left of x at half its size: sizes must be even."""
    nodes = [
        helper.make_node("MaxPool", ["x"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["half", "", "twice"], ["whole"], mode="nearest"),
        helper.make_node("Add", ["x", "whole"], ["y"]),
    ]
    ends = [[value(name, DType.FP32, (None, 1, None, None))] for name in ("x", "y")]
    return save(path, nodes, *ends, {"twice": np.array([1, 1, 2, 2], np.float32)})


def recurrent(kind: str, path: Path, *, shape: Dims, lengths: str | list[int] = "input") -> Path:
    """x float32 [batch, time, 3] -> y float32 [batch, time, 2, 4], h float32 [batch, 2, 4]: a layer in both directions.

    Args:
        kind: LSTM, GRU or RNN.
        path: of the file.
        shape: of x.
        lengths: `input`, `none`, or constant ones.
    """
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind] * 4
    random = np.random.default_rng(0)
    sizes = {"w": (2, gates, 3), "r": (2, gates, 4), "b": (2, 2 * gates)}
    weights = {name: random.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    if isinstance(lengths, list):
        weights["lengths"] = np.array(lengths, np.int32)
    given = ["steps", *sizes, *([] if lengths == "none" else ["lengths"])]
    nodes = [
        helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        helper.make_node(kind, given, ["all", "last"], hidden_size=4, direction="bidirectional"),
        helper.make_node("Transpose", ["all"], ["y"], perm=[2, 0, 1, 3]),
        helper.make_node("Transpose", ["last"], ["h"], perm=[1, 0, 2]),
    ]
    inputs = [value("x", DType.FP32, shape)]
    inputs += [value("lengths", DType.INT32, shape[:1])] if lengths == "input" else []
    outputs = [value("y", DType.FP32, (*shape[:2], 2, 4)), value("h", DType.FP32, (shape[0], 2, 4))]
    return save(path, nodes, inputs, outputs, weights)

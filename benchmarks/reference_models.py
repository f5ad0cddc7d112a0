"""The models that figures are quoted on, with seeded random weights: speed does not depend on them.

    python benchmarks/reference_models.py OUT_DIR

tiny      x float32 [batch, 256]          -> y float32 [batch, 10]     perceptron 256-256-64-10
ranker    x float32 [batch, 1024]         -> y float32 [batch, 1]      perceptron 1024-2048-1024-512-1
resnet18  x float32 [batch, 3, 224, 224]  -> y float32 [batch, 1000]   ResNet-18, batch norm folded
encoder   ids, mask int64 [batch, length] -> y float32 [batch, 384]    6 transformer layers, masked mean, length <= 512
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tailcut.engines.base import Precision
from tailcut.machine.fingerprint import isa_flags
from tailcut.tuner.space import BF16_FLAGS

FAST_PRECISION: Precision = "bf16" if BF16_FLAGS & isa_flags() else "f32"  # of openvino, on this machine
LAYERS = {"tiny": (256, 256, 64, 10), "ranker": (1024, 2048, 1024, 512, 1)}


class Net:
    """Nodes and weights of one graph; every method returns the name of a value."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, *shape: int, fan_in: int) -> str:
        values = self.random.standard_normal(shape, np.float32) * np.float32((2 / fan_in) ** 0.5)
        return self.keep(values)

    def keep(self, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(values, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def apply(self, operator: str, *inputs: str, to: str = "", **attributes: object) -> str:
        to = to or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [to], **attributes))
        return to

    def dense(self, x: str, width_in: int, width_out: int, to: str = "") -> str:
        bias = self.keep(np.zeros(width_out, np.float32))
        return self.apply("Gemm", x, self.weight(width_in, width_out, fan_in=width_in), bias, to=to)

    def conv(self, x: str, channels: tuple[int, int], kernel: int, stride: int) -> str:
        low, high = channels
        weight = self.weight(high, low, kernel, kernel, fan_in=low * kernel * kernel)
        bias = self.keep(np.zeros(high, np.float32))
        return self.apply(
            "Conv", x, weight, bias, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4
        )

    def save(self, path: Path, x: tuple[int, ...], y: int) -> Path:
        return self.save_with([helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *x])], path, y)

    def save_with(self, inputs: list[onnx.ValueInfoProto], path: Path, y: int) -> Path:
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", y])]
        graph = helper.make_graph(self.nodes, path.stem, inputs, outputs, self.weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
        return path


def perceptron(path: Path, widths: tuple[int, ...]) -> Path:
    net, x = Net(), "x"
    for layer, (low, high) in enumerate(pairwise(widths)):
        last = layer == len(widths) - 2
        x = net.dense(x, low, high, to="y" if last else "")
        if not last:
            x = net.apply("Relu", x)
    return net.save(path, widths[:1], widths[-1])


def resnet18(path: Path) -> Path:
    net = Net()
    x = net.apply("Relu", net.conv("x", (3, 64), 7, 2))
    x = net.apply("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    low = 64
    for high, first_stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for stride in (first_stride, 1):
            shortcut = x if (low, stride) == (high, 1) else net.conv(x, (low, high), 1, stride)
            inner = net.apply("Relu", net.conv(x, (low, high), 3, stride))
            x = net.apply("Relu", net.apply("Add", net.conv(inner, (high, high), 3, 1), shortcut))
            low = high
    net.dense(net.apply("Flatten", net.apply("GlobalAveragePool", x)), 512, 1000, to="y")
    return net.save(path, (3, 224, 224), 1000)


class Encoder(Net):
    """A BERT-like encoder of the size of a small sentence embedder (MiniLM has these dimensions)."""

    WIDTH, HEADS, LAYERS, VOCABULARY, LONGEST = 384, 12, 6, 4096, 512

    def number(self, value: float) -> str:
        return self.keep(np.array(value, np.float32))

    def whole(self, *values: int) -> str:
        return self.keep(np.array(values, np.int64))

    def linear(self, x: str, width_in: int, width_out: int) -> str:
        product = self.apply("MatMul", x, self.weight(width_in, width_out, fan_in=2 * width_in))
        return self.apply("Add", product, self.keep(np.zeros(width_out, np.float32)))

    def normal(self, x: str) -> str:
        scale, shift = (self.keep(np.full(self.WIDTH, value, np.float32)) for value in (1, 0))
        return self.apply("LayerNormalization", x, scale, shift, axis=-1)

    def by_head(self, x: str) -> str:
        parted = self.apply("Reshape", x, self.whole(0, 0, self.HEADS, self.WIDTH // self.HEADS))
        return self.apply("Transpose", parted, perm=[0, 2, 1, 3])

    def attend(self, x: str, hidden: str) -> str:
        query, key, content = (self.by_head(self.linear(x, self.WIDTH, self.WIDTH)) for _ in range(3))
        raw = self.apply("MatMul", query, self.apply("Transpose", key, perm=[0, 1, 3, 2]))
        scaled = self.apply("Mul", raw, self.number((self.WIDTH // self.HEADS) ** -0.5))
        share = self.apply("Softmax", self.apply("Add", scaled, hidden), axis=-1)
        mixed = self.apply("Transpose", self.apply("MatMul", share, content), perm=[0, 2, 1, 3])
        return self.linear(self.apply("Reshape", mixed, self.whole(0, 0, self.WIDTH)), self.WIDTH, self.WIDTH)

    def think(self, x: str) -> str:
        """Two dense layers with a GELU between."""
        wide = self.linear(x, self.WIDTH, 4 * self.WIDTH)
        erf = self.apply("Erf", self.apply("Mul", wide, self.number(0.5**0.5)))
        half = self.apply("Mul", wide, self.number(0.5))
        gelu = self.apply("Mul", half, self.apply("Add", erf, self.number(1)))
        return self.linear(gelu, 4 * self.WIDTH, self.WIDTH)

    def make(self, path: Path) -> Path:
        kept = "kept"
        self.nodes.append(helper.make_node("Cast", ["mask"], [kept], to=TensorProto.FLOAT))
        gone = self.apply("Mul", self.apply("Sub", self.number(1), kept), self.number(-1e4))
        hidden = self.apply("Unsqueeze", gone, self.whole(1, 2))
        words = self.weight(self.VOCABULARY, self.WIDTH, fan_in=5000)
        places = self.weight(self.LONGEST, self.WIDTH, fan_in=5000)
        length = self.apply("Shape", "ids", start=1, end=2)
        here = self.apply("Slice", places, self.whole(0), length, self.whole(0))
        x = self.normal(self.apply("Add", self.apply("Gather", words, "ids"), here))
        for _ in range(self.LAYERS):
            x = self.normal(self.apply("Add", x, self.attend(x, hidden)))
            x = self.normal(self.apply("Add", x, self.think(x)))
        present = self.apply("Unsqueeze", kept, self.whole(2))
        total = self.apply("ReduceSum", self.apply("Mul", x, present), self.whole(1), keepdims=0)
        self.apply("Div", total, self.apply("ReduceSum", present, self.whole(1), keepdims=0), to="y")
        inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"]) for n in ("ids", "mask")]
        return self.save_with(inputs, path, self.WIDTH)


def make(name: str, folder: Path) -> Path:
    """The model of that name in the folder, made when it is not there."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if name in LAYERS:
            perceptron(path, LAYERS[name])
        elif name == "encoder":
            Encoder().make(path)
        else:
            resnet18(path)
    return path


if __name__ == "__main__":
    for model in (*LAYERS, "resnet18", "encoder"):
        print(make(model, Path(sys.argv[1])))

"""The models that figures are quoted on, with seeded random weights: speed does not depend on them.

    python benchmarks/reference_models.py OUT_DIR

tiny      x float32 [batch, 256]          -> y float32 [batch, 10]     perceptron 256-256-64-10
ranker    x float32 [batch, 1024]         -> y float32 [batch, 1]      perceptron 1024-2048-1024-512-1
resnet18  x float32 [batch, 3, 224, 224]  -> y float32 [batch, 1000]   ResNet-18, batch norm folded
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

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
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *x])]
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


def make(name: str, folder: Path) -> Path:
    """The model of that name in the folder, made when it is not there."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _ = resnet18(path) if name == "resnet18" else perceptron(path, LAYERS[name])
    return path


if __name__ == "__main__":
    for model in (*LAYERS, "resnet18"):
        print(make(model, Path(sys.argv[1])))

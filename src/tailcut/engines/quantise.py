"""Static int8: a copy of a model with fixed scales, calibrated with requests (QDQ form, weights per channel).

onnxruntime's quantiser edits the graph. `Calibration` runs the float model over requests once, and keeps the extremes
and a sample of every activation. From these it writes any number of copies, each with its own method for the ranges and
its own operators left in float. onnxruntime and OpenVINO read the result like any other ONNX file.

Rounding a weight shifts the output by the rounding error times the mean of the input, always in the same direction. The
means of the channels give that shift, which is subtracted from the biases: this halves the error of a ResNet-18.

Run it in a separate process: it holds several copies of the model, and the quantiser may crash on unusual models.
"""

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tailcut.engines.activations import CHOICES, Activation, Histogram, Method
from tailcut.engines.base import Arrays, Form
from tailcut.engines.edits import constants_to_initializers, has_narrow_sums, whole_model
from tailcut.engines.error_line import short
from tailcut.errors import TailcutError, UnsupportedError

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Operators that only move values or have int8 kernels of their own: between two products they stay in int8.
_BETWEEN = (
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Flatten",
    "GlobalAveragePool",
    "MaxPool",
    "Mul",
    "Pad",
    "Relu",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
_LEAST_OPSET = 13  # the first in which DequantizeLinear has scales per channel
_LARGEST = {False: 127, True: 64}  # the largest int8 weight, by whether the range is reduced


class Calibration:
    """The ranges of a model's activations over some requests, and quantised copies of the model.

    Args:
        path: an ONNX file, with its external weights if it has any.
        folder: for intermediate files.

    Raises:
        ModelFileError: as `load_graph`.
        UnsupportedError: it has no products with constant weights, it is too large, or the quantiser fails on it.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self._path = path
        with self._quantiser():
            self._float = _preprocessed(whole_model(path), folder)
        self._weights = {tensor.name for tensor in self._float.graph.initializer}
        self._products = [node for node in self._float.graph.node if self._is_product(node)]
        if not self._products:
            raise UnsupportedError(f"{path}: it has no convolution or product with constant weights to quantise")
        with self._quantiser():
            self._session, self._names = _with_activations(self._float, folder)
        self._activations = {name: Activation() for name in self._names}
        self._taken: dict[str, Histogram] = {}
        self._random = np.random.default_rng(0)
        self.requests = 0

    @property
    def operators(self) -> list[str]:
        """The names of the operators that can be quantised, in the graph's order."""
        return [node.name for node in self._products]

    def collect(self, request: Arrays) -> None:
        """Run one request, and include its activations in the ranges.

        Raises:
            UnsupportedError: the model refuses the request.
        """
        with self._quantiser():
            arrays = self._session.run(self._names, dict(request))
        for name, array in zip(self._names, arrays, strict=True):
            self._activations[name].add(array, self._random)
        self._taken.clear()
        self.requests += 1

    def most_sensitive(self) -> list[str]:
        """The operators, by the relative error of their inputs in int8, largest first.

        A few outliers among the values of an input widen the quantisation step for all of them.
        """
        noise = {name: histogram.noise for name, histogram in self._histograms().items()}
        return [node.name for node in sorted(self._products, key=lambda node: -noise.get(node.input[0], math.inf))]

    def ends(self) -> list[str]:
        """The first operator and the last one."""
        return list(dict.fromkeys((self.operators[0], self.operators[-1])))

    def write(self, form: Form, method: Method, in_float: Sequence[str], out: Path) -> None:
        """Write a quantised copy.

        Args:
            form: the engine that it is for. onnxruntime computes a convolution in int8 only if its output is quantised,
                too, and has int8 kernels for operators between two of them. OpenVINO fuses operators that follow a
                product into it, which a quantised output would prevent.
            method: how ranges are chosen.
            in_float: names of operators that are not quantised.
            out: the file to write.

        Raises:
            UnsupportedError: the quantiser fails.
        """
        from onnxruntime.quantization import QDQQuantizer, QuantType  # noqa: PLC0415  half a second, int8 only

        own = form == "onnxruntime"
        options = {
            "MatMulConstBOnly": True,
            "WeightSymmetric": True,
            "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"] if own else list(_PRODUCTS),
        }
        reduced = has_narrow_sums()
        with self._quantiser():
            quantizer = QDQQuantizer(
                self._without_shifts(in_float, _LARGEST[reduced]),
                True,  # weights per channel
                reduced,
                QuantType.QInt8,
                QuantType.QUInt8,
                self._ranges(method),
                [],
                [*in_float, *(self._apart(in_float) if own else ())],
                [*_PRODUCTS, *(_BETWEEN if own else ())],
                options,
            )
            quantizer.quantize_model()
            quantizer.model.save_model_to_file(str(out))

    def _histograms(self) -> dict[str, Histogram]:
        if not self._taken:
            self._taken = {
                name: activation.histogram() for name, activation in self._activations.items() if activation.samples
            }
        return self._taken

    def _ranges(self, method: Method) -> Any:
        from onnxruntime.quantization import CalibrationMethod, TensorsData  # noqa: PLC0415  as in write

        choose = CHOICES[method]
        ends = {name: tuple(map(np.float32, choose(histogram))) for name, histogram in self._histograms().items()}
        return TensorsData(CalibrationMethod.MinMax, ends)

    def _without_shifts(self, in_float: Sequence[str], largest: int) -> onnx.ModelProto:
        """A copy of the float model whose biases compensate for the rounding of the weights."""
        model = onnx.ModelProto.FromString(self._float.SerializeToString())
        weights = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            activation = self._activations.get(node.input[0]) if node.input else None
            if node.name not in self.operators or node.name in in_float or activation is None:
                continue
            shift = shift_of(node, numpy_helper.to_array(weights[node.input[1]]), activation.means, largest)
            bias = weights.get(node.input[2]) if len(node.input) > 2 else None
            if shift is None or (len(node.input) > 2 and (bias is None or math.prod(bias.dims) != len(shift))):
                continue
            old = np.zeros(len(shift)) if bias is None else numpy_helper.to_array(bias).reshape(-1)
            name = f"{node.name}__bias"
            model.graph.initializer.append(numpy_helper.from_array((old - shift).astype(np.float32), name))
            del node.input[2:]
            node.input.append(name)
        return model

    def _is_product(self, node: onnx.NodeProto) -> bool:
        return node.op_type in _PRODUCTS and len(node.input) > 1 and node.input[1] in self._weights

    def _apart(self, in_float: Sequence[str]) -> list[str]:
        """The names of operators that are not between quantised products, where int8 would only add conversions."""
        quantised = {node.name for node in self._products} - set(in_float)
        nodes = self._float.graph.node
        made: set[str] = set(self._weights)  # results of quantised products, and constants
        behind: set[str] = set()
        for node in nodes:
            passes = node.op_type in _BETWEEN and any(name not in self._weights for name in node.input)
            if passes and all(not name or name in made for name in node.input):
                behind.add(node.name)
            if node.name in quantised or node.name in behind:
                made.update(node.output)
        wanted: set[str] = set()  # operands of quantised products
        before: set[str] = set()
        for node in reversed(nodes):
            if node.op_type in _BETWEEN and any(name in wanted for name in node.output):
                before.add(node.name)
            if node.name in quantised or node.name in before:
                wanted.update(node.input)
        return [node.name for node in nodes if node.op_type in _BETWEEN and node.name not in behind & before]

    @contextlib.contextmanager
    def _quantiser(self) -> Iterator[None]:
        """Silence the quantiser, which prints advice at every call, and shorten its errors to one line."""
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.CRITICAL)
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
                yield
        except TailcutError:
            raise
        except Exception as error:  # noqa: BLE001  whatever the quantiser meets
            raise UnsupportedError(f"{self._path}: cannot be quantised to static int8: {short(error)}") from None
        finally:
            root.setLevel(level)


def _preprocessed(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The model with batch norms folded, constants computed, types inferred and a unique name for every operator."""
    from onnxruntime.quantization import quant_pre_process  # noqa: PLC0415  half a second, int8 only

    constants_to_initializers(model)
    opset = next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), _LEAST_OPSET)
    if opset < _LEAST_OPSET:
        model = onnx.version_converter.convert_version(model, _LEAST_OPSET)
    source, done = folder / "float.onnx", folder / "preprocessed.onnx"
    onnx.save(model, source)
    quant_pre_process(str(source), str(done), skip_symbolic_shape=True)
    model = onnx.load(done)
    names: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in names:
            node.name = f"{node.op_type}_{index}"
        names.add(node.name)
    return model


def _with_activations(model: onnx.ModelProto, folder: Path) -> tuple[Any, list[str]]:
    """A session in which every activation that may be quantised is an output, and the names of these activations."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator  # noqa: PLC0415  as above

    path = folder / "named.onnx"
    onnx.save(model, path)
    augmented = str(folder / "augmented.onnx")
    kinds = [*_PRODUCTS, *_BETWEEN]
    calibrator = create_calibrator(path, kinds, augmented, CalibrationMethod.Percentile)
    return calibrator.infer_session, sorted(calibrator.tensors_to_calibrate)


def shift_of(node: onnx.NodeProto, weight: np.ndarray, means: np.ndarray, largest: int) -> np.ndarray | None:
    """How far rounding a node's weights shifts its outputs on average, float64 [channels]; None if unknown.

    Args:
        node: a Conv or Gemm; for other operators, the shift is unknown.
        weight: its weights, as in ONNX.
        means: the mean of each channel of its input.
        largest: the int8 value of the largest weight of a channel.
    """
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Gemm":
        if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA"):
            return None
        weight = weight if attributes.get("transB") else weight.T
    elif node.op_type != "Conv":
        return None
    groups = attributes.get("group", 1)
    if len(means) != groups * weight.shape[1]:
        return None
    scales = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True) / largest
    scales = np.where(scales > 0, scales, 1.0).astype(np.float64)
    rounding = np.clip(np.round(weight / scales), -largest, largest) * scales - weight
    rounding = rounding.reshape(*weight.shape[:2], -1).sum(axis=2)
    shifts: np.ndarray = np.einsum(
        "goc,gc->go", rounding.reshape(groups, -1, weight.shape[1]), means.reshape(groups, -1)
    ).reshape(-1)
    return shifts

"""Static int8: a copy of a model with fixed scales, which were taken from requests (QDQ form, weights per channel).

onnxruntime's quantiser edits the graph. `Calibration` runs the float model over requests once and keeps, of every
activation, its ends and a sample of its numbers; from these it writes as many copies as are asked for, each with its
own way to choose the ranges and its own operators left in float. Both engines read the result as any other ONNX file.

The ranges are chosen here: onnxruntime's own histograms take 1.4 s a request for a detector of 320 x 320 pixels, where
a sample takes 0.25 s, and its search by entropy is as wide as its histogram, so that it finds nothing but the ends.

It belongs in a process of its own: it holds the model several times, and the quantiser was not made for every model.
"""

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from tailcut.engines.base import Arrays, Form
from tailcut.engines.edits import constants_to_initializers, whole_model
from tailcut.engines.graph import short
from tailcut.errors import TailcutError, UnsupportedError
from tailcut.machine.fingerprint import isa_flags

Method = Literal["minmax", "least error", "percentile"]
METHODS: tuple[Method, ...] = ("minmax", "least error", "percentile")
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# What only hands numbers on, or has a kernel of its own in int8: between two products it stays in int8.
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
_BINS = 2048
_SAMPLE = 1024  # numbers of each activation that are kept of a request
_RARE = 1e-4  # of all numbers, at both ends together: what the percentile leaves out
_SHARES = np.linspace(1.0, 0.05, 39)  # of either end, tried for the least error
_LEAST_OPSET = 13  # from here on DequantizeLinear has scales per channel
_INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}  # 32-bit sums of products: nothing saturates
_STEPS = 255


class Calibration:
    """The ranges of a model's activations over some requests, and quantised copies of the model.

    Args:
        path: an ONNX file, with its external weights where it has any.
        folder: for intermediate files.

    Raises:
        ModelFileError: as `load_graph`.
        UnsupportedError: it has no products with constant weights, is too large, or the quantiser does not take it.
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
        self._activations = {name: _Activation() for name in self._names}
        self._found: dict[str, Histogram] = {}
        self._random = np.random.default_rng(0)
        self.requests = 0

    @property
    def operators(self) -> list[str]:
        """The names of the operators that can be quantised, in the graph's order."""
        return [node.name for node in self._products]

    def collect(self, request: Arrays) -> None:
        """Take the activations of one request into the ranges.

        Raises:
            UnsupportedError: the model refuses it.
        """
        with self._quantiser():
            arrays = self._session.run(self._names, dict(request))
        for name, array in zip(self._names, arrays, strict=True):
            self._activations[name].add(array.reshape(-1), self._random)
        self._found.clear()
        self.requests += 1

    def most_sensitive(self) -> list[str]:
        """The operators by the error that int8 makes in what they read, the largest first.

        Beside the size of the numbers themselves: a few that lie far from all others widen the step for every one.
        """
        noise = {name: histogram.noise for name, histogram in self._histograms().items()}
        return [node.name for node in sorted(self._products, key=lambda node: -noise.get(node.input[0], math.inf))]

    def ends(self) -> list[str]:
        """The first operator and the last one."""
        return list(dict.fromkeys((self.operators[0], self.operators[-1])))

    def write(self, form: Form, method: Method, in_float: Sequence[str], out: Path) -> None:
        """Write a quantised copy.

        Args:
            form: the engine that it is for. onnxruntime computes a convolution in int8 only where its output is
                quantised too, and has kernels for what lies between two of them. OpenVINO fuses what follows a product
                into it, which a quantised output would prevent.
            method: how ranges are chosen.
            in_float: operators that are not quantised.
            out: the file.

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
        with self._quantiser():
            quantizer = QDQQuantizer(
                onnx.ModelProto.FromString(self._float.SerializeToString()),
                True,
                not _INT8_FLAGS & isa_flags(),  # 7-bit weights, where 16-bit sums would saturate
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

    def _histograms(self) -> dict[str, "Histogram"]:
        if not self._found:
            self._found = {name: one.histogram() for name, one in self._activations.items() if one.samples}
        return self._found

    def _ranges(self, method: Method) -> Any:
        from onnxruntime.quantization import CalibrationMethod, TensorsData  # noqa: PLC0415  as in write

        choose = _CHOICES[method]
        ends = {name: tuple(map(np.float32, choose(one))) for name, one in self._histograms().items()}
        return TensorsData(CalibrationMethod.MinMax, ends)

    def _is_product(self, node: onnx.NodeProto) -> bool:
        return node.op_type in _PRODUCTS and len(node.input) > 1 and node.input[1] in self._weights

    def _apart(self, in_float: Sequence[str]) -> list[str]:
        """Operators that do not lie between quantised products, so that int8 would only add conversions."""
        quantised = {node.name for node in self._products} - set(in_float)
        nodes = self._float.graph.node
        made: set[str] = set(self._weights)  # values that come out of quantised products, and constants
        behind: set[str] = set()
        for node in nodes:
            passes = node.op_type in _BETWEEN and any(name not in self._weights for name in node.input)
            if passes and all(not name or name in made for name in node.input):
                behind.add(node.name)
            if node.name in quantised or node.name in behind:
                made.update(node.output)
        wanted: set[str] = set()  # values that quantised products read
        before: set[str] = set()
        for node in reversed(nodes):
            if node.op_type in _BETWEEN and any(name in wanted for name in node.output):
                before.add(node.name)
            if node.name in quantised or node.name in before:
                wanted.update(node.input)
        return [node.name for node in nodes if node.op_type in _BETWEEN and node.name not in behind & before]

    @contextlib.contextmanager
    def _quantiser(self) -> Iterator[None]:
        """Quiet, and with its errors in one line: the quantiser prints and advises at every call."""
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
    """Batch norms folded, constants computed and types inferred, every operator with a name of its own."""
    from onnxruntime.quantization import quant_pre_process  # noqa: PLC0415  half a second, int8 only

    constants_to_initializers(model)
    opset = next((one.version for one in model.opset_import if one.domain in {"", "ai.onnx"}), _LEAST_OPSET)
    if opset < _LEAST_OPSET:
        model = onnx.version_converter.convert_version(model, _LEAST_OPSET)
    source, done = folder / "float.onnx", folder / "preprocessed.onnx"
    onnx.save(model, source)
    quant_pre_process(str(source), str(done), skip_symbolic_shape=True)
    model = onnx.load(done)
    names: set[str] = set()
    for place, node in enumerate(model.graph.node):
        if not node.name or node.name in names:
            node.name = f"{node.op_type}_{place}"
        names.add(node.name)
    return model


def _with_activations(model: onnx.ModelProto, folder: Path) -> tuple[Any, list[str]]:
    """A session of the model with every activation that may be quantised as an output, and their names."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator  # noqa: PLC0415  as above

    path = folder / "named.onnx"
    onnx.save(model, path)
    augmented = str(folder / "augmented.onnx")
    kinds = [*_PRODUCTS, *_BETWEEN]
    calibrator = create_calibrator(path, kinds, augmented, CalibrationMethod.Percentile)
    return calibrator.infer_session, sorted(calibrator.tensors_to_calibrate)


@dataclass(slots=True)
class _Activation:
    """What is kept of an activation: its ends, and some of its numbers."""

    lowest: float = math.inf
    highest: float = -math.inf
    samples: list[np.ndarray] = field(default_factory=list)

    def add(self, numbers: np.ndarray, random: np.random.Generator) -> None:
        if not numbers.size:
            return
        self.lowest = min(self.lowest, float(numbers.min()))
        self.highest = max(self.highest, float(numbers.max()))
        self.samples.append(numbers[random.integers(0, numbers.size, _SAMPLE)])

    def histogram(self) -> "Histogram":
        if not (math.isfinite(self.lowest) and math.isfinite(self.highest)):
            raise UnsupportedError("a value inside the model is infinite or NaN, which int8 has no range for")
        counts, edges = np.histogram(np.concatenate(self.samples), _BINS, (self.lowest, self.highest))
        return Histogram(counts.astype(np.float64), (edges[:-1] + edges[1:]) / 2, self.lowest, self.highest)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often an activation had which numbers.

    Args:
        counts: in each bin, float64 [bins].
        middles: of the bins, float64 [bins].
        lowest, highest: numbers seen.
    """

    counts: np.ndarray
    middles: np.ndarray
    lowest: float
    highest: float

    @property
    def noise(self) -> float:
        """The mean square of int8's error beside that of the numbers, over the whole range."""
        power = float(self.counts @ self.middles**2)
        return self.error(self.lowest, self.highest) / power if power else 0.0

    def error(self, low: float, high: float) -> float:
        """The sum of squared errors of int8 over a range: rounding inside it; what lies outside moves to its end."""
        low, high = min(0.0, low), max(0.0, high)  # 0 itself is always exact
        beyond = np.maximum(0.0, np.maximum(low - self.middles, self.middles - high))
        rounding = ((high - low) / _STEPS) ** 2 / 12
        return float(self.counts @ np.where(beyond > 0, beyond**2, rounding))

    def whole(self) -> tuple[float, float]:
        """All that was seen."""
        return self.lowest, self.highest

    def within_percentile(self) -> tuple[float, float]:
        """Without the rarest numbers on either side."""
        shares = np.cumsum(self.counts) / max(1.0, self.counts.sum())
        low, high = np.searchsorted(shares, (_RARE / 2, 1 - _RARE / 2))
        last = len(self.middles) - 1
        return max(self.lowest, float(self.middles[low])), min(self.highest, float(self.middles[min(high, last)]))

    def least_error(self) -> tuple[float, float]:
        """The range with the least sum of squared errors."""
        high = min((self.highest * share for share in _SHARES), key=lambda end: self.error(self.lowest, end))
        return min((self.lowest * share for share in _SHARES), key=lambda end: self.error(end, high)), high


_CHOICES: dict[Method, Callable[[Histogram], tuple[float, float]]] = {
    "least error": Histogram.least_error,
    "percentile": Histogram.within_percentile,
    "minmax": Histogram.whole,
}

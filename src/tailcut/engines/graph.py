"""The ONNX file itself: its signature, and the edits that both engines share. No engine is involved.

Engines get the signature from here and not from their own session, so that all of them tell the same story.
"""

import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tailcut.engines.base import EngineOptions, U8Input
from tailcut.engines.rows import analyse_rows
from tailcut.errors import ModelFileError, UnsupportedError
from tailcut.spec import DType, ModelSpec, RowEvidence, Rows, Shape, TensorSpec

_DTYPES = {
    TensorProto.BOOL: DType.BOOL,
    TensorProto.UINT8: DType.UINT8,
    TensorProto.UINT16: DType.UINT16,
    TensorProto.UINT32: DType.UINT32,
    TensorProto.UINT64: DType.UINT64,
    TensorProto.INT8: DType.INT8,
    TensorProto.INT16: DType.INT16,
    TensorProto.INT32: DType.INT32,
    TensorProto.INT64: DType.INT64,
    TensorProto.FLOAT16: DType.FP16,
    TensorProto.BFLOAT16: DType.BF16,
    TensorProto.FLOAT: DType.FP32,
    TensorProto.DOUBLE: DType.FP64,
    TensorProto.STRING: DType.BYTES,
}
_REASON_CHARS = 200
_NOISE = ("Exception from", "Check '", "FrontEnd API failed", "src/", "/")
_INNARDS = re.compile(  # of an engine's message: its own name and number, our path, C++ files
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .* failed:|[\w/.-]+\.(?:cc|cpp|h):\d+ (?:\S+ )?"
    r"|While validating .*?: "
)


def load_graph(path: Path) -> onnx.ModelProto:
    """Read a model's graph, without external weights.

    Raises:
        ModelFileError: missing, empty, unreadable, or not ONNX.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such model file") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from None
    if not data:
        raise ModelFileError(f"{path}: the model file is empty")
    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # noqa: BLE001  protobuf's errors have no common base that both its runtimes share
        raise ModelFileError(f"{path}: not an ONNX model, or cut short") from None
    if not model.graph.output:
        raise ModelFileError(f"{path}: not an ONNX model: it has no outputs")
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            _check_external(path, {entry.key: entry.value for entry in tensor.external_data})
    return model


def read_spec(model: onnx.ModelProto, path: Path, name: str | None) -> ModelSpec:
    """The signature, with what the graph says of its rows: inputs that are no initialisers, and outputs, in order.

    Raises:
        UnsupportedError: a tensor of a type that the wire has no name for, or without a rank.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [_tensor(value, path) for value in model.graph.input if value.name not in weights]
    outputs = list(model.graph.output)
    if any(not value.type.tensor_type.HasField("shape") for value in outputs):
        try:
            outputs = list(onnx.shape_inference.infer_shapes(model).graph.output)
        except Exception as error:  # noqa: BLE001  as in load_graph
            raise ModelFileError(f"{path}: {short(error)}") from None
    spec_name = name or path.name.split(".")[0]
    spec = ModelSpec(spec_name, tuple(inputs), tuple(_tensor(value, path) for value in outputs))
    found = analyse_rows(model) if spec.batchable else RowEvidence(Rows.DEPENDENT, "")
    return replace(spec, rows=found.rows, rows_reason=found.reason)


@contextmanager
def prepared(path: Path, options: EngineOptions) -> Iterator[Path | bytes]:
    """What an engine is to load: the file as it stands, or the bytes of an edited copy."""
    if options.u8_input is None and options.precision != "int8":
        yield path
        return
    whole = onnx.load(path)  # with its external weights
    if options.u8_input is not None:
        take_u8(whole, options.u8_input)
    if options.precision == "int8":
        whole = _quantized(whole, path)
    yield whole.SerializeToString()


def take_u8(model: onnx.ModelProto, fold: U8Input) -> None:
    """Make every float32 input a uint8 one, in place; the graph computes x * scale + offset per channel (axis 1)."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    nodes = []
    for value in graph.input:
        if value.name in weights or value.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        value.type.tensor_type.elem_type = TensorProto.UINT8
        dims = value.type.tensor_type.shape.dim
        rank = len(dims)
        cast, scaled, shifted = (f"{value.name}__{step}" for step in ("cast", "scaled", "float"))
        for node in graph.node:
            for place, used in enumerate(node.input):
                if used == value.name:
                    node.input[place] = shifted
        channels = dims[1].dim_value if rank > 1 else 0
        graph.initializer.append(_per_channel(fold.scale, f"{value.name}__scale", rank, channels))
        graph.initializer.append(_per_channel(fold.offset, f"{value.name}__offset", rank, channels))
        nodes.append(helper.make_node("Cast", [value.name], [cast], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [cast, f"{value.name}__scale"], [scaled]))
        nodes.append(helper.make_node("Add", [scaled, f"{value.name}__offset"], [shifted]))
    if not nodes:
        raise UnsupportedError("u8_input needs a model with a float32 input; this one has none")
    for place, node in enumerate(nodes):
        graph.node.insert(place, node)


def short(error: BaseException) -> str:
    """An engine's message in one clean line: no C++ file, no stack, no address."""
    lines = [_INNARDS.sub("", line).strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(_NOISE)] or [line for line in lines if line][-1:]
    return (" ".join(kept) or type(error).__name__)[:_REASON_CHARS]


def _check_external(path: Path, place: dict[str, str]) -> None:
    """A weights file lies in the model's own folder or below, and is as long as the model says."""
    name = place.get("location", "")
    file = path.parent / name
    if not file.resolve().is_relative_to(path.parent.resolve()):
        raise ModelFileError(f"{path}: its external weights file {name!r} lies outside the model's folder")
    if not file.is_file():
        raise ModelFileError(f"{path}: its external weights file {name!r} is missing")
    offset, length, size = place.get("offset", "0"), place.get("length", "0"), file.stat().st_size
    if not (offset.isdigit() and length.isdigit() and int(offset) + int(length) <= size):
        raise ModelFileError(f"{path}: its external weights file {name!r} is cut short: it has {size} bytes")


def _tensor(value: onnx.ValueInfoProto, path: Path) -> TensorSpec:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise UnsupportedError(f"{path}: {value.name!r} is a {kind or 'value without a type'}; only tensors are served")
    tensor = value.type.tensor_type
    if tensor.elem_type not in _DTYPES:
        known = (
            TensorProto.DataType.Name(tensor.elem_type) if tensor.elem_type in TensorProto.DataType.values() else "?"
        )
        raise UnsupportedError(f"{path}: tensor {value.name!r} has type {known}, which the protocol has no name for")
    if not tensor.HasField("shape"):
        raise UnsupportedError(f"{path}: tensor {value.name!r} has no rank: export the model with shapes")
    dims: Shape = tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in tensor.shape.dim
    )
    return TensorSpec(
        value.name, _DTYPES[tensor.elem_type], dims, tensor.shape.dim[0].dim_param if tensor.shape.dim else ""
    )


def _per_channel(values: tuple[float, ...], name: str, rank: int, channels: int) -> TensorProto:
    array = np.array(values, np.float32)
    if len(values) > 1:
        if rank < 2:
            raise UnsupportedError("u8_input has one scale a channel, but the input has no channel axis")
        if channels and len(values) != channels:
            raise UnsupportedError(
                f"u8_input has {len(values)} scales or offsets, but the input has {channels} channels"
            )
        array = array.reshape(-1, *[1] * (rank - 2))
    return numpy_helper.from_array(array, name)


def _quantized(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """int8 weights, activations quantised as they come (onnxruntime's dynamic quantisation)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415  half a second, int8 only

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises at every call
    try:
        with tempfile.TemporaryDirectory(prefix="tailcut-") as folder:
            out = Path(folder) / "int8.onnx"
            quantize_dynamic(model, out, per_channel=True, weight_type=QuantType.QInt8)
            return onnx.load(out)
    except Exception as error:  # noqa: BLE001  whatever the quantiser meets
        raise UnsupportedError(f"{path}: cannot be quantised to int8: {short(error)}") from None
    finally:
        root.setLevel(level)

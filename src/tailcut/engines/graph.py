"""The ONNX file itself: how it is read, and its signature. No engine is involved.

Engines get the signature from here and not from their own session, so that all of them tell the same story.
"""

import re
from pathlib import Path

import onnx
from onnx import TensorProto

from tailcut.engines.files import check_external
from tailcut.errors import ModelFileError, UnsupportedError
from tailcut.spec import DType, ModelSpec, Shape, TensorSpec

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
            check_external(path, {entry.key: entry.value for entry in tensor.external_data})
    return model


def read_spec(model: onnx.ModelProto, path: Path, name: str | None) -> ModelSpec:
    """The signature: inputs that are no initialisers, and outputs, in the graph's order.

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
    return ModelSpec(spec_name, tuple(inputs), tuple(_tensor(value, path) for value in outputs))


def short(error: BaseException) -> str:
    """An engine's message in one clean line: no C++ file, no stack, no address."""
    lines = [_INNARDS.sub("", line).strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(_NOISE)] or [line for line in lines if line][-1:]
    return (" ".join(kept) or type(error).__name__)[:_REASON_CHARS]


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
    return TensorSpec(value.name, _DTYPES[tensor.elem_type], dims)

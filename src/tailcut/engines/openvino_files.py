"""Model files that only OpenVINO reads: OpenVINO IR, TensorFlow, TensorFlow Lite and Paddle.

They have no ONNX graph, so the signature comes from OpenVINO's own model, and rows are not analysed (decision 046). The
only edits are those that OpenVINO can make: leaving outputs out, and giving free dimensions a size.
"""

import logging
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import openvino as ov
from openvino.frontend import FrontEndManager

from tailcut.engines.base import EngineOptions, parse_fixed_dim
from tailcut.engines.error_line import short
from tailcut.engines.files import FileKind, Traits, model_name, parts_of
from tailcut.engines.openvino_core import core
from tailcut.engines.openvino_sizes import SizeBounds
from tailcut.engines.saved_model import Signature, read_signature
from tailcut.errors import ModelFileError, UnsupportedError
from tailcut.spec import DType, ModelSpec, Rows, Shape, TensorSpec

_log = logging.getLogger("tailcut")
_ADVICE = "convert the model to ONNX, and use onnxruntime"
_FRAMEWORKS = {
    FileKind.SAVED_MODEL: "tf",
    FileKind.GRAPH: "tf",
    FileKind.LITE: "tflite",
    FileKind.PADDLE: "paddle",
}
_DTYPES = {
    "boolean": DType.BOOL,
    "u8": DType.UINT8,
    "u16": DType.UINT16,
    "u32": DType.UINT32,
    "u64": DType.UINT64,
    "i8": DType.INT8,
    "i16": DType.INT16,
    "i32": DType.INT32,
    "i64": DType.INT64,
    "f16": DType.FP16,
    "bf16": DType.BF16,
    "f32": DType.FP32,
    "f64": DType.FP64,
    "string": DType.BYTES,
}


def read_file(path: Path, kind: FileKind, options: EngineOptions) -> Any:
    """Read a file as an `openvino.Model`, with the edits that the options ask for.

    Raises:
        ModelFileError: openvino cannot read it.
        UnsupportedError: an option is for ONNX files only or names a dimension or output that the model does not have,
            an output never has elements, or the model keeps a state between calls.
    """
    if options.u8_input is not None:
        raise UnsupportedError(f"{path}: u8_input edits ONNX graphs only: leave it out, or convert the model to ONNX")
    if options.precision.startswith("int8"):
        raise UnsupportedError(f"{path}: precision {options.precision} is for ONNX files: use f32, bf16 or f16")
    model = _read(path, kind)
    written = "Assign" if model.get_variables() else ""
    if kind is FileKind.SAVED_MODEL:
        signature = read_signature(path)
        written = written or signature.writes
        _name_by_signature(model, signature, path)
    if written:
        raise UnsupportedError(
            f"{path}: the model keeps a state between calls ({written}), which one client's request would leave to the "
            "next: convert it to one that takes its state as an input"
        )
    if not model.outputs:
        raise UnsupportedError(f"{path}: the model has no outputs")
    for name, port in zip(names_of(model.outputs, kind), model.outputs, strict=True):
        if port.partial_shape.rank.is_static and any(dim == 0 for dim in port.partial_shape):
            raise UnsupportedError(
                f"{path}: output {name!r} never has elements: openvino does not know an operator that computes it"
            )
    if options.outputs:
        model = _keep_outputs(model, kind, options.outputs)
    if options.fixed_dims:
        _fix_dims(model, kind, options.fixed_dims, path)
    return model


def spec_of(model: Any, path: Path, kind: FileKind, name: str | None) -> ModelSpec:
    """The signature of an `openvino.Model` that was read from such a file; its rows are not analysed.

    Raises:
        UnsupportedError: a tensor has no rank, or a type that the protocol has no name for.
    """
    inputs, outputs = (
        [_tensor(port, tensor, path) for port, tensor in zip(ports, names_of(ports, kind), strict=True)]
        for ports in (model.inputs, model.outputs)
    )
    spec = ModelSpec(name or model_name(path), tuple(inputs), tuple(outputs))
    if not spec.batchable:
        return replace(spec, rows=Rows.DEPENDENT)
    bounds = SizeBounds.of(model, spec)
    rows, reason = Rows.UNKNOWN, f"rows are not analysed in the graph of {kind.removesuffix(' (a directory)')}"
    if bounds.least_rows > 1:
        rows, reason = Rows.DEPENDENT, f"the model takes {bounds.least_rows} or more rows"
    return replace(spec, rows=rows, rows_reason=reason, most_rows=bounds.most_rows)


def names_of(ports: Sequence[Any], kind: FileKind) -> list[str]:
    """One name for each input or output, without TensorFlow's `:0`; ports may have several names or none.

    The names in a SavedModel's signature differ from those in its graph, and are those of OpenVINO's nodes.
    """
    taken: list[str] = []
    for number, port in enumerate(ports):
        known = sorted(port.names, key=lambda name: (name != port.node.friendly_name, len(name), name))
        if kind is FileKind.SAVED_MODEL:
            known = [port.node.friendly_name, *known]
        name = next(
            (candidate.removesuffix(":0") for candidate in known if candidate.removesuffix(":0") not in taken), ""
        )
        taken.append(name or f"tensor_{number}")
    return taken


def read_file_traits(path: Path, kind: FileKind) -> Traits:
    """Traits of a file that only OpenVINO reads.

    Raises:
        ModelFileError: openvino cannot read it.
    """
    graph, weights = parts_of(path, kind)
    loops = [operator.get_type_name() for operator in _read(path, kind).get_ops()]
    return Traits(sum(file.stat().st_size for file in (graph, *weights)), "Loop" if "Loop" in loops else "")


def _read(path: Path, kind: FileKind) -> Any:
    _, weights = parts_of(path, kind)
    try:
        if kind is FileKind.IR:
            return core().read_model(str(path), *map(str, weights))
        # By name: otherwise, openvino tries all front ends, and some print errors.
        reader = FrontEndManager().load_by_framework(_FRAMEWORKS[kind])
        if kind is FileKind.LITE and path.suffix != ".tflite":
            with tempfile.TemporaryDirectory() as folder:  # it reads only files with a name that it expects
                link = Path(folder, "model.tflite")
                link.symlink_to(path.resolve())
                return reader.convert(reader.load(str(link)))
        return reader.convert(reader.load(str(path)))
    except Exception as error:  # noqa: BLE001  openvino raises plain RuntimeErrors
        reason = short(error, _ADVICE)
        raise ModelFileError(f"{path}: openvino cannot load it: {reason}") from None


def _name_by_signature(model: Any, signature: Signature, path: Path) -> None:
    """Name outputs as in the signature, in place: OpenVINO adds a number to a name that an input has, too."""
    for port in model.outputs:
        key = re.sub(r"_\d+\Z", "", port.node.friendly_name)
        if port.node.friendly_name not in signature.outputs and key in signature.outputs:
            port.node.set_friendly_name(key)
    lost = set(signature.outputs) - {port.node.friendly_name for port in model.outputs}
    if lost:
        _log.warning("%s: openvino leaves out the outputs that are constant: %s", path, ", ".join(sorted(lost)))


def _keep_outputs(model: Any, kind: FileKind, wanted: Sequence[str]) -> Any:
    names = names_of(model.outputs, kind)
    for name in wanted:
        if name not in names:
            raise UnsupportedError(f"the model has no output {name!r}: it has {', '.join(names)}")
    kept = [port.node for port, name in zip(model.outputs, names, strict=True) if name in wanted]
    return ov.Model(kept, model.get_parameters(), model.get_friendly_name())


def _fix_dims(model: Any, kind: FileKind, fixed: Sequence[str], path: Path) -> None:
    """Give free dimensions of the inputs a size, in place."""
    names = names_of(model.inputs, kind)
    shapes = {name: port.partial_shape for name, port in zip(names, model.inputs, strict=True)}
    places = {
        f"{name}:{axis}": (name, axis)
        for name, shape in shapes.items()
        if not shape.rank.is_dynamic
        for axis in range(len(shape))
    }
    for dimension, size in map(parse_fixed_dim, fixed):
        if dimension not in places:
            raise UnsupportedError(f"fixed_dims: no input has a dimension {dimension!r}: it has {', '.join(places)}")
        name, axis = places[dimension]
        if not shapes[name][axis].is_dynamic and shapes[name][axis].get_length() != size:
            known = shapes[name][axis].get_length()
            raise UnsupportedError(f"fixed_dims: {dimension} is {known} in the model, and cannot be {size}")
        shapes[name][axis] = ov.Dimension(size)
    try:
        model.reshape({port: shapes[name] for name, port in zip(names, model.inputs, strict=True)})
    except Exception as error:  # noqa: BLE001  as in _read
        raise UnsupportedError(f"{path}: fixed_dims do not fit the model: {short(error)}") from None


def _tensor(port: Any, name: str, path: Path) -> TensorSpec:
    kind, shape = port.element_type.get_type_name(), port.partial_shape
    if kind == "dynamic":  # as TensorFlow Lite's strings are
        raise UnsupportedError(f"{path}: tensor {name!r} holds strings, or has an unknown type: {_ADVICE}")
    if kind not in _DTYPES:
        raise UnsupportedError(f"{path}: tensor {name!r} has type {kind}, which the protocol has no name for")
    if shape.rank.is_dynamic:
        raise UnsupportedError(f"{path}: tensor {name!r} has no rank: export the model with shapes")
    dims: Shape = tuple(None if dim.is_dynamic else dim.get_length() for dim in shape)
    return TensorSpec(name, _DTYPES[kind], dims)

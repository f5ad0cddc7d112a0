"""Edits of ONNX graphs for all engines: the signature is read from the edited graph, which an engine then loads."""

import json
import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tailcut.engines.base import EngineOptions, U8Input, parse_fixed_dim
from tailcut.engines.channels import per_channel
from tailcut.engines.error_line import short
from tailcut.engines.files import is_beside
from tailcut.engines.graph import CLASSES, external_files, external_tensors, is_classes, load_graph, place_of
from tailcut.engines.rows.needed import remove_unneeded
from tailcut.errors import ModelFileError, UnsupportedError
from tailcut.machine.fingerprint import isa_flags

_MOST_BYTES = (2 << 30) - (1 << 20)  # of a message of protobuf, with room for what an edit adds
_MODERN_IR = 4  # from this version on, initialisers are not inputs
_QUANTISED = {"MatMul": 1, "Gemm": 1, "Conv": 1, "Attention": 1, "LSTM": 1}  # the operator's input that is quantised
_LEAST_WEIGHTS = 1024  # elements; with fewer, quantising the activations takes longer than it saves
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
_WIDE_SUMS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}  # sum in 32 bits: nothing saturates


@dataclass(frozen=True, slots=True)
class Prepared:
    """What an engine loads (the unchanged file, or the bytes of an edited copy), and its graph."""

    source: Path | bytes
    graph: onnx.ModelProto


def prepare(path: Path, options: EngineOptions) -> Prepared:
    """Read an ONNX model and make the edits that it and the options need.

    Raises:
        ModelFileError: as `load_graph`.
        UnsupportedError: an option does not fit the model, the file is not quantised where the precision needs that,
            or the edited copy is larger than an ONNX file may be.
    """
    model = load_graph(path)
    if options.precision == "int8_static" and not any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        raise UnsupportedError(f"{path}: precision int8_static runs a quantised copy, which tailcut tune --data writes")
    edited = replace_zipmaps(model)
    files = external_files(model, path)
    # OpenVINO follows no link out of the model's folder; onnxruntime follows those into the folder of the file that the
    # model itself links to.
    own = options.name == "onnxruntime"
    unreadable = not all(is_beside(path, name, follow_model=own) for name in files)
    if options.outputs:
        edited = keep_outputs(model, options.outputs) or edited
    if options.fixed_dims:
        edited = fix_dims(model, options.fixed_dims) or edited
    whole = edited or unreadable or options.u8_input is not None or options.precision == "int8"
    if not files or whole:  # otherwise, this edit alone would need the external weights in memory
        whole = remove_unneeded(model.graph) or whole
    if not whole:
        return Prepared(path, model)
    _take_whole(model, path, files)
    if options.u8_input is not None:
        take_u8(model, options.u8_input)
    if options.precision == "int8":
        constants_to_initializers(model)
        model = _quantized(model, path)
    try:
        return Prepared(model.SerializeToString(), model)
    except Exception:  # noqa: BLE001  as in load_graph
        raise _too_large(path) from None


def whole_model(path: Path) -> onnx.ModelProto:
    """A model with all of its weights in memory, for a quantiser to work on.

    Raises:
        ModelFileError: as `load_graph`.
        UnsupportedError: it is larger than an ONNX file may be.
    """
    model = load_graph(path)
    replace_zipmaps(model)
    try:
        _take_whole(model, path, external_files(model, path))
    except UnsupportedError:
        raise UnsupportedError(
            f"{path}: with its weights it is larger than 2 GiB, which is too large to quantise"
        ) from None
    return model


def replace_zipmaps(model: onnx.ModelProto) -> bool:
    """Replace each ZipMap that computes an output by the tensor it reads, in place; returns whether there was one.

    The output keeps its name; its columns are the classes, which are written into the model's metadata.
    """
    graph = model.graph
    for entry in [entry for entry in model.metadata_props if is_classes(entry.key)]:
        model.metadata_props.remove(entry)  # keys with this prefix are only written below
    outputs = {value.name: value for value in graph.output if isinstance(value.name, str)}  # bytes if not UTF-8
    replaced = False
    for node in graph.node:
        value = outputs.get(node.output[0]) if node.op_type == "ZipMap" else None
        classes = [] if value is None else _classes(node)
        if value is None or not classes:
            continue
        replaced = True
        node.CopyFrom(helper.make_node("Identity", list(node.input), list(node.output), name=node.name))
        shape = [_first_dim(graph), len(classes)]
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, shape))
        entry = model.metadata_props.add()
        entry.key, entry.value = CLASSES + value.name, json.dumps(classes, ensure_ascii=False)
    if replaced:
        _free_labels(graph)
    if replaced and not any(not entry.domain or entry.domain == "ai.onnx" for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid("", 13))
    return replaced


def keep_outputs(model: onnx.ModelProto, names: Sequence[str]) -> bool:
    """Keep only these outputs, in place; nodes that they do not need stay. Returns whether any output was removed.

    Raises:
        UnsupportedError: the model has no such output.
    """
    outputs = {value.name: value for value in model.graph.output}
    for name in names:
        if name not in outputs:
            raise UnsupportedError(f"the model has no output {name!r}: it has {', '.join(outputs)}")
    kept = [value for name, value in outputs.items() if name in names]
    if len(kept) == len(outputs):
        return False
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return True


def fix_dims(model: onnx.ModelProto, fixed: Sequence[str]) -> bool:
    """Give free dimensions of the inputs a size, in place, and infer the outputs'; returns whether any was free.

    With known shapes, optimisers fold more constants, and rows can be bound to memory.

    Raises:
        UnsupportedError: an entry is not NAME=SIZE, no input has such a dimension, or the dimension has another size.
    """
    sizes = dict(map(parse_fixed_dim, fixed))
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    axes = [
        (f"{value.name}:{axis}", dim) for value in inputs for axis, dim in enumerate(value.type.tensor_type.shape.dim)
    ]
    free = [dim.dim_param or dimension for dimension, dim in axes if not dim.HasField("dim_value")]
    for name in sizes:
        if not any(name in {dimension, dim.dim_param} for dimension, dim in axes):
            there = (
                f"its free dimensions are {', '.join(dict.fromkeys(free))}" if free else "all of its sizes are fixed"
            )
            raise UnsupportedError(f"fixed_dims: no input of the model has a dimension {name!r}: {there}")
    for dimension, dim in axes:
        size = sizes.get(dimension)
        if size is None:
            continue
        if dim.HasField("dim_value") and dim.dim_value != size:
            raise UnsupportedError(f"fixed_dims: {dimension} is {dim.dim_value} in the model, and cannot be {size}")
        if dim.dim_param:
            sizes.setdefault(dim.dim_param, size)  # one name is one size, wherever it stands
        dim.dim_value = size
    for value in [*inputs, *model.graph.output, *model.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    _infer_outputs(model)
    return bool(free)


def _infer_outputs(model: onnx.ModelProto) -> None:
    """Fill in the sizes of outputs that ONNX's shape inference finds."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except Exception:  # noqa: BLE001  as in load_graph; the outputs stay as free as they were
        return
    for value, inferred_value in zip(model.graph.output, inferred.graph.output, strict=True):
        dims, known = value.type.tensor_type.shape.dim, inferred_value.type.tensor_type.shape.dim
        if len(dims) != len(known):
            continue
        for dim, size in zip(dims, known, strict=True):
            if size.HasField("dim_value") and not dim.HasField("dim_value"):
                dim.dim_value = size.dim_value


def take_u8(model: onnx.ModelProto, fold: U8Input) -> None:
    """Make every float32 or float16 input uint8, in place; the graph then computes x * scale + offset per channel.

    Raises:
        UnsupportedError: no input is float32 or float16, or the numbers do not fit its channels.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    nodes = []
    for value in graph.input:
        kind = value.type.tensor_type.elem_type
        if value.name in weights or kind not in _FLOATS:
            continue
        value.type.tensor_type.elem_type = TensorProto.UINT8
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        cast, scaled, shifted, done = (f"{value.name}__{step}" for step in ("cast", "scaled", "shifted", "float"))
        _rename_uses(graph, value.name, done)
        scale, offset = f"{value.name}__scale", f"{value.name}__offset"
        for name, values in ((scale, fold.scale), (offset, fold.offset)):
            graph.initializer.append(numpy_helper.from_array(per_channel(values, dims, fold.channels), name))
        nodes.append(helper.make_node("Cast", [value.name], [cast], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [cast, scale], [scaled]))
        nodes.append(helper.make_node("Add", [scaled, offset], [shifted]))
        nodes.append(helper.make_node("Cast", [shifted], [done], to=kind))  # engines remove it for float32
    if not nodes:
        raise UnsupportedError("u8_input needs a model with a float32 or float16 input; this one has none")
    for index, node in enumerate(nodes):
        graph.node.insert(index, node)


def constants_to_initializers(model: onnx.ModelProto) -> None:
    """Turn Constant nodes into initialisers, in place, because the quantiser sees no other weights."""
    graph = model.graph
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        tensor = _constant(node) if node.output[0] not in outputs else None
        if tensor is None:
            kept.append(node)
        else:
            graph.initializer.append(tensor)
    if len(kept) < len(graph.node):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)


def benefits_from_int8(model: onnx.ModelProto) -> bool:
    """Whether an operator of the graph has enough constant float32 weights for int8 to be faster."""
    sizes = {tensor.name: _elements(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        tensor = _constant(node)
        if tensor is not None:
            sizes[node.output[0]] = _elements(tensor)
    return any(
        sizes.get(node.input[_QUANTISED[node.op_type]], 0) >= _LEAST_WEIGHTS
        for node in model.graph.node
        if node.op_type in _QUANTISED and len(node.input) > _QUANTISED[node.op_type]
    )


def has_narrow_sums() -> bool:
    """Whether the processor sums int8 products in 16 bits, which saturate unless weights have only seven bits."""
    return not _WIDE_SUMS & isa_flags()


def _classes(node: onnx.NodeProto) -> list[int | str]:
    for attribute in node.attribute:
        if attribute.name == "classlabels_int64s" and attribute.ints:
            return list(attribute.ints)
        if attribute.name == "classlabels_strings" and attribute.strings:
            return [label.decode("utf-8", "replace") for label in attribute.strings]
    return []


def _free_labels(graph: onnx.GraphProto) -> None:
    """Declare one label per row, in place; some converters (LightGBM's) declare one label for all rows."""
    rows = _first_dim(graph)
    for value in graph.output:
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 1 and dims[0].dim_value == 1 and not isinstance(rows, int):
            value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, [rows]))


def _first_dim(graph: onnx.GraphProto) -> str | int | None:
    """The first dimension of the model's first input: the number of rows, also of the scores."""
    weights = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in weights and dims:
            return dims[0].dim_value or dims[0].dim_param or None
    return None


def _take_whole(model: onnx.ModelProto, path: Path, files: Mapping[str, Path]) -> None:
    _modernise(model)
    _take_in_weights(model, path, files)


def _modernise(model: onnx.ModelProto) -> None:
    """Remove initialisers from the inputs, where old files list them: edits add initialisers that are not inputs."""
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in weights]:
        model.graph.input.remove(value)
    model.ir_version = max(model.ir_version, _MODERN_IR)


def _take_in_weights(model: onnx.ModelProto, path: Path, files: Mapping[str, Path]) -> None:
    """Copy external weights into the model, in place."""
    size = 0
    for tensor in external_tensors(model):
        location = place_of(tensor)
        file = files[location.get("location", "")]
        try:
            with file.open("rb") as weights:
                weights.seek(int(location.get("offset", "0")))
                data = weights.read(int(location.get("length", "-1")))
        except OSError as error:
            raise ModelFileError(f"{file}: cannot be read: {error.strerror}") from None
        size += len(data)
        if size > _MOST_BYTES:
            raise _too_large(path)
        tensor.raw_data = data
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT


def _too_large(path: Path) -> UnsupportedError:
    return UnsupportedError(
        f"{path}: with its weights it is larger than 2 GiB, too large for an edited copy: put the weights files "
        "themselves beside the model instead of links, and do not use u8_input or precision int8"
    )


def _rename_uses(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Have all nodes read `new` where they read `old`, those of subgraphs too."""
    for node in graph.node:
        for index, used in enumerate(node.input):
            if used == old:
                node.input[index] = new
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                _rename_uses(inner, old, new)


def _constant(node: onnx.NodeProto) -> TensorProto | None:
    """The tensor of a Constant node, named as its output; None for strings and sparse tensors."""
    if node.op_type != "Constant" or node.domain not in {"", "ai.onnx"} or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor = TensorProto.FromString(attribute.t.SerializeToString())
        tensor.name = node.output[0]
        return tensor
    value = helper.get_attribute_value(attribute)
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    kind = kinds.get(attribute.name)
    return None if kind is None else numpy_helper.from_array(np.array(value, kind), node.output[0])


def _elements(tensor: TensorProto) -> int:
    """The number of float32 elements of a tensor; 0 for another dtype."""
    return math.prod(tensor.dims) if tensor.data_type == TensorProto.FLOAT else 0


def _quantized(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Quantise to int8 weights, with activations quantised at run time (onnxruntime's dynamic quantisation)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415  half a second, int8 only

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it logs advice at every call
    try:
        with tempfile.TemporaryDirectory(prefix="tailcut-") as folder:
            out = Path(folder) / "int8.onnx"
            reduced = has_narrow_sums()
            quantize_dynamic(model, out, per_channel=True, reduce_range=reduced, weight_type=QuantType.QInt8)
            return onnx.load(out)
    except Exception as error:  # noqa: BLE001  whatever the quantiser meets
        raise UnsupportedError(f"{path}: cannot be quantised to int8: {short(error)}") from None
    finally:
        root.setLevel(level)

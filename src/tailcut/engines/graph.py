"""Reading ONNX files and their signatures. No engine is involved.

Engines get the signature from here and not from their own session, so that it is the same for all of them.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import TensorProto

from tailcut.engines.error_line import short
from tailcut.engines.files import (
    Traits,
    check_onnx,
    check_size,
    external_file,
    model_name,
    not_onnx,
    sampled_hash,
)
from tailcut.engines.rows import analyse_rows
from tailcut.engines.value_sizes import open_shapes
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
CLASSES = "tailcut.classes."  # and an output's name: the key of the metadata with its columns' classes
# Operators that repeat part of the graph as often as values of a request say, which decide how long they run.
_ENDLESS = {"Loop", "BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"}


def read_graph_traits(path: Path) -> Traits:
    """Traits of an ONNX file, without its external weights being read.

    Raises:
        ModelFileError: missing, empty, unreadable, or not a model.
    """
    model = load_graph(path)
    size = path.stat().st_size
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            size += int(entries.get("length", 0)) or math.prod(tensor.dims) * 4
    endless = next((node.op_type for node in nodes_of(model) if node.op_type in _ENDLESS), "")
    return Traits(size, endless)


def load_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX model's graph, without external weights.

    Raises:
        ModelFileError: missing, empty, unreadable, or not ONNX; the message says what the file is and what to do.
    """
    check_onnx(path)
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception:  # noqa: BLE001  protobuf's errors have no common base that both its runtimes share
        raise not_onnx(path) from None
    if not model.graph.output:
        raise not_onnx(path)
    files = external_files(model, path)
    for tensor in external_tensors(model):
        location = place_of(tensor)
        check_size(path, files[location.get("location", "")], location)
    return model


def external_files(model: onnx.ModelProto, path: Path) -> dict[str, Path]:
    """The model's weights files by the names that its graph gives them.

    Raises:
        ModelFileError: one is missing, or lies outside of the folders that `external_file` allows.
    """
    names = {place_of(tensor).get("location", "") for tensor in external_tensors(model)}
    return {name: external_file(path, name) for name in sorted(names)}


def nodes_of(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node: of the graph, of the graphs inside its nodes, and of the model's functions."""
    yield from model.graph.node
    yield from nodes_inside(model)


def nodes_inside(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of the graphs inside a graph's nodes, at any depth, and those of the model's functions."""
    functions = [node for function in model.functions for node in function.node]
    yield from functions
    pending = [*model.graph.node, *functions]
    while pending:
        for attribute in pending.pop().attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from inner.node
                pending += inner.node


def is_classes(key: str | bytes) -> bool:
    """Whether a key of a model's metadata names an output's classes; a key that is not UTF-8 is bytes."""
    return isinstance(key, str) and key.startswith(CLASSES)


def external_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """The tensors whose elements lie in another file, in the graph's order, those of nodes and subgraphs too."""
    return (tensor for tensor in _tensors(model) if tensor.data_location == TensorProto.EXTERNAL)


def place_of(tensor: TensorProto) -> dict[str, str]:
    """Where an external tensor's elements are, under ONNX's keys: `location`, `offset`, `length`."""
    return {str(entry.key): str(entry.value) for entry in tensor.external_data}


def weights_hash(path: Path) -> str | None:
    """A hash of an ONNX model's external weights, from samples of each tensor; None where it has none.

    Raises:
        ModelFileError: the model or one of its weights files cannot be read.
    """
    model = load_graph(path)
    files = external_files(model, path)
    pieces = []
    for tensor in external_tensors(model):
        location = place_of(tensor)
        file, offset = files[location.get("location", "")], int(location.get("offset", "0"))
        pieces.append((file, offset, int(location.get("length", file.stat().st_size - offset))))
    try:
        return sampled_hash(pieces) if pieces else None
    except OSError as error:
        raise ModelFileError(f"{error.filename}: cannot be read: {error.strerror}") from None


def read_spec(model: onnx.ModelProto, path: Path, name: str | None) -> ModelSpec:
    """The signature: inputs that are not initialisers, outputs, and whether rows are independent by the graph.

    Sizes of outputs that depend on values of the inputs are left open, whatever the file declares.

    Raises:
        UnsupportedError: a tensor has no rank, or a type that the protocol has no name for.
        ModelFileError: outputs are declared without shapes, which cannot be inferred.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [_tensor(value, path) for value in model.graph.input if value.name not in weights]
    outputs = list(model.graph.output)
    if any(not value.type.tensor_type.HasField("shape") for value in outputs):
        try:
            outputs = list(onnx.shape_inference.infer_shapes(model).graph.output)
        except Exception as error:  # noqa: BLE001  as in load_graph
            raise ModelFileError(f"{path}: {short(error)}") from None
    spec_name = name or model_name(path)
    classes = {entry.key: tuple(json.loads(entry.value)) for entry in model.metadata_props if is_classes(entry.key)}
    tensors = [replace(_tensor(value, path), classes=classes.get(f"{CLASSES}{value.name}", ())) for value in outputs]
    spec = ModelSpec(spec_name, tuple(inputs), tuple(tensors))
    if spec.single and spec.fixed_outputs:
        shapes = open_shapes(model)
        opened = (tensor.opened(shapes[tensor.name]) if tensor.name in shapes else tensor for tensor in tensors)
        spec = replace(spec, outputs=tuple(opened))
    evidence = analyse_rows(model) if spec.batchable else RowEvidence(Rows.DEPENDENT, "")
    return replace(spec, rows=evidence.rows, rows_reason=evidence.reason)


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
    first_axis = tensor.shape.dim[0].dim_param if tensor.shape.dim else ""
    return TensorSpec(value.name, _DTYPES[tensor.elem_type], dims, first_axis=first_axis)


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    yield from _tensors_of_graph(model.graph)
    for function in model.functions:
        yield from _tensors_of_nodes(function.node)


def _tensors_of_graph(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []:
                yield from (sparse.values, sparse.indices)
            for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _tensors_of_graph(graph)

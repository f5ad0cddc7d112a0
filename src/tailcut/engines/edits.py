"""Edits of a model's graph that both engines share: what an engine loads is what its signature is read from."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tailcut.engines.base import EngineOptions, U8Input
from tailcut.engines.graph import short
from tailcut.errors import UnsupportedError


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

"""Responses of the Open Inference Protocol v2: arrays -> owned bytes; and descriptions of server and model. Pure.

In a response whose outputs are all binary, or all JSON, everything except the data depends only on the model, its
version, the shapes and the request's id, so it is cached without the id, which is inserted each time.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import orjson

from tailcut.memory.shared import RegionSlice
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.wire.memo import BytesMemo
from tailcut.wire.v2.checks import WantedOutput
from tailcut.wire.v2.lists import MARK
from tailcut.wire.v2.request import InferRequest
from tailcut.wire.v2.tensors import to_bytes, to_json

_HEADS_KEPT = 1024
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


class Response(msgspec.Struct, frozen=True, eq=False):
    """A body in parts that belong to the caller; the first is the JSON.

    `json_size` is the value for Inference-Header-Content-Length, or None where the whole body is JSON and that header
    must not be sent.
    """

    body_parts: list[bytes]
    json_size: int | None


class _ResponseHead(msgspec.Struct, frozen=True, eq=False):
    spec: ModelSpec  # kept alive, so that its id() is unique while the head is cached
    before_id: bytes
    after_id: bytes  # for JSON outputs, up to the first list of data
    without_id: bytes
    between: tuple[bytes, ...] = ()  # the text after each list of data; empty for binary outputs


_Key = tuple[int, str, tuple[WantedOutput, ...], tuple[tuple[int, ...], ...]]
_heads: BytesMemo[_Key, _ResponseHead] = BytesMemo(_HEADS_KEPT)


def encode_response(
    spec: ModelSpec, version: str, request: InferRequest, outputs: Mapping[str, np.ndarray]
) -> Response:
    """The answer to a request: its outputs in the requested order, each as binary data or as flat row-major JSON.

    `outputs` has at least the requested arrays, each of its spec's dtype; they may be views that change later, because
    every byte is copied. In JSON, NaN and infinity are null (JSON cannot express them), and FP16, BF16 and FP32 are
    written with the digits that restore the same value; binary data are exact.

    Raises:
        InvalidInputError: JSON was asked for a BYTES output whose elements are not UTF-8.
    """
    arrays = [outputs[wanted.name] for wanted in request.outputs]
    key = (id(spec), version, request.outputs, tuple([array.shape for array in arrays]))
    kept = _heads.get(key)
    if kept is None:
        tensors = _tensors(spec, request)
        if not _is_uniform(request, tensors):
            return _encode_mixed(spec, version, request, arrays)
        make = _make_head if request.outputs[0].binary else _make_json_head
        kept = _heads.keep(key, make(spec, version, tensors, arrays))
    head = _begin(kept, request.id)
    if not kept.between:
        return Response([head, *[array.tobytes() for array in arrays]], len(head))
    parts = [head]
    for tensor, array, behind in zip(_tensors(spec, request), arrays, kept.between, strict=True):
        parts += (orjson.dumps(to_json(array, tensor.dtype, tensor.name), option=_OPTIONS), behind)
    return Response([b"".join(parts)], None)


def _is_uniform(request: InferRequest, tensors: list[TensorSpec]) -> bool:
    """Whether outputs are all binary or all JSON, and everything around their data follows from their shapes."""
    binary = request.outputs[0].binary
    alike = all(wanted.binary is binary and wanted.region is None for wanted in request.outputs)
    return alike and all(tensor.dtype is not DType.BYTES for tensor in tensors)


def shared_outputs(
    spec: ModelSpec, request: InferRequest, outputs: Mapping[str, np.ndarray]
) -> list[tuple[RegionSlice, bytes | memoryview]]:
    """The outputs for shared memory, each with its bytes, which the caller must write before answering.

    The bytes may be views of the outputs: copying 600 KB here took 0.6 ms of a call over shared memory.
    """
    dtypes = {tensor.name: tensor.dtype for tensor in spec.outputs}
    return [
        (wanted.region, _bytes_of(outputs[wanted.name], dtypes[wanted.name]))
        for wanted in request.outputs
        if wanted.region is not None
    ]


def _bytes_of(array: np.ndarray, dtype: DType) -> bytes | memoryview:
    if dtype is DType.BYTES or not array.size:
        return to_bytes(array, dtype)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def server_metadata(version: str) -> dict[str, Any]:
    """The answer to `GET /v2`; `version` is Tailcut's version."""
    return {
        "name": "tailcut",
        "version": version,
        "extensions": [
            "binary_tensor_data",
            "model_configuration",
            "model_repository",
            "parameters",
            "schedule_policy",
            "statistics",
            "system_shared_memory",
            "cuda_shared_memory",
        ],
    }


def model_metadata(spec: ModelSpec, platform: str, version: str = "1") -> dict[str, Any]:
    """The answer to `GET /v2/models/NAME`: names, datatypes, and shapes with -1 for a free dimension."""
    return {
        "name": spec.name,
        "versions": [version],
        "platform": platform,
        "inputs": [_describe(tensor) for tensor in spec.inputs],
        "outputs": [_describe(tensor) for tensor in spec.outputs],
    }


def _describe(tensor: TensorSpec) -> dict[str, Any]:
    shape = [-1 if dim is None else dim for dim in tensor.shape]
    return {"name": tensor.name, "datatype": tensor.dtype.value, "shape": shape}


def _tensors(spec: ModelSpec, request: InferRequest) -> list[TensorSpec]:
    if len(spec.outputs) == 1:
        return [spec.outputs[0]]
    known = {tensor.name: tensor for tensor in spec.outputs}
    return [known[wanted.name] for wanted in request.outputs]


def _make_head(spec: ModelSpec, version: str, tensors: list[TensorSpec], arrays: list[np.ndarray]) -> _ResponseHead:
    entries = [
        _entry(tensor, array) | {"parameters": {"binary_data_size": array.nbytes}}
        for tensor, array in zip(tensors, arrays, strict=True)
    ]
    before = orjson.dumps({"model_name": spec.name, "model_version": version})[:-1] + b","
    after = orjson.dumps({"outputs": entries})[1:]
    return _ResponseHead(spec, before, after, before + after)


def json_frame(
    spec: ModelSpec, version: str, request: InferRequest, outputs: Mapping[str, np.ndarray]
) -> tuple[bytes, ...]:
    """The text around the lists of an answer that is all JSON; only the shapes of the outputs matter."""
    arrays = [outputs[wanted.name] for wanted in request.outputs]
    kept = _make_json_head(spec, version, _tensors(spec, request), arrays)
    return (_begin(kept, request.id), *kept.between)


def _begin(head: _ResponseHead, request_id: str | None) -> bytes:
    if request_id is None:
        return head.without_id
    return b"".join((head.before_id, b'"id":', orjson.dumps(request_id), b",", head.after_id))


def _make_json_head(
    spec: ModelSpec, version: str, tensors: list[TensorSpec], arrays: list[np.ndarray]
) -> _ResponseHead:
    entries = [
        _entry(tensor, array) | {"data": f"{MARK}{number}"}
        for number, (tensor, array) in enumerate(zip(tensors, arrays, strict=True))
    ]
    before = orjson.dumps({"model_name": spec.name, "model_version": version})[:-1] + b","
    rest = orjson.dumps({"outputs": entries})[1:]
    pieces: list[bytes] = []
    for number in range(len(entries)):
        piece, _, rest = rest.partition(f'"{MARK}{number}"'.encode())
        pieces.append(piece)
    return _ResponseHead(spec, before, pieces[0], before + pieces[0], (*pieces[1:], rest))


def _entry(tensor: TensorSpec, array: np.ndarray) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.dtype.value, "shape": array.shape}


def _encode_mixed(spec: ModelSpec, version: str, request: InferRequest, arrays: list[np.ndarray]) -> Response:
    entries: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for wanted, tensor, array in zip(request.outputs, _tensors(spec, request), arrays, strict=True):
        entry = _entry(tensor, array)
        if wanted.region is not None:
            # NVIDIA's C++ client expects bytes in the body for every output with parameters.
            entry["parameters"] = shared_parameters(wanted.region, array, tensor.dtype) | {"binary_data_size": 0}
        elif wanted.binary:
            binary.append(to_bytes(array, tensor.dtype))
            entry["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            entry["data"] = to_json(array, tensor.dtype, tensor.name)
        entries.append(entry)
    head = orjson.dumps(_answer(spec, version, request, entries), option=_OPTIONS)
    return Response([head, *binary], len(head) if binary else None)


def _answer(spec: ModelSpec, version: str, request: InferRequest, entries: list[dict[str, Any]]) -> dict[str, Any]:
    answer: dict[str, Any] = {"model_name": spec.name, "model_version": version}
    if request.id is not None:
        answer["id"] = request.id
    return answer | {"outputs": entries}


def json_answer(spec: ModelSpec, version: str, request: InferRequest) -> dict[str, Any]:
    """The JSON of an answer, without the shapes and data of its outputs."""
    entries = [{"name": tensor.name, "datatype": tensor.dtype.value} for tensor in _tensors(spec, request)]
    return _answer(spec, version, request, entries)


def shared_parameters(region_slice: RegionSlice, array: np.ndarray, dtype: DType) -> dict[str, Any]:
    """The parameters of an output in shared memory: where it is, and how many bytes it has."""
    size = array.nbytes if dtype is not DType.BYTES else len(to_bytes(array, dtype))
    parameters: dict[str, Any] = {"shared_memory_region": region_slice.region, "shared_memory_byte_size": size}
    return parameters | ({"shared_memory_offset": region_slice.offset} if region_slice.offset else {})

"""Writes large responses in steps: generators that pause after about a millisecond, as in `steps.py`. Pure."""

from collections.abc import Mapping

import numpy as np
import orjson

from tailcut.spec import DType, ModelSpec
from tailcut.wire.v2.lists import MARK
from tailcut.wire.v2.request import InferRequest
from tailcut.wire.v2.response import Response, encode_response, json_answer
from tailcut.wire.v2.steps import Steps
from tailcut.wire.v2.tensors import STEP_STRINGS, to_bytes, to_json

STEP_ELEMENTS = 16 * 1024  # numbers written as JSON between two pauses


def response_in_steps(
    spec: ModelSpec, version: str, request: InferRequest, outputs: Mapping[str, np.ndarray]
) -> Steps[Response]:
    """As `encode_response`, in steps: `outputs` must stay unchanged until the last one. The JSON has several parts.

    Raises:
        InvalidInputError: as in `encode_response`.
    """
    pieces: list[list[bytes]] = []
    binary: list[bytes] = []
    answer = json_answer(spec, version, request)
    dtypes = {tensor.name: tensor.dtype for tensor in spec.outputs}
    for wanted, entry in zip(request.outputs, answer["outputs"], strict=True):
        array, dtype = outputs[wanted.name], dtypes[wanted.name]
        entry["shape"] = array.shape
        if wanted.region is not None:
            return encode_response(spec, version, request, outputs)
        if wanted.binary:
            parts = yield from _bytes_in_steps(array, dtype)
            entry["parameters"] = {"binary_data_size": sum(map(len, parts))}
            binary += parts
        else:
            entry["data"] = f"{MARK}{len(pieces)}"
            pieces.append((yield from _json_in_steps(array, dtype, wanted.name)))
    head = orjson.dumps(answer)
    parts = []
    for number, piece in enumerate(pieces):
        before, _, head = head.partition(f'"{MARK}{number}"'.encode())
        parts += [before, *piece]
    parts.append(head)
    return Response([*parts, *binary], sum(map(len, parts)) if binary else None)


def _json_in_steps(array: np.ndarray, dtype: DType, name: str) -> Steps[list[bytes]]:
    """An array as a JSON list, in parts."""
    flat = array.reshape(-1)
    parts = [b"["]
    step = STEP_STRINGS if dtype is DType.BYTES else STEP_ELEMENTS
    for at in range(0, flat.size, step):
        text = orjson.dumps(to_json(flat[at : at + step], dtype, name), option=orjson.OPT_SERIALIZE_NUMPY)
        parts += (b",", text[1:-1]) if at else (text[1:-1],)
        yield
    parts.append(b"]")
    return parts


def _bytes_in_steps(array: np.ndarray, dtype: DType) -> Steps[list[bytes]]:
    if dtype is not DType.BYTES:
        return [to_bytes(array, dtype)]
    flat = array.reshape(-1)
    parts: list[bytes] = []
    for at in range(0, flat.size, STEP_STRINGS):
        parts.append(to_bytes(flat[at : at + STEP_STRINGS], dtype))
        yield
    return parts

"""The outputs in an answer of the Open Inference Protocol v2, as a client reads them: bodies in, arrays out. Pure."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from tailcut.errors import TailcutError, UnreachableError
from tailcut.spec import DType, TensorSpec
from tailcut.wire.memo import BytesMemo
from tailcut.wire.v2.tensors import from_bytes

_KEPT = 256
_FOREIGN = "the server's answer does not follow the protocol"


@dataclass(frozen=True, slots=True)
class _OutputSlice:
    tensor: TensorSpec
    shape: tuple[int, ...]
    offset: int
    size: int
    shared: bool = False  # in shared memory, from whose start `offset` counts


_layouts: BytesMemo[bytes, tuple[_OutputSlice, ...]] = BytesMemo(_KEPT)


def decode_outputs(
    content: bytes | bytearray, json_size: int | None, memory: memoryview | None = None
) -> dict[str, np.ndarray]:
    """The outputs by name. Arrays of binary tensors are writable views of a writable body (BYTES: read-only objects).

    Args:
        content: the body of a good answer.
        json_size: of the JSON before the binary tensors; None: there are none.
        memory: the region that the request gave outputs a place in; what came there is copied out of it.

    Raises:
        UnreachableError: the answer breaks the protocol.
    """
    body = memoryview(content)
    lead = bytes(body if json_size is None else body[:json_size])
    binary = json_size is not None or memory is not None
    try:
        layout = _layouts.get(lead) if binary else None
        if layout is not None:
            return {part.tensor.name: _array(part, body[len(lead) :], memory) for part in layout}
        described = orjson.loads(lead)["outputs"]
        layout = _layout(described)
        if binary and len(layout) == len(described):
            _layouts.keep(lead, layout)
        placed = {part.tensor.name: _array(part, body[len(lead) :], memory) for part in layout}
        return {output["name"]: _outputs_array(output, placed) for output in described}
    except orjson.JSONDecodeError:
        raise UnreachableError("the server's answer is not JSON") from None
    except (KeyError, TypeError, ValueError, TailcutError) as error:
        raise UnreachableError(_FOREIGN) from error


def _outputs_array(output: Any, placed: dict[str, np.ndarray]) -> np.ndarray:
    name: str = output["name"]
    if name in placed:
        return placed[name]
    array: np.ndarray = np.array(output["data"], DType(output["datatype"]).numpy)  # a null is NaN
    return array.reshape(output["shape"])


def _layout(described: Any) -> tuple[_OutputSlice, ...]:
    """Where the outputs are whose values are not in the JSON itself."""
    parts, offset = [], 0
    for output in described:
        shape, parameters = tuple(output["shape"]), output.get("parameters", {})
        if "data" in output:
            continue
        tensor = TensorSpec(output["name"], DType(output["datatype"]), shape)
        if "shared_memory_region" in parameters:
            start = parameters.get("shared_memory_offset", 0)
            parts.append(_OutputSlice(tensor, shape, start, parameters["shared_memory_byte_size"], shared=True))
        else:
            parts.append(_OutputSlice(tensor, shape, offset, parameters["binary_data_size"]))
            offset += parameters["binary_data_size"]
    return tuple(parts)


def _array(part: _OutputSlice, body: memoryview, memory: memoryview | None) -> np.ndarray:
    if not part.shared:
        return from_bytes(part.tensor, part.shape, body, part.offset, part.size)
    if memory is None:
        raise TypeError("the answer names a region of shared memory that the request did not")
    return from_bytes(part.tensor, part.shape, _copy(memory[part.offset : part.offset + part.size]), 0, part.size)


def _copy(data: memoryview) -> memoryview:
    """A copy in memory that arrays may stand on and that is not zeroed before."""
    room = np.empty(len(data), np.uint8).data
    room[:] = data
    return room

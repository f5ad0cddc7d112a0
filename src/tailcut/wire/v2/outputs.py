"""Reads the outputs in answers of the Open Inference Protocol v2, for clients: bodies in, arrays out. Pure.

The answer may be from any server, so nothing in it is trusted: sizes must fit shapes and add up to the body, and JSON
values must be of the kind and in the range of their datatype. The JSON of binary outputs is checked once, and then
recognised by its bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from tailcut.errors import InvalidInputError, TailcutError, UnreachableError
from tailcut.spec import DType, TensorSpec
from tailcut.wire.memo import BytesMemo
from tailcut.wire.v2.tensors import FLOATS, check_size, elements, flattened, from_bytes

_KEPT = 256
_FOREIGN = "the server's answer does not follow the protocol"


@dataclass(frozen=True, slots=True)
class _OutputSlice:
    tensor: TensorSpec
    shape: tuple[int, ...]
    offset: int
    size: int
    shared: bool = False  # in shared memory: `offset` counts from its start


@dataclass(frozen=True, slots=True)
class _Layout:
    """The outputs whose values are not in the JSON itself, and the number of bytes behind it."""

    parts: tuple[_OutputSlice, ...]
    size: int


_layouts: BytesMemo[bytes, _Layout] = BytesMemo(_KEPT)


def decode_outputs(
    content: bytes | bytearray, json_size: int | None, memory: memoryview | None = None
) -> dict[str, np.ndarray]:
    """The outputs by name. Arrays of binary tensors are writable views of a writable body (BYTES: read-only objects).

    In JSON, null is accepted as NaN for float datatypes, 1.0 as an integer, and 0 and 1 as booleans.

    Args:
        content: the body of a successful answer.
        json_size: bytes of JSON before the binary tensors; None: there are none.
        memory: the shared memory that the request named for outputs, from which they are copied.

    Raises:
        UnreachableError: the answer violates the protocol.
    """
    body = memoryview(content)
    lead = bytes(body if json_size is None else body[:json_size])
    if json_size is not None and json_size > len(body):
        raise UnreachableError(_FOREIGN)
    rest = body[len(lead) :]
    binary = json_size is not None or memory is not None
    try:
        layout = _layouts.get(lead) if binary else None
        if layout is not None:
            return _placed(layout, rest, memory)
        described = orjson.loads(lead)["outputs"]
        names = _names(described)
        layout = _layout(described)
        if binary and len(layout.parts) == len(described):
            _layouts.keep(lead, layout)
        placed = _placed(layout, rest, memory)
        return {
            name: placed[name] if name in placed else _from_json(output)
            for name, output in zip(names, described, strict=True)
        }
    except orjson.JSONDecodeError:
        raise UnreachableError("the server's answer is not JSON") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, TailcutError) as error:
        raise UnreachableError(_FOREIGN) from error


def _names(described: Any) -> list[str]:
    names = [output["name"] for output in described]
    if len(set(names)) < len(names):
        raise ValueError("two outputs have the same name")
    return names


def _placed(layout: _Layout, rest: memoryview, memory: memoryview | None) -> dict[str, np.ndarray]:
    """The outputs whose values are not in the JSON; `rest` is the part of the body behind it."""
    if layout.size != len(rest):
        raise ValueError("the sizes of the outputs do not add up to the body")
    return {part.tensor.name: _array(part, rest, memory) for part in layout.parts}


def _layout(described: Any) -> _Layout:
    """The positions of the outputs whose values are not in the JSON itself."""
    parts, offset = [], 0
    for output in described:
        if "data" in output:
            continue
        tensor, shape, parameters = _tensor(output), _shape(output), output["parameters"]
        shared = "shared_memory_region" in parameters
        size = parameters["shared_memory_byte_size" if shared else "binary_data_size"]
        start = parameters.get("shared_memory_offset", 0) if shared else offset
        if not (_is_count(size) and _is_count(start)):
            raise TypeError("the offset or size of an output is not a number of bytes")
        check_size(tensor, shape, size)
        parts.append(_OutputSlice(tensor, shape, start, size, shared))
        offset += 0 if shared else size
    return _Layout(tuple(parts), offset)


def _tensor(output: Any) -> TensorSpec:
    if not isinstance(output["name"], str):
        raise TypeError("the name of an output is not a string")
    return TensorSpec(output["name"], DType(output["datatype"]), _shape(output))


def _shape(output: Any) -> tuple[int, ...]:
    shape = tuple(output["shape"])
    if not all(map(_is_count, shape)):
        raise TypeError("the shape of an output is not a list of sizes")
    return shape


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _from_json(output: Any) -> np.ndarray:
    """An output whose values are in the JSON."""
    tensor, shape = _tensor(output), _shape(output)
    flat = flattened(tensor, shape, output["data"])
    try:
        array = elements(tensor, flat)
    except InvalidInputError:
        array = _other_elements(tensor, flat)
    return array.reshape(shape)


def _other_elements(tensor: TensorSpec, flat: Sequence[Any]) -> np.ndarray:
    """Values in forms that are not allowed in requests, but have the same meaning."""
    if tensor.dtype in FLOATS:
        array = elements(tensor, [0.0 if value is None else value for value in flat])
        array[[value is None for value in flat]] = np.nan
        return array
    if tensor.dtype is DType.BOOL:
        return elements(tensor, [value == 1 if type(value) is int and value in {0, 1} else value for value in flat])
    return elements(tensor, [int(value) if type(value) is float and value.is_integer() else value for value in flat])


def _array(part: _OutputSlice, body: memoryview, memory: memoryview | None) -> np.ndarray:
    if not part.shared:
        return from_bytes(part.tensor, part.shape, body, part.offset, part.size)
    if memory is None or part.offset + part.size > len(memory):
        raise TypeError("the answer names shared memory that the request did not")
    return from_bytes(part.tensor, part.shape, _copy(memory[part.offset : part.offset + part.size]), 0, part.size)


def _copy(data: memoryview) -> memoryview:
    """A copy in aligned memory that is not zeroed first."""
    room = np.empty(len(data), np.uint8).data
    room[:] = data
    return room

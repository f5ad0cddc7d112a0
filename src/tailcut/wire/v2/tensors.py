"""The elements of a tensor: bytes or JSON values <-> arrays, by the rules of the Open Inference Protocol v2. Pure.

No value is converted silently: a JSON value of the wrong kind, or one that does not fit its dtype, is refused. Messages
name the input, the expected and the actual form, and never contain values. Numbers are little-endian, as in the
protocol and on every machine that the engines support.
"""

import struct
from collections.abc import Generator, Sequence
from itertools import chain
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from tailcut.errors import InvalidInputError
from tailcut.spec import DType, TensorSpec

STEP_STRINGS = 2048  # elements of a BYTES tensor read between two pauses, in about a millisecond
_PREFIX = struct.Struct("<I")  # the length before each element of a BYTES tensor
FLOATS = frozenset({DType.FP16, DType.BF16, DType.FP32, DType.FP64})
_KINDS: dict[DType, set[type]] = {
    **{dtype: {int} for dtype in DType},
    **{dtype: {int, float} for dtype in FLOATS},
    DType.BOOL: {bool},
    DType.BYTES: {str},
}
_WORDS: dict[type, str] = {
    int: "an integer",
    float: "a fraction",
    bool: "true or false",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def shown(name: object) -> str:
    """A name from a request, for a message: quoted, with at most 64 printable characters."""
    if not isinstance(name, str):
        return _WORDS.get(type(name), "a value")
    return "'" + "".join(char if char.isprintable() else "?" for char in name[:64]) + "'"


def from_bytes(tensor: TensorSpec, shape: tuple[int, ...], body: memoryview, offset: int, size: int) -> np.ndarray:
    """The tensor in `size` bytes at `offset` of a read-only body; a read-only view of it, except for BYTES.

    Raises:
        InvalidInputError: `size` does not fit the shape, or the bytes are not values of the dtype.
    """
    if tensor.dtype is DType.BYTES:
        return _strings_from_bytes(tensor, shape, body[offset : offset + size])
    array: np.ndarray = np.ndarray(shape, tensor.dtype.numpy, body, offset)
    if tensor.dtype is DType.BOOL and array.size and array.view(np.uint8).max() > 1:
        raise InvalidInputError(f"input {shown(tensor.name)}: a BOOL byte must be 0 or 1")
    return array


def check_size(tensor: TensorSpec, shape: tuple[int, ...], size: int) -> None:
    """Check a byte count against a shape; for BYTES, only that it has room for the length prefixes.

    Raises:
        InvalidInputError: it does not fit; the message names both counts.
    """
    itemsize = tensor.dtype.itemsize
    if itemsize is None:
        if size < _PREFIX.size * prod(shape):
            raise InvalidInputError(
                f"input {shown(tensor.name)}: expected at least {_PREFIX.size * prod(shape)} bytes for "
                f"{list(shape)} length-prefixed elements, got {size}"
            )
    elif size != itemsize * prod(shape):
        raise InvalidInputError(
            f"input {shown(tensor.name)}: expected {itemsize * prod(shape)} bytes for {tensor.dtype} {list(shape)}, "
            f"got {size}"
        )


def to_bytes(array: np.ndarray, dtype: DType) -> bytes:
    """A copy of an array's elements in the form of the binary extension, row-major."""
    if dtype is not DType.BYTES:
        return array.tobytes()
    parts: list[bytes] = []
    for element in array.reshape(-1).tolist():
        raw = element.encode() if isinstance(element, str) else bytes(element)
        parts += (_PREFIX.pack(len(raw)), raw)
    return b"".join(parts)


def from_json(tensor: TensorSpec, shape: tuple[int, ...], data: object) -> np.ndarray:
    """The tensor in a JSON value: a flat row-major list, or lists nested by the shape.

    Raises:
        InvalidInputError: the lists are ragged, have the wrong number of elements, or an element is of the wrong kind
            or not representable.
    """
    return elements(tensor, flattened(tensor, shape, data)).reshape(shape)


def wrong_count(tensor: TensorSpec, shape: tuple[int, ...], count: int) -> InvalidInputError:
    """The error for data whose number of elements does not fit the shape."""
    return InvalidInputError(
        f"input {shown(tensor.name)}: expected {prod(shape)} elements for {list(shape)}, got {count}"
    )


def elements(tensor: TensorSpec, flat: Sequence[Any]) -> np.ndarray:
    """JSON values as a flat array of the tensor's dtype.

    Raises:
        InvalidInputError: an element is of the wrong kind, or not representable.
    """
    for kind in set(map(type, flat)) - _KINDS[tensor.dtype]:
        raise InvalidInputError(f"input {shown(tensor.name)}: expected {tensor.dtype} elements, got {_WORDS[kind]}")
    if tensor.dtype is DType.BYTES:
        return strings((len(flat),), [element.encode() for element in flat])
    return _numbers(tensor, flat)


def to_json(array: np.ndarray, dtype: DType, name: str) -> Any:
    """An array's elements, flat and row-major, in a form for orjson, which writes NaN and infinity as null.

    Raises:
        InvalidInputError: an element of a BYTES output is not UTF-8, which JSON cannot carry.
    """
    if dtype is not DType.BYTES:
        # orjson does not support bfloat16; float32 represents all of its values exactly
        flat = array.astype(np.float32) if dtype is DType.BF16 else array
        return np.ascontiguousarray(flat).reshape(-1)
    try:
        return [item if isinstance(item, str) else bytes(item).decode() for item in array.reshape(-1).tolist()]
    except UnicodeDecodeError:
        raise InvalidInputError(f"output {shown(name)} has bytes that are not UTF-8: request it as binary") from None


def flattened(tensor: TensorSpec, shape: tuple[int, ...], data: object) -> Sequence[Any]:
    """The elements as a flat sequence; nested lists must have the lengths of the shape at every level.

    Raises:
        InvalidInputError: the lists are ragged, or have the wrong number of elements.
    """
    flat = _flatten(tensor, shape, data)
    if len(flat) != prod(shape):
        raise wrong_count(tensor, shape, len(flat))
    return flat


def _flatten(tensor: TensorSpec, shape: tuple[int, ...], data: object) -> Sequence[Any]:
    if not shape and not isinstance(data, list):
        return [data]
    if not isinstance(data, list):
        raise InvalidInputError(f"input {shown(tensor.name)}: data must be a list, got {_WORDS[type(data)]}")
    if not data or type(data[0]) is not list:
        return data
    level: list[Any] = [data]
    for dim in shape:
        if set(map(type, level)) != {list} or set(map(len, level)) != {dim}:
            raise wrong_nesting(tensor, shape)
        level = list(chain.from_iterable(level))
        if not level:
            break
    return level


def wrong_nesting(tensor: TensorSpec, shape: tuple[int, ...]) -> InvalidInputError:
    """The error for lists that are not nested by the shape."""
    return InvalidInputError(f"input {shown(tensor.name)}: data is not nested as its shape {list(shape)} says")


def _numbers(tensor: TensorSpec, flat: Sequence[Any]) -> np.ndarray:
    dtype = tensor.dtype.numpy
    if tensor.dtype not in FLOATS:
        return integers(tensor, flat)
    with np.errstate(over="ignore"):  # an overflow is refused below
        array = np.array(flat, np.float64).astype(dtype)
    if not np.isfinite(array).all():  # JSON cannot express infinity, so it is an overflow
        largest = ml_dtypes.finfo(dtype).max
        raise InvalidInputError(
            f"input {shown(tensor.name)}: a value is out of the range of {tensor.dtype}, +-{float(largest):.6g}"
        )
    return array


def integers(tensor: TensorSpec, flat: Sequence[int]) -> np.ndarray:
    """Whole numbers as a flat array of the tensor's dtype.

    Raises:
        InvalidInputError: one of them is out of its range.
    """
    dtype = tensor.dtype.numpy
    try:
        return np.array(flat, dtype)
    except OverflowError:
        raise InvalidInputError(
            f"input {shown(tensor.name)}: a value is out of the range of {tensor.dtype}, "
            f"{np.iinfo(dtype).min} to {np.iinfo(dtype).max}"
        ) from None


def _strings_from_bytes(tensor: TensorSpec, shape: tuple[int, ...], data: memoryview) -> np.ndarray:
    if prod(shape) == 1 and len(data) >= _PREFIX.size and _PREFIX.unpack_from(data)[0] == len(data) - _PREFIX.size:
        return strings(shape, [bytes(data[_PREFIX.size :])])
    steps = strings_in_steps(tensor, shape, data)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            array: np.ndarray = end.value
            return array


def strings_in_steps(tensor: TensorSpec, shape: tuple[int, ...], data: memoryview) -> Generator[None, None, np.ndarray]:
    """The elements of a binary BYTES tensor, pausing after every few thousand.

    Raises:
        InvalidInputError: their length prefixes do not add up.
    """
    count, position = prod(shape), 0
    array = np.empty(count, dtype=object)
    for first in range(0, count, STEP_STRINGS):
        if first:
            yield
        strings: list[bytes] = []
        for _ in range(min(STEP_STRINGS, count - first)):
            start = position + _PREFIX.size
            position = start + (_PREFIX.unpack_from(data, position)[0] if start <= len(data) else 0)
            if position > len(data):
                break
            strings.append(bytes(data[start:position]))
        if position > len(data):
            break
        array[first : first + len(strings)] = strings
    if position != len(data):
        raise InvalidInputError(
            f"input {shown(tensor.name)}: the length prefixes of its {count} BYTES elements do not add up to "
            f"{len(data)} bytes"
        )
    array.flags.writeable = False
    return array.reshape(shape)


def strings(shape: tuple[int, ...], values: list[bytes]) -> np.ndarray:
    """A read-only array of `bytes` objects."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    array.flags.writeable = False
    return array.reshape(shape)

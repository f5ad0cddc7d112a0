"""Large ModelInferRequests, read in steps: generators that pause after about a millisecond. Pure.

protobuf parses a message without a pause, and holds the interpreter lock all the time. So the tensors' data are first
taken out of the message's bytes, field by field; protobuf parses the small rest, and the data are read separately:
lists of fixed-size elements as they are, others in pieces that protobuf parses.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from tailcut.errors import InvalidInputError
from tailcut.memory.shared import SharedRegions
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.wire.grpc.codec import FIELD_OF, TensorData, numbers_of, read_request, varint
from tailcut.wire.grpc.messages import MESSAGES
from tailcut.wire.v2.request import InferRequest
from tailcut.wire.v2.steps import STEP_BYTES, Steps
from tailcut.wire.v2.tensors import STEP_STRINGS, check_size, shown, strings_in_steps, wrong_count

_RAW, _INPUTS, _CONTENTS = 7, 5, 5  # field numbers: the first two of a request, the third of an input
_FIELDS = 4096  # fields of a message around its tensors' data, at most
_SMALL_BYTES = 4096  # inputs up to this size stay in the message, unless there are many
_COPY_BYTES = 256 * 1024
_NONE = "not a valid ModelInferRequest"
_AROUND = f"the message around the tensors' data is over {STEP_BYTES} bytes or {_FIELDS} fields"
_Contents = MESSAGES["InferTensorContents"]
_NUMBERS = {field.name: field.number for field in _Contents.DESCRIPTOR.fields}
_NAMES = {number: name for name, number in _NUMBERS.items()}


class Taken(NamedTuple):
    """A message without its tensors' data; and the data: raw ones in order, lists by the index of their input."""

    rest: bytes
    raw: list[memoryview]
    lists: dict[int, memoryview]


class _FieldAt(NamedTuple):
    number: int
    kind: int  # protobuf's wire type; 2: bytes
    tag: int  # where the field begins
    start: int  # where its value begins
    end: int


def take_apart(data: bytes | memoryview) -> Steps[Taken]:
    """Take the tensors' data out of a message.

    Raises:
        InvalidInputError: it is not a message, or has more than 64 KB or 4,096 fields around the data.
    """
    view = memoryview(data)
    rest = bytearray()
    raw: list[memoryview] = []
    lists: dict[int, memoryview] = {}
    inputs = 0
    for count, field in enumerate(_fields(view)):
        if count > _FIELDS or len(rest) > STEP_BYTES:
            raise InvalidInputError(_AROUND)
        if not count % 256:
            yield
        if field.number == _RAW and field.kind == 2:
            raw.append(view[field.start : field.end])
            continue
        size = field.end - field.start
        if field.number == _INPUTS and (size > _SMALL_BYTES or len(rest) + size > STEP_BYTES // 2):
            entry, data_of_it = yield from _input_apart(view[field.start : field.end])
            rest += bytes([_INPUTS << 3 | 2]) + varint(len(entry)) + entry
            if data_of_it is not None:
                lists[inputs] = data_of_it
        else:
            rest += view[field.tag : field.end]
        inputs += field.number == _INPUTS
    if len(rest) > 2 * STEP_BYTES:
        raise InvalidInputError(_AROUND)
    return Taken(bytes(rest), raw, lists)


def _input_apart(value: memoryview) -> Steps[tuple[bytearray, memoryview | None]]:
    """An input without its list, and the list."""
    entry = bytearray()
    data = None
    for count, field in enumerate(_fields(value)):
        if not count % 256:
            yield
        if count > _FIELDS:
            raise InvalidInputError(f"an input of more than {_FIELDS} fields")
        if field.number != _CONTENTS or field.kind != 2:
            entry += value[field.tag : field.end]
        elif data is not None:
            raise InvalidInputError("an input has contents twice")
        else:
            data = value[field.start : field.end]
    return entry, data


def large_request(spec: ModelSpec, message: Any, taken: Taken, regions: SharedRegions) -> Steps[InferRequest]:
    """As `read_request`, in steps, for the message parsed from `taken.rest`.

    Raises:
        InvalidInputError: as in `read_request`.
    """
    arrays: dict[int, np.ndarray] = {}
    by_name = {tensor.name: tensor for tensor in spec.inputs}
    for index, data in taken.lists.items():
        entry = message.inputs[index]
        tensor = by_name.get(entry.name)
        if tensor is not None and tensor.accepts(tuple(entry.shape)) and min(entry.shape, default=0) >= 0:
            arrays[index] = yield from _list_in_steps(tensor, tuple(entry.shape), data)
        else:
            arrays[index] = np.empty(0)  # its error is reported below
    strings: dict[int, np.ndarray] = {}
    for position, data in enumerate(taken.raw[: len(message.inputs)]):
        entry = message.inputs[position]
        tensor = by_name.get(entry.name)
        shape = tuple(entry.shape)
        whole = len(message.inputs) == len(taken.raw)
        if (
            whole
            and tensor is not None
            and tensor.dtype is DType.BYTES
            and tensor.accepts(shape)
            and min(shape, default=0) >= 0
        ):
            check_size(tensor, shape, len(data))
            strings[position] = yield from strings_in_steps(tensor, shape, data)
    yield
    return read_request(spec, message, regions, TensorData(taken.raw, arrays, strings))


def _list_in_steps(tensor: TensorSpec, shape: tuple[int, ...], data: memoryview) -> Steps[np.ndarray]:
    """The tensor in the bytes of an InferTensorContents."""
    wanted = FIELD_OF.get(tensor.dtype)
    if wanted is None:
        raise InvalidInputError(
            f"input {shown(tensor.name)}: {tensor.dtype} has no typed contents: send raw_input_contents"
        )
    first = next(_fields(data), None)
    if first is not None and first.number != _NUMBERS[wanted]:
        got = _NAMES.get(first.number, "another field")
        raise InvalidInputError(f"input {shown(tensor.name)}: expected {wanted} for {tensor.dtype}, got {got}")
    count = prod(shape)
    if count > len(data):
        raise InvalidInputError(f"input {shown(tensor.name)}: expected {count} elements for {list(shape)}, got fewer")
    if tensor.dtype is DType.BYTES:
        return (yield from _strings(tensor, shape, data))
    if first is None or first.kind != 2 or first.end != len(data):
        raise InvalidInputError(f"input {shown(tensor.name)}: {wanted} must be one packed list")
    array = np.empty(count, tensor.dtype.numpy)
    fixed = tensor.dtype in {DType.FP32, DType.FP64}
    packed = data[first.start : first.end]
    yield from _fixed(tensor, shape, packed, array) if fixed else _numbers(tensor, shape, packed, array)
    return array.reshape(shape)


def _fixed(tensor: TensorSpec, shape: tuple[int, ...], packed: memoryview, array: np.ndarray) -> Steps[None]:
    """Read floats, whose bytes in the message are those in memory."""
    if len(packed) != array.nbytes:
        raise wrong_count(tensor, shape, len(packed) // array.itemsize)
    to = array.view(np.uint8)
    for at in range(0, len(packed), _COPY_BYTES):
        to[at : at + _COPY_BYTES] = np.frombuffer(packed[at : at + _COPY_BYTES], np.uint8)
        yield


def _numbers(tensor: TensorSpec, shape: tuple[int, ...], packed: memoryview, array: np.ndarray) -> Steps[None]:
    """Read integers of one to ten bytes each, by protobuf."""
    key = bytes([_NUMBERS[FIELD_OF[tensor.dtype]] << 3 | 2])
    filled = at = 0
    while at < len(packed):
        end = min(at + STEP_BYTES // 4, len(packed))
        while end < len(packed) and packed[end - 1] & 0x80:  # inside a number
            end += 1
        piece = numbers_of(tensor, _message(_Contents, key + varint(end - at) + packed[at:end]))
        if filled + len(piece) > len(array):
            raise wrong_count(tensor, shape, filled + len(piece))
        array[filled : filled + len(piece)] = piece
        filled += len(piece)
        at = end
        yield
    if filled != len(array):
        raise wrong_count(tensor, shape, filled)


def _strings(tensor: TensorSpec, shape: tuple[int, ...], data: memoryview) -> Steps[np.ndarray]:
    count = prod(shape)
    array = np.empty(count, object)
    filled = 0
    for filled, field in enumerate(_fields(data), 1):
        if filled > count or field.number != _NUMBERS["bytes_contents"] or field.kind != 2:
            raise wrong_count(tensor, shape, filled)
        array[filled - 1] = bytes(data[field.start : field.end])
        if not filled % STEP_STRINGS:
            yield
    if filled != count:
        raise wrong_count(tensor, shape, filled)
    return array.reshape(shape)


def _message(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidInputError(_NONE) from None


def _fields(data: memoryview) -> Iterator[_FieldAt]:
    at, size = 0, len(data)
    while at < size:
        tag = at
        key, at = _varint(data, at)
        kind = key & 7
        start = at
        if kind == 2:
            length, start = _varint(data, at)
            at = start + length
        elif kind == 0:
            _, at = _varint(data, at)
        elif kind in {1, 5}:
            at += 8 if kind == 1 else 4
        else:
            raise InvalidInputError(_NONE)
        if at > size or key < 8:
            raise InvalidInputError(_NONE)
        yield _FieldAt(key >> 3, kind, tag, start, at)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise InvalidInputError(_NONE)

"""A JSON request in two parts: the lists of its tensors' data, and the short text around them. Pure.

The text around the lists repeats from request to request, so its meaning is cached by its bytes, with a mark instead of
each list; only the lists are parsed each time. The JSON with marks is parsed like any other, and each mark must be the
data of one input: then any list may replace it. Clients cannot know the marks. Unusual or invalid requests are left to
`request.py`, which parses the whole text and reports errors.

`load` prepares compiled code that parses the lists (`kernels/numbers.py`). Without it orjson does, and `struct`
converts to float32, in a seventh of the time that numpy and a check of each element take.
"""

import os
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import orjson

from tailcut.errors import InvalidInputError
from tailcut.spec import DType, TensorSpec
from tailcut.wire.v2.tensors import elements

MARK = os.urandom(12).hex()
COMPILED = frozenset({DType.FP32, DType.FP64})  # the dtypes of lists that compiled code parses, once it is loaded
_LISTS = 16  # in one request, at most
_KEY = b'"data"'
_LIST = re.compile(rb"[ \t\r\n]*+:[ \t\r\n]*+\[")  # behind a key
_STRING = rb'[ \t\r\n]*+"(?:[^"\\]++|\\.)*+"[ \t\r\n]*+'
_STRINGS = re.compile(rb"\[%b(?:,%b)*+\]" % (_STRING, _STRING), re.DOTALL)
Reader = Callable[[np.ndarray, int, int, np.ndarray, np.ndarray], int]
_reader: Reader | None = None


class ListSpan(NamedTuple):
    """A list in the JSON text: bytes `start` to `end`, including its brackets."""

    start: int
    end: int


class ListForm(NamedTuple):
    """The data of an input: the index of its list, and the shape in which to read it."""

    tensor: TensorSpec
    shape: tuple[int, ...]
    dims: np.ndarray  # int64, the same shape
    size: int  # elements
    number: int
    packing: struct.Struct | None  # converts Python's numbers to its elements; None: another dtype than FP32

    @classmethod
    def of(cls, tensor: TensorSpec, shape: tuple[int, ...], number: int) -> "ListForm":
        """The form of an input with at least one dimension."""
        dims = np.array(shape, np.int64)
        size = int(np.prod(dims))
        packing = struct.Struct(f"<{size}f") if tensor.dtype is DType.FP32 else None
        return cls(tensor, shape, dims, size, number, packing)


def load() -> None:
    """Have lists of numbers parsed by compiled code from now on; loading it needs numba, and a quarter of a second."""
    global _reader  # noqa: PLW0603  loaded once, like a module
    from tailcut.kernels.numbers import read  # noqa: PLC0415  numba is loaded only where it is used

    _reader = read


def take_lists(text: bytes) -> tuple[bytes, list[ListSpan]] | None:
    """The text with a mark instead of each list of data, and the spans of the lists; None where it has none.

    Not every "data" is the key of a list: it may be an id, the name of a tensor or a parameter, or the end of a string
    after an escaped quote.
    """
    spans: list[ListSpan] = []
    parts: list[bytes] = []
    at = behind = 0
    while (key := text.find(_KEY, behind)) >= 0:
        behind = key + len(_KEY)
        result = _LIST.match(text, behind)
        if result is None or text.startswith(b"\\", key - 1):
            continue
        if len(spans) == _LISTS:
            return None
        start = result.end() - 1
        end = _end(text, start)
        if not end:
            return None
        parts += (text[at:start], b'"%b%d"' % (MARK.encode(), len(spans)))
        spans.append(ListSpan(start, end))
        at = behind = end
    if not spans:
        return None
    parts.append(text[at:])
    return b"".join(parts), spans


def _end(text: bytes, start: int) -> int:
    """The end of the list of numbers or strings that begins at `start`; 0 where its end is not known."""
    strings = _STRINGS.match(text, start)
    if strings is not None:
        return strings.end()
    stop = text.find(b"}", start)
    quote = text.find(b'"', start, stop)  # lists of numbers have no quotes
    return 0 if stop < 0 else text.rfind(b"]", start, stop if quote < 0 else quote) + 1


def mark_number(data: object) -> int:
    """The index of the list that this mark replaces; -1 where it is not a mark."""
    return int(data[len(MARK) :]) if isinstance(data, str) and data.startswith(MARK) else -1


def read_list(form: ListForm, text: bytes, span: ListSpan) -> np.ndarray | None:
    """The input in a list, as an array of its shape; None where `request.py` has to read or refuse it."""
    tensor, count = form.tensor, form.size
    if not 0 < count < span.end - span.start:
        return None
    if _reader is not None and tensor.dtype in COMPILED:
        array = np.empty(form.shape, tensor.dtype.numpy)
        bytes_of_text = np.frombuffer(text, np.uint8)
        read = _reader(bytes_of_text, span.start, span.end, form.dims, array.reshape(-1))
        if read == count:
            return array
    data = text[span.start : span.end]
    try:
        flat: list[Any] = orjson.loads(data)
        if len(flat) != count or type(flat[0]) is list:
            return None
        if form.packing is not None and b"t" not in data and b"s" not in data:  # no true, no false
            return np.frombuffer(form.packing.pack(*flat), tensor.dtype.numpy).reshape(form.shape)
        return elements(tensor, flat).reshape(form.shape)
    except (orjson.JSONDecodeError, InvalidInputError, struct.error, OverflowError):
        return None


def read_numbers(tensor: TensorSpec, text: bytes, room: int) -> np.ndarray | None:
    """The numbers in a flat list, at most `room`, as a flat array; None where compiled code cannot parse them."""
    if _reader is None or tensor.dtype not in COMPILED:
        return None
    array = np.empty(min(room, len(text)), tensor.dtype.numpy)
    count = _reader(np.frombuffer(text, np.uint8), 0, len(text), _FLAT, array)
    return array[:count] if count >= 0 else None


_FLAT = np.zeros(1, np.int64)

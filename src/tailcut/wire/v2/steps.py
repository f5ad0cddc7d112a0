"""Reads large requests in steps: generators that pause after about a millisecond. Pure.

An event loop that runs one step at a time serves its other clients in between, and the time of a step is limited
whatever a client sends. The lists of a JSON body's tensors are split at commas into parts of 64 KB that orjson parses,
so grammar and values are exactly those of `request.py`. The text around the lists (names, shapes, parameters, and other
lists) is parsed at once, and may have at most 64 KB.
"""

import re
import string
from collections.abc import Generator, Sequence
from itertools import chain
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np
import orjson

from tailcut.errors import InvalidInputError
from tailcut.memory.shared import RegionSlice, SharedRegions
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.wire.v2.checks import check_present, input_shape, known_entries, parameters_of, wanted_outputs
from tailcut.wire.v2.lists import MARK, ListSpan, mark_number, read_numbers
from tailcut.wire.v2.request import InferRequest, id_of, parse_request, read_json, read_root, source_of
from tailcut.wire.v2.tensors import (
    check_size,
    elements,
    from_bytes,
    from_json,
    shown,
    strings_in_steps,
    wrong_nesting,
)

T = TypeVar("T")
Steps = Generator[None, None, T]
AT_ONCE_BYTES = 8 * 1024  # read without a pause: 2 ms at worst, for thousands of short lists or strings
STEP_BYTES = 64 * 1024  # JSON read between two pauses
_STEP_OF_STRINGS = 16 * 1024  # bytes of a list of strings
_TOKENS_BYTES = 4 * 1024  # searched bracket by bracket
_KEPT_BYTES = 8 * 1024  # lists up to this size stay in the text, unless there are many
_STRING_BYTES = 4 << 20  # orjson parses a string without a pause: 3 ms per MB
_DEEPEST = 64  # dimensions, which is numpy's own limit
# A key and its list: in valid JSON it cannot be anything else, because quotes inside strings are escaped.
_DATA = re.compile(rb'(?<!\\)"data"\s{0,16}:\s{0,16}\[')
_DATA_BYTES = 64
_AROUND = f"the JSON around the tensors' data is over {STEP_BYTES} bytes"
# A string, or the beginning of one up to the end of the text, so that every attempt to match succeeds.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+("|\\?\Z)', re.DOTALL)
_IN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}:]', re.DOTALL)
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[],"))
# For a piece without strings: brackets and commas stay, white space is removed, everything else becomes an x.
_OUTLINE = bytes(byte if byte in b"[]," else ord("x") for byte in range(256))
_MISPLACED = (b"x[", b"][", b"]x")
_NO_BRACKETS = bytes.maketrans(b"[]", b"  ")


class _Binary(NamedTuple):
    """A number of bytes behind the JSON, of a separate type because a tensor's data may be a number as well."""

    size: int


def request_in_steps(
    spec: ModelSpec, body: bytes | bytearray | memoryview, json_size: int | None, regions: SharedRegions
) -> Steps[InferRequest]:
    """As `parse_request`, in steps; the body must stay unchanged until the last one.

    Raises:
        InvalidInputError: as in `parse_request`, or the JSON around the tensors' data exceeds 64 KB.
    """
    view = memoryview(body).toreadonly()
    size = len(view) if json_size is None else json_size
    has_strings = any(tensor.dtype is DType.BYTES for tensor in spec.inputs)
    if size > len(view) or (size <= AT_ONCE_BYTES and not (has_strings and 0 < size < len(view))):
        return parse_request(spec, view, json_size, regions)
    text = view[:size]
    rest, spans = (yield from _without_lists(text)) if size > AT_ONCE_BYTES else (bytes(text), [])
    announced = json_size or 0
    root = read_root(rest, is_whole=not spans, announced=announced)
    parameters = parameters_of(root, "the request")
    shapes: dict[str, tuple[int, ...]] = {}
    sources: list[tuple[TensorSpec, _Binary | RegionSlice | ListSpan | Any]] = []
    for entry, tensor in known_entries(root.get("inputs"), {tensor.name: tensor for tensor in spec.inputs}, "input"):
        shape = shapes[tensor.name] = input_shape(spec, tensor, entry)
        source = source_of(tensor, entry)
        if source is None:
            sources.append((tensor, _span_of(entry["data"], spans)))
        else:
            check_size(tensor, shape, source.size if isinstance(source, RegionSlice) else source)
            sources.append((tensor, source if isinstance(source, RegionSlice) else _Binary(source)))
    unused = [span for span in spans if not any(span is source for _, source in sources)]
    _check_unused(text, unused, announced)
    check_present(spec, shapes)
    outputs = wanted_outputs(spec, root.get("outputs"), parameters)
    binary = sum(source.size for _, source in sources if isinstance(source, _Binary))
    if binary != len(view) - size:
        raise InvalidInputError(f"binary sizes add up to {binary} bytes, but {len(view) - size} follow the JSON head")
    arrays: dict[str, np.ndarray] = {}
    at = size
    for tensor, origin in sources:
        yield
        shape = shapes[tensor.name]
        if isinstance(origin, ListSpan):
            arrays[tensor.name] = yield from _list_in_steps(tensor, shape, text[origin.start : origin.end])
        elif isinstance(origin, RegionSlice):
            arrays[tensor.name] = from_bytes(tensor, shape, regions.read(origin), 0, origin.size)
        elif isinstance(origin, _Binary):
            arrays[tensor.name] = yield from _binary_in_steps(spec, tensor, shape, view[at : at + origin.size])
            at += origin.size
        else:
            arrays[tensor.name] = from_json(tensor, shape, origin)
    return InferRequest(id_of(root), {name: arrays[name] for name in spec.input_names}, outputs, parameters)


def _binary_in_steps(
    spec: ModelSpec, tensor: TensorSpec, shape: tuple[int, ...], data: memoryview
) -> Steps[np.ndarray]:
    if tensor.dtype is DType.BYTES:
        return (yield from strings_in_steps(tensor, shape, data))
    array = from_bytes(tensor, shape, data, 0, len(data))
    if not spec.fixed_rows and not array.flags.aligned:
        array = array.copy()
        array.flags.writeable = False
    return array


def _span_of(data: Any, spans: list[ListSpan]) -> Any:
    """The span of the list, where `data` is its mark; else `data`."""
    number = mark_number(data)
    return data if number < 0 else spans[number]


# The JSON text: long lists of data are taken out, and the rest is parsed at once.


def _without_lists(text: memoryview) -> Steps[tuple[bytes, list[ListSpan]]]:
    spans: list[ListSpan] = []
    rest = bytearray()
    at = 0
    while at < len(text):
        window = text[at : at + STEP_BYTES + _DATA_BYTES]
        match = _DATA.search(window)
        if match is None:
            rest += window[:STEP_BYTES]
            at += STEP_BYTES
        else:
            start = at + match.end() - 1
            end = yield from _end_of_list(text, start)
            if end < 0:
                end = start + 1
            if end - start <= _KEPT_BYTES and len(rest) + end - start <= STEP_BYTES // 2:
                rest += text[at:end]
            else:
                rest += bytes(text[at:start]) + f'"{MARK}{len(spans)}"'.encode()
                spans.append(ListSpan(start, end))
            at = end
        if len(rest) > STEP_BYTES:
            raise InvalidInputError(_AROUND)
        yield
    return bytes(rest), spans


def _check_unused(text: memoryview, spans: Sequence[ListSpan], announced: int) -> None:
    """Check that lists that are not a tensor's data, but for example a parameter, are valid JSON."""
    if sum(span.end - span.start for span in spans) > STEP_BYTES:
        raise InvalidInputError(_AROUND)
    for span in spans:
        read_json(bytes(text[span.start : span.end]), is_whole=False, announced=announced)


def _end_of_list(text: memoryview, start: int) -> Steps[int]:
    """The end of the list at `start`; -1 where it contains objects, and so is not a tensor's data.

    For invalid JSON, the end may be anywhere: it is refused when it is parsed.
    """
    at, depth, step = start, 0, _TOKENS_BYTES
    while at < len(text):
        window = _whole_strings(bytes(text[at : at + step]))
        if not window:
            at = yield from _end_of_string(text, at)
            continue
        clean = _STRING.sub(b"", window) if b'"' in window else window
        deeper = clean.count(b"[") - clean.count(b"]")
        if depth + deeper <= 0 or b":" in clean or b"{" in clean or b"}" in clean:
            if len(window) > _TOKENS_BYTES:
                step = _TOKENS_BYTES
                continue
            for match in _TOKEN.finditer(window):
                token = match[0]
                depth += (token == b"[") - (token == b"]")
                if depth <= 0:
                    return at + match.end()
                if token in {b"{", b"}", b":"}:
                    return -1
        depth += deeper
        if depth > _DEEPEST:
            raise InvalidInputError(f"a tensor's data is nested more than {_DEEPEST} deep")
        at += len(window)
        step = STEP_BYTES
        yield
    raise InvalidInputError("the request is not valid JSON: a list does not end")


def _whole_strings(window: bytes) -> bytes:
    """The window, which is cut before a string that does not end in it."""
    if b'"' not in window:
        return window
    window = window[:_STEP_OF_STRINGS]
    match = None
    for match in _STRING.finditer(window):  # noqa: B007  the last match is used
        pass
    return window[: match.start()] if match is not None and match[1] != b'"' else window


def _end_of_string(text: memoryview, quote: int) -> Steps[int]:
    """The end of the string that begins at `quote`."""
    at = quote + 1
    while at < len(text):
        match = _IN_STRING.match(text[at : at + STEP_BYTES])
        size = match.end() if match else 0
        at += size
        if at < len(text) and text[at] == ord('"'):
            return at + 1
        if at - quote > _STRING_BYTES:
            raise InvalidInputError(f"a string of more than {_STRING_BYTES} bytes: send it as binary data")
        if not size:
            break
        yield
    raise InvalidInputError("the request is not valid JSON: a string does not end")


# One list: pieces that orjson parses, and the brackets and commas that its shape requires.


def _list_in_steps(tensor: TensorSpec, shape: tuple[int, ...], text: memoryview) -> Steps[np.ndarray]:
    count = prod(shape)
    nested = bytes(text[1:STEP_BYTES]).lstrip(b" \t\r\n")[:1] == b"["
    if count > len(text) or (nested and len(shape) < 2):
        raise _mismatch(tensor, shape, nested=nested)
    array = np.empty(count, tensor.dtype.numpy)
    wanted = _Structure(shape if nested else (count,))
    at = filled = depth = 0
    while at < len(text):
        end = yield from _cut(text, at)
        piece = bytes(text[at:end])
        structure = _structure_of(piece) + b"," * (end < len(text))
        if not wanted.goes_on(structure):
            raise _mismatch(tensor, shape, nested=nested)
        deeper = depth + structure.count(b"[") - structure.count(b"]")
        flat: Sequence[Any] | np.ndarray
        if b'"' in piece:
            flat = _flat(b"[" * depth + piece + b"]" * deeper, len(shape) if nested else 1)
        else:  # without brackets, which have been checked: thousands of short lists would trigger the garbage collector
            outline = piece.translate(_OUTLINE, string.whitespace.encode())
            if any(pair in outline for pair in _MISPLACED):
                raise InvalidInputError("the request is not valid JSON: no comma before or after a list")
            piece = b"[" + piece.translate(_NO_BRACKETS) + b"]"
            numbers = read_numbers(tensor, piece, count - filled)
            flat = _flat(piece, 1) if numbers is None else numbers
        if filled + len(flat) > count:
            raise _mismatch(tensor, shape, nested=nested)
        array[filled : filled + len(flat)] = flat if isinstance(flat, np.ndarray) else elements(tensor, flat)
        at, depth = end + 1, deeper
        filled += len(flat)
        yield
    if filled != count or not wanted.ends():
        raise _mismatch(tensor, shape, nested=nested)
    array.flags.writeable = False
    return array.reshape(shape)


def _mismatch(tensor: TensorSpec, shape: tuple[int, ...], *, nested: bool) -> InvalidInputError:
    if nested:
        return wrong_nesting(tensor, shape)
    return InvalidInputError(
        f"input {shown(tensor.name)}: expected {prod(shape)} elements for {list(shape)}, got a different number"
    )


class _Structure:
    """The brackets and commas of lists nested by a shape, for comparison piece by piece.

    A list with one element looks like an empty one, so the caller must also count the elements.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._parts = _structure(shape)
        self._next = b""

    def goes_on(self, piece: bytes) -> bool:
        """Whether these are the next expected brackets and commas."""
        while len(self._next) < len(piece):
            more = next(self._parts, None)
            if more is None:
                return False
            self._next += more
        wanted, self._next = self._next[: len(piece)], self._next[len(piece) :]
        return wanted == piece

    def ends(self) -> bool:
        """Whether nothing is missing."""
        return not self._next and next(self._parts, None) is None


def _structure(shape: tuple[int, ...]) -> Generator[bytes, None, None]:
    """Yield non-empty pieces of a few KB."""
    dim, rest = shape[0], shape[1:]
    size = 0
    for inner in reversed(rest):
        size = 2 + inner * size + max(inner - 1, 0)
    yield b"["
    if size <= _KEPT_BYTES:
        unit = b"".join(_structure(rest)) + b"," if rest else b","
        left, most = dim - 1, max(1, _KEPT_BYTES // len(unit))
        while left > 0:
            yield unit * min(left, most)
            left -= most
        if dim and rest:
            yield unit[:-1]
    else:
        for number in range(dim):
            if number:
                yield b","
            yield from _structure(rest)
    yield b"]"


def _structure_of(piece: bytes) -> bytes:
    if b'"' in piece:
        if len(piece) > STEP_BYTES:  # then it is a single string with the text around it
            piece = piece[: piece.find(b'"')] + piece[piece.rfind(b'"') :]
        else:
            piece = _STRING.sub(b"", piece)
    return piece.translate(None, _NO_STRUCTURE)


def _flat(piece: bytes, levels: int) -> list[Any]:
    try:
        level: list[Any] = orjson.loads(piece)
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(f"the request is not valid JSON: {error.msg}") from None
    for _ in range(levels - 1):
        if not all(type(item) is list for item in level):
            raise InvalidInputError("the request is not valid JSON")
        level = list(chain.from_iterable(level))
    return level


def _cut(text: memoryview, at: int) -> Steps[int]:
    """The end of a piece that begins at `at`: at a comma between two elements, or at the end of the text."""
    if len(text) - at <= _STEP_OF_STRINGS:
        return len(text)
    window = bytes(text[at : at + STEP_BYTES])
    quote = window.find(b'"')
    if quote >= 0:
        return (yield from _cut_strings(text, at, window, quote))
    if at + STEP_BYTES >= len(text):
        return len(text)
    return at + _comma(window.rfind(b",", 1))


def _cut_strings(text: memoryview, at: int, window: bytes, quote: int) -> Steps[int]:
    """As `_cut`, where the window has strings, the first of them at `quote`."""
    window = window[:_STEP_OF_STRINGS]
    before = start = last = 0
    for match in _STRING.finditer(window):
        if last:
            before, start = last, match.start()
        last = match.end()
    if before:
        return at + _comma(window.find(b",", before, start))
    comma = window.rfind(b",", 1, quote)
    if comma >= 0:
        return at + comma
    at = yield from _end_of_string(text, at + quote)  # a string that is longer than the window, or the last one
    yield
    window = bytes(text[at : at + STEP_BYTES])
    comma, quote = window.find(b","), window.find(b'"')
    if comma < 0 and at + len(window) == len(text):
        return len(text)
    return at + _comma(-1 if 0 <= quote < comma else comma)


def _comma(index: int) -> int:
    if index < 0:
        raise InvalidInputError(
            f"the request is not valid JSON: no comma in {STEP_BYTES} bytes, or between two strings"
        )
    return index

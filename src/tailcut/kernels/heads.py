"""Compare a head of HTTP/1 with a known one in compiled code: the fields that matter, and the trace context.

Importing this module loads numba. Its tables:

- `fields`, a row for each field that matters: the length of its name, then the name in lower case.
- `grammar`, bits for each byte: `NAME` if field names may contain it, `VALUE` if values may, and `DIGIT` if trace ids
  may (set for no byte if trace contexts are not read).
"""

import numpy as np
from numba import njit

from tailcut.kernels.socket_tables import HEAD_MOST

NAME, VALUE, DIGIT = 1, 2, 4
_LINES_MOST = 102  # with 100 fields
_SPACE, _COLON, _CR, _LF = (ord(char) for char in " :\r\n")
_LENGTH = np.frombuffer(b"content-length", np.uint8)
_LENGTH_DIGITS = 9
_TRACE = np.frombuffer(b"traceparent", np.uint8)
_TRACE_BYTES, _TRACE_AT, _PARENT_AT, _FLAGS_AT = 55, 3, 36, 53  # of the value: where its parts begin
_DASH, _TAB, _LETTER_F = ord("-"), ord("\t"), ord("f")


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _is_listed(text: np.ndarray, start: int, end: int, fields: np.ndarray) -> bool:
    """Whether text[start:end] is the name of one of `fields`, in upper or lower case."""
    for i in range(fields.shape[0]):
        if fields[i, 0] != end - start:
            continue
        j = start
        while j < end:
            char = text[j]
            if 65 <= char <= 90:
                char += 32
            if char != fields[i, 1 + j - start]:
                break
            j += 1
        if j == end:
            return True
    return False


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _length_in(text: np.ndarray, size: int, start: int, colon: int) -> int:
    """The value of the line from `start` on if that is a plain Content-Length; else -1."""
    if colon - start != _LENGTH.shape[0]:
        return -1
    for j in range(_LENGTH.shape[0]):
        if text[start + j] | 32 != _LENGTH[j] | 32:
            return -1
    i = colon + 1
    if i < size and text[i] == _SPACE:
        i += 1
    begin = i
    length = 0
    while i < size and i - begin < _LENGTH_DIGITS and 48 <= text[i] <= 57:
        length = 10 * length + text[i] - 48
        i += 1
    return length if i > begin and i < size and text[i] == _CR else -1


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _is_trace(text: np.ndarray, start: int, end: int) -> bool:
    """Whether text[start:end] is `traceparent`, in upper or lower case."""
    if end - start != _TRACE.shape[0]:
        return False
    same = 0
    while same < _TRACE.shape[0] and text[start + same] | 32 == _TRACE[same]:
        same += 1
    return bool(same == _TRACE.shape[0])


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _trace_in(text: np.ndarray, begin: int, end: int, grammar: np.ndarray) -> int:  # noqa: C901  one loop over a value
    """1 if the `traceparent` text[begin:end] is sampled, -1 if it is not, 0 if it is malformed.

    As `wire/trace_context.py` reads it.
    """
    while begin < end and (text[begin] == _SPACE or text[begin] == _TAB):
        begin += 1
    while begin < end and (text[end - 1] == _SPACE or text[end - 1] == _TAB):
        end -= 1
    if end - begin < _TRACE_BYTES:
        return 0
    trace = parent = version = 0  # whether any digit is not 0
    for j in range(_TRACE_BYTES):
        char = text[begin + j]
        if j == _TRACE_AT - 1 or j == _PARENT_AT - 1 or j == _FLAGS_AT - 1:
            if char != _DASH:
                return 0
            continue
        if not grammar[char] & DIGIT:
            return 0
        if j < _TRACE_AT:
            version |= char - 48
        elif j < _PARENT_AT:
            trace |= char - 48
        elif j < _FLAGS_AT:
            parent |= char - 48
    if end - begin > _TRACE_BYTES and (not version or text[begin + _TRACE_BYTES] != _DASH):
        return 0
    if not trace or not parent or (text[begin] == _LETTER_F and text[begin + 1] == _LETTER_F):
        return 0
    last = text[begin + _TRACE_BYTES - 1]
    odd = last & 1 if last < _LETTER_F - 5 else 1 - (last & 1)  # a is 97, and ten
    return 1 if odd else -1


@njit(nogil=True)  # type: ignore[untyped-decorator]
def head_end(  # noqa: C901, PLR0912, PLR0913, PLR0917  one loop over the lines
    text: np.ndarray,
    size: int,
    known: np.ndarray,
    start: int,
    stop: int,
    fields: np.ndarray,
    grammar: np.ndarray,
    length: np.ndarray,
) -> int:
    """Where the head at the beginning of text[:size] ends, if what matters of it equals known[start:stop]; else -1.

    What matters are the request line, the lines of `fields` in their order, and the empty line. Every other line must
    be a well-formed field. If `length[0]` is 0, exactly one Content-Length must be among them, and `length[0]` becomes
    its value. `length[1]` becomes the result of `_trace_in` for the only `traceparent`.
    """
    has_length = length[0] != 0
    length[1] = traces = 0
    size = min(size, HEAD_MOST)
    at = start
    i = lines = 0
    while i < size and lines < _LINES_MOST:
        same = 0
        while i + same < size and at + same < stop and text[i + same] == known[at + same]:
            same += 1
            if text[i + same - 1] == _LF:
                break
        if same and text[i + same - 1] == _LF:
            i += same
            at += same
            if at == stop:
                return i if has_length else -1
        elif lines == 0:
            return -1
        else:
            begin = i
            while i < size and grammar[text[i]] & NAME:
                i += 1
            if begin == i or i >= size or text[i] != _COLON:
                return -1
            if _is_listed(text, begin, i, fields):
                length_here = _length_in(text, size, begin, i)
                if has_length or length_here < 0:
                    return -1
                has_length = True
                length[0] = length_here
            traced = _is_trace(text, begin, i)
            i += 1
            begin = i
            while i < size and grammar[text[i]] & VALUE:
                i += 1
            if traced:
                traces += 1
                length[1] = _trace_in(text, begin, i, grammar) if traces == 1 else 0
            if i + 1 >= size or text[i] != _CR or text[i + 1] != _LF:
                return -1
            i += 2
        lines += 1
    return -1

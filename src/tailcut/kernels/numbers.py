"""Parse the numbers of JSON lists in compiled code: exactly as orjson and numpy do, or not at all.

A number of at most 19 digits is a whole number times a power of ten. Where both are small, one multiplication or
division of doubles is exact (W. Clinger, How to Read Floating Point Numbers Accurately, 1990); otherwise the product
with the power's first 128 bits is rounded, as D. Lemire describes and proves (Number Parsing at a Gigabyte per Second,
2021). What neither decides (more digits, subnormal or infinite values, exponents beyond the table) is refused, and so
is whatever JSON or the shape does not allow: the caller then reads the text as it would without this module.

Importing this module loads numba, and compiles or loads the code.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from tailcut.kernels.cache import compiled
from tailcut.kernels.socket_tables import MOST_DIMENSIONS

__all__ = ["read"]

_LEAST, _MOST = -128, 127  # powers of ten in the table
_EXACT = 22  # up to it, a power of ten is a double
_DIGITS = 19  # as many fit into 64 bits
_QUOTED = 400  # a larger exponent is refused before it can overflow
_TENS = np.array([10.0**power for power in range(_EXACT + 1)])


def _first_bits(power: int) -> tuple[int, int]:
    """The first 128 bits of 5**power, in two halves; rounded up for negative powers."""
    five = 5 ** abs(power)
    if power >= 0:
        size = five.bit_length()
        bits = five << (128 - size) if size <= 128 else five >> (size - 128)
    else:
        size = (five - 1).bit_length()
        if power >= -27:
            bits = (1 << (size + 127)) // five + 1
        else:
            bits = (1 << (2 * size + 128)) // five + 1
            bits >>= bits.bit_length() - 128
    return bits >> 64, bits & ((1 << 64) - 1)


_FIVES = np.array([_first_bits(power) for power in range(_LEAST, _MOST + 1)], np.uint64)


@intrinsic  # type: ignore[untyped-decorator]
def _high(context: Any, value: Any, other: Any) -> Any:  # noqa: ARG001  numba's protocol
    """The upper 64 bits of a product of two uint64."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        wide = [builder.zext(argument, ir.IntType(128)) for argument in arguments]
        return builder.trunc(builder.lshr(builder.mul(*wide), ir.Constant(ir.IntType(128), 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _leading_zeros(context: Any, value: Any) -> Any:  # noqa: ARG001  numba's protocol
    """The number of leading zero bits of a uint64."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _as_double(context: Any, bits: Any) -> Any:  # noqa: ARG001  numba's protocol
    """The float64 that has these 64 bits."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.uint64), generate


@njit(nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _rounded(whole: np.uint64, power: int) -> float:
    """The double nearest to whole * 10**power, or infinity where this does not decide it; whole is not 0."""
    undecided = np.inf
    if power < _LEAST or power > _MOST:
        return undecided
    zeros = _leading_zeros(whole)
    shifted = whole << zeros
    five = _FIVES[power - _LEAST]
    upper, lower = _high(shifted, five[0]), shifted * five[0]
    if upper & np.uint64(0x1FF) == np.uint64(0x1FF):  # the lower half may carry into the bits that count
        more = _high(shifted, five[1])
        lower += more
        if lower < more:
            upper += np.uint64(1)
    if lower == ~np.uint64(0) and (power < -27 or power > 55):
        return undecided
    top = upper >> np.uint64(63)
    shift = top + np.uint64(9)
    bits = upper >> shift
    exponent = ((np.int64(217706) * power) >> 16) + 63 + np.int64(top) - np.int64(zeros) + 1023
    if exponent <= 0:
        return undecided
    halfway = lower <= np.uint64(1) and -4 <= power <= 23 and bits & np.uint64(3) == np.uint64(1)
    if halfway and (bits << shift) == upper:
        bits &= ~np.uint64(1)  # to the even one
    bits = (bits + (bits & np.uint64(1))) >> np.uint64(1)
    if bits >> np.uint64(53):
        bits >>= np.uint64(1)
        exponent += 1
    if exponent >= 0x7FF:
        return undecided
    result: float = _as_double((bits & np.uint64((1 << 52) - 1)) | (np.uint64(exponent) << np.uint64(52)))
    return result


_TEXT = types.Array(types.uint8, 1, "C", readonly=True)
_SIGNATURES = [
    types.int64(_TEXT, types.int64, types.int64, types.int64[::1], number[::1])
    for number in (types.float32, types.float64)
]


@compiled(*_SIGNATURES, error_model="numpy")
def read(text: np.ndarray, start: int, end: int, dims: np.ndarray, out: np.ndarray) -> int:  # noqa: C901, PLR0911, PLR0912, PLR0915  one loop over the bytes
    """Read the list text[start:end], brackets included, into `out`: flat, or nested as `dims` says.

    Returns how many numbers there are, at most as many as `out` has room for; or -1 if the caller must parse the text
    another way, and `out` is then undefined.
    """
    if end - start < 3 or text[start] != ord("[") or text[end - 1] != ord("]"):  # which ends every loop below
        return -1
    first = start + 1
    while text[first] == 32 or text[first] == 10 or text[first] == 13 or text[first] == 9:
        first += 1
    levels = 1
    if text[first] == ord("["):
        levels = dims.shape[0]
        if levels < 2 or levels > MOST_DIMENSIONS:
            return -1
    counts = np.zeros(MOST_DIMENSIONS + 1, np.int64)
    filled = depth = 0
    wants_value = True
    i = start
    while i < end:
        char = text[i]
        if char == 32 or char == 10 or char == 13 or char == 9:  # noqa: PLR1714  a set is slow here
            i += 1
        elif not wants_value:
            i += 1
            if char == ord(","):
                wants_value = True
            elif char == ord("]"):
                if levels > 1 and counts[depth] != dims[depth - 1]:
                    return -1
                depth -= 1
                if depth == 0:
                    return filled if i == end else -1
                counts[depth] += 1
            else:
                return -1
        elif depth < levels:
            if char != ord("["):
                return -1
            depth += 1
            counts[depth] = 0
            i += 1
        else:
            if filled == out.shape[0]:
                return -1
            negative = char == ord("-")
            if negative:
                i += 1
            whole = np.uint64(0)
            digits = 0
            power = 0
            begin = i
            digit = np.uint8(text[i] - np.uint8(48))
            while digit < 10:
                whole = whole * np.uint64(10) + np.uint64(digit)
                i += 1
                digit = np.uint8(text[i] - np.uint8(48))
            digits = i - begin
            if digits == 0 or digits > _DIGITS or (digits > 1 and text[begin] == 48):
                return -1  # more digits have lost their first bits
            plain = True
            if whole == 0:
                digits = 0
            if text[i] == ord("."):
                plain = False
                i += 1
                begin = i
                digit = np.uint8(text[i] - np.uint8(48))
                while digit < 10:
                    whole = whole * np.uint64(10) + np.uint64(digit)
                    if digits != 0 or digit != 0:
                        digits += 1
                    i += 1
                    digit = np.uint8(text[i] - np.uint8(48))
                power = begin - i
                if power == 0:
                    return -1
            if digits > _DIGITS:
                return -1
            if text[i] == ord("e") or text[i] == ord("E"):
                plain = False
                i += 1
                down = text[i] == ord("-")
                if down or text[i] == ord("+"):
                    i += 1
                begin = i
                quoted = 0
                digit = np.uint8(text[i] - np.uint8(48))
                while digit < 10 and quoted < _QUOTED:
                    quoted = quoted * 10 + int(digit)
                    i += 1
                    digit = np.uint8(text[i] - np.uint8(48))
                if i == begin or quoted >= _QUOTED:
                    return -1
                power += -quoted if down else quoted
            value = np.float64(whole)
            if whole == 0:
                if negative and plain:
                    return -1  # a whole number has no sign of its zero
            elif whole >> np.uint64(53) == 0 and -_EXACT <= power <= _EXACT:
                value = value * _TENS[power] if power >= 0 else value / _TENS[-power]
            elif power != 0:
                value = _rounded(whole, power)
            out[filled] = -value if negative else value
            if not np.isfinite(out[filled]):
                return -1
            filled += 1
            counts[depth] += 1
            wants_value = False
    return -1

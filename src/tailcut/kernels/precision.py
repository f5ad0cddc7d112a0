"""float32 to fewer bits and back: bf16, f16, and int8 with a scale and a zero point for each row; numba kernels.

numpy has no bf16 and numba no f16, so both travel as their bits, uint16. What holds for every kernel is
described in `compiled.py`.
"""

import numpy as np

from tailcut.kernels.jit import as_bits, as_float32, kernel

_ROUND = np.float32(
    12582912.0
)  # 1.5 * 2**23: adding it rounds to a whole number, ties to even, and subtracting leaves it


@kernel("float32[::1],uint16[::1]")
def float32_to_bf16(values: np.ndarray, out: np.ndarray) -> None:
    """Write the upper halves of float32 [n], rounded to the nearest, ties to even; NaN stays NaN."""
    bits = values.view(np.uint32)
    for i in range(len(bits)):
        raw = bits[i]
        rounded = np.uint32(raw + np.uint32(0x7FFF) + np.uint32(np.uint32(raw >> np.uint32(16)) & np.uint32(1)))
        quiet = np.uint32(raw | np.uint32(0x400000))  # the lower half alone may be what makes it a NaN
        is_nan = np.uint32(raw & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        out[i] = np.uint16((quiet if is_nan else rounded) >> np.uint32(16))


@kernel("uint16[::1],float32[::1]")
def bf16_to_float32(values: np.ndarray, out: np.ndarray) -> None:
    """Write bf16 [n] (as uint16) as float32 [n]."""
    bits = out.view(np.uint32)
    for i in range(len(values)):
        bits[i] = np.uint32(values[i]) << np.uint32(16)


@kernel("float32[::1],uint16[::1]")
def float32_to_f16(values: np.ndarray, out: np.ndarray) -> None:
    """Write float32 [n] as halves, rounded to the nearest, ties to even; over 65504 becomes infinite.

    In integers: not every processor has the instruction for it, and LLVM would then call a function that is not linked.
    """
    bits = values.view(np.uint32)
    for i in range(len(bits)):
        size = np.uint32(bits[i] & np.uint32(0x7FFFFFFF))
        odd = np.uint32(np.uint32(size >> np.uint32(13)) & np.uint32(1))
        normal = np.uint32(
            np.uint32(size + np.uint32(0xC8000FFF) + odd) >> np.uint32(13)
        )  # exponent less 112, and half a step
        small = np.uint32(as_bits(as_float32(size) + np.float32(0.5)) - np.uint32(0x3F000000))  # the adder rounds
        large = np.uint32(0x7E00) if size > np.uint32(0x7F800000) else np.uint32(0x7C00)
        half = small if size < np.uint32(0x38800000) else normal  # under 2**-14
        half = large if size >= np.uint32(0x47800000) else half  # from 2**16, infinite or NaN
        out[i] = np.uint16(half | np.uint32(np.uint32(bits[i] >> np.uint32(16)) & np.uint32(0x8000)))


@kernel("uint16[::1],float32[::1]")
def f16_to_float32(values: np.ndarray, out: np.ndarray) -> None:
    """Write halves [n] (as uint16) as float32 [n]."""
    bits = out.view(np.uint32)
    for i in range(len(values)):
        size = np.uint32(np.uint32(values[i] & np.uint16(0x7FFF)) << np.uint32(13))
        exponent = np.uint32(size & np.uint32(0x0F800000))
        normal = np.uint32(size + np.uint32(0x38000000))  # exponent plus 112
        small = as_bits(as_float32(np.uint32(size + np.uint32(0x38800000))) - as_float32(np.uint32(0x38800000)))
        large = np.uint32(normal + np.uint32(0x38000000))
        converted = small if exponent == np.uint32(0) else normal
        converted = large if exponent == np.uint32(0x0F800000) else converted
        bits[i] = np.uint32(converted | np.uint32(np.uint32(values[i] & np.uint16(0x8000)) << np.uint32(16)))


@kernel("float32[:,::1],float32[::1],int32[::1],int8[:,::1]", fastmath=frozenset())
def quantize_rows(values: np.ndarray, scales: np.ndarray, zeros: np.ndarray, out: np.ndarray) -> None:
    """Write round(row / scale) + zero, clipped to -128..127: float32 [n, m], float32 [n], int32 [n] to int8 [n, m].

    Ties go to even, as ONNX's QuantizeLinear has it. The values must not be NaN.
    """
    for i in range(values.shape[0]):
        scale, zero = scales[i], np.float32(zeros[i])
        low, high = np.float32(-128) - zero, np.float32(127) - zero
        source, line = values[i], out[i]
        for j in range(len(source)):
            held = source[j] / scale
            held = max(held, low)
            held = min(held, high)
            line[j] = np.int8(np.int32((held + _ROUND) - _ROUND + zero))


@kernel("int8[:,::1],float32[::1],int32[::1],float32[:,::1]")
def dequantize_rows(values: np.ndarray, scales: np.ndarray, zeros: np.ndarray, out: np.ndarray) -> None:
    """Write (row - zero) * scale: int8 [n, m], float32 [n], int32 [n] to float32 [n, m]."""
    for i in range(values.shape[0]):
        scale, zero = scales[i], np.float32(zeros[i])
        source, line = values[i], out[i]
        for j in range(len(source)):
            line[j] = (np.float32(source[j]) - zero) * scale

"""Images of bytes to float32 in one pass: crop, channel order, scale and offset; numba kernels.

For `(x / 255 - mean) / std` give scale = 1 / (255 * std) and offset = -mean / std. The crop begins at (top, left) of
the image and has the size of `out`; nothing is resized. `swap` exchanges the first and the last channel, RGB and BGR;
scale and offset go by the channels of `out`. What holds for every kernel is described in `compiled.py`.
"""

import numpy as np

from tailcut.kernels.jit import FUSED, kernel

_TYPES = "uint8[:,:,::1],int64,int64,boolean,float32[::1],float32[::1],float32[:,:,::1]"


@kernel(_TYPES, fastmath=FUSED)
def normalize_nchw(  # noqa: PLR0913, PLR0917  an image, its crop, its channels
    image: np.ndarray,
    top: int,
    left: int,
    swap: bool,  # noqa: FBT001  numba takes no keyword-only arguments
    scale: np.ndarray,
    offset: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write crop * scale + offset as planes: uint8 [height, width, 3] to float32 [3, rows, columns]."""
    rows, columns = out.shape[1], out.shape[2]
    first, last = (2, 0) if swap else (0, 2)  # the planes that the image's first and last channel go to
    scale0, scale1, scale2 = scale[first], scale[1], scale[last]
    offset0, offset1, offset2 = offset[first], offset[1], offset[last]
    flat = image.reshape(-1)
    for y in range(rows):
        start = ((top + y) * image.shape[1] + left) * 3
        pixels = flat[start : start + 3 * columns]
        line0, line1, line2 = out[first, y], out[1, y], out[last, y]
        for x in range(columns):
            line0[x] = np.float32(pixels[3 * x]) * scale0 + offset0
            line1[x] = np.float32(pixels[3 * x + 1]) * scale1 + offset1
            line2[x] = np.float32(pixels[3 * x + 2]) * scale2 + offset2


@kernel(_TYPES, fastmath=FUSED)
def normalize_nhwc(  # noqa: PLR0913, PLR0917  an image, its crop, its channels
    image: np.ndarray,
    top: int,
    left: int,
    swap: bool,  # noqa: FBT001  numba takes no keyword-only arguments
    scale: np.ndarray,
    offset: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write crop * scale + offset as pixels: uint8 [height, width, 3] to float32 [rows, columns, 3]."""
    rows, columns = out.shape[0], out.shape[1]
    scale0, scale1, scale2 = scale[0], scale[1], scale[2]
    offset0, offset1, offset2 = offset[0], offset[1], offset[2]
    flat, flat_out = image.reshape(-1), out.reshape(-1)
    for y in range(rows):
        start = ((top + y) * image.shape[1] + left) * 3
        pixels = flat[start : start + 3 * columns]
        line = flat_out[3 * columns * y : 3 * columns * (y + 1)]
        if swap:
            for x in range(columns):
                line[3 * x] = np.float32(pixels[3 * x + 2]) * scale0 + offset0
                line[3 * x + 1] = np.float32(pixels[3 * x + 1]) * scale1 + offset1
                line[3 * x + 2] = np.float32(pixels[3 * x]) * scale2 + offset2
        else:
            for x in range(columns):
                line[3 * x] = np.float32(pixels[3 * x]) * scale0 + offset0
                line[3 * x + 1] = np.float32(pixels[3 * x + 1]) * scale1 + offset1
                line[3 * x + 2] = np.float32(pixels[3 * x + 2]) * scale2 + offset2

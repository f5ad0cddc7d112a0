"""Numbers for each channel of an image: which axis they belong to, and their shape beside it. Pure."""

from collections.abc import Sequence

import numpy as np

from tailcut.errors import UnsupportedError


def channel_axis(channels: int, dims: Sequence[int], layout: str) -> int:
    """Axis 1, or the last one where the layout says so or only that one can have the number of channels."""
    last = len(dims) - 1
    if layout == "auto":
        return last if dims[last] == channels != dims[1] else 1
    return last if layout == "last" else 1


def per_channel(values: tuple[float, ...], dims: Sequence[int], layout: str) -> np.ndarray:
    """float32, of a shape that is broadcast along the channels: [] or [channels, 1, ...].

    Args:
        values: one, or one for each channel.
        dims: of the tensor; 0 for a free one.
        layout: first, last, or auto.

    Raises:
        UnsupportedError: there is no axis of channels, or it has another length.
    """
    array = np.array(values, np.float32)
    if len(values) == 1:
        return array.reshape(())
    if len(dims) < 2:
        raise UnsupportedError("u8_input has one scale a channel, but the input has no channel axis")
    axis = channel_axis(len(values), dims, layout)
    if dims[axis] and len(values) != dims[axis]:
        raise UnsupportedError(
            f"u8_input has {len(values)} scales or offsets, but the input has {dims[axis]} channels (axis {axis})"
        )
    return array.reshape(-1, *[1] * (len(dims) - axis - 1))

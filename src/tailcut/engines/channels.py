"""Numbers for each channel of an image: the axis of the channels, and the shape for broadcasting. Pure."""

from collections.abc import Sequence

import numpy as np

from tailcut.errors import UnsupportedError


def channel_axis(channels: int, dims: Sequence[int], layout: str) -> int:
    """The axis of the channels: 1, or the last one where the layout says so or only that has the right size."""
    last = len(dims) - 1
    if layout == "auto":
        return last if dims[last] == channels != dims[1] else 1
    return last if layout == "last" else 1


def per_channel(values: tuple[float, ...], dims: Sequence[int], layout: str) -> np.ndarray:
    """A float32 array that broadcasts along the channels, of shape [] or [channels, 1, ...].

    Args:
        values: a single one, or one for each channel.
        dims: the dimensions of the tensor; 0 for a free one.
        layout: first, last, or auto.

    Raises:
        UnsupportedError: there is no channel axis, or it has another size.
    """
    array = np.array(values, np.float32)
    if len(values) == 1:
        return array.reshape(())
    if len(dims) < 2:
        raise UnsupportedError("u8_input has one scale per channel, but the input has no channel axis")
    axis = channel_axis(len(values), dims, layout)
    if dims[axis] and len(values) != dims[axis]:
        raise UnsupportedError(
            f"u8_input has {len(values)} scales or offsets, but the input has {dims[axis]} channels (axis {axis})"
        )
    return array.reshape(-1, *[1] * (len(dims) - axis - 1))

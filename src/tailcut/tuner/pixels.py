"""Images as uint8 pixels where a model takes normalised floats: what `--normalize` says, and requests in either form.

A float of the model is `pixel * scale + offset`, per channel; the engine computes that once the settings have a
`u8_input`. Pure.
"""

import math
from collections.abc import Mapping

import numpy as np

from tailcut.engines.base import U8Input
from tailcut.engines.channels import channel_axis
from tailcut.errors import UsageError
from tailcut.lab.data import ONLY_INPUT
from tailcut.spec import DType, ModelSpec, TensorSpec

Arrays = Mapping[str, np.ndarray]
_FLOATS = {DType.FP32, DType.FP16}
_LARGEST = 255
_HALF = 0.51  # of a step between two pixels: what rounding explains


def parse_normalize(text: str) -> U8Input:
    """Read `MEAN/STD`, one number each or one a channel: the model wants (pixel / 255 - MEAN) / STD.

    Raises:
        UsageError: not such numbers, or a STD of 0.
    """
    parts = text.split("/")
    try:
        means, deviations = ([float(number) for number in part.split(",")] for part in parts)
    except ValueError:
        means, deviations = [], []
    known = [*means, *deviations]
    if len(means) != len(deviations) or not known or not all(map(math.isfinite, known)) or not all(deviations):
        raise UsageError(
            f"--normalize {text!r}: write MEAN/STD for pixels from 0 to 1, one number or one per channel, such as "
            "0.485,0.456,0.406/0.229,0.224,0.225 (0/1 for pixels / 255)"
        )
    pairs = list(zip(means, deviations, strict=True))
    return U8Input(
        scale=tuple(1 / (_LARGEST * deviation) for _, deviation in pairs),
        offset=tuple(-mean / deviation for mean, deviation in pairs),
    )


def is_pixels(tensor: TensorSpec) -> bool:
    """Whether an input takes pixels: every float one does."""
    return tensor.dtype in _FLOATS


def as_pixels(fold: U8Input, spec: ModelSpec, request: Arrays) -> dict[str, np.ndarray]:
    """A request in floats as clients send it once the engine takes pixels: the nearest ones, uint8."""
    sent = dict(request)
    for tensor in filter(is_pixels, spec.inputs):
        scale, offset = _factors(fold, tensor)
        values = np.rint((request[tensor.name].astype(np.float64) - offset) / scale)
        sent[tensor.name] = np.clip(values, 0, _LARGEST).astype(np.uint8)
    return sent


def as_floats(fold: U8Input, spec: ModelSpec, request: Arrays) -> dict[str, np.ndarray]:
    """A request, or the arrays of a data file, in pixels as the bare model takes it; arrays of another type stay."""
    floats = dict(request)
    tensors = {tensor.name: tensor for tensor in spec.inputs if is_pixels(tensor)}
    if len(spec.inputs) == len(tensors) == 1:
        tensors[ONLY_INPUT] = tensors[spec.inputs[0].name]
    for name, array in request.items():
        tensor = tensors.get(name) or tensors.get(name.partition("/")[0])
        if tensor is not None and array.dtype == np.uint8:
            scale, offset = _factors(fold, tensor)
            floats[name] = (array.astype(np.float32) * scale + offset).astype(tensor.dtype.numpy)
    return floats


def snapped(fold: U8Input, spec: ModelSpec, request: Arrays, *, exactly: bool) -> dict[str, np.ndarray]:
    """A request in floats moved to the nearest pixels.

    Args:
        fold: what a pixel stands for.
        spec: the bare model's signature.
        request: arrays by name.
        exactly: refuse values that lie beyond all pixels, rather than take the nearest one.

    Raises:
        UsageError: such a value.
    """
    pixels = as_pixels(fold, spec, request)
    nearest = as_floats(fold, spec, pixels)
    for tensor in filter(is_pixels, spec.inputs) if exactly else ():
        scale, _ = _factors(fold, tensor)
        off = np.abs((request[tensor.name].astype(np.float64) - nearest[tensor.name]) / scale)
        if off.size and off.max() > _HALF:
            raise UsageError(
                f"--normalize does not fit the data: input {tensor.name!r} has values that match no pixel from 0 to "
                f"{_LARGEST} (the nearest is {off.max():.3g} pixel steps away)"
            )
    return nearest


def _factors(fold: U8Input, tensor: TensorSpec) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset, float32, in a shape that fits the input's arrays."""
    dims = [dim or 0 for dim in tensor.shape]
    shape = [1] * len(dims)
    if len(fold.scale) > 1 and len(dims) > 1:
        shape[channel_axis(len(fold.scale), dims, fold.channels)] = len(fold.scale)
    both = (
        np.array(values, np.float32).reshape(shape if len(values) > 1 else ()) for values in (fold.scale, fold.offset)
    )
    scale, offset = both
    return scale, offset

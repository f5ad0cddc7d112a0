"""Images as uint8 pixels for a model that takes normalised floats: `--normalize`, and requests in either form.

A float of the model is `pixel * scale + offset`, per channel; the engine computes it if the settings have a `u8_input`.
Pure.
"""

import math
from collections.abc import Mapping

import numpy as np

from tailcut.engines.base import U8Input
from tailcut.engines.channels import channel_axis
from tailcut.errors import UsageError
from tailcut.lab.data import ONLY_INPUT, misfit
from tailcut.spec import DType, ModelSpec, TensorSpec

Arrays = Mapping[str, np.ndarray]
_FLOATS = {DType.FP32, DType.FP16}
_LARGEST = 255
_HALF = 0.51  # of the step between two pixel values: more than rounding explains


def parse_normalize(text: str) -> U8Input:
    """Parse `MEAN/STD`, one number each or one per channel: the model's input is (pixel / 255 - MEAN) / STD.

    Raises:
        UsageError: the text is not of this form, or an STD is 0.
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
    """Whether an input can be sent as pixels: every float32 or float16 one can."""
    return tensor.dtype in _FLOATS


def as_pixels(fold: U8Input, spec: ModelSpec, request: Arrays) -> dict[str, np.ndarray]:
    """A request in floats as clients send it to an engine with a `u8_input`: the nearest uint8 pixels, same shape."""
    sent = dict(request)
    for tensor in filter(is_pixels, spec.inputs):
        scale, offset = _factors(fold, tensor, request[tensor.name])
        values = np.rint((request[tensor.name].astype(np.float64) - offset) / scale)
        sent[tensor.name] = np.clip(values, 0, _LARGEST).astype(np.uint8)
    return sent


def as_floats(fold: U8Input, spec: ModelSpec, request: Arrays) -> dict[str, np.ndarray]:
    """A request in pixels, or the arrays of a data file, as the floats of the bare model; other arrays are unchanged.

    Other integers, as from JSON, count as pixels, too, if all arrays of an input are within 0 to 255.
    """
    floats = dict(request)
    tensors = {tensor.name: tensor for tensor in spec.inputs if is_pixels(tensor)}
    if len(spec.inputs) == len(tensors) == 1:
        tensors[ONLY_INPUT] = tensors[spec.inputs[0].name]
    for input_name, tensor in tensors.items():
        own = {name: array for name, array in request.items() if input_name in {name, name.partition("/")[0]}}
        whole = all(map(_is_whole, own.values()))
        for name, array in own.items():
            if whole or array.dtype == np.uint8:
                scale, offset = _factors(fold, tensor, array)
                floats[name] = (array.astype(np.float32) * scale + offset).astype(tensor.dtype.numpy)
    return floats


def snapped(fold: U8Input, spec: ModelSpec, request: Arrays, *, exactly: bool) -> dict[str, np.ndarray]:
    """A request in floats moved to the nearest pixels.

    Args:
        fold: what a pixel stands for.
        spec: the bare model's signature.
        request: arrays by name.
        exactly: refuse values that match no pixel instead of taking the nearest one.

    Raises:
        UsageError: a value is NaN or infinity, or matches no pixel.
    """
    for tensor in filter(is_pixels, spec.inputs):
        if not np.isfinite(request[tensor.name]).all():
            raise UsageError(
                f"--normalize does not fit the data: input {tensor.name!r} has NaN or infinity, which match no pixel"
            )
    pixels = as_pixels(fold, spec, request)
    nearest = as_floats(fold, spec, pixels)
    for tensor in filter(is_pixels, spec.inputs) if exactly else ():
        scale, _ = _factors(fold, tensor, request[tensor.name])
        off = np.abs((request[tensor.name].astype(np.float64) - nearest[tensor.name]) / scale)
        if off.size and off.max() > _HALF:
            raise UsageError(
                f"--normalize does not fit the data: input {tensor.name!r} has values that match no pixel from 0 to "
                f"{_LARGEST} (the nearest is {off.max():.3g} pixel steps away)"
            )
    return nearest


def check_channels(fold: U8Input, spec: ModelSpec) -> None:
    """Check that numbers per channel fit the channels of each input.

    Raises:
        UsageError: an input has a different number of channels, or none.
    """
    for tensor in filter(is_pixels, spec.inputs):
        _channels(fold, tensor)


def _is_whole(array: np.ndarray) -> bool:
    """Whether an array has only integers from 0 to 255."""
    return array.dtype.kind in "iu" and (not array.size or (array.min() >= 0 and array.max() <= _LARGEST))


def _channels(fold: U8Input, tensor: TensorSpec) -> int | None:
    """The axis of the channels; None if one number is for all."""
    count, dims = len(fold.scale), [dim or 0 for dim in tensor.shape]
    if count == 1:
        return None
    axis = channel_axis(count, dims, fold.channels) if len(dims) > 1 else None
    if axis is None or dims[axis] not in {0, count}:
        result = "no channels" if axis is None else f"{dims[axis]} along axis {axis}"
        raise UsageError(
            f"--normalize has numbers for {count} channels, but input {tensor.name!r} has {result}: "
            "write one number for all, or one per channel"
        )
    return axis


def _factors(fold: U8Input, tensor: TensorSpec, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset, float32, in a shape that broadcasts to an array of an input, with an axis more or less.

    Raises:
        UsageError: the array has a different number of channels.
    """
    axis, count = _channels(fold, tensor), len(fold.scale)
    if axis is None:
        return np.array(fold.scale[0], np.float32), np.array(fold.offset[0], np.float32)
    after = len(tensor.shape) - axis
    if array.ndim < after or array.shape[-after] != count:
        if tensor.shape[axis]:
            raise misfit(tensor, array)
        raise UsageError(
            f"--normalize has numbers for {count} channels, but an array of input {tensor.name!r} is "
            f"{list(array.shape)}: its channels are {after} axes from the end"
        )
    shape = [count] + [1] * (after - 1)
    return np.array(fold.scale, np.float32).reshape(shape), np.array(fold.offset, np.float32).reshape(shape)

"""Parses the tensors of a stage as its author declares them: `INT64[-1]` is the shape of one row. Pure."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tailcut.errors import UsageError
from tailcut.runtime.numbers import as_dtype
from tailcut.spec import DType, TensorSpec

_FORM = re.compile(r"(\w+)\s*(?:\[([^\]]*)\])?", re.ASCII)
_MOST_DIMS = 8


def parse_tensors(stage: str, side: str, wanted: Mapping[str, str]) -> tuple[TensorSpec, ...]:
    """Parse the tensors of one side of a stage, in order; the batch becomes their first, free dimension.

    Args:
        stage: name of the stage, for messages.
        side: "inputs" or "outputs".
        wanted: dtype and shape of one row, by name: "FP32", "INT64[-1]", "UINT8[224, 224, 3]".

    Raises:
        UsageError: one of them is invalid; the message names the stage, the tensor and what was expected.
    """
    if not isinstance(wanted, Mapping) or not wanted:
        raise UsageError(f'stage {stage!r}: {side} must be a dict of tensors by name, such as {{"x": "FP32[4]"}}')
    return tuple(_parse(stage, name, text) for name, text in wanted.items())


def parse_fill(stage: str, tensor: TensorSpec, value: object) -> Any:
    """Convert the value that pads shorter rows of an output to the output's dtype.

    Raises:
        UsageError: the dtype cannot represent the value.
    """
    if tensor.dtype is DType.BYTES:
        fill: Any = value.encode(errors="surrogatepass") if isinstance(value, str) else value
        fits = isinstance(fill, bytes)
    else:
        array = np.asarray(value)
        number = as_dtype(array, tensor.dtype.numpy) if array.ndim == 0 else None
        fits, fill = number is not None, None if number is None else number[()]
    if not fits:
        raise UsageError(f"stage {stage!r}: fill of {tensor.name!r} is {value!r}, which is not of type {tensor.dtype}")
    return fill


def _parse(stage: str, name: str, text: str) -> TensorSpec:
    where = f"stage {stage!r}: tensor {name!r}"
    match = _FORM.fullmatch(text.strip()) if isinstance(text, str) and isinstance(name, str) and name else None
    if match is None:
        raise UsageError(f"{where}: {text!r} is not a dtype with the shape of one row, such as FP32 or INT64[-1]")
    dtype, dims = match.groups()
    if dtype not in DType.__members__:
        raise UsageError(f"{where}: unknown dtype {dtype!r}; the dtypes are {', '.join(DType.__members__)}")
    shape = [dim.strip() for dim in dims.split(",")] if dims and dims.strip() else []
    if len(shape) > _MOST_DIMS or not all(re.fullmatch(r"-1|[1-9][0-9]{0,8}", dim) for dim in shape):
        raise UsageError(f"{where}: [{dims}] is not a shape: sizes of 1 or more, and -1 for a free one")
    row = tuple(None if dim == "-1" else int(dim) for dim in shape)
    return TensorSpec(name, DType(dtype), (None, *row), text=False)

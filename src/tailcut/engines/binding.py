"""Checks arrays before an engine gets their addresses, because nothing is checked after that."""

import numpy as np

from tailcut.engines.base import Arrays
from tailcut.errors import InvalidInputError, UnsupportedError
from tailcut.spec import DType, ModelSpec, TensorSpec


def check_arrays(spec: ModelSpec, inputs: Arrays, outputs: Arrays) -> None:
    """Check that there is a C-contiguous array for every tensor, of exact dtype and shape, all with equally many rows.

    Raises:
        InvalidInputError: an array does not fit; the message names the tensor, what was expected, and what came.
        UnsupportedError: a tensor has no fixed size (BYTES, or free output dimensions beside the batch), or is both
            input and output, which engines do not write.
    """
    for name in spec.passed_on:
        raise UnsupportedError(f"output {name!r} is an input, too: it cannot be bound to memory")
    for tensor in spec.outputs:
        if None in (tensor.row_shape if spec.batched else tensor.shape):
            raise UnsupportedError(f"output {tensor.name!r} has no fixed size: it cannot be bound to memory")
    pairs = [(t, inputs.get(t.name)) for t in spec.inputs] + [(t, outputs.get(t.name)) for t in spec.outputs]
    rows: dict[int, str] = {}
    for tensor, array in pairs:
        if tensor.dtype is DType.BYTES:
            raise UnsupportedError(f"tensor {tensor.name!r} holds strings: it cannot be bound to memory")
        if array is None:
            raise InvalidInputError(f"tensor {tensor.name!r} is missing")
        _check(tensor, array)
        if spec.batched:
            rows.setdefault(len(array), tensor.name)
    if len(rows) > 1:
        counts = ", ".join(f"{name!r} has {count}" for count, name in rows.items())
        raise InvalidInputError(f"all tensors must have the same number of rows, but {counts}")


def _check(tensor: TensorSpec, array: np.ndarray) -> None:
    if array.dtype != tensor.dtype.numpy or not tensor.accepts(array.shape):
        came = f"{array.dtype} {list(array.shape)}" if array.dtype.kind in "OSUV" else _describe(array)
        raise InvalidInputError(f"tensor {tensor.name!r} is {tensor.describe()}, got {came}")
    if not array.flags.c_contiguous:
        raise InvalidInputError(f"tensor {tensor.name!r} must be C-contiguous")


def _describe(array: np.ndarray) -> str:
    return TensorSpec("", DType.of(array.dtype), array.shape).describe()

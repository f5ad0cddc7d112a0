"""A data file's arrays made into a model's requests. Pure but for a log line where numbers are converted."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from tailcut.errors import UsageError
from tailcut.spec import DType, ModelSpec, TensorSpec

ONLY_INPUT = ""  # the name of an array out of an .npy file, which has none: it is for the model's only input
_FLOATS = {DType.FP16, DType.BF16, DType.FP32, DType.FP64}
_log = logging.getLogger("tailcut")


def arrays_of_inputs(spec: ModelSpec, data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of the model's inputs, in the model's dtypes; other arrays are left out.

    Raises:
        UsageError: an input is missing, or its array is of a dtype that cannot stand for the model's.
    """
    if ONLY_INPUT in data:
        if len(spec.inputs) != 1:
            names = ", ".join(spec.input_names)
            raise UsageError(
                f"an .npy file holds one array, the model has {len(spec.inputs)} inputs: save {names} as .npz"
            )
        data = {spec.inputs[0].name: data[ONLY_INPUT]}
    arrays = {}
    for tensor in spec.inputs:
        if tensor.name not in data:
            raise UsageError(f"the data file has no array {tensor.name!r}: it has {', '.join(data) or 'none'}")
        arrays[tensor.name] = _converted(tensor, data[tensor.name])
    return arrays


def has_request_axis(spec: ModelSpec, arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether all arrays have one axis more than the model's inputs: one request each along it."""
    return all(_has_request_axis(tensor, arrays[tensor.name]) for tensor in spec.inputs)


def whole_requests(spec: ModelSpec, arrays: Mapping[str, np.ndarray], limit: int) -> list[dict[str, np.ndarray]]:
    """Up to `limit` requests of a model whose requests are not taken apart by rows.

    An array may be one request's input, which all requests then share; have an axis before the input's own, one request
    each; or hold several requests along a fixed first axis: eight rows for an input of [1, ...] are eight requests.

    Raises:
        UsageError: an array is none of these, or holds no request.
    """
    pieces = {tensor.name: _pieces(tensor, arrays[tensor.name]) for tensor in spec.inputs}
    counts = {len(parts) for name, parts in pieces.items() if parts is not arrays[name]}
    count = min(*counts, limit) if counts else 1
    if not count:
        raise UsageError("the data file has no rows")
    return [
        {name: parts if parts is arrays[name] else parts[number] for name, parts in pieces.items()}
        for number in range(count)
    ]


def misfit(tensor: TensorSpec, array: np.ndarray) -> UsageError:
    """The error for an array that does not fit an input."""
    return UsageError(
        f"array {tensor.name!r} of the data file is {array.dtype} {list(array.shape)}, "
        f"the model takes {tensor.describe()}"
    )


def _has_request_axis(tensor: TensorSpec, array: np.ndarray) -> bool:
    return array.ndim == len(tensor.shape) + 1 and tensor.accepts(array.shape[1:])


def _pieces(tensor: TensorSpec, array: np.ndarray) -> np.ndarray | Sequence[np.ndarray]:
    """The requests' parts of an array; the array itself where it is one request's."""
    if tensor.accepts(array.shape):
        return array
    if _has_request_axis(tensor, array):
        return [array[number] for number in range(len(array))]
    rows = tensor.shape[0] if tensor.shape else None
    if rows and array.ndim and len(array) % rows == 0 and tensor.accepts((rows, *array.shape[1:])):
        return [array[start : start + rows] for start in range(0, len(array), rows)]
    raise misfit(tensor, array)


def _converted(tensor: TensorSpec, array: np.ndarray) -> np.ndarray:
    """The array in the model's dtype, where no value changes by that beyond a float's precision."""
    if tensor.dtype is DType.BYTES:
        if array.dtype.kind not in "SUO":
            raise misfit(tensor, array)
        return array.astype(object) if array.dtype.kind in "SU" else array
    wanted = tensor.dtype.numpy
    if array.dtype == wanted:
        return array
    if array.dtype.kind not in "fiub":
        raise misfit(tensor, array)
    with np.errstate(over="ignore", invalid="ignore"):
        new = array.astype(wanted)
        if array.dtype.kind == "f" and tensor.dtype in _FLOATS:
            kept = bool((np.isfinite(new) == np.isfinite(array)).all())
        else:
            kept = np.array_equal(new.astype(array.dtype), array)
    if not kept:
        raise UsageError(
            f"array {tensor.name!r} of the data file is {array.dtype} with values that {wanted} cannot represent, "
            f"the model takes {tensor.describe()}: convert it yourself"
        )
    _log.warning("array %r of the data file is %s: converted to the model's %s", tensor.name, array.dtype, wanted)
    return new

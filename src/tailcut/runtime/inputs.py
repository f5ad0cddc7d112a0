"""Checks a call's inputs against a model's spec; errors name the input, what was expected, and what came."""

from collections.abc import Generator, Mapping

import numpy as np
from numpy.typing import ArrayLike

from tailcut.errors import InputTypeError, InvalidInputError
from tailcut.runtime.numbers import array_of, as_dtype, is_of_kind
from tailcut.spec import DType, ModelSpec, TensorSpec

Arrays = dict[str, np.ndarray]
_STRINGS, _BYTES = {str, bytes}, {bytes}
_STEP_STRINGS = 4096  # checked between two pauses, in about a millisecond


def check_inputs(spec: ModelSpec, inputs: Mapping[str, ArrayLike]) -> tuple[Arrays, int]:
    """Check inputs, and convert them to C-contiguous arrays.

    Args:
        spec: of the model.
        inputs: arrays of the spec's dtypes and shapes, by name; or lists of numbers that these dtypes can hold.

    Returns:
        The arrays by name, in the spec's order, and the number of rows (1 for a request that is computed whole).

    Raises:
        InvalidInputError: an input is unknown, missing, or of another shape, or numbers of rows differ.
        InputTypeError: an input has another type or dtype.
    """
    _check_names(spec, inputs)
    arrays = {tensor.name: _as_array(tensor, inputs[tensor.name]) for tensor in spec.inputs}
    return arrays, _rows(spec, arrays)


def take_inputs(spec: ModelSpec, inputs: Arrays) -> tuple[Arrays, int]:
    """As `check_inputs`, for arrays that have passed the protocol's checks against this spec.

    Raises:
        InvalidInputError: strings are not UTF-8, or numbers of rows differ.
    """
    arrays = {
        tensor.name: inputs[tensor.name] if tensor.dtype is not DType.BYTES else _as_text(tensor, inputs[tensor.name])
        for tensor in spec.inputs
    }
    return arrays, _rows(spec, arrays)


def _check_names(spec: ModelSpec, inputs: Mapping[str, ArrayLike]) -> None:
    if type(inputs) is not dict and not hasattr(inputs, "keys"):  # such as a str or a list that contains the name
        raise InputTypeError(f"inputs are arrays by name, as in {{'x': array}}, got {type(inputs).__name__}")
    unknown = set(inputs) - set(spec.input_names)
    if unknown:
        name = str(min(unknown, key=str))
        raise InvalidInputError(f"unknown input {name[:64]!r}: the model takes {', '.join(spec.input_names)}")
    for name in spec.input_names:
        if name not in inputs:
            raise InvalidInputError(f"input {name!r} is missing: the model takes {', '.join(spec.input_names)}")


def _rows(spec: ModelSpec, arrays: Arrays) -> int:
    if not spec.batched:
        return 1
    if is_uneven(spec, arrays) and spec.are_rows([len(array) for array in arrays.values()]):
        for name, array in arrays.items():
            _check_any(name, len(array))
        return 1
    return row_count(arrays)


def is_uneven(spec: ModelSpec, arrays: Arrays) -> bool:
    """Whether the inputs of a batched model differ in their number of rows, so that the request is computed whole."""
    return spec.separate_axes and spec.is_uneven(map(len, arrays.values()))


def row_count(arrays: Arrays) -> int:
    """The number of rows of a batched model's inputs.

    Raises:
        InvalidInputError: the inputs differ in it, or have no rows.
    """
    name, first = next(iter(arrays.items()))
    rows = len(first)
    if len(arrays) > 1:
        counts = {name: len(array) for name, array in arrays.items()}
        if any(count != rows for count in counts.values()):
            raise InvalidInputError(f"inputs differ in their number of rows: {counts}")
    _check_any(name, rows)
    return rows


def _check_any(name: str, rows: int) -> None:
    if rows == 0:
        raise InvalidInputError(f"input {name!r} has a batch of 0 rows: expected at least 1")


def check_inputs_in_steps(
    spec: ModelSpec, inputs: Mapping[str, np.ndarray]
) -> Generator[None, None, tuple[Arrays, int]]:
    """As `check_inputs`, for arrays that have passed the protocol's checks, pausing after every few thousand strings.

    Raises:
        InvalidInputError: as in `check_inputs`.
    """
    _check_names(spec, inputs)
    arrays: Arrays = {}
    for tensor in spec.inputs:
        value = inputs[tensor.name]
        if tensor.dtype is not DType.BYTES or value.size <= _STEP_STRINGS or not tensor.accepts(value.shape):
            arrays[tensor.name] = _as_array(tensor, value)
            continue
        flat = value.reshape(-1)
        text = np.empty(flat.size, object)
        for at in range(0, flat.size, _STEP_STRINGS):
            text[at : at + _STEP_STRINGS] = _as_text(tensor, flat[at : at + _STEP_STRINGS])
            yield
        arrays[tensor.name] = text.reshape(value.shape)
    return arrays, _rows(spec, arrays)


def row_key(spec: ModelSpec, arrays: Arrays) -> object:
    """The key of a request: those of one model with equal keys may share a batch; None where all may."""
    if not spec.batched or is_uneven(spec, arrays):
        return object()
    return tuple(array.shape[1:] for array in arrays.values())


def _as_array(tensor: TensorSpec, value: ArrayLike) -> np.ndarray:
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        exact = array.dtype == tensor.dtype.numpy and array.dtype != object and array.flags.c_contiguous
        if exact and tensor.accepts(array.shape):  # always so for arrays from the wire
            return array
    else:
        array = from_list(tensor, value)
    is_text = tensor.dtype is DType.BYTES and array.dtype.kind in "OSU"
    if array.dtype != tensor.dtype.numpy and not is_text:
        raise InputTypeError(f"input {tensor.name!r}: expected {tensor.describe()}, got {_name(array.dtype)}")
    if not tensor.accepts(array.shape):
        raise InvalidInputError(
            f"input {tensor.name!r}: expected {tensor.describe()}, got {_name(array.dtype)} {list(array.shape)}"
        )
    if is_text:
        return _as_text(tensor, array)
    return np.ascontiguousarray(array).reshape(array.shape)


def from_list(tensor: TensorSpec, value: ArrayLike) -> np.ndarray:
    """An array of the tensor's dtype from a list, or anything else that numpy converts; no number is changed to fit.

    Raises:
        InvalidInputError: a number is out of the dtype's range, or nested lists differ in length.
        InputTypeError: the elements are of another kind.
    """
    want, where = tensor.dtype.numpy, f"input {tensor.name!r}: expected {tensor.describe()}"
    try:
        if tensor.dtype is DType.BYTES:
            return np.asarray(value, want)
        array = array_of(value, want)
    except OverflowError:
        raise InvalidInputError(f"{where}: a value is out of the range of {tensor.dtype}") from None
    except (ValueError, TypeError, RuntimeError) as error:
        what = ", got lists that differ in length" if "inhomogeneous" in str(error) else f": {error}"
        raise InvalidInputError(f"{where}{what}") from None
    if not is_of_kind(array, want):
        raise InputTypeError(f"{where}, got {_kind(value, array)}")
    result = as_dtype(array, want)
    if result is None:
        raise InvalidInputError(f"{where}: a value is out of the range of {tensor.dtype}")
    return result


def _as_text(tensor: TensorSpec, array: np.ndarray) -> np.ndarray:
    """Strings as `str`, because onnxruntime would apply `str()` to anything else; as `bytes` where they are no text."""
    items = array.reshape(-1).tolist()
    kinds = set(map(type, items))
    if not kinds <= _STRINGS and not all(issubclass(kind, str | bytes) for kind in kinds):
        raise InputTypeError(f"input {tensor.name!r}: expected strings or bytes")
    result = np.empty(len(items), object)
    try:
        if not tensor.text:
            result[:] = [item.encode() if isinstance(item, str) else item for item in items]
        else:
            result[:] = texts = [item.decode() if isinstance(item, bytes) else item for item in items]
            if kinds != _BYTES:
                "".join(texts).encode()  # raises for half of a surrogate pair
    except UnicodeDecodeError:
        raise InvalidInputError(f"input {tensor.name!r}: a BYTES element is not UTF-8") from None
    except UnicodeEncodeError:
        raise InvalidInputError(f"input {tensor.name!r}: a str has half of a surrogate pair") from None
    return result.reshape(array.shape)


def _kind(value: ArrayLike, array: np.ndarray) -> str:
    """Words for a message about values that are not of the expected kind."""
    if array.dtype.kind == "O":
        return type(value).__name__ if array.ndim == 0 else "values that are not numbers"
    return "strings" if array.dtype.kind in "SU" else _name(array.dtype)


def _name(dtype: np.dtype) -> str:
    try:
        return DType.of(dtype)
    except KeyError:
        return str(dtype)

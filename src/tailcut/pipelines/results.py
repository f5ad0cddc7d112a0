"""Checks what a stage's function returned against the declared outputs. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tailcut.errors import EngineError, InvalidInputError, TailcutError
from tailcut.pipelines.stage import Stage
from tailcut.runtime.numbers import as_dtype
from tailcut.spec import DType, TensorSpec

Arrays = Sequence[np.ndarray]
_SCALARS = {int, float, str, bytes}


class RefusedInputError(InvalidInputError):
    """A stage's function raised a ValueError (the cause), which is taken to mean that the input is invalid."""


class FailedCallError(EngineError):
    """A stage's function raised another of Tailcut's errors (the cause), such as one of a client that it uses."""


def call(stage: Stage, inputs: Arrays) -> list[np.ndarray]:
    """Call a stage's function on the rows of its inputs, and check what it returns.

    Raises:
        InvalidInputError: it refused its input; RefusedInputError if it raised a ValueError.
        FailedCallError: it raised another TailcutError.
        EngineError: its outputs are not as declared; the message names the stage, the output, and both shapes.
    """
    rows = len(inputs[0])
    values = _each(stage, _call(stage, inputs), rows)
    return [_array(stage, tensor, value, rows) for tensor, value in zip(stage.outputs, values, strict=True)]


def call_filled(stage: Stage, inputs: Arrays, counts: Sequence[int]) -> list[list[np.ndarray]]:
    """Call a stage's function on the rows of several requests, and pad the rows of each to that request's longest.

    Args:
        inputs: the rows of all requests, one after the other.
        counts: the number of rows of each request.

    Raises:
        InvalidInputError, FailedCallError: as `call`.
        EngineError: as `call`; or an output with a free dimension is not a list with one array for each row.
    """
    rows = len(inputs[0])
    parts: list[list[np.ndarray]] = [[] for _ in counts]
    for tensor, value in zip(stage.outputs, _each(stage, _call(stage, inputs), rows), strict=True):
        apart = None in tensor.row_shape
        values = _row_list(stage, tensor, value, rows) if apart else _array(stage, tensor, value, rows)
        if isinstance(values, list) and _are_even(tensor, values):  # nothing to pad
            values = _array(stage, tensor, values, rows)
        start = 0
        for part, count in zip(parts, counts, strict=True):
            own = values[start : start + count]
            part.append(_filled(stage, tensor, own) if isinstance(own, list) else own)
            start += count
    return parts


def _row_list(stage: Stage, tensor: TensorSpec, value: Any, rows: int) -> list[Any]:
    if not isinstance(value, list) or len(value) != rows:
        got = f"{len(value)} rows" if isinstance(value, list) else type(value).__name__
        raise EngineError(
            f"stage {stage.name!r}: output {tensor.name!r}: with fill, expected a list of one array for each of {rows} "
            f"rows, got {got}"
        )
    return value


def _are_even(tensor: TensorSpec, rows: Sequence[Any]) -> bool:
    """Whether all rows are lists or arrays of one length, over 0, with elements of one type.

    They are then converted together as each is by itself.
    """
    if len(tensor.row_shape) != 1 or not rows:
        return False
    if all([type(row) is list for row in rows]):  # noqa: C419  quick
        kinds = {type(item) for row in rows for item in row}
        return len(set(map(len, rows))) == 1 and len(kinds) == 1 and kinds <= _SCALARS
    shapes = {(row.shape, row.dtype) if type(row) is np.ndarray else None for row in rows}
    return len(shapes) == 1 and None not in shapes and rows[0].ndim == 1 and rows[0].size > 0


def _filled(stage: Stage, tensor: TensorSpec, rows: list[Any]) -> np.ndarray:
    """The rows of one request, padded with the fill value to one array."""
    if len(rows) == 1:
        return _array(stage, tensor, _one_row(rows[0]), 1)
    arrays = [_array(stage, tensor, _one_row(row), 1)[0] for row in rows]
    shape = np.max([row.shape for row in arrays], axis=0)
    filled = np.empty((len(arrays), *shape), tensor.dtype.numpy)
    filled.fill(stage.fill[tensor.name])
    for target, row in zip(filled, arrays, strict=True):
        target[tuple(map(slice, row.shape))] = row
    return filled


def _one_row(row: Any) -> Any:
    return row[None] if isinstance(row, np.ndarray) else [row]


def _call(stage: Stage, inputs: Arrays) -> Any:
    try:
        if stage.by_name:
            return stage.function(**{tensor.name: array for tensor, array in zip(stage.inputs, inputs, strict=True)})
        return stage.function(*inputs)
    except InvalidInputError:
        raise
    except TailcutError as error:  # some of which are ValueErrors, too
        raise FailedCallError(f"stage {stage.name!r} failed: {type(error).__name__}: {error}") from error
    except ValueError as error:
        raise RefusedInputError(f"stage {stage.name!r} refused the input: {type(error).__name__}") from error


def _each(stage: Stage, result: Any, rows: int) -> Sequence[Any]:
    """The returned values, one for each output, in order."""
    names = [tensor.name for tensor in stage.outputs]
    where = f"stage {stage.name!r} must return {', '.join(names)}"
    if result is None:
        raise EngineError(f"{where}, got None: is a return missing?")
    if isinstance(result, Mapping):
        if set(result) != set(names):
            raise EngineError(f"{where}, got {', '.join(map(str, result)) or 'an empty dict'}")
        return [result[name] for name in names]
    if len(names) == 1 and (not isinstance(result, tuple) or len(result) != 1 or _is_row(stage, result[0], rows)):
        return [result]
    if not isinstance(result, tuple):  # not a list, which may be a list of rows, by chance as many as outputs
        hint = ": a list of rows? return one list per output" if isinstance(result, list) else ""
        raise EngineError(f"{where} as a tuple in this order or as a dict, got {type(result).__name__}{hint}")
    if len(result) != len(names):
        raise EngineError(f"{where}, got {len(result)} values")
    return result


def _is_row(stage: Stage, value: Any, rows: int) -> bool:
    """Whether the only item of a tuple, for the only output, is a single row rather than the array of all rows."""
    return rows == 1 and _dims(value) == len(stage.outputs[0].row_shape)


def _dims(value: Any) -> int:
    if isinstance(value, list | tuple):
        return 1 + (_dims(value[0]) if value else 0)
    dims = getattr(value, "ndim", 0)
    return dims if isinstance(dims, int) else 0


def _array(stage: Stage, tensor: TensorSpec, value: Any, rows: int) -> np.ndarray:
    want = tensor.dtype.numpy
    fits = type(value) is np.ndarray and value.dtype == want and value.shape == (rows, *tensor.row_shape)
    if fits and tensor.dtype is not DType.BYTES:
        return np.ascontiguousarray(value)
    where = f"stage {stage.name!r}: output {tensor.name!r}"
    if value is None:
        raise EngineError(f"{where}: expected {tensor.describe()}, got None")
    array = _text(where, tensor, value) if tensor.dtype is DType.BYTES else _numbers(where, tensor, value)
    array = _completed(array, tensor)
    if array.ndim != len(tensor.shape) or array.shape[:1] != (rows,):
        expected = [rows, *(-1 if dim is None else dim for dim in tensor.row_shape)]
        raise EngineError(f"{where}: expected {expected} for {rows} rows, got {list(array.shape)}")
    if not tensor.accepts(array.shape):
        raise EngineError(f"{where}: expected {tensor.describe()}, got {list(array.shape)}")
    return _bytes(where, array) if tensor.dtype is DType.BYTES else np.ascontiguousarray(array)


def _completed(array: np.ndarray, tensor: TensorSpec) -> np.ndarray:
    """An array of empty lists with the axes added that numpy cannot know: no boxes at all have the shape (0, 4)."""
    unseen = tensor.shape[array.ndim :]
    if array.size or array.ndim < 2 or not unseen or array.shape[-1]:
        return array
    return array.reshape(array.shape + tuple(dim or 0 for dim in unseen))


def _numbers(where: str, tensor: TensorSpec, value: Any) -> np.ndarray:
    """An array of the declared dtype. Lists are converted if every number is of its kind and within its range.

    Infinities and NaN count as within the range of floats.
    """
    want = tensor.dtype.numpy
    try:
        result = _as_array(where, tensor, value)
        array = result if isinstance(value, np.ndarray | np.generic) else as_dtype(result, want)
    except (ValueError, TypeError, OverflowError):
        raise EngineError(f"{where}: expected {tensor.describe()}, got a value that cannot be converted") from None
    if array is None or array.dtype != want:
        raise EngineError(f"{where}: expected {tensor.dtype} ({want}), got {result.dtype}: convert it with .astype")
    return array


def _as_array(where: str, tensor: TensorSpec, value: Any, dtype: type | None = None) -> np.ndarray:
    """A value as an array; refuses values whose elements numpy does not read, such as generators and sets."""
    array = np.asarray(value, dtype)
    if isinstance(value, np.ndarray) and np.any(getattr(value, "mask", False)):  # what is masked may be anything
        raise EngineError(f"{where}: expected {tensor.describe()}, got a masked array: return .filled(VALUE)")
    if array.dtype == object and not array.ndim and not isinstance(value, np.ndarray | str | bytes):
        kind = type(value).__name__
        raise EngineError(f"{where}: expected {tensor.describe()}, got {kind}: return an array or a list")
    return array


def _text(where: str, tensor: TensorSpec, value: Any) -> np.ndarray:
    """An object array of strings, because numpy's own string dtypes drop trailing NULs."""
    _refuse_buffers(where, _items(value))  # numpy would treat them as lists of numbers
    array = _as_array(where, tensor, value, None if isinstance(value, np.ndarray | np.generic) else object)
    if array.dtype.kind not in "SUO":
        raise EngineError(f"{where}: expected {tensor.dtype} ({tensor.dtype.numpy}), got {array.dtype}")
    return array


def _refuse_buffers(where: str, items: Iterable[Any]) -> None:
    kind = next((type(item).__name__ for item in items if isinstance(item, bytearray | memoryview)), None)
    if kind is not None:
        raise EngineError(f"{where}: expected str or bytes in each element, got {kind}: return bytes")


def _items(value: Any) -> Iterator[Any]:
    """Yield the elements of nested lists and tuples."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _items(item)
    else:
        yield value


def _bytes(where: str, array: np.ndarray) -> np.ndarray:
    """The array with its elements as `bytes`."""
    try:
        items = [item.encode() if isinstance(item, str) else item for item in array.reshape(-1).tolist()]
    except UnicodeEncodeError:
        raise EngineError(f"{where}: a str has half of a surrogate pair, which is not text: return bytes") from None
    if not all(isinstance(item, bytes) for item in items):
        _refuse_buffers(where, items)
        raise EngineError(f"{where}: expected str or bytes in each element")
    result = np.empty(len(items), object)
    result[:] = items
    return result.reshape(array.shape)

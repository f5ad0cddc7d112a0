"""What a stage's function returned, checked against what was declared. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tailcut.errors import EngineError
from tailcut.pipelines.stage import Stage
from tailcut.spec import DType, TensorSpec

Arrays = Sequence[np.ndarray]


def call(stage: Stage, inputs: Arrays) -> list[np.ndarray]:
    """Call a stage's function on the rows of its inputs, and check what it returns.

    Raises:
        EngineError: it returned something else than was declared; names the stage, the output, expected and got.
    """
    rows = len(inputs[0])
    if stage.by_name:
        result = stage.function(**{tensor.name: array for tensor, array in zip(stage.inputs, inputs, strict=True)})
    else:
        result = stage.function(*inputs)
    return [
        _array(stage, tensor, value, rows) for tensor, value in zip(stage.outputs, _each(stage, result), strict=True)
    ]


def _each(stage: Stage, result: Any) -> Sequence[Any]:
    """What was returned for each output, in order."""
    names = [tensor.name for tensor in stage.outputs]
    where = f"stage {stage.name!r} must return {', '.join(names)}"
    if result is None:
        raise EngineError(f"{where}, got None: is a return missing?")
    if isinstance(result, Mapping):
        if set(result) != set(names):
            raise EngineError(f"{where}, got {', '.join(map(str, result)) or 'an empty dict'}")
        return [result[name] for name in names]
    if len(names) == 1 and not (isinstance(result, tuple) and len(result) == 1):
        return [result]
    if not isinstance(result, tuple | list):
        raise EngineError(f"{where} as a tuple in this order or as a dict, got {type(result).__name__}")
    if len(result) != len(names):
        raise EngineError(f"{where}, got {len(result)} values")
    return result


def _array(stage: Stage, tensor: TensorSpec, value: Any, rows: int) -> np.ndarray:
    where = f"stage {stage.name!r}: output {tensor.name!r}"
    want = tensor.dtype.numpy
    if value is None:
        raise EngineError(f"{where}: expected {tensor.describe()}, got None")
    try:
        if tensor.dtype is DType.BYTES or isinstance(value, np.ndarray | np.generic):
            array = np.asarray(value)
        else:
            array = np.asarray(value, want)
    except (ValueError, TypeError, OverflowError):
        raise EngineError(f"{where}: expected {tensor.describe()}, got what makes no such array") from None
    if array.dtype != want and not (tensor.dtype is DType.BYTES and array.dtype.kind in "SUO"):
        raise EngineError(f"{where}: expected {tensor.dtype} ({want}), got {array.dtype}: convert it with .astype")
    if array.ndim != len(tensor.shape) or array.shape[:1] != (rows,):
        expected = [rows, *(-1 if dim is None else dim for dim in tensor.row_shape)]
        raise EngineError(f"{where}: expected {expected} for {rows} rows, got {list(array.shape)}")
    if not tensor.accepts(array.shape):
        raise EngineError(f"{where}: expected {tensor.describe()}, got {list(array.shape)}")
    return _bytes(where, array) if tensor.dtype is DType.BYTES else np.ascontiguousarray(array)


def _bytes(where: str, array: np.ndarray) -> np.ndarray:
    """Elements as `bytes`."""
    items = [item.encode() if isinstance(item, str) else item for item in array.reshape(-1).tolist()]
    if not all(isinstance(item, bytes) for item in items):
        raise EngineError(f"{where}: expected str or bytes in each element")
    result = np.empty(len(items), object)
    result[:] = items
    return result.reshape(array.shape)

"""Writes inference requests of the Open Inference Protocol v2 for clients: arrays in, bodies out. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
from numpy.typing import ArrayLike

from tailcut.errors import ArgumentTypeError, InputTypeError, InvalidInputError
from tailcut.spec import DType
from tailcut.wire.v2.tensors import shown, to_bytes

Parts = list[bytes | memoryview]
BODY_BYTES = 64 << 20  # the default limit of a server for one request


@dataclass(frozen=True, slots=True)
class Described:
    """The description of an input in a request; `size` is the number of its bytes."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    size: int


def check_model(model: object, version: object) -> None:
    """Check the types of a model's name and version.

    Raises:
        ArgumentTypeError: one of them is not a str.
    """
    if isinstance(model, str) and isinstance(version, str):
        return
    for name, value in (("model", model), ("version", version)):
        if not isinstance(value, str):
            raise ArgumentTypeError(f"{name} must be a str, got {value!r}")


def model_path(model: str, version: str = "") -> str:
    """The URL path of a model, percent-encoded.

    Raises:
        ArgumentTypeError: the name or the version is not a str.
        InvalidInputError: one of them cannot be encoded as UTF-8.
    """
    check_model(model, version)
    try:
        path = f"/v2/models/{quote(model, safe='')}"
        return f"{path}/versions/{quote(version, safe='')}" if version else path
    except UnicodeEncodeError:
        raise InvalidInputError("the name or version of a model has half of a surrogate pair") from None


def describe(inputs: Mapping[str, ArrayLike]) -> tuple[tuple[Described, ...], Parts]:
    """The descriptions of a request's inputs, and their bytes, which are views of the arrays.

    Raises:
        InvalidInputError: a dtype has no name in the protocol, or a list cannot be converted to an array.
        InputTypeError: `inputs` is not a mapping, or an array of objects has something else than strings and bytes.
    """
    if type(inputs) is not dict and not hasattr(inputs, "items"):
        raise InputTypeError(f"inputs are arrays by name, as in {{'x': array}}, got {type(inputs).__name__}")
    described, parts = [], Parts()
    for name, value in inputs.items():
        array = value if isinstance(value, np.ndarray) else _array_of(name, value)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        dtype = _dtype_of(name, array)
        data = _bytes_of(name, array, dtype)
        described.append(Described(name, dtype, array.shape, len(data)))
        parts.append(data)
    return tuple(described), parts


def entry(described: Described, parameters: Mapping[str, object]) -> dict[str, Any]:
    """The JSON entry of an input whose bytes are elsewhere."""
    return _entry(described.name, described.dtype, described.shape) | {"parameters": parameters}


def parameters(timeout_us: int = 0) -> dict[str, object]:
    """The parameters of a request for binary outputs; `timeout_us` 0: the server's default."""
    return {"binary_data_output": True} | ({"timeout": timeout_us} if timeout_us else {})


def binary_lead(described: Sequence[Described], outputs: Sequence[str] | None = None, timeout_us: int = 0) -> bytes:
    """The JSON before the bytes of the inputs; it asks for binary outputs, all or those named."""
    inputs = [entry(tensor, {"binary_data_size": tensor.size}) for tensor in described]
    request: dict[str, object] = {"inputs": inputs, "parameters": parameters(timeout_us)}
    if outputs is not None:
        request["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    return encode(request)


def encode(request: Mapping[str, object]) -> bytes:
    """A request, or the part before its binary data, as JSON.

    Raises:
        InvalidInputError: the name of an input or an output cannot be encoded as UTF-8.
    """
    try:
        return orjson.dumps(request)
    except orjson.JSONEncodeError as error:
        raise InvalidInputError(f"the name of an input or output cannot be sent: {error}") from None


def json_body(inputs: Mapping[str, np.ndarray]) -> bytes:
    """A request that is all JSON; numbers are written like Python's, as most clients do.

    Raises:
        InvalidInputError: a dtype has no name in the protocol, or bytes are not UTF-8.
    """
    entries = [
        _entry(name, _dtype_of(name, array), array.shape) | {"data": _values(name, array)}
        for name, array in inputs.items()
    ]
    return orjson.dumps({"inputs": entries})


def _entry(name: str, dtype: DType, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "datatype": dtype.value, "shape": shape}


def _array_of(name: str, value: ArrayLike) -> np.ndarray:
    """A list as an array; elements are not converted to strings, and keep trailing NULs."""
    try:
        array = np.asarray(value)
        if array.dtype.kind in "SU":
            array = np.asarray(value, object)
    except UnicodeDecodeError:  # the list mixes bytes and strings
        array = np.asarray(value, object)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        what = "lists that differ in length" if "inhomogeneous" in str(error) else str(error)
        raise InvalidInputError(f"input {shown(name)} is not an array: {what}") from None
    if not array.size and not hasattr(value, "dtype"):
        raise InvalidInputError(
            f"input {shown(name)}: an empty list has no dtype: pass an array, such as np.empty(0, object)"
        )
    return array


def _dtype_of(name: str, array: np.ndarray) -> DType:
    try:
        return DType.of(array.dtype)
    except KeyError:
        raise InvalidInputError(f"input {shown(name)}: the protocol has no datatype for {array.dtype}") from None


def _values(name: str, array: np.ndarray) -> list[Any]:
    if array.dtype == DType.BF16.numpy:
        array = array.astype(np.float32)
    try:
        return [item.decode() if isinstance(item, bytes) else item for item in array.reshape(-1).tolist()]
    except UnicodeDecodeError:
        raise InvalidInputError(
            f"input {shown(name)} has bytes that are not UTF-8, which JSON cannot represent: send binary tensors"
        ) from None


def _bytes_of(name: str, array: np.ndarray, dtype: DType) -> bytes | memoryview:
    if dtype is DType.BYTES and not all(isinstance(item, str | bytes) for item in array.reshape(-1).tolist()):
        raise InputTypeError(f"input {shown(name)}: expected strings or bytes")
    if dtype is DType.BYTES or not array.size:
        try:
            return to_bytes(array, dtype)
        except UnicodeEncodeError:
            raise InvalidInputError(f"input {shown(name)}: a str has half of a surrogate pair") from None
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).data

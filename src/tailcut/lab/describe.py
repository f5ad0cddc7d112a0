"""What a served model takes, asked of the server itself, and inputs made up to fit."""

import ipaddress
import itertools
import socket
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from tailcut.errors import UsageError
from tailcut.lab.load import Target
from tailcut.lab.payload import ask
from tailcut.spec import DType, ModelSpec, TensorSpec

_FREE_DIM = 16  # what a free dimension beside the batch is taken as


def parse_target(url: str, *, allow_remote: bool = False) -> Target:
    """`http://HOST:PORT`, or `http+unix://PATH` with the path percent-encoded or plain.

    Raises:
        UsageError: not such an address, or not of this machine and `allow_remote` is off.
    """
    if url.startswith("http+unix://"):
        return Target(uds=unquote(url.removeprefix("http+unix://")))
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port or 80
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or not port:
        raise UsageError(f"{url!r} is not http://HOST:PORT or http+unix:///PATH")
    if not allow_remote:
        try:
            address = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)[0][4][0]
        except OSError:
            raise UsageError(f"{parts.hostname}: no such host") from None
        if not ipaddress.ip_address(address).is_loopback:
            raise UsageError(f"{parts.hostname} is not this machine: add --allow-remote if you may send load there")
    return Target(parts.hostname, port)


def served_models(target: Target) -> list[str]:
    """Names of the server's models."""
    return [entry["name"] for entry in ask(target, "POST", "/v2/repository/index") or []]


def served_spec(target: Target, model: str | None) -> ModelSpec:
    """The signature of a model; of the only one where none is named.

    Raises:
        UsageError: several models and none named, or no such model.
    """
    if model is None:
        names = served_models(target)
        if len(names) != 1:
            raise UsageError(f"the server has {len(names)} models ({', '.join(names)}): name one with --model")
        model = names[0]
    metadata = ask(target, "GET", f"/v2/models/{model}")
    return ModelSpec(model, *(tuple(map(_tensor, metadata[side])) for side in ("inputs", "outputs")))


def made_up_inputs(spec: ModelSpec, seed: int, *, rows: int = 1) -> dict[str, np.ndarray]:
    """Seeded inputs of `rows` rows: normal floats, small whole numbers, short strings."""
    random = np.random.default_rng(seed)
    inputs = {}
    for tensor in spec.inputs:
        dims = [_FREE_DIM if dim is None else dim for dim in tensor.shape]
        if spec.batched:
            dims[0] = rows
        if tensor.dtype is DType.BYTES:
            inputs[tensor.name] = np.full(dims, b"text", object)
        elif tensor.dtype in {DType.FP16, DType.BF16, DType.FP32, DType.FP64}:
            inputs[tensor.name] = random.standard_normal(dims).astype(tensor.dtype.numpy)
        else:
            inputs[tensor.name] = random.integers(0, 2, dims).astype(tensor.dtype.numpy)
    return inputs


def rows_of_data(spec: ModelSpec, data: Mapping[str, np.ndarray], limit: int) -> list[dict[str, np.ndarray]]:
    """Up to `limit` single-row requests from a data file's arrays; arrays that are no inputs are left out.

    Requests of several lengths come in arrays named NAME/GROUP, one group a length; they are taken in turns.

    Raises:
        UsageError: an input is missing, or of another dtype or shape than the model takes.
    """
    lead = f"{spec.inputs[0].name}/"
    groups = [name.removeprefix(lead) for name in data if name.startswith(lead)]
    if groups:
        parts = [
            rows_of_data(spec, {t.name: data[key] for t in spec.inputs if (key := f"{t.name}/{group}") in data}, limit)
            for group in groups
        ]
        turns = itertools.zip_longest(*parts)
        return [request for turn in turns for request in turn if request is not None][:limit]
    arrays = {}
    for tensor in spec.inputs:
        if tensor.name not in data:
            raise UsageError(f"the data file has no array {tensor.name!r}: it has {', '.join(data) or 'none'}")
        array = data[tensor.name]
        if array.dtype.kind in "SU" and tensor.dtype is DType.BYTES:
            array = array.astype(object)
        if array.dtype != tensor.dtype.numpy or not tensor.accepts(array.shape):
            raise UsageError(
                f"array {tensor.name!r} of the data file is {array.dtype} {list(array.shape)}, "
                f"the model takes {tensor.describe()}"
            )
        arrays[tensor.name] = array
    if not spec.batched:
        return [arrays]
    rows = min(len(array) for array in arrays.values())
    if rows == 0:
        raise UsageError("the data file has no rows")
    return [{name: array[row : row + 1] for name, array in arrays.items()} for row in range(min(rows, limit))]


def lengths_of(spec: ModelSpec, requests: Sequence[Mapping[str, np.ndarray]]) -> tuple[int, ...]:
    """How long each request is along the first free dimension beside the batch; nothing where the model has none."""
    for tensor in spec.inputs:
        if spec.batched and None in tensor.row_shape:
            axis = tensor.shape.index(None, 1)
            return tuple(request[tensor.name].shape[axis] for request in requests)
    return ()


def _tensor(entry: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(
        entry["name"], DType(entry["datatype"]), tuple(None if dim < 0 else dim for dim in entry["shape"])
    )

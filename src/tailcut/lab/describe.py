"""Asks a server what a model accepts, and makes requests for it, generated or from data."""

import ipaddress
import re
import shlex
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import numpy as np

from tailcut.engines.samples import Samples, find_samples, likely_samples
from tailcut.errors import TailcutError, UnreachableError, UsageError
from tailcut.lab.data import (
    arrays_of_group,
    arrays_of_inputs,
    common_length,
    evenly,
    groups_of,
    has_request_axis,
    joined,
    misfit,
    spread,
    whole_requests,
)
from tailcut.lab.load import LoadTarget, Payload
from tailcut.lab.payload import ask, encode, infer_once
from tailcut.runtime.profile import is_pipeline
from tailcut.spec import DType, ModelSpec, Rows, TensorSpec
from tailcut.wire.v2.call import model_path

_TLS = ("https", "grpcs")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_METADATA_NAME = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)\Z")


def parse_target(url: str, *, allow_remote: bool = False, command: str = "bench", grpc: bool = True) -> LoadTarget:
    """The address in a URL; see `parse_url`."""
    return parse_url(url, allow_remote=allow_remote, command=command, grpc=grpc)[0]


def parse_url(
    url: str, *, allow_remote: bool = False, command: str = "bench", grpc: bool = True
) -> tuple[LoadTarget, str]:
    """The address in a URL, and the path behind it, which is empty for a v2 server.

    `http://HOST:PORT`, `grpc://HOST:PORT` and `http+unix://PATH`, the socket's path percent-encoded or plain;
    `http://HOST:PORT/PATH` and `http+unix://%2FSOCKET/PATH`; `https://` and `grpcs://` for TLS.

    Args:
        url: the address.
        allow_remote: whether it may be that of another machine.
        command: the command of tailcut that it was given to, for messages.
        grpc: whether the command supports gRPC.

    Raises:
        UsageError: it is not such an address, or that of another machine without `allow_remote`.
    """
    if "://" not in url:
        _refuse_source(url, command)
    if url.startswith("http+unix://"):
        return _parse_socket(url.removeprefix("http+unix://"), grpc=grpc)
    is_grpc = url.startswith(("grpc://", "grpcs://"))
    if is_grpc:
        _check_grpc(url, command, speaks=grpc)
    parts = _split(url, grpc=grpc)
    try:
        port = parts.port or (443 if parts.scheme in _TLS else 80)
    except ValueError:
        port = 0
    tls = parts.scheme in _TLS
    if parts.scheme not in {"http", "grpc", *_TLS} or not parts.hostname or not port:
        raise _not_an_address(url, grpc=grpc)
    if not allow_remote:
        try:
            address = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)[0][4][0]
        except OSError:
            raise UsageError(f"{parts.hostname}: no such host") from None
        if not ipaddress.ip_address(address).is_loopback:
            raise UsageError(
                f"{parts.hostname} is not this machine: add --allow-remote if you are allowed to send load there"
            )
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return LoadTarget(parts.hostname, port, grpc=is_grpc, tls=tls), "" if path == "/" else path


def _split(url: str, *, grpc: bool) -> SplitResult:
    try:
        return urlsplit(url if "://" in url else f"http://{url}")
    except ValueError:  # an unclosed bracket
        raise _not_an_address(url, grpc=grpc) from None


def _not_an_address(url: str, *, grpc: bool) -> UsageError:
    forms = ["http://HOST:PORT", "https://HOST:PORT", "http+unix:///PATH"]
    forms += ["grpc://HOST:PORT", "grpcs://HOST:PORT"] if grpc else []
    return UsageError(f"{url!r} is not {', '.join(forms[:-1])} or {forms[-1]}")


def _check_grpc(url: str, command: str, *, speaks: bool) -> None:
    """Check a URL for gRPC.

    Raises:
        UsageError: the command does not support gRPC, grpcio is not installed, or there is a path behind the address.
    """
    if not speaks:
        raise UsageError(f"{url!r} is for gRPC, and tailcut {command} asks over HTTP: give http://HOST:PORT")
    if _split(url, grpc=True).path not in {"", "/"}:
        raise UsageError(f"{url!r} is not grpc://HOST:PORT")
    if not all(find_spec(name) for name in ("grpc", "google.protobuf")):
        raise UsageError("grpc:// needs grpcio, which is not installed: pip install 'tailcut[grpc-client]'")


def _refuse_source(url: str, command: str) -> None:
    """Refuse a file or a pipeline in place of a server's address, with advice.

    Raises:
        UsageError: it is one.
    """
    kind = "a file" if Path(url).is_file() else "a pipeline" if is_pipeline(url) else ""
    if kind:
        raise UsageError(
            f"{url} is {kind}, not the address of a running server: run tailcut serve {shlex.quote(url)}, then "
            f"tailcut {command} http://127.0.0.1:8000, or the address that it prints"
        )


def _parse_socket(address: str, *, grpc: bool) -> tuple[LoadTarget, str]:
    if address.startswith("/"):
        return LoadTarget(uds=unquote(address)), ""
    socket_path, slash, path = address.partition("/")
    if not socket_path:
        raise _not_an_address("http+unix://", grpc=grpc)
    return LoadTarget(uds=unquote(socket_path)), slash + path if path else ""


def parse_headers(headers: Sequence[str], *, grpc: bool = False) -> dict[str, str]:
    """The header fields (with `grpc`: the metadata) in texts of the form `NAME:VALUE`.

    Raises:
        UsageError: one is not of this form, or has a name that gRPC does not allow.
    """
    fields = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not _HEADER_NAME.match(name) or not value.isprintable() or not value.isascii():
            raise UsageError(f"{header!r} is not a header: write --header NAME:VALUE")
        if grpc and not _METADATA_NAME.match(name := name.lower()):
            raise UsageError(f"--header {name}: gRPC has no such metadata of text")
        fields[name] = value.strip()
    return fields


def raw_payload(target: LoadTarget, path: str, body: Path | None, expect: int) -> Payload:
    """A request to any HTTP server: POST with the bytes of a file, or GET without a file.

    Raises:
        UsageError: the file cannot be read, or the server is not an HTTP server.
    """
    if target.grpc:
        raise UsageError("--body needs HTTP: grpc:// sends only v2 calls")
    try:
        content = b"" if body is None else body.read_bytes()
    except OSError as error:
        raise UsageError(f"{body}: {error.strerror}") from None
    request = encode(target, "GET" if body is None else "POST", path or "/", content).request
    return Payload(request, expect)


def served_models(target: LoadTarget) -> list[str]:
    """The names of the models on the server, each once, however many versions it has."""
    if target.grpc:
        from tailcut.lab.grpc_connection import ask_grpc  # noqa: PLC0415  grpc is heavy, and few load it

        models = [(model.name, model.state) for model in ask_grpc(target, "RepositoryIndex").models]
    else:
        entries = ask(target, "POST", "/v2/repository/index") or []
        models = [(entry["name"], entry.get("state", "READY")) for entry in entries]
    return list(dict.fromkeys(name for name, state in models if state == "READY"))


def served_spec(target: LoadTarget, model: str | None) -> ModelSpec:
    """The signature of a model; None: that of the server's only model.

    Raises:
        UsageError: the server has several models and none is named, or no such model.
    """
    if model is None:
        names = served_models(target)
        if len(names) != 1:
            raise UsageError(f"the server has {len(names)} models ({', '.join(names)}): name one with --model")
        model = names[0]
    if target.grpc:
        from tailcut.lab.grpc_connection import ask_grpc  # noqa: PLC0415  grpc is heavy, and few load it

        response = ask_grpc(target, "ModelMetadata", name=model)
        rows = _rows(lambda: ask_grpc(target, "ModelConfig", name=model).config.max_batch_size)
        metadata = {
            side: [
                {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)} for tensor in tensors
            ]
            for side, tensors in (("inputs", response.inputs), ("outputs", response.outputs))
        }
    else:
        metadata = ask(target, "GET", model_path(model))
        rows = _rows(lambda: ask(target, "GET", model_path(model) + "/config")["max_batch_size"])
    inputs, outputs = (tuple(map(_tensor, metadata[side])) for side in ("inputs", "outputs"))
    return ModelSpec(model, inputs, outputs, rows)


def _rows(max_batch_size: Callable[[], Any]) -> Rows:
    """Whether the server batches the model, by its configuration; unknown for a server without that extension."""
    try:
        return Rows.INDEPENDENT if max_batch_size() > 0 else Rows.DEPENDENT
    except (TailcutError, KeyError, TypeError):
        return Rows.UNKNOWN


def served_samples(target: LoadTarget, spec: ModelSpec) -> Samples:
    """Requests that a served model accepts, found by trying; over gRPC, the likely ones, untried.

    Raises:
        UnsupportedError: it accepts none of those that were tried; the message names their sizes.
    """
    return likely_samples(spec) if target.grpc else find_samples(_Served(target, spec))


class _Served:
    """A served model as an engine that computes one request at a time."""

    def __init__(self, target: LoadTarget, spec: ModelSpec) -> None:
        self.spec = spec
        self._target = target

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return infer_once(self._target, self.spec.name, inputs)
        except (UnreachableError, ValueError, LookupError, TypeError):  # a 200 in another format: it was not refused
            return {}


def rows_of_data(
    spec: ModelSpec, data: Mapping[str, np.ndarray], limit: int, *, rows: int = 1
) -> list[dict[str, np.ndarray]]:
    """Requests of `rows` rows, from at most `limit` requests in a data file; arrays that are not inputs are left out.

    Requests of several lengths are in arrays named NAME/GROUP, with one group per length; each group is spread evenly
    over the result, in the proportions of the file. Rows of one request have the same length, from any groups; lengths
    with too few rows are left out. With an additional first axis, each element is a whole request; so is each row
    where the model's first axis is fixed at 1.

    Raises:
        UsageError: an input is missing or has another dtype or shape than the model accepts, or there are too few rows.
    """
    if not _groups(spec, data):
        return _requests(spec, data, limit, rows=rows)
    groups = _grouped(spec, data)
    return spread(groups if rows == 1 else joined(groups, rows), limit)


def labels_of_data(spec: ModelSpec, data: Mapping[str, np.ndarray], labels: np.ndarray, limit: int) -> np.ndarray:
    """The labels of the one-row requests that `rows_of_data` makes from a file, in their order, [requests, labels].

    Args:
        spec: the model's signature.
        data: the arrays of the file.
        labels: classes from 0, one for each request or each of its rows, in the order of the file, group by group.
        limit: the largest number of requests.

    Raises:
        UsageError: labels are not whole numbers from 0, or there are too few or too many.
    """
    groups = _grouped(spec, data, say=False) if _groups(spec, data) else [_requests(spec, data, sys.maxsize, say=False)]
    total = sum(map(len, groups))
    flat = labels.reshape(-1)
    if flat.dtype.kind not in "iub" and not (flat.dtype.kind == "f" and np.array_equal(flat, np.rint(flat))):
        raise UsageError(f"labels are classes, whole numbers from 0: those of the data are {flat.dtype}")
    if len(flat) and flat.min() < 0:
        raise UsageError(f"labels are classes, whole numbers from 0: those of the data have {flat.min():g}")
    if not len(flat) or len(flat) % total or (spec.batched and len(flat) > total):
        hint = ", such as argmax(axis=1) of one-hot labels" if len(flat) and len(flat) % total == 0 else ""
        raise UsageError(f"the data file has {len(flat)} labels for {total} requests: give one for each{hint}")
    ends = np.cumsum([len(group) for group in groups]).tolist()
    places = [range(end - len(group), end) for end, group in zip(ends, groups, strict=True)]
    order = spread(places, limit) if _groups(spec, data) else evenly(places[0], limit)
    return flat.reshape(total, -1)[list(order)]


def _grouped(spec: ModelSpec, data: Mapping[str, np.ndarray], *, say: bool = True) -> list[list[dict[str, np.ndarray]]]:
    """The one-row requests of each group."""
    return [
        _requests(spec, arrays_of_group(spec, data, group), sys.maxsize, say=say and number == 0)
        for number, group in enumerate(_groups(spec, data))
    ]


def is_grouped(spec: ModelSpec, data: Mapping[str, np.ndarray]) -> bool:
    """Whether a data file has groups of arrays with several lengths."""
    return bool(_groups(spec, data))


def _groups(spec: ModelSpec, data: Mapping[str, np.ndarray]) -> list[str]:
    """The groups of the inputs' arrays, those of the first first; an input named NAME/OTHER is no group of NAME."""
    if not groups_of(spec, data, spec.inputs[0].name) and all(name in data for name in spec.input_names):
        return []  # other arrays are not the model's
    return list(dict.fromkeys(group for tensor in spec.inputs for group in groups_of(spec, data, tensor.name)))


def _requests(
    spec: ModelSpec, data: Mapping[str, np.ndarray], limit: int, *, rows: int = 1, say: bool = True
) -> list[dict[str, np.ndarray]]:
    """The requests in arrays of one length."""
    arrays = arrays_of_inputs(spec, data, say=say)
    if not spec.batched or has_request_axis(spec, arrays):
        return whole_requests(spec, arrays, limit)
    for tensor in spec.inputs:
        if not tensor.accepts(arrays[tensor.name].shape):
            raise misfit(tensor, arrays[tensor.name])
    counts = [len(array) for array in arrays.values()]
    if rows == 1 and spec.is_uneven(counts) and spec.are_rows(counts) and min(counts) > 1:
        return [arrays]  # one request, which is computed whole
    there = common_length(arrays, "rows")
    if there < rows:
        raise UsageError(f"the data file has {there} rows, but a request needs {rows}")
    shared = {name: array.repeat(rows, 0) for name, array in arrays.items() if len(array) < there}
    starts = evenly(range(0, there - rows + 1, rows), max(1, limit // rows))
    return [
        {name: shared[name] if name in shared else array[row : row + rows] for name, array in arrays.items()}
        for row in starts
    ]


def _tensor(entry: Mapping[str, Any]) -> TensorSpec:
    dtype, shape = DType(entry["datatype"]), tuple(None if dim < 0 else dim for dim in entry["shape"])
    return TensorSpec(entry["name"], dtype, shape, text=dtype is not DType.BYTES)  # servers do not say what bytes are

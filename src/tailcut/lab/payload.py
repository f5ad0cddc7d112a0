"""Encoded inference requests of the three wires, and a plain blocking exchange for everything that is not load."""

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import orjson

from tailcut.errors import TailcutError, UsageError
from tailcut.lab.load import Payload, Target
from tailcut.lab.tls import reason, tls_context
from tailcut.spec import DType, TensorSpec
from tailcut.wire.v2.tensors import from_bytes, to_bytes

Wire = Literal["json", "binary", "raw"]
_TIMEOUT_S = 30.0


def model_path(model: str) -> str:
    """Where a server has a model, its name percent-encoded."""
    return f"/v2/models/{quote(model, safe='')}"


def encoded(wire: Literal["json", "binary", "raw", "shared"]) -> Wire:
    """The encoding that carries the same tensors in a body, where they would travel in shared memory."""
    return "binary" if wire == "shared" else wire


def infer_payload(target: Target, model: str, inputs: Mapping[str, np.ndarray], wire: Wire) -> Payload:
    """One inference request as bytes: JSON both ways, v2 binary both ways, or the bare bytes of the only input.

    Raises:
        UsageError: a raw body was asked for and there are several inputs.
    """
    if target.grpc:
        from tailcut.lab.grpc_connection import grpc_payload  # noqa: PLC0415  grpc is heavy, and few load it

        if wire != "binary":
            raise UsageError("gRPC has only one tensor encoding: leave out --wire")
        return grpc_payload(model, inputs)
    headers = {"Content-Type": "application/json"}
    if wire == "raw":
        if len(inputs) != 1:
            raise UsageError("a raw body holds one input; this model has several: use --wire binary or json")
        body = _bytes(next(iter(inputs.values())))
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"}
    elif wire == "binary":
        parts = [_bytes(array) for array in inputs.values()]
        entries = [
            _entry(name, array) | {"parameters": {"binary_data_size": len(part)}}
            for (name, array), part in zip(inputs.items(), parts, strict=True)
        ]
        lead = orjson.dumps({"inputs": entries, "parameters": {"binary_data_output": True}})
        body = b"".join([lead, *parts])
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(lead))}
    else:
        entries = [_entry(name, array) | {"data": _numbers(array)} for name, array in inputs.items()]
        body = orjson.dumps({"inputs": entries})
    return encode(target, "POST", f"{model_path(model)}/infer", body, headers)


def encode(
    target: Target, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Payload:
    """Any request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {target.authority}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in {**target.fields, **(headers or {})}.items()]
    return Payload("\r\n".join([*lines, "", ""]).encode("latin-1") + body)


def ask(target: Target, method: str, path: str, body: bytes = b"") -> Any:
    """One JSON exchange.

    Raises:
        UsageError: no server listens there, or the answer is not JSON of status 200.
    """
    connection = BlockingConnection(target)
    try:
        connection.request(method, path, body, target.fields)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        where = target.uds or target.authority
        raise UsageError(f"no server answers at {where}: {reason(error)}") from None
    finally:
        connection.close()
    try:
        value = json.loads(content) if content else None
    except ValueError:
        raise UsageError(f"{target.authority}{path} did not answer in JSON: this is not an inference server") from None
    if answer.status != 200:
        message = value.get("error") if isinstance(value, dict) else answer.reason
        raise UsageError(f"{target.authority}{path} answers {answer.status}: {message}")
    return value


def infer_once(target: Target, model: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One inference over the binary wire: the outputs by name.

    Raises:
        TailcutError: the server refused it; its own words.
    """
    request = infer_payload(target, model, inputs, "binary").request
    lead, _, body = request.partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in lead.decode().split("\r\n")[1:])
    connection = BlockingConnection(target)
    try:
        connection.request("POST", f"{model_path(model)}/infer", body, fields)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        where = target.uds or target.authority
        raise TailcutError(f"the server at {where} closed the connection: {reason(error)}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise TailcutError(f"the server answers {answer.status}: {content[:200].decode(errors='replace')}")
    json_size = int(answer.headers.get("Inference-Header-Content-Length", len(content)))
    return decode_outputs(json.loads(content[:json_size]), memoryview(content)[json_size:])


def decode_outputs(answer: Mapping[str, Any], body: memoryview) -> dict[str, np.ndarray]:
    """The outputs of an answer by name: its JSON, and the binary tensors behind that. A null is NaN."""
    outputs, at = {}, 0
    for output in answer["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        tensor = TensorSpec(output["name"], DType(output["datatype"]), tuple(output["shape"]))
        if size is None:
            outputs[tensor.name] = np.array(output["data"], tensor.dtype.numpy).reshape(output["shape"])
        else:
            outputs[tensor.name] = from_bytes(tensor, tuple(output["shape"]), body, at, size)
            at += size
    return outputs


def connected_socket(target: Target, timeout_s: float) -> socket.socket:
    """A connection to a server, which sends what it is given at once.

    Raises:
        OSError: nothing listens there.
    """
    if not target.uds:
        connection = socket.create_connection((target.host, target.port), timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = tls_context(target)
        return connection if context is None else context.wrap_socket(connection, server_hostname=target.host)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout_s)
    connection.connect(target.uds)
    return connection


class BlockingConnection(http.client.HTTPConnection):
    """A connection to a server: over TCP, with TLS, or over a Unix socket."""

    def __init__(self, target: Target) -> None:
        super().__init__(target.host, target.port, timeout=_TIMEOUT_S)
        self._target = target

    def connect(self) -> None:
        """Open the socket; HTTPConnection calls this before its first request."""
        self.sock = connected_socket(self._target, _TIMEOUT_S)


def _entry(name: str, array: np.ndarray) -> dict[str, Any]:
    return {"name": name, "datatype": DType.of(array.dtype).value, "shape": list(array.shape)}


def _numbers(array: np.ndarray) -> list[Any]:
    if array.dtype == DType.BF16.numpy:
        array = array.astype(np.float32)
    return [item.decode() if isinstance(item, bytes) else item for item in array.reshape(-1).tolist()]


def _bytes(array: np.ndarray) -> bytes:
    return to_bytes(array, DType.of(array.dtype))

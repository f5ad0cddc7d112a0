"""Encoded inference requests for the three wire formats, and blocking exchanges outside of load."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import orjson

from tailcut.errors import TailcutError, UsageError
from tailcut.lab.blocking import BlockingConnection
from tailcut.lab.load import LoadTarget, Payload
from tailcut.lab.tls import reason
from tailcut.wire.http1.answers import HttpAnswer
from tailcut.wire.v2.call import binary_lead, describe, json_body, model_path
from tailcut.wire.v2.outputs import decode_outputs

Wire = Literal["json", "binary", "raw"]


def encoded(wire: Literal["json", "binary", "raw", "shared"]) -> Wire:
    """The wire format for the same tensors in a body: binary, where they would be in shared memory."""
    return "binary" if wire == "shared" else wire


def infer_payload(target: LoadTarget, model: str, inputs: Mapping[str, np.ndarray], wire: Wire) -> Payload:
    """One inference request as bytes: JSON or v2 binary in both directions, or the raw bytes of the only input.

    Raises:
        UsageError: a raw body is wanted, but there are several inputs.
    """
    if target.grpc:
        from tailcut.lab.grpc_connection import grpc_payload  # noqa: PLC0415  grpc is heavy, and few load it

        if wire != "binary":
            raise UsageError("gRPC has only one tensor encoding: leave out --wire")
        return grpc_payload(model, inputs)
    headers = {"Content-Type": "application/octet-stream"}
    if wire == "json":
        body, headers = json_body(inputs), {"Content-Type": "application/json"}
    else:
        described, parts = describe(inputs)
        if wire == "raw" and len(parts) != 1:
            raise UsageError("a raw body holds one input; this model has several: use --wire binary or json")
        lead = b"" if wire == "raw" else binary_lead(described)
        body = b"".join([lead, *parts])
        headers["Inference-Header-Content-Length"] = str(len(lead))
    return encode(target, "POST", f"{model_path(model)}/infer", body, headers)


def encode(
    target: LoadTarget, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Payload:
    """Encode any request."""
    fields = {**target.fields, **(headers or {})}
    lines = [f"{method} {path} HTTP/1.1"]
    if "host" not in map(str.lower, fields):
        lines.append(f"Host: {target.authority}")
    lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return Payload("\r\n".join([*lines, "", ""]).encode("latin-1") + body)


def ask(target: LoadTarget, method: str, path: str, body: bytes = b"") -> Any:
    """Exchange a request for its JSON answer.

    Raises:
        UsageError: no server listens there, or the answer is not JSON with status 200.
    """
    try:
        answer = _asked(target, encode(target, method, path, body))
    except OSError as error:
        where = target.uds or target.authority
        raise UsageError(f"no server answers at {where}: {reason(error)}") from None
    try:
        value = orjson.loads(answer.body) if answer.body else None
    except ValueError:
        raise UsageError(f"{target.authority}{path} did not answer in JSON: this is not an inference server") from None
    if answer.status != 200:
        message = f": {value.get('error')}" if isinstance(value, dict) else ""
        raise UsageError(f"{target.authority}{path} answers {answer.status}{message}")
    return value


def infer_once(target: LoadTarget, model: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Make one inference in the binary wire format; returns the outputs by name.

    Raises:
        TailcutError: the server refused it; the message is the server's.
    """
    try:
        answer = _asked(target, infer_payload(target, model, inputs, "binary"))
    except OSError as error:
        where = target.uds or target.authority
        raise TailcutError(f"the server at {where} closed the connection: {reason(error)}") from None
    if answer.status != 200:
        raise TailcutError(f"the server answers {answer.status}: {answer.body[:200].decode(errors='replace')}")
    return decode_outputs(answer.body, answer.head.json_size)


def _asked(target: LoadTarget, payload: Payload) -> HttpAnswer:
    connection = BlockingConnection(target)
    try:
        connection.send(payload.request)
        return connection.answer()
    finally:
        connection.close()

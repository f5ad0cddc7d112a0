"""Encodes calls: the address of a server, and the bytes of a request. Pure.

The bytes before the tensors depend only on the model and the names, datatypes and shapes of the inputs, so they are
cached: from the second call on, encoding costs a look-up and a view of each array.
"""

import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard
from urllib.parse import urlsplit

from numpy.typing import ArrayLike

from tailcut.errors import ArgumentTypeError, InvalidInputError
from tailcut.wire.memo import BytesMemo
from tailcut.wire.trace_context import read_context, written
from tailcut.wire.v2.call import Described, Parts, binary_lead, check_model, describe, model_path

_HEADS_KEPT = 256
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A server: host and port, or the path of its Unix socket."""

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    tls: bool = False

    @classmethod
    def parse(cls, url: str) -> "ServerAddress":
        """Parse `http://HOST:PORT`, `https://HOST:PORT`, `HOST:PORT`, or `unix:PATH`.

        Raises:
            InvalidInputError: the URL is none of these.
        """
        if url.startswith("unix:"):
            return cls(uds=url.removeprefix("unix:"))
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        host = parts.hostname
        if "@" in parts.netloc:
            shown = url.replace(parts.netloc, parts.netloc.rpartition("@")[2])
            raise InvalidInputError(f"{shown!r} was given with a user or a password: give a token with token=")
        if (
            parts.scheme not in {"http", "https"}
            or not _is_host(host)
            or parts.path not in {"", "/"}
            or parts.query
            or parts.fragment
        ):
            raise InvalidInputError(
                f"{url!r} is not a server address: write http://HOST:PORT, https://HOST:PORT or unix:PATH"
            )
        tls = parts.scheme == "https"
        return cls(host, port if port is not None else 443 if tls else 80, tls=tls)

    def __str__(self) -> str:
        """The address in messages."""
        if self.uds is not None:
            return f"unix:{self.uds}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """The value of a Host header."""
        return "localhost" if self.uds is not None else str(self)


@dataclass(frozen=True, slots=True)
class InferenceCall:
    """The arguments of one inference.

    Raises:
        ArgumentTypeError: `model` or `version` is not a str, or `outputs` not a list of them.
    """

    model: str
    inputs: Mapping[str, ArrayLike]
    version: str = ""
    outputs: Sequence[str] | None = None  # None: all of them
    timeout_us: int = 0  # 0: the server's default
    trace: bytes = b""  # header lines from `trace_lines`

    def __post_init__(self) -> None:
        check_model(self.model, self.version)
        if self.outputs is not None and not _are_names(self.outputs):
            raise ArgumentTypeError(f"outputs must be None or a list of names, such as ['y'], got {self.outputs!r}")

    def lists(self) -> list[str]:
        """The names of the inputs that are not arrays, such as lists; what is no mapping has none."""
        if type(self.inputs) is not dict and not hasattr(self.inputs, "items"):
            return []
        return [name for name, value in self.inputs.items() if not hasattr(value, "dtype")]


@dataclass(slots=True)
class OutgoingRequest:
    """The parts of a request, and how often it was sent and answered."""

    parts: Parts
    begun: int = 0
    answered: int = 0

    @property
    def settled(self) -> bool:
        """Whether every copy was answered. The server may still be working on one that was not."""
        return self.begun == self.answered


class Encoder:
    """Encodes calls to one server or to several, with the token where there is one.

    Args:
        host: the value of the Host header.
        token: of the servers; None: they need none.

    Raises:
        InvalidInputError: the token has characters that are not allowed in a header.
    """

    def __init__(self, host: str, token: str | None = None) -> None:
        if token is not None and not _TOKEN.fullmatch(token):
            raise InvalidInputError("the token must be printable ASCII characters without spaces")
        self._fields = [f"Host: {host}"]
        if token is not None:
            self._fields.append(f"Authorization: Bearer {token}")
        self._heads: BytesMemo[object, bytes] = BytesMemo(_HEADS_KEPT)

    def get(self, path: str) -> Parts:
        """A GET request."""
        return ["\r\n".join([f"GET {path} HTTP/1.1", *self._fields, "", ""]).encode("latin-1")]

    def post(self, path: str, body: bytes) -> Parts:
        """A POST request with a JSON body."""
        lines = [f"POST {path} HTTP/1.1", *self._fields, "Content-Type: application/json"]
        return ["\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body]

    def infer(self, call: InferenceCall) -> Parts:
        """An inference with binary inputs and outputs: the head, then the bytes of each input, as views of the arrays.

        Raises:
            InvalidInputError: the protocol has no name for the dtype of an input.
        """
        described, data = describe(call.inputs)
        outputs = None if call.outputs is None else tuple(call.outputs)
        key = (call.model, call.version, outputs, call.timeout_us, described)
        head = self._heads.get(key)
        if head is None:
            head = self._heads.keep(key, self._head(call, described))
        return with_trace([head, *data], call.trace)

    def _head(self, call: InferenceCall, described: Sequence[Described]) -> bytes:
        lead = binary_lead(described, call.outputs, call.timeout_us)
        length = len(lead) + sum(tensor.size for tensor in described)
        lines = [
            f"POST {model_path(call.model, call.version)}/infer HTTP/1.1",
            *self._fields,
            "Content-Type: application/octet-stream",
            f"Inference-Header-Content-Length: {len(lead)}",
            f"Content-Length: {length}",
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + lead


def _is_host(name: str | None) -> TypeGuard[str]:
    """Whether a name can be looked up: no label of it is empty or over 63 bytes."""
    try:
        return bool(name and name.encode("idna") and name.isprintable() and " " not in name)
    except UnicodeError:
        return False


def _are_names(outputs: object) -> bool:
    """Whether it is a collection of strings, and not a string itself."""
    return (
        isinstance(outputs, Collection)
        and not isinstance(outputs, str)
        and all(isinstance(name, str) for name in outputs)
    )


def trace_lines(traceparent: str | None = None) -> bytes:
    """The header lines of a W3C trace context: this one or, for None, that of OpenTelemetry's current span.

    Raises:
        InvalidInputError: `traceparent` is malformed.
    """
    if traceparent is not None:
        if not isinstance(traceparent, str) or not traceparent.isascii() or read_context(traceparent.encode()) is None:
            raise InvalidInputError(f"{traceparent!r} is not a W3C traceparent: write 00-TRACE-SPAN-FLAGS")
        return f"traceparent: {traceparent}\r\n".encode()
    current, state = current_trace()
    lines = [f"traceparent: {current}\r\n"] * bool(current) + [f"tracestate: {state}\r\n"] * bool(state)
    return "".join(lines).encode("latin-1")


def current_trace() -> tuple[str, str]:
    """The `traceparent` and the `tracestate` of OpenTelemetry's current span; empty where there is none.

    OpenTelemetry is not imported here, because a program without it has no span.
    """
    current_span = getattr(sys.modules.get("opentelemetry.trace"), "get_current_span", None)
    context = None if current_span is None else current_span().get_span_context()
    if context is None or not context.is_valid:
        return "", ""
    sampled = bool(context.trace_flags.sampled)
    state = context.trace_state.to_header() if context.trace_state else ""
    return written(f"{context.trace_id:032x}", f"{context.span_id:016x}", sampled=sampled), state


def with_trace(parts: Parts, lines: bytes) -> Parts:
    """A request with the lines of its trace context added to its head."""
    if not lines:
        return parts
    head = bytes(parts[0])
    at = head.index(b"\r\n\r\n") + 2
    return [head[:at] + lines + head[at:], *parts[1:]]

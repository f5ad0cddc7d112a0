"""Responses from bytes: when one is complete, its content, and the error that it stands for. Pure: no socket.

A reader provides the memory for the next bytes, so that a large response is received directly into the memory of the
resulting arrays.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from tailcut.errors import (
    DeadlineExceededError,
    EngineError,
    InvalidInputError,
    NotFoundError,
    QueueFullError,
    TailcutError,
    TooLargeError,
    UnreachableError,
)
from tailcut.spec import DType, TensorSpec
from tailcut.wire.memo import BytesMemo
from tailcut.wire.v2.tensors import from_bytes

_ROOM_BYTES = 64 * 1024
_LONGEST_HEAD = 32 * 1024
_LARGEST_BODY = 1 << 40
_KEPT = 256


@dataclass(frozen=True, slots=True)
class _Head:
    status: int
    length: int
    json_size: int | None
    closes: bool
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer."""

    status: int
    body: bytearray
    json_size: int | None
    closes: bool  # the connection ends with it
    retry_after_s: float

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            UnreachableError: it is none.
        """
        return _json(self.body)


class AnswerReader:
    """Reads one answer after the other off a connection on which one request at a time is sent."""

    def __init__(self) -> None:
        self._room = bytearray(_ROOM_BYTES)
        self._view = memoryview(self._room)
        self._filled = 0
        self._head: _Head | None = None
        self._body = bytearray()
        self._rest = memoryview(b"")  # of the body, still to come

    @property
    def begun(self) -> bool:
        """Whether any byte of the answer has come."""
        return self._filled > 0 or self._head is not None

    def target(self) -> memoryview:
        """Where the next bytes are to be received to."""
        return self._rest if self._head is not None else self._view[self._filled :]

    def received(self, count: int) -> Answer | None:
        """Take note of `count` bytes in the target; the answer when it is complete.

        Raises:
            UnreachableError: this is no answer of an inference server.
        """
        if self._head is not None:
            self._rest = self._rest[count:]
            return self._complete() if not self._rest else None
        self._filled += count
        end = self._room.find(b"\r\n\r\n", 0, self._filled)
        if end < 0:
            if self._filled > _LONGEST_HEAD:
                raise UnreachableError("the server's response head does not end")
            return None
        self._head = head = _read_head(bytes(self._view[: end + 4]))
        came = self._filled - end - 4
        if came > head.length:
            raise UnreachableError("the server sent data after its answer")
        self._body = bytearray(head.length)
        self._body[:came] = self._view[end + 4 : self._filled]
        self._rest = memoryview(self._body)[came:]
        return self._complete() if not self._rest else None

    def _complete(self) -> Answer:
        head, body = self._head, self._body
        assert head is not None  # noqa: S101  its callers have it
        self._filled, self._head, self._body, self._rest = 0, None, bytearray(), memoryview(b"")
        return Answer(head.status, body, head.json_size, head.closes, head.retry_after_s)


_heads: BytesMemo[bytes, _Head] = BytesMemo(_KEPT)


def _read_head(data: bytes) -> _Head:
    kept = _heads.get(data)
    if kept is not None:
        return kept
    start, *lines = data[:-4].decode("latin-1").split("\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status, length = start[9:12], fields.get("content-length", "")
    if not start.startswith("HTTP/1.") or not status.isdecimal() or not length.isdecimal():
        raise UnreachableError(
            "the server at this address is not an HTTP/1.1 inference server that sends Content-Length"
        )
    if int(length) > _LARGEST_BODY:
        raise UnreachableError(f"the server announced an answer of {int(length)} bytes, which is too large")
    json_size = fields.get("inference-header-content-length", "")
    after, after_ms = fields.get("retry-after", ""), fields.get("retry-after-ms", "")
    pause_s = int(after_ms) / 1000 if after_ms.isdecimal() else int(after) if after.isdecimal() else 0
    closes = fields.get("connection", "").lower() == "close" or start.startswith("HTTP/1.0")
    size = int(json_size) if json_size.isdecimal() else None
    head = _Head(int(status), int(length), size, closes, pause_s)
    return _heads.keep(data, head)


_ERRORS: Mapping[int, type[TailcutError]] = {
    400: InvalidInputError,
    404: NotFoundError,
    408: DeadlineExceededError,
    413: TooLargeError,
    500: EngineError,
    504: DeadlineExceededError,
}


def error_of(answer: Answer) -> TailcutError | None:
    """The error that an answer stands for, with the server's own words; None for a good one."""
    if answer.status == 200:
        return None
    try:
        said = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        said = None
    message = said.get("error") if isinstance(said, dict) else None
    message = str(message or f"the server answers with status {answer.status}")
    if answer.status == 503:
        return QueueFullError(message, answer.retry_after_s)
    return _ERRORS.get(answer.status, TailcutError)(message)


@dataclass(frozen=True, slots=True)
class _Slice:
    tensor: TensorSpec
    shape: tuple[int, ...]
    offset: int
    size: int
    shared: bool = False  # in shared memory, from whose start `offset` counts


_layouts: BytesMemo[bytes, tuple[_Slice, ...]] = BytesMemo(_KEPT)


def outputs_of(answer: Answer, memory: memoryview | None = None) -> dict[str, np.ndarray]:
    """The outputs by name. Arrays are writable and stand on the answer's own memory (BYTES: read-only objects).

    Args:
        answer: a good one.
        memory: the region that the request gave outputs a place in; what came there is copied out of it.

    Raises:
        UnreachableError: the answer breaks the protocol.
    """
    if answer.json_size is None and memory is None:
        return _from_json(answer.json())
    body = memoryview(answer.body)
    json_size = len(body) if answer.json_size is None else answer.json_size
    lead = bytes(body[:json_size])
    layout = _layouts.get(lead)
    try:
        if layout is None:
            layout = _layouts.keep(lead, _layout(_json(lead)))
        return {part.tensor.name: _array(part, body[json_size:], memory) for part in layout}
    except (KeyError, TypeError, ValueError, TailcutError) as error:
        raise UnreachableError("the server's answer does not follow the protocol") from error


def _array(part: _Slice, body: memoryview, memory: memoryview | None) -> np.ndarray:
    if not part.shared:
        return from_bytes(part.tensor, part.shape, body, part.offset, part.size)
    if memory is None:
        raise TypeError("the answer names a region of shared memory that the request did not")
    return from_bytes(part.tensor, part.shape, _copy(memory[part.offset : part.offset + part.size]), 0, part.size)


def _copy(data: memoryview) -> memoryview:
    """A copy in memory that arrays may stand on and that is not zeroed before."""
    room = np.empty(len(data), np.uint8).data
    room[:] = data
    return room


def _layout(described: Any) -> tuple[_Slice, ...]:
    parts, offset = [], 0
    for output in described["outputs"]:
        shape, said = tuple(output["shape"]), output["parameters"]
        tensor = TensorSpec(output["name"], DType(output["datatype"]), shape)
        if "shared_memory_region" in said:
            place = said.get("shared_memory_offset", 0)
            parts.append(_Slice(tensor, shape, place, said["shared_memory_byte_size"], shared=True))
        else:
            parts.append(_Slice(tensor, shape, offset, said["binary_data_size"]))
            offset += said["binary_data_size"]
    return tuple(parts)


def _from_json(described: Any) -> dict[str, np.ndarray]:
    try:
        return {
            output["name"]: np.array(output["data"], DType(output["datatype"]).numpy).reshape(output["shape"])
            for output in described["outputs"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UnreachableError("the server's answer does not follow the protocol") from error


def _json(data: bytes | bytearray) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        raise UnreachableError("the server's answer is not JSON") from None

"""Interprets answers for a client's calls: the error that one means, or its outputs. Pure."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from tailcut.client.policy import FailedError
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
from tailcut.wire.http1.answers import HttpAnswer
from tailcut.wire.v2.outputs import decode_outputs

_DEPTH, _LISTED = 4, 5  # limits for reading an error: nesting, and items of a list
_ERRORS: Mapping[int, type[TailcutError]] = {
    400: InvalidInputError,
    404: NotFoundError,
    408: DeadlineExceededError,
    413: TooLargeError,
    500: EngineError,
    502: UnreachableError,
    504: DeadlineExceededError,
}


def error_of(answer: HttpAnswer) -> TailcutError | None:
    """The error that an answer means, with the server's message; None for a successful one."""
    if answer.status == 200:
        return None
    try:
        content = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        content = None
    message = _words(content) or f"the server answers with status {answer.status}"
    after_s = answer.head.retry_after_s
    if answer.status == 503 or (answer.status == 429 and after_s > 0):
        return QueueFullError(message, after_s)
    return _ERRORS.get(answer.status, FailedError if answer.status >= 500 else TailcutError)(message)


def _words(content: Any, depth: int = 0) -> str:
    """The message of an error: v2 has it in `error`, FastAPI in `detail`, others in an object with `message`."""
    if isinstance(content, str):
        return content
    if depth == _DEPTH:
        return ""
    if isinstance(content, list):
        return "; ".join(filter(None, (_words(item, depth + 1) for item in content[:_LISTED])))
    if not isinstance(content, dict):
        return ""
    location = content.get("loc")  # from FastAPI, for an invalid input
    before = f"{'.'.join(map(str, location))}: " if isinstance(location, list) else ""
    for key in ("error", "message", "detail", "msg"):
        words = _words(content.get(key), depth + 1)
        if words:
            return before + words
    return ""


def outputs_of(answer: HttpAnswer, memory: memoryview | None = None) -> dict[str, np.ndarray]:
    """The outputs by name, from `decode_outputs`; `memory` is the region that the request named.

    Raises:
        UnreachableError: the answer violates the protocol, or is compressed.
    """
    answer.check_coding()
    return decode_outputs(answer.body, answer.head.json_size, memory)

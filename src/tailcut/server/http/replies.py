"""HTTP answers to refused and failed requests."""

from collections.abc import Mapping
from functools import lru_cache
from math import ceil

import orjson

from tailcut.errors import Code, QueueFullError, ReleasedError, TailcutError
from tailcut.server.faults import public_message, valid_text
from tailcut.server.http.page import HTML
from tailcut.wire.http1.response import BINARY, dated, head, reply

_UNLOADED_S = 0.1  # after that, its successor may answer
STATUS_OF: Mapping[Code, int] = {
    Code.INVALID: 400,
    Code.NOT_FOUND: 404,
    Code.TOO_LARGE: 413,
    Code.UNSUPPORTED: 400,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE: 504,
    Code.INTERNAL: 500,
}


class Refusal(Exception):  # noqa: N818  an answer rather than an error
    """The answer to a request that is refused: an error object, or a page where one is given."""

    def __init__(
        self, status: int, message: str, headers: Mapping[str, str] | None = None, page: bytes | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers
        self.page = page


@lru_cache(1024)
def response_head(length: int, json_size: int | None, date: bytes, *, close: bool) -> bytes:
    """The head of an inference answer, cached until the date changes: the answers of one model have few sizes."""
    if json_size is None:
        return dated(head(200, length, close=close), date)
    headers = {"Inference-Header-Content-Length": str(json_size)}
    return dated(head(200, length, content_type=BINARY, close=close, headers=headers), date)


def error_reply(status: int, message: str, *, close: bool = False, headers: Mapping[str, str] | None = None) -> bytes:
    """An answer with the protocol's error object."""
    return reply(status, orjson.dumps({"error": valid_text(message)}), close=close, headers=headers)


def failure_reply(error: TailcutError, *, close: bool = False) -> bytes:
    """The answer to an error: 503 says when to try again, 500 leaves the engine's message to the log."""
    if isinstance(error, ReleasedError):  # unloaded while the body arrived
        return error_reply(503, "the model was unloaded", close=close, headers=retry_after(_UNLOADED_S))
    if isinstance(error, QueueFullError):
        return _full_reply(str(error), error.retry_after_s, close)
    return error_reply(STATUS_OF[error.code], public_message(error), close=close)


def refusal_reply(refusal: Refusal, *, close: bool = False) -> bytes:
    """The answer to a refused request."""
    if refusal.page is not None:
        return reply(refusal.status, refusal.page, content_type=HTML, close=close, headers=refusal.headers)
    return error_reply(refusal.status, refusal.message, close=close, headers=refusal.headers)


def refused(why: Refusal | TailcutError, *, close: bool = False) -> bytes:
    """The answer to a refused or failed request."""
    return refusal_reply(why, close=close) if isinstance(why, Refusal) else failure_reply(why, close=close)


@lru_cache(256)
def _full_reply(message: str, retry_after_s: float, close: bool) -> bytes:  # noqa: FBT001  a key of the cache
    """Cached, because most requests get this answer under overload."""
    return error_reply(503, message, close=close, headers=retry_after(retry_after_s))


def retry_after(pause_s: float) -> dict[str, str]:
    """When to try again: Retry-After in whole seconds (RFC 9110 section 10.2.3), maybe 0, and in milliseconds."""
    return {"Retry-After": str(round(pause_s)), "Retry-After-Ms": str(ceil(pause_s * 1000))}

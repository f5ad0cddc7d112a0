"""Several requests in flight at once, and their whole answers: for checking what a server says rather than how fast."""

import http.client
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from tailcut.errors import TailcutError
from tailcut.lab.load import Payload, Target
from tailcut.lab.payload import connected_socket, decode_outputs

_TIMEOUT_S = 120.0
_SMALL_BYTES = 8 * 1024  # sent in one piece; of a larger one the last byte is sent when the others are there


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request; `status` 0 where the connection broke."""

    status: int
    outputs: dict[str, np.ndarray]
    message: str = ""


class Burst:
    """Kept-alive connections that send their requests together, one each; a context manager that closes them.

    A server that batches what arrives together gets the requests of one call in as few batches as it likes. The first
    calls open the connections; later ones use them again, as a client with a pool does.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._sockets: list[socket.socket | None] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in range(len(self._sockets)):
            self._drop(number)

    def ask(self, payloads: Sequence[Payload]) -> list[Reply]:
        """Send all, then read all answers."""
        self._sockets += [None] * (len(payloads) - len(self._sockets))
        failed: dict[int, str] = {}
        for small in (False, True):
            for number, payload in enumerate(payloads):
                if (len(payload.request) <= _SMALL_BYTES) is small:
                    piece = payload.request if small else payload.request[:-1]
                    self._send(number, piece, failed)
        for number, payload in enumerate(payloads):
            if len(payload.request) > _SMALL_BYTES:
                self._send(number, payload.request[-1:], failed)
        return [
            Reply(0, {}, failed[number]) if number in failed else self._receive(number)
            for number in range(len(payloads))
        ]

    def _send(self, number: int, data: bytes, failed: dict[int, str]) -> None:
        if number in failed:
            return
        try:
            if self._sockets[number] is None:
                self._sockets[number] = connected_socket(self._target, _TIMEOUT_S)
            self._sockets[number].sendall(data)  # type: ignore[union-attr]  # it was set above
        except OSError as error:
            self._drop(number)
            failed[number] = str(error) or type(error).__name__

    def _receive(self, number: int) -> Reply:
        connection = self._sockets[number]
        assert connection is not None  # noqa: S101  it was sent on
        try:
            answer = http.client.HTTPResponse(connection, method="POST")
            answer.begin()
            content = answer.read()
            if answer.will_close:
                self._drop(number)
        except (OSError, http.client.HTTPException) as error:
            self._drop(number)
            return Reply(0, {}, str(error) or type(error).__name__)
        if answer.status != 200:
            return Reply(answer.status, {}, _error(content))
        try:
            json_size = int(answer.headers.get("Inference-Header-Content-Length", len(content)))
            return Reply(200, decode_outputs(json.loads(content[:json_size]), memoryview(content)[json_size:]))
        except (ValueError, KeyError, TailcutError) as error:
            return Reply(0, {}, f"the answer cannot be read: {error}")

    def _drop(self, number: int) -> None:
        connection, self._sockets[number] = self._sockets[number], None
        if connection is not None:
            connection.close()


def _error(content: bytes) -> str:
    """The server's own words."""
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode(errors="replace")

"""Sends several requests at once and reads their whole answers, to check what a server answers, not how fast."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from tailcut.errors import TailcutError
from tailcut.lab.blocking import BlockingConnection
from tailcut.lab.load import LoadTarget, Payload
from tailcut.wire.v2.outputs import decode_outputs

_TIMEOUT_S = 120.0
_SMALL_BYTES = 8 * 1024  # sent as a whole; the last byte of a larger request is sent when the others have arrived


@dataclass(frozen=True, slots=True)
class BurstAnswer:
    """The answer to one request; `status` 0 where the connection broke."""

    status: int
    outputs: dict[str, np.ndarray]
    message: str = ""


class Burst:
    """Kept-alive connections that send one request each at the same time; a context manager that closes them.

    So a server can batch the requests of one call. The first calls open the connections; later ones reuse them, like a
    client with a pool.
    """

    def __init__(self, target: LoadTarget) -> None:
        self._target = target
        self._connections: list[BlockingConnection | None] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in range(len(self._connections)):
            self._drop(number)

    def ask(self, payloads: Sequence[Payload]) -> list[BurstAnswer]:
        """Send all requests, then read all answers."""
        self._connections += [None] * (len(payloads) - len(self._connections))
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
            BurstAnswer(0, {}, failed[number]) if number in failed else self._receive(number)
            for number in range(len(payloads))
        ]

    def _send(self, number: int, data: bytes, failed: dict[int, str]) -> None:
        if number in failed:
            return
        try:
            if self._connections[number] is None:
                self._connections[number] = BlockingConnection(self._target, _TIMEOUT_S)
            self._connections[number].send(data)  # type: ignore[union-attr]  # set above
        except OSError as error:
            self._drop(number)
            failed[number] = str(error) or type(error).__name__

    def _receive(self, number: int) -> BurstAnswer:
        connection = self._connections[number]
        assert connection is not None  # noqa: S101  the request was sent on it
        try:
            answer = connection.answer()
            if answer.closes:
                self._drop(number)
        except OSError as error:
            self._drop(number)
            return BurstAnswer(0, {}, str(error) or type(error).__name__)
        if answer.status != 200:
            return BurstAnswer(answer.status, {}, _error(answer.body))
        try:
            return BurstAnswer(200, decode_outputs(answer.body, answer.head.json_size))
        except TailcutError as error:
            return BurstAnswer(0, {}, f"the answer cannot be read: {error}")

    def _drop(self, number: int) -> None:
        connection, self._connections[number] = self._connections[number], None
        if connection is not None:
            connection.close()


def _error(content: bytearray) -> str:
    """The server's error message."""
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode(errors="replace")

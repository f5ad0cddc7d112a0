"""Questions about the server, answered at once or after a while."""

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from tailcut.errors import TailcutError
from tailcut.server.http.plan import Plan
from tailcut.server.http.replies import Refusal, refused
from tailcut.server.http.writer import AnswerWriter
from tailcut.server.limits import QUESTION_BYTES
from tailcut.server.state import ServerState
from tailcut.wire.http1.head import accept_of
from tailcut.wire.inflate import WBITS, inflate


class Connection(Protocol):
    """The connection, as far as its questions are concerned."""

    def go_on(self) -> None:
        """The message in hand is answered."""

    def close(self) -> None:
        """Close after what has been written."""


class Questions:
    """Answers the questions of one connection."""

    __slots__ = ("_connection", "_state", "_work", "_writer")

    def __init__(self, state: ServerState, writer: AnswerWriter, connection: Connection) -> None:
        self._state = state
        self._writer = writer
        self._connection = connection
        self._work: asyncio.Task[None] | None = None  # an answer that takes a while

    def answer(self, plan: Plan, body: bytes) -> None:
        """Answer a question whose whole body is here."""
        try:
            if plan.encoding:
                body = inflate(body, QUESTION_BYTES, wbits=WBITS[plan.encoding])
            arguments: tuple[bytes | str, ...] = (body, *plan.arguments) if plan.takes_body else plan.arguments
            if plan.negotiates:
                arguments = (*arguments, accept_of(self._writer.head))
            answer = plan.handler(self._state.context, *arguments)  # type: ignore[misc]  # ANSWER plans have one
        except (Refusal, TailcutError) as error:
            answer = refused(error)
        if isinstance(answer, bytes):
            self._tell(plan, answer)
            return
        self._work = self._state.loop.create_task(self._answer_later(plan, answer))

    async def _answer_later(self, plan: Plan, coming: Awaitable[bytes]) -> None:
        """The answer of work that takes a while: it goes on where the client leaves."""
        try:
            answer = await coming
        except (Refusal, TailcutError) as error:
            answer = refused(error)
        if not self._writer.transport.is_closing():
            self._tell(plan, answer)
            self._connection.go_on()

    def _tell(self, plan: Plan, answer: bytes) -> None:
        if self._writer.tell(plan, answer):
            self._connection.close()

"""Requests about the server and its models, which are answered at once or after a while."""

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from tailcut.errors import TailcutError
from tailcut.server.faults import fault
from tailcut.server.http.plan import RequestPlan
from tailcut.server.http.replies import Refusal, refused
from tailcut.server.http.watching import Watching
from tailcut.server.http.writer import AnswerWriter
from tailcut.server.limits import QUESTION_BYTES
from tailcut.server.state import ServerState
from tailcut.wire.http1.head import accept_of
from tailcut.wire.inflate import WBITS, inflate


class QueryConnection(Protocol):
    """What queries need of their connection."""

    paused: bool

    def go_on(self) -> None:
        """Go on with the next message after an answer."""

    def close(self) -> None:
        """Close after what has been written."""


class HttpQueries:
    """Answers the queries of one connection."""

    __slots__ = ("_connection", "_state", "_work", "_writer", "watching")

    def __init__(self, state: ServerState, writer: AnswerWriter, connection: QueryConnection) -> None:
        self._state = state
        self._writer = writer
        self._connection = connection
        self._work: asyncio.Task[None] | None = None  # makes an answer that takes a while
        self.watching: Watching | None = None  # sends an endless answer

    def answer(self, plan: RequestPlan, body: bytes) -> None:
        """Answer a query whose body is complete."""
        try:
            if plan.encoding:
                body = inflate(body, QUESTION_BYTES, wbits=WBITS[plan.encoding])
            arguments: tuple[bytes | str, ...] = (body, *plan.arguments) if plan.takes_body else plan.arguments
            if plan.negotiates:
                arguments = (*arguments, plan.accept or accept_of(self._writer.head))
            answer = plan.handler(self._state.context, *arguments)  # type: ignore[misc]  # ANSWER plans have one
            if plan.watches and isinstance(answer, bytes):
                self._watch(answer, is_head=plan.head.method == b"HEAD")
                return
        except Exception as error:  # noqa: BLE001  the client waits for an answer, whatever went wrong
            answer = _told(error)
        if isinstance(answer, bytes):
            self.tell(plan, answer)
            return
        self._work = self._state.loop.create_task(self._answer_later(plan, answer))

    def _watch(self, head: bytes, *, is_head: bool) -> None:
        """Begin an endless answer with this head."""
        if is_head:
            self._writer.begin(head, b"")
            self._connection.close()
            return
        watching = Watching(self._state.broadcast, self._writer, self._connection)
        watching.begin(head)
        self.watching = watching

    def leave(self) -> None:
        """The client has disconnected."""
        if self.watching is not None:
            self.watching.leave()

    async def _answer_later(self, plan: RequestPlan, coming: Awaitable[bytes]) -> None:
        """Answer when the work is done, which goes on when the client disconnects."""
        try:
            answer = await coming
        except Exception as error:  # noqa: BLE001  as in `answer`
            answer = _told(error)
        if not self._writer.transport.is_closing():
            self.tell(plan, answer)
            self._connection.go_on()

    def tell(self, plan: RequestPlan, answer: bytes) -> None:
        """Write the answer to a message that has been read completely."""
        if self._writer.tell(plan, answer):
            self._connection.close()


def _told(error: Exception) -> bytes:
    """The answer to a failed query: the client's mistake, or that the server failed, which the log explains."""
    return refused(error if isinstance(error, Refusal | TailcutError) else Refusal(500, fault(error)))

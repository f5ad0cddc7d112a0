"""A client that repeats itself: when its connection takes the fast path, and how it comes back from there.

Raw bodies repeat themselves if their heads mean the same; `wire/http1` counts those. Other bodies do if the bytes
around their data are the same; they are compared once a few have come.
"""

import asyncio
import time
from typing import Protocol

from tailcut.errors import TailcutError
from tailcut.server.http.plan import RequestPlan
from tailcut.server.http.writer import AnswerWriter
from tailcut.server.state import ServerState
from tailcut.spec import ModelSpec
from tailcut.wire.http1.connection import Http1Connection
from tailcut.wire.v2 import Response
from tailcut.wire.v2.template import Template, template_of

_RETRY_AFTER_MESSAGES = 64  # until a connection that left the fast path tries it again
STEADY = 3  # messages in a row, and a client takes the fast path


class RepeatingConnection(Protocol):
    """The connection, as far as this is concerned."""

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes of it stand in the receive buffer."""

    def take_up(self, data: bytes) -> None:
        """Read what it has sent."""

    def failed(self, error: TailcutError) -> None:
        """There will be no answer to the current message."""

    def go_on(self) -> None:
        """The current message is answered."""

    def close(self) -> None:
        """Close after what has been written."""


class Repeating:
    """One connection's way to the fast path and back; it stands there for the connection."""

    __slots__ = ("_alike", "_before", "_connection", "_owed", "_state", "_wire", "_writer", "fd", "transport")

    def __init__(
        self,
        state: ServerState,
        wire: Http1Connection[RequestPlan],
        writer: AnswerWriter,
        connection: RepeatingConnection,
    ) -> None:
        self._state = state
        self._wire = wire
        self._writer = writer
        self._connection = connection
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anything is received
        self.fd = -1  # of its socket while it takes the fast path
        self._owed: int | None = None  # the answer that it had not yet when it came back from there
        self._alike = 0  # messages that were not raw rows, and may be alike
        self._before: Template | None = None  # of the last one that was looked at

    # Going.

    def take_rows(self, plan: RequestPlan, body: memoryview) -> bool:
        """Take the fast path with a whole body of one row, whose head has come often enough: STEADY times."""
        return self._take(plan, Template.raw(plan.of_model.model.spec, plan.rows), body, plan.length)

    def may_take(self) -> bool:
        """Count a message that is more than rows; whether `take` is to be asked."""
        self._alike += 1
        return self._alike > STEADY and self._state.fast_path is not None

    def take(self, plan: RequestPlan, spec: ModelSpec, body: bytes, row: memoryview) -> bool:
        """Take the fast path with a body that was read as `row`, where the one before was the same but for its data."""
        before, template = self._before, template_of(spec, body, plan.json_size)
        self._before = template
        if template is None or (
            before is not None and (before.before, before.behind) != (template.before, template.behind)
        ):
            self._alike = -_RETRY_AFTER_MESSAGES
            return False
        return before is not None and self._take(plan, template, row, len(body))

    def _take(self, plan: RequestPlan, template: Template, row: memoryview, length: int) -> bool:
        wire, fast_path = self._wire, self._state.fast_path
        if fast_path is None or wire.ended or wire.more:
            return False
        if fast_path.join(self, plan, wire.head, template, row, length):
            wire.repeats = 0
            wire.answered()
            return True
        wire.repeats = self._alike = -_RETRY_AFTER_MESSAGES
        return False

    # While it is there.

    @property
    def busy(self) -> bool:
        """Whether it waits for an answer."""
        fast_path = self._state.fast_path
        return fast_path is not None and fast_path.busy(self.fd)

    @property
    def idle_since(self) -> float:
        """When it was last heard or answered, in the loop's seconds."""
        fast_path = self._state.fast_path
        return fast_path.seen(self.fd) if fast_path is not None else self._writer.idle_since

    # Coming back.

    def leave(self) -> None:
        """Come back, wherever it is."""
        if self.fd >= 0 and self._state.fast_path is not None:
            self._state.fast_path.leave(self)

    def forget(self) -> None:
        """The client has gone, and what it is owed with it."""
        self.leave()
        if self._owed is not None and self._state.fast_path is not None:
            self._state.fast_path.forget(self._owed)

    def returned(self, owed: int | None, head: bytes) -> None:
        """It no longer takes the fast path; `owed` is the answer that is still on its way there, `head` its last."""
        self._wire.resume(head)
        self._wire.repeats = self._alike = -_RETRY_AFTER_MESSAGES
        self._writer.idle_since = self._state.now
        if owed is not None:
            self._writer.began_ns = time.monotonic_ns()  # about: it has come since the last pass but one
            self._wire.owes()
            self._owed = owed

    def buffer_updated(self, nbytes: int) -> None:
        """What it came back for stands in the receive buffer."""
        self._connection.buffer_updated(nbytes)

    def take_up(self, data: bytes) -> None:
        """It has sent this, the beginning of a message."""
        self._connection.take_up(data)

    def answer_owed(self, answer: Response) -> None:
        """The answer that it waited for when it came back."""
        self._owed = None
        if self._writer.respond(answer):
            self._connection.close()
        self._connection.go_on()

    def failed(self, error: TailcutError) -> None:
        """There will be none."""
        self._owed = None
        self._connection.failed(error)

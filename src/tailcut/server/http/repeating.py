"""Clients that repeat themselves: when a connection takes the fast path, and how it returns from there.

Raw bodies count as repeated if their heads have the same meaning; `wire/http1` counts those. Other bodies do if the
bytes around their data are the same; they are compared once a few have come.
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

_RETRY_AFTER_MESSAGES = 64  # after leaving the fast path, until the connection tries it again
STEADY = 3  # equal messages in a row, after which a client takes the fast path


class RepeatingConnection(Protocol):
    """What this module needs of the connection."""

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` bytes are in the receive buffer."""

    def take_up(self, data: bytes) -> None:
        """Go on with a message whose beginning, `data`, was received on the fast path."""

    def failed(self, error: TailcutError) -> None:
        """The current message failed: answer with the error."""

    def go_on(self) -> None:
        """Go on with the next message after an answer."""

    def close(self) -> None:
        """Close after what has been written."""


class Repeating:
    """Moves one connection to the fast path and back, and represents it there (`FastConnection`)."""

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
        self._owed: int | None = None  # the answer that was pending when it returned
        self._alike = 0  # number of messages other than raw rows, which may be alike
        self._before: Template | None = None  # of the last message that was compared

    # To the fast path.

    def take_rows(self, plan: RequestPlan, body: memoryview) -> bool:
        """Take the fast path with a complete body of rows whose head has come `STEADY` times; returns whether."""
        return self._take(plan, Template.raw(plan.of_model.model.spec, plan.rows), body, plan.length)

    def may_take(self) -> bool:
        """Count a message that is more than rows; returns whether to try `take`."""
        self._alike += 1
        return self._alike > STEADY and self._state.fast_path is not None

    def take(self, plan: RequestPlan, spec: ModelSpec, body: bytes, row: memoryview) -> bool:
        """Take the fast path with a body that was read as `row`, if the last one differed only in its data."""
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

    # On the fast path.

    @property
    def busy(self) -> bool:
        """Whether it waits for an answer."""
        fast_path = self._state.fast_path
        return fast_path is not None and fast_path.busy(self.fd)

    @property
    def idle_since(self) -> float:
        """When it last received or was sent something, in seconds of the loop's clock."""
        fast_path = self._state.fast_path
        return fast_path.seen(self.fd) if fast_path is not None else self._writer.idle_since

    # Back to the standard path.

    def leave(self) -> None:
        """Return to the standard path, if it is on the fast path."""
        if self.fd >= 0 and self._state.fast_path is not None:
            self._state.fast_path.leave(self)

    def forget(self) -> None:
        """The client has disconnected: drop its pending answer."""
        self.leave()
        if self._owed is not None and self._state.fast_path is not None:
            self._state.fast_path.forget(self._owed)

    def returned(self, owed: int | None, head: bytes) -> None:
        """It has left the fast path; `owed` identifies an answer that is pending there, `head` is its last head."""
        self._wire.resume(head)
        self._wire.repeats = self._alike = -_RETRY_AFTER_MESSAGES
        self._writer.idle_since = self._state.now
        if owed is not None:
            self._writer.began_ns = time.monotonic_ns()  # approximately: it came after the pass before the last
            self._wire.owes()
            self._owed = owed

    def buffer_updated(self, nbytes: int) -> None:
        """The message for which it returned is in the receive buffer."""
        self._connection.buffer_updated(nbytes)

    def take_up(self, data: bytes) -> None:
        """Go on with a message whose beginning, `data`, was received on the fast path."""
        self._connection.take_up(data)

    def answer_owed(self, answer: Response) -> None:
        """Write the answer that was pending when it returned."""
        self._owed = None
        if self._writer.respond(answer):
            self._connection.close()
        self._connection.go_on()

    def failed(self, error: TailcutError) -> None:
        """Write an error instead of that answer."""
        self._owed = None
        self._connection.failed(error)

"""Writes the answers of one connection: dates and counts them, and joins their parts where that is cheap."""

import asyncio
import logging
from collections.abc import Sequence

from tailcut.errors import Code, TailcutError
from tailcut.server.access_log import trace_of_head, with_trace
from tailcut.server.faults import public_message
from tailcut.server.http.plan import JOIN_BYTES, NO_PLAN, RequestPlan
from tailcut.server.http.replies import Refusal, failure_reply, refused, response_head
from tailcut.server.http.routes import find_route
from tailcut.server.state import ServerState
from tailcut.server.tracing.records import TracedRequest
from tailcut.server.tracing.tracer import Tracer
from tailcut.wire.http1.connection import Http1Connection
from tailcut.wire.http1.head import Head
from tailcut.wire.http1.response import CLOSE, END, dated, kept
from tailcut.wire.v2 import Response

_log = logging.getLogger("tailcut.http")


class AnswerWriter:
    """Writes the answers of a connection; methods that end a message return whether it was the connection's last."""

    __slots__ = ("_replies", "_state", "_unsampled", "_wire", "began_ns", "idle_since", "transport")

    def __init__(self, state: ServerState, wire: Http1Connection[RequestPlan]) -> None:
        self._state = state
        self._replies = state.context.counts.replies
        self._wire = wire
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anything is answered
        self._unsampled: bytes | None = None  # the last head that was found not to be sampled
        self.began_ns = 0  # when the head of the current message was complete
        self.idle_since = state.now  # when the client last sent or was sent something

    @property
    def head(self) -> bytes:
        """The bytes of the current head; empty where it is too long to be kept."""
        return self._wire.head

    def respond(self, answer: Response) -> bool:
        """Write the answer to an inference."""
        closing, parts = self._state.draining or self._wire.closes, answer.body_parts
        head = response_head(sum(map(len, parts)), answer.json_size, self._state.date, close=closing)
        return self._reply(head, 200, parts, closing=closing)

    def respond_rows(self, rows: list[bytes]) -> bool:
        """Write the answer to an inference that was nothing but rows."""
        if len(rows) == 1 and self.respond_plainly(rows[0]):
            return False
        plan = self._wire.meaning or NO_PLAN
        if plan.date is not self._state.date:
            plan.renew(self._state.date)
        closing = self._closing()
        return self._reply(plan.reply_head_close if closing else plan.reply_head, 200, rows, closing=closing)

    def respond_plainly(self, row: bytes) -> bool:
        """As `respond_rows`, in less time, for one output and nothing unusual; returns whether it is written."""
        state, wire = self._state, self._wire
        plan = wire.meaning
        if plan is None or not plan.plain or wire.ended or state.access or state.draining:
            return False
        if plan.date is not state.date:
            plan.renew(state.date)
        try:
            self.transport.write(plan.reply_head + row)
        except Exception:  # noqa: BLE001  the caller tries the other way, whose errors are handled
            return False
        wire.answered()
        self.idle_since = state.now
        self._replies[200] += 1
        return True

    def tell(self, plan: RequestPlan, answer: bytes) -> bool:
        """Write the answer to a query."""
        answer = _asked_for(plan.head, answer)
        if self._closing():
            answer = answer.replace(END, CLOSE, 1)
        return self._say(answer)

    def begin(self, head: bytes, first: bytes) -> None:
        """Write the head and the first part of an endless answer, which only the end of the connection ends."""
        self._wire.linger()
        answer = dated(head, self._state.date) + first
        self._count(int(answer[9:12]), len(answer))
        self.transport.write(answer)

    def go_on(self, part: bytes) -> None:
        """Write another part of an endless answer."""
        if not self.transport.is_closing():
            self.idle_since = self._state.now
            self.transport.write(part)

    def fail(self, error: TailcutError) -> bool:
        """Write the answer to a failed inference."""
        answer = failure_reply(error, close=self._closing())
        if error.code is Code.INTERNAL:  # refusals are no faults, and overload has a log line of its own
            plan = self._wire.meaning or NO_PLAN
            _log.warning("%s", with_trace(str(error), trace_of_head(self._wire.head or plan.trace)))
        self._trace_failure(int(answer[9:12]), type(error).__name__, public_message(error))
        return self._say(answer)

    def refusal(self, why: Refusal | TailcutError, *, last: bool) -> bytes:
        """The answer to the current message, which is refused; `last` says whether it is the connection's last."""
        head = (self._wire.meaning or NO_PLAN).head
        answer = _asked_for(head, refused(why, close=last))
        return kept(answer) if head.hears_keep_alive and not last else answer

    def refuse(self, answer: bytes) -> None:
        """Write the answer to a message that is not read completely, and count it."""
        answer = dated(answer, self._state.date)
        self._count(int(answer[9:12]), len(answer))
        self._trace_failure(int(answer[9:12]), answer[9:12].decode())
        if not self.transport.is_closing():
            self.transport.write(answer)

    def sampled(self, tracer: Tracer) -> TracedRequest | None:
        """The trace of the current message, or of the one answered last, where it is sampled."""
        plan = self._wire.meaning or NO_PLAN
        head = self._wire.head or plan.trace
        if head is self._unsampled:  # the same object, as for most clients
            return None
        asked = tracer.of_head(head, plan.head.path)
        if asked is None and tracer.sampler.only_sampled:
            self._unsampled = head
        return asked

    def lost(self) -> None:
        """The client disconnected before its answer: trace the failure."""
        self._trace_failure(0, "ClientDisconnected")

    def _trace_failure(self, status: int, kind: str, message: str = "") -> None:
        """Keep the trace of a failed inference, where it is sampled."""
        tracer, plan = self._state.tracer, self._wire.meaning
        if tracer is None or plan is None or (plan.served is None and plan.why is None):
            return
        route = find_route(plan.head.path)
        asked = self.sampled(tracer) if route is not None and route.infers else None
        if asked is not None:
            tracer.failed(asked, plan.served, self.began_ns, status=status, kind=kind, message=message)

    def _closing(self) -> bool:
        return self._state.draining or self._wire.closes

    def _say(self, answer: bytes) -> bool:
        return self._reply(dated(answer, self._state.date), int(answer[9:12]), closing=self._closing())

    def _reply(self, answer: bytes, status: int, parts: Sequence[bytes] = (), *, closing: bool) -> bool:
        """Write a whole answer, with its parts joined where that is cheaper, and end the message."""
        state = self._state
        self._wire.answered()
        self.idle_since = state.now
        if not closing and (self._wire.meaning or NO_PLAN).head.hears_keep_alive:
            answer = kept(answer)
        size = len(answer) + sum(map(len, parts))
        if not parts:
            self.transport.write(answer)
        elif size < JOIN_BYTES:
            self.transport.write(b"".join([answer, *parts]))
        else:
            self.transport.writelines([answer, *parts])
        if state.access:
            self._count(status, size)
        else:
            self._replies[status] += 1
        return closing

    def _count(self, status: int, size: int) -> None:
        plan = self._wire.meaning or NO_PLAN
        self._state.count_reply(plan.head, self._wire.head or plan.trace, status, size, self.began_ns)


def _asked_for(head: Head, answer: bytes) -> bytes:
    """The part of an answer that is sent: only the head, where the method is HEAD."""
    return answer[: answer.index(END) + len(END)] if head.method == b"HEAD" else answer

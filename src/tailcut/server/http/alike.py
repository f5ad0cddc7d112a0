"""Small requests of one connection that differ only in ids: received and answered in few steps, with those of others.

After a plain answer to a gathered request, the next message is expected to be like it. What this module does with such
a message is what the connection would do, without the questions whose answers are known. Whatever else comes is left to
the connection.
"""

from typing import Protocol

from tailcut.server.exchange import Exchange
from tailcut.server.http.plan import RequestPlan
from tailcut.server.http.writer import AnswerWriter
from tailcut.server.state import ServerState
from tailcut.wire.http1.connection import Http1Connection
from tailcut.wire.http1.outlines import Outline


class AlikeConnection(Protocol):
    """What this module needs of the connection."""

    paused: bool  # its client does not read


class AlikeRequests:
    """Receives the messages of one connection that are like the last one, and answers them plainly."""

    __slots__ = ("_connection", "_exchange", "_state", "_wire", "_writer", "awaited")

    def __init__(
        self,
        state: ServerState,
        wire: Http1Connection[RequestPlan],
        writer: AnswerWriter,
        exchange: Exchange,
        connection: AlikeConnection,
    ) -> None:
        self._state = state
        self._wire = wire
        self._writer = writer
        self._exchange = exchange
        self._connection = connection
        self.awaited: Outline[RequestPlan] | None = None  # of the next message's head; None: it may be anything
        exchange.answer_plainly = self.answer

    def answer(self, row: bytes) -> bool:
        """Write an answer that is the row of the only output, if there is nothing else to do; returns whether."""
        wire, state = self._wire, self._state
        if wire.held or state.tracer is not None or not self._writer.respond_plainly(row):
            return False
        self._exchange.group = None
        if not self._connection.paused and (state.fast_path is None or wire.repeats < 0):
            self.awaited = wire.outline
        return True

    def take(self, nbytes: int) -> bool:
        """Begin and gather the message that was received, if it is the awaited one; returns whether.

        What its head determines is as it was for the last message: only moments, the head and the row are new.
        """
        outline, self.awaited = self.awaited, None
        if outline is None:
            return False
        state, plan, length = self._state, outline.meaning, outline.length
        if nbytes != length + plan.length or not plan.edition.valid:
            return False
        if not outline.fits(state.receive) or not state.steps.has_time():
            return False
        view, began_ns = state.receive_view, state.steps.now_ns
        if plan.served is None or (plan.refusal is not None and began_ns < plan.refusal.opens_ns):
            return False
        if not self._wire.received_alike(view[:length].tobytes()):
            return False
        exchange = self._exchange
        exchange.began_ns = self._writer.began_ns = began_ns
        body, priority = view[length:nbytes], plan.schedule.priority
        state.rows.add(exchange, plan.served, body, priority, began_ns + plan.time_ns)
        return True

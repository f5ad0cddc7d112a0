"""The fast path for connections that repeat themselves: compiled code receives from and answers all of them at once.

A client on a kept-alive connection asks for the same thing again and again, with a head in which nothing changes but
fields that have no meaning here, such as the ids of requests and traces. Once it has repeated itself, its socket is
watched here instead of by the loop's own transport: one pass over all sockets (`kernels/sockets.py`) writes the rows of
all connections that sent one side by side into the slab, they wait as one request, and their answers leave in one call.
Python handles a pass, not a request.

The fast path handles no exceptional case. A connection that sends anything else, closes, does not read, or must be told
something unasked is returned to its `HttpConnection`, which does everything that a connection may need.
"""

import logging
import select
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np

from tailcut.errors import TailcutError
from tailcut.kernels import socket_tables as columns
from tailcut.runtime.request import Request
from tailcut.server.fastpath import traces
from tailcut.server.fastpath.answer_sender import ANSWER_BYTES, AnswerSender
from tailcut.server.fastpath.connections import FastConnection, FastConnections
from tailcut.server.fastpath.groups import UNTRACED, TargetGroup, WaitingGroups
from tailcut.server.http.plan import RequestPlan
from tailcut.server.http.replies import failure_reply
from tailcut.spec import DType
from tailcut.wire.http1.response import dated
from tailcut.wire.v2 import lists
from tailcut.wire.v2.template import Template

if TYPE_CHECKING:
    from tailcut.server.fastpath.tables import RowTarget
    from tailcut.server.served_model import ServedModel
    from tailcut.server.state import ServerState
    from tailcut.server.tracing.records import TracedRequest

_log = logging.getLogger("tailcut.http")
_EVENTS = 64  # at most: sockets that one pass receives from
_HELD_S = 1.0  # how long a message may stay incomplete


def suits(served: "ServedModel") -> bool:
    """Whether compiled code can read requests to a model: raw rows of one input, or JSON lists of floats."""
    slab, inputs = served.entry.slab, served.model.spec.inputs
    rows = slab is not None and len(inputs) == 1 and inputs[0].dtype is not DType.BOOL
    return rows or any(tensor.dtype in lists.COMPILED for tensor in inputs)


class FastPath:
    """All connections of a loop that take the fast path."""

    def __init__(self, state: "ServerState") -> None:
        from tailcut.kernels import libc, sockets  # noqa: PLC0415  numba takes a quarter of a second to load
        from tailcut.server.fastpath.tables import HeadTable  # noqa: PLC0415  it imports numba, too

        self._look, self._take = sockets.look, sockets.take
        self._state = state
        self._poll = select.epoll()
        self._poll_fd = self._poll.fileno()
        self._connections = FastConnections()
        self._waiting = WaitingGroups()
        self._sender = AnswerSender(state, self._connections, self._waiting, self.leave, _EVENTS)
        self._head_table = HeadTable(
            len(state.receive), ANSWER_BYTES, state.deadline_ns, traces=state.tracer is not None
        )
        self._targets = self._head_table.targets
        self._events = np.zeros((_EVENTS, libc.EVENT_WORDS), np.int32)
        self._plans = self._head_table.plans
        self._heads = self._head_table.heads
        self._table = self._head_table.table
        self._cells = self._head_table.cells
        self._members = np.zeros((len(self._table), _EVENTS, columns.MEMBERS), np.int64)
        self._numbers = np.zeros(len(state.receive) // 2, np.float64)  # of one list
        self._odd = np.zeros((_EVENTS + 1, 2), np.int64)
        self._left = 0  # events in `_events` that the next pass has to handle
        self._odd_cells = self._odd.data.cast("B").cast("q")
        self._receive = np.frombuffer(state.receive, np.uint8)
        state.loop.add_reader(self._poll_fd, self.turn)

    @classmethod
    def open(cls, state: "ServerState") -> Self | None:
        """Make one where this machine can have it; None where the standard path has to serve all."""
        if not hasattr(select, "epoll"):
            return None
        try:
            made = cls(state)
            lists.load()  # also shows whether numba is installed
        except ModuleNotFoundError as error:
            _log.warning("serving on the standard path: the fast path needs %s, which is not installed", error.name)
            return None
        except Exception as error:  # noqa: BLE001  numba may fail in as many ways as there are machines
            _log.warning("fast path disabled; serving on the standard path: %s", error)
            return None
        return made

    # Joining and leaving.

    def join(  # noqa: PLR0913, PLR0917  a whole request, and what is known of it
        self,
        connection: FastConnection,
        plan: RequestPlan,
        head: bytes,
        template: Template,
        row: memoryview,
        length: int,
    ) -> bool:
        """Take over a connection together with the request that it has just sent; False where it cannot be taken.

        Args:
            connection: its transport must have nothing left to write.
            plan: of the head, which must not expect "100 Continue".
            head: the bytes of the head.
            template: the parts of the body around its data.
            row: the data, as the engine reads them.
            length: of the body, in bytes.
        """
        fields = plan.head
        if not fields.keep_alive or fields.content_length is None or fields.expects_continue or self._state.draining:
            return False
        if connection.transport.get_extra_info("ssl_object") is not None:  # its socket carries encrypted bytes
            return False
        number = self._head_table.number(plan, head, template, length) if len(head) <= columns.HEAD_MOST else -1
        transport = connection.transport
        if number < 0 or transport.get_write_buffer_size() or transport.is_closing():
            return False
        fd = transport.get_extra_info("socket").fileno()
        target = self._head_table.target(number)
        if not self._lend(target, 1, time.monotonic_ns()):
            return False
        target.slab.write(target.lease.row, row)
        now = time.monotonic_ns()
        own_head = b"" if head == self._head_table.head(number) else head
        generation = self._connections.add(connection, fd, number, own_head, now)
        transport.pause_reading()
        self._poll.register(fd, select.EPOLLIN)
        self._state.context.counts.fast_path += 1
        tracer = self._state.tracer
        asked = None if tracer is None else tracer.of_head(head, plan.head.path)
        members = np.array([[fd, generation, now, length, 0]], np.int64)
        self._submit(target, members, UNTRACED if asked is None else {0: asked})
        self._state.delivery.notify_soon(target.entry)
        return True

    def leave(self, connection: FastConnection) -> None:
        """Return a connection to the standard path; a pending answer will be sent there by itself."""
        self._poll.unregister(connection.fd)
        left = self._connections.remove(connection)
        self._state.context.counts.fast_path -= 1
        connection.returned(left.owed, left.head or self._head_table.head(left.plan))
        if left.held:
            connection.take_up(left.held)
        if not connection.transport.is_closing():
            connection.transport.resume_reading()

    def forget(self, generation: int) -> None:
        """Drop the pending answer of a connection that left and has now closed."""
        if self._connections.late.pop(generation, None) is not None:
            group, number = self._waiting.find(generation)
            group.target.entry.withdraw(group, number)

    def dissolve(self) -> None:
        """Return all connections to the standard path, because plans may have changed; they may join again."""
        for connection in list(self._connections.here.values()):
            self.leave(connection)
        self._head_table.clear()

    def close(self) -> None:
        """Return every connection to the standard path and stop watching sockets."""
        self.dissolve()
        if not self._poll.closed:
            self._state.loop.remove_reader(self._poll_fd)
            self._poll.close()

    def busy(self, fd: int) -> bool:
        """Whether a connection here waits for an answer, or for the rest of its message."""
        return self._connections.busy(fd)

    def seen(self, fd: int) -> float:
        """When a connection last received or was sent something, in seconds of the loop's clock."""
        return self._connections.seen(fd)

    def sweep(self, now_s: float) -> None:
        """Return connections with a message incomplete for too long to the standard path, which limits its time."""
        for connection in self._connections.held_since(now_s - _HELD_S):
            self.leave(connection)

    # A pass.

    def turn(self, until_ns: int = 0) -> bool:
        """Receive from every connection that has sent something, and have complete requests computed.

        Args:
            until_ns: where no connection has sent anything, poll until this time (monotonic).

        Returns:
            Whether a connection has sent something.
        """
        cells, connections = self._cells, self._connections
        try:
            count = self._look(
                self._poll_fd, self._left, self._events, connections.state, self._plans, self._table, until_ns
            )
            if count <= 0:
                return False
            now_ns = time.monotonic_ns()
            heard = []
            for target in self._targets:
                if cells[target.at + columns.WANTED]:
                    self._prepare(target, now_ns)
                    heard.append(target)
            odds = self._take(
                count,
                self._events,
                connections.state,
                self._plans,
                self._heads,
                self._table,
                self._members,
                self._receive,
                self._odd,
                connections.own_heads,
                self._head_table.fields,
                self._head_table.grammar,
                self._numbers,
            )
            self._left = self._odd_cells[2 * _EVENTS]
            self._settle(heard, self._odd[:odds].tolist() if odds else ())
        except Exception:  # noqa: BLE001  whatever went wrong, the standard path can serve all
            _log.exception("the fast path failed: serving on the standard path from now on")
            self._state.fast_path = None
            self.close()
        return True

    def _prepare(self, target: "RowTarget", now_ns: int) -> None:
        """Lend rows for the requests of a target, or note the refusal that they get instead."""
        cells, at = self._cells, target.at
        if self._lend(target, cells[at + columns.WANTED], now_ns):
            lease = target.lease
            cells[at + columns.ADDRESS] = target.slab.addresses[0] + lease.row * cells[at + columns.ROW_BYTES]
            cells[at + columns.ROOM] = lease.rows
        else:
            cells[at + columns.ADDRESS] = 0
            cells[at + columns.ROOM] = _EVENTS

    def _lend(self, target: "RowTarget", count: int, now_ns: int) -> bool:
        target.deadline_ns = deadline_ns = now_ns + target.time_ns
        try:
            target.lease = target.entry.lend(count, deadline_ns, target.priority, some=True)
        except TailcutError as error:
            target.error = error.without_frames()
            target.refusal = dated(target.reply.written(failure_reply(error)), self._state.date)
            return False
        target.refusal = b""
        return True

    def _settle(self, heard: "list[RowTarget]", odd: Sequence[Sequence[int]]) -> None:
        """Queue this pass's requests, or answer them at once where nothing else came; `odd` connections leave."""
        cells, delivery = self._cells, self._state.delivery
        alone = len(heard) == 1 and not odd and delivery.idle
        tracer = self._state.tracer
        notified = []
        for target in heard:
            taken = cells[target.at + columns.TAKEN]
            traced = UNTRACED
            if tracer is not None and not traces.skips(tracer, cells, target.at, taken):
                traced = traces.find(tracer, self._members[target.number, :taken], self._head_of)
            if target.refusal:
                self._sender.refuse(target, self._members[target.number, :taken].copy(), traced)
            elif not taken:
                target.entry.settle(target.lease, 0, None)
            elif self._submit(target, self._members[target.number, :taken], traced, at_once=alone):
                notified.append(target.entry)
        for fd, size in odd:
            connection = self._connections.here.get(fd)
            if connection is not None:
                self.leave(connection)
                if size:
                    connection.buffer_updated(size)
        for entry in notified:
            delivery.notify_now(entry)

    def _head_of(self, fd: int) -> bytes:
        """The last head of a connection on the fast path."""
        plan, own_head = self._connections.last_head(fd)
        return own_head or self._head_table.head(plan)

    def _submit(
        self, target: "RowTarget", members: np.ndarray, traced: "Mapping[int, TracedRequest]", *, at_once: bool = False
    ) -> bool:
        """Queue this pass's requests for one target, or answer them at once; returns whether to notify the model."""
        taken = len(members)
        group = TargetGroup(self._sender, target, members, traced)
        request = Request(group, self._state.delivery, taken, target.deadline_ns, target.priority, taken)
        try:
            notify = target.entry.settle(target.lease, taken, request, at_once=at_once)
        except TailcutError as error:
            self._sender.fail(group, request, error)
            return False
        if group.left:  # it waits, and the next pass overwrites the table of its members
            group.members = members.copy()
            self._waiting.add(group)
        return notify

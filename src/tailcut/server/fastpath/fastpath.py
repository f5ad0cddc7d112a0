"""The fast path for connections that repeat themselves: compiled code receives for all of them and answers all of them.

A client on a kept-alive connection asks for the same thing again and again, with a head of which nothing changes but
fields that mean nothing here, such as the ids of requests and traces. Once it has, its socket is watched here instead
of by the loop's own transport: one pass over all sockets (`kernels/sockets.py`) puts the rows of all connections that
sent one side by side into the slab, they wait as one request, and their answers leave in one call. Python sees a pass,
not a request.

This way knows no exceptions. A connection that sends anything else, leaves, does not read, or must be told something
out of turn is given back to its `HttpConnection`, which does everything that a connection may need and knows nothing of
this.
"""

import asyncio
import logging
import select
import time
from ctypes import string_at
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from tailcut.errors import TailcutError
from tailcut.runtime.request import Batch, Request
from tailcut.server.http.plan import Kind, Plan
from tailcut.server.http.replies import failure_reply
from tailcut.spec import DType
from tailcut.wire.http1.response import dated
from tailcut.wire.v2 import lists

if TYPE_CHECKING:
    from tailcut.server.fastpath.tables import Target
    from tailcut.server.served_model import ServedModel
    from tailcut.server.state import ServerState

_log = logging.getLogger("tailcut.http")
_EVENTS = 64  # sockets heard in a pass
_ANSWER_BYTES = 64 * 1024
_FILES = 1024  # descriptors that the table of states begins with


def suits(served: "ServedModel") -> bool:
    """Whether compiled code can help a model's clients: raw rows of one input, or JSON lists of floats."""
    slab, inputs = served.entry.slab, served.model.spec.inputs
    rows = slab is not None and len(inputs) == 1 and inputs[0].dtype is not DType.BOOL
    return rows or any(tensor.dtype in lists.COMPILED for tensor in inputs)


class FastConnection(Protocol):
    """A connection, as far as this way is concerned."""

    transport: asyncio.Transport
    fd: int  # of its socket while it is here, else -1

    def returned(self, owed: int | None, head: bytes) -> None:
        """It is here no more; `owed` names the answer that is on its way, for `FastPath.forget`; `head` is its last."""

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes of it stand in the hub's receive buffer."""

    def answer_row(self, batch: Batch, row: int) -> None:
        """The answer that it was waiting for when it returned."""

    def failed(self, error: TailcutError) -> None:
        """There will be none."""


class Group:
    """The requests of one pass for one target; handler of the requests that they wait as."""

    __slots__ = ("_fast_path", "left", "members", "target")

    def __init__(self, fast_path: "FastPath", target: "Target", members: np.ndarray) -> None:
        self._fast_path = fast_path
        self.target = target
        self.members = members  # int64 [requests, 3]: descriptor, generation, arrival
        self.left = len(members)  # not answered yet

    def complete(self, request: Request, batch: Batch, index: int) -> None:
        """The engine has answered those of the request."""
        self._fast_path.answer(self, request, batch, index)

    def fail(self, request: Request, error: TailcutError) -> None:
        """There will be no answer for those of the request."""
        self._fast_path.fail(self, request, error)


class FastPath:
    """All connections of a loop that take the fast path."""

    def __init__(self, state: "ServerState") -> None:
        from tailcut.kernels import sockets  # noqa: PLC0415  numba takes a quarter of a second to load
        from tailcut.server.fastpath.tables import HeadTable  # noqa: PLC0415  it loads them, too

        self._code = sockets
        self._state = state
        self._poll = select.epoll()
        self._poll_fd = self._poll.fileno()
        self._connections: dict[int, FastConnection] = {}  # by descriptor
        self._late: dict[int, FastConnection] = {}  # by generation: returned with an answer on its way
        self._groups: dict[Group, None] = {}
        self._head_table = HeadTable(len(state.receive), _ANSWER_BYTES)
        self._targets = self._head_table.targets
        self._generation = 0
        self._events = np.zeros((_EVENTS, sockets.EVENT_WORDS), np.int32)
        self._descriptors = np.zeros((_FILES, sockets.STATES), np.int64)
        self._own_heads = np.zeros((_FILES, sockets.HEAD_MOST), np.uint8)
        self._plans = self._head_table.plans
        self._heads = self._head_table.heads
        self._table = self._head_table.table
        self._cells = self._head_table.cells
        self._members = np.zeros((len(self._table), _EVENTS, 3), np.int64)
        self._odd = np.zeros((_EVENTS + 1, 2), np.int64)
        self._left = 0  # of `_events`, for the next pass
        self._odd_cells = self._odd.data.cast("B").cast("q")
        self._receive = np.frombuffer(state.receive, np.uint8)
        self._answer = np.zeros(_ANSWER_BYTES, np.uint8)
        self._answer_view = self._answer.data
        self._trail = np.zeros(9, np.int64)
        self._trail_cells = self._trail.data
        self._no_ring = np.zeros((0, 0), np.int64)
        self._no_outputs = np.zeros((0, 2), np.int64)
        state.loop.add_reader(self._poll_fd, self.turn)

    @classmethod
    def open(cls, state: "ServerState") -> Self | None:
        """Make one where this machine can: None elsewhere, where the standard path serves all."""
        if not hasattr(select, "epoll"):
            return None
        try:
            made = cls(state)
            lists.load()  # numba is there, then
        except Exception as error:  # noqa: BLE001  numba may fail in as many ways as there are machines
            _log.warning("fast path disabled; serving on the standard path: %s", error)
            return None
        return made

    # Coming and going.

    def join(self, connection: FastConnection, plan: Plan, head: bytes, body: memoryview) -> bool:
        """Take over a connection together with the request that it has just sent; False where it cannot come."""
        if plan.kind is not Kind.ROWS or plan.rows != 1 or not plan.head.keep_alive or self._state.draining:
            return False
        if plan.date is not self._state.date:
            plan.renew(self._state.date)
        number = self._head_table.number(plan, head) if len(head) <= self._code.HEAD_MOST else -1
        transport = connection.transport
        if number < 0 or transport.get_write_buffer_size() or transport.is_closing():
            return False
        fd = transport.get_extra_info("socket").fileno()
        target = self._head_table.target(number)
        if not self._lend(target, 1):
            return False
        target.slab.write(target.lease.row, body)
        while fd >= len(self._descriptors):
            self._descriptors = np.concatenate([self._descriptors, np.zeros_like(self._descriptors)])
            self._own_heads = np.concatenate([self._own_heads, np.zeros_like(self._own_heads)])
        self._generation += 1
        now = time.monotonic_ns()
        own_head = 0 if head == self._head_table.head(number) else len(head)
        self._own_heads[fd, :own_head] = np.frombuffer(head[:own_head], np.uint8)
        self._descriptors[fd] = self._generation, number, 1, now, own_head
        transport.pause_reading()
        self._poll.register(fd, select.EPOLLIN)
        connection.fd = fd
        self._connections[fd] = connection
        self._state.context.counts.fast_path += 1
        self._submit(target, np.array([[fd, self._generation, now]], np.int64))
        self._state.delivery.notify_soon(target.entry)
        return True

    def leave(self, connection: FastConnection) -> None:
        """Give a connection back; what it is owed will be answered by itself."""
        fd = connection.fd
        connection.fd = -1
        del self._connections[fd]
        self._state.context.counts.fast_path -= 1
        self._poll.unregister(fd)
        generation, plan, pending, _, own_head = self._descriptors[fd].tolist()
        self._descriptors[fd] = 0, -1, 0, 0, 0
        head = self._own_heads[fd, :own_head].tobytes() or self._head_table.head(plan)
        if pending:
            self._late[generation] = connection
            connection.returned(generation, head)
        else:
            connection.returned(None, head)
        if not connection.transport.is_closing():
            connection.transport.resume_reading()

    def forget(self, generation: int) -> None:
        """A client that was owed an answer when it returned has left altogether."""
        if self._late.pop(generation, None) is not None:
            group, number = self._find(generation)
            group.target.entry.withdraw(group, number)

    def dissolve(self) -> None:
        """Return all connections to the standard path, because plans may have changed; they may come again."""
        for connection in list(self._connections.values()):
            self.leave(connection)
        self._head_table.clear()

    def close(self) -> None:
        """Give everybody back and stop watching."""
        self.dissolve()
        if not self._poll.closed:
            self._state.loop.remove_reader(self._poll_fd)
            self._poll.close()

    def busy(self, fd: int) -> bool:
        """Whether a connection here waits for an answer."""
        return bool(self._descriptors[fd, self._code.PENDING])

    def seen(self, fd: int) -> float:
        """When a connection here was last heard or answered, in the loop's seconds."""
        return float(self._descriptors[fd, self._code.SEEN]) / 1e9

    # A pass.

    def turn(self, until_ns: int = 0) -> None:
        """Hear everybody who has something to say, or wait awake until somebody has; have what is ready computed."""
        try:
            self._turn(until_ns)
        except Exception:  # noqa: BLE001  whatever it is, the standard path serves all
            _log.exception("the fast path failed: every request takes the ordinary path from now on")
            self._state.fast_path = None
            self.close()

    def _turn(self, until_ns: int) -> None:
        code, cells = self._code, self._cells
        count = code.look(
            self._poll_fd, self._left, self._events, self._descriptors, self._plans, self._table, until_ns
        )
        if count <= 0:
            return
        heard = [target for target in self._targets if cells[target.at + code.WANTED]]
        for target in heard:
            self._prepare(target)
        odds = code.take(
            count,
            self._events,
            self._descriptors,
            self._plans,
            self._heads,
            self._table,
            self._members,
            self._receive,
            self._odd,
            self._own_heads,
            self._head_table.fields,
            self._head_table.grammar,
        )
        odd = self._odd[:odds].tolist() if odds else ()
        self._left = self._odd_cells[2 * _EVENTS]
        alone = len(heard) == 1 and not odds and self._state.delivery.idle
        notified = [target.entry for target in heard if self._scoreboard(target, alone=alone)]
        for fd, size in odd:
            connection = self._connections.get(fd)
            if connection is not None:
                self.leave(connection)
                if size:
                    connection.buffer_updated(size)
        for entry in notified:
            self._state.delivery.notify_now(entry)

    def _scoreboard(self, target: "Target", *, alone: bool) -> bool:
        """Do what is to be done for those who came to a target in this pass; whether its model is to be notified."""
        cells, at = self._cells, target.at
        taken = cells[at + self._code.TAKEN]
        if target.refusal:
            self._refuse(target, taken)
            return False
        if not taken:
            target.entry.settle(target.lease, 0, None)
            return False
        return self._submit(target, self._members[at // self._code.TARGETS, :taken].copy(), alone=alone)

    def _prepare(self, target: "Target") -> None:
        """Rows for those who want some, or the reason why they get none."""
        code, cells, at = self._code, self._cells, target.at
        if self._lend(target, cells[at + code.WANTED]):
            size = cells[at + code.ROW_BYTES]
            cells[at + code.ADDRESS] = target.slab.addresses[0] + target.lease.row * size
            cells[at + code.ROOM] = target.lease.rows
        else:
            cells[at + code.ADDRESS] = 0
            cells[at + code.ROOM] = _EVENTS

    def _lend(self, target: "Target", count: int) -> bool:
        schedule = target.plan.schedule
        target.deadline_ns = self._state.deadline(schedule.timeout_ns)
        try:
            target.lease = target.entry.lend(count, target.deadline_ns, schedule.priority, some=True)
        except TailcutError as error:
            target.refusal = dated(failure_reply(error), self._state.date)
            return False
        target.refusal = b""
        return True

    def _submit(self, target: "Target", members: np.ndarray, *, alone: bool = False) -> bool:
        """Queue the requests of this pass, or answer them at once where all are here; whether to notify the model."""
        taken = len(members)
        group = Group(self, target, members)
        priority = target.plan.schedule.priority
        request = Request(group, self._state.delivery, taken, target.deadline_ns, priority, taken)
        self._groups[group] = None
        try:
            return target.entry.settle(target.lease, taken, request, at_once=alone)
        except TailcutError as error:
            self.fail(group, request, error)
            return False

    def _refuse(self, target: "Target", taken: int) -> None:
        members = self._members[target.at // self._code.TARGETS, :taken].copy()
        self._state.context.counts.replies[503] += taken
        self._state.rest_soon(target.entry)
        self._send(members, target.refusal, self._no_outputs, self._no_ring, 0)

    # The way back.

    def answer(self, group: Group, request: Request, batch: Batch, index: int) -> None:
        """Answer those of a request, each with its row of the batch's outputs."""
        handed_ns = time.monotonic_ns()
        target = group.target
        first, count = batch.offsets[index], request.count
        members = group.members
        if count != len(members):
            members = members[request.offset : request.offset + count]
        cells = target.output_cells
        for place, address in enumerate(batch.addresses):
            cells[2 * place] = address + first * cells[2 * place + 1]
        trail = self._trail_cells
        moments = request.ready_ns, batch.formed_ns, batch.began_ns, batch.ended_ns, handed_ns
        trail[0], trail[1], trail[2], trail[3], trail[4] = moments
        trail[5], trail[6], trail[7], trail[8] = 1, batch.rows, target.plan.length, 200
        timeline = target.served.timeline
        plan = target.plan
        if plan.date is not self._state.date:
            plan.renew(self._state.date)
        written, shorts = self._send(members, plan.reply_head, target.outputs, timeline.table, timeline.stamp)
        timeline.stamp += written
        for place in shorts:
            now = time.monotonic_ns()
            timeline.record(int(members[place, 2]), *moments, now, now, 1, batch.rows, target.plan.length, 200)
        self._state.context.counts.replies[200] += written + len(shorts)
        target.served.latency.add(batch.ended_ns - request.ready_ns, count)
        if self._late:
            for place, generation in enumerate(members[:, 1].tolist()):
                connection = self._late.pop(generation, None)
                if connection is not None:
                    connection.answer_row(batch, first + place)
        self._done(group, count)
        if self._state.busy_poll_ns:
            self._state.stay_awake(batch.ended_ns)

    def fail(self, group: Group, request: Request, error: TailcutError) -> None:
        """Tell the connections of a request, on the standard path, that there will be no answer."""
        for fd, generation, _ in group.members[request.offset : request.offset + request.count].tolist():
            if self._descriptors[fd, self._code.GENERATION] == generation:
                self.leave(self._connections[fd])
            connection = self._late.pop(generation, None)
            if connection is not None:
                connection.failed(error)
        self._done(group, request.count)

    def _send(
        self, members: np.ndarray, head: bytes, outputs: np.ndarray, ring: np.ndarray, at: int
    ) -> tuple[int, list[int]]:
        """Send what can be sent at once, and leave the rest to the transports.

        Returns how many records were written, and the places of those that the transports have.
        """
        self._answer_view[: len(head)] = head
        count = self._code.answer(
            members, self._descriptors, len(head), outputs, self._answer, ring, at, self._trail, self._odd
        )
        written = self._trail_cells[0]
        if not count:
            return written, []
        shorts = self._odd[:count].tolist()
        for place, sent in shorts:
            fd = int(members[place, 0])
            rows = [string_at(address + place * size, size) for address, size in outputs.tolist()]
            connection = self._connections[fd]
            self._descriptors[fd, self._code.PENDING] = 0  # from here on the transport owes it the answer
            self.leave(connection)
            connection.transport.write(b"".join([head, *rows])[sent:])
        return written, [place for place, _ in shorts]

    def _done(self, group: Group, count: int) -> None:
        group.left -= count
        if not group.left:
            self._groups.pop(group, None)

    def _find(self, generation: int) -> tuple[Group, int]:
        """Where a connection's request waits."""
        for group in self._groups:
            places = np.flatnonzero(group.members[:, 1] == generation)
            if len(places):
                return group, int(places[0])
        raise LookupError(generation)

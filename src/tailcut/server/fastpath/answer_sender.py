"""Sends answers on the fast path: one call of compiled code (`kernels/answers.py`) sends those of a whole batch.

An answer that cannot be sent as a whole, or whose connection has left the fast path, goes out on the standard path.
"""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from tailcut.errors import QueueFullError, TailcutError
from tailcut.runtime.request import Batch, Request
from tailcut.server.fastpath import traces
from tailcut.server.fastpath.connections import FastConnection, FastConnections
from tailcut.server.fastpath.groups import TargetGroup, WaitingGroups

if TYPE_CHECKING:
    from tailcut.server.fastpath.tables import RowTarget
    from tailcut.server.state import ServerState
    from tailcut.server.tracing.records import TracedRequest

ANSWER_BYTES = 64 * 1024  # longer answers take the standard path


class AnswerSender:
    """Sends answers and refusals to the connections of a loop that take the fast path.

    Args:
        state: of the loop.
        connections: those on the fast path, and those that left it with an answer pending.
        waiting: the groups of requests that are not answered yet.
        leave: returns a connection to the standard path.
        members: the largest number of requests in a group.
    """

    def __init__(
        self,
        state: "ServerState",
        connections: FastConnections,
        waiting: WaitingGroups,
        leave: Callable[[FastConnection], None],
        members: int,
    ) -> None:
        from tailcut.kernels import answers  # noqa: PLC0415  numba takes a quarter of a second to load

        self._send, self._send_lists = answers.answer, answers.answer_lists
        self._state = state
        self._connections = connections
        self._waiting = waiting
        self._leave = leave
        self._answer = np.zeros(ANSWER_BYTES, np.uint8)
        self._answer_view = self._answer.data
        self._trace = np.zeros(9, np.int64)
        self._trace_cells = self._trace.data
        self._shorts = np.zeros((members, 2), np.int64)
        self._no_ring = np.zeros((0, 0), np.int64)
        self._no_outputs = np.zeros((0, 2), np.int64)

    def answer(self, group: TargetGroup, request: Request, batch: Batch, index: int) -> None:  # noqa: C901  a call costs 0.1 us
        """Answer the group's members that `request` stands for, each with its row of the batch's outputs."""
        handed_ns = time.monotonic_ns()
        target, members, state, connections = group.target, group.members, self._state, self._connections
        first, count = batch.offsets[index], request.count
        if count != len(members):
            members = members[request.offset : request.offset + count]
        reply, served, ended_ns = target.reply, target.served, batch.ended_ns
        if reply.date is not state.date:
            reply.renew(state.date)
        size = len(reply.head)
        self._answer_view[:size] = reply.head
        moments = request.ready_ns, batch.formed_ns, batch.began_ns, ended_ns, handed_ns
        trace, timeline = self._trace_cells, served.timeline
        trace[0], trace[1], trace[2], trace[3], trace[4] = moments
        trace[5], trace[6], trace[7], trace[8] = 1, batch.rows, 0, 200
        buffers = self._answer, timeline.table, timeline.stamp, self._trace, self._shorts
        if reply.frame is None or reply.pieces is None:
            cells, addresses = reply.cells, batch.addresses
            for position, column in enumerate(reply.columns):
                cells[2 * position] = addresses[column] + first * cells[2 * position + 1]
            shorts = self._send(members, connections.state, size, reply.outputs, *buffers)
        else:
            lists, places = reply.write_lists(batch, first, count), reply.places
            shorts = self._send_lists(
                members, connections.state, size, lists, places, reply.frame, reply.pieces, *buffers
            )
        written = trace[0]
        timeline.stamp += written
        state.context.counts.replies[200] += written + shorts
        served.latency.add(ended_ns - request.ready_ns, count)
        if group.traced and state.tracer is not None:
            waiting, fds = connections.is_waiting, group.members[:, :2].tolist()
            here = {index: asked for index, asked in group.traced.items() if waiting(*fds[index])}
            traces.answered(state.tracer, served, (group.members, request, batch), here, moments, written)
        if shorts:
            self._finish_shorts(target, members, batch, first, moments, shorts)
        if connections.late:
            for position, generation in enumerate(members[:, 1].tolist()):
                connection = connections.late.pop(generation, None)
                if connection is not None:
                    connection.answer_owed(reply.response(batch, first + position))
        self._waiting.answered(group, count)
        if state.busy_poll_ns:
            state.stay_awake(ended_ns)

    def refuse(self, target: "RowTarget", members: np.ndarray, traced: "Mapping[int, TracedRequest]") -> None:
        """Answer the requests of a pass with the refusal of their target; `members` as in `TargetGroup`."""
        tracer, taken = self._state.tracer, len(members)
        if tracer is not None:
            traces.refused(tracer, target.served, members, traced)
        if isinstance(target.error, QueueFullError):  # not counted before: lending knew only how many to expect
            target.entry.counts.refuse(taken, target.error)
        self._state.context.counts.replies[503] += taken
        self._state.pause_soon(target.entry)
        head = target.refusal
        self._answer_view[: len(head)] = head
        buffers = self._answer, self._no_ring, 0, self._trace, self._shorts
        shorts = self._send(members, self._connections.state, len(head), self._no_outputs, *buffers)
        for index, sent in self._shorts[:shorts].tolist():
            self._finish(int(members[index, 0]), head[sent:])

    def fail(self, group: TargetGroup, request: Request, error: TailcutError) -> None:
        """Have the members that `request` stands for answered with an error, on the standard path."""
        for fd, generation, *_ in group.members[request.offset : request.offset + request.count].tolist():
            if self._connections.is_here(fd, generation):
                self._leave(self._connections.here[fd])
            connection = self._connections.late.pop(generation, None)
            if connection is not None:
                connection.failed(error)
        self._waiting.answered(group, request.count)

    def _finish_shorts(  # noqa: PLR0913, PLR0917  as answer
        self,
        target: "RowTarget",
        members: np.ndarray,
        batch: Batch,
        first: int,
        moments: tuple[int, ...],
        shorts: int,
    ) -> None:
        """Leave the answers that could not be sent completely to the transports."""
        for index, sent in self._shorts[:shorts].tolist():
            fd, _, arrival_ns, length, _ = members[index].tolist()
            self._finish(fd, target.reply.whole(batch, first + index)[sent:])
            now = time.monotonic_ns()
            target.served.timeline.record(arrival_ns, *moments, now, now, 1, batch.rows, length, 200)

    def _finish(self, fd: int, rest: bytes) -> None:
        """Return a connection whose answer was sent in part to the standard path, with the rest of the answer."""
        connection = self._connections.here[fd]
        self._connections.answered_elsewhere(fd)
        self._leave(connection)
        connection.transport.write(rest)

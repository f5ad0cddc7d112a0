"""Requests of one row each for one model that come in one pass of the loop: they are queued and answered as one.

Most of what a small request costs in Python is done once per request: an entry in the queue, a row, the lock, a place
in a batch. Here all of that is done once per pass (docs/decisions/066-one-request-of-many.md has the gain). The rows
are copied once more for it, so this is only for small ones.

Requests have deadlines of their own. Those of a group whose deadlines lie close together share the earliest of them:
the others lose at most a sixteenth of the time that they had left. The rest are queued separately.
"""

import logging
import time
from bisect import bisect_right
from collections.abc import Callable
from operator import methodcaller
from typing import Protocol

from tailcut.errors import QueueFullError, TailcutError
from tailcut.runtime.delivery import LoopDelivery
from tailcut.runtime.request import Batch, Request
from tailcut.runtime.tracing.timeline import pack_moments, pack_shared
from tailcut.server.served_model import ServedModel

GATHERED_BYTES = 8192  # the largest row: copying one takes a small part of the time saved
_CLOSE_BITS = 4  # deadlines are close where they differ by at most the time left, shifted right by this
_log = logging.getLogger("tailcut")
_now_ns = time.monotonic_ns


class GatheredRequest(Protocol):
    """One of the requests. One of these methods is called once for each, unless it is withdrawn before."""

    group: "PassGroup | None"  # can withdraw it; set by `RowGatherer.add`
    began_ns: int  # when its head was complete

    @property
    def answer_plainly(self) -> Callable[[bytes], bool] | None:
        """Writes an answer that is the row of the only output, if there is nothing to do beside that; returns whether.

        Where it does, only the record of the request is left to the caller. None: there always is more to do.
        """

    def complete_row(
        self, outputs: list[bytes], request: Request, batch: Batch, handed_ns: int, moments: bytes
    ) -> None:
        """The engine has computed the request; `outputs` is its row of each output.

        `request` is that of the group, and `moments` is the part of its record that all of the group share.
        """

    def refused(self, error: TailcutError) -> None:
        """The request is not admitted."""

    def fail(self, request: Request, error: TailcutError) -> None:
        """The request failed after it was admitted."""


class PassGroup:
    """The requests of one pass for one model and of one priority; the response handler of what they are queued as."""

    __slots__ = ("_entry", "_gatherer", "_row_bytes", "bodies", "deadlines_ns", "members", "most", "priority", "served")

    def __init__(self, gatherer: "RowGatherer", served: ServedModel, priority: int) -> None:
        self._gatherer = gatherer
        self._entry = entry = served.entry
        slab = entry.slab
        assert slab is not None  # noqa: S101  what is rows has one
        self._row_bytes = slab.row_bytes[0]
        self.most = entry.max_batch_size  # requests in the group, at most
        self.served = served
        self.priority = priority
        self.members: list[GatheredRequest | None] = []  # None: answered, or withdrawn
        self.bodies = bytearray()  # the row of each; empty once they are queued
        self.deadlines_ns: list[int] = []

    def withdraw(self, member: GatheredRequest) -> None:
        """Remove a request whose client has disconnected."""
        number = self.members.index(member)
        self.members[number] = None
        self._entry.withdraw(self, number)

    def queue(self, alone: bool) -> bool:  # noqa: FBT001  the loop's delivery calls it
        """Queue the requests when the pass is over; those whose deadlines are close as one.

        Args:
            alone: nothing else came in this pass, so that they may be answered before this returns.

        Returns:
            Whether the model is to be notified.
        """
        self._gatherer.close(self)
        deadlines = self.deadlines_ns
        if not self.bodies or not any(self.members):
            return False
        now, earliest = _now_ns(), min(deadlines)
        count = start = 0
        notify = False
        if max(deadlines) - earliest <= max(0, earliest - now) >> _CLOSE_BITS:
            count = len(deadlines)
            notify = self._queue_some(0, count, earliest, at_once=alone and earliest > now)
        else:
            self._sort()
        while count < len(deadlines):
            start, earliest = count, deadlines[count]
            count = bisect_right(deadlines, earliest + (max(0, earliest - now) >> _CLOSE_BITS), start)
            notify |= self._queue_some(start, count, earliest)
        self.bodies = bytearray()
        return notify

    def _sort(self) -> None:
        """Put the requests into the order of their deadlines."""
        size, bodies, deadlines = self._row_bytes, self.bodies, self.deadlines_ns
        order = sorted(range(len(deadlines)), key=deadlines.__getitem__)
        self.members = [self.members[number] for number in order]
        self.bodies = bytearray().join([bodies[number * size : (number + 1) * size] for number in order])
        deadlines.sort()

    def _queue_some(self, start: int, end: int, deadline_ns: int, *, at_once: bool = False) -> bool:
        entry, delivery, priority = self._entry, self._gatherer.delivery, self.priority
        slab, size, bodies = entry.slab, self._row_bytes, memoryview(self.bodies)
        assert slab is not None  # noqa: S101  what is rows has one
        if at_once and entry.bypass(Request(self, delivery, end, deadline_ns, priority, end), bodies):
            return entry.waiting_rows > 0
        notify = False
        while start < end:
            try:
                lease = entry.lend(end - start, deadline_ns, priority, some=True)
                rows = lease.rows
                slab.write(lease.row, bodies[start * size : (start + rows) * size])
                request = Request(self, delivery, rows, deadline_ns, priority, rows)
                request.offset = start
                notify |= entry.settle(lease, rows, request)
            except TailcutError as error:
                if isinstance(error, QueueFullError):
                    entry.counts.refuse(end - start - self.members[start:end].count(None), error)
                self._tell(start, end, methodcaller("refused", error.without_frames()))
                break
            start += rows
        return notify

    # The engine has computed them.

    def complete(self, request: Request, batch: Batch, index: int) -> None:
        """Answer the members that `request` stands for."""
        handed_ns = _now_ns()
        count, start, members = request.count, request.offset, self.members
        moments = pack_moments(request.ready_ns, batch.formed_ns, batch.began_ns, batch.ended_ns, handed_ns)
        recorded: list[int] = []  # when the heads of those were complete whose record is all that is left
        self.served.latency.add(batch.ended_ns - request.ready_ns, count)
        blobs = [batch.blob(index, output) for output in range(len(batch.outputs))]
        sizes = [len(blob) // count for blob in blobs]
        only = blobs[0] if len(blobs) == 1 else None
        size = sizes[0]
        for position in range(count):
            member = members[start + position]
            if member is None:
                continue
            members[start + position] = None
            try:
                if only is not None:
                    row = only[position * size : (position + 1) * size]
                    answer = member.answer_plainly
                    if answer is not None and answer(row):
                        recorded.append(member.began_ns)
                        continue
                    outputs = [row]
                else:
                    outputs = [
                        blob[position * size : (position + 1) * size] for blob, size in zip(blobs, sizes, strict=True)
                    ]
                member.complete_row(outputs, request, batch, handed_ns, moments)
            except Exception:  # noqa: BLE001  one client's fault must not cost the others their answers
                _log.exception("an answer could not be delivered")
        if recorded:
            shared = pack_shared(moments, handed_ns, _now_ns(), batch.rows, self._row_bytes)
            self.served.timeline.record_rows(recorded, shared)
        self._gatherer.answered(batch.ended_ns)

    def fail(self, request: Request, error: TailcutError) -> None:
        """Fail the members that `request` stands for."""
        start = request.offset
        self._tell(start, start + request.count, methodcaller("fail", request, error))

    def _tell(self, start: int, end: int, tell: Callable[[GatheredRequest], None]) -> None:
        for number in range(start, end):
            member, self.members[number] = self.members[number], None
            if member is None:
                continue
            try:
                tell(member)
            except Exception:  # noqa: BLE001  as in complete
                _log.exception("an error could not be delivered")


class RowGatherer:
    """The groups of the current pass of a loop.

    Args:
        delivery: of the loop; it queues each group when the pass is over.
        answered: called with the time at which a batch ended, in monotonic nanoseconds.
    """

    def __init__(self, delivery: LoopDelivery, answered: Callable[[int], None]) -> None:
        self.delivery = delivery
        self.answered = answered
        self._open: dict[tuple[int, int], PassGroup] = {}  # by the identity of the model, and the priority
        self._last: PassGroup | None = None  # the group added to most recently

    def add(
        self, member: GatheredRequest, served: ServedModel, body: bytes | memoryview, priority: int, deadline_ns: int
    ) -> PassGroup:
        """Add a request, whose row of its model's only input is `body`; returns the group that can withdraw it.

        No method of `member` is called from inside this call.
        """
        group = self._last
        if group is None or group.served is not served or group.priority != priority:
            group = self._find(served, priority)
        members = group.members
        member.group = group
        members.append(member)
        group.bodies += body
        group.deadlines_ns.append(deadline_ns)
        if len(members) == group.most:
            self.close(group)
        return group

    def close(self, group: PassGroup) -> None:
        """Add no more to a group."""
        if self._open.get(key := (id(group.served), group.priority)) is group:
            del self._open[key]
        if self._last is group:
            self._last = None

    def _find(self, served: ServedModel, priority: int) -> PassGroup:
        key = id(served), priority
        group = self._open.get(key)
        if group is None:
            group = self._open[key] = PassGroup(self, served, priority)
            self.delivery.gather(group.queue, served.entry)
        self._last = group
        return group

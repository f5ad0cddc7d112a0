"""The batches of one model that are in flight: formed, and not back from their engines yet.

Nothing here takes a lock or answers a request: a scheduler owns it, and holds its lock during every call.
"""

import time
from collections.abc import Iterable

from tailcut.batching.forecast import Forecast
from tailcut.batching.routing import Router
from tailcut.memory.slab import RowState, Slab
from tailcut.runtime.request import Batch, Request, move_rows
from tailcut.runtime.statistics import ModelStatistics

_ROWS_WEIGHT = 0.1  # weight of the newest batch
_FREE, _READY = RowState.FREE, RowState.READY
_RUNNING, _DONE, _ABANDONED = RowState.RUNNING, RowState.DONE, RowState.ABANDONED


class InFlight:
    """Tracks batches from forming to their end: moves the states of their rows, and has their cost learned.

    Args:
        slab: has the rows of the batches; None where requests are loose arrays.
        forecast: learns the cost of batches, and when waiting requests can be answered.
        router: learns the same for each engine, where the model has several.
        counts: of the model.
    """

    def __init__(self, slab: Slab | None, forecast: Forecast, router: Router | None, counts: ModelStatistics) -> None:
        self.usual_rows = 1.0  # moving average of the rows in a batch
        self._slab = slab
        self._forecast = forecast
        self._router = router
        self._counts = counts
        self._batches: dict[Batch, None] = {}  # in the order in which they were formed

    def __len__(self) -> int:
        return len(self._batches)

    def __contains__(self, batch: Batch) -> bool:
        return batch in self._batches

    def add(self, batch: Batch) -> None:
        """Add a formed batch, whose rows belong to the engine from now on."""
        for request in batch.members:
            request.running = True
        self._batches[batch] = None
        slab = self._slab
        if slab is not None:
            slab.close_block()
            if batch.start >= 0:  # a cancelled request would have left the queue
                slab.move(batch.start, batch.rows, _READY, _RUNNING)
            else:
                move_rows(slab, batch, _READY, _RUNNING)

    def begin(self, batch: Batch) -> None:
        """Complete an `add` that an exception of a signal handler may have interrupted."""
        slab = self._slab
        for request in batch.members:
            if request.row >= 0 and slab is not None and slab.state(request.row) is _READY:
                slab.move(request.row, request.count, _READY, _RUNNING)

    def reclaim(self, waiting: Iterable[Request]) -> None:
        """Free READY rows that belong to no waiting request, because a signal handler interrupted their thread."""
        slab = self._slab
        if slab is None:
            return
        used = {row for request in waiting for row in range(request.row, request.row + request.count)}
        for row in range(slab.rows):
            if row not in used and slab.state(row) is _READY:
                slab.move(row, 1, _READY, _FREE)

    def expect(self, batch: Batch, now_ns: int) -> None:
        """Tell the forecast and the router that a batch leaves the queue now."""
        if self._router is not None:
            self._router.formed(batch.engine_index, batch, batch.rows, now_ns)
            if batch.engine_index != self._router.leading:
                return
        first = batch.members[0]
        self._forecast.formed(first.key, batch.rows, first.ready_ns, now_ns)

    def end(self, batch: Batch, formed: Batch) -> bool:
        """Remove a batch; False where it has been given up, as `formed`, whose rows are freed now."""
        if formed not in self._batches:
            if self._slab is not None:
                move_rows(self._slab, formed, _RUNNING, _FREE)
            return False
        if batch is not formed:
            formed.members.remove(batch.members[0])
        if batch is formed or not formed.members:
            del self._batches[formed]
            if self._router is not None:
                self._router.ended(formed.engine_index, formed, formed.rows, 0, learn=False)
        return True

    def count(self, batch: Batch, deliveries_left: int) -> None:
        """Count a batch, and learn from it; free its rows where nothing is left to deliver."""
        batch.deliveries_left = deliveries_left
        try:
            self._counts.batch(batch)
            self.usual_rows += _ROWS_WEIGHT * (batch.rows - self.usual_rows)
            learn, key = batch.error is None, batch.members[0].key
            if self._router is not None:
                took_ns = batch.ended_ns - batch.began_ns
                self._router.ended(batch.engine_index, batch, batch.rows, took_ns, learn=learn)
                self.lead()
                learn = False  # the forecast uses the cost of the leading engine
            self._forecast.ended(key, batch.rows, batch.began_ns, batch.ended_ns, learn=learn)
        finally:
            if self._slab is not None:
                move_rows(self._slab, batch, _RUNNING, _DONE if deliveries_left else _FREE)

    def delivered(self, batch: Batch) -> None:
        """Note that one delivery has handed out its part of a batch; after the last one, free the rows."""
        try:
            self.learn_promise(batch)
        finally:
            batch.deliveries_left -= 1
            if batch.deliveries_left == 0 and self._slab is not None:
                move_rows(self._slab, batch, _DONE, _FREE)

    def learn_promise(self, batch: Batch) -> None:
        """Learn whether the first request of a batch was answered before its deadline."""
        first = batch.members[0]
        if first.deadline_ns:
            self._forecast.observe_answer(first.ready_ns, first.deadline_ns, time.monotonic_ns())

    def lead(self) -> None:
        """Forecast by the engine that computes most; the others can only make answers earlier."""
        if self._router is not None:
            self._forecast.cost = self._router.engines[self._router.leading].cost

    def give_up(self, began_before_ns: int) -> tuple[list[Batch], list[Request]]:
        """Remove the batches whose engine hangs; their rows are quarantined until it returns, if it ever does.

        Returns:
            These batches, and their requests, which the caller has to fail.
        """
        failed: list[Request] = []
        hung = [batch for batch in self._batches if 0 < max(batch.began_ns, batch.called_ns) < began_before_ns]
        for batch in hung:
            del self._batches[batch]
            if self._router is not None:
                self._router.given_up(batch.engine_index, batch)
            for request in batch.members:
                if not request.cancelled:
                    request.cancelled = True
                    self.quarantine(request)
                    failed.append(request)
        self._counts.hung += len(hung)
        self._counts.failed += sum(request.lost()[0] for request in failed)
        return hung, failed

    def quarantine(self, request: Request) -> None:
        """Quarantine the rows of a cancelled request until the engine that computes them returns."""
        slab = self._slab
        if request.row >= 0 and slab is not None and slab.state(request.row) is _RUNNING:
            slab.move(request.row, request.count, _RUNNING, _ABANDONED)

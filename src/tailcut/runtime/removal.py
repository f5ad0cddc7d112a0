"""Requests of one model that leave the queue without being computed: they are late, or their clients have left.

Nothing here is locked, and nothing here answers a request: a scheduler owns it and holds its lock during every call.
"""

from tailcut.batching.forecast import Forecast
from tailcut.batching.queue import PriorityQueue
from tailcut.memory.slab import RowState, Slab
from tailcut.runtime.request import Request, ResponseHandler
from tailcut.runtime.statistics import ModelStatistics

_FREE, _READY = RowState.FREE, RowState.READY


class Removal:
    """Takes requests out of the queue, gives their rows back, and counts them.

    Args:
        queue: in which they wait.
        slab: whose rows they hold; None where requests are loose arrays.
        forecast: learns how late the queue is.
        counts: of the model.
    """

    def __init__(
        self, queue: PriorityQueue[Request], slab: Slab | None, forecast: Forecast, counts: ModelStatistics
    ) -> None:
        self._queue = queue
        self._slab = slab
        self._forecast = forecast
        self._counts = counts

    def take_late(self, now_ns: int, ahead_ns: int = 0) -> list[Request]:
        """Take what is due before `now_ns + ahead_ns`, to be failed; not the last of all if it is not late yet.

        What is believed to be too slow must be computed now and then, or it is never learned that it no longer is.
        """
        late = self._queue.take_late(now_ns + ahead_ns)
        if late:
            if not self._queue.rows and late[-1].deadline_ns >= now_ns:
                self._queue.append(late.pop())
            self._counts.expired += sum(request.lost()[0] for request in late)
            for request in late:
                self._free(request)
            for request in late[:1]:  # one promise: what follows it was late by the same delay
                self._forecast.observe_answer(request.ready_ns, request.deadline_ns, request.deadline_ns)
        return late

    def cancel(self, request: Request) -> None:
        """The client of a request left; where it does not wait here, it is only counted."""
        self._counts.cancelled += request.requests
        if not request.running and self._queue.remove(request):
            self._free(request)

    def withdraw(self, handler: ResponseHandler, number: int) -> None:
        """The client of one of several requests that are queued as one left; the others stay.

        Args:
            handler: of them all.
            number: in what the handler answers.
        """
        self._counts.cancelled += 1
        queue = self._queue
        for request in queue.items():
            if request.handler is handler and request.offset <= number < request.offset + request.requests:
                break
        else:
            return
        queue.remove(request)
        if number > request.offset:
            queue.append(request.split(number - request.offset))
        alone = request
        if request.requests > 1:
            alone = request.split(1)
            queue.append(request)
        self._free(alone)

    def _free(self, request: Request) -> None:
        """Give back the rows of a request that was queued and will not be computed."""
        if request.row >= 0 and self._slab is not None:
            self._slab.move(request.row, request.count, _READY, _FREE)

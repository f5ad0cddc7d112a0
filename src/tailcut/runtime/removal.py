"""Removes requests of one model from the queue that are late, or whose clients have disconnected.

Nothing here takes a lock or answers a request: a scheduler owns it, and holds its lock during every call.
"""

from tailcut.batching.forecast import Forecast
from tailcut.batching.queue import PriorityQueue
from tailcut.memory.slab import RowState, Slab
from tailcut.runtime.request import Request, ResponseHandler
from tailcut.runtime.statistics import ModelStatistics

_FREE, _READY = RowState.FREE, RowState.READY


class Removal:
    """Removes requests from the queue, frees their rows, and counts them.

    Args:
        queue: where they wait.
        slab: has their rows; None where requests are loose arrays.
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
        """Remove and return the requests due before `now_ns + ahead_ns`; but keep a last one that is not late yet.

        An engine that is believed to be too slow must compute now and then, to show whether it still is.
        """
        late = self._queue.take_late(now_ns + ahead_ns)
        if late:
            if not self._queue.rows and late[-1].deadline_ns >= now_ns:
                self._queue.append(late.pop())
            self._counts.expired += sum(request.lost()[0] for request in late)
            for request in late:
                self._free(request)
            for request in late[:1]:  # one broken promise: the others were late because of the same delay
                self._forecast.observe_answer(request.ready_ns, request.deadline_ns, request.deadline_ns)
        return late

    def cancel(self, request: Request) -> None:
        """Remove a request whose client has disconnected; one that is not in the queue is only counted."""
        self._counts.cancelled += request.requests
        if not request.running and self._queue.remove(request):
            self._free(request)

    def withdraw(self, handler: ResponseHandler, number: int) -> None:
        """Remove one of several requests that are queued as one, because its client has disconnected.

        Args:
            handler: of all these requests.
            number: the index of the request for the handler.
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
        """Free the rows of a queued request that will not be computed."""
        if request.row >= 0 and self._slab is not None:
            self._slab.move(request.row, request.count, _READY, _FREE)

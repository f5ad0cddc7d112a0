"""Applies the batching policy to one model: when waiting requests are dispatched, and where. Pure."""

from tailcut.batching.forecast import Forecast
from tailcut.batching.policy import Dispatch, DispatchKind, DispatchPlace, Queue, Wait, decide, place
from tailcut.batching.queue import PriorityQueue
from tailcut.runtime.request import Request

_GAP_WEIGHT = 0.05  # weight of the newest gap between arrivals
_LONGEST_GAP_NS = 1_000_000_000


class Dispatching:
    """The dispatch settings of one model, and the usual gap between its requests.

    Args:
        kind: where batches are computed.
        max_queue_delay_ns: how long a batch may be held back; 0: never.
        forecast: knows the cost of batches.
    """

    __slots__ = ("_forecast", "_gap_ns", "_last_arrival_ns", "kind", "max_queue_delay_ns")

    def __init__(self, kind: DispatchKind, max_queue_delay_ns: int, forecast: Forecast) -> None:
        self.kind: DispatchKind = kind
        self.max_queue_delay_ns = max_queue_delay_ns
        self._forecast = forecast
        self._last_arrival_ns = 0
        self._gap_ns = 0.0  # moving average of the gap between arrivals

    def arrived(self, request: Request) -> None:
        """Learn the gap between a queued request and the one before. Needed only where batches are held back."""
        gap = (request.ready_ns - self._last_arrival_ns) // (request.requests or 1)
        self._last_arrival_ns = request.ready_ns
        self._gap_ns += _GAP_WEIGHT * (min(gap, _LONGEST_GAP_NS) - self._gap_ns)

    def bypasses(self, rows: int, usual_rows: float) -> bool:
        """Whether a request with nothing before it is computed at once, on the loop, as one batch."""
        cost = self._forecast.cost
        if self.max_queue_delay_ns or rows > cost.best(rows):
            return False
        return self.kind == "inline" or place(rows, usual_rows, cost, self.kind) is DispatchPlace.LOOP

    def decide(
        self, queue: PriorityQueue[Request], now_ns: int, idle: int, usual_rows: float
    ) -> Dispatch | Wait | None:
        """What to dispatch from a queue now, with `idle` idle engines; None where nothing waits."""
        head = queue.head()
        if head is None:
            return None
        seen = Queue(queue.rows, head.ready_ns, self._gap_ns, idle, usual_rows)
        return decide(seen, now_ns, self._forecast.of(head.key), self.max_queue_delay_ns, self.kind)

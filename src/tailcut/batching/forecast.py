"""When a model will be done with what it has: from the learned cost, and from what passes between batches. Pure.

A batch costs more than its engine call: the worker has to get the interpreter back, post the answers and form the next
batch. What that takes is learned while there is always something waiting; without it, promises made at admission under
overload would be broken by as much.

Still a forecast is a mean, and a queue that is let grow right up to the deadline breaks every second promise when the
machine is a little slower than it was: measured at ten times the capacity, 8 % of what had been accepted. So a share of
the time given is kept as a safety margin. A broken promise adds 2 % to the margin, a kept one takes a three-hundredth
of that off it. A shorter queue costs no goodput, as long as it is never empty.
"""

from tailcut.batching.cost import CostModel

_WEIGHT = 0.05  # of the newest observation
_IN_HAND = 0.02  # of the time given, for the answer's way to the client
_BROKEN = 0.02  # of the safety margin, for one broken promise
_KEPT = _BROKEN / 300
_LARGEST_MARGIN = 0.5
_PROMISED = 2  # batches: a request that gave less time was promised nothing


class Forecast:
    """Learns from the batches of one model; the time is an argument, monotonic nanoseconds.

    Args:
        max_batch_size: the largest batch.
        instances: how many batches compute at a time.
    """

    def __init__(self, max_batch_size: int, instances: int) -> None:
        self.cost = CostModel(max_batch_size)  # over everything that computes
        self.costs: dict[object, CostModel] = {}  # of batches of a key, for keys that differ in cost
        self.between_ns = 0.0  # from a batch's end to the start of one that was waiting
        self.safety_margin = 0.0  # the share of the time to a deadline that is not planned with
        self._max_batch = max_batch_size
        self._instances = instances
        self._expected_end_ns = 0.0  # of the batch formed last
        self._last_end_ns = 0

    def of(self, key: object) -> CostModel:
        """What batches of this key cost."""
        return self.costs.get(key, self.cost) if self.costs else self.cost

    def formed(self, key: object, rows: int, ready_ns: int, now_ns: int) -> None:
        """A batch leaves whose first request has been ready since `ready_ns`."""
        if ready_ns < self._last_end_ns:
            self.between_ns += _WEIGHT * (now_ns - self._last_end_ns - self.between_ns)
        self._expected_end_ns = now_ns + self.of(key).estimate_ns(rows)

    def ended(self, key: object, rows: int, began_ns: int, ended_ns: int, *, learn: bool) -> None:
        """A batch is back; one that failed (`learn` off) says nothing about the cost."""
        self._last_end_ns = ended_ns
        if learn:
            rows = min(rows, self._max_batch)
            self.cost.observe(rows, ended_ns - began_ns)
            if key in self.costs:
                self.costs[key].observe(rows, ended_ns - began_ns)

    def observe_answer(self, ready_ns: int, deadline_ns: int, now_ns: int) -> None:
        """A request that was to be answered by `deadline_ns` is answered or refused now."""
        given_ns = deadline_ns - ready_ns
        if given_ns < _PROMISED * self.cost.limit_ns:
            return
        if now_ns > deadline_ns - _IN_HAND * given_ns:
            self.safety_margin = min(_LARGEST_MARGIN, self.safety_margin + _BROKEN)
        elif self.safety_margin > 0.0:
            self.safety_margin = max(0.0, self.safety_margin - _KEPT)

    def is_near(self, left_ns: int, waiting: int) -> bool:
        """Whether a deadline is worth a closer look: not while there is time for a full batch for each waiting row."""
        return left_ns * (1 - self.safety_margin) < (2 + waiting) * (self.cost.limit_ns + self.between_ns)

    def opens_ns(self, deadline_ns: int, rows: int, now_ns: int, *, busy: bool) -> int:
        """From when on a request with the time left to `deadline_ns` can be promised the last of this many rows."""
        return int(self.done_ns(rows, now_ns, busy=busy) - (deadline_ns - now_ns) * (1 - self.safety_margin))

    def done_ns(self, rows: int, now_ns: int, *, busy: bool) -> float:
        """When this many rows will have been computed; `busy` when all instances are computing."""
        count, cost_ns = self.cost.batches(rows)
        busy_ns = max(0.0, self._expected_end_ns - now_ns) if busy else 0.0
        return now_ns + (busy_ns + cost_ns + count * self.between_ns) / self._instances

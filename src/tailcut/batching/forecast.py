"""Predicts when a model will have computed its rows, from learned costs and the time between batches. Pure.

A batch costs more than its engine call: the worker has to get the interpreter lock back, post the answers and form the
next batch. That time is learned while requests are always waiting; without it, requests that are admitted under
overload would miss their deadlines by as much.

A forecast is still a mean: with a queue that may grow right up to the deadline, every second request is late when the
machine becomes slightly slower; 8 % of the admitted requests were, measured at ten times the capacity. So a share of
the time until the deadline is kept as a safety margin. A missed deadline adds 2 % to the margin, and one that is met
takes off a three-hundredth of that. A shorter queue costs no goodput, as long as it is never empty.
"""

from tailcut.batching.cost import CostModel

_WEIGHT = 0.05  # weight of the newest observation
_IN_HAND = 0.02  # of the time until the deadline, for sending the answer
_BROKEN = 0.02  # added to the safety margin for one missed deadline
_KEPT = _BROKEN / 300
_LARGEST_MARGIN = 0.5
_PROMISED = 2  # batches: a request with less time counts as neither met nor missed


class Forecast:
    """Learns from the batches of one model; the time is an argument, monotonic nanoseconds.

    Args:
        max_batch_size: the rows of the largest batch.
        instances: how many batches compute at a time.
    """

    def __init__(self, max_batch_size: int, instances: int) -> None:
        self.cost = CostModel(max_batch_size)  # of all batches
        self.costs: dict[object, CostModel] = {}  # by key, for keys that differ in cost
        self.between_ns = 0.0  # from the end of a batch to the start of the next that was waiting
        self.safety_margin = 0.0  # the share of the time until a deadline that is not used for planning
        self._max_batch = max_batch_size
        self._instances = instances
        self._expected_end_ns = 0.0  # of the batch that was formed last
        self._last_end_ns = 0

    def of(self, key: object) -> CostModel:
        """The cost model for batches of this key."""
        return self.costs.get(key, self.cost) if self.costs else self.cost

    def formed(self, key: object, rows: int, ready_ns: int, now_ns: int) -> None:
        """Note that a batch was formed whose first request has been ready since `ready_ns`."""
        if ready_ns < self._last_end_ns:
            self.between_ns += _WEIGHT * (now_ns - self._last_end_ns - self.between_ns)
        self._expected_end_ns = now_ns + self.of(key).estimate_ns(rows)

    def ended(self, key: object, rows: int, began_ns: int, ended_ns: int, *, learn: bool) -> None:
        """Note the end of a batch; one that failed (`learn` is False) says nothing about the cost."""
        self._last_end_ns = ended_ns
        if learn:
            rows = min(rows, self._max_batch)
            self.cost.observe(rows, ended_ns - began_ns)
            if key in self.costs:
                self.costs[key].observe(rows, ended_ns - began_ns)

    def observe_answer(self, ready_ns: int, deadline_ns: int, now_ns: int) -> None:
        """Learn from a request with this deadline that is answered, or dropped as late, now."""
        given_ns = deadline_ns - ready_ns
        if given_ns < _PROMISED * self.cost.limit_ns:
            return
        if now_ns > deadline_ns - _IN_HAND * given_ns:
            self.safety_margin = min(_LARGEST_MARGIN, self.safety_margin + _BROKEN)
        elif self.safety_margin > 0.0:
            self.safety_margin = max(0.0, self.safety_margin - _KEPT)

    def is_near(self, left_ns: int, waiting: int) -> bool:
        """Whether a deadline has to be checked: not while there is time for a full batch for each waiting row."""
        return left_ns * (1 - self.safety_margin) < (2 + waiting) * (self.cost.limit_ns + self.between_ns)

    def opens_ns(self, deadline_ns: int, rows: int, now_ns: int, *, busy: bool) -> int:
        """When a request with as much time as now remains until `deadline_ns` could be admitted after these rows."""
        return int(self.done_ns(rows, now_ns, busy=busy) - (deadline_ns - now_ns) * (1 - self.safety_margin))

    def done_ns(self, rows: int, now_ns: int, *, busy: bool) -> float:
        """When this many rows will have been computed (monotonic ns); `busy`: all instances are computing."""
        count, cost_ns = self.cost.batches(rows)
        busy_ns = max(0.0, self._expected_end_ns - now_ns) if busy else 0.0
        return now_ns + (busy_ns + cost_ns + count * self.between_ns) / self._instances

"""When a model will be done with what it has: from the learned cost, and from what passes between batches. Pure.

A batch costs more than its engine call: the worker has to get the interpreter back, post the answers and form the next
batch. What that takes is learned while there is always something waiting; without it, promises made at the door under
overload would be broken by as much.
"""

from tailcut.batching.cost import CostModel

_WEIGHT = 0.05  # of the newest observation


class Forecast:
    """Learns from the batches of one model; the time is an argument, monotonic nanoseconds.

    Args:
        max_batch: the largest batch.
        instances: how many batches compute at a time.
    """

    def __init__(self, max_batch: int, instances: int) -> None:
        self.cost = CostModel(max_batch)  # over everything that computes
        self.costs: dict[object, CostModel] = {}  # of batches of a key, for keys that differ in cost
        self.between_ns = 0.0  # from a batch's end to the start of one that was waiting
        self._max_batch = max_batch
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

    def is_near(self, left_ns: int, waiting: int) -> bool:
        """Whether a deadline is worth a closer look: not while there is time for a full batch for each waiting row."""
        return left_ns < (2 + waiting) * (self.cost.limit_ns + self.between_ns)

    def done_ns(self, rows: int, now_ns: int, *, busy: bool) -> float:
        """When so many rows will have been computed; `busy` when all instances are computing."""
        count, cost_ns = self.cost.batches(rows)
        busy_ns = max(0.0, self._expected_end_ns - now_ns) if busy else 0.0
        return now_ns + (busy_ns + cost_ns + count * self.between_ns) / self._instances

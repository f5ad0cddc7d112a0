"""The cost of a batch of n rows, learned while serving, and how many rows are worth taking at once.

Service times are kept for sizes 1, 2, 4, ... as moving averages, with linear interpolation between them. Warm-up seeds
them, so the first decision is already based on measurements.
"""

from bisect import bisect_left

_WEIGHT = 0.1  # weight of the newest observation; about the last 20 batches count
_REPLAN_EVERY = 16  # observations between two updates of the table of best sizes
_PROBE_EVERY = 64  # observations between two batches of a size that was not worth taking before
_PROBE_WEIGHT = 0.5  # weight of such a batch, whose size is observed rarely
_WORTH = 0.95  # a larger batch must reduce the time per row to this share, so that waiting for each other pays


class CostModel:
    """Service time in nanoseconds as a function of batch size, for sizes 1 to `max_batch_size`."""

    def __init__(self, max_batch_size: int) -> None:
        sizes = {max_batch_size}
        size = 1
        while size < max_batch_size:
            sizes.add(size)
            size *= 2
        self.sizes = sorted(sizes)  # the nodes
        self._known: dict[int, float] = {}
        self._nodes: list[int] = []  # the known sizes, ascending
        self._observations = 0
        self._probe = 0  # a size to try once, when this many rows are ready
        self._best = list(range(max_batch_size + 1))  # take all ready rows until something is known
        self.limit = max_batch_size  # the largest size worth taking
        self.limit_ns = 0.0  # and its service time

    def observe(self, rows: int, took_ns: int) -> None:
        """Learn from one batch of `rows` rows."""
        # A size between two nodes updates the nearer one, scaled by rows: accurate to a few per cent where it matters.
        node = self._nearest(rows)
        scaled = took_ns * node / rows
        known = self._known.get(node)
        weight = _PROBE_WEIGHT if node == self._probe else _WEIGHT
        self._known[node] = scaled if known is None else known + weight * (scaled - known)
        self._observations += 1
        if known is None:
            self._nodes = sorted(self._known)
        if known is None or node == self._probe or self._observations % _REPLAN_EVERY == 0:
            self._probe = 0
            self._replan()
        if self._observations % _PROBE_EVERY == 0:
            self._probe = next((size for size in self.sizes if size > self.limit), 0)
        self.limit_ns = self._known.get(self.limit, self.limit_ns)  # admission relies on it, so it must be current

    def estimate_ns(self, rows: int) -> float:
        """The expected service time of a batch of `rows` rows, in nanoseconds; 0 while nothing is known."""
        nodes = self._nodes
        if not nodes:
            return 0.0
        at = bisect_left(nodes, rows)
        if at < len(nodes) and nodes[at] == rows:
            return self._known[rows]
        if at == 0 or at == len(nodes):
            node = nodes[min(at, len(nodes) - 1)]
            return self._known[node] * rows / node
        low, high = nodes[at - 1], nodes[at]
        share = (rows - low) / (high - low)
        return self._known[low] + share * (self._known[high] - self._known[low])

    def best(self, ready: int) -> int:
        """How many of `ready` rows to take at once: as many as it pays for them to wait for each other.

        Now and then it is the next size: one that a stall made look slow would otherwise never be tried again.
        """
        if 0 < self._probe <= ready:
            return self._probe
        return self._best[ready] if ready < len(self._best) else self._best[-1]

    def batches(self, rows: int) -> tuple[int, float]:
        """How many batches of the best size these rows make (the last may be smaller), and their cost (ns)."""
        full, rest = divmod(rows, self.limit)
        return full + (rest > 0), full * self.limit_ns + (self.estimate_ns(rest) if rest else 0.0)

    def _nearest(self, rows: int) -> int:
        at = bisect_left(self.sizes, rows)
        if at == len(self.sizes):
            return self.sizes[-1]
        if at and rows - self.sizes[at - 1] < self.sizes[at] - rows:
            return self.sizes[at - 1]
        return self.sizes[at]

    def _replan(self) -> None:
        """Update the size to take for each number of ready rows.

        The next known size is taken only where that reduces the time per row: otherwise, the rows of a smaller batch
        are answered earlier, and those after them no later.
        """
        chosen = 1
        for size in self.sizes[1:]:
            if size in self._known and self.estimate_ns(size) / size <= _WORTH * self.estimate_ns(chosen) / chosen:
                chosen = size
        unknown_above = [size for size in self.sizes if size > max(self._known)]
        limit = self.sizes[-1] if unknown_above and chosen == max(self._known) else chosen
        self._best = [min(ready, limit) for ready in range(self.sizes[-1] + 1)]
        self.limit, self.limit_ns = limit, self.estimate_ns(limit)

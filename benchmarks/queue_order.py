"""What ordering by priority and deadline costs a request that names neither, beside a plain deque.

    python benchmarks/queue_order.py [--rows 1024]

The same requests go through a deque and through `batching.queue.PriorityQueue`, put in one by one and taken out in
batches of 32, in turns; the last line is the worst case, deadlines that each belong to the front.
"""

import argparse
import statistics
import time
from collections import deque

from tailcut.batching.queue import PriorityQueue

BATCH = 32


class Request:
    __slots__ = ("count", "deadline_ns", "key", "priority")

    def __init__(self, deadline_ns: int = 0, priority: int = 0) -> None:
        self.count, self.key, self.deadline_ns, self.priority = 1, None, deadline_ns, priority


def through_deque(requests: list[Request]) -> None:
    """As little as a batching queue can do: count rows, compare keys."""
    queue: deque[Request] = deque()
    rows = 0
    for request in requests:
        queue.append(request)
        rows += request.count
    while queue:
        taken = [queue.popleft()]
        size = taken[0].count
        while queue and size < BATCH and queue[0].key == taken[0].key:
            taken.append(queue.popleft())
            size += taken[-1].count
        rows -= size


def through_queue(requests: list[Request]) -> None:
    queue: PriorityQueue[Request] = PriorityQueue()
    for request in requests:
        queue.append(request)
    while queue.rows:
        queue.take_late(1)
        queue.take(BATCH)


def nanoseconds(way, requests: list[Request]) -> float:
    began = time.perf_counter_ns()
    way(requests)
    return (time.perf_counter_ns() - began) / len(requests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024)
    rows = parser.parse_args().rows
    plain = [Request(10**15 + index) for index in range(rows)]
    mixed = [Request(10**15 + index, 1 + index % 3) for index in range(rows)]
    backwards = [Request(10**15 - index) for index in range(rows)]
    ways = {
        "a plain deque": (through_deque, plain),
        "queue, no priorities": (through_queue, plain),
        "queue, three priorities": (through_queue, mixed),
        "queue, each overtakes all": (through_queue, backwards),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(100):
        for name, (way, requests) in ways.items():
            times[name].append(nanoseconds(way, requests))
    limit = statistics.median(times["a plain deque"])
    print(f"{rows} requests in, out in batches of {BATCH}; median of 100 turns")
    for name, result in times.items():
        middle = statistics.median(result)
        print(f"{name:28s}{middle:8.0f} ns a request{middle / limit:8.2f} of the deque")


if __name__ == "__main__":
    main()

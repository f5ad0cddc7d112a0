"""When a batch leaves, and how large: pure; `now` is an argument.

The rule is work-conserving: with an engine idle, what is ready goes. While engines work, arrivals gather by themselves.
Holding a batch back is a setting (`max_queue_delay_us`), and even then only while the learned cost says that one more
row saves more engine time than the wait for it costs.
"""

from typing import NamedTuple

from tailcut.batching.cost import CostModel


class Queue(NamedTuple):
    """What the policy sees: rows ready, when the oldest became so, the usual gap between arrivals, idle engines."""

    ready: int
    oldest_ns: int
    gap_ns: float
    idle: int


class Dispatch(NamedTuple):
    """Send this many rows now."""

    rows: int


class Wait(NamedTuple):
    """Look again at this time, or when something arrives."""

    until_ns: int


def decide(queue: Queue, now_ns: int, cost: CostModel, hold_ns: int = 0) -> Dispatch | Wait:
    """Send rows now or wait a little; called only with an engine idle and a row ready.

    Several idle engines share what is ready, so that none computes for all while another sleeps.
    """
    rows = cost.best(-(-queue.ready // max(queue.idle, 1)))
    if hold_ns and rows == queue.ready < cost.best(queue.ready + 1):
        until = queue.oldest_ns + hold_ns
        saved = cost.estimate_ns(rows) + cost.estimate_ns(1) - cost.estimate_ns(rows + 1)
        # Everyone waiting waits for the newcomer: its gap counts once for each of them.
        if now_ns + queue.gap_ns <= until and saved > queue.gap_ns * queue.ready:
            return Wait(until)
    return Dispatch(rows)

"""Decides when a batch is dispatched, how large it is, and where it is computed. Pure: the time is an argument.

The rule is work-conserving: while an engine is idle, ready rows are dispatched; while engines work, arrivals gather by
themselves. A batch is held back only if a setting (`max_queue_delay_us`) allows it, and only while the learned cost
says that one more row saves more engine time than the wait for it costs.

A batch is computed on the event loop that notifies the model, or by a worker. Under adaptive dispatch, the loop
computes short batches, which saves waking two threads; but not while batches are large, because then there are many
requests, and the loop can receive them while a worker computes.
"""

from enum import Enum, auto
from typing import Literal, NamedTuple

from tailcut.batching.cost import CostModel

DispatchKind = Literal["worker", "inline", "adaptive"]
LOOP_NS = 500_000  # adaptive dispatch: the longest time for which the loop may be kept from receiving
_FEW_ROWS = 2.5  # adaptive dispatch: the usual size of a batch while there are few clients


class DispatchPlace(Enum):
    """Where a batch is computed."""

    LOOP = auto()  # on the thread that notifies the model
    WORKER = auto()


class Queue(NamedTuple):
    """What the policy knows of a model's queue and engines."""

    ready: int  # rows
    oldest_ns: int  # when the first of them became ready
    gap_ns: float  # usual time between arrivals
    idle: int  # number of idle engines
    usual_rows: float = 1.0  # usual size of a batch


class Dispatch(NamedTuple):
    """Compute `rows` rows now."""

    rows: int
    where: DispatchPlace = DispatchPlace.WORKER


class Wait(NamedTuple):
    """Decide again at this time, or when a request arrives."""

    until_ns: int


def decide(
    queue: Queue, now_ns: int, cost: CostModel, hold_ns: int = 0, dispatch: DispatchKind = "worker"
) -> Dispatch | Wait:
    """Dispatch rows now, or wait a little; an engine must be idle and a row ready.

    Several idle engines share the ready rows, so that none computes all of them while another is idle.
    """
    rows = cost.best(-(-queue.ready // max(queue.idle, 1)))
    if hold_ns and rows == queue.ready < cost.best(queue.ready + 1):
        until = queue.oldest_ns + hold_ns
        saved = cost.estimate_ns(rows) + cost.estimate_ns(1) - cost.estimate_ns(rows + 1)
        # Every waiting row would wait for the next arrival, so the gap counts once for each.
        if now_ns + queue.gap_ns <= until and saved > queue.gap_ns * queue.ready:
            return Wait(until)
    return Dispatch(rows, place(queue.ready, queue.usual_rows, cost, dispatch))


def place(ready: int, usual_rows: float, cost: CostModel, dispatch: DispatchKind) -> DispatchPlace:
    """Where to compute a batch of the ready rows."""
    if dispatch == "inline":
        return DispatchPlace.LOOP
    few = dispatch == "adaptive" and usual_rows <= _FEW_ROWS
    return (
        DispatchPlace.LOOP if few and cost.estimate_ns(min(ready, cost.sizes[-1])) <= LOOP_NS else DispatchPlace.WORKER
    )

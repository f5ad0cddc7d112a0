"""When a batch leaves, how large, and where it is computed: pure; `now` is an argument.

The rule is work-conserving: with an engine idle, what is ready goes. While engines work, arrivals gather by themselves.
Holding a batch back is a setting (`max_queue_delay_us`), and even then only while the learned cost says that one more
row saves more engine time than the wait for it costs.

A batch is computed on the event loop that notifies the model, or by a worker. Under adaptive dispatch the loop computes
what is soon done, which spares two threads' wake-ups; not while batches are large: many requests are being served then,
and receiving them goes on beside a worker.
"""

from enum import Enum, auto
from typing import Literal, NamedTuple

from tailcut.batching.cost import CostModel

DispatchKind = Literal["worker", "inline", "adaptive"]
LOOP_NS = 500_000  # adaptive dispatch: the longest time for which the loop is kept from receiving
_FEW_ROWS = 2.5  # likewise: the usual size of a batch while there are few clients


class DispatchPlace(Enum):
    """Where a batch is computed."""

    LOOP = auto()  # on the thread that notifies the model
    WORKER = auto()


class Queue(NamedTuple):
    """What the policy sees of a model."""

    ready: int  # rows
    oldest_ns: int  # when the first of them became ready
    gap_ns: float  # between arrivals, usually
    idle: int  # engines
    usual_rows: float = 1.0  # of a batch


class Dispatch(NamedTuple):
    """Compute this many rows now."""

    rows: int
    where: DispatchPlace = DispatchPlace.WORKER


class Wait(NamedTuple):
    """Look again at this time, or when something arrives."""

    until_ns: int


def decide(
    queue: Queue, now_ns: int, cost: CostModel, hold_ns: int = 0, dispatch: DispatchKind = "worker"
) -> Dispatch | Wait:
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
    return Dispatch(rows, place(queue.ready, queue.usual_rows, cost, dispatch))


def place(ready: int, usual_rows: float, cost: CostModel, dispatch: DispatchKind) -> DispatchPlace:
    """Where a batch of what is ready is computed."""
    if dispatch == "inline":
        return DispatchPlace.LOOP
    few = dispatch == "adaptive" and usual_rows <= _FEW_ROWS
    return (
        DispatchPlace.LOOP if few and cost.estimate_ns(min(ready, cost.sizes[-1])) <= LOOP_NS else DispatchPlace.WORKER
    )

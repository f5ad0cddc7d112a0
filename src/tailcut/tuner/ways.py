"""What each way into the server costs, measured with an engine that computes nothing.

Two short closed loops tell all that the simulation wants. With many connections the loop is never idle, so that the
rate is one over its time for a request. With one connection a request pays for a batch of its own, and what its latency
has beyond the server's CPU time lies in the client and the kernel. The same one connection through a worker thread
takes two wake-ups more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tailcut.lab.client import closed_loop
from tailcut.lab.cost import watched
from tailcut.lab.load import LoadResult, Payload, Target
from tailcut.machine.process import ProcessCost
from tailcut.tuner.simulate import WayIn

MANY = 64  # connections that keep the loop busy
_RECEIVING = 0.4  # of the loop's time for a request: receiving; the rest is answering
_WARM = 0.2


@dataclass(frozen=True, slots=True)
class Probe:
    """One server that runs the empty engine, and what two loads found there."""

    alone: LoadResult
    alone_cost: ProcessCost | None
    many: LoadResult

    @property
    def alone_ns(self) -> float:
        """The median latency of one connection."""
        return float(np.median(self.alone.latencies_ns)) if self.alone.samples else 0.0

    @property
    def alone_cpu_ns(self) -> float:
        """The server's CPU time for a request of one connection."""
        if self.alone_cost is None or not self.alone.answered or self.alone_cost.cpu_ns is None:
            return self.alone_ns / 2
        return self.alone_cost.cpu_ns / self.alone.answered

    @property
    def busy_ns(self) -> float:
        """The loop's time for a request when it never rests."""
        return 1e9 / self.many.rate_achieved if self.many.rate_achieved else self.alone_cpu_ns


def probe(target: Target, payloads: Sequence[Payload], pid: int | None, seconds: float) -> Probe:
    """Load a server of the empty engine with one connection, then with many."""
    half = seconds / 2
    one = partial(closed_loop, target, payloads, concurrency=1, duration_s=half, warmup_s=_WARM * half)
    alone, cost = watched(pid, one)
    many = closed_loop(target, payloads, concurrency=MANY, duration_s=half, warmup_s=_WARM * half)
    return Probe(alone, cost, many)


def way_in(own: Probe, inline: Probe) -> WayIn:
    """The costs of a dispatch, from a probe of it and one with inline dispatch, in which no thread is woken."""
    busy = own.busy_ns
    batch = max(0.0, own.alone_cpu_ns - busy)
    wake = max(0.0, own.alone_ns - inline.alone_ns) / 2
    outside = max(0.0, own.alone_ns - busy - batch - 2 * wake)
    return WayIn(
        receive_ns=round(_RECEIVING * busy),
        answer_ns=round((1 - _RECEIVING) * busy),
        batch_ns=round(batch),
        wake_ns=round(wake),
        outside_ns=round(outside),
    )

"""What each way into the server costs, measured with an engine that computes nothing.

Two short closed loops tell all that the simulation wants. With many connections the loop is never idle, so that the
rate is one over its time for a request. With one connection a request pays for a batch of its own, and what its latency
has beyond the server's CPU time lies in the client and the kernel. The same one connection through a worker thread
takes two wake-ups more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tailcut.lab.client import closed_loop
from tailcut.lab.cost import watched
from tailcut.lab.load import LoadResult, Payload, Target
from tailcut.machine.process import ProcessCost
from tailcut.runtime.profile import Settings
from tailcut.tuner.servers import Servers
from tailcut.tuner.simulate import WayIn
from tailcut.tuner.space import BASELINE, BATCH_SIZES, Facts, changed, quickest_wire

PROBED = ("inline", "worker")  # dispatches that are measured
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


def way_settings(facts: Facts, dispatch: str) -> Settings:
    """What the server of a probe runs: the empty engine behind the quickest wire, with room for the largest batch."""
    batching = {"bind": facts.spec.fixed_rows, "max_batch": BATCH_SIZES[-1], "dispatch": dispatch}
    return changed(BASELINE, engine={"name": "none"}, batching=batching, io={"wire": quickest_wire(facts)})


def measure_ways(servers: Servers, settings: Mapping[str, Settings], seconds: float) -> dict[str, WayIn]:
    """Probe the servers of these settings, by dispatch, for so long each; `inline` has to be among them."""
    servers.launch(*settings.values())
    arms = {name: servers.arm(one) for name, one in settings.items()}
    probes = {name: probe(arm.target, arm.payloads, arm.pid, seconds) for name, arm in arms.items()}
    return {name: way_in(found, probes["inline"]) for name, found in probes.items()}


def with_adaptive(ways: Mapping[str, WayIn]) -> dict[str, WayIn]:
    """Adaptive dispatch computes on a worker where many ask; what a lone request saves is known."""
    return {**ways, "adaptive": ways["worker"]}

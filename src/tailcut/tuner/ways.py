"""The overhead of a request with each dispatch, measured with an engine that computes nothing.

Three short closed loops give all that the simulation needs. With many connections the event loop is never idle, so the
inverse of the rate is its time per request: if batches take all that has arrived, hardly more than receiving and
answering; if each request is a batch of its own, the cost of a batch as well. With one connection a request also pays
for an iteration of the loop, and the rest of its latency, beyond the CPU time of server and client, is spent in the
kernel. One connection through a worker thread needs two more wake-ups. The client's own time is measured in the same
loops, because it runs on the same cores in every race.

After a call of a real engine, caches have other contents than after the empty one, so that all work of the loop is
slower: by 12 of the 35 us that a request of a small model takes in a batch of its own. If calls are short, each real
engine is therefore measured as well, with many connections, no batches and inline dispatch.

If clients may choose how they send requests, that is measured first: raw or binary bodies, over TCP or a Unix socket,
and tensors in shared memory, with one server that accepts all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np

from tailcut.engines import EngineOptions
from tailcut.errors import CapacityError
from tailcut.lab.client import closed_loop
from tailcut.lab.cost import watched
from tailcut.lab.load import LoadResult
from tailcut.lab.trial import Arm
from tailcut.machine.process import ProcessCost
from tailcut.runtime.settings import Settings
from tailcut.tuner.engine_estimate import EngineEstimate
from tailcut.tuner.servers import TrialServers
from tailcut.tuner.simulate import WayIn, Ways
from tailcut.tuner.space import BASELINE, SpaceFacts, Wiring, batch_sizes, changed, is_fast, quickest, wirings

PROBED = ("inline", "worker")  # dispatches that are measured
MANY = 64  # connections that keep the loop busy
_TOGETHER = MANY // 2  # requests in a batch that takes all: the others' answers are on their way
_RECEIVING = 0.4  # share of receiving in the loop's time for a request; the rest is answering
_WARM = 0.2
_SLOW_CALL_NS = 1_000_000  # with longer calls, the noise of the engine's own time exceeds the effect of caches
_MOST = 2.0  # times the loop's time for a request: a larger effect is a stall
# The overhead on the machine of docs/performance.md, assumed if it is not measured.
USUAL = {
    "inline": WayIn(9_000, 14_000, 20_000, 0, 60_000, 12_000, 8_000, 10_000),
    "worker": WayIn(9_000, 14_000, 25_000, 25_000, 60_000, 12_000, 8_000, 10_000),
}
_NEAR = 0.97  # of the fastest wiring's score, which a simpler one has to reach


@dataclass(frozen=True, slots=True)
class Probe:
    """The results of three loads on servers with the empty engine."""

    alone: LoadResult
    alone_cost: ProcessCost | None
    many: LoadResult
    singles: LoadResult  # many connections, each request a batch of its own

    @property
    def alone_ns(self) -> float:
        """The median latency with one connection."""
        return float(np.median(self.alone.latencies_ns)) if self.alone.samples else 0.0

    @property
    def alone_cpu_ns(self) -> float:
        """The server's CPU time per request with one connection."""
        if self.alone_cost is None or not self.alone.answered or self.alone_cost.cpu_ns is None:
            return self.alone_ns / 2
        return self.alone_cost.cpu_ns / self.alone.answered

    @property
    def client_alone_ns(self) -> float:
        """The client's CPU time per request with one connection, including a wake-up for each."""
        return _client_ns(self.alone)

    @property
    def client_ns(self) -> float:
        """The client's CPU time per request when it is hardly ever idle."""
        return min(_client_ns(self.many), self.client_alone_ns)

    @property
    def busy_ns(self) -> float:
        """The event loop's time per request when it is never idle."""
        return 1e9 / self.many.rate_achieved if self.many.rate_achieved else self.alone_cpu_ns

    @property
    def single_ns(self) -> float:
        """The same if each request is a batch of its own."""
        return 1e9 / self.singles.rate_achieved if self.singles.rate_achieved else self.busy_ns


@dataclass(frozen=True, slots=True)
class RealEngine:
    """An engine that computes the model.

    Args:
        options: of the engine.
        call_ns: the time of a call of one row, measured in process.
    """

    options: EngineOptions
    call_ns: float


def real_engines(estimates: Sequence[EngineEstimate]) -> list[RealEngine]:
    """The fastest configuration of each engine on one thread; none if caches do not matter for calls so long."""
    best: dict[str, EngineEstimate] = {}
    for estimate in estimates:
        if estimate.options.threads == estimate.options.instances == 1 and 1 in estimate.times_ns:
            best[estimate.options.name] = min(
                best.get(estimate.options.name, estimate), estimate, key=lambda each: each.low_ns(1)
            )
    return [
        RealEngine(estimate.options, estimate.median_ns(1))
        for estimate in best.values()
        if estimate.low_ns(1) <= _SLOW_CALL_NS
    ]


def _client_ns(load: LoadResult) -> float:
    return load.client_cpu * 1e9 / load.rate_achieved if load.rate_achieved else 0.0


def probe(arm: Arm, single: Arm, seconds: float) -> Probe:
    """Load a server of the empty engine with one connection, then with many; and one without batches with many.

    Args:
        arm: the server.
        single: the same without batches.
        seconds: for all three loads.
    """
    third = seconds / 3
    load = partial(closed_loop, arm.target, arm.payloads, concurrency=1, duration_s=third, warmup_s=_WARM * third)
    alone, cost = watched(arm.pid, load)
    return Probe(alone, cost, _crowd(arm, third), _crowd(single, third))


def _crowd(arm: Arm, seconds: float) -> LoadResult:
    return closed_loop(arm.target, arm.payloads, concurrency=MANY, duration_s=seconds, warmup_s=_WARM * seconds)


def way_in(own: Probe, inline: Probe) -> WayIn:
    """The overhead with a dispatch, from a probe of it and one of inline dispatch, which wakes no thread."""
    passes = 1 if own is inline else 2  # iterations of the loop for a lone request: a worker's answer needs one more
    single, each_pass = _single_and_pass(own, passes)
    # busy = request + (batch + pass) / together, and single = request + batch
    request = (_TOGETHER * own.busy_ns - single - each_pass) / (_TOGETHER - 1)
    request = max(request, own.busy_ns / 2)
    outside = max(0.0, inline.alone_ns - sum(_single_and_pass(inline, 1)) - inline.client_alone_ns)
    wake = max(0.0, own.alone_ns - single - passes * each_pass - outside - inline.client_alone_ns) / 2
    return WayIn(
        receive_ns=round(_RECEIVING * request),
        answer_ns=round((1 - _RECEIVING) * request),
        batch_ns=round(max(0.0, single - request)),
        pass_ns=round(each_pass),
        wake_ns=round(wake),
        outside_ns=round(outside),
        client_ns=round(inline.client_ns),
        client_pass_ns=round(inline.client_alone_ns - inline.client_ns),
    )


def disturbance_ns(computed: LoadResult, inline: Probe, call_ns: float) -> int:
    """How much slower the event loop is per batch after a real engine, beyond the time of the engine's call, in ns.

    Args:
        computed: load of many connections without batches, with a real engine on the loop's thread.
        inline: probe of the empty engine with inline dispatch.
        call_ns: time of a call of the real engine, measured in process.
    """
    if not computed.rate_achieved:
        return 0
    return round(min(max(0.0, 1e9 / computed.rate_achieved - inline.single_ns - call_ns), _MOST * inline.single_ns))


def _single_and_pass(probe: Probe, passes: int) -> tuple[float, float]:
    """The loop's time for a request that is a batch of its own, and for each iteration that a lone request takes."""
    single = max(probe.single_ns, probe.busy_ns)
    return single, max(0.0, probe.alone_cpu_ns - single) / passes


def way_settings(facts: SpaceFacts, dispatch: str) -> Settings:
    """The settings of a probe's server: the empty engine, the fastest wire, and the largest batch size."""
    return _over(quickest(facts), facts, dispatch)


def wiring_settings(facts: SpaceFacts) -> Settings:
    """The settings of a server that accepts every encoding and socket to be compared."""
    several = wirings(facts)
    wire = next((wiring.wire for wiring in several if wiring.wire == "shared"), several[0].wire)
    settings = _over(Wiring(wire, several[-1].socket), facts, "inline")
    return changed(settings, io={"fast_path": any(is_fast(facts, wiring.wire) for wiring in several)})


def measured_wiring(servers: TrialServers, facts: SpaceFacts, seconds: float) -> Wiring:
    """The fastest encoding and socket; nothing is measured if there is only one.

    Each is measured with many connections and with one, for a third of `seconds` each.

    Raises:
        TailcutError: the server of the empty engine does not start.
    """
    several, scores = wirings(facts), dict[Wiring, float]()
    if len(several) == 1:
        return several[0]
    settings = wiring_settings(facts)
    for wiring in several:
        try:
            arm = servers.arm(settings, changed(settings, io={"wire": wiring.wire, "socket": wiring.socket}).io)
        except CapacityError:  # /dev/shm has no room for the requests
            continue
        loop = partial(closed_loop, arm.target, arm.payloads, duration_s=seconds / 3, warmup_s=_WARM * seconds / 3)
        scores[wiring] = (loop(concurrency=MANY).rate_achieved * loop(concurrency=1).rate_achieved) ** 0.5
    return best_wiring(scores)


def best_wiring(scores: Mapping[Wiring, float]) -> Wiring:
    """The first one, which is the simplest, of those that are hardly slower than the fastest. Pure."""
    most = max(scores.values())
    return next(wiring for wiring, score in scores.items() if score >= _NEAR * most)


def _over(wiring: Wiring, facts: SpaceFacts, dispatch: str) -> Settings:
    batching = {"bind": facts.spec.fixed_rows, "max_batch_size": batch_sizes(facts.spec)[-1], "dispatch": dispatch}
    batching |= {"rows": facts.rows}
    engine = {
        "name": "none",
        "u8_input": facts.u8_input,
        "outputs": facts.outputs,
        "fixed_dims": facts.fixed_dims,
        "signature": facts.signature,
    }
    io = {"wire": wiring.wire, "socket": wiring.socket, "fast_path": is_fast(facts, wiring.wire)}
    return changed(BASELINE, engine=engine, batching=batching, io=io)


def measure_ways(
    servers: TrialServers, settings: Mapping[str, Settings], seconds: float, engines: Sequence[RealEngine] = ()
) -> Ways:
    """Measure the overhead of a request with each dispatch, and what real engines add to it.

    Args:
        servers: of the model.
        settings: of the empty engine, by dispatch; `inline` has to be among them.
        seconds: for each dispatch.
        engines: real engines.
    """
    single = {name: changed(own, batching={"max_batch_size": 1}) for name, own in settings.items()}
    computed = {engine: msgspec.structs.replace(single["inline"], engine=engine.options) for engine in engines}
    servers.launch(*settings.values(), *single.values(), *computed.values())
    arms = {name: (servers.arm(settings[name]), servers.arm(single[name])) for name in settings}
    probes = {name: probe(*pair, seconds) for name, pair in arms.items()}
    inline = probes["inline"]
    slower = {
        str(real.options.name): disturbance_ns(_crowd(servers.arm(each), seconds / 3), inline, real.call_ns)
        for real, each in computed.items()
    }
    return Ways({name: way_in(result, inline) for name, result in probes.items()}, slower)

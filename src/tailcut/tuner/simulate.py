"""The performance of a configuration under load, simulated from measured parts: thousands of configurations a minute.

A configuration is a queueing system: requests arrive, the event loop receives them, batches form by the rule of
`batching/policy.py`, instances that share cores compute them, and the loop answers. The parts are measured where that
is cheap: the engine in process, and the overhead of a request with an engine that computes nothing. The simulated event
loop is `kernels/queueing.py`. Pure: the same arguments give the same result.

Not modelled: contention of instances for caches, and interruptions by the operating system. So the simulation decides
which configurations race, and the race on the real server decides which one wins.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Self

import numpy as np

from tailcut.batching.cost import CostModel
from tailcut.kernels import queueing
from tailcut.tuner.shapes import ALIKE, ShapeMix

DispatchKind = Literal["inline", "worker", "adaptive"]
DISPATCH: dict[DispatchKind, int] = {
    "inline": queueing.INLINE,
    "worker": queueing.WORKER,
    "adaptive": queueing.ADAPTIVE,
}
_HERE_NS = 500_000  # what adaptive dispatch computes on the loop's thread, as in runtime/model.py
_SPINNER = 0.6  # of a core that a spinning thread keeps busy; chosen by benchmarks/simulation.py
_SEARCH_STEPS = 12  # of a bisection: to 0.1 %
_TIGHT = 0.01


@dataclass(frozen=True)
class ServiceTimes:
    """How long an engine configuration takes for batches of `sizes` rows.

    Args:
        sizes: int64 [sizes], ascending, the first one 1.
        quantiles_ns: float64 [sizes, quantiles]: equally likely times in nanoseconds, ascending.
        threads: that one batch keeps busy.

    Raises:
        ValueError: the shapes do not match, or the first size is not 1.
    """

    sizes: np.ndarray
    quantiles_ns: np.ndarray
    threads: int = 1

    def __post_init__(self) -> None:
        """Check the shapes: with wrong ones the simulation would run, and return nonsense."""
        if self.quantiles_ns.ndim != 2 or len(self.sizes) != len(self.quantiles_ns) or self.sizes[0] != 1:
            raise ValueError("service times need a row of quantiles for each size, and the first size is 1")

    @cached_property
    def medians_ns(self) -> np.ndarray:
        """The median for each size."""
        medians: np.ndarray = np.median(self.quantiles_ns, axis=1)
        return medians

    def scaled(self, factor: float) -> Self:
        """The service times multiplied by `factor`."""
        return self if factor == 1.0 else replace(self, quantiles_ns=factor * self.quantiles_ns)

    @cached_property
    def _tables(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {}

    def worth_taking(self, largest: int) -> tuple[np.ndarray, np.ndarray]:
        """What the server's cost model predicts after it has observed the medians, for batches of up to `largest` rows.

        Returns:
            How many rows are worth taking, by the number that is ready, int64 [largest + 1]; and the estimated
            nanoseconds of a batch, by its rows, float64 [largest + 1].
        """
        if largest not in self._tables:
            model = CostModel(largest)
            for size in model.sizes:
                model.observe(size, round(float(np.interp(size, self.sizes, self.medians_ns))))
            best = np.array([0, *(model.best(ready) for ready in range(1, largest + 1))], np.int64)
            self._tables[largest] = best, np.array([model.estimate_ns(rows) for rows in range(largest + 1)])
        return self._tables[largest]


@dataclass(frozen=True, slots=True)
class WayIn:
    """The overhead of a request in nanoseconds: all that the server does other than computing the model.

    It depends on the wire and the dispatch, and is measured with an engine that computes nothing.
    """

    receive_ns: int  # of the event loop's time, per request
    answer_ns: int  # likewise
    batch_ns: int  # of the event loop's time, per batch
    wake_ns: int  # from waking a thread until it runs
    outside_ns: int  # of the latency, in the kernel, and in a client that is not simulated
    pass_ns: int = 0  # of the event loop's time, per iteration
    client_ns: int = 0  # of the time of a load client on the same machine, per request; 0: it is on another one
    client_pass_ns: int = 0  # likewise, each time that the client is woken
    engine_ns: int = (
        0  # of the event loop's time, per batch: how much slower it is after a real engine has used the caches
    )

    def alone_ns(self, dispatch: DispatchKind) -> int:
        """The event loop's time for a lone request; an answer from a worker takes a second iteration."""
        passes = 2 if dispatch == "worker" else 1
        return self.receive_ns + self.answer_ns + self.batch_ns + self.engine_ns + passes * self.pass_ns


@dataclass(frozen=True, slots=True)
class Ways:
    """The overhead of a request by dispatch and engine.

    Args:
        by_dispatch: measured with an engine that computes nothing.
        engine_ns: `WayIn.engine_ns` of each engine.
    """

    by_dispatch: Mapping[str, WayIn]
    engine_ns: Mapping[str, int] = field(default_factory=dict)

    def of(self, dispatch: str, engine: str) -> WayIn:
        """The overhead with a dispatch and an engine; for adaptive, as with a worker, which it uses under load."""
        way = self.by_dispatch["worker" if dispatch == "adaptive" else dispatch]
        return replace(way, engine_ns=self.engine_ns.get(engine, 0))


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration, as far as it affects times."""

    service: ServiceTimes
    way_in: WayIn
    dispatch: DispatchKind = "worker"
    max_batch_size: int = 32
    max_queue_delay_us: int = 0
    instances: int = 1
    cores: float = 2.0  # available to this server
    queue_rows: int = 1024
    deadline_ns: int = 0  # 0: none
    spinning: int = 0  # threads of the engine that keep a core busy each, with or without work
    client_apart: bool = False  # whether the load client has a core that is not among `cores`
    mix: ShapeMix = ALIKE  # shapes of the requests: only those of the same shape share a batch

    @property
    def busy_threads(self) -> int:
        """Threads that a batch keeps busy, other than those that spin anyway."""
        return 1 if self.spinning else self.service.threads

    @property
    def free_cores(self) -> float:
        """The cores that spinning threads leave free: they yield to threads that wake up, but not always at once."""
        return max(self.cores - _SPINNER * self.spinning, self.cores / (1 + self.spinning))


@dataclass(frozen=True)
class Prediction:
    """The result of one simulation.

    `latencies_ns` is int64 [answered]: latencies in nanoseconds of the requests that were answered, in order of
    arrival; `refused` counts all others.
    """

    latencies_ns: np.ndarray
    refused: int
    duration_s: float
    loop_busy_s: float
    engine_cpu_s: float
    batches: int

    @property
    def rate(self) -> float:
        """Requests answered per second."""
        return len(self.latencies_ns) / self.duration_s if self.duration_s else 0.0

    @property
    def cpu_s(self) -> float:
        """CPU seconds per answered request."""
        return (self.loop_busy_s + self.engine_cpu_s) / max(1, len(self.latencies_ns))

    def percentile_ms(self, share: float) -> float:
        """A quantile of the latencies in milliseconds, `share` from 0 to 1; infinite if refused requests reach it."""
        asked = len(self.latencies_ns) + self.refused
        if not asked or self.refused > (1 - share) * asked:
            return float("inf")
        return float(np.quantile(self.latencies_ns, min(1.0, share * asked / len(self.latencies_ns)))) / 1e6

    def goodput(self, limit_ms: float) -> float:
        """Answers within a limit, per second."""
        return float((self.latencies_ns <= limit_ms * 1e6).sum()) / self.duration_s if self.duration_s else 0.0


SMALLEST = Configuration(ServiceTimes(np.ones(1, np.int64), np.ones((1, 1))), WayIn(0, 0, 0, 0, 0), max_batch_size=1)


def prepare() -> None:
    """Compile or load the event loop before a budget starts: on a new machine, compiling takes ten seconds."""
    simulate(SMALLEST, np.zeros(1, np.int64))


def simulate(configuration: Configuration, arrivals_ns: np.ndarray, seed: int = 0) -> Prediction:
    """Simulate a configuration with an open loop; 10,000 requests take a few milliseconds.

    Args:
        configuration: what serves.
        arrivals_ns: int64 [requests], ascending: when each request arrives.
        seed: of the service times and shapes that are drawn.
    """
    return _run(configuration, np.array(arrivals_ns, np.int64), 0, seed)


def simulate_closed(configuration: Configuration, clients: int, answers: int = 5000, seed: int = 0) -> Prediction:
    """Simulate a configuration with a closed loop: each client sends its next request when it has its answer.

    Args:
        configuration: what serves.
        clients: number of connections.
        answers: number of requests.
        seed: of the service times and shapes that are drawn.
    """
    return _run(configuration, np.zeros(max(answers, clients), np.int64), clients, seed)


def _run(configuration: Configuration, arrivals_ns: np.ndarray, clients: int, seed: int) -> Prediction:
    service, costs = configuration.service, costs_of(configuration)
    best, estimate = service.worth_taking(configuration.max_batch_size)
    latencies, totals = np.zeros(len(arrivals_ns), np.int64), np.zeros(3)
    queueing.run(
        arrivals_ns,
        configuration.mix.keys(len(arrivals_ns), seed),
        costs,
        np.array(service.sizes, np.int64),
        np.array(service.quantiles_ns, np.float64),
        best,
        estimate,
        DISPATCH[configuration.dispatch],
        configuration.instances,
        configuration.busy_threads,
        float(configuration.free_cores),
        configuration.queue_rows,
        clients,
        seed,
        latencies,
        totals,
    )
    answered = latencies >= 0
    ends = (arrivals_ns + latencies)[answered]
    duration_ns = int(max(ends.max(initial=0), arrivals_ns[-1])) - int(arrivals_ns[0]) if len(arrivals_ns) else 0
    return Prediction(
        latencies[answered],
        int((~answered).sum()),
        duration_ns / 1e9,
        totals[0] / 1e9,
        totals[1] / 1e9 * service.threads / configuration.busy_threads,
        int(totals[2]),
    )


def costs_of(configuration: Configuration) -> np.ndarray:
    """The costs of a configuration as `kernels/queueing.py` expects them: int64 [COSTS], nanoseconds."""
    way_in, costs = configuration.way_in, np.zeros(queueing.COSTS, np.int64)
    costs[queueing.RECEIVE], costs[queueing.ANSWER] = way_in.receive_ns, way_in.answer_ns
    costs[queueing.BATCH], costs[queueing.WAKE] = way_in.batch_ns + way_in.engine_ns, way_in.wake_ns
    costs[queueing.PASS] = way_in.pass_ns
    costs[queueing.CLIENT], costs[queueing.CLIENT_PASS] = way_in.client_ns, way_in.client_pass_ns
    costs[queueing.OUTSIDE], costs[queueing.DEADLINE] = way_in.outside_ns, configuration.deadline_ns
    costs[queueing.APART] = configuration.client_apart
    costs[queueing.DELAY], costs[queueing.HERE] = configuration.max_queue_delay_us * 1000, _HERE_NS
    return costs


def slowed(configuration: Configuration, factor: float) -> Configuration:
    """A configuration whose server takes `factor` times as much CPU time for everything, its clients excepted."""
    service, way = configuration.service, configuration.way_in
    own = ("receive_ns", "answer_ns", "batch_ns", "pass_ns", "engine_ns")
    scaled = replace(way, **{name: round(getattr(way, name) * factor) for name in own})
    return replace(configuration, service=service.scaled(factor), way_in=scaled)


def saturation_rate(configuration: Configuration, answers: int = 5000, seed: int = 0) -> float:
    """The capacity: requests per second when the queue is never empty."""
    all_at_once = np.zeros(answers, np.int64)
    endless = replace(configuration, max_queue_delay_us=0, queue_rows=answers + 1, deadline_ns=0)
    return simulate(endless, all_at_once, seed).rate


def highest_rate(configuration: Configuration, limit_ms: float, answers: int = 5000, seed: int = 0) -> float:
    """The highest rate of Poisson arrivals whose p99 is within the limit, in requests per second; 0 if none is."""
    low, high = 0.0, saturation_rate(configuration, answers, seed)
    at_one_per_s = np.cumsum(np.random.default_rng(seed).exponential(1e9, answers))
    for _ in range(_SEARCH_STEPS):
        rate = (low + high) / 2
        arrivals_ns = (at_one_per_s / max(rate, 1e-9)).astype(np.int64)
        p99_ms = simulate(configuration, arrivals_ns, seed).percentile_ms(0.99)
        low, high = (rate, high) if p99_ms <= limit_ms else (low, rate)
        if high - low < _TIGHT * max(low, 1e-9):
            break
    return low

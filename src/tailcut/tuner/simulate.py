"""What a configuration would do under a load, from measured parts: thousands of configurations a minute.

A whole configuration is a queue: requests arrive, the loop receives them, batches form by the rule of
`batching/policy.py`, instances that share cores compute them, the loop answers. The parts are measured where measuring
them is cheap (the engine in process, the way in with an engine that computes nothing); the event loop that puts them
together is `kernels/queueing.py`. Pure: the same question has the same answer.

Not modelled: caches that instances take from each other, and what the operating system does now and then. The race on
the real server has the last word; this decides what races.
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
_SPINNER = 0.6  # of a core, that a spinning thread keeps from the others; chosen by benchmarks/simulation.py
_SEARCH_STEPS = 12  # of a bisection: to 0.1 %
_TIGHT = 0.01


@dataclass(frozen=True)
class ServiceTimes:
    """How long an engine configuration takes for batches of `sizes` rows.

    Args:
        sizes: int64 [sizes], ascending, the first one 1.
        quantiles_ns: float64 [sizes, quantiles]: equally likely times in nanoseconds, ascending.
        threads: that one batch keeps busy.
    """

    sizes: np.ndarray
    quantiles_ns: np.ndarray
    threads: int = 1

    def __post_init__(self) -> None:
        """Check the shapes: numbers in the wrong place would still simulate something."""
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
        """What the server's own cost model says that was taught the medians, for batches of `largest` rows at most.

        Returns:
            By ready rows, int64 [largest + 1]: how many are worth taking; by rows, float64 [largest + 1]: nanoseconds.
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
    """What a way into the server costs, in nanoseconds, with an engine that computes nothing."""

    receive_ns: int  # of the loop's time, per request
    answer_ns: int  # likewise
    batch_ns: int  # of the loop's time, per batch
    wake_ns: int  # until a thread that was woken runs
    outside_ns: int  # of a latency, in the kernel, and in a client that is not simulated
    pass_ns: int = 0  # of the loop's time, for looking at what has arrived or ended
    client_ns: int = 0  # of a load client's time on the same machine, per request; 0: it is elsewhere
    client_pass_ns: int = 0  # likewise, each time that it is woken
    engine_ns: int = (
        0  # of the loop's time, per batch: what it does more slowly after a real engine has used the caches
    )

    def alone_ns(self, dispatch: DispatchKind) -> int:
        """The loop's time for one request that is alone: a worker's answer takes a second pass."""
        passes = 2 if dispatch == "worker" else 1
        return self.receive_ns + self.answer_ns + self.batch_ns + self.engine_ns + passes * self.pass_ns


@dataclass(frozen=True, slots=True)
class Ways:
    """What ways into one server cost.

    Args:
        by_dispatch: with an engine that computes nothing.
        engine_ns: by engine: `WayIn.engine_ns`.
    """

    by_dispatch: Mapping[str, WayIn]
    engine_ns: Mapping[str, int] = field(default_factory=dict)

    def of(self, dispatch: str, engine: str) -> WayIn:
        """The way in of a dispatch, with an engine; adaptive computes on a worker where many ask."""
        way = self.by_dispatch["worker" if dispatch == "adaptive" else dispatch]
        return replace(way, engine_ns=self.engine_ns.get(engine, 0))


@dataclass(frozen=True, slots=True)
class Configuration:
    """A whole configuration, as far as time goes."""

    service: ServiceTimes
    way_in: WayIn
    dispatch: DispatchKind = "worker"
    max_batch_size: int = 32
    max_queue_delay_us: int = 0
    instances: int = 1
    cores: float = 2.0  # that are there for this server
    queue_rows: int = 1024
    deadline_ns: int = 0  # 0: none
    spinning: int = 0  # threads of the engine that keep a core each, with or without work
    client_apart: bool = False  # the load client has a core that is not among `cores`
    mix: ShapeMix = ALIKE  # of requests: only those of one shape share a batch

    @property
    def busy_threads(self) -> int:
        """Threads that a batch keeps busy, besides those that spin anyway."""
        return 1 if self.spinning else self.service.threads

    @property
    def free_cores(self) -> float:
        """The cores that are left by spinning threads: they yield to threads that wake up, but not always at once."""
        return max(self.cores - _SPINNER * self.spinning, self.cores / (1 + self.spinning))


@dataclass(frozen=True)
class Prediction:
    """What came of one simulation; latencies in nanoseconds of the requests that were answered, in order of arrival."""

    latencies_ns: np.ndarray
    refused: int
    duration_s: float
    loop_busy_s: float
    engine_cpu_s: float
    batches: int

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return len(self.latencies_ns) / self.duration_s if self.duration_s else 0.0

    @property
    def cpu_s(self) -> float:
        """CPU seconds that an answered request takes."""
        return (self.loop_busy_s + self.engine_cpu_s) / max(1, len(self.latencies_ns))

    def percentile_ms(self, share: float) -> float:
        """A percentile of the latencies in milliseconds; infinite where requests were refused beyond it."""
        asked = len(self.latencies_ns) + self.refused
        if not asked or self.refused > (1 - share) * asked:
            return float("inf")
        return float(np.quantile(self.latencies_ns, min(1.0, share * asked / len(self.latencies_ns)))) / 1e6

    def goodput(self, limit_ms: float) -> float:
        """Answers within a limit, a second."""
        return float((self.latencies_ns <= limit_ms * 1e6).sum()) / self.duration_s if self.duration_s else 0.0


SMALLEST = Configuration(ServiceTimes(np.ones(1, np.int64), np.ones((1, 1))), WayIn(0, 0, 0, 0, 0), max_batch_size=1)


def prepare() -> None:
    """Compile the event loop, or load it: on a new machine that takes ten seconds, which no budget should lose."""
    simulate(SMALLEST, np.zeros(1, np.int64))


def simulate(configuration: Configuration, arrivals_ns: np.ndarray, seed: int = 0) -> Prediction:
    """Have the requests that arrive at these times (int64 ns, ascending) served.

    A run of 10,000 requests takes a few milliseconds.
    """
    return _run(configuration, np.array(arrivals_ns, np.int64), 0, seed)


def simulate_closed(configuration: Configuration, clients: int, answers: int = 5000, seed: int = 0) -> Prediction:
    """Have `clients` connections served that each send their next request when they have their answer."""
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
    """The costs of a configuration as the kernel takes them: int64 [COSTS], nanoseconds."""
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
    """A configuration whose server takes this many times the CPU for everything; its clients do not."""
    service, way = configuration.service, configuration.way_in
    own = ("receive_ns", "answer_ns", "batch_ns", "pass_ns", "engine_ns")
    scaled = replace(way, **{name: round(getattr(way, name) * factor) for name in own})
    return replace(configuration, service=service.scaled(factor), way_in=scaled)


def saturation_rate(configuration: Configuration, answers: int = 5000, seed: int = 0) -> float:
    """Requests a second when there are always more: the capacity."""
    all_at_once = np.zeros(answers, np.int64)
    endless = replace(configuration, max_queue_delay_us=0, queue_rows=answers + 1, deadline_ns=0)
    return simulate(endless, all_at_once, seed).rate


def highest_rate(configuration: Configuration, limit_ms: float, answers: int = 5000, seed: int = 0) -> float:
    """The highest Poisson rate whose p99 stays within the limit; 0 where none does."""
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

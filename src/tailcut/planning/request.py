"""The request for a plan: the models, their traffic and limits, and the size of a replica."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tailcut.lab.arrivals import Arrivals
from tailcut.planning.autoscale import Rules
from tailcut.planning.cluster import Routing
from tailcut.planning.demand import Limit, Recording
from tailcut.planning.measured import MeasuredProfile
from tailcut.planning.search import capacity_of
from tailcut.tuner.simulate import Configuration, slowed


@dataclass(frozen=True)
class PlanRequest:
    """What the user asked for.

    Args:
        models: profiles with measurements; several are served together on each replica.
        rates: requests per second of each model; empty for a recording at its own rate.
        limits: latency limit of each model.
        arrivals: a function that makes the arrival process for a mean rate, and the name of the process.
        recording: recorded traffic, instead of an arrival process.
        rules: rules of an autoscaler that follows the recording.
        headroom: share of the rate that has to fit in addition.
        failures: number of replicas that may be lost.
        routing, hedge_ms: settings of the balancer; hedge_ms 0: no hedging.
        workers: server processes per replica.
        cores: cores of a replica; None: as many as the tune had.
        capacity: requests per second that a replica was measured to answer at most; None: as simulated.
        capacity_workers: workers of that replica, with as many cores each as those of the plan; None: `workers`.
        price: price of a replica per hour.
    """

    models: Sequence[MeasuredProfile]
    rates: Sequence[float]
    limits: Sequence[Limit]
    arrivals: Callable[[float], Arrivals]
    arrivals_name: str = "poisson"
    recording: Recording | None = None
    rules: Rules | None = None
    headroom: float = 0.2
    failures: int = 0
    routing: Routing = "two-choices"
    hedge_ms: float = 0.0
    workers: int = 1
    cores: float | None = None
    capacity: float | None = None
    capacity_workers: int | None = None
    price: float | None = None
    seed: int = 0
    command: str = ""

    @property
    def replica_cores(self) -> float:
        """Cores of a replica."""
        return self.cores or max(model.cores for model in self.models)

    @property
    def together(self) -> bool:
        """Whether several models share each replica."""
        return len(self.models) > 1

    @property
    def measured_workers(self) -> int:
        """The number of server processes of the replica whose capacity was measured."""
        return self.capacity_workers or self.workers

    def configurations(self) -> list[Configuration]:
        """The configuration of one server process for each model."""
        cores, workers = self.replica_cores, self.workers
        return [slowed(model.parts(cores, workers), self.scale(model)) for model in self.models]

    def scale(self, model: MeasuredProfile) -> float:
        """The factor on all times: from a replica's measured capacity if it is given, else from the tune's."""
        if self.capacity is None:
            return model.scale
        workers = self.measured_workers
        return capacity_of(model.parts(self.replica_cores * workers / self.workers, workers), workers) / self.capacity

"""Simulates many servers of one configuration behind a load balancer. The same arguments give the same result.

The event loop is `kernels/cluster.py`; one server is that of `tuner/simulate.py`, with clients on other machines.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from tailcut.kernels import balancing
from tailcut.kernels.cluster import advance
from tailcut.kernels.queueing import FAR
from tailcut.tuner.simulate import DISPATCH, SMALLEST, Configuration, Prediction, costs_of

Routing = Literal["random", "round-robin", "least-loaded", "two-choices"]
ROUTINGS: dict[str, int] = dict(zip(get_args(Routing), range(4), strict=True))


@dataclass(frozen=True, slots=True)
class Cluster:
    """Servers of one configuration.

    Args:
        configuration: configuration of each server; its cores are those of one server.
        servers: number of servers.
        routing: how the balancer chooses a server.
        hedge_ns: time after which an unanswered request is also sent to a second server; 0: never.
    """

    configuration: Configuration
    servers: int = 1
    routing: Routing = "two-choices"
    hedge_ns: int = 0


@dataclass(frozen=True, slots=True)
class ClusterPrediction:
    """The result of one simulation.

    Args:
        prediction: for the requests that arrived after the warm-up, but with the CPU times and batches of all requests.
        utilisation: of the servers' cores, 0 to 1.
        hedged: number of requests that were sent a second time.
    """

    prediction: Prediction
    utilisation: float
    hedged: int


def without_client(configuration: Configuration) -> Configuration:
    """The configuration with its clients on other machines."""
    return replace(configuration, way_in=replace(configuration.way_in, client_ns=0, client_pass_ns=0))


def tables_of(cluster: Cluster) -> balancing.Tables:
    """A cluster's tables for the kernel."""
    configuration = without_client(cluster.configuration)
    service = configuration.service
    best, estimate = service.worth_taking(configuration.max_batch_size)
    shape = np.zeros(balancing.SHAPES, np.int64)
    shape[balancing.DISPATCH] = DISPATCH[configuration.dispatch]
    shape[balancing.INSTANCES], shape[balancing.THREADS] = configuration.instances, configuration.busy_threads
    shape[balancing.QUEUE], shape[balancing.ROUTING] = configuration.queue_rows, ROUTINGS[cluster.routing]
    shape[balancing.HEDGE] = cluster.hedge_ns
    sizes, times = np.array(service.sizes, np.int64), np.array(service.quantiles_ns, np.float64)
    return balancing.Tables(
        costs_of(configuration), shape, sizes, times, best, estimate, float(configuration.free_cores)
    )


def prepare() -> None:
    """Compile the event loop of many servers, which takes 20 s on a new machine, or load the compiled one."""
    simulate_cluster(Cluster(SMALLEST), np.zeros(1, np.int64))


def simulate_cluster(
    cluster: Cluster, arrivals_ns: np.ndarray, seed: int = 0, *, warmup: float = 0.0
) -> ClusterPrediction:
    """Simulate a cluster that serves these requests.

    Args:
        cluster: the cluster.
        arrivals_ns: arrival times at the balancer, int64 [n], ascending.
        seed: seed of service times and routing.
        warmup: share of the requests, from the first on, that are not counted, because the servers begin empty.
    """
    arrivals, hedged = np.array(arrivals_ns, np.int64), cluster.hedge_ns > 0
    configuration = cluster.configuration
    state = balancing.new_state(len(arrivals), cluster.servers, cluster.servers, configuration.instances, hedged=hedged)
    balancing.seed_draws(seed)
    advance(tables_of(cluster), state, arrivals, FAR)
    return outcome(state, arrivals, round(warmup * len(arrivals)), cluster.servers * configuration.free_cores)


def outcome(state: balancing.BalancingState, arrivals: np.ndarray, first: int, cores: float) -> ClusterPrediction:
    """The result of a finished simulation for the requests from `first` on.

    Args:
        state: the state of the simulation.
        arrivals: arrival times of all requests, int64 [n], in nanoseconds.
        first: index of the first request that counts.
        cores: number of cores of all servers together.
    """
    prediction = counted(arrivals[first:], state.answered[first:], state.totals.sum(axis=0))
    busy_ns = float(state.totals[:, : balancing.BATCHES].sum())
    length_ns = max(balancing.drained_at(state) - int(arrivals[0]), 1) if len(arrivals) else 1
    return ClusterPrediction(prediction, min(1.0, busy_ns / (length_ns * cores)), balancing.hedged_of(state))


def counted(arrivals: np.ndarray, answered: np.ndarray, totals: np.ndarray) -> Prediction:
    """The latencies of these requests; `totals` are CPU time in ns of loops and engines, and batches."""
    served = (answered >= 0) & (answered < FAR)
    latencies = (answered - arrivals)[served]
    duration_ns = int(max(answered[served].max(initial=0), arrivals[-1])) - int(arrivals[0]) if len(arrivals) else 0
    loop_s, engine_s = totals[balancing.LOOP_NS] / 1e9, totals[balancing.ENGINE_NS] / 1e9
    refused, batches = int((~served).sum()), int(totals[balancing.BATCHES])
    return Prediction(latencies, refused, duration_ns / 1e9, loop_s, engine_s, batches)

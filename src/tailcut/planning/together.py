"""What replicas do that each serve several models on shared cores. Pure.

Each replica gets every n-th request of each model, so all of them are alike, and one is simulated
(`tuner/together/simulation.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from tailcut.planning.cluster import without_client
from tailcut.planning.search import MOST_SIMULATED, Expect, Figures, PlannedLoad, answered_within, capacity_of
from tailcut.tuner.simulate import Configuration, Prediction
from tailcut.tuner.together.simulation import CoTenant, simulate_together

_MOST = 120_000  # requests of one replica
_WARMUP = 0.1
_ABOVE = 2.0  # the estimate of a replica's capacity is not above it by more


@dataclass(frozen=True, slots=True)
class Tenant:
    """One of the models.

    Args:
        configuration: how it is served; its own number of cores does not count.
        load: what it is asked.
        rate: requests per second at the planned load.
        spin_ns: how long the engine's idle threads spin after each batch.
    """

    configuration: Configuration
    load: PlannedLoad
    rate: float
    spin_ns: int = 0


def expect_together(tenants: Sequence[Tenant], cores: float) -> Expect:
    """What replicas of all models do, by their number and the rate of all models together."""
    members = [CoTenant(without_client(tenant.configuration), tenant.spin_ns) for tenant in tenants]
    planned, seed = sum(tenant.rate for tenant in tenants), tenants[0].load.seed

    @cache
    def expect(replicas: int, rate: float) -> Figures:
        turns = min(replicas, MOST_SIMULATED)
        own = [tenant.rate * rate / planned * turns / replicas for tenant in tenants]
        wanted_s = max(tenant.load.requests(each, 1) * turns / each for tenant, each in zip(tenants, own, strict=True))
        length_s = min(wanted_s, _MOST * turns / sum(own))
        arrivals = [
            tenant.load.arrivals(each, length_s, number)[number % turns :: turns]
            for number, (tenant, each) in enumerate(zip(tenants, own, strict=True))
        ]
        predictions = simulate_together(members, arrivals, cores, seed)
        parts = tuple(
            _figures(tenant.load, prediction, each * replicas / turns)
            for tenant, prediction, each in zip(tenants, predictions, own, strict=True)
        )
        busy_s = sum(prediction.loop_busy_s + prediction.engine_cpu_s for prediction in predictions)
        length_s = max([length_s, *(prediction.duration_s for prediction in predictions)])
        return combined(
            parts, [tenant.load.limit.limit_ms for tenant in tenants], min(1.0, busy_s / (length_s * cores))
        )

    return expect


def combined(parts: Sequence[Figures], limits_ms: Sequence[float], utilisation: float) -> Figures:
    """The figures of all models: latencies of the one that is nearest to its limit or furthest over it."""
    worst = max(zip(parts, limits_ms, strict=True), key=lambda pair: pair[0].at_ms / pair[1])[0]
    return Figures(
        sum(part.rate for part in parts),
        worst.p50_ms,
        worst.p99_ms,
        worst.at_ms,
        sum(part.goodput for part in parts),
        utilisation,
        0.0,
        all(part.within for part in parts),
        tuple(parts),
    )


def capacity_together(tenants: Sequence[Tenant]) -> float:
    """A rate of all models that one replica cannot serve: each alone has all cores, and may not use all of them."""
    planned = sum(tenant.rate for tenant in tenants)
    return _ABOVE / sum(tenant.rate / planned / capacity_of(tenant.configuration) for tenant in tenants)


def _figures(load: PlannedLoad, prediction: Prediction, rate: float) -> Figures:
    counted = prediction.latencies_ns[round(_WARMUP * len(prediction.latencies_ns)) :]
    own = Prediction(counted, prediction.refused, prediction.duration_s * (1 - _WARMUP), 0.0, 0.0, prediction.batches)
    at_ms = own.percentile_ms(load.limit.share)
    goodput, within = rate * answered_within(own, load.limit), at_ms <= load.limit.limit_ms
    return Figures(rate, own.percentile_ms(0.5), own.percentile_ms(0.99), at_ms, goodput, float(np.nan), 0.0, within)

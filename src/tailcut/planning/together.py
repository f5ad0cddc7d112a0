"""Simulates replicas that each serve several models on shared cores.

Each replica gets every n-th request of each model, so all of them are alike, and one is simulated
(`tuner/together/simulation.py`).

A simulation that is long enough for a model with 20,000 requests per second has no request of a model with one per
minute, and one that is long enough for the second has 10^9 requests of the first. So the models with too few requests
are judged by a second simulation, in which the times between their requests are shortened, but only so far that these
models use a small share of the replica, and still rarely meet each other. The other models have their own rates in both
simulations, and are judged by the first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from tailcut.planning.cluster import without_client
from tailcut.planning.search import MOST_SIMULATED, Expect, Figures, PlannedLoad, answered_within, capacity_of, mean_ms
from tailcut.tuner.simulate import Configuration, Prediction
from tailcut.tuner.together.simulation import CoTenant, simulate_together

_MOST = 120_000  # the most requests of one replica, unless bursts need more
_MOST_CLOSER = 600_000  # the same for the other models, when some models' requests come closer together
_FEW_TURNS = 8  # the most replicas in turn in that case: with more, arrivals at one are no more even
_BUSY = 0.05  # the share of the replica that models with shortened gaps may use
_LONGEST = 4.0  # times the shortest gap with which they stay within that share
_APART = 5e-3  # requests in such a time; with fewer, no two ever overlap, even in a burst
_SPARE = 1.2  # times the requests that are needed, because the warm-up takes some
_WARMUP = 0.1
_ABOVE = 2.0  # a replica's capacity is at most this many times the estimate


@dataclass(frozen=True, slots=True)
class Tenant:
    """One of the models on a replica.

    Args:
        configuration: how it is served; its number of cores is ignored.
        load: the load on the model.
        rate: requests per second at the planned load.
        spin_ns: how long the engine's idle threads spin after each batch.
    """

    configuration: Configuration
    load: PlannedLoad
    rate: float
    spin_ns: int = 0


@dataclass(frozen=True, slots=True)
class _Replica:
    """One of several replicas that get requests in turn.

    Args:
        tenants: its models.
        rates: requests per second of each model, at all of these replicas together.
        turns: number of these replicas.
    """

    tenants: Sequence[Tenant]
    rates: Sequence[float]
    turns: int

    def length_s(self) -> float:
        """The length of a simulation in seconds."""
        wanted_s = max(
            tenant.load.requests(rate, 1) * self.turns / rate
            for tenant, rate in zip(self.tenants, self.rates, strict=True)
        )
        least_s = max(tenant.load.least_s for tenant in self.tenants)
        return max(least_s, min(wanted_s, _MOST * self.turns / sum(self.rates)))

    def arrivals(self, number: int, length_s: float) -> np.ndarray:
        """The arrival times of one model's requests in this many seconds, int64 ns."""
        whole = self.tenants[number].load.arrivals(self.rates[number], length_s, number)
        return whole[number % self.turns :: self.turns]

    def closer(self, rare: Sequence[int], capacities: Sequence[float]) -> list[np.ndarray]:
        """The arrival times of all models, int64 ns, with the requests of rare models closer together.

        Args:
            rare: the indices of these models.
            capacities: requests per second of a replica that serves one of the models alone.
        """
        others = sum(rate for number, rate in enumerate(self.rates) if number not in rare) or sum(self.rates)
        most_s, moved = _MOST_CLOSER * self.turns / others, {}
        for number in rare:
            wanted, least_s = round(_SPARE * self.tenants[number].load.enough), len(rare) / (_BUSY * capacities[number])
            gap_s = min(max(least_s, most_s / wanted), _LONGEST * least_s)
            arrivals = self._shortened(number, gap_s, min(wanted, math.ceil(2 * most_s / gap_s)))
            moved[number] = arrivals[arrivals < most_s * 1e9]
        last_ns = max((int(own[-1]) for own in moved.values() if len(own)), default=0)
        return [
            moved[number] if number in moved else self.arrivals(number, last_ns / 1e9)
            for number in range(len(self.tenants))
        ]

    def _shortened(self, number: int, gap_s: float, count: int) -> np.ndarray:
        """`count` arrival times of a model, int64 ns, with long gaps shortened to about `gap_s`, at random.

        Shorter gaps, such as those in a burst, are unchanged.
        """
        cut = np.random.default_rng(self.tenants[number].load.seed + number).uniform(0.5, 1.5, count) * gap_s * 1e9
        rate = self.rates[number] / self.turns
        gaps = cut.astype(np.int64)
        if rate * gap_s > _APART:
            drawn = np.diff(self.arrivals(number, count / rate), prepend=0)[:count]
            gaps = np.where(drawn > 1.5e9 * gap_s, gaps[: len(drawn)], drawn)
        arrivals: np.ndarray = np.cumsum(gaps)
        return arrivals


def expect_together(tenants: Sequence[Tenant], cores: float) -> Expect:
    """Make the `Expect` of replicas that serve all models, for the total rate of all models."""
    members = [CoTenant(without_client(tenant.configuration), tenant.spin_ns) for tenant in tenants]
    planned, seed = sum(tenant.rate for tenant in tenants), tenants[0].load.seed
    capacities = [capacity_of(tenant.configuration) for tenant in tenants]
    is_uneven = any(tenant.load.least_s for tenant in tenants)  # its simulation takes long, even for few replicas

    @cache
    def expect(replicas: int, rate: float) -> Figures:
        turns = min(replicas, _FEW_TURNS if is_uneven else MOST_SIMULATED)
        own = [tenant.rate * rate / planned for tenant in tenants]
        replica = _Replica(tenants, [each * turns / replicas for each in own], turns)
        length_s = replica.length_s()
        predictions = simulate_together(
            members, [replica.arrivals(number, length_s) for number in range(len(tenants))], cores, seed
        )
        parts = [_figures(*item) for item in zip(tenants, predictions, own, strict=True)]
        rare = [number for number, tenant in enumerate(tenants) if parts[number].asked < tenant.load.enough]
        others = [part.within for number, part in enumerate(parts) if number not in rare]
        if rare and all(others):  # otherwise, limits are missed in any case
            turns = min(turns, _FEW_TURNS)
            replica = _Replica(tenants, [each * turns / replicas for each in own], turns)
            judged = simulate_together(members, replica.closer(rare, capacities), cores, seed)
            for number in rare:
                other = replace(_figures(tenants[number], judged[number], own[number]), closer=True)
                parts[number] = max(parts[number], other, key=lambda item: item.asked)
        busy_s = sum(prediction.loop_busy_s + prediction.engine_cpu_s for prediction in predictions)
        length_s = max([length_s, *(prediction.duration_s for prediction in predictions)])
        return combined(
            parts, [tenant.load.limit.limit_ms for tenant in tenants], min(1.0, busy_s / (length_s * cores))
        )

    return expect


def combined(parts: Sequence[Figures], limits_ms: Sequence[float], utilisation: float) -> Figures:
    """The figures of all models: latencies of the one that is nearest to its limit or furthest over it."""
    worst = max(
        zip(parts, limits_ms, strict=True), key=lambda pair: pair[0].at_ms / pair[1] if pair[0].asked else -1.0
    )[0]
    return Figures(
        sum(part.rate for part in parts),
        worst.mean_ms,
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
    """A total rate above the capacity of one replica: twice an estimate in which each model alone has all cores."""
    planned = sum(tenant.rate for tenant in tenants)
    return _ABOVE / sum(tenant.rate / planned / capacity_of(tenant.configuration) for tenant in tenants)


def _figures(tenant: Tenant, prediction: Prediction, rate: float) -> Figures:
    load, first = tenant.load, round(_WARMUP * len(prediction.latencies_ns))
    counted = prediction.latencies_ns[first:]
    own = Prediction(counted, prediction.refused, prediction.duration_s * (1 - _WARMUP), 0.0, 0.0, prediction.batches)
    asked = len(counted) + prediction.refused
    if not asked:  # all that is known is that a lone request meets the limit
        return Figures(rate, math.nan, math.nan, math.nan, math.nan, rate, math.nan, 0.0, within=True)
    p50_ms, p99_ms, at_ms = (own.percentile_ms(share) for share in (0.5, 0.99, load.limit.share))
    goodput, within = rate * answered_within(own, load.limit), at_ms <= load.limit.limit_ms
    return Figures(rate, mean_ms(own), p50_ms, p99_ms, at_ms, goodput, math.nan, 0.0, within, asked=asked)

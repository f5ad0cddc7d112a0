"""The load that one replica sustains within a limit, by the simulation of `tailcut plan` from measured service times.

The search finds the highest rate at which the percentile of one replica is within the limit; by Little's law, `rate x
time` requests are then in flight. A replica is added before that point (`_FULL`), and Serve itself sends a replica no
more requests at a time than it answers within the limit at that rate. Pure.
"""

import logging
import math

from tailcut.errors import UsageError
from tailcut.lab.arrivals import Poisson
from tailcut.planning.cluster import Cluster
from tailcut.planning.demand import Limit
from tailcut.planning.measured import MeasuredProfile
from tailcut.planning.search import KnownRates, PlannedLoad, capacity_of, expect_cluster, highest_rate, lone_ms
from tailcut.ray.plan import CarriedLoad

_log = logging.getLogger("tailcut")
_FULL = 0.7  # the share of a replica's sustained load at which another replica is added
_FIRST = 0.7  # the share of the capacity at which the search begins
_ALLOW_MORE = "allow more (limit_ms, or --slo)"
_MOST = 1024  # rows that a server queues by default


def carried_by(measured: MeasuredProfile, limit: Limit, cpus: float | None = None) -> CarriedLoad:
    """The load that one replica of a tuned profile sustains.

    Args:
        measured: the profile.
        limit: the latency limit to meet.
        cpus: number of CPUs of the replica; None: as many as in the tune. More than those make no difference.

    Raises:
        UsageError: not even a single request meets the limit.
    """
    profile = measured.profile
    if measured.is_local:
        _log.warning(
            "%s was tuned with --local, for clients on the same machine: over a network, a replica sustains "
            "less than its figures say; tune it without --local",
            profile.model.name,
        )
    workers = profile.settings.io.workers
    cores = measured.cores
    configuration = measured.configuration(min(cores, cpus) if cpus else cores, workers)
    alone_ms = lone_ms(configuration, limit)
    if alone_ms > limit.limit_ms:
        raise UsageError(
            f"{profile.model.name}: no replica meets {limit.percentile} within {limit.limit_ms:.4g} ms: a lone request "
            f"takes {alone_ms:.4g} ms: {_ALLOW_MORE}, or tune for latency"
        )
    capacity = capacity_of(configuration, workers)
    expect = expect_cluster(Cluster(configuration), PlannedLoad(Poisson, limit), workers)
    rate = highest_rate(KnownRates(expect), 1, capacity, _FIRST * capacity)
    if not rate:
        raise UsageError(
            f"{profile.model.name}: no rate meets {limit.percentile} within {limit.limit_ms:.4g} ms: {_ALLOW_MORE}"
        )
    ongoing = rate * expect(1, rate).p50_ms / 1e3
    return CarriedLoad(
        most_ongoing=min(_MOST, max(1, math.ceil(rate * limit.limit_ms / 1e3))),
        target_ongoing=_rounded(_FULL * ongoing),
        rate=_rounded(rate),
        ongoing=_rounded(ongoing),
        limit=f"{limit.percentile}={limit.limit_ms:g}ms",
    )


def tuned_limit(measured: MeasuredProfile) -> Limit | None:
    """The limit that the tune held p99 to; None if the profile does not record it."""
    value = measured.profile.evidence.get("limit_ms")
    return Limit("p99", float(value)) if isinstance(value, int | float) and value > 0 else None


def _rounded(value: float) -> float:
    """Round to three significant digits: a simulation is no more precise."""
    return float(f"{value:.3g}")

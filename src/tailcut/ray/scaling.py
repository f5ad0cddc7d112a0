"""What one replica carries within a limit, from the service times of its tune. Pure: the simulation of `tailcut plan`.

The highest rate whose percentile is within the limit is searched for one replica; by Little's law it has `rate x time`
requests in flight then. A replica is added before that (`_FULL`), and Serve itself sends it no more requests at a time
than it answers within the limit at that rate.
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
_FULL = 0.7  # of what a replica carries: what is in flight when another one is to start
_FIRST = 0.7  # of the capacity: where the search begins
_ALLOW_MORE = "allow more (limit_ms, or --slo)"
_MOST = 1024  # rows that a server queues by default


def carried_by(measured: MeasuredProfile, limit: Limit, cpus: float | None = None) -> CarriedLoad:
    """What one replica of a tuned profile carries.

    Args:
        measured: the profile.
        limit: to meet.
        cpus: that the replica has; None: those of the tune. More than those do not count.

    Raises:
        UsageError: not even a lone request meets the limit.
    """
    profile = measured.profile
    if measured.is_local:
        _log.warning(
            "%s was tuned with --local, for clients on the same machine: over a network, a replica carries less "
            "than its figures say; tune it without --local",
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
    """The limit that the tune held p99 to; None where the profile does not record it."""
    value = measured.profile.evidence.get("limit_ms")
    return Limit("p99", float(value)) if isinstance(value, int | float) and value > 0 else None


def _rounded(value: float) -> float:
    """Three digits: a simulation has no more."""
    return float(f"{value:.3g}")

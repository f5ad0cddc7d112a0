"""Several models on each replica."""

import pytest
from tests.planning.test_cluster import fixed, single

from tailcut.lab.arrivals import Poisson
from tailcut.planning.cluster import Cluster
from tailcut.planning.demand import Limit
from tailcut.planning.search import PlannedLoad, expect_cluster, highest_rate, least_replicas
from tailcut.planning.together import Tenant, capacity_together, expect_together

QUICK, SLOW = PlannedLoad(Poisson, Limit("p99", 10.0)), PlannedLoad(Poisson, Limit("p99", 60.0))


def test_one_model_is_as_alone() -> None:
    """In turn, on two replicas of one core: the same as the cluster's simulation."""
    service = single(fixed(1.0), cores=1.0)
    together = expect_together([Tenant(service, QUICK, 1000.0)], 1.0)(2, 1200.0)
    alone = expect_cluster(Cluster(service, 1, "round-robin"), QUICK)(2, 1200.0)
    assert together.p50_ms == pytest.approx(alone.p50_ms, rel=0.05)
    assert together.p99_ms == pytest.approx(alone.p99_ms, rel=0.1)
    assert together.utilisation == pytest.approx(alone.utilisation, abs=0.03)


def test_models_share_the_cores() -> None:
    """Two models need as many replicas as their work together takes, and each has to meet its own limit."""
    tenants = [
        Tenant(single(fixed(1.0), cores=1.0), QUICK, 1000.0),
        Tenant(single(fixed(5.0), cores=1.0), SLOW, 200.0),
    ]
    expect, capacity = expect_together(tenants, 1.0), capacity_together(tenants)
    needed = least_replicas(expect, 1200.0, capacity)
    assert 3 <= needed <= 5  # two cores' work
    result = expect(needed, 1200.0)
    assert result.within
    assert [part.within for part in result.parts] == [True, True]
    assert [round(part.rate) for part in result.parts] == [1000, 200]
    assert result.goodput == pytest.approx(1200, rel=0.02)
    assert not expect(1, 1200.0).within
    assert highest_rate(expect, needed, capacity, 1200.0) >= 1170


def test_the_worst_model_s_latency_is_shown() -> None:
    """Of the one nearest to its limit."""
    tenants = [
        Tenant(single(fixed(1.0), cores=2.0), QUICK, 10.0),
        Tenant(single(fixed(50.0), cores=2.0), SLOW, 1.0),
    ]
    result = expect_together(tenants, 2.0)(2, 11.0)
    assert result.at_ms == result.parts[1].at_ms
    assert result.at_ms >= 50

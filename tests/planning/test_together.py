"""Several models on each replica."""

from collections.abc import Callable

import pytest
from tests.planning.test_cluster import fixed, single

from tailcut.lab.arrivals import Arrivals, Bursty, Poisson
from tailcut.planning.cluster import Cluster
from tailcut.planning.demand import Limit
from tailcut.planning.search import Expect, KnownRates, PlannedLoad, expect_cluster, highest_rate, least_replicas
from tailcut.planning.together import Tenant, capacity_together, expect_together

pytestmark = pytest.mark.usefixtures("short_simulations")
LOOSE = Limit("p99", 200.0)
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
    needed = least_replicas(KnownRates(expect), 1200.0, capacity)
    assert 3 <= needed <= 5  # two cores' work
    result = expect(needed, 1200.0)
    assert result.within
    assert [part.within for part in result.parts] == [True, True]
    assert [round(part.rate) for part in result.parts] == [1000, 200]
    assert result.goodput == pytest.approx(1200, rel=0.02)
    assert not expect(1, 1200.0).within
    assert highest_rate(KnownRates(expect), needed, capacity, 1200.0) >= 1170


def test_the_worst_model_s_latency_is_shown() -> None:
    """Of the one nearest to its limit."""
    tenants = [
        Tenant(single(fixed(1.0), cores=2.0), QUICK, 10.0),
        Tenant(single(fixed(50.0), cores=2.0), SLOW, 1.0),
    ]
    result = expect_together(tenants, 2.0)(2, 11.0)
    assert result.at_ms == result.parts[1].at_ms
    assert result.at_ms >= 50


def unequal(limit: Limit = LOOSE, rate: float = 0.05, ms: float = 6.0, most: float = 20_000.0) -> tuple[Expect, float]:
    """A model of 20,000 requests per second beside a rare one, and the capacity of a replica."""
    often = Tenant(single(fixed(0.2), cores=1.0), PlannedLoad(Poisson, Limit("p99", 20.0)), most)
    rare = Tenant(single(fixed(ms), cores=1.0), PlannedLoad(Poisson, limit), rate)
    return expect_together([often, rare], 1.0), capacity_together([often, rare])


def test_a_rare_model_needs_no_replicas_of_its_own() -> None:
    """As many as the frequent model alone; its latency is that among requests of that model."""
    alone = Tenant(single(fixed(0.2), cores=1.0), PlannedLoad(Poisson, Limit("p99", 20.0)), 20_000.0)
    least = least_replicas(KnownRates(expect_together([alone], 1.0)), 20_000.0, capacity_together([alone]))
    expect, capacity = unequal()
    assert least_replicas(KnownRates(expect), 20_000.05, capacity) == least
    often, rare = expect(least, 20_000.05).parts
    assert (often.closer, rare.closer) == (False, True)
    assert rare.asked >= 1000
    assert 6.5 < rare.p50_ms <= rare.p99_ms < 40
    assert rare.goodput == pytest.approx(0.05)
    assert rare.rate == pytest.approx(0.05)


def test_a_rare_model_misses_its_limit() -> None:
    """One that it cannot meet is missed, however few requests it has."""
    part = unequal(Limit("p99", 6.0))[0](20, 20_000.05).parts[1]
    assert not part.within
    assert part.p50_ms > 6


def test_few_requests_do_not_meet_a_limit_by_their_number_alone() -> None:
    """A percentile far out rests on fewer requests than it needs, which can be seen; none at all are no miss."""
    part = unequal(Limit("p99.9", 200.0), 1.0)[0](6, 20_001.0).parts[1]
    assert 0 < part.asked < PlannedLoad(Poisson, Limit("p99.9", 200.0)).enough
    assert part.within
    result = unequal(Limit("p99", 1e6), 0.01, 1e5, 2e5)[0](60, 2e5 + 0.01)
    assert (result.parts[1].asked, result.parts[1].within, result.within) == (0, True, True)
    assert result.at_ms == result.parts[0].at_ms


def test_bursts_of_a_rare_model_stay_bursts() -> None:
    """Only the time between them is shorter: its own requests meet as they would."""

    def rare(rate: float, process: Callable[[float], Arrivals]) -> float:
        often = Tenant(single(fixed(0.5), cores=2.0), PlannedLoad(Poisson, Limit("p99", 20.0)), 400.0)
        other = Tenant(single(fixed(50.0), cores=2.0), PlannedLoad(process, Limit("p99", 2000.0)), rate)
        return expect_together([often, other], 2.0)(1, 400.0 + rate).parts[1].p99_ms

    assert rare(0.5, lambda rate: Bursty(rate, 10.0, 5.0)) > 1.5 * rare(0.01, Poisson)


@pytest.mark.parametrize("seed", range(3))
def test_long_bursts_beside_another_model(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty of them are simulated, however few requests that should be: one replica is overloaded meanwhile."""
    monkeypatch.setattr("tailcut.planning.together._MOST", 1000)
    bursty = PlannedLoad(lambda rate: Bursty(rate, 5.0, 2.0), Limit("p99", 60.0), seed)
    tenants = [
        Tenant(single(fixed(5.0), cores=1.0), bursty, 50.0),
        Tenant(single(fixed(1.0), cores=1.0), bursty, 50.0),
    ]
    expect = expect_together(tenants, 1.0)
    assert [expect(replicas, 100.0).within for replicas in (1, 3)] == [False, True]

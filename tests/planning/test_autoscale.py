"""An autoscaler's rules, and what they make of recorded traffic."""

import re
from dataclasses import replace

import numpy as np
import pytest
from tests.planning.test_cluster import fixed, single

from tailcut.durations import parse_duration
from tailcut.errors import UsageError
from tailcut.planning.autoscale import Rules, StabilisationWindow, first_replicas, parse_rules, simulate_autoscaler
from tailcut.planning.cluster import Cluster, simulate_cluster
from tailcut.planning.demand import Limit, Recording

LIMIT = Limit("p99", 50.0)
CLUSTER = Cluster(single(fixed(10.0), cores=1.0))


def traffic(*rates: float, each_s: float = 300.0) -> np.ndarray:
    """Arrivals at these rates, one after the other."""
    edges = np.arange(len(rates) + 1) * each_s
    return Recording(edges, np.concatenate([[0.0], np.cumsum(np.array(rates) * each_s)]), replayed=False).times(None, 1)


def test_rules_are_those_of_a_horizontal_pod_autoscaler() -> None:
    """Replicas times metric over target, rounded up, within bounds; a tenth off is near enough."""
    rules = Rules("utilisation", 0.5, least=2, most=10)
    assert [rules.desired(4, 4, value) for value in (0.5, 0.54, 0.46, 0.6, 1.0, 0.1, 5.0)] == [4, 4, 4, 5, 8, 2, 10]


def test_replicas_that_start_are_not_given_up() -> None:
    """While the metric is near its target, and while they are enough for what it is above it."""
    rules = Rules("utilisation", 0.5, least=1, most=20)
    assert [rules.desired(2, 6, value) for value in (0.5, 0.54, 0.7, 1.5, 1.6, 2.0, 0.1)] == [6, 6, 6, 6, 6, 8, 1]


def test_a_short_rise_gives_up_no_replica_that_starts() -> None:
    """What was asked for during it is there after it, although what was there before is enough again."""
    arrivals = traffic(*[60.0] * 4, 110.0, *[60.0] * 10, each_s=15.0)
    rules = Rules(target=0.6, every_s=15.0, start_s=60.0, down_s=1.0, most=2)
    result = simulate_autoscaler(CLUSTER, arrivals, rules, LIMIT)
    assert max(moment.replicas for moment in result.moments) == 2


@pytest.mark.parametrize("spinning", [0, 1])
def test_the_target_is_of_the_cores_that_are_measured(spinning: int) -> None:
    """With threads that spin, as by default, the cores that they leave: else the metric never reaches its target."""
    cluster = Cluster(replace(single(fixed(10.0), cores=2.0), spinning=spinning))
    overload = traffic(2000.0, each_s=20.0)
    saturated = simulate_cluster(cluster, overload).utilisation
    rules = Rules(start_s=10.0, down_s=60.0).resolved(20, saturated)
    result = simulate_autoscaler(cluster, traffic(20.0, 400.0, each_s=120.0), rules, LIMIT)
    assert result.moments[-1].replicas >= 5
    assert result.moments[-1].missed < 40.0


def test_replicas_are_removed_by_the_highest_desire_of_a_while() -> None:
    """A short pause removes none; a rise counts at once."""
    window = StabilisationWindow(60.0)
    assert window.settled(0.0, 5, 5) == 5
    assert window.settled(30.0, 5, 2) == 5
    assert window.settled(59.0, 5, 8) == 8
    assert window.settled(100.0, 8, 2) == 8
    assert window.settled(125.0, 8, 3) == 3


def test_rules_are_read() -> None:
    """All of them, or none: then the defaults."""
    assert parse_rules("", parse_duration) == Rules()
    assert Rules().resolved(7, 0.5) == Rules(target=0.3, most=7)
    assert Rules(target=0.9, most=3).resolved(7, 0.5) == Rules(target=0.9, most=3)
    result = parse_rules("queue=4, start=1m,down=10m,every=5s,min=2,max=20", parse_duration)
    assert result == Rules("queue", 4.0, 5.0, 60.0, 600.0, 2, 20)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foo=1", "unknown rule 'foo'"),
        ("utilisation=0", "utilisation=0 must be a number from 0.001 to 1"),
        ("utilisation=2", "utilisation=2 must be a number from 0.001 to 1"),
        ("utilisation=", "utilisation= must be a number"),
        ("queue=x", "queue=x must be a number from 0.001 on"),
        ("queue=inf", "queue=inf must be a number"),
        ("queue=nan", "queue=nan must be a number"),
        ("queue=1e-320", "must be a number"),
        ("every=0s", "every must be at least 100 ms"),
        ("every=1us", "every must be at least 100 ms"),
        ("min=0", "min=0 must be a whole number from 1 to 1,000"),
        ("min=1.5", "min=1.5 must be a whole number"),
        ("max=0", "max=0 must be a whole number"),
        ("max=0.4", "max=0.4 must be a whole number"),
        ("max=1000000000", "max=1000000000 must be a whole number from 1 to 1,000"),
        ("min=5,max=2", "max must be at least min"),
        ("queue=1,utilisation=1", "not for both"),
    ],
)
def test_rules_that_cannot_be(text: str, message: str) -> None:
    """One line each."""
    with pytest.raises(UsageError, match=f"--autoscale: .*{re.escape(message)}"):
        parse_rules(text, parse_duration)


@pytest.mark.parametrize("metric", ["utilisation", "queue"])
def test_replicas_follow_the_traffic(metric: str) -> None:
    """Up after a rise, down after a fall, and every request is answered."""
    arrivals = traffic(40.0, 400.0, 40.0)
    rules = Rules(metric, 0.6, start_s=10.0, down_s=60.0, most=20)  # type: ignore[arg-type]
    result = simulate_autoscaler(CLUSTER, arrivals, rules, LIMIT)
    replicas = {moment.at_s: moment.replicas for moment in result.moments}
    assert replicas[285.0] <= 2
    assert 6 <= replicas[585.0] <= 12
    assert replicas[885.0] <= 3
    assert result.most <= 20
    assert result.requests == len(arrivals)
    assert 0 < result.missed < 0.35 * len(arrivals)
    assert 285 <= max(result.moments, key=lambda item: item.missed).at_s <= 450
    assert result.replica_hours < 0.7 * result.most * 900 / 3600


def test_a_slow_start_misses_more() -> None:
    """Replicas that take two minutes to start miss more than those that take none."""
    arrivals = traffic(40.0, 300.0, each_s=200.0)
    missed = [
        simulate_autoscaler(CLUSTER, arrivals, Rules(target=0.6, start_s=start_s, most=10), LIMIT).missed
        for start_s in (0.0, 120.0)
    ]
    assert missed[1] > 1.5 * missed[0]


def test_no_rise_changes_nothing() -> None:
    """Level traffic on its own number of replicas: no change, and no request is late."""
    result = simulate_autoscaler(CLUSTER, traffic(120.0), Rules(least=2, most=5, target=0.6), LIMIT)
    assert (result.changes, result.most) == (0, 2)
    assert result.missed < 0.01 * result.requests
    assert result.replica_hours == pytest.approx(2 * 300 / 3600, rel=0.06)


def test_it_begins_with_what_its_first_interval_needs() -> None:
    """As if traffic had been there before: level traffic misses nothing, whatever the least number is."""
    for rules in (Rules(target=0.6, most=12), Rules("queue", 1.0, most=12)):
        result = simulate_autoscaler(CLUSTER, traffic(400.0), rules, LIMIT)
        assert 5 <= result.moments[0].replicas <= 8
        assert result.missed < 0.01 * result.requests
    assert first_replicas(CLUSTER, traffic(400.0), Rules(target=0.6, least=2, most=3)) == 3
    assert first_replicas(CLUSTER, traffic(0.0, 400.0), Rules(target=0.6, least=2, most=9)) == 2


def test_time_after_the_last_arrival_counts() -> None:
    """A recording that ends with an hour without requests: its replicas are removed then, and paid until."""
    arrivals = traffic(300.0, each_s=60.0)
    rules = Rules(target=0.6, every_s=15.0, start_s=10.0, down_s=60.0, most=8)
    short, whole = (simulate_autoscaler(CLUSTER, arrivals, rules, LIMIT, length_s=end) for end in (0.0, 3660.0))
    assert whole.replica_hours > short.replica_hours + 0.95
    assert whole.moments[-1].replicas == 1
    assert whole.moments[-1].at_s > 3500
    assert (whole.requests, whole.missed) == (short.requests, short.missed)

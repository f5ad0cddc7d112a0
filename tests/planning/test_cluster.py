"""Many servers behind a balancer, against queues that have a formula and against the simulation of one server."""

import math

import numpy as np
import pytest
from tests.tuner.simulated import FREE, MS, exponential, fixed, poisson, single

from tailcut.kernels.cluster import advance
from tailcut.planning.cluster import Cluster, Routing, prepare, simulate_cluster
from tailcut.tuner.simulate import Configuration, ServiceTimes, WayIn, simulate

WAY = WayIn(receive_ns=9000, answer_ns=14_000, batch_ns=20_000, wake_ns=25_000, outside_ns=60_000, pass_ns=12_000)


def mean_ms(cluster: Cluster, rate: float, count: int = 150_000) -> float:
    """Of so many requests it varies, from seed to seed, by less than half of what the tests allow."""
    return float(simulate_cluster(cluster, poisson(rate, count)).prediction.latencies_ns.mean()) / MS


@pytest.mark.parametrize(("load", "count"), [(0.3, 50_000), (0.8, 200_000)])
def test_m_d_1(load: float, count: int) -> None:
    """One server of fixed service: the mean time of Pollaczek and Khinchine."""
    expected = 1 + load / (2 * (1 - load))
    assert mean_ms(Cluster(single(fixed(1.0))), load * 1000, count) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("instances", [2, 3])
def test_m_m_c(instances: int) -> None:
    """Instances that share one queue: the mean time by Erlang's formula."""
    load = 0.7
    offered = instances * load
    last = offered**instances / math.factorial(instances) / (1 - load)
    waits = last / (sum(offered**k / math.factorial(k) for k in range(instances)) + last)
    expected = 1 + waits / (instances * (1 - load))
    cluster = Cluster(single(exponential(1.0), instances=instances, cores=float(instances)))
    assert mean_ms(cluster, 1000 * offered) == pytest.approx(expected, rel=0.05)


def test_servers_at_random_are_queues_of_their_own() -> None:
    """A Poisson process that is divided at random is Poisson processes: four M/M/1 queues."""
    assert mean_ms(Cluster(single(exponential(1.0)), 4, "random"), 2800) == pytest.approx(1 / 0.3, rel=0.06)


def test_in_turn_each_server_has_erlang_s_arrivals() -> None:
    """Every fourth of a Poisson process: the queue E4/M/1, whose times are exponential by its embedded chain."""
    load, busy = 0.8, 0.5  # the share of arrivals that find the server busy
    for _ in range(200):
        busy = (4 * load / (4 * load + 1 - busy)) ** 4
    assert mean_ms(Cluster(single(exponential(1.0)), 4, "round-robin"), 3200) == pytest.approx(1 / (1 - busy), rel=0.05)


@pytest.mark.parametrize("routing", ["least-loaded", "two-choices"])
def test_the_shorter_of_two_queues(routing: Routing) -> None:
    """Of two servers both are the same rule; the mean number of requests is that of its Markov chain."""
    load, longest = 0.8, 40
    state, moved = np.zeros((longest, longest)), np.zeros((longest, longest))
    state[0, 0] = 1.0
    first, second = np.indices(state.shape)
    to_first = np.where(first < second, 1.0, np.where(first == second, 0.5, 0.0))
    for _ in range(4000):
        arrived, served = 2 * load * state / (2 * load + 2), state / (2 * load + 2)
        moved[:] = 0.0
        moved[1:] += (arrived * to_first)[:-1]
        moved[:, 1:] += (arrived * (1 - to_first))[:, :-1]
        moved[:-1] += served[1:]
        moved[0] += served[0]
        moved[:, :-1] += served[:, 1:]
        moved[:, 0] += served[:, 0]
        state = moved / moved.sum()
    expected = float(((first + second) * state).sum()) / (2 * load)
    assert mean_ms(Cluster(single(exponential(1.0)), 2, routing), 2000 * load) == pytest.approx(expected, rel=0.05)


def test_two_choices_is_as_mitzenmacher_says() -> None:
    """With very many servers of exponential service the mean time is the sum of load^(2^i - 2)."""
    load = 0.8
    expected = sum(load ** (2**i - 2) for i in range(1, 8))
    cluster = Cluster(single(exponential(1.0)), 200, "two-choices")
    assert mean_ms(cluster, 200_000 * load, 100_000) == pytest.approx(expected, rel=0.04)


def test_better_routing_has_a_shorter_tail() -> None:
    """At random, in turn, the better of two, the least loaded: each has a shorter p99 than the one before."""
    arrivals = poisson(6400, 60_000)
    order: tuple[Routing, ...] = ("random", "round-robin", "two-choices", "least-loaded")
    service = single(exponential(1.0))
    tails = [simulate_cluster(Cluster(service, 8, item), arrivals).prediction.percentile_ms(0.99) for item in order]
    assert tails == sorted(tails, reverse=True)


@pytest.mark.parametrize("dispatch", ["inline", "worker", "adaptive"])
@pytest.mark.parametrize("rate", [200, 1500])
def test_one_server_is_the_tuner_s(dispatch: str, rate: float) -> None:
    """Latencies of one server are those of the simulation that the tuner uses, with every cost and with batches."""
    service = fixed(0.4, 0.6, 0.9, 1.4)
    item = Configuration(service, WAY, dispatch, max_batch_size=8, cores=4.0)  # type: ignore[arg-type]
    arrivals = poisson(rate, 40_000)
    theirs, ours = simulate(item, arrivals), simulate_cluster(Cluster(item), arrivals).prediction
    for share in (0.5, 0.9, 0.99):
        assert ours.percentile_ms(share) == pytest.approx(theirs.percentile_ms(share), rel=0.04)
    assert ours.loop_busy_s == pytest.approx(theirs.loop_busy_s, rel=0.05)
    assert ours.engine_cpu_s == pytest.approx(theirs.engine_cpu_s, rel=0.03)


def test_shared_cores_are_the_tuner_s_too() -> None:
    """Where threads share cores, waits are drawn at random: the same within their noise."""
    item = Configuration(fixed(0.4, 0.6, threads=2), WAY, max_batch_size=2, cores=1.5, instances=2)
    arrivals = poisson(900, 60_000)
    theirs, ours = simulate(item, arrivals), simulate_cluster(Cluster(item), arrivals).prediction
    for share in (0.5, 0.99):
        assert ours.percentile_ms(share) == pytest.approx(theirs.percentile_ms(share), rel=0.1)


def test_a_lone_request_pays_for_each_part_of_its_way() -> None:
    """Receiving, waking, computing, delivering, answering, and the time outside, as in the tuner's simulation."""
    item = Configuration(fixed(1.0), WAY, "worker")
    alone = np.array([0], np.int64)
    result = simulate_cluster(Cluster(item, 3), alone).prediction
    assert result.latencies_ns.tolist() == simulate(item, alone).latencies_ns.tolist()


def test_hedging_cuts_a_tail_of_rare_stalls() -> None:
    """One in fifty calls takes 30 times as long: a second copy answers sooner, and few copies are sent."""
    times = np.full((1, 50), 1.0 * MS)
    times[0, -1] = 30 * MS
    item = single(ServiceTimes(np.array([1]), times))
    arrivals = poisson(800, 40_000)
    plain = simulate_cluster(Cluster(item, 8), arrivals)
    hedged = simulate_cluster(Cluster(item, 8, hedge_ns=4 * MS), arrivals)
    assert plain.prediction.percentile_ms(0.99) > 25
    assert hedged.prediction.percentile_ms(0.99) < 8
    assert 0.015 < hedged.hedged / len(arrivals) < 0.06
    assert len(hedged.prediction.latencies_ns) == len(arrivals)


def test_a_full_queue_refuses() -> None:
    """More than is served, and room for ten: what is refused is counted, and the rest waits for ten at most."""
    item = Configuration(fixed(1.0), FREE, max_batch_size=1, queue_rows=10)
    result = simulate_cluster(Cluster(item, 2, "round-robin"), poisson(4000, 20_000))
    assert result.prediction.refused == pytest.approx(10_000, rel=0.05)
    assert result.prediction.latencies_ns.max() <= 12 * MS
    assert result.utilisation == pytest.approx(0.5, abs=0.02)  # of two cores each, one computes


def test_the_same_seed_is_the_same_run() -> None:
    """Nothing but the arguments decides."""
    cluster = Cluster(single(exponential(1.0)), 5, "random", 3 * MS)
    runs = [simulate_cluster(cluster, poisson(3000, 5000), 7).prediction.latencies_ns for _ in range(2)]
    assert np.array_equal(*runs)


def test_timers_of_answered_requests_do_not_count_as_time() -> None:
    """The cores are as busy as without hedging where no request is sent twice, however late its timer is."""
    item, arrivals = single(fixed(1.0)), poisson(800, 2000)
    plain = simulate_cluster(Cluster(item, 2, "round-robin"), arrivals)
    hedged = simulate_cluster(Cluster(item, 2, "round-robin", hedge_ns=10_000 * MS), arrivals)
    assert hedged.hedged == 0
    assert hedged.utilisation == plain.utilisation


def test_what_is_compiled_beforehand_is_what_a_plan_calls() -> None:
    """A second set of argument types would be compiled without a word."""
    prepare()
    hedged = Cluster(single(fixed(1.0)), 3, "two-choices", hedge_ns=MS)
    assert simulate_cluster(hedged, poisson(300, 100), warmup=0.1).prediction.rate
    assert len(advance.signatures) == 1

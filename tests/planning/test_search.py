"""The least number of replicas, and the highest rate, against what is known."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from tests.planning.test_cluster import FREE, exponential, fixed, single

from tailcut.errors import UsageError
from tailcut.lab.arrivals import Bursty, Poisson
from tailcut.planning.cluster import Cluster, simulate_cluster
from tailcut.planning.demand import Limit, Stretch, even_bursts
from tailcut.planning.search import (
    Figures,
    KnownRates,
    PlannedLoad,
    capacity_of,
    curve_points,
    expect_cluster,
    highest_rate,
    least_replicas,
    lone_ms,
    longest_round_s,
    losses,
    simulated_bursts,
)
from tailcut.tuner.simulate import Configuration

P99 = Limit("p99", 10.0)


def up_to(carried: float, asked: list[tuple[int, float]] | None = None):
    """An oracle in which each replica sustains this many requests per second."""

    def expect(replicas: int, rate: float) -> Figures:
        if asked is not None:
            asked.append((replicas, rate))
        within = rate <= carried * replicas
        return Figures(rate, 1.0, 1.0, 2.0, 2.0, rate, 0.5, 0.0, within)

    return expect


@pytest.mark.parametrize("rate", [1, 99, 101, 1234, 50_001, 99_950])
def test_the_least_number(rate: float) -> None:
    """Is found exactly, in few simulations."""
    asked: list[tuple[int, float]] = []
    assert least_replicas(KnownRates(up_to(100.0, asked)), rate, 140.0) == math.ceil(rate / 100)
    assert len(asked) <= 14


def test_more_than_can_be_simulated() -> None:
    """Is refused with the rate."""
    with pytest.raises(UsageError, match="1,000 replicas do not meet the limit at 100,001 requests"):
        least_replicas(KnownRates(up_to(100.0)), 100_001, 140.0)
    with pytest.raises(UsageError, match="1,000 replicas"):
        least_replicas(KnownRates(up_to(0.0)), 1.0, 140.0)


@pytest.mark.parametrize("guess", [20.0, 450.0, 2000.0])
def test_the_highest_rate(guess: float) -> None:
    """Whatever is guessed, to a fiftieth."""
    assert highest_rate(KnownRates(up_to(100.0)), 5, 140.0, guess) == pytest.approx(500, rel=0.03)
    assert highest_rate(KnownRates(up_to(0.0)), 5, 140.0, guess) == 0.0
    assert highest_rate(KnownRates(up_to(1000.0)), 5, 140.0, guess) == 700.0


def test_a_rate_far_below_the_capacity() -> None:
    """What was found to be met is the least that is returned, however little of the capacity it is."""
    findings = KnownRates(up_to(0.05))
    assert highest_rate(findings, 1, 1000.0, 0.06) == pytest.approx(0.05, rel=0.03)
    findings = KnownRates(up_to(0.05))
    assert findings.within(2, 0.1)
    assert 0.1 <= highest_rate(findings, 2, 1000.0, 1400.0) < 0.103


def test_findings_do_not_contradict_each_other() -> None:
    """Whatever the noise: no more replicas carry less, and nothing that was found is taken back."""
    random = np.random.default_rng(3)

    def noisy(replicas: int, rate: float) -> Figures:
        return up_to(100.0 * random.uniform(0.8, 1.2))(replicas, rate)

    findings = KnownRates(noisy)
    needed = least_replicas(findings, 1234.0, 140.0)
    known = [(replicas, findings.within(replicas, 1100.0)) for replicas in (needed - 1, needed - 2, needed - 3)]
    rates = {count: highest_rate(findings, count, 140.0, 110.0 * count) for count in range(1, 20)}
    assert [*rates.values()] == sorted(rates.values())
    assert rates[needed - 1] < 1234.0 <= rates[needed]
    assert [rates[replicas] >= 1100.0 for replicas, _ in known] == [is_met for _, is_met in known]


def test_what_follows_is_not_simulated() -> None:
    """Fewer requests to more replicas, or more to fewer."""
    asked: list[tuple[int, float]] = []
    findings = KnownRates(up_to(100.0, asked))
    assert [findings.within(*item) for item in ((3, 250.0), (4, 250.0), (3, 200.0))] == [True] * 3
    assert [findings.within(*item) for item in ((3, 350.0), (2, 350.0), (3, 400.0))] == [False] * 3
    assert asked == [(3, 250.0), (3, 350.0)]


def test_a_queue_with_a_formula() -> None:
    """M/M/1 at random: p99 is ln(100) / (mu - lambda), so the rate within 10 ms is mu - 460.5 for each server."""
    service = single(exponential(1.0))
    expect = expect_cluster(Cluster(service, 1, "random"), PlannedLoad(Poisson, P99))
    carried = 1000 - math.log(100) / 0.010
    assert highest_rate(KnownRates(expect), 4, capacity_of(service), 2500.0) == pytest.approx(4 * carried, rel=0.05)
    assert least_replicas(KnownRates(expect), 5.6 * carried, capacity_of(service)) == 6


def test_figures() -> None:
    """Goodput is what is answered within the limit, utilisation that of the cores."""
    expect = expect_cluster(Cluster(single(fixed(1.0), cores=1.0), 1, "two-choices"), PlannedLoad(Poisson, P99))
    result = expect(4, 2000.0)
    assert result.goodput == pytest.approx(2000, rel=0.01)
    assert result.utilisation == pytest.approx(0.5, abs=0.02)
    assert result.within
    over = expect(1, 2000.0)
    assert not over.within
    assert over.goodput < 1000


def test_workers_divide_a_replica() -> None:
    """Two processes a replica carry what two replicas do."""
    cluster, load = Cluster(single(fixed(1.0), cores=1.0)), PlannedLoad(Poisson, P99)
    assert expect_cluster(cluster, load, 2)(3, 4000.0).p99_ms == expect_cluster(cluster, load)(6, 4000.0).p99_ms


@pytest.mark.usefixtures("short_simulations")
def test_very_many_replicas_are_as_64() -> None:
    """At the same load for each: the time is what is simulated for 64."""
    expect = expect_cluster(Cluster(single(exponential(1.0)), 1, "two-choices"), PlannedLoad(Poisson, P99))
    few, many = expect(64, 64 * 700.0), expect(1000, 1000 * 700.0)
    assert many.p99_ms == pytest.approx(few.p99_ms, rel=0.01)
    assert many.goodput == pytest.approx(700_000, rel=0.01)


@pytest.mark.usefixtures("short_simulations")
def test_bursts_need_more() -> None:
    """The rate within a limit is lower with bursts; their mean is the one asked for."""
    service = single(exponential(1.0))
    bursty = PlannedLoad(lambda rate: Bursty(rate, 5.0, 0.2), P99)
    expect = expect_cluster(Cluster(service), bursty)
    assert expect(2, 300.0).goodput == pytest.approx(300, rel=0.02)
    capacity = capacity_of(service)
    plain = expect_cluster(Cluster(service), PlannedLoad(Poisson, P99))
    assert highest_rate(KnownRates(expect), 2, capacity, 500.0) < 0.8 * highest_rate(
        KnownRates(plain), 2, capacity, 1000.0
    )
    arrivals = bursty.arrivals(1000.0, 40.0)
    assert len(arrivals) / (arrivals[-1] / 1e9) == pytest.approx(1000, rel=0.02)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_long_bursts_are_simulated(seed: int) -> None:
    """Twenty of them, whatever the seed: two servers that are overloaded during each miss the limit, three do not."""
    bursty = PlannedLoad(lambda rate: Bursty(rate, 5.0, 20.0), Limit("p99", 80.0), seed)
    assert bursty.length_s(55.0, 2) == pytest.approx(20 * 200)
    expect = expect_cluster(Cluster(single(fixed(8.0))), bursty)
    assert [expect(replicas, 55.0).within for replicas in (2, 3)] == [False, True]


def test_bursts_are_shortened_where_there_are_too_many_requests() -> None:
    """To a hundred limits at least; what is still too much is refused, with what to do."""
    process = Bursty(1.0, 5.0, 30.0)
    assert simulated_bursts(process, [P99], 40.0) == process
    assert simulated_bursts(process, [P99], 250.0).length_s == pytest.approx(5.0)
    assert simulated_bursts(process, [P99], 5000.0).length_s == pytest.approx(1.0)
    assert simulated_bursts(process, [P99], 1000.0, 1).length_s == pytest.approx(5.0)
    with pytest.raises(UsageError, match=r"bursts of 30 s are too many .*--arrivals poisson and 5 times the --rate"):
        simulated_bursts(process, [P99, Limit("p99", 1000.0)], 300.0)


def test_bursts_much_shorter_than_a_gap_are_poisson(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a microsecond, a second has a hundred thousand: longer ones are drawn, hardly any with two requests."""
    drawn: list[Bursty] = []

    def seen(process: Bursty, duration_s: float, seed: int) -> np.ndarray:
        drawn.append(process)
        return even_bursts(process, duration_s, seed)

    monkeypatch.setattr("tailcut.planning.search.even_bursts", seen)
    load = PlannedLoad(lambda rate: Bursty(rate, 5.0, 1e-6), P99)
    arrivals = load.arrivals(500.0, 80.0)
    assert drawn[0].length_s * drawn[0].factor * 500.0 == pytest.approx(0.05)
    assert len(arrivals) == pytest.approx(40_000, rel=0.03)
    gaps = np.diff(arrivals)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


def test_a_peak_counts_wherever_it_lies() -> None:
    """Three seconds of a minute at eight times the rate: at its begin, in its middle, and at its end."""
    results = []
    for begin_s in (0.0, 30.0, 57.0):
        random = np.random.default_rng(0)
        seconds = np.concatenate([random.uniform(0, 60, 60_000), random.uniform(begin_s, begin_s + 3, 21_000)])
        load = PlannedLoad(partial(Stretch, np.sort(seconds), 60.0), P99)
        assert load.length_s(1350.0, 4) == 120.0
        results.append(expect_cluster(Cluster(single(fixed(1.0))), load)(6, 1350.0))
    assert [result.within for result in results] == [False] * 3
    assert [result.goodput for result in results] == pytest.approx([results[0].goodput] * 3, rel=0.03)
    assert [result.utilisation for result in results] == pytest.approx([results[0].utilisation] * 3, rel=0.03)


def test_rounds_of_recorded_traffic_are_few_where_there_is_much() -> None:
    """Few servers are simulated, and no more of the recording than two of its rounds fit."""
    load = PlannedLoad(partial(Stretch, np.linspace(0, 60, 100, endpoint=False), 60.0), P99)
    assert load.servers(1000, 1000 * 1000.0) == 6
    assert load.servers(1000, 1000 * 9000.0) == 4
    assert load.servers(3, 10.0) == 3
    assert load.length_s(100.0, 3) / 60 == 1 + 6  # 40,000 requests, of which a tenth need not count
    assert longest_round_s(1000.0) > 60 > longest_round_s(20_000.0)


def test_a_lone_request() -> None:
    """Takes its service time's percentile, batches or not."""
    assert lone_ms(Configuration(fixed(3.0, 4.0), FREE, max_batch_size=2), P99) == pytest.approx(3.0)
    assert lone_ms(single(exponential(1.0)), P99) == pytest.approx(math.log(100), rel=0.15)


def test_losses_leave_a_replica() -> None:
    """What is left of three replicas: two, and one."""
    result = losses(up_to(100.0), 3, 150.0, range(1, 4))
    assert [(lost, item.within) for lost, item in result] == [(1, True), (2, False)]


def test_points_of_the_curve() -> None:
    """Few, and the number that is planned is among them."""
    assert curve_points(1) == [1, 2]
    assert curve_points(39) == [1, 2, 19, 38, 39, 40, 59]
    assert curve_points(1000)[-1] == 1000


def test_a_lone_request_on_few_cores() -> None:
    """Takes longer, and still meets no other one."""
    item = Configuration(fixed(3.0, threads=2), FREE, max_batch_size=1)
    assert 6 <= lone_ms(replace(item, cores=1.0), P99) <= 9
    assert 6000 <= lone_ms(replace(item, cores=0.001), P99) <= 15_000


@pytest.mark.parametrize(("percentile", "requests"), [("p99", 40_000), ("p99.9", 200_000), ("p99.9999", 200_000)])
def test_a_rare_percentile_takes_no_longer_than_p99_9(percentile: str, requests: int) -> None:
    """What is uncertain for it has a note."""
    load = PlannedLoad(Poisson, Limit(percentile, 10.0))
    assert load.requests(100.0, 1) == pytest.approx(requests, abs=1)
    assert (load.enough > requests) == (percentile == "p99.9999")


def test_lone_requests_of_a_rare_percentile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Are a million at most, and fewer where the clock of a simulation is too short for them."""
    counts = []

    def counted(cluster: Cluster, arrivals: np.ndarray, seed: int) -> object:
        counts.append(len(arrivals))
        assert 0 <= arrivals[-1] < 1 << 62
        return simulate_cluster(cluster, arrivals[:100], seed)

    monkeypatch.setattr("tailcut.planning.search.simulate_cluster", counted)
    item = single(fixed(3.0), cores=0.01)
    for percentile, configuration in (("p99.9", item), ("p99.9999", item), ("p99.9999", replace(item, cores=1e-5))):
        lone_ms(configuration, Limit(percentile, 10.0))
    assert counts[:2] == [20_000, 1_000_000]
    assert 1000 < counts[2] < 100_000

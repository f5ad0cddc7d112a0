"""The simulation of a server against queues that have a formula, and against the server's own rule for batches."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from tests.tuner.simulated import FREE, MS, exponential, fixed, poisson, single

from tailcut.batching.cost import CostModel
from tailcut.batching.policy import Dispatch, Queue, decide
from tailcut.kernels import queueing
from tailcut.tuner.shapes import ShapeMix
from tailcut.tuner.simulate import (
    Configuration,
    DispatchKind,
    Prediction,
    ServiceTimes,
    WayIn,
    Ways,
    highest_rate,
    prepare,
    saturation_rate,
    simulate,
    simulate_closed,
)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_m_d_1(load: float) -> None:
    """The mean time in a queue of fixed service is that of Pollaczek and Khinchine."""
    result = simulate(single(fixed(1.0)), poisson(load * 1000, 400_000))
    mean_ms = 1 + load / (2 * (1 - load))
    assert result.latencies_ns.mean() / MS == pytest.approx(mean_ms, rel=0.03)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_m_m_1(load: float) -> None:
    """Time in a queue of exponential service is exponential: its mean and its p99."""
    result = simulate(single(exponential(1.0)), poisson(load * 1000, 400_000))
    mean_ms = 1 / (1 - load)
    assert result.latencies_ns.mean() / MS == pytest.approx(mean_ms, rel=0.06)
    assert result.percentile_ms(0.99) == pytest.approx(mean_ms * math.log(100), rel=0.08)


def test_two_instances_share_a_queue() -> None:
    """M/M/2: the mean time by Erlang's formula."""
    load = 0.7
    result = simulate(single(exponential(1.0), instances=2), poisson(load * 2000, 400_000))
    assert result.latencies_ns.mean() / MS == pytest.approx(1 / (1 - load**2), rel=0.05)


def test_spinning_threads_keep_cores() -> None:
    """Loop and client have two cores, or what a spinning thread leaves of them; with cores to spare nothing is lost."""
    way = WayIn(MS, 0, 0, 0, 0, client_ns=MS)
    quiet = Configuration(fixed(0.01, threads=2), way, "inline", max_batch_size=1)
    for cores, lost in ((2.0, True), (8.0, False)):
        asleep, awake = (simulate_closed(replace(quiet, spinning=threads, cores=cores), 8, 4000) for threads in (0, 1))
        assert (awake.rate < 0.85 * asleep.rate) == lost
        assert awake.engine_cpu_s == pytest.approx(asleep.engine_cpu_s)


def test_many_spinning_threads_leave_a_share() -> None:
    """More of them than cores take turns with the others."""
    crowded = Configuration(fixed(1.0), FREE, spinning=7, cores=2.0)
    assert crowded.free_cores == pytest.approx(0.25)


def test_the_loop_is_slower_after_an_engine() -> None:
    """What an engine adds to a batch is that engine's; adaptive dispatch has the request overhead of a worker."""
    inline, worker = WayIn(1, 2, 3, 4, 5), WayIn(6, 7, 8, 9, 10)
    ways = Ways({"inline": inline, "worker": worker}, {"openvino": 40_000})
    assert ways.of("inline", "onnxruntime") == inline
    assert ways.of("adaptive", "openvino") == replace(worker, engine_ns=40_000)
    batch = Configuration(fixed(1.0), replace(FREE, engine_ns=MS), "inline", max_batch_size=1)
    assert saturation_rate(batch, 500) == pytest.approx(500, rel=0.02)


def test_cores_are_shared() -> None:
    """Two instances of one thread each on one core carry no more than one instance."""
    alone = saturation_rate(single(fixed(1.0), cores=1.0))
    both = saturation_rate(single(fixed(1.0), instances=2, cores=1.0))
    apart = saturation_rate(single(fixed(1.0), instances=2, cores=2.0))
    assert both == pytest.approx(alone, rel=0.02)
    assert apart == pytest.approx(2 * alone, rel=0.02)


@pytest.mark.parametrize("dispatch", ["inline", "worker"])
@pytest.mark.parametrize(("ms", "batch_ns"), [(0.1, 2 * MS), (2.0, 10_000)])
def test_the_slower_part_bounds_the_rate(dispatch: str, ms: float, batch_ns: int) -> None:
    """With the loop or the engine as the slower part, the saturated rate is a little under what that one can do."""
    loop_ms, engine_ms = 4 * 0.002 + batch_ns / MS, 2 * ms  # of a batch of four
    bound = 4000 / (max(loop_ms, engine_ms) if dispatch == "worker" else loop_ms + engine_ms)
    way = WayIn(1000, 1000, batch_ns, 0, 0)
    item = Configuration(fixed(ms, 1.5 * ms, 2 * ms), way, dispatch, max_batch_size=4)  # type: ignore[arg-type]
    assert 0.8 * bound < saturation_rate(item) < 1.01 * bound


@pytest.mark.parametrize("dispatch", ["inline", "worker"])
def test_batches_carry_more(dispatch: str) -> None:
    """With eight rows for the price of two, capacity is four times that of single rows."""
    service = fixed(1.0, 1.33, 1.67, 2.0)
    several = Configuration(service, FREE, dispatch, max_batch_size=8, queue_rows=1 << 30)  # type: ignore[arg-type]
    assert saturation_rate(several) == pytest.approx(4000, rel=0.03)
    assert saturation_rate(single(service)) == pytest.approx(1000, rel=0.01)


def test_a_lone_request_pays_for_each_part_of_its_way() -> None:
    """Receiving, waking, computing, delivering, answering, and the time outside the server."""
    way = WayIn(receive_ns=10, answer_ns=200, batch_ns=3000, wake_ns=40_000, outside_ns=500_000, pass_ns=7000)
    alone = np.array([0], np.int64)
    worker = simulate(Configuration(fixed(1.0), way, "worker"), alone)
    inline = simulate(Configuration(fixed(1.0), way, "inline"), alone)
    assert worker.latencies_ns.tolist() == [7000 + 10 + 40_000 + MS + 40_000 + 7000 + 3000 + 200 + 500_000]
    assert inline.latencies_ns.tolist() == [7000 + 10 + MS + 3000 + 200 + 500_000]


def test_requests_of_one_pass_share_its_cost() -> None:
    """Sixteen at once are taken in by one pass of the loop, sixteen apart by one each."""
    way = WayIn(0, 0, 0, 0, 0, pass_ns=50_000)
    together = simulate(Configuration(fixed(0.0), way, "inline", max_batch_size=1), np.zeros(16, np.int64))
    apart = simulate(Configuration(fixed(0.0), way, "inline", max_batch_size=1), np.arange(16) * MS)
    assert together.loop_busy_s == pytest.approx(50e-6)
    assert apart.loop_busy_s == pytest.approx(16 * 50e-6)


def test_a_client_on_the_same_cores_takes_its_time() -> None:
    """It reads one answer after another, which bounds the rate of a closed loop; and it takes a core while it does."""
    way = WayIn(0, 0, 0, 0, 0, client_ns=20_000, client_pass_ns=5000)
    alone = simulate(Configuration(fixed(1.0), way, "inline"), np.array([0], np.int64))
    assert alone.latencies_ns.tolist() == [MS + 25_000]
    batches = fixed(*[0.1] * 7)
    bounded = simulate_closed(Configuration(batches, way, "inline", max_batch_size=64), 64)
    assert bounded.rate == pytest.approx(50_000, rel=0.1)
    one_core = simulate_closed(Configuration(batches, way, "inline", max_batch_size=64, cores=1.0), 64)
    assert one_core.rate < 0.97 * bounded.rate


def test_a_client_with_a_core_of_its_own_takes_none_of_the_servers() -> None:
    """One core beside the client's: as quick as two that both use, where the server's work fills one of them."""
    way = WayIn(5000, 5000, 0, 0, 0, client_ns=20_000, client_pass_ns=5000)
    shared = Configuration(fixed(*[0.1] * 7), way, "inline", max_batch_size=64, cores=1.0)
    both, own = (simulate_closed(item, 64).rate for item in (shared, replace(shared, client_apart=True)))
    assert own > 1.05 * both
    assert own == pytest.approx(simulate_closed(replace(shared, cores=2.0), 64).rate, rel=0.01)


def test_what_arrives_while_a_pass_receives_waits_for_the_next_one() -> None:
    """In a closed loop half of the clients wait for the other half: the next batch begins before all have answers."""
    way = WayIn(10_000, 10_000, 0, 0, 0, client_ns=15_000, client_pass_ns=20_000)
    item = Configuration(fixed(*[3.0] * 6), way, "inline", max_batch_size=32, client_apart=True)
    run = simulate_closed(item, 32, 3200)
    assert 3200 / run.batches < 24


def test_adaptive_computes_short_batches_itself() -> None:
    """Under half a millisecond the loop does it; above, the instance is woken."""
    way = WayIn(0, 0, 0, wake_ns=40_000, outside_ns=0)
    alone = np.array([0], np.int64)
    times = [simulate(Configuration(fixed(ms), way, "adaptive"), alone).latencies_ns[0] for ms in (0.4, 0.6)]
    assert times == [400_000, 680_000]


def test_a_full_queue_and_a_deadline_refuse() -> None:
    """What finds no room or cannot be in time is refused, and counts against every percentile beyond it."""
    burst = np.zeros(100, np.int64)
    full = simulate(Configuration(fixed(1.0), FREE, "inline", max_batch_size=1, queue_rows=10), burst)
    late = simulate(Configuration(fixed(1.0), FREE, "inline", max_batch_size=1, deadline_ns=5 * MS), burst)
    assert (full.refused, len(full.latencies_ns)) == (90, 10)
    assert (late.refused, len(late.latencies_ns)) == (95, 5)
    assert full.percentile_ms(0.99) == float("inf")
    assert full.percentile_ms(0.05) == pytest.approx(5.0, rel=0.2)


def test_holding_back_waits_for_company() -> None:
    """A delay merges requests that come a little apart, where the cost says that it pays."""
    service = fixed(1.0, 1.0, 1.0, 1.0)
    arrivals = np.arange(2000, dtype=np.int64) * (MS * 9 // 20)
    now, later = (
        simulate(Configuration(service, FREE, "worker", max_batch_size=8, max_queue_delay_us=delay), arrivals)
        for delay in (0, 2000)
    )
    assert later.batches < 0.9 * now.batches


def test_the_rule_for_batches_is_the_servers() -> None:
    """For all small queues the compiled rule says what `batching.policy.decide` says."""
    model = CostModel(8)
    for size, took in zip(model.sizes, (1000, 1300, 1900, 3600), strict=True):
        model.observe(size, took)
    best = np.array([0, *(model.best(ready) for ready in range(1, 9))], np.int64)
    estimate = np.array([model.estimate_ns(rows) for rows in range(9)])
    for ready, idle, gap, age in itertools.product(range(1, 12), (1, 2, 3), (0.0, 50.0, 400.0), (0, 500, 5000)):
        now, delay = 10_000, 2000
        expected = decide(Queue(ready, now - age, gap, idle), now, model, delay)
        rows = queueing.batch_rows(ready, idle, best)
        until = queueing.held_until(ready, rows, now - age, gap, now, delay, best, estimate)
        if isinstance(expected, Dispatch):
            assert (rows, until) == (expected.rows, 0)
        else:
            assert until == expected.until_ns


def test_the_highest_rate_within_a_limit() -> None:
    """Just below it the p99 holds, well above it does not."""
    configuration = single(fixed(1.0))
    rate = highest_rate(configuration, limit_ms=5.0, answers=20_000)
    assert 500 < rate < 650  # in M/D/1, P(wait > t) falls about as exp(-1.1 t) at a load of 0.55
    assert simulate(configuration, poisson(rate * 0.9, 20_000)).percentile_ms(0.99) < 5.5
    assert simulate(configuration, poisson(rate * 1.15, 20_000)).percentile_ms(0.99) > 5.0


def test_a_closed_loop_obeys_littles_law() -> None:
    """Clients in flight are throughput times latency."""
    result = simulate_closed(single(exponential(1.0)), clients=4, answers=20_000)
    inside = result.rate * result.latencies_ns.mean() / 1e9
    assert inside == pytest.approx(4, rel=0.15)


def test_nothing_arrives() -> None:
    """An empty load has an empty answer."""
    result = simulate(single(fixed(1.0)), np.empty(0, np.int64))
    assert isinstance(result, Prediction)
    assert (result.rate, result.refused, result.batches) == (0.0, 0, 0)


def test_service_times_need_one_row_a_size() -> None:
    """Quantiles of another shape are refused."""
    with pytest.raises(ValueError, match="row of quantiles"):
        ServiceTimes(np.array([1, 2]), np.ones((1, 5)))


def test_sharing_cores_costs_the_same_on_average() -> None:
    """Whether by a little each or by a turn now and then; short work mostly runs undisturbed."""
    short, long = (np.array([queueing.shared(work, 1.5) for _ in range(20_000)]) for work in (50_000.0, 8e6))
    assert short.mean() == pytest.approx(75_000, rel=0.1)
    assert (short == 50_000).mean() > 0.9
    assert long.mean() == pytest.approx(12e6, rel=0.02)


@pytest.mark.parametrize("dispatch", ["inline", "worker", "adaptive"])
def test_requests_of_different_shapes_share_no_batch(dispatch: str) -> None:
    """All at once: of one shape they fill batches; of 50, each batch has what there is of the first one's shape."""
    alike = Configuration(fixed(1.0, 1.1, 1.2, 1.3), FREE, dispatch, max_batch_size=8)  # type: ignore[arg-type]
    apart = replace(alike, mix=ShapeMix((1 / 50,) * 50))
    arrivals = np.zeros(400, np.int64)
    assert simulate(alike, arrivals).batches == 50
    several = simulate(apart, arrivals)
    assert len(several.latencies_ns) == 400
    assert several.batches == sum(-(-count // 8) for count in np.bincount(apart.mix.keys(400, 0), minlength=50))


def test_few_in_flight_of_many_shapes_are_computed_one_by_one() -> None:
    """Eight clients whose requests have a hundred shapes: batches hardly form, and the order of arrival is kept."""
    alike = Configuration(fixed(1.0, 1.1, 1.2, 1.3), FREE, max_batch_size=8)
    apart = replace(alike, mix=ShapeMix((1 / 100,) * 100))
    together, alone = (simulate_closed(each, 8, 2000) for each in (alike, apart))
    assert together.rate > 4 * alone.rate
    assert 1.0 < 2000 / alone.batches < 1.3
    assert alone.percentile_ms(1.0) < 10.0


@pytest.mark.parametrize("kind", ["inline", "worker", "adaptive"])
def test_what_is_compiled_beforehand_is_what_a_tune_calls(kind: DispatchKind) -> None:
    """A second set of argument types would be compiled within the budget."""
    prepare()
    mixed = replace(single(fixed(1.0, 1.5)), dispatch=kind, mix=ShapeMix((0.5, 0.5)), max_batch_size=2, spinning=1)
    assert simulate(mixed, poisson(300, 100)).rate
    assert simulate_closed(mixed, 4, 100).rate
    assert len(queueing.run.signatures) == 1

"""Whole plans."""

import functools
import math
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tailcut.engines import EngineOptions
from tailcut.engines.base import CudaOptions
from tailcut.errors import UsageError
from tailcut.lab.arrivals import Bursty, Poisson
from tailcut.models import digits_model
from tailcut.planning.autoscale import Rules
from tailcut.planning.demand import Limit, Recording, replayed
from tailcut.planning.measured import MeasuredProfile
from tailcut.planning.notes import plan_notes
from tailcut.planning.plan import make_plan
from tailcut.planning.records import PlanResult
from tailcut.planning.request import PlanRequest
from tailcut.planning.search import Figures, capacity_of
from tailcut.report.plan_page import price_words
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import SecondEngine, Settings
from tailcut.tuner.service import MeasuredService
from tailcut.tuner.simulate import simulate_closed
from tailcut.tuner.space import changed

pytestmark = pytest.mark.usefixtures("short_simulations")
WAY = {"receive_ns": 9000, "answer_ns": 14_000, "batch_ns": 20_000, "wake_ns": 25_000, "outside_ns": 60_000}


def measured(name: str = "m", us: float = 4000.0, **engine: object) -> MeasuredProfile:
    """A model whose batch of one takes so long, and of two half more."""
    settings = changed(Settings(), batching={"max_batch_size": 2}, engine={"threads": 1} | engine)
    profile = Profile.of_model(digits_model(), settings, name)
    service = MeasuredService(sizes=(1, 2), quantiles_us=((us,), (1.5 * us,)), threads=1, cores=2.0, way_in=WAY)
    return MeasuredProfile(Path(f"{name}.profile.toml"), profile, service, Path(f"{name}.profile.toml"))


WANTED = PlanRequest([measured()], [1000.0], [Limit("p99", 15.0)], Poisson)


@functools.cache
def usual() -> PlanResult:
    """The plan of WANTED, made once, and the only one with its curve, which takes most of a plan's time."""
    return make_plan(WANTED, lambda _: None)


def plan(**values: object) -> PlanResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tailcut.planning.plan.curve_points", lambda _: [])
        return make_plan(replace(WANTED, **values), lambda _: None)  # type: ignore[arg-type]


def test_a_plan_meets_its_limit() -> None:
    """With its headroom, and no fewer replicas do."""
    result = usual()
    assert result.predicted.within
    assert result.stressed.within
    assert result.stressed.rate == 1200
    assert result.replicas == result.needed
    assert result.cores == 2 * result.replicas
    assert result.gpus == 0
    fewer = next(item.rate for item in result.curve if item.replicas == result.replicas - 1)
    enough = next(item.rate for item in result.curve if item.replicas == result.replicas)
    assert fewer < 1.02 * 1200 <= 1.02 * enough * 1.02
    assert [item.rate for item in result.curve] == sorted(item.rate for item in result.curve)
    assert result.predicted.goodput == pytest.approx(1000, rel=0.01)


@pytest.mark.slow
def test_a_measured_capacity_sets_the_scale() -> None:
    """If a replica sustains half of what the parts promise, twice as many are needed; the plan says so."""
    loose = [Limit("p99", 500.0)]
    promised = capacity_of(WANTED.models[0].service.configuration(WANTED.models[0].profile.settings))
    before, half, same = (plan(limits=loose, capacity=capacity) for capacity in (None, promised / 2, promised))
    assert half.needed == pytest.approx(2 * before.needed, abs=1)
    assert half.models[0].lone_ms == pytest.approx(2 * before.models[0].lone_ms, rel=0.1)
    assert half.assumptions.capacity == promised / 2
    assert any(note.startswith("CPU times are scaled by 2.00") for note in half.assumptions.notes)
    far = plan(limits=loose, capacity=promised / 5)
    assert [any("far from what the tune" in note for note in item.assumptions.notes) for item in (same, far)] == [
        False,
        True,
    ]
    assert (same.needed, before.assumptions.capacity) == (before.needed, None)


def verified(item: MeasuredProfile, share: float, clients: int = 16, **machine: object) -> MeasuredProfile:
    """The model after a tune whose server answered this share of what its parts promise."""
    promised = simulate_closed(item.parts(item.service.cores), clients, 20_000).rate
    evidence = {"clients": clients, "tuned": {"throughput": share * promised}}
    return replace(item, profile=msgspec.structs.replace(item.profile, evidence=evidence, machine=machine))


def test_the_tune_s_own_throughput_sets_the_scale() -> None:
    """A tuned server that answered half of what its parts promise is needed twice as often; the plan says so."""
    before, half = usual(), plan(models=[verified(WANTED.models[0], 0.5)], limits=[Limit("p99", 30.0)])
    assert half.needed == pytest.approx(2 * before.needed, abs=1)
    assert half.models[0].lone_ms == pytest.approx(2 * before.models[0].lone_ms, rel=0.1)
    assert any(text.startswith("CPU times are scaled by 2.00: the tuned server") for text in half.assumptions.notes)
    assert any("does not say what the tuned server answered" in text for text in before.assumptions.notes)


def test_a_replica_has_the_quota_of_the_tune() -> None:
    """And no whole core where the tune had half of one."""
    item = WANTED.models[0]
    item = replace(item, service=msgspec.structs.replace(item.service, cores=1.0))
    machine = {"usable_cpus": 1, "cpu_quota": 0.5, "cpus": 4}
    half = replace(item, profile=msgspec.structs.replace(item.profile, machine=machine))
    loose = [Limit("p99", 60.0)]
    result, asked, whole = (
        plan(models=[model], limits=loose, cores=cores) for model, cores in ((half, None), (item, 0.5), (item, None))
    )
    assert result.assumptions.cores_per_replica == 0.5
    assert result.cores == 0.5 * result.replicas
    assert result.replicas == asked.replicas > 1.7 * whole.replicas
    for words in ("which is not what the model was measured with", "its quota throttles"):
        assert [any(words in text for text in item.assumptions.notes) for item in (result, asked)] == [False, True]


def test_an_implausible_throughput_is_noted_and_not_used() -> None:
    """A fifth of what the parts promise is a fault of the measurement."""
    result = plan(models=[verified(WANTED.models[0], 0.2)])
    assert result.needed == usual().needed
    assert any("which is too far apart; measure a replica" in text for text in result.assumptions.notes)


def test_a_model_among_several_that_is_far_off_is_to_be_tuned_again() -> None:
    """A capacity can be given for one model alone."""
    items = [verified(measured("a"), 0.2), measured("b")]
    result = plan(models=items, rates=[100.0, 50.0], limits=[Limit("p99", 60.0)] * 2)
    assert any(
        text.startswith("a: ") and text.endswith("too far apart; tune it again") for text in result.assumptions.notes
    )


def test_a_measured_capacity_replaces_the_tune_s() -> None:
    """Whatever the tune measured, a replica answers what it was measured to; near the tune's it is not called far."""
    loose, slow = [Limit("p99", 100.0)], verified(WANTED.models[0], 0.6)
    capacity = 0.4 * capacity_of(WANTED.models[0].parts(2.0))
    results = [plan(models=[item], limits=loose, capacity=capacity) for item in (WANTED.models[0], slow)]
    assert results[0].needed == results[1].needed
    far = [any("far from what the tune" in text for text in result.assumptions.notes) for result in results]
    assert far == [True, False]


def test_each_model_has_its_own_scale() -> None:
    """Several profiles: each by what its own tune measured, which its notes name."""
    items = [verified(measured("a"), 0.8), measured("b")]
    result = plan(models=items, rates=[100.0, 50.0], limits=[Limit("p99", 60.0)] * 2)
    scaled = [text for text in result.assumptions.notes if "CPU times are" in text]
    assert [text.split(" requests")[0].split(":")[0] for text in scaled] == ["a", "b"]
    assert "a: CPU times are scaled by 1.25" in scaled[0]


@pytest.mark.parametrize("io", [{"wire": "shared"}, {"socket": "unix"}])
def test_a_profile_for_clients_on_the_same_machine(io: dict[str, str]) -> None:
    """Answers less over a network, and the plan says so."""
    item = WANTED.models[0]
    local = replace(item, profile=msgspec.structs.replace(item.profile, settings=changed(item.profile.settings, io=io)))
    notes = [plan_notes(replace(WANTED, models=[each]), 1, 1.0) for each in (item, local)]
    assert [any("tuned with --local" in text for text in own) for own in notes] == [False, True]


def test_losses_are_planned_for() -> None:
    """As many more replicas as may be lost: the limit is met without them."""
    result = plan(failures=2)
    assert result.replicas == result.needed + 2 == usual().replicas + 2
    lost = result.losses[1]
    assert (lost.lost, lost.replicas, lost.predicted.within) == (2, result.needed, True)
    assert lost.predicted.utilisation == pytest.approx(
        result.predicted.utilisation * result.replicas / result.needed, rel=0.15
    )


def test_many_losses_are_few_simulations() -> None:
    """The first three and the last one are shown."""
    result = plan(failures=9, rates=[200.0])
    assert [loss.lost for loss in result.losses] == [1, 2, 3, 9]
    assert (result.losses[-1].replicas, result.losses[-1].predicted.within) == (result.needed, True)


def test_one_replica_is_not_called_simulated() -> None:
    """Beyond one machine, the result is."""
    item, several = plan(rates=[20.0]), usual()
    assert (item.replicas, item.assumptions.simulated) == (1, False)
    assert several.assumptions.simulated
    assert any(text.startswith("simulated:") for text in several.assumptions.notes)


def test_no_number_of_replicas() -> None:
    """A limit below the time of a lone request names that time."""
    with pytest.raises(UsageError, match=r"m: no number of replicas meets p99 within 3 ms: a lone request takes 4\.1"):
        plan(limits=[Limit("p99", 3.0)])


def test_price() -> None:
    """Of all replicas, and of a million answers."""
    result = plan(price=0.5)
    assert result.price is not None
    assert result.price.per_hour == 0.5 * result.replicas
    assert result.price.per_million == pytest.approx(result.price.per_hour / 3.6, rel=0.01)


def test_a_low_price_is_not_0() -> None:
    """Of a unit that is worth much, or of a replica that is billed by the second."""
    result = plan(price=0.00001)
    assert result.price is not None
    assert result.price.per_hour == pytest.approx(0.00001 * result.replicas)
    assert result.price.per_month == pytest.approx(0.0073 * result.replicas)
    assert price_words(result).startswith(f"price: 0.0000{result.replicas} per hour, ")


def test_hedging_and_routing_are_noted() -> None:
    """And how many requests were sent twice."""
    result = plan(hedge_ms=4.0, routing="random", rates=[1.0], limits=[Limit("p99", 50.0)], failures=1)
    assert (result.assumptions.routing, result.assumptions.hedge_ms) == ("random", 4.0)
    assert result.assumptions.hedged_share > 0.9  # a lone request takes longer
    assert result.losses[0].in_flight == pytest.approx(0.002, rel=0.1)


def test_several_models_on_shared_cores() -> None:
    """Each has its own rate, limit and figures."""
    result = plan(
        models=[measured("a"), measured("b", 10_000.0)],
        rates=[300.0, 50.0],
        limits=[Limit("p99", 30.0), Limit("p99", 60.0)],
    )
    assert [(model.name, model.rate, model.predicted.within) for model in result.models] == [
        ("a", 300, True),
        ("b", 50, True),
    ]
    assert result.predicted.rate == 350
    assert result.models[0].predicted.utilisation is None
    assert result.assumptions.routing == "round-robin"


def test_a_percentile_of_too_few_requests_is_noted() -> None:
    """As many are simulated for it as for p99.9; those before the queues have settled do not count."""
    wanted = replace(WANTED, limits=[Limit("p99.999", 20.0)])
    figures = Figures(250.0, 1.0, 1.0, 1.0, 1.0, 250.0, 0.5, 0.0, within=True, asked=180_000)
    (note,) = [note for note in plan_notes(wanted, 1, 1.0, [figures]) if "uncertain" in note]
    assert note == "m: p99.999 is uncertain: it is based on 180,000 requests, and needs 1,000,000"
    assert not any("uncertain" in note for note in usual().assumptions.notes)


@pytest.mark.slow
def test_a_model_with_rare_requests_is_noted() -> None:
    """It needs no replicas of its own; a note names it, and one whose percentile needs more requests than there are."""
    often, rare = measured("often", 200.0), measured("rare", 6000.0)
    both = {"models": [often, rare], "rates": [5000.0, 0.05]}
    result = plan(**both, limits=[Limit("p99", 20.0), Limit("p99", 200.0)])
    alone = plan(models=[often, measured("none", 200.0)], rates=[5000.0, 0.01], limits=[Limit("p99", 20.0)] * 2)
    assert result.needed == alone.needed
    assert result.models[1].predicted.p99_ms is not None
    assert any(note.endswith("simulated closer together than they arrive") for note in result.assumptions.notes)
    assert not any("uncertain" in note for note in result.assumptions.notes)
    far = plan(**both, limits=[Limit("p99", 20.0), Limit("p99.99", 200.0)])
    assert any(note.startswith("rare: p99.99 is uncertain: it is based on") for note in far.assumptions.notes)


def on_device(name: str, index: int) -> MeasuredProfile:
    """A model whose engine is on this device."""
    return measured(name, device="cuda", cuda=CudaOptions(index=index))


def test_devices_of_each_replica() -> None:
    """As many as its engines name: the second engine's, too, and one that models share once."""
    few = {"rates": [20.0], "failures": 1}
    result = plan(models=[measured(device="cuda")], **few)
    assert result.gpus == result.replicas == 2
    item = measured()
    second = SecondEngine(engine=EngineOptions(device="cuda"))
    settings = changed(item.profile.settings, batching={"second": second})
    result = plan(models=[replace(item, profile=msgspec.structs.replace(item.profile, settings=settings))], **few)
    assert result.gpus == result.replicas
    few |= {"rates": [10.0, 5.0], "limits": [Limit("p99", 60.0)] * 2}
    for other, each in ((0, 1), (1, 2)):
        result = plan(models=[on_device("a", 0), on_device("b", other)], **few)
        assert result.gpus == each * result.replicas


def test_workers_of_all_replicas() -> None:
    """The processes that are needed together."""
    assert usual().workers == usual().replicas
    result = plan(workers=2)
    assert result.workers == 2 * result.replicas


def test_other_cores_are_noted() -> None:
    """A replica of other cores than the tune had, and workers that divide them."""
    result = plan(cores=4.0, workers=2)
    assert result.cores == 4 * result.replicas
    assert sum("which is not what the model was measured with" in text for text in result.assumptions.notes) == 1
    assert sum("each of 2 workers has 2 cores" in text for text in result.assumptions.notes) == 1


def test_a_recording_has_a_course() -> None:
    """The fixed number is planned for its busiest minute; the autoscaler takes fewer replica hours."""
    edges = np.array([0.0, 400.0, 500.0, 900.0])
    load = np.concatenate([[0.0], np.cumsum(np.array([50.0, 600.0, 50.0]) * np.diff(edges))])
    recording = Recording(edges, load, replayed=False)
    result = plan(recording=recording, rates=[], rules=Rules(start_s=5.0, down_s=30.0), headroom=0.0)
    assert result.predicted.rate == pytest.approx(600, rel=0.1)
    scaled = result.autoscaling
    assert scaled is not None
    assert scaled.most == result.replicas
    assert scaled.replica_hours < scaled.fixed_replica_hours
    assert scaled.requests == pytest.approx(100_000, rel=0.02)
    assert 0 < scaled.missed < scaled.requests
    assert max(item.replicas for item in scaled.course) > 1
    msgspec.json.encode(result)


def test_a_recording_with_too_much_in_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is planned for as many seconds as can be simulated, which the plan says."""
    recording = Recording(np.array([0.0, 50.0, 60.0, 200.0]), np.array([0.0, 2500.0, 6500.0, 13_500.0]), replayed=False)
    whole = plan(recording=recording, rates=[])
    monkeypatch.setattr("tailcut.planning.plan.longest_round_s", lambda capacity: 10.0)
    result = plan(recording=recording, rates=[])
    assert whole.assumptions.notes[-1] == "replicas are planned for the busiest minute of the recording"
    assert "busiest 10 s of the recording, because a minute is too much" in result.assumptions.notes[-1]
    assert result.predicted.rate == pytest.approx(400, rel=0.1)


def test_a_recording_of_few_arrivals_is_scaled_up() -> None:
    """To as many replicas as Poisson arrivals need, which the plan says; its own rate is replayed."""
    recording = replayed(np.arange(201.0), 201.0)
    wanted = {"limits": [Limit("p99", 30.0)], "rates": [300.0]}
    poisson, scaled = plan(**wanted), plan(**wanted, recording=recording)
    assert abs(scaled.needed - poisson.needed) <= 1
    assert "the recording has 1 requests/s: 300 were drawn at random" in scaled.assumptions.notes[-1]
    own = plan(recording=recording, rates=[])
    assert own.assumptions.notes[-2] == "replicas are planned for the busiest minute of the recording"
    assert own.assumptions.notes[-1].startswith("for the headroom and the curve, recorded bursts grow by a tenth")
    assert (own.needed, own.predicted.rate) == (1, pytest.approx(1.0, abs=0.02))


def test_hours_without_traffic_are_paid_for() -> None:
    """A recording that ends with a time without requests: a fixed number of replicas stays for all of it."""
    recording = Recording(np.array([0.0, 60.0, 3600.0]), np.array([0.0, 6000.0, 6000.0]), replayed=False)
    result = plan(recording=recording, rates=[], rules=Rules(start_s=5.0, down_s=30.0))
    assert result.autoscaling is not None
    assert result.autoscaling.fixed_replica_hours == result.replicas
    assert 1 <= result.autoscaling.replica_hours < result.replicas + 0.1


def test_requests_that_go_with_a_replica() -> None:
    """The mean by Little's law: in bursts it is far above that of the median request."""
    result = plan(rates=[200.0], arrivals=lambda rate: Bursty(rate, 5.0, 0.2), limits=[Limit("p99", 100.0)], failures=1)
    median = result.predicted.rate / result.replicas * (result.predicted.p50_ms or 0) / 1e3
    assert result.losses[0].in_flight > 1.2 * median
    figures = Figures(300.0, 4.0, *[9.0] * 3, 300.0, 0.5, 0.0, within=True)
    rare = replace(figures, rate=10.0, mean_ms=200.0)
    unknown = replace(figures, rate=1.0, mean_ms=math.nan)
    assert figures.in_flight == pytest.approx(1.2)
    assert replace(figures, parts=(figures, rare, unknown)).in_flight == pytest.approx(3.2)


def test_the_curve_is_that_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that ends below a rate that the table has as met, for as many replicas or fewer, does not count."""
    monkeypatch.setattr("tailcut.planning.search._TIGHT", 0.5)
    result = make_plan(replace(WANTED, failures=2), lambda _: None)
    rates = {point.replicas: point.rate for point in result.curve}
    assert [*rates.values()] == sorted(rates.values())
    rows = [(result.needed, result.stressed), *((loss.replicas, loss.predicted) for loss in result.losses)]
    for replicas, figures in rows:
        assert all(rate >= figures.rate for count, rate in rates.items() if count >= replicas and figures.within)
        assert all(rate < figures.rate for count, rate in rates.items() if count <= replicas and not figures.within)


def test_bursts_that_are_too_long() -> None:
    """Are simulated shorter, which the plan says; or refused in a line that says what to do."""
    item = measured(us=1000.0)
    wanted = {"models": [item], "rates": [20.0], "headroom": 0.0}
    result = plan(**wanted, arrivals=lambda rate: Bursty(rate, 5.0, 30.0), limits=[Limit("p99", 15.0)])
    assert "s were simulated, and bursts of 30 s are assumed to behave alike" in result.assumptions.notes[-1]
    with pytest.raises(UsageError, match="too many requests to simulate: plan for the bursts' own rate"):
        plan(**wanted, arrivals=lambda rate: Bursty(rate, 5.0, 30.0), limits=[Limit("p99", 500.0)])


@pytest.mark.parametrize("rate", [1e-6, 1e-3])
def test_a_recording_without_requests(rate: float) -> None:
    """At so low a rate none is drawn: there is nothing to plan for."""
    recording = Recording(np.array([0.0, 60.0]), np.array([0.0, 600.0]), replayed=False)
    with pytest.raises(UsageError, match=r"--trace: .* requests in 60 s are too few to plan for"):
        plan(recording=recording, rates=[rate], rules=Rules())


@pytest.mark.slow
def test_a_day_of_much_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs faster than it was recorded, with the autoscaler's times, and the result is in the recording's time."""
    edges = np.array([0.0, 400.0, 500.0, 900.0])
    load = np.concatenate([[0.0], np.cumsum(np.array([50.0, 600.0, 50.0]) * np.diff(edges))])
    recording, rules = Recording(edges, load, replayed=False), Rules(every_s=10.0, start_s=20.0, down_s=60.0)
    whole = plan(recording=recording, rates=[], rules=rules)
    monkeypatch.setattr("tailcut.planning.demand.MOST_REQUESTS", 20_000)
    result = plan(recording=recording, rates=[], rules=rules)
    assert any("shortened by a factor of 5" in text for text in result.assumptions.notes)
    assert abs(result.replicas - whole.replicas) <= 1  # the busiest minute is drawn anew
    item, other = result.autoscaling, whole.autoscaling
    assert item is not None
    assert other is not None
    assert item.requests == pytest.approx(other.requests, rel=0.03)
    assert item.replica_hours == pytest.approx(other.replica_hours, rel=0.15)
    assert item.missed_share == pytest.approx(other.missed_share, abs=0.1)
    assert item.course[-1].at_s == pytest.approx(other.course[-1].at_s, abs=15)
    monkeypatch.setattr("tailcut.planning.demand.MOST_REQUESTS", 100)
    with pytest.raises(UsageError, match="too many to simulate with this limit"):
        plan(recording=recording, rates=[], rules=rules)


def test_too_many_decisions() -> None:
    """An autoscaler that decides ten times a second over a month."""
    recording = Recording(np.array([0.0, 2.6e6]), np.array([0.0, 2.6e5]), replayed=False)
    with pytest.raises(UsageError, match=r"every=0\.1s is 26,000,000 decisions in this recording"):
        plan(recording=recording, rates=[], rules=Rules(every_s=0.1))


def test_the_capacity_of_one_worker_for_several() -> None:
    """Two answer twice that; the replica that was measured with two has theirs."""
    one, both = (replace(WANTED, workers=2, capacity=100.0, capacity_workers=workers) for workers in (1, None))
    capacities = [capacity_of(wanted.configurations()[0], 2) for wanted in (one, both)]
    assert capacities == pytest.approx([200.0, 100.0], rel=0.02)
    notes = [" ".join(plan_notes(wanted, 1, 1.0)) for wanted in (one, both)]
    assert "so that a replica of 1 worker answers at most 100 requests/s" in notes[0]
    assert "so that a replica of 2 workers answers at most 100 requests/s" in notes[1]

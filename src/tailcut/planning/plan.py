"""Makes a plan from measurements and demand: search, curve, losses, price, and an autoscaler's course."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from tailcut.errors import UsageError
from tailcut.lab.arrivals import Arrivals, Bursty
from tailcut.planning.autoscale import Course, Rules, simulate_autoscaler
from tailcut.planning.cluster import Cluster
from tailcut.planning.demand import SMOOTHED, Limit, Recording, Stretch, busiest
from tailcut.planning.measured import lasting_cores
from tailcut.planning.notes import plan_notes
from tailcut.planning.records import (
    Assumptions,
    Autoscaled,
    CapacityPoint,
    Loss,
    PlannedFigures,
    PlannedModel,
    PlanResult,
    Price,
    ScalingMoment,
)
from tailcut.planning.request import PlanRequest
from tailcut.planning.search import (
    FEWEST_UNEVEN,
    MOST_REPLICAS,
    MOST_SIMULATED,
    Expect,
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
from tailcut.planning.together import Tenant, capacity_together, expect_together
from tailcut.planning.words import number
from tailcut.tuner.simulate import Configuration
from tailcut.tuner.together.selection import spin_ns

BUSIEST_S = 60.0  # the part of a recording that a fixed number of replicas is planned for
_MONTH_H = 730.0
_PRICE_DIGITS = 10  # enough that a low price is not rounded to 0
_LEAST_LIMITS = 2  # the least time between two decisions of an autoscaler, in limits
_MOST_DECISIONS = 1_000_000  # the most decisions of an autoscaler that are simulated
_LEAST_ARRIVALS = 2
_SHOWN_LOSSES = 3
_GROWN = (
    "for the headroom and the curve, recorded bursts grow by a tenth at most: further requests are added at random, "
    "at the rate over time"
)


@dataclass(frozen=True)
class _Question:
    """The search problem: the behaviour of replicas, the rate, and the capacity of one replica."""

    expect: Expect
    rate: float
    capacity: float
    lone_ms: tuple[float, ...]
    cluster: Cluster
    traffic: "_Traffic"


@dataclass(frozen=True)
class _Traffic:
    """The part of the user's traffic that is simulated, and notes on it."""

    make: Callable[[float], Arrivals]
    rates: Sequence[float]
    notes: Sequence[str] = ()
    arrivals_ns: np.ndarray | None = None  # of the recording
    compression: float = 1.0  # of its time, a factor
    length_s: float = 0.0  # of the compressed recording


def make_plan(wanted: PlanRequest, tell: Callable[[str], None]) -> PlanResult:
    """Make a plan.

    Args:
        wanted: what the user asked for.
        tell: called with the name of each phase when it begins.

    Raises:
        UsageError: no number of replicas meets a limit, or the recording is too long.
    """
    tell("simulating a lone request")
    question = _question(wanted)
    rate, headroom = question.rate, question.rate * (1 + wanted.headroom)
    tell("searching the least number of replicas")
    findings = KnownRates(question.expect)
    needed = least_replicas(findings, headroom, question.capacity)
    replicas = needed + wanted.failures
    if replicas > MOST_REPLICAS:
        raise UsageError(
            f"{needed:,} replicas and {wanted.failures:,} more exceed the {MOST_REPLICAS:,} that can be simulated"
        )
    figures = question.expect(replicas, rate)
    counts = sorted({*range(1, _SHOWN_LOSSES + 1), wanted.failures} - {0})
    lost = losses(question.expect, replicas, rate, counts)
    tell("simulating the curve of rate against replicas")
    for shown in (replicas, *(replicas - count for count, _ in lost)):
        findings.within(shown, rate)  # simulated before, now recorded
    each = max(1.1 * headroom / needed, (needed == 1) * 0.7 * question.capacity)
    curve = _curve(wanted, findings, replicas, question.capacity, each)
    course = None
    arrivals_ns, compression = question.traffic.arrivals_ns, question.traffic.compression
    if wanted.rules is not None and arrivals_ns is not None:
        tell("simulating the autoscaler")
        saturated = question.expect(1, 2 * question.capacity).utilisation
        rules = wanted.rules.resolved(replicas, saturated)
        faster = rules.compressed(compression)
        length_s = question.traffic.length_s
        scaled = simulate_autoscaler(
            question.cluster, arrivals_ns, faster, wanted.limits[0], wanted.seed, length_s=length_s
        )
        fixed_hours = replicas * length_s / 3600
        course = _autoscaled(scaled, rules, fixed_hours, saturated, compression)
    return PlanResult(
        models=_models(wanted, question, figures),
        replicas=replicas,
        needed=needed,
        cores=replicas * wanted.replica_cores,
        workers=replicas * wanted.workers,
        gpus=replicas * len(frozenset[int]().union(*(model.profile.settings.devices for model in wanted.models))),
        predicted=_predicted(figures),
        stressed=_predicted(question.expect(needed, headroom)),
        curve=curve,
        losses=[
            Loss(count, replicas - count, round(figures.in_flight / replicas, 4), _predicted(lost_figures))
            for count, lost_figures in lost
        ],
        price=_price(wanted.price, replicas, figures),
        autoscaling=course,
        assumptions=_assumptions(wanted, replicas, figures, question.traffic),
        command=wanted.command,
    )


def _curve(
    wanted: PlanRequest, findings: KnownRates, replicas: int, capacity: float, each: float
) -> list[CapacityPoint]:
    """The highest rate for numbers of replicas around the planned one; `each` is a guess of the rate per replica."""
    rates = {count: highest_rate(findings, count, capacity, each * count) for count in curve_points(replicas)}
    return [CapacityPoint(count, count * wanted.replica_cores, round(rate, 2)) for count, rate in rates.items()]


def _question(wanted: PlanRequest) -> _Question:
    configurations = wanted.configurations()
    lone = tuple(
        _checked_lone(model.profile.model.name, configuration, limit, wanted.seed)
        for model, configuration, limit in zip(wanted.models, configurations, wanted.limits, strict=True)
    )
    cluster = Cluster(configurations[0], 1, wanted.routing, round(wanted.hedge_ms * 1e6))
    if not wanted.together:
        traffic = _traffic(wanted, capacity_of(configurations[0]))
        expect = expect_cluster(cluster, PlannedLoad(traffic.make, wanted.limits[0], wanted.seed), wanted.workers)
        capacity = capacity_of(configurations[0], wanted.workers)
        return _Question(expect, traffic.rates[0], capacity, lone, cluster, traffic)
    tenants = [
        Tenant(
            configuration,
            PlannedLoad(wanted.arrivals, limit, wanted.seed),
            rate,
            spin_ns(model.profile.settings.engine),
        )
        for model, configuration, limit, rate in zip(
            wanted.models, configurations, wanted.limits, wanted.rates, strict=True
        )
    ]
    capacity = capacity_together(tenants)
    traffic = _traffic(wanted, capacity, 1)
    tenants = [replace(tenant, load=replace(tenant.load, make=traffic.make)) for tenant in tenants]
    expect = expect_together(tenants, lasting_cores(wanted.replica_cores))
    return _Question(expect, sum(wanted.rates), capacity, lone, cluster, traffic)


def _traffic(wanted: PlanRequest, capacity: float, servers: int = FEWEST_UNEVEN) -> _Traffic:
    """The traffic to simulate: bursts that are short enough, and the busiest minute of a recording, or a part of it.

    Args:
        wanted: what the user asked for.
        capacity: requests per second of one server.
        servers: number of simulated servers.

    Raises:
        UsageError: there are too many requests to simulate, or too few to plan for.
    """
    if wanted.recording is None:
        process = wanted.arrivals(1.0)
        if not isinstance(process, Bursty):
            return _Traffic(wanted.arrivals, wanted.rates)
        bursts = simulated_bursts(process, wanted.limits, capacity, servers)
        length, asked = number(bursts.length_s, 3), number(process.length_s, 6)
        note = f"bursts of {length} s were simulated, and bursts of {asked} s are assumed to behave alike"
        notes = [note] if bursts.length_s < process.length_s else []
        return _Traffic(lambda rate: replace(bursts, rate=rate), wanted.rates, notes)
    faster, arrivals_ns = _recorded(wanted, wanted.recording)
    window_s = min(BUSIEST_S / faster, longest_round_s(capacity))
    whole = window_s * faster > 0.99 * BUSIEST_S
    part = (
        "minute of the recording"
        if whole
        else f"{number(window_s * faster, 3)} s of the recording, because a minute is too much"
    )
    scaling = _scaling_notes(wanted, wanted.recording)
    drawn = not wanted.recording.replayed or faster > 1 or bool(scaling)
    notes = [f"replicas are planned for the busiest {part}", *(scaling if drawn else [_GROWN])]
    whole_s = wanted.recording.length_s / faster
    length_s = min(window_s, max(whole_s, 1e-3))
    seconds = busiest(arrivals_ns, length_s)
    make = partial(Stretch, seconds, length_s, drawn=drawn)
    return _Traffic(make, [len(seconds) / length_s], notes, arrivals_ns, faster, whole_s)


def _scaling_notes(wanted: PlanRequest, recording: Recording) -> list[str]:
    """Notes on how recorded arrivals were scaled up to a higher rate."""
    if not wanted.rates or not recording.scaled_up(wanted.rates[0]):
        return []
    note = (
        f"the recording has {number(recording.rate, 3)} requests/s: {number(wanted.rates[0], 6)} were drawn at random "
        f"at its rate over time, a mean of {SMOOTHED} of its arrivals each; shorter bursts of it were not simulated"
    )
    return [note]


def _recorded(wanted: PlanRequest, recording: Recording) -> tuple[float, np.ndarray]:
    """The factor by which the recording's time runs faster, and its arrivals, int64 ns.

    Raises:
        UsageError: it runs so fast that decisions are less than two limits apart, there are too many decisions, or
            too few requests arrive.
    """
    rate = wanted.rates[0] if wanted.rates else None
    faster = recording.compression(rate)
    asked = recording.length_s * (rate or recording.rate)
    every_s = wanted.rules.every_s if wanted.rules is not None else BUSIEST_S
    if faster > 1 and every_s / faster < _LEAST_LIMITS * wanted.limits[0].limit_ms / 1e3:
        raise UsageError(
            f"--trace: {asked:,.0f} requests are too many to simulate with "
            "this limit: give an hour of the recording, or a lower --rate"
        )
    if recording.length_s / every_s > _MOST_DECISIONS:
        raise UsageError(
            f"--autoscale: every={every_s:g}s is {recording.length_s / every_s:,.0f} decisions in this recording, and "
            f"up to {_MOST_DECISIONS:,} are simulated: decide less often, or give a part of it"
        )
    course = recording.smoothed() if recording.scaled_up(rate) else recording
    arrivals_ns = (course if faster == 1 else course.compressed(faster)).times(rate, wanted.seed)
    if len(arrivals_ns) < _LEAST_ARRIVALS:
        raise UsageError(
            f"--trace: {number(asked, 3)} requests in {number(recording.length_s)} s are too few to plan for: "
            "give a longer recording, or a higher --rate"
        )
    return faster, arrivals_ns


def _checked_lone(name: str, configuration: Configuration, limit: Limit, seed: int) -> float:
    """The percentile of lone requests in milliseconds.

    Raises:
        UsageError: it exceeds the limit.
    """
    alone_ms = lone_ms(configuration, limit, seed)
    if alone_ms > limit.limit_ms:
        raise UsageError(
            f"{name}: no number of replicas meets {limit.percentile} within {number(limit.limit_ms)} ms: "
            f"a lone request takes {number(alone_ms)} ms: allow more, or tune for latency"
        )
    return alone_ms


def _finite(value: float, digits: int = 4) -> float | None:
    return round(float(value), digits) if np.isfinite(value) else None


def _predicted(figures: Figures) -> PlannedFigures:
    return PlannedFigures(
        round(figures.rate, 2),
        _finite(figures.p50_ms),
        _finite(figures.p99_ms),
        _finite(figures.at_ms),
        round(float(figures.goodput), 2),
        _finite(figures.utilisation),
        figures.within,
    )


def _models(wanted: PlanRequest, question: _Question, figures: Figures) -> list[PlannedModel]:
    parts = figures.parts or (figures,)
    return [
        PlannedModel(
            name=model.profile.model.name,
            profile=str(model.path),
            rate=round(part.rate, 2),
            percentile=limit.percentile,
            limit_ms=limit.limit_ms,
            lone_ms=round(alone, 4),
            threads=model.service.threads,
            max_batch_size=model.profile.settings.batching.max_batch_size,
            measured_in=str(model.source),
            exact=model.service.exact,
            predicted=_predicted(part),
        )
        for model, limit, alone, part in zip(wanted.models, wanted.limits, question.lone_ms, parts, strict=True)
    ]


def _price(price: float | None, replicas: int, figures: Figures) -> Price | None:
    if price is None:
        return None
    hour = price * replicas
    million = _significant(hour / (figures.goodput * 3600) * 1e6) if figures.goodput else None
    return Price(price, _significant(hour), _significant(hour * _MONTH_H), million)


def _significant(value: float) -> float:
    return float(f"{value:.{_PRICE_DIGITS}g}")


def _autoscaled(course: Course, rules: Rules, fixed_hours: float, saturated: float, faster: float) -> Autoscaled:
    """The course in the recording's own time; the simulation ran faster by the factor `faster`."""
    return Autoscaled(
        metric=rules.metric,
        target=round(rules.target, 3),
        saturated=round(saturated, 3),
        every_s=rules.every_s,
        start_s=rules.start_s,
        down_s=rules.down_s,
        least=rules.least,
        most=rules.most,
        requests=round(course.requests * faster),
        missed=round(course.missed * faster),
        missed_share=round(course.missed / max(1, course.requests), 6),
        at_ms=_finite(course.at_ms),
        replica_hours=round(course.replica_hours * faster, 3),
        fixed_replica_hours=round(fixed_hours * faster, 3),
        highest=course.most,
        changes=course.changes,
        course=[
            ScalingMoment(
                round(moment.at_s * faster, 3),
                round(moment.rate, 2),
                round(moment.replicas, 2),
                None if moment.at_ms is None else _finite(moment.at_ms),
                round(moment.missed, 2),
            )
            for moment in course.moments
        ],
    )


def _assumptions(wanted: PlanRequest, replicas: int, figures: Figures, traffic: _Traffic) -> Assumptions:
    return Assumptions(
        headroom=wanted.headroom,
        failures=wanted.failures,
        routing="round-robin" if wanted.together else wanted.routing,
        hedge_ms=wanted.hedge_ms or None,
        hedged_share=round(figures.hedged, 5),
        arrivals="trace" if wanted.recording is not None else wanted.arrivals_name,
        workers=wanted.workers,
        cores_per_replica=wanted.replica_cores,
        capacity=wanted.capacity,
        capacity_workers=wanted.measured_workers if wanted.capacity is not None else None,
        simulated=replicas > 1,
        largest_simulation=MOST_SIMULATED,
        seed=wanted.seed,
        notes=[*plan_notes(wanted, replicas, traffic.compression, figures.parts or (figures,)), *traffic.notes],
    )

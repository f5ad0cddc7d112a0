"""Two or more profiles of one model measured against each other: answers first, then interleaved blocks.

All profiles get the same arrivals, one after the other. Ratios are to the first profile, each with an interval, and
only an interval that clears the noise threshold is called better or worse.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from tailcut.engines.base import EngineOptions
from tailcut.errors import UsageError
from tailcut.lab.records import IntervalRecord, MachineFacts
from tailcut.lab.trial import Arm, ArmRuns, ServeError, closed_block, open_block
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.stats import Verdict, samples_needed
from tailcut.tuner.accuracy import Accuracy
from tailcut.tuner.baseline import Baseline, measure_baseline
from tailcut.tuner.budget import TimePlan
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.json_wire import not_json
from tailcut.tuner.learning import learn
from tailcut.tuner.noise import Noise
from tailcut.tuner.race import QUANTILES, Ratios, is_finite, judged, known_within, met, ratios
from tailcut.tuner.racing import LEAST_BLOCK_S
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.result import arm_record
from tailcut.tuner.result_records import ComparedProfile, ComparisonResult, ModelRequest
from tailcut.tuner.servers import TrialServers

_ROUNDS = 20  # as planned
_FEWEST_ROUNDS, _MOST_ROUNDS = 6, 60
_OPEN_SHARE = 0.7  # of the time of a round
_SPARE = 1.15  # more samples than a p99 needs
_LEAST_S = 3.0  # spent on a p99, whatever is left of the budget
_MOST_IN_FLIGHT = 64  # most requests in flight during the check of the answers


@dataclass(slots=True)
class ComparisonSide:
    """One profile in a comparison."""

    name: str
    profile: Profile
    servers: TrialServers  # of this profile alone: profiles of equal settings may run different copies of the model
    accuracy: Accuracy | None = None
    runs: ArmRuns = field(default_factory=ArmRuns)
    ratios: Ratios = field(default_factory=Ratios)  # to the first
    verdict: Verdict = Verdict.INDISTINCT
    reason: str = ""

    @property
    def settings(self) -> Settings:
        """The profile's settings."""
        return self.profile.settings

    @property
    def arm(self) -> Arm:
        """Its running server, and the requests to send to it.

        Raises:
            ServeError: the server does not start.
        """
        return self.servers.arm(self.settings)

    @property
    def wrong(self) -> bool:
        """Whether its answers are wrong."""
        return self.accuracy is not None and not self.accuracy.right


@dataclass(slots=True)
class ProfileComparison:
    """The outcome of a comparison; the first side is the reference."""

    sides: list[ComparisonSide]
    baseline: Baseline
    noise: Noise = field(default_factory=Noise)
    took_s: float = 0.0

    @property
    def is_worse(self) -> bool:
        """Whether a later profile is proven worse than the first, or any answers wrongly."""
        return any(side.wrong for side in self.sides) or any(side.verdict is Verdict.WORSE for side in self.sides[1:])


def compare(wanted: TuneRequest, profiles: Mapping[str, Profile], tell: Callable[[Event], None]) -> ProfileComparison:
    """Check and measure profiles of one model.

    Args:
        wanted: model, data, rate, limit and budget.
        profiles: by name, at least two.
        tell: called with each event.

    Raises:
        TailcutError: a profile cannot be served, its server exits under load, or the first one answers no request.
    """
    plan = TimePlan(time.monotonic() if wanted.began is None else wanted.began, wanted.budget_s)
    engines = [profile.settings.engine for profile in profiles.values()]
    pixels = next((engine.u8_input for engine in engines if engine.u8_input is not None), None)
    own_rows = [wanted.rows, *(profile.settings.batching.rows for profile in profiles.values())]
    rows = next((setting for setting in own_rows if setting != "auto"), wanted.rows)
    wanted = replace(wanted, rows=rows, fixed=_fixed(engines, wanted), declared=engines[0].signature, normalize=pixels)
    learned = learn(wanted, plan.answers_s, tell)
    sides = [
        ComparisonSide(name, profile, TrialServers(wanted.model, learned.spec, learned.requests, base=profile))
        for name, profile in profiles.items()
    ]
    beyond_json = not_json(sides[0].servers.requests)
    json = next((side.name for side in sides if side.settings.io.wire == "json"), None)
    if beyond_json and json is not None:
        raise UsageError(f"{json} is for clients that send JSON: {beyond_json}: leave such requests out")
    try:
        for side in sides:
            side.servers.launch(side.settings)
        first = sides[0].arm
        tell(Phase(f"measuring the capacity of {sides[0].name}"))
        baseline = measure_baseline(first, plan.capacity_s, rate=wanted.rate, limit_ms=wanted.slo_ms)
        if baseline.is_overloaded:
            tell(Phase(f"{sides[0].name} cannot sustain {baseline.rate:,.6g} req/s"))
        comparison = ProfileComparison(sides, baseline)
        tell(Phase(f"checking the answers of {len(sides)} profiles"))
        for side in sides:
            target = side.arm.target
            in_flight = max(4, min(_MOST_IN_FLIGHT, int(2 * plan.check_s * baseline.capacity)))
            side.accuracy = learned.gate.check(target, side.settings, plan.last_check_s, in_flight)
        _measure(comparison, plan, tell)
        for side in sides:
            if side.servers.has_ended(side.settings):
                raise ServeError(f"{side.name}: its server exited under load")
    finally:
        for side in sides:
            side.servers.keep()
    for side in sides[1:]:
        side.ratios = ratios(side.runs, sides[0].runs, wanted.seed)
        late = side.runs.client_behind or sides[0].runs.client_behind
        side.ratios = replace(side.ratios, percentiles={}) if late else side.ratios
        side.verdict, side.reason = judged(side.ratios)
        side.reason += "; the load client itself was late in most blocks" if late else ""
    comparison.took_s = plan.spent_s(time.monotonic())
    return comparison


def _fixed(engines: Sequence[EngineOptions], wanted: TuneRequest) -> tuple[str, ...]:
    """The fixed dimensions of the requests: with data the first profile's, else all profiles', the first one first."""
    several = engines[:1] if wanted.data is not None else engines
    return tuple({dim.rpartition("=")[0]: dim for engine in reversed(several) for dim in engine.fixed_dims}.values())


def _measure(comparison: ProfileComparison, plan: TimePlan, tell: Callable[[Event], None]) -> None:
    """Run open and closed blocks alternately, until the time is over and each p99 is known."""
    arms, runs = [side.arm for side in comparison.sides], [side.runs for side in comparison.sides]
    baseline = comparison.baseline
    left_s = max(0.0, plan.end - time.monotonic())
    sample_s = _SPARE * len(arms) / baseline.rate  # for one sample of each profile
    tail = known_within(max(left_s, _LEAST_S), sample_s)
    enough = samples_needed(QUANTILES[tail])
    needed_s = _SPARE * enough / baseline.rate
    open_s = max(LEAST_BLOCK_S, max(_OPEN_SHARE * left_s / len(arms), needed_s) / _ROUNDS)
    closed_s = max(LEAST_BLOCK_S, (1 - _OPEN_SHARE) * left_s / len(arms) / _ROUNDS)
    tell(Phase(f"measuring {len(arms)} profiles, interleaved, at {baseline.rate:,.6g} req/s"))
    if tail != "p99":
        p99_s = sample_s * samples_needed(0.99)
        words = f"the p99 of a model this slow takes {p99_s:,.0f} s: within {plan.budget_s:g} s its {tail} is compared"
        tell(Phase(f"{words} (a longer --budget for the p99, or a higher --rate)"))
    for number in range(_MOST_ROUNDS):
        began = time.monotonic()
        comparison.noise.probe()
        open_block(arms, runs, rate=baseline.rate, duration_s=open_s, seed=7000 + number)
        closed_block(arms, runs, concurrency=baseline.clients, duration_s=closed_s)
        now = time.monotonic()
        known = min(len(run.latencies) for run in runs) >= enough
        if 2 * now - began > plan.end and (known or number + 1 >= _ROUNDS) and number + 1 >= _FEWEST_ROUNDS:
            break
    for run in runs:
        comparison.noise.add_runs(run)


def comparison_record(
    comparison: ProfileComparison, *, model: str, machine: MachineFacts, objective: ModelRequest, command: str
) -> ComparisonResult:
    """What `tailcut tune --compare --json` prints."""
    return ComparisonResult(
        model=model,
        machine=machine,
        objective=objective,
        command=command,
        rate=comparison.baseline.rate,
        clients=comparison.baseline.clients,
        took_s=round(comparison.took_s, 1),
        noise=comparison.noise.record(),
        worse=comparison.is_worse,
        profiles=[_side_record(side, comparison, objective.slo_ms) for side in comparison.sides],
    )


def _side_record(side: ComparisonSide, comparison: ProfileComparison, slo_ms: float | None) -> ComparedProfile:
    is_first = side is comparison.sides[0]
    arm, speed = arm_record(side.runs, comparison.baseline.rate), side.ratios.throughput
    return ComparedProfile(
        **msgspec.structs.asdict(arm),
        profile=side.name,
        setting=side.settings.describe(),
        settings=side.settings,
        right=None if side.accuracy is None else side.accuracy.right,
        wrong=side.accuracy.reason if side.accuracy is not None and side.wrong else None,
        unchanged=not is_first and side.settings == comparison.sides[0].settings,
        ratios={
            name: IntervalRecord.rounded(ratio) for name, ratio in side.ratios.percentiles.items() if is_finite(ratio)
        },
        throughput_ratio=None if speed is None else IntervalRecord.rounded(speed),
        verdict=None if is_first else side.verdict,
        reason="" if is_first else side.reason,
        slo_met=msgspec.UNSET if slo_ms is None else met(side.runs, slo_ms),
    )

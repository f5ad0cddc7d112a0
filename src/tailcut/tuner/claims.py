"""What a tune claims, and how long proving it takes. A thin shell around `verification`."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from tailcut.errors import TailcutError, UsageError
from tailcut.lab.cost import watched
from tailcut.lab.trial import Arm, ArmRuns, ServeError, closed_run
from tailcut.machine.process import peak_bytes
from tailcut.runtime.settings import Settings
from tailcut.tuner.baseline import Baseline, measure_baseline
from tailcut.tuner.budget import SearchSize, complete_s
from tailcut.tuner.events import Phase
from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.labels import by_labels
from tailcut.tuner.records import TuneOutcome
from tailcut.tuner.session import TuneSession
from tailcut.tuner.traffic import traffic_s
from tailcut.tuner.verification import good_s, medians_s, percentile_within, remaining_s, verification_s, verify
from tailcut.tuner.worse import ARMS, instead

_ROUNDED_S = 5
_LOW = 3.0  # times the rate: with more capacity than that, the rate is low rather than the model slow
_BEYOND = 2.0  # times the best expected capacity: the expectation is off by less than that
_LOADED_S = 0.5  # with as many clients as in the race


def arms_verified(session: TuneSession) -> dict[str, Settings]:
    """What the verification measures, by name: the baselines, the tuned settings, and a re-checked profile's."""
    arms = session.compared | {"tuned": session.outcome.settings}
    previous, outcome = session.wanted.previous_settings, session.outcome
    if previous is not None and not (outcome.previous_wrong or outcome.previous_unserved):
        arms["previous"] = previous
    return arms


def announce(session: TuneSession, baseline: Baseline, size: SearchSize) -> None:
    """Report how long a complete search takes, and reserve the time that the verification needs for its p99.

    Args:
        session: of the tune.
        baseline: its capacity, and the rate and limit of the verification.
        size: how much is worth measuring in process.
    """
    plan, arms = session.plan, len(arms_verified(session))
    needed_s = verification_s(baseline.rate, arms)
    if max(needed_s, good_s(arms)) > plan.most_verify_s and session.compared.pop("reference", None) is not None:
        arms -= 1  # a slow model, or a short budget: the effect of the wire alone is not worth a third of the time
        needed_s = verification_s(baseline.rate, arms)
    both_s = needed_s + traffic_s(baseline, baseline.capacity)
    labels_s = 0.0 if session.wanted.labels is None else plan.labels_s
    before_s = session.servers.executing_s(arms) + labels_s
    plan.needs_verification_s(min(both_s, plan.most_verify_s), before_s, good_s(arms))
    rest_s = complete_s(size, len(session.outcome.rungs), session.servers.start_s, baseline.capacity)
    whole_s = plan.spent_s(time.monotonic()) + rest_s + max(both_s, good_s(arms))
    session.tell(complete_search(whole_s, plan.budget_s))
    if needed_s > plan.most_verify_s:
        claims = percentile_within(plan.most_verify_s, baseline.rate, arms)
        budget_s = 10 * math.ceil(needed_s / plan.most_verify_s * plan.budget_s / 10)
        session.tell(p99_takes_long(baseline, needed_s, plan.budget_s, claims, budget_s))


def p99_takes_long(baseline: Baseline, needed_s: float, budget_s: float, claims: str, enough_s: int) -> Phase:
    """Why the p99 is not verified: the model is slow, or the rate is far below its capacity.

    Args:
        baseline: its capacity, and the rate of the verification.
        needed_s: seconds for the p99 of each arm.
        budget_s: of the tune.
        claims: the percentile that is verified instead.
        enough_s: the budget that the p99 needs.
    """
    is_low = _LOW * baseline.rate < baseline.capacity
    of, rate = (f"at {baseline.rate:,.6g} req/s", ", or a higher --rate") if is_low else ("of a model this slow", "")
    return Phase(
        f"the p99 {of} takes {needed_s:,.0f} s to verify: within {budget_s:g} s the tune verifies its {claims} "
        f"(--budget {enough_s}s for the p99{rate})"
    )


def complete_search(whole_s: float, budget_s: float) -> Phase:
    """How long a search that leaves nothing out takes, compared with the budget."""
    less = "" if whole_s <= budget_s else " tries less of it"
    rounded_s = _ROUNDED_S * math.ceil(whole_s / _ROUNDED_S)
    return Phase(f"a complete search takes about {rounded_s:,} s; --budget {budget_s:g}s{less}")


def carry(session: TuneSession) -> Baseline:
    """Measure the baseline's capacity, and the p99 limit for all configurations.

    Raises:
        TailcutError: the baseline cannot be served, or answers no request.
    """
    session.tell(Phase("measuring the baseline's capacity"))
    wanted, plan, outcome = session.wanted, session.plan, session.outcome
    arm = session.servers.arm(session.base)
    baseline = measure_baseline(arm, plan.capacity_s, rate=wanted.rate, limit_ms=wanted.slo_ms)
    outcome.capacity, outcome.rate, outcome.clients = baseline.capacity, baseline.rate, baseline.clients
    outcome.own_limit = baseline.own_limit
    outcome.objective = replace(outcome.objective, limit_ms=baseline.limit_ms, rate=baseline.rate)
    session.racing.objective = outcome.objective
    capacity = f"{baseline.capacity:,.3g}" if baseline.capacity < 100 else f"{baseline.capacity:,.0f}"
    own_rate = f"{baseline.rate:,.6g} req/s" if baseline.own_limit else "half of that"
    own = "" if wanted.slo_ms else f", its own at {own_rate}"
    session.tell(Phase(f"the baseline sustains {capacity} req/s; the p99 limit is {baseline.limit_ms:.3g} ms{own}"))
    if baseline.is_overloaded:
        session.tell(Phase(f"the baseline cannot sustain {baseline.rate:,.6g} req/s"))
    return baseline


def within_reach(session: TuneSession, predicted: Sequence[PredictedConfiguration]) -> None:
    """Refuse a rate that no configuration comes near: each block would last until its queue has drained.

    Raises:
        UsageError: the rate is more than twice the best expected capacity.
    """
    rate, outcome = session.wanted.rate, session.outcome
    best = best_capacity(outcome.capacity, predicted)
    if rate is not None and is_beyond(rate, best):
        raise UsageError(
            f"--rate {rate:.15g}: no configuration is expected to sustain more than {best:,.3g} req/s on this machine: "
            "give a lower rate, or leave --rate out"
        )


def best_capacity(measured: float, predicted: Sequence[PredictedConfiguration]) -> float:
    """The highest capacity: the baseline's, as measured, or that of another configuration, as expected."""
    return max([measured, *(prediction.capacity for prediction in predicted)])


def is_beyond(rate: float, best: float) -> bool:
    """Whether no configuration comes near a rate, where `best` is the highest expected capacity."""
    return rate > _BEYOND * best


def prove(session: TuneSession) -> None:
    """Verify the tuned settings and what they are compared with, on fresh samples.

    If the tuned server exits meanwhile, the next best settings of the race take its place.

    Raises:
        TailcutError: the baseline's server cannot be started, or exits.
    """
    settings, outcome, servers = arms_verified(session), session.outcome, session.servers
    *names, last = settings
    session.tell(Phase(f"verifying {', '.join(names)} and {last}, interleaved, on fresh samples"))
    servers.keep(*settings.values())
    if not _spare_s(session, len(settings), servers.executing_s(len(settings))) and _is_only_checked(session, settings):
        return
    servers.execute()
    servers.launch(*settings.values())
    arms = _served(session, settings)
    while not _verified(session, settings | {"tuned": outcome.settings}, arms):
        words = f"{session.describe(outcome.settings)}: its server exited under load"
        if outcome.settings in session.refused:
            raise ServeError(words)
        session.tell(Phase(f"tuned: {words}"))
        session.refused.add(outcome.settings)
        arms["tuned"] = _next_best(session)
    settings |= {"tuned": outcome.settings}
    _take_back(session, settings)
    if outcome.not_kept and session.wanted.constraints.cpus is not None:
        outcome.cpus_used = _cpus_used(arms[outcome.not_kept.kept], session.racing.load.clients[-1])
    for name, run in outcome.arms.items():
        outcome.noise.add_runs(run)
        pid = arms[name].pid
        peak = None if pid is None else peak_bytes(pid)
        if peak is not None:
            outcome.memory_peaks[name] = peak


def _take_back(session: TuneSession, settings: dict[str, Settings]) -> None:
    """Replace settings that are proven worse by those of the re-checked profile, or else by the baseline's."""
    outcome = session.outcome
    if not outcome.arms or (outcome.unchanged and outcome.previous is None):
        return
    not_kept = instead(outcome, session.wanted.seed)
    if not_kept is None or (outcome.unchanged and not_kept.kept == "previous"):
        return
    outcome.not_kept = not_kept
    held = ARMS[not_kept.kept]
    session.tell(Phase(f"{not_kept.setting} is not kept: {not_kept.reason}; the profile holds {held} settings"))
    outcome.replace_settings(settings[not_kept.kept], "measured with settings that are not kept")


def _verified(session: TuneSession, settings: dict[str, Settings], arms: dict[str, Arm]) -> bool:
    """Check the answers and measure all arms; whether the tuned server is still running afterwards."""
    outcome, tuned = session.outcome, settings["tuned"]
    outcome.accuracy, outcome.arms = None, {}

    def note(kind: str, name: str, rate: float, latencies_ms: np.ndarray) -> None:
        session.journal.add_block(kind, settings[name], rate, latencies_ms, arm=name)

    try:
        seconds = min(session.plan.last_check_s, _spare_s(session, len(arms)))  # of 0: not again
        outcome.accuracy = session.check(tuned, seconds, whole=True)
        if not outcome.wrong:
            if session.wanted.labels is not None:
                arms_asked = {name: settings[name] for name in ("baseline", "tuned")}
                outcome.labels = by_labels(session, arms_asked, session.wanted.labels)
            if _spare_s(session, len(arms)):
                verify(outcome, arms, session.racing.load, session.plan, seed=session.wanted.seed, note=note)
            else:
                outcome.arms = _unmeasured(session, list(arms))
            if session.wanted.constraints.cpus is not None:
                outcome.cpus_used = _cpus_used(arms["tuned"], session.racing.load.clients[-1])
    except TailcutError:
        if not session.servers.has_ended(tuned):
            raise
    return not session.servers.has_ended(tuned)


def _spare_s(session: TuneSession, arms: int, before_s: float = 0.0) -> float:
    """Seconds beyond those for a median of this many arms; 0: they would be measured for nothing."""
    left_s = remaining_s(session.plan, time.monotonic()) - before_s
    return max(0.0, left_s - medians_s(session.outcome.capacity, arms))


def _is_only_checked(session: TuneSession, names: Iterable[str]) -> bool:
    """Check the answers of the server that raced, instead of new ones of all arms; whether that was enough."""
    wanted, outcome = session.wanted, session.outcome
    if wanted.labels is not None or wanted.constraints.cpus is not None:
        return False
    try:
        outcome.accuracy = session.check(outcome.settings, 0.0, whole=True)
    except TailcutError:
        return False
    if not outcome.wrong:
        outcome.arms = _unmeasured(session, list(names))
    return True


def _unmeasured(session: TuneSession, names: Sequence[str]) -> dict[str, ArmRuns]:
    """Report that there was no time for a verification; returns its empty result."""
    needed_s, left_s = medians_s(session.outcome.capacity, len(names)), remaining_s(session.plan, time.monotonic())
    words = f"{len(names)} servers need {needed_s:,.0f} s or more for a median, and about {left_s:,.0f} s are left"
    session.tell(Phase(f"not verified: {words}: raise --budget"))
    return {name: ArmRuns() for name in names}


def _cpus_used(arm: Arm, clients: int) -> float | None:
    """How many CPUs a server keeps busy at its highest load; None where that is unknown."""
    began = time.monotonic()
    load = partial(closed_run, arm, concurrency=clients, duration_s=_LOADED_S)
    _, cost = watched(arm.pid, load)
    return None if cost is None else cost.cpu_ns / 1e9 / (time.monotonic() - began)


def _served(session: TuneSession, settings: dict[str, Settings]) -> dict[str, Arm]:
    """The running servers of all arms; if the tuned server cannot be started, that of the next best of the race.

    Raises:
        TailcutError: the baseline's server cannot be started.
    """
    arms: dict[str, Arm] = {}
    for name, own_settings in settings.items():
        try:
            arms[name] = session.servers.arm(own_settings)
        except TailcutError as error:
            if name == "baseline":
                raise
            session.tell(Phase(f"{name}: {session.describe(own_settings)} could not be served: {error}"))
            if name == "tuned":
                session.refused.add(own_settings)
                arms[name] = _next_best(session)
            elif name == "previous":
                session.outcome.previous_unserved = str(error)
    return arms


def _next_best(session: TuneSession) -> Arm:
    """A server of the best settings of the race that still start, or else of the baseline's."""
    outcome = session.outcome
    ranked = sorted(outcome.raced, key=lambda item: outcome.raced[item], reverse=True)
    for settings in [entrant for entrant in ranked if entrant not in session.refused]:
        try:
            arm = session.servers.arm(settings)
        except TailcutError:
            continue
        _take_over(outcome, settings, settings)
        return arm
    _take_over(outcome, session.with_wire(session.plain_wire), None)
    return session.servers.arm(outcome.settings)


def _take_over(outcome: TuneOutcome, settings: Settings, raced: Settings | None) -> None:
    """Verify other settings in place of the winner: the best of the race that are left, or the baseline's."""
    outcome.replace_settings(settings, "measured with settings whose server exited, or did not start again")
    outcome.race_winner = raced

"""The effect of each rung on the way from the baseline to the winner: cumulative settings, measured interleaved.

A rung that makes things worse is removed from the winner.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import numpy as np

from tailcut.errors import TailcutError
from tailcut.lab.records import IntervalRecord
from tailcut.lab.trial import Arm, ArmRuns, closed_block, open_block
from tailcut.runtime.settings import Settings
from tailcut.tuner.budget import TimePlan
from tailcut.tuner.events import CandidateDone, Phase, RungDone, RungStarted
from tailcut.tuner.race import is_finite, judged, percentiles_ms, ratios
from tailcut.tuner.result_records import Candidate, CandidateVerdict
from tailcut.tuner.servers import TrialServers
from tailcut.tuner.session import TuneSession

_BLOCK_SAMPLES = 120  # of an open block: enough for a p99 of its own
_LEAST_BLOCK_S = 0.12
_FEWEST, _MOST = 3, 24  # rounds
_ALONE = "not measured on its own"
UNCHANGED = "unchanged: the winner has the baseline's settings of this rung"


class Rungs(Protocol):
    """The configurations to choose from, as far as rungs need them."""

    def steps(self, winner: Settings) -> Sequence[Settings]:
        """The baseline with the winner's settings, one more rung of them in each step."""

    def without(self, winner: Settings, rung: str) -> Settings:
        """The winner with the baseline's settings of one rung."""


def explain(session: TuneSession, space: Rungs, is_better: Callable[[Settings, Settings], bool]) -> None:
    """Measure the effect of each rung on the way to the winner, and remove rungs that make things worse.

    Args:
        session: its outcome has the winner.
        space: has the settings of each rung.
        is_better: whether settings beat others on the real server.
    """
    session.tell(Phase("measuring the effect of each rung on the way to the winner"))
    base, outcome, servers = session.base, session.outcome, session.servers
    steps = [base, *space.steps(outcome.settings)]
    words = _unmeasurable(servers, steps, session.plan)
    if words:
        for record in outcome.rungs:
            record.note = words
            session.tell(RungDone(record.name, None, words))
        return
    runs = waterfall(session, steps, session.racing.load.block_s)
    servers.keep(base, outcome.settings)
    for record, before, after in zip(outcome.rungs, steps, steps[1:], strict=False):
        session.tell(RungStarted(record.name, 1))
        if before == after:
            record.note = UNCHANGED
        elif before not in runs or after not in runs:
            record.note = f"{_ALONE}: one of its two servers did not start, or exited under load"
        else:
            entry = effect(before, after, runs)
            session.journal.add("rung", after, rung=record.name, verdict=entry.verdict.value, reason=entry.reason)
            without = space.without(outcome.settings, record.name)
            if entry.verdict is CandidateVerdict.WORSE and is_better(without, outcome.settings):
                outcome.settings = without
                entry = msgspec.structs.replace(entry, reason=f"{entry.reason}; taken out of the winner")
            else:
                record.kept.append(entry.setting)
                if entry.verdict is CandidateVerdict.WORSE:
                    entry = msgspec.structs.replace(entry, reason=f"{entry.reason}; the winner is no better without it")
            record.candidates.insert(0, entry)
            session.tell(CandidateDone(record.name, entry))
        session.tell(RungDone(record.name, " + ".join(record.kept) or None, record.note))


def _unmeasurable(servers: TrialServers, steps: Sequence[Settings], plan: TimePlan) -> str:
    """Why the servers of the steps cannot be started, as a message; empty if they can."""
    new = servers.count_new(steps)
    starting_s = servers.start_s * new
    if time.monotonic() + starting_s > plan.rungs_until:
        if starting_s < 1:
            return f"{_ALONE}: there was no time left"
        return f"{_ALONE}: starting the servers takes {starting_s:.0f} s, more than is left of the budget"
    room = servers.room(new)
    return "" if room >= new else f"{_ALONE}: it needs {new} more servers, and there is memory for {room}"


def waterfall(session: TuneSession, steps: Sequence[Settings], closed_s: float) -> dict[Settings, ArmRuns]:
    """Run open blocks at one rate and closed blocks of all steps, interleaved, as many as the plan has time for.

    A step whose server does not start, or exits, is left out.
    """
    servers, outcome, plan = session.servers, session.outcome, session.plan
    unique = list(dict.fromkeys(steps))
    servers.launch(*unique)
    started: dict[Settings, Arm] = {}
    for settings in unique:
        with contextlib.suppress(TailcutError):  # its rung is not measured
            started[settings] = servers.arm(settings)
    arms = list(started.values())
    runs = {settings: ArmRuns() for settings in started}
    until = plan.explain_until if time.monotonic() < plan.explain_until - plan.explain_s / 2 else plan.rungs_until
    share_s = max(0.0, until - time.monotonic()) / (2 * len(unique) * _FEWEST)
    open_s = max(_LEAST_BLOCK_S, min(_BLOCK_SAMPLES / outcome.rate, share_s))
    closed_s = max(_LEAST_BLOCK_S, min(closed_s, share_s))
    for number in range(_MOST):
        began = time.monotonic()
        outcome.noise.probe()
        open_block(arms, list(runs.values()), rate=outcome.rate, duration_s=open_s, seed=9000 + number)
        closed_block(arms, list(runs.values()), concurrency=outcome.clients, duration_s=closed_s)
        for settings, run in runs.items():
            session.journal.add_block("step", settings, outcome.rate, run.blocks[-1], throughput=run.throughputs[-1])
        now = time.monotonic()
        # An interval needs three rounds; a model so slow that they take twice the time has none.
        fewest = _FEWEST if now < until + plan.explain_s else 1
        if number + 1 >= fewest and 2 * now - began > until:
            break
    runs = {settings: run for settings, run in runs.items() if not servers.has_ended(settings)}
    for run in runs.values():
        outcome.noise.add_runs(run)
    return runs


def effect(before: Settings, after: Settings, runs: dict[Settings, ArmRuns]) -> Candidate:
    """The record of one step: its percentiles, ratios to the step before with their intervals, and a verdict."""
    new = runs[after]
    compared = ratios(new, runs[before])
    of, tail = compared.tail or (None, None)
    tail_ratio = None if tail is None or not is_finite(tail) else IntervalRecord.rounded(tail)
    word, reason = judged(compared)
    return Candidate(
        setting=after.describe(before),
        **percentiles_ms(new),
        throughput=round(float(np.mean(new.throughputs)), 2) if new.throughputs else None,
        p99_ratio=tail_ratio if of == "p99" else None,
        throughput_ratio=None if compared.throughput is None else IntervalRecord.rounded(compared.throughput),
        tail_ratio=tail_ratio,
        ratio_of=of,
        samples=len(new.answered),
        cost=new.spent.per_request(),
        verdict=CandidateVerdict(word),
        reason=reason,
    )

"""A joint tune's outcome as the record that the command prints, and as each profile's section and evidence."""

from typing import Any

import msgspec
import numpy as np
from msgspec.structs import asdict

from tailcut.lab.records import IntervalRecord, MachineFacts
from tailcut.runtime.profile import Neighbour, Together
from tailcut.tuner.race import met, p99_ratio
from tailcut.tuner.result import arm_record, known, no_ratio_because, tail_ratio
from tailcut.tuner.together import result_records as made
from tailcut.tuner.together.records import ARMS, JointOutcome, JointSide
from tailcut.tuner.together.words import describe

_SHOWN_ONLY = {"curve", "cost", "throughput"}  # of an arm: not kept in the profile
_MOST_SIMULATED = 40  # combinations in the result


def joint_result(
    outcome: JointOutcome, *, machine: MachineFacts, objective: made.JointRequest, command: str
) -> made.JointResult:
    """The record that `tailcut tune A B --json` prints; unknown values are None."""
    names = [side.name for side in outcome.sides]
    return made.JointResult(
        models=[_model(side, objective.seed) for side in outcome.sides],
        machine=machine,
        objective=made.JointObjective(
            **asdict(objective), percentile="p99", took_s=round(outcome.took_s, 1), interrupted=outcome.interrupted
        ),
        command=command,
        simulated=len(outcome.simulated),
        combinations=_combinations(outcome, names),
        rejected=[made.RejectedCombination(describe(names, settings), reason) for settings, reason in outcome.rejected],
        verified=all(side.runs for side in outcome.sides),
        cpu_cores={name: round(share, 3) for name, share in outcome.cpu_share.items()} or None,
        noise=outcome.noise.record(),
        report=None,
        not_kept=outcome.not_kept,
    )


def together_of(outcome: JointOutcome, number: int) -> Together:
    """The section `together` of one model's profile: the models that it was measured with."""
    own = outcome.sides[number]
    others = [
        Neighbour(
            name=side.name,
            sha256=side.profile.model.sha256,
            rate=round(side.arrivals.rate, 6),
            limit_ms=round(side.limit_ms, 6),
        )
        for index, side in enumerate(outcome.sides)
        if index != number
    ]
    return Together(rate=round(own.arrivals.rate, 6), limit_ms=round(own.limit_ms, 6), neighbours=tuple(others))


def joint_evidence(result: made.JointResult, number: int) -> dict[str, Any]:
    """The part of a result that one model's profile keeps: its own figures, but no samples."""
    own = result.models[number]
    checked = own.verification
    kept: dict[str, Any] = {
        "command": result.command,
        "seed": result.objective.seed,
        "verified": checked is not None and bool(checked.tuned.samples),
        "rate_offered": own.rate,
        "rows": msgspec.to_builtins(own.rows),
    }
    if checked is not None:
        arms = checked.arms | ({"tuned": checked.baseline} if own.not_kept else {})
        kept |= {name: known(arm, _SHOWN_ONLY) for name, arm in arms.items()}
    if checked is not None and not own.not_kept:
        if checked.p99_ratio is not None:
            kept["p99_ratio"] = msgspec.to_builtins(checked.p99_ratio)
        elif checked.tail_ratio is not None:
            kept["tail_ratio"] = msgspec.to_builtins(checked.tail_ratio)
    return kept


def _combinations(outcome: JointOutcome, names: list[str]) -> list[made.Combination]:
    """The best of those that were simulated, and all that raced."""
    shown = [
        made.Combination(
            setting=describe(names, simulated.settings),
            p99_ms=[_finite(value) for value in simulated.p99_ms],
            score=round(simulated.score, 4),
            raced=_rounded(outcome.raced.get(simulated.settings)),
            alone=simulated.settings == outcome.alone,
        )
        for number, simulated in enumerate(outcome.simulated)
        if number < _MOST_SIMULATED or simulated.settings in outcome.raced
    ]
    others = outcome.raced.keys() - {simulated.settings for simulated in outcome.simulated}
    return shown + [
        made.Combination(describe(names, settings), [None] * len(names), None, _rounded(outcome.raced[settings]), False)
        for settings in others
    ]


def _model(side: JointSide, seed: int) -> made.JointModel:
    profile = side.profile
    return made.JointModel(
        name=side.name,
        path=profile.model.path,
        sha256=profile.model.sha256,
        inputs=list(side.inputs),
        outputs=list(side.outputs),
        arrivals=side.arrivals.name,
        rate=round(side.arrivals.rate, 6),
        slo_ms=side.slo_ms,
        limit_ms=side.limit_ms if np.isfinite(side.limit_ms) else None,
        rows=side.rows,
        setting=profile.settings.describe(),
        settings=profile.settings,
        unchanged=side.unchanged,
        right=None if side.accuracy is None else side.accuracy.right,
        wrong=side.wrong or None,
        verification=_verification(side, seed),
        profile=None,
        not_kept=side.not_kept or None,
    )


def _verification(side: JointSide, seed: int) -> made.JointVerification | None:
    if not side.runs:
        return None
    runs = [side.runs[arm] for arm in ARMS]
    before, after = runs
    baseline, tuned = (
        made.JointArm(**asdict(arm_record(run, side.arrivals.rate)), within=met(run, side.limit_ms)) for run in runs
    )
    ratio = p99_ratio(after, before, seed)
    return made.JointVerification(
        baseline,
        tuned,
        None if ratio is None else IntervalRecord.rounded(ratio),
        tail_ratio(after, before, seed),
        no_ratio_because(after, before, seed),
    )


def _finite(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)

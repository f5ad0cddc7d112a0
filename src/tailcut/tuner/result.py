"""A tune's outcome as the record that the command prints and the report draws, and as the profile's evidence."""

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET
from msgspec.structs import asdict, replace

from tailcut.lab.records import IntervalRecord, MachineFacts, bounds_of
from tailcut.lab.trial import FAILED_MS, ArmRuns
from tailcut.runtime.settings import Settings
from tailcut.stats import Sample, paired_ratio_interval, percentile
from tailcut.tuner import result_records as made
from tailcut.tuner.accuracy import Accuracy
from tailcut.tuner.finalists import pareto
from tailcut.tuner.race import (
    is_finite,
    met,
    p99_interval,
    p99_ratio,
    percentiles_ms,
    tail_of,
    throughput_ratio,
)
from tailcut.tuner.records import Offer, TuneOutcome, precision_of

_CURVE = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999, 0.9995, 0.9999)
_TOO_MUCH = "the baseline cannot sustain this rate"
_ROUNDING = 1.05  # of the CPUs allowed: measurement error
_SHOWN_ONLY = {"curve", "cost"}  # of an arm: not kept in the profile
_NO_FIGURES = {"worst_rows", "reason"}  # of the accuracy: not kept in the profile
_RATIOS = (
    "p99_ratio",
    "tail_ratio",
    "throughput_ratio",
    "cpu_ratio",
    "reference_p99_ratio",
    "highest_rate",
    "saturated",
)


def result(
    outcome: TuneOutcome, *, model: made.TunedModel, machine: MachineFacts, objective: made.ModelRequest, command: str
) -> made.TuneResult:
    """The record that `tailcut tune --json` prints; unknown values are None."""
    return made.TuneResult(
        model=model,
        machine=machine,
        objective=made.TuneObjective(
            **asdict(objective),
            percentile="p99",
            kind=outcome.objective.kind,
            limit_ms=outcome.objective.limit_ms if np.isfinite(outcome.objective.limit_ms) else None,
            rate=outcome.rate,
            took_s=round(outcome.took_s, 1),
            interrupted=outcome.interrupted,
        ),
        command=command,
        rows=outcome.rows,
        rungs=[
            made.Rung(rung.name, rung.note, rung.candidates, " + ".join(rung.kept) or None) for rung in outcome.rungs
        ],
        estimated=_estimated(outcome),
        winner=None if outcome.race_winner is None else outcome.race_winner.describe(),
        reused_estimates=outcome.reused,
        noise=outcome.noise.record(),
        verification=_verification(outcome, objective),
        unchanged=outcome.unchanged,
        tie_break=_tie_break(outcome),
        offers=[_offer(offer, outcome.base) for offer in outcome.offers],
        retune=_retune(outcome),
        not_kept=outcome.not_kept,
        accuracy=_accuracy(outcome, objective.metric),
        quantized=outcome.copy,
        settings=outcome.settings,
        profile=None,
        report=None,
        trials=None,
    )


def evidence(record: made.TuneResult) -> dict[str, Any]:
    """The part of a result that the profile file keeps: figures, but no samples."""
    checked = record.verification
    kept: dict[str, Any] = {
        "command": record.command,
        "seed": record.objective.seed,
        "verified": checked is not None and bool(checked.tuned.samples),
        "rate_offered": record.objective.rate,
        **({} if record.objective.limit_ms is None else {"limit_ms": record.objective.limit_ms}),
        "rows": msgspec.to_builtins(record.rows),
        "kept": [rung.kept for rung in record.rungs if rung.kept],
    }
    if checked is not None:
        arms = {"baseline": "baseline", "reference": "reference", "tuned": "tuned"}
        if record.not_kept:
            arms["tuned"] = record.not_kept.kept
        kept |= {name: known(checked.arms.get(arm), _SHOWN_ONLY) for name, arm in arms.items()}
    if checked is not None and not record.not_kept:
        kept |= known({name: msgspec.to_builtins(getattr(checked, name)) for name in _RATIOS})
        kept["clients"] = checked.clients
    if record.quantized is not None:
        kept["quantized"] = known(record.quantized)
    if record.accuracy is not None:
        kept["accuracy"] = known(record.accuracy, _NO_FIGURES)
    return kept


def known(record: object, but: Collection[str] = ()) -> dict[str, Any]:
    """The values of a record that are not None, without those named in `but`; empty for no record."""
    values: dict[str, Any] = msgspec.to_builtins(record) or {}
    return {name: value for name, value in values.items() if name not in but and value is not None}


def _verification(outcome: TuneOutcome, asked: made.ModelRequest) -> made.Verification | None:
    if not outcome.arms:
        return None
    runs, peaks = outcome.arms, outcome.memory_peaks
    tuned, baseline = runs["tuned"], runs["baseline"]
    arms = {
        name: made.VerifiedArm(**asdict(arm_record(run, outcome.rate)), memory_peak_bytes=peaks.get(name))
        for name, run in runs.items()
    }
    for name in outcome.overloaded:  # their latencies grow for as long as the overload lasts
        arms[name] = replace(arms[name], p50_ms=None, p95_ms=None, p99_ms=None, p99_interval_ms=None, curve=[])
    too_much = "baseline" in outcome.overloaded

    def to(name: str) -> IntervalRecord | None:
        ratio = None if name in outcome.overloaded else p99_ratio(tuned, runs[name], asked.seed)
        return None if ratio is None else IntervalRecord.rounded(ratio)

    speed, held = throughput_ratio(tuned, baseline), outcome.highest
    used, engine = outcome.cpus_used, outcome.settings.engine
    threads = engine.threads * engine.instances * outcome.settings.io.workers
    confined = asked.cpus is not None and used is not None
    kept = outcome.not_kept.kept if outcome.not_kept else "tuned"  # the arm whose settings the profile holds
    limited = asked.memory_bytes is not None and kept in peaks
    return made.Verification(
        baseline=arms["baseline"],
        baseline_wire="json" if outcome.base.io.wire == "json" else "binary",
        reference=arms.get("reference", UNSET),
        tuned=arms["tuned"],
        previous=arms.get("previous", UNSET),
        reference_p99_ratio=to("reference") if "reference" in runs else None,
        p99_ratio=to("baseline"),
        previous_p99_ratio=to("previous") if "previous" in runs else UNSET,
        tail_ratio=None if too_much else tail_ratio(tuned, baseline, asked.seed),
        no_ratio_because=_TOO_MUCH if too_much else no_ratio_because(tuned, baseline, asked.seed),
        clients=outcome.clients,
        cpu_ratio=cpu_ratio(tuned, baseline),
        memory_within=peaks[kept] <= (asked.memory_bytes or 0) if limited else UNSET,
        cpus_used=round(used or 0.0, 2) if confined else UNSET,
        cpus_within=max(used or 0.0, threads) <= _ROUNDING * (asked.cpus or 0) if confined else UNSET,
        throughput_ratio=None if speed is None else IntervalRecord.rounded(speed),
        highest_rate=held
        and replace(held, tuned=round(held.tuned, 2), baseline=held.baseline and round(held.baseline, 2)),
        saturated=outcome.saturated,
        slo_met=UNSET if asked.slo_ms is None else met(runs[kept], asked.slo_ms),
    )


def tail_ratio(tuned: ArmRuns, baseline: ArmRuns, seed: int) -> made.TailRatio | None:
    """The ratio of the highest percentile with enough samples in both arms, and which percentile that is."""
    of, ratio = tail_of(tuned, baseline, seed) or (None, None)
    if of is None or ratio is None or not is_finite(ratio):
        return None
    return made.TailRatio(**asdict(IntervalRecord.rounded(ratio)), of=of)


def no_ratio_because(tuned: ArmRuns, baseline: ArmRuns, seed: int) -> str | None:
    """Why there is no ratio of the tail, as a message; None if there is one, or too few samples for it."""
    if tuned.client_behind or baseline.client_behind:
        return "the load client itself was late in most blocks"
    if tail_ratio(tuned, baseline, seed) is None and (tuned.errors or baseline.errors):
        return f"requests failed: {tuned.errors:,} of the tuned server's and {baseline.errors:,} of the baseline's"
    return None


def cpu_ratio(tuned: ArmRuns, baseline: ArmRuns) -> IntervalRecord | None:
    """The ratio of the server's CPU time per request to the baseline's, over paired blocks; None if unknown."""
    costs = [run.spent.cpu_ns_by_block for run in (tuned, baseline)]
    if min(map(len, costs)) < 3 or len(costs[0]) != len(costs[1]) or not all(costs[0] + costs[1]):
        return None
    return IntervalRecord.rounded(paired_ratio_interval(costs[0], costs[1]))


def _tie_break(outcome: TuneOutcome) -> made.TieBreakResult | None:
    """Which of several configurations that were equal by the objective was chosen, and why; None without a tie."""
    tie = outcome.tie_break
    if tie is None:
        return None
    equals = [
        made.EqualConfiguration(
            setting=equal.settings.describe(outcome.base),
            alone_ms=_rounded(equal.alone_ms),
            cpu_us=_rounded(equal.cpu_us, 2),
            memory_bytes=equal.memory_bytes,
        )
        for equal in tie.equals
    ]
    return made.TieBreakResult(tie.chosen.describe(outcome.base), tie.reason, equals)


def _offer(offer: Offer, base: Settings) -> made.OfferResult:
    """The record of an offer."""
    accuracy, (engine, precision) = offer.accuracy, precision_of(offer.settings)
    return made.OfferResult(
        setting=offer.settings.describe(base),
        engine=engine,
        precision=precision,
        p50_ratio=round(offer.p50_ratio, 3),
        rate_ratio=round(offer.rate_ratio, 3),
        accuracy=offer.bound,
        **_measures(accuracy),
    )


def _measures(accuracy: Accuracy) -> dict[str, float | None]:
    return {name: _rounded(getattr(accuracy, name)) for name in ("worst", "top1", "spread", "differing", "value")}


def _retune(outcome: TuneOutcome) -> made.Retune | None:
    """What changed compared with the re-checked profile; None without one."""
    previous, settings = outcome.previous, outcome.settings
    if previous is None:
        return None
    changed = _changes(previous, settings)
    wrong, unserved = outcome.previous_wrong or None, outcome.previous_unserved or None
    return made.Retune(previous.describe(), settings.describe(), changed, wrong, unserved)


def _changes(before: Settings, after: Settings) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, each with its value before and after."""
    old, new = _flat(before), _flat(after)
    return {name: (old.get(name), value) for name, value in new.items() if value != old.get(name)}


def _flat(settings: Settings) -> dict[str, Any]:
    """Every setting as `section.name`; for a pipeline's steps the section is the step's name."""
    sections = msgspec.to_builtins(settings)
    pipeline = sections.pop("pipeline") or {"stages": [], "models": []}
    sections |= {stage["name"]: stage for stage in pipeline["stages"]} | {
        model["file"]: model for model in pipeline["models"]
    }
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


def _estimated(outcome: TuneOutcome) -> list[made.EstimateRecord]:
    """Every configuration that was simulated, the best by the objective first."""
    front = pareto(outcome.estimated, outcome.accuracies)
    ranked = sorted(outcome.estimated, key=outcome.objective.rank, reverse=True)
    raced = {settings.describe(): score for settings, score in outcome.raced.items()}
    return [
        made.EstimateRecord(
            setting=estimate.settings.describe(),
            rate=round(estimate.rate, 2),
            alone_ms=round(estimate.alone_ms, 4),
            cpu_us=round(estimate.cpu_us, 2),
            memory_bytes=estimate.memory_bytes,
            front=estimate in front,
            raced=_rounded(raced.get(estimate.settings.describe())),
            accuracy=_rounded(outcome.accuracies.get(estimate.settings)),
        )
        for estimate in ranked
    ]


def arm_record(run: ArmRuns, rate: float) -> made.ArmFigures:
    """The figures of one arm's blocks at a rate; no percentiles if the client was late in most blocks.

    Rates are None if blocks were so short that no request was due or answered.
    """
    latencies, interval, percentiles = run.latencies, p99_interval(run), percentiles_ms(run)
    return made.ArmFigures(
        **(dict.fromkeys(percentiles) if run.client_behind else percentiles),
        p99_interval_ms=bounds_of(interval) if interval is not None and interval.high < FAILED_MS else None,
        samples=len(run.answered),
        throughput=_mean(run.throughputs) if any(run.throughputs) or run.errors else None,
        rate_offered=rate,
        rate_achieved=_mean(run.achieved) if len(latencies) else None,
        errors=run.errors,
        cost=run.spent.per_request(),
        client_behind_blocks=run.behind,
        client_cpu=_mean(run.client_cpu),
        client_cpu_closed=_mean(run.client_cpu_closed),
        curve=[] if run.client_behind else _curve(latencies),
    )


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 2) if values else None


def _curve(latencies: np.ndarray) -> list[tuple[float, float]]:
    """Quantiles and their latencies in ms, as long as a few points of the sample are beyond, and none has failed."""
    if len(latencies) < 2:
        return []
    sample = Sample.of(latencies)
    points = [(q, round(percentile(sample, q), 4)) for q in _CURVE if (1 - q) * len(sample) >= 3]
    return [(q, value) for q, value in points if value < FAILED_MS]


def _accuracy(outcome: TuneOutcome, metric: str | None) -> made.AccuracyResult | None:
    if outcome.accuracy is None:
        return None
    accuracy = outcome.accuracy
    return made.AccuracyResult(
        metric=metric or "built-in",
        right=accuracy.right,
        reason=accuracy.reason,
        requests=accuracy.requests,
        **_measures(accuracy),
        labels_accuracy=None if outcome.labels is None else outcome.labels.shares,
        labels_requests=None if outcome.labels is None else outcome.labels.requests,
        random_outputs=list(outcome.random_outputs),
        worst_rows=[
            made.WorstRow(
                request=row.request,
                row=row.row,
                asked=row.asked,
                output=row.output,
                measure=row.measure,
                found=row.words,
                expected=row.expected,
                got=row.got,
            )
            for row in accuracy.rows
        ],
    )


def _rounded(value: float | None, digits: int = 8) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, digits)

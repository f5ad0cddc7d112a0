"""A tune's outcome as the JSON object that the command prints and the report draws, and as the profile's evidence."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from tailcut.lab.record import interval_record
from tailcut.lab.trial import ArmRuns
from tailcut.runtime.settings import Settings
from tailcut.stats import Sample, paired_ratio_interval, percentile, percentile_interval, samples_needed
from tailcut.tuner.finalists import Predicted, pareto
from tailcut.tuner.race import QUANTILES, percentiles_ms, pooled, throughput_ratio
from tailcut.tuner.records import Offer, Outcome, precision_of

_CURVE = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999, 0.9995, 0.9999)
_SHOWN_ONLY = {"curve", "cost"}  # of an arm: not kept in the profile
_NO_FIGURES = {"worst_rows", "reason"}  # of the accuracy, likewise


def result(
    outcome: Outcome,
    *,
    model: Mapping[str, Any],
    machine: Mapping[str, Any],
    objective: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    """Every key of `tailcut tune --json`; what is unknown is null."""
    return {
        "model": dict(model)
        | {
            "inputs": [f"{tensor.name} {tensor.describe()}" for tensor in outcome.spec.inputs],
            "outputs": [f"{tensor.name} {tensor.describe()}" for tensor in outcome.spec.outputs],
        },
        "machine": dict(machine),
        "objective": dict(objective)
        | {
            "percentile": "p99",
            "kind": outcome.objective.kind,
            "limit_ms": outcome.objective.limit_ms if np.isfinite(outcome.objective.limit_ms) else None,
            "rate": outcome.rate,
            "took_s": round(outcome.took_s, 1),
            "interrupted": outcome.interrupted,
        },
        "command": command,
        "rows": outcome.rows,
        "rungs": [
            {"name": rung.name, "note": rung.note, "candidates": rung.candidates, "kept": " + ".join(rung.kept) or None}
            for rung in outcome.rungs
        ],
        "estimated": _estimated(outcome),
        "winner": None if outcome.race_winner is None else outcome.race_winner.describe(),
        "reused_estimates": outcome.reused,
        "noise": outcome.noise.record(),
        "verification": _verification(
            outcome, objective.get("seed", 0), objective.get("slo_ms"), objective.get("memory_bytes")
        ),
        "unchanged": outcome.unchanged,
        "tie_break": _tie_break(outcome),
        "offers": [_offer(one, outcome.base) for one in outcome.offers],
        "retune": _retune(outcome),
        "accuracy": _accuracy(outcome, objective.get("metric")),
        "quantized": None if outcome.copy is None else outcome.copy.as_dict(),
        "settings": msgspec.to_builtins(outcome.settings),
        "profile": None,
        "report": None,
        "trials": None,
    }


def evidence(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the profile file keeps of a result: figures, not samples."""
    checked = found["verification"]
    kept: dict[str, Any] = {
        "command": found["command"],
        "seed": found["objective"]["seed"],
        "verified": checked is not None,
        "rate_offered": found["objective"]["rate"],
        "rows": found["rows"],
        "kept": [rung["kept"] for rung in found["rungs"] if rung["kept"]],
    }
    if checked is not None:
        for arm in ("baseline", "reference", "tuned"):
            figures = checked.get(arm) or {}
            kept[arm] = {
                name: value for name, value in figures.items() if name not in _SHOWN_ONLY and value is not None
            }
        for name in ("p99_ratio", "tail_ratio", "throughput_ratio", "cpu_ratio", "reference_p99_ratio", "highest_rate"):
            if checked[name] is not None:
                kept[name] = checked[name]
    if found["quantized"] is not None:
        kept["quantized"] = {name: value for name, value in found["quantized"].items() if value is not None}
    if found["accuracy"] is not None:
        kept["accuracy"] = {
            name: value for name, value in found["accuracy"].items() if name not in _NO_FIGURES and value is not None
        }
    return kept


def _verification(outcome: Outcome, seed: int, slo_ms: float | None, memory_bytes: int | None) -> dict[str, Any] | None:
    if not outcome.arms:
        return None
    arms = outcome.arms
    tuned, baseline = arms["tuned"], arms["baseline"]
    against = {"p99_ratio": baseline}
    speed = throughput_ratio(tuned, baseline)
    found: dict[str, Any] = {name: arm_record(run, outcome.rate) for name, run in arms.items()}
    against |= {f"{name}_p99_ratio": arms[name] for name in ("reference", "previous") if name in arms}
    found["reference_p99_ratio"] = None
    for name, other in against.items():
        known = min(len(tuned.latencies), len(other.latencies)) >= samples_needed(0.99)
        found[name] = interval_record(pooled(tuned, other, 0.99, seed)) if known else None
    found["tail_ratio"] = _tail_ratio(tuned, baseline, seed)
    found["clients"] = outcome.clients
    found["cpu_ratio"] = _cpu_ratio(tuned, baseline)
    for name in arms:
        found[name]["memory_peak_bytes"] = outcome.memory_peaks.get(name)
    if memory_bytes is not None and "tuned" in outcome.memory_peaks:
        found["memory_within"] = outcome.memory_peaks["tuned"] <= memory_bytes
    found["throughput_ratio"] = None if speed is None else interval_record(speed)
    held = outcome.highest
    found["highest_rate"] = (
        None
        if held is None
        else {
            "limit_ms": held.limit_ms,
            "baseline": None if held.baseline is None else round(held.baseline, 2),
            "tuned": round(held.tuned, 2),
            "p99_interval_ms": [round(held.p99_ms.low, 4), round(held.p99_ms.high, 4)],
            "samples": held.samples,
            "within": held.within,
        }
    )
    if slo_ms is not None:
        found["slo_met"] = met(found["tuned"]["p99_interval_ms"], slo_ms)
    return found


def _tail_ratio(tuned: ArmRuns, baseline: ArmRuns, seed: int) -> dict[str, Any] | None:
    """The ratio of the percentile furthest in the tail that both samples can tell, and which one that is."""
    samples = min(len(tuned.latencies), len(baseline.latencies))
    for name, q in QUANTILES.items():
        if samples >= samples_needed(q):
            return {"of": name, **interval_record(pooled(tuned, baseline, q, seed))}
    return None


def met(bounds: Sequence[float] | None, limit: float) -> bool | None:
    """Whether an interval lies within a limit (true), or over it (false); None where it holds it or is unknown."""
    if bounds is None or bounds[0] <= limit < bounds[1]:
        return None
    return bounds[1] <= limit


def _cpu_ratio(tuned: ArmRuns, baseline: ArmRuns) -> dict[str, float] | None:
    """The server's CPU time per request to the baseline's, block by block; None where it is unknown."""
    costs = [run.spent.cpu_ns_by_block for run in (tuned, baseline)]
    if min(map(len, costs)) < 3 or len(costs[0]) != len(costs[1]) or not all(costs[0] + costs[1]):
        return None
    return interval_record(paired_ratio_interval(costs[0], costs[1]))


def _tie_break(outcome: Outcome) -> dict[str, Any] | None:
    """Why one of several configurations was chosen that were equal by the objective; None where there was no tie."""
    tie = outcome.tie_break
    if tie is None:
        return None
    return {
        "chosen": tie.chosen.describe(outcome.base),
        "reason": tie.reason,
        "equals": [
            {
                "setting": one.settings.describe(outcome.base),
                "alone_ms": _rounded(one.alone_ms),
                "cpu_us": None if one.cpu_us is None else round(one.cpu_us, 2),
                "memory_bytes": one.memory_bytes,
            }
            for one in tie.equals
        ],
    }


def _offer(offer: Offer, base: Settings) -> dict[str, Any]:
    """What a looser `--accuracy` would bring."""
    found, (engine, precision) = offer.accuracy, precision_of(offer.settings)
    return {
        "setting": offer.settings.describe(base),
        "engine": engine,
        "precision": precision,
        "p50_ratio": round(offer.p50_ratio, 3),
        "rate_ratio": round(offer.rate_ratio, 3),
        "accuracy": offer.bound,
        **{name: _rounded(getattr(found, name)) for name in ("worst", "top1", "spread", "differing", "value")},
    }


def _retune(outcome: Outcome) -> dict[str, Any] | None:
    """What changed against the profile that was checked again; None where there is none."""
    previous = outcome.previous
    if previous is None:
        return None
    return {
        "before": previous.describe(),
        "after": outcome.settings.describe(),
        "changed": _changes(previous, outcome.settings),
        "wrong": outcome.previous_wrong or None,
    }


def _changes(before: Settings, after: Settings) -> dict[str, list[Any]]:
    """The settings that differ, as the value before and after."""
    old, new = _flat(before), _flat(after)
    return {name: [old.get(name), value] for name, value in new.items() if value != old.get(name)}


def _flat(settings: Settings) -> dict[str, Any]:
    """Every setting by its name; those of a pipeline's steps by the step's."""
    sections = msgspec.to_builtins(settings)
    pipeline = sections.pop("pipeline") or {"stages": [], "models": []}
    sections |= {one["name"]: one for one in pipeline["stages"]} | {one["file"]: one for one in pipeline["models"]}
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


def _estimated(outcome: Outcome) -> list[dict[str, Any]]:
    """Every configuration that was simulated, the best by the objective first."""
    front = pareto(outcome.estimated)
    ranked = sorted(outcome.estimated, key=outcome.objective.rank, reverse=True)
    raced = {settings.describe(): score for settings, score in outcome.raced.items()}
    return [
        _predicted(one) | {"front": one in front, "raced": _rounded(raced.get(one.settings.describe()))}
        for one in ranked
    ]


def _predicted(one: Predicted) -> dict[str, Any]:
    return {
        "setting": one.settings.describe(),
        "rate": round(one.rate, 2),
        "alone_ms": round(one.alone_ms, 4),
        "cpu_us": round(one.cpu_us, 2),
        "memory_bytes": one.memory_bytes,
    }


def arm_record(run: ArmRuns, rate: float) -> dict[str, Any]:
    """The figures of one arm's blocks at a rate."""
    latencies = run.latencies
    interval = percentile_interval(Sample.of(latencies), 0.99) if len(latencies) >= 2 else None
    return {
        **percentiles_ms(run),
        "p99_interval_ms": None if interval is None else [round(interval.low, 4), round(interval.high, 4)],
        "samples": len(latencies),
        "throughput": round(float(np.mean(run.throughputs)), 2) if run.throughputs else None,
        "rate_offered": rate,
        "rate_achieved": round(float(np.mean(run.achieved)), 2) if run.achieved else None,
        "errors": run.errors,
        "cost": msgspec.to_builtins(run.spent.per_request()),
        "client_behind_blocks": run.behind,
        "curve": _curve(latencies),
    }


def _curve(latencies: np.ndarray) -> list[list[float]]:
    """Quantiles up to where the sample still has a few points beyond."""
    if len(latencies) < 2:
        return []
    sample = Sample.of(latencies)
    return [[q, round(percentile(sample, q), 4)] for q in _CURVE if (1 - q) * len(sample) >= 3]


def _accuracy(outcome: Outcome, metric: str | None) -> dict[str, Any] | None:
    if outcome.accuracy is None:
        return None
    found = outcome.accuracy
    return {
        "metric": metric or "built-in",
        "right": found.right,
        "reason": found.reason,
        "requests": found.requests,
        "worst": _rounded(found.worst),
        "top1": _rounded(found.top1),
        "spread": _rounded(found.spread),
        "differing": _rounded(found.differing),
        "value": _rounded(found.value),
        "labels_accuracy": outcome.labels_accuracy,
        "random_outputs": list(outcome.random_outputs),
        "worst_rows": [
            {
                "request": row.request,
                "row": row.row,
                "asked": row.asked,
                "output": row.output,
                "measure": row.measure,
                "found": row.words,
                "expected": row.expected,
                "got": row.got,
            }
            for row in found.rows
        ],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, 8)

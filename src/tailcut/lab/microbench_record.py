"""Micro-benchmarks as JSON: what was found, with all it takes to doubt or repeat it; and what changed since."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from tailcut.atomic import write_atomically
from tailcut.errors import MissingFileError, UsageError
from tailcut.lab.microbench import Benchmark, Comparison, Measured
from tailcut.lab.record import interval_record
from tailcut.stats import Interval, Sample, Verdict, percentile, ratio_interval, verdict

NOISE = 0.05  # between two runs: memory lies elsewhere, the machine had another hour
_BLOCKS = 10  # into which a stored series is cut: neighbours in time belong together
_KIND = "microbench"
_COUNTED = ("page_faults", "context_switches", "instructions", "cycles", "branch_misses", "cache_misses", "dtlb_misses")


def microbench_record(found: Benchmark, *, machine: Mapping[str, Any], command: str) -> dict[str, Any]:
    """A benchmark as a JSON object; times in nanoseconds a call, what is unknown is null."""
    return {
        "kind": _KIND,
        "functions": [_function(one) for one in found.functions],
        "comparisons": [_comparison(one) for one in found.comparisons],
        "overhead_ns": {"clock": round(found.overhead.clock_ns, 2), "loop": round(found.overhead.loop_ns, 3)},
        "noise": found.noise,
        "seed": found.seed,
        "machine": dict(machine),
        "command": command,
    }


def save_microbench(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record whole or not at all."""
    write_atomically(path, orjson.dumps(record, option=orjson.OPT_INDENT_2).decode())


def read_microbench(path: Path) -> dict[str, Any]:
    """A saved record.

    Raises:
        UsageError: missing, or not such a file.
    """
    try:
        value = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such baseline: write one with --save") from None
    except (OSError, orjson.JSONDecodeError):
        raise UsageError(f"{path}: not a saved micro-benchmark (write one with --save)") from None
    if not isinstance(value, dict) or value.get("kind") != _KIND or not _whole(value.get("functions")):
        raise UsageError(f"{path}: not a saved micro-benchmark: it has no functions with their samples")
    return value


def changes(
    new: Mapping[str, Any], old: Mapping[str, Any], noise: float = NOISE, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Of each function in both records, the ratio of the medians, new to old, and the verdict.

    The two runs were not interleaved, so what changed on the machine between them is in the ratio too: the noise
    threshold is wider than within one run.
    """
    before = {one["name"]: one for one in old["functions"]}
    found: list[dict[str, Any]] = []
    for one in new["functions"]:
        if one["name"] in before:
            sides = [_blocks(side["samples_ns"]) for side in (one, before[one["name"]])]
            ratio = ratio_interval(sides[0], sides[1], 0.5, seed=seed)
            entry = {"name": one["name"], "ratio": interval_record(ratio), "verdict": verdict(ratio, noise).value}
            found.append(entry | {"before_ns": before[one["name"]]["median_ns"]["point"]})
    return found


def grew_slower(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any function got worse."""
    return any(entry["verdict"] == Verdict.WORSE for entry in entries)


def _function(one: Measured) -> dict[str, Any]:
    line, apart = one.line, one.outliers
    return {
        "name": one.name,
        "median_ns": _nanoseconds(one.median),
        "slope_ns": None if line is None else _nanoseconds(line.slope) | {"bend": round(line.bend, 5)},
        "intercept_ns": None if line is None else round(line.intercept, 1),
        "min_ns": round(float(one.sample.values[0]), 3),
        "p95_ns": None if one.p95 is None else _nanoseconds(one.p95),
        "max_ns": round(float(one.sample.values[-1]), 3),
        "spread": round((percentile(one.sample, 0.75) - percentile(one.sample, 0.25)) / one.sample.median, 5),
        "outliers": {
            "low_severe": apart.low_severe,
            "low_mild": apart.low_mild,
            "high_mild": apart.high_mild,
            "high_severe": apart.high_severe,
            "fences_ns": [round(fence, 3) for fence in apart.fences],
        },
        "drift": {"change": round(one.drift.change, 4), "significant": one.drift.significant},
        "warmup": {"calls": one.warmup.calls, "steady": one.warmup.steady},
        "counts": _counts(one),
        "samples": len(one.sample),
        "samples_ns": [round(value, 3) for value in one.ns.tolist()],
        "loops": one.loops.tolist(),
    }


def _counts(one: Measured) -> dict[str, float]:
    """Counts of a call, on average over the longest loop; what this machine does not count is left out."""
    if one.counts is None:
        return {}
    calls = int(one.loops.max())
    whole = one.counts.values()
    shares = {name: value / calls for name in _COUNTED if (value := whole[name]) is not None}
    ipc = {} if whole["ipc"] is None else {"ipc": round(whole["ipc"], 3)}
    return {name: float(f"{value:.4g}") for name, value in shares.items()} | ipc


def _comparison(one: Comparison) -> dict[str, Any]:
    return {"name": one.name, "to": one.to, "ratio": interval_record(one.ratio), "verdict": one.verdict.value}


def _nanoseconds(interval: Interval) -> dict[str, float]:
    return {"point": round(interval.point, 3), "low": round(interval.low, 3), "high": round(interval.high, 3)}


def _whole(functions: object) -> bool:
    return isinstance(functions, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("name"), str)
        and isinstance(one.get("median_ns"), dict)
        and _positive(one.get("samples_ns"))
        for one in functions
    )


def _positive(values: object) -> bool:
    return isinstance(values, list) and len(values) >= 4 and all(isinstance(x, int | float) and x > 0 for x in values)


def _blocks(values: Sequence[float]) -> list[Sample]:
    return [Sample.of(block) for block in np.array_split(np.asarray(values, float), min(_BLOCKS, len(values) // 2))]

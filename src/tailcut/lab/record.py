"""Results as JSON: what a run found, with all it takes to doubt or repeat it; and comparisons of two such files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from tailcut.errors import MissingFileError, UsageError
from tailcut.lab.lengths import lengths_record
from tailcut.lab.load import LoadResult
from tailcut.stats import (
    Interval,
    Sample,
    Verdict,
    percentile,
    ratio_interval,
    samples_needed,
    verdict,
)
from tailcut.stats.serial import serial_percentile_interval

PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99_9": 0.999}
_KEPT_LATENCIES = 20_000  # stored with a run, so that a later one can be compared point by point
_BLOCKS = 10  # into which a stored run is cut for comparison: neighbours in time belong together


def run_record(result: LoadResult) -> dict[str, Any]:
    """One run as a JSON object. Latencies in milliseconds; unknown percentiles are null, never guessed."""
    latency: dict[str, float | None] = dict.fromkeys([*PERCENTILES, "max"])
    interval = None
    latencies_ms = result.latencies_ns / 1e6
    with_lateness = serial_percentile_interval(latencies_ms, 0.99)
    if result.samples >= 2 and not result.client_behind:
        sample = Sample.of(latencies_ms)
        for name, q in PERCENTILES.items():
            if len(sample) >= samples_needed(q):
                latency[name] = round(percentile(sample, q), 4)
        latency["max"] = round(float(sample.values[-1]), 4)
        interval = with_lateness
    return {
        "mode": result.mode,
        "rate_offered": result.rate_offered,
        "rate_achieved": round(result.rate_achieved, 3),
        "concurrency": result.concurrency,
        "samples": result.samples,
        "errors": result.errors,
        "latency_ms": latency,
        "p99_interval_ms": None if interval is None else [round(interval.low, 4), round(interval.high, 4)],
        "p99_at_most_ms": None if with_lateness is None else round(with_lateness.high, 4),
        "client_behind": result.client_behind,
        "client_lateness_p99_ms": round(result.lateness_p99_ns / 1e6, 4),
        "client_cpu": round(result.client_cpu, 3),
        "client_processes": result.processes,
        "server_cost": result.server_cost,
        "arrivals": result.arrivals,
        "model": result.model,
        "mixed": result.mixed,
        "late_because": result.late_because,
        "lengths": lengths_record(result.measure, result.lengths, result.latencies_ns, known=not result.client_behind),
        "latencies_us": _thinned(result.latencies_ns),
    }


def compare(new: Mapping[str, Any], old: Mapping[str, Any], noise: float = 0.05) -> dict[str, dict[str, Any]]:
    """Per percentile, the ratio of two runs, new to old, and the verdict; percentiles unknown to either are left out.

    The two runs were not interleaved, so what changed on the machine between them is in the ratio too: the noise
    threshold is wider than within one run.
    """
    found: dict[str, dict[str, Any]] = {}
    sides = [np.asarray(run.get("latencies_us") or [], float) for run in (new, old)]
    for name, q in PERCENTILES.items():
        if min(len(side) for side in sides) < samples_needed(q) or None in (
            new["latency_ms"][name],
            old["latency_ms"][name],
        ):
            continue
        new_blocks, old_blocks = (_blocks(side) for side in sides)
        ratio = ratio_interval(new_blocks, old_blocks, q)
        found[name] = {"ratio": interval_record(ratio), "verdict": verdict(ratio, noise).value}
    return found


def regressed(comparison: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether any percentile got worse."""
    return any(entry["verdict"] == Verdict.WORSE for entry in comparison.values())


def interval_record(interval: Interval) -> dict[str, float]:
    """An interval as a JSON object."""
    return {"point": round(interval.point, 4), "low": round(interval.low, 4), "high": round(interval.high, 4)}


def read_record(path: Path) -> dict[str, Any]:
    """A result file written by `tailcut bench`.

    Raises:
        UsageError: missing, or not such a file.
    """
    try:
        value = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such result file") from None
    except (OSError, orjson.JSONDecodeError):
        raise UsageError(f"{path}: not a result of tailcut bench (write one with -o or --json)") from None
    if not isinstance(value, dict) or not isinstance(value.get("runs"), list):
        raise UsageError(f"{path}: not a result of tailcut bench: it has no runs")
    return value


def match_runs(new: Sequence[Mapping[str, Any]], old: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Pairs of indices of runs of one mode, kind of arrivals, rate and concurrency; in a mix, of one model."""
    by_model = any(len({run.get("model") for run in side}) > 1 for side in (new, old))

    def key(run: Mapping[str, Any]) -> tuple[object, ...]:
        arrivals = run.get("arrivals") or "poisson"  # older results know no other
        load = run["concurrency"] if run["mode"] == "closed" else arrivals
        return run["mode"], run["rate_offered"], load, run.get("model") if by_model else None

    places = {key(run): index for index, run in enumerate(old)}
    return [(index, places[key(run)]) for index, run in enumerate(new) if key(run) in places]


def _thinned(latencies_ns: np.ndarray) -> list[float]:
    """Microseconds in order of time; every k-th where there are very many."""
    step = max(1, -(-len(latencies_ns) // _KEPT_LATENCIES))
    return [round(value / 1e3, 1) for value in latencies_ns[::step].tolist()]


def _blocks(values: np.ndarray) -> list[Sample]:
    return [Sample.of(block) for block in np.array_split(values, min(_BLOCKS, len(values) // 2))]

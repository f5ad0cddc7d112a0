"""Results as JSON: the findings of a run, with everything needed to check or repeat it; and comparisons of results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
import numpy as np

from tailcut.errors import MissingFileError, UsageError
from tailcut.lab.arrivals import Arrivals
from tailcut.lab.lengths import lengths_record
from tailcut.lab.load import LoadResult
from tailcut.lab.records import (
    EarlierResult,
    EarlierRun,
    IntervalRecord,
    Latencies,
    Mode,
    PercentileChange,
    Run,
    bounds_of,
)
from tailcut.stats import Sample, Verdict, percentile, ratio_interval, samples_needed, verdict
from tailcut.stats.serial import serial_percentile_interval

PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99_9": 0.999}
_KEPT_LATENCIES = 20_000  # stored with a run, so that a later one can be compared point by point
_BLOCKS = 10  # blocks into which a stored run is divided, because neighbours in time are correlated


def run_record(result: LoadResult) -> Run:
    """The record of a run. Latencies are in milliseconds; unknown percentiles are None."""
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
    return Run(
        mode=result.mode,
        rate_offered=result.rate_offered,
        rate_achieved=round(result.rate_achieved, 3),
        concurrency=result.concurrency,
        samples=result.samples,
        errors=result.errors,
        latency_ms=Latencies(**latency),
        p99_interval_ms=bounds_of(interval),
        p99_at_most_ms=None if with_lateness is None else round(with_lateness.high, 4),
        client_behind=result.client_behind,
        client_lateness_p99_ms=round(result.lateness_p99_ns / 1e6, 4),
        client_cpu=round(result.client_cpu, 3),
        client_processes=result.processes,
        server_cost=result.server_cost,
        arrivals=result.arrivals,
        model=result.model,
        mixed=result.mixed,
        late_because=result.late_because,
        lengths=lengths_record(result.measure, result.lengths, result.latencies_ns, known=not result.client_behind),
        latencies_us=_thinned(result.latencies_ns),
    )


def compare(new: Run, old: Run | EarlierRun, noise: float = 0.05) -> dict[str, PercentileChange]:
    """For each percentile known in both runs, the ratio, new to old, and the verdict.

    The two runs were not interleaved, so the ratio includes changes of the machine between them: the noise threshold is
    wider than within one run.
    """
    changes: dict[str, PercentileChange] = {}
    sides = [np.asarray(run.latencies_us, float) for run in (new, old)]
    for name, q in PERCENTILES.items():
        unknown = None in {getattr(new.latency_ms, name), getattr(old.latency_ms, name)}
        if unknown or min(len(side) for side in sides) < samples_needed(q):
            continue
        new_blocks, old_blocks = (_blocks(side) for side in sides)
        ratio = ratio_interval(new_blocks, old_blocks, q)
        changes[name] = PercentileChange(IntervalRecord.rounded(ratio), verdict(ratio, noise))
    return changes


def regressed(comparison: Mapping[str, PercentileChange]) -> bool:
    """Whether any percentile got worse."""
    return any(change.verdict is Verdict.WORSE for change in comparison.values())


def read_record(path: Path) -> EarlierResult:
    """Read a result file of `tailcut bench`.

    Raises:
        UsageError: the file is missing, or not such a result.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=EarlierResult)
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such result file") from None
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: not a result of tailcut bench: it has no runs to compare with: {error}") from None
    except (OSError, msgspec.DecodeError):
        raise UsageError(f"{path}: not a result of tailcut bench (write one with -o or --json)") from None


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """What is known about a run before it is made, for `match_runs`."""

    mode: Mode
    rate_offered: float | None
    concurrency: int
    arrivals: str | None
    model: str | None

    @classmethod
    def open(cls, arrivals: Arrivals, model: str | None) -> Self:
        """An open loop, whose number of connections is not known yet."""
        return cls("open", arrivals.rate, 0, arrivals.name, model)

    @classmethod
    def closed(cls, concurrency: int, model: str | None) -> Self:
        """A closed loop."""
        return cls("closed", None, concurrency, None, model)


def load_words(run: PlannedRun | EarlierRun) -> str:
    """The load of a run in words, such as `30/s poisson of digits`."""
    of = "" if run.model is None else f" of {run.model}"
    if run.mode == "closed":
        return f"{run.concurrency} in flight{of}"
    rate = "" if run.rate_offered is None else f"{run.rate_offered:g}/s "
    return f"{rate}{run.arrivals or 'poisson'}{of}"


def match_runs(new: Sequence[Run | EarlierRun | PlannedRun], old: Sequence[EarlierRun]) -> list[tuple[int, int]]:
    """Pairs of indices of runs with equal mode, kind of arrivals, rate and concurrency; in a mix, also of one model."""
    by_model = any(len({run.model for run in side}) > 1 for side in (new, old))

    def key(run: Run | EarlierRun | PlannedRun) -> tuple[object, ...]:
        load = run.concurrency if run.mode == "closed" else run.arrivals or "poisson"
        return run.mode, run.rate_offered, load, run.model if by_model else None

    places = {key(run): index for index, run in enumerate(old)}
    return [(index, places[key(run)]) for index, run in enumerate(new) if key(run) in places]


def _thinned(latencies_ns: np.ndarray) -> list[float]:
    """Latencies in microseconds in the order of time; every k-th where there are very many."""
    step = max(1, -(-len(latencies_ns) // _KEPT_LATENCIES))
    return [round(value / 1e3, 1) for value in latencies_ns[::step].tolist()]


def _blocks(values: np.ndarray) -> list[Sample]:
    return [Sample.of(block) for block in np.array_split(values, min(_BLOCKS, len(values) // 2))]

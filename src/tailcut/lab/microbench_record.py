"""Micro-benchmarks as JSON: results, with everything needed to check or repeat them; and changes between two."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from tailcut.atomic import write_atomically
from tailcut.errors import MissingFileError, UsageError
from tailcut.lab import records
from tailcut.lab.microbench import Benchmark, CandidateComparison, FunctionSamples
from tailcut.lab.records import EarlierMicrobench, FunctionChange, IntervalRecord, MicrobenchResult, to_json
from tailcut.stats import Line, Sample, Verdict, percentile, ratio_interval, verdict

NOISE = 0.05  # between two runs, which differ in memory addresses and the state of the machine
_BLOCKS = 10  # blocks into which a stored series is divided, because neighbours in time are correlated
_COUNTED = ("page_faults", "context_switches", "instructions", "cycles", "branch_misses", "cache_misses", "dtlb_misses")


def microbench_record(result: Benchmark, *, machine: Mapping[str, str | int | float], command: str) -> MicrobenchResult:
    """The record of a benchmark; times are nanoseconds per call, and unknown values None."""
    return MicrobenchResult(
        kind="microbench",
        functions=[_function(function) for function in result.functions],
        comparisons=[_comparison(comparison) for comparison in result.comparisons],
        overhead_ns=records.OverheadRecord(round(result.overhead.clock_ns, 2), round(result.overhead.loop_ns, 3)),
        noise=result.noise,
        seed=result.seed,
        machine=dict(machine),
        command=command,
    )


def save_microbench(path: Path, record: MicrobenchResult) -> None:
    """Write a record whole or not at all."""
    write_atomically(path, to_json(record, indented=True))


def read_microbench(path: Path, save_option: str = "--save") -> EarlierMicrobench:
    """Read a saved record.

    Args:
        path: of the file.
        save_option: the option that writes one, for messages.

    Raises:
        UsageError: the file is missing, or not such a record.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=EarlierMicrobench)
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such baseline: write one with {save_option}") from None
    except msgspec.ValidationError as error:
        raise UsageError(
            f"{path}: not a saved micro-benchmark: it has no functions with their samples: {error}"
        ) from None
    except (OSError, msgspec.DecodeError):
        raise UsageError(f"{path}: not a saved micro-benchmark (write one with {save_option})") from None


def changes(
    new: MicrobenchResult, old: MicrobenchResult | EarlierMicrobench, noise: float = NOISE, *, seed: int = 0
) -> list[FunctionChange]:
    """For each function in both records, the ratio of the medians, new to old, and the verdict.

    The two runs were not interleaved, so the ratio includes changes of the machine between them: the noise threshold is
    wider than within one run.
    """
    before = {function.name: function for function in old.functions}
    result: list[FunctionChange] = []
    for function in new.functions:
        if function.name in before:
            earlier = before[function.name]
            ratio = ratio_interval(_blocks(function.samples_ns), _blocks(earlier.samples_ns), 0.5, seed=seed)
            entry = IntervalRecord.rounded(ratio), verdict(ratio, noise), earlier.median_ns.point
            result.append(FunctionChange(function.name, *entry))
    return result


def grew_slower(entries: Sequence[FunctionChange]) -> bool:
    """Whether any function got worse."""
    return any(entry.verdict is Verdict.WORSE for entry in entries)


def _function(measured: FunctionSamples) -> records.FunctionResult:
    line, apart, sample = measured.line, measured.outliers, measured.sample
    fences = [round(fence, 3) for fence in apart.fences]
    return records.FunctionResult(
        name=measured.name,
        median_ns=IntervalRecord.rounded(measured.median, 3),
        slope_ns=None if line is None else _slope(line),
        intercept_ns=None if line is None else round(line.intercept, 1),
        min_ns=round(float(sample.values[0]), 3),
        p95_ns=None if measured.p95 is None else IntervalRecord.rounded(measured.p95, 3),
        max_ns=round(float(sample.values[-1]), 3),
        spread=round((percentile(sample, 0.75) - percentile(sample, 0.25)) / sample.median, 5),
        outliers=records.OutlierRecord(
            apart.low_severe,
            apart.low_mild,
            apart.high_mild,
            apart.high_severe,
            (fences[0], fences[1], fences[2], fences[3]),
        ),
        drift=records.Drift(round(measured.drift.change, 4), measured.drift.significant),
        warmup=records.WarmupRecord(measured.warmup.calls, measured.warmup.steady),
        counts=_counts(measured),
        samples=len(sample),
        samples_ns=[round(value, 3) for value in measured.ns.tolist()],
        loops=measured.loops.tolist(),
    )


def _slope(line: Line) -> records.Slope:
    at = IntervalRecord.rounded(line.slope, 3)
    return records.Slope(at.point, at.low, at.high, round(line.bend, 5))


def _counts(measured: FunctionSamples) -> dict[str, float]:
    """Counts per call, averaged over the longest loop; counters that this machine lacks are left out."""
    if measured.counts is None:
        return {}
    calls = int(measured.loops.max())
    whole = measured.counts.values()
    shares = {name: value / calls for name in _COUNTED if (value := whole[name]) is not None}
    ipc = {} if whole["ipc"] is None else {"ipc": round(whole["ipc"], 3)}
    return {name: float(f"{value:.4g}") for name, value in shares.items()} | ipc


def _comparison(comparison: CandidateComparison) -> records.FunctionComparison:
    return records.FunctionComparison(
        comparison.name, comparison.to, IntervalRecord.rounded(comparison.ratio), comparison.verdict
    )


def _blocks(values: Sequence[float]) -> list[Sample]:
    return [Sample.of(block) for block in np.array_split(np.asarray(values, float), min(_BLOCKS, len(values) // 2))]

"""Records like those of `tailcut bench` and `tailcut microbench`, from synthetic runs with known figures."""

from functools import cache, partial

import msgspec
import numpy as np
import pytest
from benchmarks.microbench_truth import DISTRIBUTIONS, Timer

from tailcut.lab import benchmark
from tailcut.lab.load import LoadResult
from tailcut.lab.microbench_record import microbench_record
from tailcut.lab.record import compare, run_record
from tailcut.lab.records import BenchResult, ExplainResult, MicrobenchResult, Run, RunComparison, SearchPoint
from tailcut.lab.saturation import Shown
from tailcut.runtime.tracing.attribution import explain
from tailcut.runtime.tracing.timeline import ProcessEvent
from tailcut.stats.bootstrap import ratio_interval

MACHINE = {"cpu": "a <b>processor</b>", "cpus": 2, "usable_cpus": 2, "python": "CPython 3.11"}


def run(rate: float, slower: float = 1.0, *, samples: int = 1000, late_ms: float = 0.0) -> Run:
    """An open-loop run whose latencies are 1 ms plus an exponential tail that grows with the rate."""
    random = np.random.default_rng(int(rate))
    latencies = (1e6 + random.exponential(rate * 2e3, samples)) * slower
    return run_record(
        LoadResult(
            mode="open",
            duration_s=5.0,
            rate_offered=rate,
            rate_achieved=rate,
            concurrency=8,
            latencies_ns=latencies,
            service_ns=latencies,
            errors={},
            lateness_p99_ns=late_ms * 1e6,
        )
    )


def point(item: Run, shown: Shown = Shown.UNCLEAR) -> SearchPoint:
    """The rate of a search at which this run was made."""
    figures = {name: getattr(item, name) for name in SearchPoint.__struct_fields__ if name != "shown"}
    return SearchPoint(**figures, shown=shown)


def bench(*runs: Run) -> BenchResult:
    """A load test of these runs."""
    return BenchResult(
        target="http://127.0.0.1:8000",
        runs=list(runs),
        machine=MACHINE,
        command="tailcut bench http://127.0.0.1:8000 --rate-sweep",
        seed=0,
        transport="HTTP over TCP, binary tensors",
    )


def against(new: BenchResult, old: BenchResult) -> BenchResult:
    """A load test with its comparison, run by run."""
    entries = [
        RunComparison(number, compare(item, other))
        for number, (item, other) in enumerate(zip(new.runs, old.runs, strict=True))
    ]
    return msgspec.structs.replace(new, comparison=entries)


def microbench(scales: dict[str, float], *, draw: str = "normal, 2 %") -> MicrobenchResult:
    """Functions whose calls take these microseconds, by a synthetic timer."""
    timer = Timer(1)
    functions = {name: timer.function(DISTRIBUTIONS[draw], scale=scale / 1e3) for name, scale in scales.items()}
    result = benchmark(functions, seconds=0.05, warmup_s=0.01, clock=timer.clock)
    return microbench_record(result, machine=MACHINE, command="tailcut microbench m:f")


RATES = (100.0, 500.0, 900.0)


@cache  # computed once, and not by processes that only collect the tests
def slower_bench() -> BenchResult:
    """A load test in which every percentile got worse, by just enough for a tenth of the draws to show it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tailcut.lab.record.ratio_interval", partial(ratio_interval, resamples=100))
        return against(bench(*(run(rate) for rate in RATES)), bench(*(run(rate, 0.7) for rate in RATES)))


@cache
def two_functions() -> MicrobenchResult:
    """A micro-benchmark of two functions, of which one takes twice as long."""
    return microbench({"m:quick<b>": 5.0, "m:slow": 10.0})


def explained(requests: int = 1000, processes: tuple[int, ...] = (41,)) -> ExplainResult:
    """A tail in which one request of a hundred waited for a collection of 20 ms; the rest take 700 us.

    The processes answered in turn.
    """
    stages = np.tile([50_000, 100_000, 10_000, 400_000, 90_000, 20_000, 30_000], (requests, 1))
    stages[::100, 1] += 20_000_000
    marks = np.cumsum(np.column_stack([np.arange(requests) * 50_000_000 + 1, stages]), axis=1)
    records = np.column_stack([marks, np.tile([1, 4, 256, 200], (requests, 1)), np.resize(processes, requests)])
    records = records.astype(np.int64)
    events = [
        ProcessEvent("gc", start, start + 20_000_000, 20_000_000, processes[0]) for start in records[::100, 1].tolist()
    ]
    tail = msgspec.structs.asdict(explain(records, events, max_batch_size=8))
    return ExplainResult(**tail, target="http://127.0.0.1:8000", model="m<b>", duration_s=50.0, missed=0)

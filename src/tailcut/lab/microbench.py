"""Micro-benchmarks of functions: warmed up, calibrated, interleaved, and reported with intervals.

A round takes one sample of every candidate, in random order, so that anything that affects the machine for longer than
a round affects all of them, and cancels out in their ratios. A sample times a loop of calls that is long enough for the
clock; the loop's length varies by round, so that a straight line through the totals checks the medians.

The harness has two costs: reading the clock, once per sample, and the empty loop, once per call. Both are measured
beforehand, subtracted, and reported. The call itself (about 30 ns in CPython) belongs to the function, and is included.
The garbage collector is left as the program sets it: collecting a function's garbage is part of its cost.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from itertools import repeat
from typing import Any

import numpy as np

from tailcut.errors import InvalidInputError
from tailcut.machine.counters import CounterValues, counters
from tailcut.stats import (
    Interval,
    Line,
    Outliers,
    Sample,
    Trend,
    Verdict,
    fit_line,
    median_interval,
    median_ratio_interval,
    outliers,
    percentile_interval,
    trend,
    verdict,
)

Clock = Callable[[], float]  # nanoseconds since any fixed time
Function = Callable[[], Any]

ROUNDS = 201  # odd: the median is then the point in the middle
_FEWEST_ROUNDS = 21
_WINDOW = 20  # the last chunks of a warm-up, which must show no trend
_CHUNKS = 100  # in the longest warm-up
_MOST_CHUNKS = 1000  # for any clock
_MOST_LOOPS = 1 << 20  # 20 ms of a function that does nothing
_TOLERANCE = 0.02  # the change over the window that is tolerated in a warm function
_ALIKE = 2.0  # a ratio of times
_SPREAD = (0.5, 1.0, 1.5)  # multiples of the calibrated loop's length, by round, for the regression


@dataclass(frozen=True, slots=True)
class Overhead:
    """The cost of the harness in nanoseconds, which is subtracted from every sample."""

    clock_ns: float
    loop_ns: float


@dataclass(frozen=True, slots=True)
class Warmup:
    """The warm-up of a function; `steady` is None where the function is too slow to tell in the time."""

    calls: int
    steady: bool | None
    per_call_ns: float


@dataclass(frozen=True)
class FunctionSamples:
    """A function's samples in the order of time: the time of each, without the harness, and its number of calls."""

    name: str
    totals_ns: np.ndarray
    loops: np.ndarray
    warmup: Warmup
    counts: CounterValues | None = None  # of one more loop of the longest size, after the rounds
    seed: int = 0

    @cached_property
    def ns(self) -> np.ndarray:
        """Nanoseconds per call, float64 [samples], in the order of time."""
        per_call: np.ndarray = self.totals_ns / self.loops
        return per_call

    @cached_property
    def sample(self) -> Sample:
        """The same figures, sorted."""
        return Sample.of(self.ns)

    @cached_property
    def median(self) -> Interval:
        """The median, with its 99 % bootstrap interval."""
        return median_interval(self.ns, seed=self.seed)

    @cached_property
    def p95(self) -> Interval | None:
        """The 0.95-percentile of the samples, with its interval; None for fewer than 90."""
        return percentile_interval(self.sample, 0.95)

    @cached_property
    def line(self) -> Line | None:
        """The line through totals against calls, whose slope is a call's time; None where every sample is one call."""
        return None if np.ptp(self.loops) == 0 else fit_line(self.loops, self.totals_ns, seed=self.seed)

    @cached_property
    def outliers(self) -> Outliers:
        """The outliers among the samples."""
        return outliers(self.sample)

    @cached_property
    def drift(self) -> Trend:
        """The trend of the function's time from the first round to the last."""
        return trend(self.ns)


@dataclass(frozen=True, slots=True)
class CandidateComparison:
    """The comparison of a candidate with the first: the ratio of their times (less is better), and the verdict."""

    name: str
    to: str
    ratio: Interval
    verdict: Verdict


@dataclass(frozen=True)
class Benchmark:
    """The result of a benchmark, by candidate in the given order."""

    functions: tuple[FunctionSamples, ...]
    overhead: Overhead
    noise: float
    seed: int = 0

    def __getitem__(self, name: str) -> FunctionSamples:
        return next(function for function in self.functions if function.name == name)

    @cached_property
    def comparisons(self) -> tuple[CandidateComparison, ...]:
        """The comparisons of every other candidate with the first."""
        first, *others = self.functions
        ratios = [median_ratio_interval(other.ns, first.ns, seed=self.seed) for other in others]
        return tuple(
            CandidateComparison(other.name, first.name, ratio, verdict(ratio, self.noise))
            for other, ratio in zip(others, ratios, strict=True)
        )


def benchmark(  # noqa: PLR0913  a benchmark is its parameters
    candidates: Function | Sequence[Function] | Mapping[str, Function],
    *,
    seconds: float = 1.0,
    rounds: int = ROUNDS,
    warmup_s: float = 1.0,
    noise: float = 0.01,
    seed: int = 0,
    clock: Clock = time.perf_counter_ns,
) -> Benchmark:
    """Measure functions without arguments, interleaved.

    Args:
        candidates: a function, several, or several by name; the others are compared with the first.
        seconds: sampling time for each candidate; a slow function gets at least 21 samples, however long they take.
        rounds: the number of samples of each candidate; an even number is raised by one.
        warmup_s: the longest warm-up of each, in seconds; it ends as soon as the time is stable.
        noise: a smaller difference than this share is not significant.
        seed: of the order within rounds, and of the intervals.
        clock: returns nanoseconds.

    Raises:
        InvalidInputError: there is no candidate, a figure is out of range, or a function is a coroutine or generator
            function, or too fast for the clock.
    """
    functions = named(candidates)
    for name, function in functions.items():
        if iscoroutinefunction(function) or isgeneratorfunction(function) or isasyncgenfunction(function):
            raise InvalidInputError(
                f"{name}: calling it runs none of its body: give a function that runs it to its end"
            )
    if not functions or seconds <= 0 or rounds < _FEWEST_ROUNDS or warmup_s < 0 or noise < 0:
        raise InvalidInputError(
            f"a benchmark needs a function, some seconds, at least {_FEWEST_ROUNDS} rounds, and no negative numbers"
        )
    overhead = measure_overhead(clock)
    warmups = {name: _warm_up(function, overhead, clock, warmup_s) for name, function in functions.items()}
    slowest = max(warmup.per_call_ns for warmup in warmups.values())
    quickest = min(warmup.per_call_ns for warmup in warmups.values())
    rounds = max(_FEWEST_ROUNDS, min(rounds, int(seconds * 1e9 / slowest))) | 1
    sample_ns = seconds * 1e9 / rounds
    # The median of sums of skewed times depends on the number of calls: candidates of similar speed get equal loops.
    alike = slowest <= _ALIKE * quickest
    loops = {
        name: _loops(sample_ns / (slowest if alike else warmup.per_call_ns), rounds) for name, warmup in warmups.items()
    }
    totals = {name: np.empty(rounds) for name in functions}
    random = np.random.default_rng(seed)
    for number in range(rounds):
        for name in random.permutation(list(functions)).tolist():
            totals[name][number] = _timed(functions[name], int(loops[name][number]), clock)
    measured = [
        FunctionSamples(
            name,
            _net(totals[name], loops[name], overhead, name),
            loops[name],
            warmups[name],
            _counted(functions[name], int(loops[name].max())),
            seed,
        )
        for name in functions
    ]
    return Benchmark(tuple(measured), overhead, noise, seed)


def named(candidates: Function | Sequence[Function] | Mapping[str, Function]) -> dict[str, Function]:
    """Candidates by name; where functions share a name, later ones are numbered."""
    if isinstance(candidates, Mapping):
        return dict(candidates)
    functions: dict[str, Function] = {}
    for function in candidates if isinstance(candidates, Sequence) else [candidates]:
        base = getattr(function, "__name__", None) or type(function).__name__
        name = base if base not in functions else f"{base} #{len(functions) + 1}"
        functions[name] = function
    return functions


def measure_overhead(clock: Clock = time.perf_counter_ns) -> Overhead:
    """The cost of reading the clock, and of one turn of the empty loop: medians of 101 tries."""
    loops = 1000
    reads = [-(clock() - clock()) for _ in range(101)]
    clock_ns = float(np.median(reads))
    empty = [(_timed_nothing(loops, clock) - clock_ns) / loops for _ in range(101)]
    return Overhead(clock_ns, max(0.0, float(np.median(empty))))


def _timed(function: Function, loops: int, clock: Clock) -> float:
    calls = repeat(None, loops)
    start = clock()
    for _ in calls:
        function()
    return clock() - start


def _timed_nothing(loops: int, clock: Clock) -> float:
    calls = repeat(None, loops)
    start = clock()
    for _ in calls:
        pass
    return clock() - start


def _counted(function: Function, calls: int) -> CounterValues:
    """The counters of the processor and the kernel for a loop of calls, including the loop itself."""
    with counters() as region:
        for _ in repeat(None, calls):
            function()
    return region.counts


def _net(totals: np.ndarray, loops: np.ndarray, overhead: Overhead, name: str) -> np.ndarray:
    net: np.ndarray = totals - overhead.clock_ns - loops * overhead.loop_ns
    if net.min() <= 0:
        raise InvalidInputError(f"{name} is as fast as an empty loop: there is nothing to measure")
    return net


def _warm_up(function: Function, overhead: Overhead, clock: Clock, most_s: float) -> Warmup:
    """Call a function until its time is stable, or the time limit is reached.

    Chunks of calls grow until they take a hundredth of the longest warm-up; the last twenty must show no trend.
    """
    chunk_ns = max(most_s * 1e9 / _CHUNKS, 1e5)
    series: list[float] = []
    loops, calls, steady = 1, 0, None
    start = clock()
    while len(series) < _MOST_CHUNKS:
        took = _timed(function, loops, clock) - overhead.clock_ns
        calls += loops
        series.append(took / loops)
        if took < chunk_ns / 2 and loops < _MOST_LOOPS:
            loops *= 2
            continue  # too short so far
        if len(series) >= _WINDOW and len(series) % 5 == 0:
            steady = trend(np.array(series[-_WINDOW:])).steady(_TOLERANCE)
        if steady or clock() - start >= most_s * 1e9:
            break
    latest = float(np.median(series[-_WINDOW // 2 :]))
    if latest <= 0:
        raise InvalidInputError("a function is faster than the clock's resolution: there is nothing to measure")
    return Warmup(calls, steady, latest)


def _loops(calls: float, rounds: int) -> np.ndarray:
    """The number of calls of each sample: about `calls`, with three different lengths in turn if they are enough."""
    if calls < 4:
        return np.full(rounds, max(1, round(calls)))
    shares = np.resize(_SPREAD, rounds)
    result: np.ndarray = np.maximum(1, np.rint(np.minimum(calls, _MOST_LOOPS) * shares)).astype(int)
    return result

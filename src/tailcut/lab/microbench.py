"""Micro-benchmarks of functions: warmed up, calibrated, interleaved, and said with intervals.

A round takes one sample of every candidate, in an order drawn anew, so that what the machine does for longer than a
round happens to all of them and divides out of their ratios. A sample times a loop of calls, long enough for the clock;
the loop's length varies by round, so that a straight line through the totals checks the medians.

The harness costs two things: reading the clock, once a sample, and the empty loop, once a call. Both are measured
beforehand, subtracted, and reported. The call itself (some 30 ns in CPython) belongs to the function and stays. The
garbage collector stays as the program has it: what a function throws away is part of its price.
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

Clock = Callable[[], float]  # nanoseconds from any fixed point on
Function = Callable[[], Any]

ROUNDS = 201  # odd: the median is then the point in the middle
_FEWEST_ROUNDS = 21
_WINDOW = 20  # the latest chunks of a warm-up, which must not move
_CHUNKS = 100  # in the longest warm-up
_MOST_CHUNKS = 1000  # whatever the clock says
_MOST_LOOPS = 1 << 20  # 20 ms of a function that does nothing
_TOLERANCE = 0.02  # by which a warm function may still move over the window
_ALIKE = 2.0  # times as slow
_SPREAD = (0.5, 1.0, 1.5)  # of the calibrated loop's length, round by round: the places of the regression


@dataclass(frozen=True, slots=True)
class Overhead:
    """What the harness itself costs, in nanoseconds; subtracted from every sample."""

    clock_ns: float
    loop_ns: float


@dataclass(frozen=True, slots=True)
class Warmup:
    """What it took until a function's time stood still; `steady` is None where it is too slow to tell in the time."""

    calls: int
    steady: bool | None
    per_call_ns: float


@dataclass(frozen=True)
class FunctionSamples:
    """One function's samples in the order of time: how long each took, less the harness, and its number of calls."""

    name: str
    totals_ns: np.ndarray
    loops: np.ndarray
    warmup: Warmup
    counts: CounterValues | None = None  # of one more loop, the longest, after the rounds
    seed: int = 0

    @cached_property
    def ns(self) -> np.ndarray:
        """Nanoseconds a call, one figure a sample."""
        per_call: np.ndarray = self.totals_ns / self.loops
        return per_call

    @cached_property
    def sample(self) -> Sample:
        """The same, sorted."""
        return Sample.of(self.ns)

    @cached_property
    def median(self) -> Interval:
        """The median, with its 99 % bootstrap interval."""
        return median_interval(self.ns, seed=self.seed)

    @cached_property
    def p95(self) -> Interval | None:
        """The 0.95-percentile of the samples; None below 90."""
        return percentile_interval(self.sample, 0.95)

    @cached_property
    def line(self) -> Line | None:
        """Totals against calls, whose slope is the time of a call; None where every sample is one call."""
        return None if np.ptp(self.loops) == 0 else fit_line(self.loops, self.totals_ns, seed=self.seed)

    @cached_property
    def outliers(self) -> Outliers:
        """Samples that stand apart."""
        return outliers(self.sample)

    @cached_property
    def drift(self) -> Trend:
        """How the function's time moved from the first round to the last."""
        return trend(self.ns)


@dataclass(frozen=True, slots=True)
class CandidateComparison:
    """One candidate against the first: the ratio of its time, less is better, and what that proves."""

    name: str
    to: str
    ratio: Interval
    verdict: Verdict


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark found, by candidate in the order they were given."""

    functions: tuple[FunctionSamples, ...]
    overhead: Overhead
    noise: float
    seed: int = 0

    def __getitem__(self, name: str) -> FunctionSamples:
        return next(function for function in self.functions if function.name == name)

    @cached_property
    def comparisons(self) -> tuple[CandidateComparison, ...]:
        """Every other candidate against the first."""
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
    """Measure functions without arguments, side by side.

    Args:
        candidates: a function, several, or several by name; the others are compared with the first.
        seconds: of sampling, for each candidate; a slow function gets at least 21 samples, however long they take.
        rounds: samples of each candidate; an even number is raised by one.
        warmup_s: the longest warm-up of each; it ends as soon as the time stands still.
        noise: a difference smaller than this share is none.
        seed: of the order within the rounds and of the intervals.
        clock: gives nanoseconds.

    Raises:
        InvalidInputError: no candidate, a figure out of range, a coroutine or generator function, or a function faster
            than the clock can tell.
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
    # The median of sums of skewed times moves with the number of calls: candidates of about one speed get equal loops.
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
    """Candidates by name; where two functions share a name, the later one is numbered."""
    if isinstance(candidates, Mapping):
        return dict(candidates)
    functions: dict[str, Function] = {}
    for function in candidates if isinstance(candidates, Sequence) else [candidates]:
        base = getattr(function, "__name__", None) or type(function).__name__
        name = base if base not in functions else f"{base} #{len(functions) + 1}"
        functions[name] = function
    return functions


def measure_overhead(clock: Clock = time.perf_counter_ns) -> Overhead:
    """What reading the clock costs, and one turn of the empty loop: medians of 101 tries."""
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
    """What the processor and the kernel count in a loop of calls, the loop's own few instructions among them."""
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
    """Call a function until its time stands still, or the time for it is over.

    Chunks of calls grow until they last a hundredth of the longest warm-up; the latest twenty must show no trend.
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
            continue  # not yet long enough to tell anything
        if len(series) >= _WINDOW and len(series) % 5 == 0:
            steady = trend(np.array(series[-_WINDOW:])).steady(_TOLERANCE)
        if steady or clock() - start >= most_s * 1e9:
            break
    latest = float(np.median(series[-_WINDOW // 2 :]))
    if latest <= 0:
        raise InvalidInputError("a function is faster than the clock's resolution: there is nothing to measure")
    return Warmup(calls, steady, latest)


def _loops(calls: float, rounds: int) -> np.ndarray:
    """Calls of each sample: about as many as asked for; of three lengths in turn where there are enough."""
    if calls < 4:
        return np.full(rounds, max(1, round(calls)))
    shares = np.resize(_SPREAD, rounds)
    result: np.ndarray = np.maximum(1, np.rint(np.minimum(calls, _MOST_LOOPS) * shares)).astype(int)
    return result

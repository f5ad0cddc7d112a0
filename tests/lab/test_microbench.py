"""Micro-benchmarks on synthetic timers whose truth is known, and on a real clock where only the order is known."""

import math
import mmap
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

import numpy as np
import pytest
from benchmarks.microbench_truth import (
    CALL_NS,
    DISTRIBUTIONS,
    Draw,
    Timer,
    found,
    median_coverage,
    pair,
    slope_coverage,
)
from tests.effort import runs

from tailcut.errors import InvalidInputError
from tailcut.lab import benchmark
from tailcut.lab.microbench import measure_overhead, named
from tailcut.stats import Verdict, verdict

SLOPES = ["lognormal, 5 %", "exponential"]


def constant(random: np.random.Generator, size: int) -> np.ndarray:
    return np.ones(size)


@pytest.mark.slow
@pytest.mark.parametrize("draw", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_the_medians_interval_covers(draw: Draw) -> None:
    """The 99 % interval of a function's median holds the truth in 98 to 100 % of 250 seeded runs."""
    assert 0.98 <= median_coverage(draw, 250) <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("draw", [DISTRIBUTIONS[name] for name in SLOPES], ids=SLOPES)
def test_the_slopes_interval_covers(draw: Draw) -> None:
    """The regression's 99 % interval holds the true mean of a call in at least 98 % of seeded runs."""
    assert slope_coverage(draw, runs(400)) >= 0.98


def test_equal_samples_are_not_distinguished() -> None:
    """Comparisons of a function with itself cry wolf in under 2 %, with no noise threshold, also under drift."""
    draws = list(DISTRIBUTIONS.values())
    cried = 0
    for seed in range(runs(500)):
        comparison = pair(seed, draws[seed % len(draws)], drift=seed % 3).comparisons[0]
        cried += verdict(comparison.ratio, 0.0) is not Verdict.INDISTINCT
    assert cried < runs(500) / 50


@pytest.mark.parametrize(("name", "least"), [("normal, 2 %", 0.95), ("lognormal, 5 %", 0.3), ("two humps", 0.9)])
def test_a_true_change_of_3_percent_is_found(name: str, least: float) -> None:
    """A function 3 % slower is called worse as often as its noise allows; it is never called better."""
    assert found(DISTRIBUTIONS[name], 1.03, runs(60), rounds=201) >= least
    verdicts = [pair(seed, DISTRIBUTIONS[name], 1.03).comparisons[0].verdict for seed in range(runs(60))]
    assert Verdict.BETTER not in verdicts


def test_less_than_the_threshold_is_no_change() -> None:
    """A difference of half a per cent, though plain, is indistinct at a threshold of one."""
    comparison = pair(1, constant, 1.005).comparisons[0]
    assert comparison.ratio.low == pytest.approx(1.005)
    assert comparison.verdict is Verdict.INDISTINCT


def test_what_the_clock_costs_is_subtracted() -> None:
    """With a clock that takes 300 us to read, a call of one millisecond is still one millisecond."""
    timer = Timer(0, read_ns=300_000)
    done = benchmark(timer.function(constant), seconds=0.1, rounds=51, warmup_s=0.05, clock=timer.clock)
    assert done.overhead.clock_ns == 300_000
    assert done.functions[0].median.point == pytest.approx(CALL_NS)


def test_what_the_empty_loop_costs_is_measured() -> None:
    """On a real clock a turn of the empty loop takes some time, and less than a microsecond at the median."""
    overhead = measure_overhead()
    assert 0 < overhead.loop_ns < 1000
    assert overhead.clock_ns > 0


def test_loops_are_calibrated_and_give_a_line() -> None:
    """Calls of 10 us in samples of 1 ms come to loops of 50, 100 and 150, whose totals lie on a line through 0."""
    timer = Timer(0)
    call = timer.function(constant, scale=0.01)
    function = benchmark(call, seconds=0.201, rounds=201, warmup_s=0.01, clock=timer.clock).functions[0]
    assert sorted(set(function.loops.tolist())) == [50, 100, 150]
    assert function.line is not None
    assert function.line.slope.point == pytest.approx(1e4)
    assert function.line.intercept == pytest.approx(0, abs=1)
    assert function.line.bend == pytest.approx(0, abs=1e-9)


def test_candidates_of_about_one_speed_get_the_same_loops() -> None:
    """Skewed times, whose median moves with the calls summed up, are compared over equally many calls; a far slower
    candidate has loops of its own."""
    timer = Timer(0)
    skewed = DISTRIBUTIONS["exponential"]
    functions = {name: timer.function(skewed, scale=scale) for name, scale in (("a", 0.1), ("b", 0.12), ("slow", 3.0))}
    pair_of = {name: functions[name] for name in ("a", "b")}
    alike = benchmark(pair_of, seconds=0.1, rounds=101, warmup_s=0.02, clock=timer.clock)
    assert alike["a"].loops.tolist() == alike["b"].loops.tolist()
    apart = benchmark(functions, seconds=0.5, rounds=101, warmup_s=0.02, clock=timer.clock)
    assert apart["a"].loops.sum() > 5 * apart["slow"].loops.sum()


def test_a_slow_function_gets_fewer_rounds_of_one_call() -> None:
    """Where a call outlasts its share of the time, a sample is one call, and there are never under 21 of them."""
    timer = Timer(0)
    function = benchmark(timer.function(constant), seconds=0.005, warmup_s=0.01, clock=timer.clock).functions[0]
    assert function.loops.tolist() == [1] * 21
    assert function.line is None
    assert function.p95 is None


def cooling(timer: Timer, calls: int) -> Callable[[], None]:
    """A function that takes ten times as long at first and is done cooling after so many calls."""
    made = iter(range(1_000_000_000))

    def call() -> None:
        timer.now += CALL_NS * (1 + 9 * math.exp(-5 * next(made) / calls))

    return call


def test_warming_up_waits_until_the_time_stands_still() -> None:
    """A function that cools over 60 calls is measured after that: its median is the cool time, to 1 %."""
    timer = Timer(0)
    function = benchmark(cooling(timer, 60), seconds=0.1, warmup_s=1.0, clock=timer.clock).functions[0]
    assert function.warmup.calls >= 60
    assert function.warmup.steady is True
    assert function.median.point == pytest.approx(CALL_NS, rel=0.01)


def test_warming_up_is_bounded_and_says_when_it_was_cut() -> None:
    """A function that never stands still is measured after the longest warm-up, and both say so."""
    timer = Timer(0)
    done = benchmark(cooling(timer, 3000), seconds=0.1, warmup_s=0.2, clock=timer.clock).functions[0]
    assert done.warmup.steady is False
    assert done.drift.significant
    assert done.drift.change < -0.02


def test_outliers_are_counted_and_kept() -> None:
    """Every twentieth call ten times as long: severe outliers by number, still among the samples."""
    timer = Timer(0)
    made = iter(range(10_000))

    def call() -> None:
        timer.now += CALL_NS * (10 if next(made) % 20 == 19 else timer.random.normal(1, 0.01))

    function = benchmark(call, seconds=0.2, rounds=201, warmup_s=0.02, clock=timer.clock).functions[0]
    assert 9 <= function.outliers.high_severe <= 11
    assert (function.ns > 9 * CALL_NS).sum() == function.outliers.high_severe


def test_a_real_slowdown_is_found_on_a_real_clock() -> None:
    """Summing twice as many numbers takes longer, by interval, on whatever machine this runs."""
    few, many = list(range(500)), list(range(1000))
    done = benchmark({"few": lambda: sum(few), "many": lambda: sum(many)}, seconds=0.1, warmup_s=0.05)
    assert done.comparisons[0].verdict is Verdict.WORSE
    assert done["few"].median.point < done["many"].median.point


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted on Linux")
def test_what_a_call_costs_the_kernel_is_counted() -> None:
    """A function that maps new memory and touches it has a page fault for every page, on whatever machine this runs."""

    def touch() -> None:
        with mmap.mmap(-1, 64 * mmap.PAGESIZE) as memory:
            for page in range(64):
                memory[page * mmap.PAGESIZE] = 1

    function = benchmark(touch, seconds=0.02, warmup_s=0.01).functions[0]
    assert function.counts is not None
    assert function.counts.page_faults >= 60 * function.loops.max()


def test_names_come_from_the_functions() -> None:
    """A function, a list of them, or names of one's own; a second function of a name is numbered."""
    assert list(named(time.time)) == ["time"]
    assert list(named([sum, max, sum])) == ["sum", "max", "sum #3"]
    assert list(named({"mine": sum})) == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"candidates": {}}, "a function"), ({"rounds": 5}, "at least 21 rounds"), ({"seconds": 0}, "some seconds")],
)
def test_what_is_no_benchmark(arguments: dict, words: str) -> None:
    """Nothing to measure, or too little of it, is refused before anything runs."""
    with pytest.raises(InvalidInputError, match=words):
        benchmark(**({"candidates": time.time} | arguments))


def test_a_function_that_takes_no_time_is_refused() -> None:
    """Where the clock does not move there is nothing to measure, and a line says so."""
    with pytest.raises(InvalidInputError, match="nothing to measure"):
        benchmark(lambda: None, clock=lambda: 0.0)


async def coroutine() -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def asynchronous_generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [coroutine, generator, asynchronous_generator, partial(coroutine)])
def test_what_only_makes_a_coroutine_or_a_generator_is_refused(function: Callable) -> None:
    """Its call would be measured, and none of its body."""
    with pytest.raises(InvalidInputError, match=r"^\w+: calling it runs none of its body: "):
        benchmark(function)

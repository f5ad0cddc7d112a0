"""Are the intervals of micro-benchmarks true? Synthetic timers of known distributions, and a function against itself.

    python benchmarks/microbench_truth.py [--runs 1000] [--alike 100]

A synthetic timer is a clock that its function moves: the whole of `tailcut.lab.benchmark` runs on it, from the warm-up
to the verdict, and the truth is known. Prints, beside their limits: how often the 99 % intervals hold the truth, how
often a function is called different from itself, and how often a true difference is found. Then it measures a real
function against itself on this machine, which is what synthetic timers cannot vouch for.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

from tailcut.lab import benchmark
from tailcut.lab.microbench import Benchmark
from tailcut.machine.fingerprint import fingerprint
from tailcut.stats import Verdict, verdict

ROUNDS = 101
CALL_NS = 1e6
CHANGES = (1.01, 1.02, 1.03, 1.05)
COVERED, CRIED = 0.98, 0.02  # the limits
Draw = Callable[[np.random.Generator, int], np.ndarray]

# Times of a call as multiples of CALL_NS.
DISTRIBUTIONS: dict[str, Draw] = {
    "normal, 2 %": lambda random, size: random.normal(1, 0.02, size),
    "lognormal, 5 %": lambda random, size: random.lognormal(0, 0.05, size),
    "exponential": lambda random, size: 0.5 + random.exponential(0.5, size),
    "two humps": lambda random, size: np.where(random.random(size) < 0.8, 1, 1.6) * random.normal(1, 0.02, size),
    "heavy tail": lambda random, size: 0.9 + 0.1 * random.pareto(1.5, size),
}


class Timer:
    """A clock in nanoseconds, and functions that do nothing but move it."""

    def __init__(self, seed: int, *, read_ns: float = 0.0) -> None:
        self.now = 0.0
        self.read_ns = read_ns
        self.random = np.random.default_rng(seed)

    def clock(self) -> float:
        """Reading takes its time too."""
        self.now += self.read_ns
        return self.now

    def function(self, draw: Draw, *, scale: float = 1.0, drift: float = 0.0) -> Callable[[], None]:
        """A function with such times; `drift` makes everything slower by that share per second of the clock."""
        times = self._times(draw)

        def call() -> None:
            self.now += next(times) * scale * CALL_NS * (1 + drift * self.now / 1e9)

        return call

    def _times(self, draw: Draw) -> Iterator[float]:
        while True:
            yield from np.maximum(draw(self.random, 256), 1e-3).tolist()


def pair(seed: int, draw: Draw, scale: float = 1.0, *, rounds: int = ROUNDS, drift: float = 0.0) -> Benchmark:
    """One benchmark of a function and the same function with its times scaled; every sample is one call."""
    timer = Timer(seed)
    functions = {
        "old": timer.function(draw, drift=drift),
        "new": timer.function(draw, scale=scale, drift=drift),
    }
    return benchmark(
        functions, seconds=rounds * CALL_NS / 1e9, rounds=rounds, warmup_s=0.02, seed=seed, clock=timer.clock
    )


def single(seed: int, draw: Draw, calls: int = 1) -> Benchmark:
    """One benchmark of one function, with so many calls to a sample, on a clock that takes 40 ns to read."""
    timer = Timer(seed, read_ns=40.0)
    seconds = ROUNDS * calls * CALL_NS / 1e9
    return benchmark(timer.function(draw), seconds=seconds, rounds=ROUNDS, warmup_s=0.02, seed=seed, clock=timer.clock)


@cache
def true_median(draw: Draw, calls: int) -> float:
    """The true median of the mean of so many calls, from two million draws."""
    values = draw(np.random.default_rng(99), 2_000_000 // calls * calls)
    return float(np.median(values.reshape(-1, calls).mean(axis=1))) * CALL_NS


def true_mean(draw: Draw) -> float:
    """The true mean of a call, from two million draws."""
    return float(draw(np.random.default_rng(99), 2_000_000).mean()) * CALL_NS


def median_coverage(draw: Draw, runs: int) -> float:
    """How often the median's interval holds the true median."""
    held = 0
    for seed in range(runs):
        function = single(seed, draw)["call"]
        truth = true_median(draw, int(function.loops[0]))  # one call a sample, or two where the warm-up was quick
        held += function.median.low <= truth <= function.median.high
    return held / runs


def slope_coverage(draw: Draw, runs: int) -> float:
    """How often the regression's interval holds the true mean, with about eight calls to a sample."""
    truth, held = true_mean(draw), 0
    for seed in range(runs):
        line = single(seed, draw, calls=8)["call"].line
        held += line is not None and line.slope.low <= truth <= line.slope.high
    return held / runs


def found(  # noqa: PLR0913  a cell of the table is its parameters
    draw: Draw, scale: float, runs: int, *, rounds: int = ROUNDS, noise: float = 0.01, drift: float = 0.0
) -> float:
    """How often two functions are called different."""
    ratios = (pair(seed, draw, scale, rounds=rounds, drift=drift).comparisons[0].ratio for seed in range(runs))
    return sum(verdict(ratio, noise) is not Verdict.INDISTINCT for ratio in ratios) / runs


def alike(runs: int, seconds: float) -> dict[float, float]:
    """How often a real function is called different from itself, at noise thresholds of 0 and 1 %."""
    values = list(range(500))
    cried = {0.0: 0, 0.01: 0}
    for seed in range(runs):
        functions = {"old": lambda: sum(values), "new": lambda: sum(values)}
        ratio = benchmark(functions, seconds=seconds, warmup_s=0.05, seed=seed).comparisons[0].ratio
        for noise in cried:
            cried[noise] += verdict(ratio, noise) is not Verdict.INDISTINCT
    return {noise: count / runs for noise, count in cried.items()}


def said(share: float, *, good: bool) -> str:
    return f"{share:7.1%}{' ' if good else '!'}"


def main() -> None:
    options = argparse.ArgumentParser(description="the truth of micro-benchmarks' intervals")
    options.add_argument("--runs", type=int, default=1000, help="of each synthetic row; default %(default)s")
    options.add_argument("--alike", type=int, default=100, help="real comparisons; default %(default)s")
    chosen = options.parse_args()
    runs = chosen.runs
    print(f"{fingerprint()['cpu']}; {runs} runs a figure, {ROUNDS} rounds a run; ! marks a figure over its limit\n")
    print(f"{'':16} {'median held':>12} {'mean held':>12} {'A/A, noise 0':>14} {'noise 1 %':>10} {'and drift':>10}")
    for name, draw in DISTRIBUTIONS.items():
        held = median_coverage(draw, runs)
        # The heavy tail has no variance, so that no interval for its mean can be promised.
        mean = None if name == "heavy tail" else slope_coverage(draw, runs)
        cried = [
            found(draw, 1.0, runs, noise=0.0),
            found(draw, 1.0, runs),
            found(draw, 1.0, runs, noise=0.0, drift=1.0),
        ]
        row = [said(held, good=held >= COVERED), "      - " if mean is None else said(mean, good=mean >= COVERED)]
        row += [said(share, good=share < CRIED) for share in cried]
        print(f"{name:16} {row[0]:>12} {row[1]:>12} {row[2]:>14} {row[3]:>10} {row[4]:>10}")
    print(f"limits: held at least {COVERED:.0%}, called different from itself under {CRIED:.0%}\n")
    print("power: a true difference found, noise threshold 1 %, 201 rounds")
    print(f"{'':16} " + " ".join(f"{scale - 1:>7.0%}" for scale in CHANGES))
    for name, draw in DISTRIBUTIONS.items():
        shares = [found(draw, scale, runs // 4, rounds=201) for scale in CHANGES]
        print(f"{name:16} " + " ".join(f"{share:>7.0%}" for share in shares))
    if chosen.alike:
        shares_alike = alike(chosen.alike, 0.1)
        print(f"\na real function against itself, {chosen.alike} times, 0.1 s each: called different")
        for noise, share in shares_alike.items():
            # Real samples are not independent of each other: only the verdict as it is given has the limit.
            print(f"  noise {noise:.0%}: {said(share, good=share < CRIED or noise == 0)}")


if __name__ == "__main__":
    main()

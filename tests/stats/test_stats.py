"""The figures are true: intervals cover what they say, and noise is not taken for news."""

import numpy as np
import pytest

from tailcut.errors import InvalidInputError
from tailcut.stats import (
    Interval,
    Sample,
    Verdict,
    paired_ratio_interval,
    percentile,
    percentile_interval,
    ratio_interval,
    samples_needed,
    verdict,
)
from tailcut.stats.bootstrap import _expanded
from tailcut.stats.sample import CONFIDENCE


@pytest.mark.parametrize(("q", "needed"), [(0.5, 7), (0.95, 90), (0.99, 459), (0.999, 4603)])
def test_samples_needed(q: float, needed: int) -> None:
    """The known sizes at 99 % confidence; one point fewer and the percentile is unknown."""
    assert samples_needed(q) == needed
    points = np.arange(needed, dtype=float)
    assert percentile_interval(Sample.of(points), q) is not None
    assert percentile_interval(Sample.of(points[1:]), q) is None


@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan], [1.0, np.inf]])
def test_what_is_no_sample(values: list[float]) -> None:
    """Fewer than two points, or points that are no numbers."""
    with pytest.raises(InvalidInputError):
        Sample.of(values)


def test_percentiles_are_points_of_the_sample() -> None:
    """No interpolation: of 1 to 100 the 99th percentile is 99."""
    sample = Sample.of(np.arange(100, 0, -1))
    assert [percentile(sample, q) for q in (0.01, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["exponential", "lognormal", "uniform", "two humps"])
@pytest.mark.parametrize(("q", "n"), [(0.5, 100), (0.95, 500), (0.99, 600), (0.99, 3000)])
def test_intervals_cover(distribution: str, q: float, n: int) -> None:
    """The 99 % interval holds the true quantile in at least 98 % of 600 seeded runs."""
    random = np.random.default_rng(7)
    draw = {
        "exponential": lambda size: random.exponential(size=size),
        "lognormal": lambda size: random.lognormal(sigma=1.5, size=size),
        "uniform": random.random,
        "two humps": lambda size: np.where(
            random.random(size) < 0.9, random.normal(1, 0.1, size), random.normal(5, 1, size)
        ),
    }[distribution]
    truth = np.quantile(draw(2_000_000), q)
    held = 0
    for _ in range(600):
        interval = percentile_interval(Sample.of(draw(n)), q)
        assert interval is not None
        held += interval.low <= truth <= interval.high
    assert held / 600 >= 0.98


def blocks(random: np.random.Generator, scale: float, drift: np.ndarray, size: int) -> list[Sample]:
    return [Sample.of(random.lognormal(sigma=0.3, size=size) * scale * factor) for factor in drift]


@pytest.mark.slow
def test_equal_samples_are_not_distinguished() -> None:
    """A/A comparisons on a machine that drifts cry wolf in under 2 % of 150 seeded runs."""
    random = np.random.default_rng(1)
    cried = 0
    for seed in range(150):
        drift = random.lognormal(sigma=0.1, size=6)
        sides = [blocks(random, 1.0, drift, 100) for _ in range(2)]
        cried += verdict(ratio_interval(*sides, 0.95, resamples=200, seed=seed)) is not Verdict.INDISTINCT
    assert cried <= 3


@pytest.mark.slow
def test_a_true_difference_is_found() -> None:
    """A tail a quarter shorter is called better, whatever the machine's drift."""
    random = np.random.default_rng(2)
    result = 0
    for seed in range(20):
        drift = random.lognormal(sigma=0.1, size=8)
        ratio = ratio_interval(
            blocks(random, 0.75, drift, 200), blocks(random, 1.0, drift, 200), 0.99, resamples=300, seed=seed
        )
        assert ratio.low < 0.78
        result += verdict(ratio) is Verdict.BETTER
    assert result >= 16


def queues(random: np.random.Generator, count: int, size: int, load: float) -> list[Sample]:
    """Blocks of the waiting times behind one server of constant service times, each in its steady state."""
    walk = np.cumsum(1 - random.exponential(1 / load, (count, size + 200)), axis=1)
    return [Sample.of(times[200:]) for times in walk - np.minimum.accumulate(walk, axis=1) + 1]


@pytest.mark.parametrize(
    ("q", "load", "count", "size", "runs"),
    [
        (0.99, 0.7, 3, 170, 30),
        pytest.param(0.99, 0.7, 3, 170, 150, marks=pytest.mark.slow),
        pytest.param(0.99, 0.7, 8, 60, 150, marks=pytest.mark.slow),
        pytest.param(0.99, 0.7, 8, 190, 100, marks=pytest.mark.slow),
        pytest.param(0.99, 0.5, 4, 130, 150, marks=pytest.mark.slow),
        pytest.param(0.95, 0.5, 3, 35, 150, marks=pytest.mark.slow),
    ],
)
def test_equal_queues_are_rarely_distinguished(q: float, load: float, count: int, size: int, runs: int) -> None:
    """In at most 4 % of runs, where one is promised, even where a block's requests wait for one another."""
    random = np.random.default_rng(4)
    cried = 0
    for seed in range(runs):
        ratio = ratio_interval(
            *(queues(random, count, size, load) for _ in range(2)), q, resamples=200 if runs < 50 else 1000, seed=seed
        )
        cried += not ratio.low <= 1 <= ratio.high
    assert cried <= 0.04 * runs


@pytest.mark.slow
def test_half_the_tail_is_found_in_a_queue() -> None:
    """In at least 70 % of runs of eight blocks and 1,500 requests a side at 70 % load."""
    random = np.random.default_rng(5)
    result = 0
    for seed in range(20):
        new, old = (queues(random, 8, 190, 0.7) for _ in range(2))
        halved = [Sample.of(block.values / 2) for block in new]
        result += verdict(ratio_interval(halved, old, 0.99, resamples=400, seed=seed)) is Verdict.BETTER
    assert result >= 14


def test_few_blocks_prove_only_clear_gains() -> None:
    """Three pairs that all happen to be shorter by a fifth or a third are no proof; three of a tenth are."""
    random = np.random.default_rng(6)
    old = [Sample.of(random.normal(100, 1, 200)) for _ in range(3)]
    some, much = (
        [Sample.of(block.values * share) for block, share in zip(old, shares, strict=True)]
        for shares in ((0.95, 0.8, 0.65), (0.1, 0.11, 0.12))
    )
    assert verdict(ratio_interval(some, old, 0.95)) is Verdict.INDISTINCT
    assert verdict(ratio_interval(much, old, 0.95)) is Verdict.BETTER


@pytest.mark.parametrize("lengths", [[30] * 8, [20, 35, 30, 28, 31, 22, 25, 33], [40]])
def test_points_are_drawn_within_drawn_blocks(lengths: list[int]) -> None:
    """Pairs of blocks, then points of each, one block after the other: written out, the interval is the same."""
    random = np.random.default_rng(4)
    new, old = ([Sample.of(random.lognormal(size=length)) for length in lengths] for _ in range(2))
    draws, ratios = np.random.default_rng(7), []
    for _ in range(50):
        pairs = draws.integers(0, len(lengths), len(lengths))
        again = [[side[i].values[draws.integers(0, lengths[i], lengths[i])] for i in pairs] for side in (new, old)]
        above, below = (percentile(Sample.of(np.concatenate(blocks)), 0.9) for blocks in again)
        ratios.append(above / below)
    ratio = ratio_interval(new, old, 0.9, resamples=50, seed=7)
    confidence = _expanded(CONFIDENCE, len(lengths) if len(lengths) > 1 else lengths[0])
    assert (ratio.low, ratio.high) == tuple(np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2]))


def test_paired_ratio() -> None:
    """Twice the throughput in every pair is a ratio of two, exactly."""
    ratio = paired_ratio_interval([20.0, 40.0, 60.0], [10.0, 20.0, 30.0])
    assert (ratio.point, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))
    for pairs in ([1.0, 1.0], [1.0, 0.0, 1.0]):
        with pytest.raises(InvalidInputError):
            paired_ratio_interval(pairs, pairs)


def test_paired_ratios_cover() -> None:
    """With as few as four noisy pairs the interval still holds the truth in 98 % of 500 seeded runs."""
    random = np.random.default_rng(3)
    held = 0
    for _ in range(500):
        drift = random.lognormal(sigma=0.2, size=4)
        new, old = (drift * scale * random.lognormal(sigma=0.05, size=4) for scale in (1.5, 1.0))
        ratio = paired_ratio_interval(new.tolist(), old.tolist())
        held += ratio.low <= 1.5 <= ratio.high
    assert held / 500 >= 0.98


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval(0.5, 0.4, 0.6), Verdict.BETTER),
        (Interval(0.97, 0.95, 0.985), Verdict.INDISTINCT),
        (Interval(0.8, 0.6, 1.1), Verdict.INDISTINCT),
        (Interval(1.2, 1.1, 1.3), Verdict.WORSE),
    ],
)
def test_verdicts(interval: Interval, expected: Verdict) -> None:
    """The whole interval must lie beyond the noise."""
    assert verdict(interval) is expected

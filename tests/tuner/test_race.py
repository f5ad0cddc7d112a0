"""What two arms' blocks say about each other."""

import numpy as np
import pytest

from tailcut.lab.trial import ArmRuns
from tailcut.stats import Interval
from tailcut.tuner.race import Ratios, percentiles_ms, ratios

RANDOM = np.random.default_rng


def runs(scale: float, *, blocks: int = 12, size: int = 150, speed: float = 100.0, seed: int = 0) -> ArmRuns:
    random = RANDOM(seed)
    arm = ArmRuns()
    for _ in range(blocks):
        arm.blocks.append(random.lognormal(sigma=0.4, size=size) * scale)
        arm.throughputs.append(speed * random.lognormal(sigma=0.03))
    return arm


def test_a_shorter_tail_is_seen() -> None:
    """Half the latency is half of every percentile, and the interval says so."""
    result = ratios(runs(0.5, seed=1), runs(1.0, seed=2))
    assert list(result.percentiles) == ["p99", "p95", "p50"]
    assert result.tail is not None
    assert result.tail[0] == "p99"
    assert all(interval.low < 0.5 < interval.high < 0.9 for interval in result.percentiles.values())


def test_one_stalled_block_does_not_hide_it() -> None:
    """A block in which the machine stalled costs the pair, not the comparison."""
    new = runs(0.5, blocks=20, seed=1)
    new.blocks[4] = new.blocks[4] * 40
    assert ratios(new, runs(1.0, blocks=20, seed=2)).percentiles["p99"].high < 0.9


@pytest.mark.parametrize(("size", "known"), [(1, ["p50"]), (10, ["p95", "p50"]), (60, ["p99", "p95", "p50"])])
def test_few_samples_tell_less(size: int, known: list[str]) -> None:
    """A percentile that the samples cannot tell is absent; short blocks are taken together."""
    result = ratios(runs(0.5, size=size, seed=1), runs(1.0, size=size, seed=2))
    assert list(result.percentiles) == known
    assert result.percentiles["p50"].high < 0.95


def test_too_few_for_anything() -> None:
    """Six samples know no percentile."""
    result = ratios(runs(1.0, blocks=3, size=2), runs(1.0, blocks=3, size=2))
    assert result.tail is None
    assert percentiles_ms(runs(1.0, blocks=3, size=2)) == {"p50_ms": None, "p95_ms": None, "p99_ms": None}


def test_throughput_turned_over() -> None:
    """Twice the requests per second is half the time a request."""
    result = Ratios(throughput=Interval(2.0, 1.6, 2.5))
    assert result.time_per_request == Interval(0.5, 0.4, 0.625)
    assert Ratios().time_per_request is None

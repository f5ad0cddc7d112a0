"""Two arms' blocks: what they say about each other, and when they have said enough."""

import numpy as np
import pytest

from tailcut.lab.trial import ArmRuns
from tailcut.stats import Interval
from tailcut.tuner.race import Ratios, Standing, percentiles_ms, ratios, standing

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
    found = ratios(runs(0.5, seed=1), runs(1.0, seed=2))
    assert list(found.percentiles) == ["p99", "p95", "p50"]
    assert found.tail is not None
    assert found.tail[0] == "p99"
    assert all(interval.low < 0.5 < interval.high < 0.9 for interval in found.percentiles.values())


def test_one_stalled_block_does_not_hide_it() -> None:
    """A block in which the machine stalled costs the pair, not the comparison."""
    new = runs(0.5, blocks=20, seed=1)
    new.blocks[4] = new.blocks[4] * 40
    assert ratios(new, runs(1.0, blocks=20, seed=2)).percentiles["p99"].high < 0.9


@pytest.mark.parametrize(("size", "known"), [(1, ["p50"]), (10, ["p95", "p50"]), (60, ["p99", "p95", "p50"])])
def test_few_samples_tell_less(size: int, known: list[str]) -> None:
    """A percentile that the samples cannot tell is absent; short blocks are taken together."""
    found = ratios(runs(0.5, size=size, seed=1), runs(1.0, size=size, seed=2))
    assert list(found.percentiles) == known
    assert found.percentiles["p50"].high < 0.95


def test_too_few_for_anything() -> None:
    """Six samples know no percentile."""
    found = ratios(runs(1.0, blocks=3, size=2), runs(1.0, blocks=3, size=2))
    assert found.tail is None
    assert percentiles_ms(runs(1.0, blocks=3, size=2)) == {"p50_ms": None, "p95_ms": None, "p99_ms": None}


def test_a_race_that_is_plainly_lost_ends_at_a_glance() -> None:
    """Twice the median after two blocks is enough."""
    assert standing([runs(1.0, blocks=2), runs(2.0, blocks=2, seed=1)]) is Standing.LOST


def test_no_sign_of_a_gain_ends_it() -> None:
    """After five blocks in which nothing is shorter or faster there is no point in more."""
    assert standing([runs(1.0, blocks=5, speed=110, seed=1), runs(1.06, blocks=5, seed=1)]) is Standing.LOST


def test_a_promising_candidate_gets_its_time() -> None:
    """A gain that is not proven yet goes on; one that is proven by far ends it."""
    assert standing([runs(1.0, blocks=6, seed=1), runs(0.93, blocks=6, seed=2)]) is Standing.OPEN
    assert standing([runs(1.0, seed=1), runs(0.4, seed=2)]) is Standing.WON


def test_a_race_without_a_percentile_stays_open() -> None:
    """Where the samples know nothing yet, nothing is decided."""
    quiet = [runs(1.0, blocks=6, size=1), runs(1.0, blocks=6, size=1)]
    assert standing(quiet, lambda _new, _old: Ratios()) is Standing.OPEN


def test_throughput_turned_over() -> None:
    """Twice the requests a second is half the time a request."""
    found = Ratios(throughput=Interval(2.0, 1.6, 2.5))
    assert found.time_per_request == Interval(0.5, 0.4, 0.625)
    assert found.faster()
    assert not Ratios(throughput=Interval(2.0, 0.9, 2.5)).faster()
    assert not Ratios().faster()


def test_alike_is_hardly_ever_called_better() -> None:
    """Of 100 candidates that change nothing, looked at after every round, at most 2 are kept."""
    from tailcut.tuner.ladder import judge

    kept = 0
    for seed in range(100):
        random = RANDOM(seed)
        arms = [ArmRuns(), ArmRuns()]
        for _ in range(20):
            drift = random.lognormal(sigma=0.3)
            for arm in arms:
                stall = 10.0 if random.random() < 0.05 else 1.0
                arm.blocks.append(random.lognormal(sigma=0.4, size=150) * drift * stall)
                arm.throughputs.append(100 * random.lognormal(sigma=0.1))
            if standing(arms) is not Standing.OPEN:
                break
        kept += judge(ratios(arms[1], arms[0])).keep
    assert kept <= 2

"""The race: the best estimate wins, hopeless arms leave, and luck does not decide alone."""

import numpy as np
import pytest
from tests.effort import runs

from tailcut.tuner.heats import NONE, Heats


def race(means: list[float], *, heats: int = 12, noise: float = 0.1, seed: int = 0) -> Heats:
    random = np.random.default_rng(seed)
    result = Heats.of(len(means))
    for _ in range(heats):
        weather = random.lognormal(sigma=0.3)
        result.add([means[arm] * weather * random.lognormal(sigma=noise) for arm in result.racing])
    return result


def test_the_best_estimate_wins() -> None:
    """Also by a little, and also where nothing is significant."""
    assert race([100, 103, 150]).leader == 2
    assert sum(race([100, 104], heats=20, noise=0.03, seed=seed).leader == 1 for seed in range(50)) >= 45


def test_hopeless_arms_leave_early() -> None:
    """Half of the leader's rate is enough after two heats."""
    result = race([100, 45, 98], heats=4)
    assert result.racing == [0, 2]
    assert len(result.entrants[1].scores) == 2


@pytest.mark.slow
def test_the_best_hardly_ever_leaves() -> None:
    """In 200 races of eight, the best arm is still there at the end nearly always."""
    means = [100, 90, 85, 80, 70, 60, 95, 97]
    assert sum(0 in race(means, seed=seed).racing for seed in range(200)) >= 195


def test_the_winner_is_near_the_best() -> None:
    """What is lost by choosing in a noisy race of eight is small."""
    means = [100, 99, 97, 96, 94, 92, 80, 60]
    lost = [1 - means[race(means, seed=seed).leader] / 100 for seed in range(runs(100))]
    assert np.mean(lost) < 0.03


def test_the_worse_half_leaves_as_time_passes() -> None:
    """Down to two, and to what equals the best; not before the second heat."""
    result = Heats.of(8)
    scores = [100, 99, 98, 90, 89, 88, 87, 86]
    result.add(scores)
    result.narrow(0.5)
    assert len(result.racing) == 8
    result.add(scores)
    result.narrow(0.3)
    assert len(result.racing) == 8
    result.narrow(0.34)
    assert result.racing == [0, 1, 2, 3]
    result.add(scores[:4])
    result.narrow(5.0)
    assert result.racing == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 2])
def test_two_race_until_the_end(count: int) -> None:
    """Fewer than three have no worse half."""
    result = Heats.of(count)
    for _ in range(2):
        result.add([100.0, 90.0][:count])
    result.narrow(1.0)
    assert len(result.racing) == count


def test_halving_finds_better_ones_in_the_same_time() -> None:
    """Of eight in a noisy race of forty blocks."""
    lost = dict.fromkeys((False, True), 0.0)
    for seed in range(200):
        random = np.random.default_rng(seed)
        means = 100 * np.exp(-abs(random.normal(0, 0.2, 8)))
        for halving in lost:
            noise, result, blocks = np.random.default_rng(seed), Heats.of(8), 0
            while blocks + len(result.racing) <= 40 and len(result.racing) > 1:
                blocks += len(result.racing)
                result.add([means[arm] * noise.lognormal(sigma=0.1) for arm in result.racing])
                if halving:
                    result.narrow(blocks / 40)
            lost[halving] += 1 - means[result.leader] / means.max()
    assert lost[True] < 0.9 * lost[False]


def test_one_stalled_heat_does_not_count() -> None:
    """A machine that stood still in one arm's turn costs that arm nothing."""
    result = Heats.of(2)
    for number in range(9):
        result.add([103.0 if number != 4 else 5.0, 100.0 + 2 * (number % 2)])
    assert result.leader == 0


def test_ratios_have_intervals_from_three_heats_on() -> None:
    """Before that there is none."""
    result = Heats.of(2)
    result.add([100, 50])
    assert result.ratio(1, 0) is None
    result = race([100, 100], heats=10, noise=0.02)
    interval = result.ratio(1, 0)
    assert interval is not None
    assert interval.low < 1 < interval.high


def test_near_ones_are_listed_behind_the_leader() -> None:
    """Those within a share of the best estimate."""
    result = Heats.of(3)
    for _ in range(2):
        result.add([100, 97, 70])
    assert result.near(0.05) == [0, 1]


def test_each_arm_in_the_race_has_a_score() -> None:
    """A heat with a score too few is a fault."""
    with pytest.raises(ValueError, match="zip"):
        Heats.of(2).add([1.0])


def test_arms_without_an_answer_are_not_equal() -> None:
    """Their scores are alike, and say nothing."""
    heats = Heats.of(2)
    for _ in range(3):
        heats.add([NONE, NONE])
    assert heats.near(0.05) == [0]


def test_those_that_left_come_behind_those_still_in_the_race() -> None:
    """By their estimates; those that answered nothing, and those whose server ended, are not among them."""
    heats = Heats.of(6)
    for _ in range(3):
        heats.add([{0: 90, 1: 100, 2: NONE, 3: 40, 4: 50, 5: 99}[arm] for arm in heats.racing])
    heats.fail(5)
    assert heats.racing == [1]
    assert heats.ranked(1) == [1, 0, 4, 3]

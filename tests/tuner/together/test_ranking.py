"""The estimate of a combination: by its heats where these agree, and nearer to the simulation's where they do not."""

import numpy as np
import pytest

from tailcut.tuner.together.ranking import believed
from tailcut.tuner.together.words import LEAST_SCORE


def best(heats: list[list[float]], expected: list[float | None]) -> int:
    return int(np.argmax(believed(heats, expected)))


def test_steady_heats_decide_against_the_simulation() -> None:
    """Eight heats that agree within 2 % outweigh an expectation of the opposite by half."""
    better, worse = [1.2, 1.21, 1.19, 1.2, 1.2, 1.22, 1.18, 1.2], [1.0, 1.01, 0.99, 1.0, 1.0, 1.02, 0.98, 1.0]
    assert best([worse, better], [3.0, 2.0]) == 1
    assert believed([worse, better], [3.0, 2.0]) == pytest.approx([1.0, 1.2], rel=0.02)


def test_the_simulation_decides_between_heats_that_differ_more_than_the_combinations() -> None:
    """Two heats of each that vary by a factor of three cannot tell 20 %; the simulation expects twice the score."""
    noisy = [[0.5, 1.5], [0.6, 1.7]]
    assert best(noisy, [None, None]) == 1
    assert best(noisy, [4.0, 2.0]) == 0


def test_the_scale_of_the_simulation_does_not_count() -> None:
    """Scores that are all ten times too good change nothing."""
    heats = [[0.5, 1.5], [0.6, 1.7], [1.0, 0.9]]
    assert believed(heats, [4.0, 2.0, 3.0]) == pytest.approx(believed(heats, [40.0, 20.0, 30.0]))


def test_what_was_not_simulated_is_expected_to_be_like_the_others() -> None:
    """As the engines' defaults are: one lucky heat does not win against combinations that are expected to be equal."""
    lucky = believed([[1.0, 1.0, 0.3], [1.1]], [2.0, None])[1]
    assert 1.05 < lucky < 1.09


def test_what_failed_keeps_its_score() -> None:
    """However good the simulation expects it to be; and failures do not make the heats of the others uncertain."""
    heats = [[LEAST_SCORE, LEAST_SCORE], [1.0, 1.01], [1.1, 1.11]]
    order = believed(heats, [9.0, 2.0, 1.0])
    assert order[0] == LEAST_SCORE
    assert order[1:] == pytest.approx(believed(heats[1:], [2.0, 1.0]))


def test_nothing_answered() -> None:
    """All are equal."""
    assert believed([[LEAST_SCORE]] * 2, [None, None]) == pytest.approx([LEAST_SCORE] * 2)


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_best_more_often_than_the_heats_alone(seed: int) -> None:
    """Where two heats of one combination vary more than what is expected of it."""
    random = np.random.default_rng(seed)
    by_heats = by_both = 0
    for _ in range(600):
        truth = random.normal(0, 0.4, 5)
        heats = [list(np.exp(own + random.normal(0, 0.6, 2))) for own in truth]
        expected = list(np.exp(truth + random.normal(0, 0.4, 5) + 1))
        by_heats += best(heats, [None] * 5) == truth.argmax()
        by_both += best(heats, expected) == truth.argmax()
    assert by_both > 1.05 * by_heats

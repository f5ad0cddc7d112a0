"""How far two answers are apart."""

import numpy as np
import pytest

from tailcut.engines.agreement import distance

ONES = np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("item", "other", "apart"),
    [
        (ONES, ONES, 0.0),
        (ONES, 1.5 * ONES, 0.5),
        (ONES, np.ones(3, np.float32), np.inf),
        (ONES, np.ones(4), np.inf),
        (np.arange(4), np.array([0, 1, 2, 9]), 0.25),
        (np.array([True, False]), np.array([False, True]), 1.0),
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), 0.0),
        (np.array([1.0, np.nan]), np.array([1.0, 1.0]), np.inf),
        (np.array([np.nan]), np.array([np.inf]), 0.0),  # neither has a number there
        (np.zeros((0, 3)), np.zeros((0, 3)), 0.0),
        (np.zeros(4), np.full(4, 1e-9), 1e-3),  # rounding, beside a floor
    ],
)
def test_one_output(item: np.ndarray, other: np.ndarray, apart: float) -> None:
    assert distance({"y": item}, {"y": other}) == pytest.approx(apart)


def test_the_largest_of_all_outputs() -> None:
    assert distance({"a": ONES, "b": ONES}, {"a": ONES, "b": 2 * ONES}) == 1.0
    assert distance({}, {}) == 0.0

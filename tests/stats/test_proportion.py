"""The binomial test against its definition and against chance."""

import math

import numpy as np
import pytest

from tailcut.errors import InvalidInputError
from tailcut.stats import is_above


@pytest.mark.parametrize(("count", "total", "share"), [(3, 20, 0.05), (9, 500, 0.01), (14, 500, 0.01), (40, 60, 0.5)])
def test_the_definition(count: int, total: int, share: float) -> None:
    """So many or more have a probability of at most 1 %."""
    chance = sum(math.comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(count, total + 1))
    assert is_above(count, total, share) == (chance <= 0.01)


def test_chance_is_taken_for_more_once_in_a_hundred() -> None:
    """And a share of three times as much is nearly always seen."""
    random = np.random.default_rng(0)
    false = sum(is_above(int(count), 1000, 0.01) for count in random.binomial(1000, 0.01, 2000))
    true = sum(is_above(int(count), 1000, 0.01) for count in random.binomial(1000, 0.03, 2000))
    assert false <= 30
    assert true >= 1900


def test_all_and_none() -> None:
    """Everything late is above any share, nothing late is not, and a large sample takes a moment."""
    assert is_above(5, 5, 0.01)
    assert not is_above(0, 10_000, 0.01)
    assert is_above(200_000, 200_000, 0.01)
    for count, total, share in ((1, 0, 0.5), (-1, 5, 0.5), (1, 5, 0.0), (1, 5, 1.0)):
        with pytest.raises(InvalidInputError):
            is_above(count, total, share)

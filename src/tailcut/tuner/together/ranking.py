"""Ranks the combinations that raced, by their heats and by what the simulation expected of them. Pure.

A model that is asked a few times per second has so few requests in a heat that its p99 varies more between two heats
than between two combinations. So the estimate of each combination is the mean of what was measured and of what was
expected, weighted by how well each is known (a normal distribution with a normal prior: Gelman et al., Bayesian Data
Analysis, section 2.5). After many or steady heats, the measurement decides alone.
"""

from collections.abc import Iterable, Sequence

import numpy as np

_EXPECTED_SPREAD = 0.5  # standard deviation of the logarithm of an expected score: a third is off by 40 % or more
_HEAT_SPREAD, _HEAT_WEIGHT = 0.3, 1.0  # of a heat's score, before any was seen; counts as much as this many heats
_LEAST = 1e-3  # of the best score: heats below it failed, and say nothing about how much scores vary


def believed(heats: Sequence[Sequence[float]], expected: Sequence[float | None]) -> list[float]:
    """An estimate of each combination's score, on the scale of the heats; larger is better.

    The simulation's own scale does not count, only how it ranks the combinations that raced.

    Args:
        heats: the scores of each combination, over 0; at least one each.
        expected: the score that the simulation expects of each; None: unknown, so the mean of all is expected.
    """
    medians = [float(np.median(scores)) for scores in heats]
    least = _LEAST * max(medians)
    numbers = [number for number, median in enumerate(medians) if median > least]  # the others failed
    logs = {number: np.log(np.maximum(heats[number], least)) for number in numbers}
    measured = {number: float(np.median(own)) for number, own in logs.items()}
    guesses = {
        number: float(np.log(max(guess, _LEAST))) for number in numbers if (guess := expected[number]) is not None
    }
    bias = float(np.mean([guess - measured[number] for number, guess in guesses.items()])) if guesses else 0.0
    usual = float(np.mean([*measured.values()]))
    variance = _variance(logs.values())
    for number, own in measured.items():
        prior = guesses[number] - bias if number in guesses else usual
        trust = _EXPECTED_SPREAD**2 / (_EXPECTED_SPREAD**2 + variance / len(heats[number]))
        medians[number] = float(np.exp(trust * own + (1 - trust) * prior))
    return medians


def _variance(logs: Iterable[np.ndarray]) -> float:
    """The variance of the logarithm of one heat's score, pooled over the combinations."""
    squares, freedom = _HEAT_WEIGHT * _HEAT_SPREAD**2, _HEAT_WEIGHT
    for own in logs:
        squares += float(((own - own.mean()) ** 2).sum())
        freedom += len(own) - 1
    return squares / freedom

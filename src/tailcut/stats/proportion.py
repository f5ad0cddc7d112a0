"""Whether a count out of a total can be due to chance."""

import math

import numpy as np

from tailcut.errors import InvalidInputError
from tailcut.stats.sample import CONFIDENCE


def is_above(count: int, total: int, share: float, confidence: float = CONFIDENCE) -> bool:
    """Whether `count` of `total` show that the true share is larger than `share`: the exact one-sided binomial test.

    Args:
        count, total: how many had the property, of how many that were drawn independently.
        share: the share to compare with, between 0 and 1.
        confidence: one minus the probability that a true share of `share` is taken to be larger.

    Raises:
        InvalidInputError: the share is not between 0 and 1, or the count not from 0 to total.
    """
    if not 0 < share < 1 or not 0 <= count <= total:
        raise InvalidInputError(f"cannot compare {count} of {total} with a share of {share}")
    if not count:
        return False
    numbers = np.arange(count)
    logarithms = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])  # of the factorials
    ways = logarithms[total] - logarithms[numbers] - logarithms[total - numbers]
    fewer = np.exp(ways + numbers * math.log(share) + (total - numbers) * math.log1p(-share)).sum()
    return bool(fewer >= confidence)

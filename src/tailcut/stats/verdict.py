"""Better, worse or indistinct: an improvement that is not significant is not one."""

from enum import StrEnum

from tailcut.stats.sample import Interval


class Verdict(StrEnum):
    """The result of a comparison."""

    BETTER = "better"
    WORSE = "worse"
    INDISTINCT = "indistinct"


def verdict(ratio: Interval, noise: float = 0.02) -> Verdict:
    """Judge the ratio, new to old, of a quantity of which less is better.

    It is better or worse only if the whole interval is beyond the noise threshold: a real difference that is too small
    to matter is also indistinct.
    """
    if ratio.high < 1 - noise:
        return Verdict.BETTER
    if ratio.low > 1 + noise:
        return Verdict.WORSE
    return Verdict.INDISTINCT

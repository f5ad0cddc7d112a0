"""Better, worse, or not to be told apart: an improvement that is not significant is not one."""

from enum import StrEnum

from tailcut.stats.sample import Interval


class Verdict(StrEnum):
    """What a comparison says."""

    BETTER = "better"
    WORSE = "worse"
    INDISTINCT = "indistinct"


def verdict(ratio: Interval, noise: float = 0.02) -> Verdict:
    """Judge the ratio of a quantity of which less is better, new to old.

    Better or worse only when the whole interval lies beyond the noise threshold: a difference that is real but too
    small to matter is indistinct too.
    """
    if ratio.high < 1 - noise:
        return Verdict.BETTER
    if ratio.low > 1 + noise:
        return Verdict.WORSE
    return Verdict.INDISTINCT

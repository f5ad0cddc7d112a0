"""Whether a verification proves that the settings found are worse than what they are compared with. Pure.

A loss in the tail or in throughput is the price of a gain where the objective asks for that gain: the lowest p99 at a
rate may cost throughput, and the highest rate within a limit may lengthen a tail that stays within it.
"""

from tailcut.stats import Interval
from tailcut.tuner.race import is_finite, met, tail_of, throughput_ratio
from tailcut.tuner.records import TuneOutcome
from tailcut.tuner.result import cpu_ratio

ARMS = {"baseline": "the baseline's", "reference": "the baseline's", "previous": "the previous profile's"}


def proven_worse(outcome: TuneOutcome, before: str, seed: int) -> str:
    """What the tuned settings are worse in than another arm, in words; empty where nothing is proven.

    Args:
        outcome: with the runs of its verification.
        before: the other arm.
        seed: of the bootstrap.
    """
    new, old = outcome.arms["tuned"], outcome.arms[before]
    of, tail = (None if before in outcome.overloaded else tail_of(new, old, seed)) or ("p99", None)
    speed = throughput_ratio(new, old)
    losses = []
    if tail is not None and tail.low > 1:
        losses.append(f"{of} {_words(tail)}")
    if speed is not None and speed.high < 1:
        losses.append(f"throughput {_words(speed)}")
    if not losses or _gains(outcome, before, tail, speed):
        return ""
    return f"{' and '.join(losses)} of {ARMS[before]}"


def _gains(outcome: TuneOutcome, before: str, tail: Interval | None, speed: Interval | None) -> bool:
    """Whether what was asked for is proven better."""
    new, old, objective = outcome.arms["tuned"], outcome.arms[before], outcome.objective
    faster = speed is not None and speed.low > 1
    match objective.kind:
        case "latency":
            return tail is not None and tail.high < 1
        case "throughput":
            return faster
        case "cost":
            cpu = cpu_ratio(new, old)
            return cpu is not None and cpu.high < 1 and met(new, objective.limit_ms) is True
        case "goodput":
            shown = outcome.highest
            more = shown is not None and shown.within and shown.baseline is not None and shown.tuned > shown.baseline
            return more or (faster and met(new, objective.limit_ms) is True)


def _words(ratio: Interval) -> str:
    return f"x{ratio.point:.2f} ({ratio.low:.2f} to {ratio.high:.2f})" if is_finite(ratio) else "by failed requests"

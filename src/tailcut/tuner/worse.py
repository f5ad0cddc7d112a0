"""Whether a verification proves that the tuned settings are worse than what they are compared with. Pure.

A loss in the tail or in throughput is acceptable if the objective gains by it: the lowest p99 at a rate may cost
throughput, and the highest rate within a limit may lengthen the tail up to that limit.
"""

from tailcut.stats import Interval
from tailcut.tuner.race import is_finite, met, tail_of, throughput_ratio
from tailcut.tuner.records import TuneOutcome
from tailcut.tuner.result import cpu_ratio
from tailcut.tuner.result_records import NotKept

ARMS = {"baseline": "the baseline's", "reference": "the baseline's", "previous": "the previous profile's"}


def proven_worse(outcome: TuneOutcome, before: str, seed: int, new: str = "tuned") -> str:
    """What an arm is proven worse in than another one, as a message; empty if nothing is proven.

    Args:
        outcome: with the runs of its verification.
        before: the arm to compare with.
        seed: of the bootstrap.
        new: the arm that is judged.
    """
    ours, theirs = outcome.arms[new], outcome.arms[before]
    of, tail = (None if {new, before} & outcome.overloaded else tail_of(ours, theirs, seed)) or ("p99", None)
    speed = throughput_ratio(ours, theirs)
    losses = []
    if tail is not None and tail.low > 1:
        losses.append(f"{of} {_words(tail)}")
    if speed is not None and speed.high < 1:
        losses.append(f"throughput {_words(speed)}")
    if not losses or _gains(outcome, new, before, tail, speed):
        return ""
    return f"{' and '.join(losses)} of {ARMS[before]}"


def instead(outcome: TuneOutcome, seed: int) -> NotKept | None:
    """The arm whose settings are kept in place of the tuned ones, and why; None if these are not proven worse.

    The settings of a re-checked profile are kept, unless they are proven worse than the baseline's.
    """
    losses = {
        name: words
        for name in ("previous", "baseline")
        if name in outcome.arms and (words := proven_worse(outcome, name, seed))
    }
    if not losses:
        return None
    worse = proven_worse(outcome, "baseline", seed, "previous") if "previous" in outcome.arms else ""
    setting = outcome.settings.describe(outcome.base) or "the baseline's settings"
    if "previous" in outcome.arms and not worse:
        return NotKept(setting, losses.get("previous") or losses["baseline"], "previous")
    reason = losses.get("baseline") or f"{losses['previous']}, which are worse themselves: {worse}"
    # The reference has the baseline's settings, with an encoding that clients may send.
    return NotKept(setting, reason, "reference" if "reference" in outcome.arms else "baseline")


def _gains(outcome: TuneOutcome, new: str, before: str, tail: Interval | None, speed: Interval | None) -> bool:
    """Whether the objective is proven to be better."""
    ours, theirs, objective = outcome.arms[new], outcome.arms[before], outcome.objective
    faster = speed is not None and speed.low > 1
    match objective.kind:
        case "latency":
            return tail is not None and tail.high < 1
        case "throughput":
            return faster
        case "cost":
            cpu = cpu_ratio(ours, theirs)
            return cpu is not None and cpu.high < 1 and met(ours, objective.limit_ms) is True
        case "goodput":
            # The highest rate is known only for the tuned server and the baseline.
            shown = outcome.highest if (new, before) == ("tuned", "baseline") else None
            more = shown is not None and shown.within and shown.baseline is not None and shown.tuned > shown.baseline
            return more or (faster and met(ours, objective.limit_ms) is True)


def _words(ratio: Interval) -> str:
    return f"x{ratio.point:.2f} ({ratio.low:.2f} to {ratio.high:.2f})" if is_finite(ratio) else "by failed requests"

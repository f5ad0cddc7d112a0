"""What a model's p99 is held to, and whether a joint verification proves a combination worse than the defaults. Pure.

One model's longer tail is the price of another's shorter one, as long as both are within their limits.
"""

from collections.abc import Sequence

from tailcut.errors import TailcutError, UsageError
from tailcut.lab.load import LoadResult
from tailcut.stats import Sample, percentile, samples_needed
from tailcut.tuner.claims import is_beyond
from tailcut.tuner.race import is_finite, met, tail_of
from tailcut.tuner.result_records import NotKept
from tailcut.tuner.together.records import JointOutcome, JointSide

_LONE_FACTOR = 3.0  # of a median: the limit where there are too few samples for a p99


def proven_worse(sides: Sequence[JointSide], seed: int) -> str:
    """What the tuned settings are worse in than the defaults, in words; empty where nothing is proven.

    Args:
        sides: with the runs of both arms.
        seed: of the bootstrap.
    """
    over = [
        f"the p99 of {side.name} is over its limit of {side.limit_ms:.3g} ms, which the defaults meet"
        for side in sides
        if met(side.runs["tuned"], side.limit_ms) is False and met(side.runs["baseline"], side.limit_ms) is True
    ]
    longer = [words for side in sides if (words := _longer(side, seed))]
    if over:
        return "; ".join(over)
    return f"{'; '.join(longer)} of the defaults'" if len(longer) == len(sides) else ""


def take_back(outcome: JointOutcome, setting: str, seed: int) -> str:
    """Note that the verified combination is not kept, where it is proven worse; why, or nothing where it is kept.

    Args:
        outcome: with the verification of all models, whose profiles hold the combination.
        setting: the combination in words.
        seed: of the bootstrap.
    """
    if outcome.wrong or not all(side.runs for side in outcome.sides):
        return ""
    reason = proven_worse(outcome.sides, seed)
    if reason:
        outcome.not_kept = NotKept(setting, reason, "baseline")
        for side in outcome.sides:
            side.not_kept, side.accuracy = side.profile.settings.describe() or "defaults", None
    return reason


def _longer(side: JointSide, seed: int) -> str:
    """A model's tail to that of the defaults, where it is proven longer."""
    of, tail = tail_of(side.runs["tuned"], side.runs["baseline"], seed) or ("p99", None)
    if tail is None or tail.low <= 1:
        return ""
    words = f"x{tail.point:.2f} ({tail.low:.2f} to {tail.high:.2f})" if is_finite(tail) else "by failed requests"
    return f"{side.name} {of} {words}"


def within_reach(name: str, rate: float, best: float) -> None:
    """Refuse a rate that no configuration of a model comes near to, even alone.

    Raises:
        UsageError: it is over twice the best capacity that is expected.
    """
    if is_beyond(rate, best):
        raise UsageError(
            f"{name}: asked for {rate:,.6g} req/s, and no configuration is expected to carry more than {best:,.3g} "
            "req/s of it alone on this machine: name a lower rate"
        )


def limit_of(result: LoadResult, name: str, alone_ms: float) -> float:
    """The p99 of a model's open loop in ms; three medians where it has too few samples to tell.

    Args:
        result: of the engine's defaults, beside the other models.
        name: of the model.
        alone_ms: its limit where it is alone, for a model that is asked so rarely that the loop has no two requests.

    Raises:
        TailcutError: no request succeeded.
    """
    if result.samples < 2 and not result.errors:
        return alone_ms
    if result.samples < 2:
        raise TailcutError(f"{name}: no request succeeded with the engine's default settings: {result.errors}")
    latencies = Sample.of(result.latencies_ns / 1e6)
    if len(latencies) >= samples_needed(0.99):
        return float(f"{percentile(latencies, 0.99):.3g}")
    return float(f"{_LONE_FACTOR * percentile(latencies, 0.5):.3g}")

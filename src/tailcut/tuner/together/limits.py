"""The p99 limits of the models, and whether a joint verification proves a combination worse than the defaults. Pure.

A longer tail of one model is the price of a shorter one of another, as long as both are within their limits.
"""

from collections.abc import Sequence

from tailcut.errors import TailcutError, UsageError
from tailcut.lab.load import LoadResult
from tailcut.stats import Sample, percentile, samples_needed
from tailcut.tuner.claims import is_beyond
from tailcut.tuner.race import is_finite, met, tail_of
from tailcut.tuner.result_records import NotKept
from tailcut.tuner.together.records import JointOutcome, JointSide

_LONE_FACTOR = 3.0  # of the median: the limit if there are too few samples for a p99


def proven_worse(sides: Sequence[JointSide], seed: int) -> str:
    """What the tuned settings are proven worse in than the defaults, as a message; empty if nothing is proven.

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
    """If the verified combination is proven worse, record that it is not kept.

    Args:
        outcome: with the verification of all models, whose profiles hold the combination.
        setting: a description of the combination.
        seed: of the bootstrap.

    Returns:
        Why it is not kept; empty if it is.
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
    """A model's tail relative to the defaults', as text, if it is proven longer; else empty."""
    of, tail = tail_of(side.runs["tuned"], side.runs["baseline"], seed) or ("p99", None)
    if tail is None or tail.low <= 1:
        return ""
    words = f"x{tail.point:.2f} ({tail.low:.2f} to {tail.high:.2f})" if is_finite(tail) else "by failed requests"
    return f"{side.name} {of} {words}"


def within_reach(name: str, rate: float, best: float) -> None:
    """Refuse a rate that no configuration of a model comes near, even without the other models.

    Raises:
        UsageError: the rate is more than twice the best expected capacity.
    """
    if is_beyond(rate, best):
        raise UsageError(
            f"{name}: no configuration is expected to sustain more than {best:,.3g} req/s on this machine, even "
            f"without the other models: give a lower rate than {rate:,.6g}"
        )


def limit_of(result: LoadResult, name: str, alone_ms: float) -> float:
    """The p99 of a model's open loop in ms, to three digits; three times the median with too few samples for a p99.

    Args:
        result: of the engine's defaults, under the load of all models.
        name: of the model.
        alone_ms: the model's limit when measured alone, used if its rate is so low that the loop had fewer than two
            requests.

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

"""What a looser `--accuracy` is expected to gain, from the estimates alone. Pure."""

from collections.abc import Iterable, Sequence

from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.objective import Objective
from tailcut.tuner.records import Offer, Rejected

_GAIN = 0.95  # of the tuned settings' median or time per request: an offer has to be expected to reach it


def offers_of(rejected: Iterable[Rejected], tuned: PredictedConfiguration | None, objective: Objective) -> list[Offer]:
    """The offers that are expected to be faster than the tuned settings, the fastest first.

    Args:
        rejected: settings rejected for their accuracy alone.
        tuned: what the simulation expects of the tuned settings; None if unknown.
        objective: ranks the configurations of a rejected engine.
    """
    if tuned is None or not tuned.alone_ms:
        return []
    offers = []
    for refusal in rejected:
        best = _best(refusal.predicted, objective)
        if best is None:
            continue
        p50_ratio, rate_ratio = best.alone_ms / tuned.alone_ms, best.rate / tuned.rate if tuned.rate else 1.0
        if p50_ratio <= _GAIN or rate_ratio >= 1 / _GAIN:
            offers.append(Offer(best.settings, refusal.accuracy, refusal.bound, p50_ratio, rate_ratio))
    return sorted(offers, key=lambda offer: offer.p50_ratio)


def _best(predicted: Sequence[PredictedConfiguration], objective: Objective) -> PredictedConfiguration | None:
    return max(predicted, key=objective.rank, default=None)

"""What a looser `--accuracy` would bring, from the estimates alone: pure."""

from collections.abc import Iterable, Sequence

from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.objective import Objective
from tailcut.tuner.records import Offer, Rejected

_GAIN = 0.95  # of the tuned settings' median, or of the time per request, that an offer is worth making for


def offers_of(rejected: Iterable[Rejected], tuned: PredictedConfiguration | None, objective: Objective) -> list[Offer]:
    """The offers that are expected to be quicker than the tuned settings, the quickest first.

    Args:
        rejected: for their accuracy alone.
        tuned: what the simulation expects of the tuned settings; None where it is not known.
        objective: ranks what a rejected engine may be served with.
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

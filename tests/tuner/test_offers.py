"""What a looser bound would bring, from the estimates."""

from tests.tuner.results import INDEPENDENT, printed

from tailcut.report.tune_words import offer_words
from tailcut.runtime.settings import Settings
from tailcut.spec import ModelSpec
from tailcut.tuner.accuracy import Accuracy
from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.objective import Objective
from tailcut.tuner.offers import offers_of
from tailcut.tuner.records import Offer, Rejected, TuneOutcome
from tailcut.tuner.space import changed

INT8 = changed(Settings(), engine={"precision": "int8"})
TUNED = PredictedConfiguration(Settings(), 1000.0, 2.0, 10.0, 0)


def rejected(*predicted: PredictedConfiguration) -> Rejected:
    return Rejected(INT8, Accuracy(right=False, reason="far off", worst=0.977), 0.97, predicted)


def test_the_best_way_to_serve_it_is_offered() -> None:
    """With the ratios to the tuned settings, and the bound that accepts it."""
    ways = [PredictedConfiguration(INT8, rate, alone, 10.0, 0) for rate, alone in ((1500.0, 1.4), (2000.0, 1.1))]
    (offer,) = offers_of([rejected(*ways)], TUNED, Objective())
    assert (offer.settings, offer.bound) == (INT8, 0.97)
    assert (offer.p50_ratio, offer.rate_ratio) == (0.55, 2.0)


def test_what_is_not_quicker_is_not_offered() -> None:
    """Nor what was not estimated, nor anything where the tuned settings were not."""
    slow = rejected(PredictedConfiguration(INT8, 1010.0, 1.96, 10.0, 0))
    assert offers_of([slow, rejected()], TUNED, Objective()) == []
    assert offers_of([rejected(PredictedConfiguration(INT8, 9000.0, 0.1, 10.0, 0))], None, Objective()) == []


def test_it_is_one_line_in_every_report() -> None:
    """Precision, speed, accuracy, and what to add to the command."""
    outcome = TuneOutcome(ModelSpec("m", (), ()), Settings(), 100.0, [], INDEPENDENT)
    outcome.offers = [Offer(INT8, Accuracy(right=False, reason="", worst=0.9771), 0.97, 0.55, 1.9)]
    assert offer_words(printed(outcome)) == [
        "int8 (onnxruntime): p50 x0.55, rate x1.90, cosine 0.9771; accept with --accuracy 0.97"
    ]

"""What reports say of a tune's answers."""

import msgspec

from tailcut.report.accuracy import accuracy_figures, random_words
from tailcut.tuner.result_records import AccuracyResult

NONE = AccuracyResult(
    metric="cosine", right=True, reason="", requests=9, worst=None, top1=None, spread=None, differing=None,
    value=None, labels_accuracy=None, random_outputs=[], worst_rows=[],
)  # fmt: skip


def figures(**known: object) -> list[tuple[str, str]]:
    return accuracy_figures(msgspec.structs.replace(NONE, **known))


def test_only_what_is_known_is_reported() -> None:
    """Nothing of a model without any measure."""
    assert figures() == []
    assert figures(top1=0.5, spread=0.0123) == [
        ("rms error relative to the output's spread", "1.23%"),
        ("top-1 agreement", "0.5000"),
    ]


def test_the_users_own_measure_and_labels() -> None:
    """Its value by its name; the shares before and after."""
    assert figures(metric="mine", value=0.25)[0] == ("mine", "0.25")
    assert figures(labels_accuracy={"baseline": 0.75, "tuned": 0.7}, labels_requests=1200) == [
        ("correct on the labels of 1,200 requests, before", "0.7500"),
        ("correct on the labels of 1,200 requests, tuned", "0.7000"),
    ]


def test_random_outputs_are_named() -> None:
    assert random_words(NONE) == ""
    assert "at random: a, b." in random_words(msgspec.structs.replace(NONE, random_outputs=["a", "b"]))

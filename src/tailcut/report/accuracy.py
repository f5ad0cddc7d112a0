"""What every report says of a tune's answers: the figures that are known, and what was not compared."""

from collections.abc import Mapping
from typing import Any

_FIGURES = (
    ("worst", "worst cosine with the float32 answers", "{:.6f}"),
    ("spread", "rms error beside the output's spread", "{:.2%}"),
    ("top1", "top-1 agreement", "{:.4f}"),
    ("differing", "differing labels and mask elements", "{:.3%}"),
)


def accuracy_figures(accuracy: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each figure that the outputs have, by what it is.

    Args:
        accuracy: that key of what `tailcut tune --json` prints.
    """
    found = []
    if accuracy["value"] is not None:
        found.append((accuracy["metric"], f"{accuracy['value']:.6g}"))
    found += [(words, form.format(accuracy[name])) for name, words, form in _FIGURES if accuracy[name] is not None]
    shares = accuracy["labels_accuracy"]
    if shares:
        found.append(("right on the labels, before", f"{shares['baseline']:.4f}"))
        found.append(("right on the labels, tuned", f"{shares['tuned']:.4f}"))
    return found


def random_words(accuracy: Mapping[str, Any]) -> str:
    """That some answers were not compared, and why; empty where all were."""
    names = ", ".join(accuracy["random_outputs"])
    return f"Not compared, because the model itself draws it at random: {names}." if names else ""

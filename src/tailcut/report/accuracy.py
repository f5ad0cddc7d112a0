"""The accuracy of a tune's answers, as every report shows it: figures, and what was not compared."""

from tailcut.tuner.result_records import AccuracyResult

_FIGURES = (
    ("worst cosine with the float32 answers", "{:.6f}"),
    ("rms error relative to the output's spread", "{:.2%}"),
    ("top-1 agreement", "{:.4f}"),
    ("differing labels and mask elements", "{:.3%}"),
)


def accuracy_figures(accuracy: AccuracyResult) -> list[tuple[str, str]]:
    """The known figures, each with its description.

    Args:
        accuracy: the key `accuracy` of what `tailcut tune --json` prints.
    """
    figures = []
    if accuracy.value is not None:
        figures.append((accuracy.metric, f"{accuracy.value:.6g}"))
    values = (accuracy.worst, accuracy.spread, accuracy.top1, accuracy.differing)
    figures += [
        (words, form.format(value)) for value, (words, form) in zip(values, _FIGURES, strict=True) if value is not None
    ]
    shares = accuracy.labels_accuracy
    if shares:
        of = f" of {accuracy.labels_requests:,} requests" if accuracy.labels_requests else ""
        figures.append((f"correct on the labels{of}, before", f"{shares['baseline']:.4f}"))
        figures.append((f"correct on the labels{of}, tuned", f"{shares['tuned']:.4f}"))
    return figures


def random_words(accuracy: AccuracyResult) -> str:
    """A sentence on outputs that were not compared; empty if all were."""
    names = ", ".join(accuracy.random_outputs)
    return f"Not compared, because the model itself draws them at random: {names}." if names else ""

"""All outputs of all requests compared: right or wrong, the figures, and the worst rows."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from tailcut.errors import UsageError
from tailcut.tuner.accuracy.finding import Bound, OutputErrors, Pairs, RowFinding
from tailcut.tuner.accuracy.floats import is_float, measure_floats
from tailcut.tuner.accuracy.labels import is_text, measure_labels
from tailcut.tuner.accuracy.metric import Metric

Outputs = Mapping[str, np.ndarray]
EXACT = "exact"
_SHOWN = 5  # worst rows
_SLACK = 1e-9  # of an excess: float64 rounding in the measures


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How close the outputs are to the reference. A figure is None where it applies to no output."""

    right: bool
    reason: str  # "right", or what is wrong with which output
    requests: int = 0  # compared
    worst: float | None = None  # the worst row's cosine
    top1: float | None = None  # agreement of the largest score, where the model looks like a classifier
    spread: float | None = None  # the largest root mean square error, as a share of an output's spread over the data
    differing: float | None = None  # the largest share of differing elements of integers, booleans and strings
    value: float | None = None  # of the user's metric
    rows: tuple[RowFinding, ...] = ()  # the worst first
    whole: bool = False  # whether every question of the gate was among the requests

    @property
    def figure(self) -> float | None:
        """The figure to rank by, larger is better: the user's metric, else the worst cosine; None without either."""
        return self.worst if self.value is None else self.value


def parse_bound(text: str) -> float | None:
    """The bound of `--accuracy`: a number from 0 to 1, or None for `exact`.

    Raises:
        UsageError: the text is neither.
    """
    if text == EXACT:
        return None
    try:
        bound = float(text)
    except ValueError:
        bound = -1.0
    if not 0 <= bound <= 1:
        raise UsageError(f"--accuracy {text}: give a number from 0 to 1, or exact")
    return bound


def compare(
    reference: Sequence[Outputs],
    candidate: Sequence[Outputs],
    bound: float | None,
    *,
    metric: Metric | None = None,
    uncompared: AbstractSet[str] = frozenset(),
) -> Accuracy:
    """Compare a candidate's answers with the reference's answers to the same requests.

    Args:
        reference, candidate: outputs by name for each request.
        bound: the least cosine, top-1 agreement and so on, or the least value of the metric; None for exact.
        metric: replaces all built-in measures.
        uncompared: outputs of which only shape and dtype are compared, because the model draws them at random.

    Raises:
        UsageError: the metric raised, or returned neither a float nor a bool.
    """
    names = list(dict.fromkeys(name for outputs in reference for name in outputs))
    for request, (want, got) in enumerate(zip(reference, candidate, strict=True)):
        for name in names:
            fault = _other_form(want[name], got.get(name), shapes=metric is None)
            if fault:
                finding = RowFinding(request, 0, name, "form", fault, np.inf)
                return Accuracy(right=False, reason=finding.where, requests=len(reference), rows=(finding,))
    if metric is not None:
        return _by_metric(metric, reference, candidate, bound)
    measured = _measured(reference, candidate, [name for name in names if name not in uncompared], Bound(bound))
    return _verdict(measured, len(reference))


def _other_form(expected: np.ndarray, got: np.ndarray | None, *, shapes: bool) -> str:
    if got is None:
        return "is missing"
    if got.dtype != expected.dtype and not (is_text(got) and is_text(expected)):
        return f"has dtype {got.dtype} instead of {expected.dtype}"
    if shapes and got.shape != expected.shape:
        return f"has shape {list(got.shape)} instead of {list(expected.shape)}"
    return ""


def _measured(
    reference: Sequence[Outputs], candidate: Sequence[Outputs], names: Sequence[str], bound: Bound
) -> list[OutputErrors]:
    pairs: dict[str, Pairs] = {
        name: [(want[name], got[name]) for want, got in zip(reference, candidate, strict=True)] for name in names
    }
    floats = {name: own_pairs for name, own_pairs in pairs.items() if own_pairs and is_float(own_pairs[0][0])}
    measured = [measure_floats(name, own_pairs, bound) for name, own_pairs in floats.items()]
    rest = {name: own_pairs for name, own_pairs in pairs.items() if own_pairs and name not in floats}
    return measured + [
        measure_labels(name, own_pairs, bound, list(floats.values())) for name, own_pairs in rest.items()
    ]


def _verdict(measured: Sequence[OutputErrors], requests: int) -> Accuracy:
    findings = sorted(
        (finding for output in measured for finding in output.findings), key=lambda finding: -finding.excess
    )
    wrong = bool(findings) and findings[0].excess > 1 + _SLACK
    agreed, total = (sum(output.top1[index] for output in measured) for index in (0, 1))
    return Accuracy(
        right=not wrong,
        reason=findings[0].where if wrong else "right",
        requests=requests,
        worst=min((output.cosine for output in measured if output.cosine is not None), default=None),
        top1=agreed / total if total else None,
        spread=max((output.spread for output in measured if output.spread is not None), default=None),
        differing=max((output.differing for output in measured if output.differing is not None), default=None),
        rows=_worst_rows(findings),
    )


def _worst_rows(findings: Sequence[RowFinding]) -> tuple[RowFinding, ...]:
    """The worst finding of each row, the worst rows first."""
    rows: dict[tuple[int, int, str], RowFinding] = {}
    for finding in findings:
        if finding.excess > 0:
            rows.setdefault((finding.request, finding.row, finding.output), finding)
    return tuple(rows.values())[:_SHOWN]


def _by_metric(
    metric: Metric, reference: Sequence[Outputs], candidate: Sequence[Outputs], bound: float | None
) -> Accuracy:
    value = metric.value(reference, candidate)
    least = 1.0 if bound is None else bound
    right = value >= least
    reason = "right" if right else f"{metric.name} is {value:.6g}, below {least}"
    return Accuracy(right=right, reason=reason, requests=len(reference), value=value)


def labelled(outputs: Sequence[Outputs], labels: np.ndarray) -> float | None:
    """The share of rows whose largest score is at the label's index; None where no output looks like class scores.

    Args:
        outputs: of each request.
        labels: integers [requests, labels]: one for all rows of a request, or one per row.
    """
    scores = [
        next((array for array in output.values() if array.ndim == 2 and array.shape[1] > 1), None) for output in outputs
    ]
    if any(array is None for array in scores):
        return None
    guesses = [array.argmax(axis=1) for array in scores if array is not None]
    if any(len(own) not in {1, len(guess)} for guess, own in zip(guesses, labels, strict=True)):
        return None
    return float(np.concatenate([guess == own for guess, own in zip(guesses, labels, strict=True)]).mean())

"""Whether a candidate's answers are still right, compared with the float32 reference: pure.

Floating outputs are compared row by row. With a bound such as 0.999 the measure is the cosine similarity of each row
with the reference row, and for classifiers (rows of 2 to 100,000 scores) also how often the largest score stands in
the same place. One number a row has no direction: there the column of all rows is compared. `exact` allows only what
stays within float32 rounding: no element further from the reference than 1e-5 of the largest magnitude in its row.
Integers, booleans and strings must be equal, always.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tailcut.errors import UsageError

Outputs = Mapping[str, np.ndarray]
EXACT = "exact"
_ROUNDING = 1e-5
_MOST_CLASSES = 100_000


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How near the outputs are: the worst row's cosine, and top-1 agreement where the model looks like a classifier."""

    right: bool
    worst: float
    top1: float | None
    reason: str


def parse_bound(text: str) -> float | None:
    """The bound of `--accuracy`: a number from 0 to 1, or None for `exact`.

    Raises:
        UsageError: neither.
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


def compare(reference: Sequence[Outputs], candidate: Sequence[Outputs], bound: float | None) -> Accuracy:
    """Compare answers to the same requests.

    Args:
        reference, candidate: outputs by name for each request, rows first.
        bound: the least cosine and top-1 agreement, or None for exact.
    """
    tally = _Tally()
    for want, got in zip(reference, candidate, strict=True):
        for name, expected in want.items():
            fault = tally.add(name, expected, got.get(name), exact=bound is None)
            if fault:
                return Accuracy(right=False, worst=tally.worst, top1=None, reason=f"output {name!r} {fault}")
    return tally.judge(bound)


@dataclass(slots=True)
class _Tally:
    """What the outputs compared so far come to."""

    worst: float = 1.0
    agree: int = 0
    classified: int = 0
    columns: dict[str, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)

    def add(self, name: str, expected: np.ndarray, actual: np.ndarray | None, *, exact: bool) -> str:
        """Count one output of one request; what is wrong beyond any bound, or nothing."""
        fault = ""
        if actual is None or actual.shape != expected.shape or actual.dtype != expected.dtype:
            fault = "has another shape or dtype"
        elif expected.dtype.kind != "f" and expected.dtype.name != "bfloat16":
            fault = "" if np.array_equal(expected, actual) else "differs"
        else:
            a, b = _rows(expected), _rows(actual)
            if a.shape[1] == 1:
                self.columns.setdefault(name, []).append((a, b))
            else:
                self.worst = min(self.worst, _cosine(a, b))
            if expected.ndim == 2 and 2 <= expected.shape[1] <= _MOST_CLASSES:
                self.agree += int((a.argmax(axis=1) == b.argmax(axis=1)).sum())
                self.classified += len(a)
            return "differs by more than rounding" if exact and not _within_rounding(a, b) else ""
        self.worst = -1.0 if fault else self.worst
        return fault

    def judge(self, bound: float | None) -> Accuracy:
        """The whole."""
        worst = self.worst
        for pairs in self.columns.values():
            a, b = (np.concatenate(side).reshape(1, -1) for side in zip(*pairs, strict=True))
            worst = min(worst, _cosine(a, b))
        top1 = self.agree / self.classified if self.classified else None
        reason = ""
        if bound is not None and worst < bound:
            reason = f"cosine {worst:.6f} is below {bound}"
        elif bound is not None and top1 is not None and top1 < bound:
            reason = f"top-1 agreement {top1:.4f} is below {bound}"
        return Accuracy(right=not reason, worst=worst, top1=top1, reason=reason or "right")


def labelled(outputs: Sequence[Outputs], labels: np.ndarray) -> float | None:
    """The share of rows whose largest score stands at the label; None where no output looks like class scores."""
    scores = [
        next((array for array in one.values() if array.ndim == 2 and array.shape[1] > 1), None) for one in outputs
    ]
    if any(array is None for array in scores):
        return None
    guesses = np.concatenate([array.argmax(axis=1) for array in scores if array is not None])
    return float((guesses == labels[: len(guesses)]).mean())


def _rows(array: np.ndarray) -> np.ndarray:
    wide = array.astype(np.float64)
    return wide.reshape(len(wide), -1) if wide.ndim > 1 else wide.reshape(1, -1)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The worst row's. Rows alike in their NaN and infinities are compared by the rest; a row of zeros wants zeros."""
    if a.size == 0:
        return 1.0
    odd = ~np.isfinite(a)
    if not np.array_equal(odd, ~np.isfinite(b)):
        return -1.0
    a, b = np.where(odd, 0, a), np.where(odd, 0, b)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = (a * b).sum(axis=1)
    both_zero = (np.linalg.norm(a, axis=1) == 0) & (np.linalg.norm(b, axis=1) == 0)
    return float(np.where(both_zero, 1.0, dots / np.where(norms == 0, 1, norms)).min())


def _within_rounding(a: np.ndarray, b: np.ndarray) -> bool:
    scale = np.abs(np.where(np.isfinite(a), a, 0)).max(axis=1, keepdims=True, initial=0)
    return bool(np.isclose(a, b, rtol=0, atol=_ROUNDING * scale + 1e-30, equal_nan=True).all())

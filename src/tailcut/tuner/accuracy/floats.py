"""Floating-point outputs: cosine of each row, error relative to the spread, index of the largest score, rounding.

The cosine misses an error that is small compared with the output's mean but large compared with its variation, as for a
regressor whose answers lie around 1000. So the error is also divided by the standard deviation of the reference over
the data: per column where a row has up to 8 numbers that are no probability distribution, over all numbers otherwise.
The root mean square of this ratio over the data may be as large as the distance of two unit vectors whose cosine is the
bound, and its value in any one row twice as large.

An error within float32 rounding at the output's own scale does not count: 2e-10 in place of 0 passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tailcut.tuner.accuracy.finding import Bound, OutputErrors, Pairs, RowFinding, row_pair
from tailcut.tuner.accuracy.spread import ROUNDING, RowLayout, Spread, rounding_in

_OF_ROW = 1e-5  # of the largest magnitude in a row: differences within it are float32 rounding, and ties
_MOST_CLASSES = 100_000
_LENGTH_ONE = 2e-3  # tolerance for a length of 1 after rounding to 16 bits


def is_float(array: np.ndarray) -> bool:
    """Whether an output holds floating-point numbers, bfloat16 included."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def rounding_of(array: np.ndarray) -> float:
    """How far two scores of this dtype may lie apart and still tie, as a share of the largest of them."""
    return max(_OF_ROW, rounding_in(array.dtype))


def measure_floats(name: str, pairs: Pairs, bound: Bound) -> OutputErrors:
    """Compare one floating-point output over all requests."""
    measured, odd_rows = OutputErrors(), []
    layout = RowLayout.of([expected for expected, _ in pairs])
    spread = Spread.of(layout, [expected for expected, _ in pairs])
    scores = not _are_directions([expected for expected, _ in pairs])
    compared: list[_Rows] = []
    for request, (expected, got) in enumerate(pairs):
        if not expected.size:
            continue
        a, b = layout.rows(expected), layout.rows(got)
        rows = _Rows(name, request, np.where(np.isfinite(a), a, 0.0), np.where(np.isfinite(b), b, 0.0))
        odd = _first_odd(a, b)
        if odd is not None:
            odd_rows.append(_odd(name, request, odd, a[odd], b[odd]))
            continue
        compared.append(rows)
        if scores and expected.ndim == 2 and 2 <= a.shape[1] <= _MOST_CLASSES:
            _count_top1(measured, rows, rounding_of(expected))
    if layout.width == 1:
        _add_column_cosine(measured, compared, bound)
    else:
        for rows in compared:
            _add_cosine(measured, rows, float(spread.floors.max()), bound)
    _judge_top1(measured, bound)
    _add_spread(measured, compared, spread, bound)
    if bound.exact:  # the figures are for the report; only rounding is judged
        floor = ROUNDING * spread.typical
        measured.findings = [finding for rows in compared if (finding := _beyond_rounding(rows, floor))]
    measured.findings += odd_rows
    return measured


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of one request, float64 [rows, numbers]; 0 in place of numbers that are not finite in both."""

    name: str
    request: int
    a: np.ndarray
    b: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """The absolute error, of the same shape."""
        return np.asarray(np.abs(self.b - self.a))

    def finding(self, row: int, measure: str, words: str, excess: float) -> RowFinding:
        shown = row_pair(self.a[row], self.b[row], np.abs(self.b[row] - self.a[row]))
        return RowFinding(self.request, row, self.name, measure, words, excess, **shown)


def _add_cosine(measured: OutputErrors, rows: _Rows, floor: float, bound: Bound) -> None:
    """Add the worst row's cosine; a row that differs only by rounding at the output's scale counts as 1."""
    lengths = np.linalg.norm(rows.a, axis=1) * np.linalg.norm(rows.b, axis=1)
    cosines = (rows.a * rows.b).sum(axis=1) / np.where(lengths == 0, 1.0, lengths)
    near = np.sqrt((rows.error**2).mean(axis=1)) <= floor
    cosines = np.where(near, np.maximum(cosines, 1.0), cosines)
    row = int(cosines.argmin())
    worst = float(min(cosines[row], 1.0))
    measured.cosine = worst if measured.cosine is None else min(measured.cosine, worst)
    if worst < 1.0:
        words = f"cosine {worst:.6f} (at least {bound.value})"
        measured.findings.append(rows.finding(row, "cosine", words, (1.0 - worst) / bound.cosine_slack))


def _add_column_cosine(measured: OutputErrors, compared: list[_Rows], bound: Bound) -> None:
    """Add the cosine of the column of all rows, because a single number has none; it is reported at the worst row."""
    if not compared:
        return
    a, b = (np.concatenate([getattr(rows, side)[:, 0] for rows in compared]) for side in ("a", "b"))
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    worst = 1.0 if np.array_equal(a, b) else float(min(1.0, a @ b / length)) if length else 0.0
    measured.cosine = worst
    if worst < 1.0:
        rows = max(compared, key=lambda item: float(item.error.max()))
        words = f"cosine {worst:.6f} of the whole column (at least {bound.value})"
        row = int(rows.error[:, 0].argmax())
        measured.findings.append(rows.finding(row, "cosine", words, (1.0 - worst) / bound.cosine_slack))


def _add_spread(measured: OutputErrors, compared: list[_Rows], spread: Spread, bound: Bound) -> None:
    """Add each request's worst row, and the root mean square over all rows, reported at the worst row of all."""
    worst: tuple[float, _Rows, int] | None = None
    squares: np.ndarray | float = 0.0
    count = 0
    for rows in compared:
        ratios = spread.ratios(rows.error)
        squares = squares + (ratios**2).sum(axis=0)
        count += len(ratios)
        row = int(ratios.max(axis=1).argmax())
        ratio = float(ratios[row].max())
        if worst is None or ratio > worst[0]:
            worst = ratio, rows, row
        if ratio:
            words = f"error of {ratio:.3f} of the output's spread (at most {2 * bound.distance:.3f})"
            measured.findings.append(rows.finding(row, "error to spread", words, ratio / (2 * bound.distance)))
    if worst is None:
        return
    measured.spread = whole = float(np.sqrt(np.max(squares) / count))
    if whole > bound.distance:
        words = f"root mean square error of {whole:.3f} of the output's spread (at most {bound.distance:.3f})"
        _, rows, row = worst
        measured.findings.append(rows.finding(row, "error to spread", words, whole / bound.distance))


def _are_directions(arrays: Sequence[np.ndarray]) -> bool:
    """Whether an output is unit vectors, as encoders return: the index of their largest number means nothing."""
    vectors = [array.astype(np.float64) for array in arrays if array.ndim == 2 and array.size]
    return bool(vectors) and all(
        np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=_LENGTH_ONE) and (rows < 0).any(axis=1).all()
        for rows in vectors
    )


def _count_top1(measured: OutputErrors, rows: _Rows, rounding: float) -> None:
    """Count rows whose largest score is at the same index, or at one that ties with it within rounding."""
    chosen = rows.b.argmax(axis=1)
    best = rows.a.max(axis=1)
    tie = best - rounding * np.abs(rows.a).max(axis=1)
    agree = rows.a[np.arange(len(chosen)), chosen] >= tie
    agreed, total = measured.top1
    measured.top1 = agreed + int(agree.sum()), total + len(agree)
    if not agree.all():
        row = int(agree.argmin())
        measured.findings.append(rows.finding(row, "top-1", "", 0.0))


def _judge_top1(measured: OutputErrors, bound: Bound) -> None:
    agreed, total = measured.top1
    if agreed == total:
        return
    excess = (1 - agreed / total) / bound.cosine_slack
    words = f"top-1 agreement {agreed / total:.4f} (at least {bound.value})"
    measured.findings = [
        replace(finding, words=words, excess=excess) if finding.measure == "top-1" else finding
        for finding in measured.findings
    ]


def _beyond_rounding(rows: _Rows, floor: float) -> RowFinding | None:
    allowed = _OF_ROW * np.abs(rows.a).max(axis=1, keepdims=True, initial=0) + floor
    excess = (rows.error / allowed).max(axis=1)
    row = int(excess.argmax())
    if not excess[row]:
        return None
    words = f"differs by {excess[row]:.3g} times what float32 rounding explains"
    return rows.finding(row, "rounding", words, float(excess[row]))


def _first_odd(a: np.ndarray, b: np.ndarray) -> int | None:
    """The first row where one array has NaN or infinity and the other a number, or a different one of these."""
    same = (np.isfinite(a) & np.isfinite(b)) | (np.isnan(a) & np.isnan(b)) | (np.isinf(a) & (a == b))
    rows = same.all(axis=1)
    return None if rows.all() else int(rows.argmin())


def _odd(name: str, request: int, row: int, a: np.ndarray, b: np.ndarray) -> RowFinding:
    unlike = (np.isfinite(a) != np.isfinite(b)) | (np.isnan(a) != np.isnan(b)) | (np.isinf(a) & (a != b))
    words = "NaN or infinity at different positions"
    return RowFinding(request, row, name, "finite", words, np.inf, **row_pair(a, b, unlike.astype(np.float64)))

"""Integer, boolean and string outputs: equal, except where the scores behind them tie, or lie at a threshold.

Strings are compared as `str`: the engine returns them as `str`, the wire as `bytes`.

A label that differs is still right where the reference's own scores for the expected and the actual label tie within
rounding; the scores are another output of the model. A share of a mask's elements may differ, because some lie at its
threshold. Masks are booleans, integers that are 0 and 1 (or 0 and 255) throughout, and maps of few classes.
"""

from collections.abc import Sequence

import numpy as np

from tailcut.tuner.accuracy.finding import Bound, OutputErrors, Pairs, RowFinding, row_pair
from tailcut.tuner.accuracy.ties import tied_labels, tied_places

_MASKS: tuple[set[object], ...] = ({0, 1}, {0, 255})
_MAP_DIMS, _MAP_ELEMENTS, _MAP_CLASSES = 3, 256, 256  # a segmentation map: rows of at least two dimensions


def as_text(array: np.ndarray) -> np.ndarray:
    """An array of strings as `str`, from `str` or `bytes`; bytes that are not UTF-8 stay distinct (surrogateescape)."""
    text = np.empty(array.size, object)
    text[:] = [
        item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else str(item)
        for item in array.reshape(-1).tolist()
    ]
    return text.reshape(array.shape)


def is_text(array: np.ndarray) -> bool:
    """Whether an output holds strings."""
    return array.dtype.kind in "OSU"


def measure_labels(name: str, pairs: Pairs, bound: Bound, scores: Sequence[Pairs]) -> OutputErrors:
    """Compare one output of integers, booleans or strings over all requests.

    Args:
        name: of the output.
        pairs: the expected and the actual array of each request.
        bound: 1 minus it is the share of a mask that may differ; exact allows no difference.
        scores: the floating-point outputs of the model, as pairs likewise.
    """
    measured = OutputErrors(differing=0.0)
    if is_text(pairs[0][0]):
        pairs = [(as_text(expected), as_text(got)) for expected, got in pairs]
    unlike = [np.asarray(expected != got) for expected, got in pairs]
    if not any(map(np.any, unlike)):
        return measured
    if not bound.exact:
        for score in scores:
            tied = tied_labels(pairs, unlike, score) or tied_places(pairs, unlike, score)
            if tied is not None:
                unlike = [wrong & ~tie for wrong, tie in zip(unlike, tied, strict=True)]
    total = sum(expected.size for expected, _ in pairs)
    differing = sum(int(np.count_nonzero(mask)) for mask in unlike)
    measured.differing = differing / total
    may_differ = not bound.exact and _is_mask([expected for expected, _ in pairs])
    for request, ((expected, got), wrong) in enumerate(zip(pairs, unlike, strict=True)):
        if wrong.any():
            measured.findings.append(
                _mask_finding(name, request, (expected, got, wrong), measured.differing, bound)
                if may_differ
                else _finding(name, request, (expected, got, wrong), "differs", np.inf)
            )
    return measured


def _mask_finding(
    name: str, request: int, arrays: tuple[np.ndarray, np.ndarray, np.ndarray], differing: float, bound: Bound
) -> RowFinding:
    """The worst row of a mask: one element or the bound's share of a row may differ, and the bound's share overall."""
    wrong = arrays[2]
    rows = wrong.reshape(wrong.shape[0] if wrong.ndim else 1, -1)
    share = float(rows.mean(axis=1).max())
    of_row = share * rows.shape[1] / max(1.0, bound.share * rows.shape[1])
    of_all = differing / bound.cosine_slack
    if of_row > of_all:
        words = f"{share:.2%} of the row's elements differ (at most {bound.share:.2%})"
    else:
        words = f"{differing:.2%} of the elements differ (at most {bound.share:.2%})"
    return _finding(name, request, arrays, words, max(of_row, of_all))


def _finding(
    name: str, request: int, arrays: tuple[np.ndarray, np.ndarray, np.ndarray], words: str, excess: float
) -> RowFinding:
    expected, got, wrong = (array.reshape(array.shape[0] if array.ndim else 1, -1) for array in arrays)
    row = int(wrong.sum(axis=1).argmax())
    shown = row_pair(expected[row], got[row], wrong[row].astype(np.float64))
    measure = "equal" if words == "differs" else "differing elements"
    return RowFinding(request, row, name, measure, words, excess, **shown)


def _is_mask(arrays: Sequence[np.ndarray]) -> bool:
    """Whether an output is a mask or a map of classes; other integers are taken for labels."""
    if arrays[0].dtype == np.bool_:
        return True
    if arrays[0].dtype.kind not in "iu":
        return False
    values: set[object] = set()
    for array in arrays:
        values |= set(np.unique(array).tolist())
        if len(values) > _MAP_CLASSES:
            return False
    if any(values <= mask for mask in _MASKS):
        return True
    return all(array.ndim >= _MAP_DIMS and array.size >= _MAP_ELEMENTS * len(array) for array in arrays)

"""Labels that differ because scores tie: the reference could as well have returned the other one.

Two forms are recognised. In the first, an output has one label where the scores have an axis of classes, as `ArgMax`
and classifiers return it: the label of the largest score. Which label belongs to which class is learned from the
reference. In the second, labels belong to sorted scores, as `TopK` returns them: labels of equal scores may be swapped,
and a label may be replaced by one that is not listed if its score ties with the last one listed.
"""

from collections.abc import Sequence

import numpy as np

from tailcut.tuner.accuracy.finding import Pairs
from tailcut.tuner.accuracy.floats import rounding_of

Masks = list[np.ndarray]


def tied_labels(pairs: Pairs, unlike: Masks, scores: Pairs) -> Masks | None:
    """Where labels that differ are ties of the largest score, for each request; None where these are not its scores.

    Args:
        pairs: the expected and the actual labels of each request.
        unlike: where they differ.
        scores: a floating-point output, expected and actual.
    """
    axis = _class_axis([expected for expected, _ in pairs], [expected for expected, _ in scores])
    if axis is None:
        return None
    by_class = [np.moveaxis(expected, axis, -1).reshape(-1, expected.shape[axis]) for expected, _ in scores]
    labels = _labels_of_classes([expected.reshape(-1) for expected, _ in pairs], by_class)
    if labels is None:
        return None
    tied = []
    for (_, got), wrong, rows in zip(pairs, unlike, by_class, strict=True):
        mask = np.zeros(got.size, bool)
        named = got.reshape(-1)
        places = np.flatnonzero(wrong.reshape(-1))
        for index, tie in zip(places.tolist(), _ties(rows[places]), strict=True):
            mask[index] = any(labels.get(class_) == named[index] for class_ in np.flatnonzero(tie).tolist())
        tied.append(mask.reshape(got.shape))
    return tied


def _ties(rows: np.ndarray) -> np.ndarray:
    """Which scores of each row tie with its largest, which is among them."""
    wide = rows.astype(np.float64)
    best = wide.max(axis=1, keepdims=True)
    return np.asarray(wide >= best - rounding_of(rows) * np.abs(wide).max(axis=1, keepdims=True))


def _class_axis(labels: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> int | None:
    """The axis of the scores that the labels lack, in all requests; empty answers fit any."""
    filled = [(label.shape, score.shape) for label, score in zip(labels, scores, strict=True) if label.size]
    if not filled:
        return None
    for axis in range(len(filled[0][1])):
        if all(_lacks(label, score, axis) for label, score in filled):
            return axis
    return None


def _lacks(label: tuple[int, ...], score: tuple[int, ...], axis: int) -> bool:
    if axis >= len(score) or score[axis] < 2:
        return False
    before, behind = score[:axis], score[axis + 1 :]
    return label in {(*before, *behind), (*before, 1, *behind)}


def _labels_of_classes(labels: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> dict[int, object] | None:
    """Which label belongs to which class, where all reference labels without a tie agree; else None."""
    known: dict[int, object] = {}
    for label, score in zip(labels, scores, strict=True):
        if not label.size:
            continue
        clear = _ties(score).sum(axis=1) == 1
        chosen = score.argmax(axis=1)[clear]
        for class_ in np.unique(chosen).tolist():
            named = label[clear][chosen == class_]
            if any(name != known.setdefault(class_, named[0]) for name in named):
                return None
    named_once = len({str(name) for name in known.values()}) == len(known)
    if not known or not named_once:
        return None
    if all(name == class_ for class_, name in known.items()):
        return _Numbered()
    return known


class _Numbered(dict[int, object]):
    """Labels that are the indices of their classes, including those that no reference answer has."""

    def get(self, key: int, default: object = None) -> object:
        """The index itself."""
        return key


def tied_places(pairs: Pairs, unlike: Masks, scores: Pairs) -> Masks | None:
    """Where labels that differ belong to scores that tie, for each request; None where these are not their scores.

    Args:
        pairs: the expected and the actual labels of each request.
        unlike: where they differ.
        scores: a floating-point output, expected and actual, sorted along its last axis.
    """
    if any(
        names.shape != values.shape or not names.ndim for (names, _), (values, _) in zip(pairs, scores, strict=True)
    ):
        return None
    tied = []
    for (expected, got), wrong, (values, other) in zip(pairs, unlike, scores, strict=True):
        width = max(1, expected.shape[-1])
        names = zip(expected.reshape(-1, width), got.reshape(-1, width), strict=True)
        wide = (side.astype(np.float64).reshape(-1, width) for side in (values, other))
        rows = [
            _tied_row(*row, rounding_of(values))
            for row in zip(names, wrong.reshape(-1, width), zip(*wide, strict=True), strict=True)
        ]
        if any(row is None for row in rows):
            return None
        tied.append(np.array(rows, bool).reshape(expected.shape))
    return tied


def _tied_row(
    names: tuple[np.ndarray, np.ndarray], wrong: np.ndarray, scores: tuple[np.ndarray, np.ndarray], rounding: float
) -> np.ndarray | None:
    """One row's ties; None where its expected scores are not sorted."""
    (expected, got), (values, other) = names, scores
    steps = np.diff(values)
    if not ((steps <= 0).all() or (steps >= 0).all()):
        return None
    tie = rounding * float(np.abs(values).max(initial=0))
    mask = np.zeros(len(expected), bool)
    if not wrong.any() or len(set(got.tolist())) < len(got):
        return mask
    places = {name: index for index, name in enumerate(expected.tolist())}
    for index in np.flatnonzero(wrong).tolist():
        partner = places.get(got[index], len(expected) - 1)  # a label that is not listed has to tie with the last one
        mask[index] = abs(values[index] - values[partner]) <= tie and abs(values[index] - other[index]) <= tie
    return mask

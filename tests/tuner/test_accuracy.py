"""Whether answers are still right: what passes, what does not, and what is said."""

import ml_dtypes
import numpy as np
import pytest

from tailcut.errors import UsageError
from tailcut.tuner.accuracy import compare, labelled, parse_bound

RANDOM = np.random.default_rng(0)
SCORES = [{"y": RANDOM.standard_normal((1, 10)).astype(np.float32)} for _ in range(50)]


def nudged(answers: list[dict], by: float) -> list[dict]:
    noise = np.random.default_rng(1)
    return [
        {name: (array + by * noise.standard_normal(array.shape)).astype(array.dtype) for name, array in one.items()}
        for one in answers
    ]


@pytest.mark.parametrize("bound", [0.999, None])
def test_the_same_answers_are_right(bound: float | None) -> None:
    """Equal outputs pass any bound, with a cosine of one and full agreement."""
    found = compare(SCORES, SCORES, bound)
    assert found.right
    assert found.worst == pytest.approx(1.0)
    assert found.top1 == 1.0


def test_rounding_passes_exact_and_bf16_does_not() -> None:
    """exact allows float32 rounding and nothing more."""
    assert compare(SCORES, nudged(SCORES, 1e-7), None).right
    rounded = [{"y": one["y"].astype(ml_dtypes.bfloat16).astype(np.float32)} for one in SCORES]
    assert not compare(SCORES, rounded, None).right
    assert compare(SCORES, rounded, 0.999).right


def test_a_worse_cosine_is_said() -> None:
    """The worst row counts, and the reason names its cosine."""
    found = compare(SCORES, nudged(SCORES, 0.3), 0.999)
    assert not found.right
    assert found.reason.startswith("cosine 0.")


def test_another_class_is_seen_where_the_cosine_is_high() -> None:
    """Two scores that are nearly alike may swap places: the agreement of the largest is checked too."""
    close = [{"y": np.array([[1.0, 1.0 + 1e-4, 0.0]], np.float32)}]
    swapped = [{"y": np.array([[1.0 + 1e-4, 1.0, 0.0]], np.float32)}]
    found = compare(close, swapped, 0.999)
    assert not found.right
    assert "top-1 agreement 0.0000" in found.reason


def test_one_number_a_row_is_compared_down_the_column() -> None:
    """A regressor's single output has no direction of its own: a sign flip in one of many rows is no cosine of -1."""
    one = [{"y": np.array([[value]], np.float32)} for value in (1.0, 2.0, 3.0, 1e-4)]
    near = [{"y": np.array([[value]], np.float32)} for value in (1.0, 2.0, 3.0, -1e-4)]
    assert compare(one, near, 0.999).right
    far = [{"y": -array["y"]} for array in one]
    assert not compare(one, far, 0.999).right


@pytest.mark.parametrize(
    ("expected", "actual", "words"),
    [
        (np.array([1, 2]), np.array([1, 3]), "differs"),
        (np.array([True]), np.array([False]), "differs"),
        (np.array([b"a"], object), np.array([b"b"], object), "differs"),
        (np.zeros((1, 2), np.float32), np.zeros((1, 3), np.float32), "another shape"),
        (np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float64), "another shape or dtype"),
    ],
)
def test_what_must_be_equal(expected: np.ndarray, actual: np.ndarray, words: str) -> None:
    """Integers, booleans, strings, shapes and dtypes are equal or wrong, whatever the bound; the output is named."""
    found = compare([{"out": expected}], [{"out": actual}], 0.0)
    assert not found.right
    assert "'out'" in found.reason
    assert words in found.reason


def test_a_missing_output_is_wrong() -> None:
    """An output that did not come back is named."""
    assert "'y'" in compare(SCORES, [{} for _ in SCORES], 0.5).reason


def test_nan_where_nan_was() -> None:
    """Not-a-numbers in the same places are right, elsewhere wrong."""
    nan = [{"y": np.array([[1.0, np.nan, 2.0, np.inf]], np.float32)}]
    assert compare(nan, nan, 0.999).right
    other = [{"y": np.array([[1.0, 5.0, np.nan, np.inf]], np.float32)}]
    assert not compare(nan, other, 0.999).right


def test_labels() -> None:
    """The share of rows whose largest score stands at the label; outputs that are no scores have none."""
    assert labelled([{"y": np.array([[0.1, 0.9]])}, {"y": np.array([[0.8, 0.2]])}], np.array([1, 1])) == 0.5
    assert labelled([{"y": np.array([[0.1]])}], np.array([0])) is None


@pytest.mark.parametrize(("text", "bound"), [("exact", None), ("0.999", 0.999), ("1", 1.0)])
def test_bounds(text: str, bound: float | None) -> None:
    """A number from 0 to 1, or exact."""
    assert parse_bound(text) == bound


@pytest.mark.parametrize("text", ["1.5", "-1", "nan", "most", ""])
def test_bad_bounds(text: str) -> None:
    """Anything else is a mistake that names the flag."""
    with pytest.raises(UsageError, match="--accuracy"):
        parse_bound(text)

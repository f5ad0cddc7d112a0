"""Whether answers are still right: what passes, what does not, and what is reported."""

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tailcut.errors import UsageError
from tailcut.tuner.accuracy import Metric, compare, labelled, load_metric, parse_bound

RANDOM = np.random.default_rng(0)
SCORES = [{"y": RANDOM.standard_normal((1, 10)).astype(np.float32)} for _ in range(50)]
REGRESSOR = [{"y": (1000 + 4 * RANDOM.standard_normal((1, 1))).astype(np.float32)} for _ in range(64)]
CLASSES = np.array([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1]], np.float32)
TOP = np.array([[0.5, 0.3, 0.3]], np.float32)
Answers = list[dict[str, np.ndarray]]


def nudged(answers: Answers, by: float) -> Answers:
    noise = np.random.default_rng(1)
    return [
        {name: (array + by * noise.standard_normal(array.shape)).astype(array.dtype) for name, array in answer.items()}
        for answer in answers
    ]


def rounded(answers: Answers) -> Answers:
    return [
        {name: array.astype(ml_dtypes.bfloat16).astype(np.float32) for name, array in answer.items()}
        for answer in answers
    ]


def text(*labels: str | bytes) -> np.ndarray:
    return np.array(labels, object)


@pytest.mark.parametrize("bound", [0.999, 1.0, None])
def test_the_same_answers_are_right(bound: float | None) -> None:
    """Equal outputs pass any bound, with a cosine of one and full agreement."""
    result = compare(SCORES, SCORES, bound)
    assert result.right
    assert result.worst == pytest.approx(1.0)
    assert result.top1 == 1.0
    assert result.rows == ()


def test_rounding_passes_exact_and_bf16_does_not() -> None:
    """exact allows float32 rounding and nothing more; an ordinary classifier's scores in bf16 pass 0.999."""
    assert compare(SCORES, nudged(SCORES, 1e-7), None).right
    assert not compare(SCORES, rounded(SCORES), None).right
    assert compare(SCORES, rounded(SCORES), 0.999).right
    shares = [{"p": np.exp(2 * item["y"]) / np.exp(2 * item["y"]).sum()} for item in SCORES]
    assert compare(shares, rounded(shares), 0.999).right


def test_a_worse_cosine_is_reported() -> None:
    """The worst row counts, and the reason names output and measure."""
    result = compare([{"y": item["y"][:, None]} for item in SCORES], nudged(SCORES, 0.3), 0.999)
    assert "has shape" in result.reason
    wide = [{"y": item["y"].reshape(1, 2, 5)} for item in SCORES]
    result = compare(wide, nudged(wide, 0.3), 0.999)
    assert not result.right
    assert result.reason.startswith("output 'y': cosine 0.")
    assert result.worst is not None
    assert f"{result.worst:.6f}" in result.reason


def test_the_largest_number_of_a_direction_is_no_class() -> None:
    """Vectors of length 1, as encoders of text give them, are judged by their cosine; other rows are not."""
    rng = np.random.default_rng(3)
    vectors = [{"y": rng.normal(size=(4, 64)).astype(np.float32)} for _ in range(50)]
    for vector in vectors:
        vector["y"][:, :2] = 3.5, 3.501  # the two largest, nearly alike
    directions = [{"y": vector["y"] / np.linalg.norm(vector["y"], axis=1, keepdims=True)} for vector in vectors]
    result = compare(directions, nudged(directions, 0.0005), 0.999)
    assert (result.right, result.top1) == (True, None)
    result = compare(vectors, nudged(vectors, 0.01), 0.999)
    assert not result.right
    assert "top-1 agreement" in result.reason


def test_another_class_is_seen_where_the_cosine_is_high() -> None:
    """Two scores that are nearly alike may swap places: the agreement of the largest is checked too."""
    close = [{"y": np.array([[1.0, 1.0 + 1e-4, 0.0]], np.float32)}]
    swapped = [{"y": np.array([[1.0 + 1e-4, 1.0, 0.0]], np.float32)}]
    result = compare(close, swapped, 0.999)
    assert not result.right
    assert "top-1 agreement 0.0000" in result.reason


def test_largest_scores_that_tie_agree() -> None:
    """Two scores within float32 rounding of each other are both the largest."""
    tie = [{"y": np.array([[1.0, 1.0 + 1e-6, 0.0]], np.float32)}]
    result = compare(tie, [{"y": np.array([[1.0 + 1e-6, 1.0, 0.0]], np.float32)}], 0.999)
    assert (result.right, result.top1) == (True, 1.0)


def test_one_number_a_row_is_compared_down_the_column() -> None:
    """A regressor's single output has no direction of its own: a sign flip in one of many rows is no cosine of -1."""
    item = [{"y": np.array([[value]], np.float32)} for value in (1.0, 2.0, 3.0, 1e-4)]
    near = [{"y": np.array([[value]], np.float32)} for value in (1.0, 2.0, 3.0, -1e-4)]
    assert compare(item, near, 0.999).right
    far = [{"y": -array["y"]} for array in item]
    assert not compare(item, far, 0.999).right


def test_a_regressor_is_judged_by_its_spread() -> None:
    """Off by a tenth of the answers' own spread is wrong, however small that is beside their mean."""
    spread = float(np.std([item["y"] for item in REGRESSOR]))
    shifted = [{"y": item["y"] + np.float32(0.1 * spread)} for item in REGRESSOR]
    result = compare(REGRESSOR, shifted, 0.999)
    assert result.worst is not None
    assert result.worst > 0.99999
    assert not result.right
    assert result.spread == pytest.approx(0.1, rel=0.01)
    assert "root mean square error of 0.100 of the output's spread (at most 0.045)" in result.reason


def test_one_answer_off_by_a_tenth_of_the_spread() -> None:
    """A single one among many is wrong too, and the row says which."""
    off = [dict(item) for item in REGRESSOR]
    off[5]["y"] = off[5]["y"] + np.float32(0.1 * np.std([item["y"] for item in REGRESSOR]))
    result = compare(REGRESSOR, off, 0.999)
    assert not result.right
    assert result.rows[0].request == 5
    assert float(result.rows[0].got) - float(result.rows[0].expected) == pytest.approx(0.4, abs=0.1)


def test_a_loss_of_precision_that_a_cosine_does_not_see() -> None:
    """Answers that lost 6 points of R2 have a cosine of 0.9999 and are refused."""
    random = np.random.default_rng(3)
    clean = random.standard_normal((256, 1))
    truth = 100 + clean + 0.94 * random.standard_normal((256, 1))
    wanted, got = 100 + clean, 100 + clean + 0.34 * random.standard_normal((256, 1))
    r2 = [1 - ((truth - item) ** 2).sum() / ((truth - truth.mean()) ** 2).sum() for item in (wanted, got)]
    assert 0.03 < r2[0] - r2[1] < 0.12
    result = compare(*([{"y": row[None].astype(np.float32)} for row in item] for item in (wanted, got)), 0.999)
    assert result.worst is not None
    assert result.worst > 0.9999
    assert not result.right


def test_each_column_of_a_few_has_its_own_spread() -> None:
    """A small unit beside a large one is not drowned by it."""
    random = np.random.default_rng(4)
    both = [{"y": (random.standard_normal((1, 2)) * [1000, 0.1]).astype(np.float32)} for _ in range(40)]
    off = [{"y": item["y"] + np.array([[0, 0.02]], np.float32)} for item in both]
    result = compare(both, off, 0.999)
    assert not result.right
    assert "spread" in result.reason


def test_an_output_that_does_not_vary_is_compared_with_its_magnitude() -> None:
    """A constant has no spread: an error of a hundredth of it passes, of a tenth does not."""
    same = [{"y": np.full((1, 1), 7, np.float32)} for _ in range(20)]
    assert compare(same, [{"y": item["y"] * np.float32(1.01)} for item in same], 0.999).right
    assert not compare(same, [{"y": item["y"] * np.float32(1.1)} for item in same], 0.999).right


@pytest.mark.parametrize("bound", [0.999, None])
def test_nothing_beside_almost_nothing(bound: float | None) -> None:
    """0 beside 2e-10 is rounding where other rows are of ordinary size, or there is nothing else."""
    rows = [np.ones((1, 4)), np.zeros((1, 4)), np.ones((1, 4)) * 2]
    for kept in (rows, rows[1:2]):
        wanted = [{"y": row.astype(np.float32)} for row in kept]
        assert compare(wanted, [{"y": item["y"] + np.float32(2e-10)} for item in wanted], bound).right
    small = [{"y": np.full((1, 4), value, np.float32)} for value in (1e-9, 2e-9, 3e-9, 4e-9)]
    assert not compare(small, [{"y": -item["y"]} for item in small], bound).right


@pytest.mark.parametrize(
    ("expected", "actual", "words"),
    [
        (np.array([1, 2]), np.array([1, 3]), "differs"),
        (text(b"a"), text(b"b"), "differs"),
        (text("a"), text(b"\xff"), "differs"),
        (np.zeros((1, 2), np.float32), np.zeros((1, 3), np.float32), "has shape [1, 3] instead of [1, 2]"),
        (np.zeros((0, 6), np.float32), np.zeros((1, 6), np.float32), "has shape [1, 6] instead of [0, 6]"),
        (np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float64), "has dtype float64 instead of float32"),
    ],
)
def test_what_must_be_equal(expected: np.ndarray, actual: np.ndarray, words: str) -> None:
    """Integers, strings, shapes and dtypes are equal or wrong, whatever the bound; the output is named."""
    result = compare([{"out": expected}], [{"out": actual}], 0.0)
    assert not result.right
    assert "'out'" in result.reason
    assert words in result.reason


@pytest.mark.parametrize("bound", [0.999, None])
@pytest.mark.parametrize(
    "array", [np.zeros((0, 6), np.float32), np.zeros((2, 0), np.int64), np.float32(3).reshape(()), np.array(5)]
)
def test_empty_answers_and_scalars(array: np.ndarray, bound: float | None) -> None:
    """Nothing found, and no dimensions at all, are answers like others."""
    assert compare([{"y": array}, {"y": array}], [{"y": array}, {"y": array.copy()}], bound).right


def test_rows_of_different_number_and_length() -> None:
    """A detector's finds and a tagger's tokens differ in number from request to request."""
    random = np.random.default_rng(5)
    for shape in ((lambda n: (n, 6)), (lambda n: (1, n, 4)), (lambda n: (n,)), (lambda n: (1, n))):
        wanted = [{"y": random.standard_normal(shape(n)).astype(np.float32)} for n in (3, 1, 7, 12, 2)]
        assert compare(wanted, nudged(wanted, 1e-7), 0.999).right
        result = compare(wanted, [{"y": item["y"][::-1].copy() * 2} for item in wanted], 0.999)
        assert not result.right


def test_strings_are_strings() -> None:
    """The engine's `str` and the wire's `bytes` of the same text are equal, also under exact."""
    for bound in (0.999, None):
        assert compare([{"label": text("a", "ü")}], [{"label": text(b"a", "ü".encode())}], bound).right


@pytest.mark.parametrize(
    ("wanted", "got"),
    [
        (np.array([0, 2, 0, 1]), np.array([1, 2, 0, 1])),
        (np.array([[0], [2], [0], [1]]), np.array([[1], [2], [0], [1]])),
        (text("x", "z", "x", "y"), text(b"y", b"z", b"x", b"y")),
        (np.array([10, 30, 10, 20]), np.array([20, 30, 10, 20])),
    ],
)
def test_labels_of_scores_that_tie(wanted: np.ndarray, got: np.ndarray) -> None:
    """Where the reference's scores tie, either label is right, numbered or named; exact takes only the same one."""
    assert compare([{"scores": CLASSES, "label": wanted}], [{"scores": CLASSES, "label": got}], 0.999).right
    assert not compare([{"scores": CLASSES, "label": wanted}], [{"scores": CLASSES, "label": got}], None).right
    wrong = got.copy()
    wrong[3] = got[1]
    assert not compare([{"scores": CLASSES, "label": wanted}], [{"scores": CLASSES, "label": wrong}], 0.999).right
    assert not compare([{"label": wanted}], [{"label": got}], 0.999).right


@pytest.mark.parametrize(
    ("got", "right"), [([3, 1, 7], True), ([3, 7, 9], True), ([7, 3, 1], False), ([3, 1, 1], False)]
)
def test_places_of_scores_that_tie(got: list[int], right: bool) -> None:
    """Among the top k, names of equal scores may change places, and the last for one that is not shown."""
    wanted = [{"values": TOP, "ids": np.array([[3, 7, 1]])}]
    assert compare(wanted, [{"values": TOP, "ids": np.array([got])}], 0.999).right is right


def test_masks_may_differ_at_their_threshold() -> None:
    """A share of a mask's elements, by the bound; in one row or in all together not more; exact takes none."""
    mask = RANDOM.random((4, 1, 64, 64)) > 0.5
    few, many = mask.copy(), mask.copy()
    few[0, 0, 3, 3] ^= True
    many[0] ^= True
    for kind in (np.bool_, np.uint8):
        wanted = [{"mask": mask.astype(kind)}]
        assert compare(wanted, [{"mask": few.astype(kind)}], 0.999).right
        assert not compare(wanted, [{"mask": few.astype(kind)}], None).right
        result = compare(wanted, [{"mask": many.astype(kind)}], 0.999)
        assert "of the row's elements differ (at most 0.10%)" in result.reason
    classes = RANDOM.integers(0, 20, (1, 64, 64))
    other = classes.copy()
    other[0, 0, 0] += 1
    assert compare([{"map": classes}], [{"map": other}], 0.999).right
    names = RANDOM.integers(0, 20, (1, 4096))
    other = names.copy()
    other[0, 0] += 1
    assert not compare([{"ids": names}], [{"ids": other}], 0.999).right


def test_a_missing_output_is_wrong() -> None:
    """An output that did not come back is named."""
    assert "'y'" in compare(SCORES, [{} for _ in SCORES], 0.5).reason


def test_nan_where_nan_was() -> None:
    """Not-a-numbers and infinities in the same places are right, elsewhere or with another sign wrong."""
    nan = [{"y": np.array([[1.0, np.nan, 2.0, np.inf]], np.float32)}]
    for bound in (0.999, None):
        assert compare(nan, nan, bound).right
        for other in ([1.0, 5.0, np.nan, np.inf], [1.0, np.nan, 2.0, -np.inf]):
            assert not compare(nan, [{"y": np.array([other], np.float32)}], bound).right


def test_the_worst_rows_are_kept_also_of_what_is_right() -> None:
    """Each row once, the worst first, at most five, with what was expected and what came."""
    off = nudged(SCORES, 1e-3)
    off[7]["y"] = off[7]["y"] + np.float32(0.02)
    result = compare(SCORES, off, 0.999)
    assert result.right
    assert len(result.rows) == 5
    assert result.rows[0].request == 7
    assert [row.excess for row in result.rows] == sorted((row.excess for row in result.rows), reverse=True)
    assert len({row.request for row in result.rows}) == 5
    assert result.rows[0].expected.count("[") == 3


def test_random_outputs_are_not_compared() -> None:
    """Of those only shape and dtype count; the others are compared as ever."""
    noise = [{"noise": RANDOM.random((1, 3)), "y": item["y"]} for item in SCORES]
    other = [{"noise": RANDOM.random((1, 3)), "y": item["y"]} for item in SCORES]
    assert not compare(noise, other, 0.999).right
    assert compare(noise, other, 0.999, uncompared={"noise"}).right
    assert not compare(noise, [item | {"y": -item["y"]} for item in other], 0.999, uncompared={"noise"}).right
    assert not compare(noise, [item | {"noise": np.zeros((1, 4))} for item in other], 0.999, uncompared={"noise"}).right


@pytest.mark.parametrize(
    ("function", "right"), [(lambda a, b: True, True), (lambda a, b: 0.5, False), (lambda a, b: float("nan"), False)]
)
def test_a_metric_of_the_users_own_decides(function: Callable[[Answers, Answers], float], right: bool) -> None:
    """Its value takes the place of all built-in measures; shapes are its business, missing outputs are not."""
    other = [{"y": np.zeros((3, 1), np.float32)} for _ in SCORES]
    result = compare(SCORES, other, 0.999, metric=Metric("m:f", function))
    assert result.right is right
    assert right or "m:f is" in result.reason
    assert not compare(SCORES, [{} for _ in SCORES], 0.999, metric=Metric("m:f", function)).right


def test_a_metric_is_loaded_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By module and function; what cannot be used is one line that names the option."""
    (tmp_path / "own_metric.py").write_text(
        "def mean(reference, candidate):\n    return 1 - abs(reference[0]['y'] - candidate[0]['y']).mean()\n"
        "def words(reference, candidate):\n    return 'good'\n"
        "def error(reference, candidate):\n    return 0.0\n"
        "def broken(reference, candidate):\n    return reference[0]['z']\n"
    )
    monkeypatch.chdir(tmp_path)
    metric = load_metric("own_metric:mean")
    assert metric.value(SCORES, SCORES) == 1.0
    metric.check(SCORES, 0.999)
    for name, mistake in (("words", "returned str"), ("broken", "raised KeyError"), ("error", "larger must be better")):
        with pytest.raises(UsageError, match=f"--metric own_metric:{name} .*{mistake}"):
            load_metric(f"own_metric:{name}").check(SCORES, 0.999)
    for name, mistake in (("own_metric:no", "has no no"), ("nowhere_at_all:f", "cannot be imported"), ("x", "MODULE:")):
        with pytest.raises(UsageError, match=f"--metric: .*{mistake}"):
            load_metric(name)


def test_labels() -> None:
    """The share of rows whose largest score stands at the label; outputs that are no scores have none."""
    assert labelled([{"y": np.array([[0.1, 0.9]])}, {"y": np.array([[0.8, 0.2]])}], np.array([[1], [1]])) == 0.5
    assert labelled([{"y": np.array([[0.1]])}], np.array([[0]])) is None


@pytest.mark.parametrize(("text", "bound"), [("exact", None), ("0.999", 0.999), ("1", 1.0)])
def test_bounds(text: str, bound: float | None) -> None:
    """A number from 0 to 1, or exact."""
    assert parse_bound(text) == bound


@pytest.mark.parametrize("text", ["1.5", "-1", "nan", "most", ""])
def test_bad_bounds(text: str) -> None:
    """Anything else is a mistake that names the flag."""
    with pytest.raises(UsageError, match="--accuracy"):
        parse_bound(text)

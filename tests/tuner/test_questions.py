"""What candidates are asked: the data's requests, joined and cut ones, and the bare model's answers to each alone."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from tests.engines.models import images, masked_mean, perceptron, save, value

from tailcut.engines import open_engine
from tailcut.engines.base import EngineOptions
from tailcut.errors import EngineError
from tailcut.runtime.settings import PaddedInput, PaddingSettings
from tailcut.spec import DType
from tailcut.tuner.questions import ReferenceQuestions

PADDING = PaddingSettings(buckets=(4, 8, 16), inputs=(PaddedInput(name="ids"), PaddedInput(name="mask")))


def questions(path: Path, requests: list[dict[str, np.ndarray]], seconds: float = 10.0) -> ReferenceQuestions:
    return ReferenceQuestions(partial(open_engine, path, EngineOptions(threads=1)), requests, seconds)


def vectors(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"x": random.standard_normal((1, 4)).astype(np.float32)} for _ in range(count)]


def sentences(*lengths: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"ids": random.integers(1, 32, (1, length)), "mask": np.ones((1, length), np.int64)} for length in lengths]


def test_requests_are_asked_as_they_are_and_joined(tmp_path: Path) -> None:
    """Those of the data, and some of 2 to 40 rows; the answer to each is the bare model's to it alone."""
    path = perceptron([4, 8, 3], tmp_path / "m.onnx")
    result = questions(path, vectors(100))
    assert len({item.source for item in result.all if item.joined == 1}) >= 64
    assert {item.joined for item in result.all} == {1, 2, 3, 7, 13, 40}
    engine = open_engine(path, EngineOptions(threads=1))
    for item in result.all:
        assert len(item.inputs["x"]) == item.joined
        np.testing.assert_array_equal(item.answer["y"], engine.run(item.inputs)["y"])


def test_time_that_is_spent_leaves_the_most_telling(tmp_path: Path) -> None:
    """Three requests in any case, however slow the model, of different parts of the data."""
    result = questions(perceptron([4, 8, 3], tmp_path / "m.onnx"), vectors(1000), 0.0)
    sources = sorted(item.source for item in result.all)
    assert len(sources) == 3
    assert sources[2] - sources[1] > 100 < sources[1] - sources[0]


def test_the_whole_of_sorted_data_is_asked(tmp_path: Path) -> None:
    """The shortest and the longest request first, and cuts of long ones."""
    result = questions(masked_mean(tmp_path / "m.onnx"), sentences(*range(1, 201)))
    alone = [item.inputs["ids"].shape[1] for item in result.all if item.joined == 1 and not item.lengths]
    assert alone[:2] == [200, 1]
    assert sum(length > 100 for length in alone) > 20
    assert max(length for item in result.all for length in item.lengths) > 100


def test_rows_that_are_joined_differ(tmp_path: Path) -> None:
    """Partners come from all of the data, where few of those that are asked have the same shape."""
    result = questions(masked_mean(tmp_path / "m.onnx"), sentences(*sorted([*range(1, 101)] * 3)))
    joined = [item.inputs["ids"] for item in result.all if item.joined > 1]
    assert len(joined) > 30
    assert all(len(np.unique(rows, axis=0)) > 1 for rows in joined if rows.shape[1] > 2)


def test_requests_are_cut_where_the_model_has_a_free_length(tmp_path: Path) -> None:
    """All inputs to the same length, whatever the settings; for buckets below, at and between them."""
    result = questions(masked_mean(tmp_path / "m.onnx"), sentences(4, 8, 16, 16))
    cut = [item for item in result.all if item.lengths]
    assert cut
    assert all(item.inputs["ids"].shape == item.inputs["mask"].shape == (1, *item.lengths) for item in cut)
    between = result.of(PADDING)[: -len(result.all)]
    assert {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15} == {length for item in between for length in item.lengths}
    assert {item.joined for item in between} == {1, 2}
    assert result.of(PADDING) == result.of(PADDING)
    assert result.of(None) == result.all


def test_a_length_that_the_bare_model_refuses_is_left_out(tmp_path: Path) -> None:
    """A convolution of 5 over fewer than 5 has no answer to compare with."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[5])]
    ends = [value("x", DType.FP32, (None, 1, None))], [value("y", DType.FP32, (None, 1, "steps"))]
    path = save(tmp_path / "m.onnx", nodes, *ends, {"w": np.ones((1, 1, 5), np.float32)})
    result = questions(path, [{"x": np.ones((1, 1, length), np.float32)} for length in (8, 16)])
    padding = PaddingSettings(buckets=(8, 16), inputs=(PaddedInput(name="x"),))
    assert min(item.lengths for item in result.of(padding) if item.lengths) == (6,)


def test_two_dimensions_are_cut_each_by_itself(tmp_path: Path) -> None:
    """Height and width below, at and between the buckets of each; questions name both."""
    path = images(tmp_path / "m.onnx")
    result = questions(path, [{"image": np.ones((1, 2, *size), np.float32)} for size in ((12, 20), (16, 24), (9, 31))])
    padding = PaddingSettings(buckets=(8, 16), inputs=(PaddedInput(name="image"),), second_buckets=(16, 32))
    between = result.of(padding)[: -len(result.all)]
    assert {4, 7, 8, 9, 12} <= {item.lengths[0] for item in between}
    assert {8, 15, 16, 17, 24} <= {item.lengths[1] for item in between}
    assert all(item.inputs["image"].shape[2:] == item.lengths for item in between)
    assert "cut to length 4 x " in " ".join(item.words for item in between)


def test_a_request_of_the_data_that_the_model_refuses_is_an_error(tmp_path: Path) -> None:
    """The error names it, because nothing can be tuned on it."""
    path = masked_mean(tmp_path / "m.onnx")
    requests = [*sentences(5, 6), sentences(4)[0] | {"mask": np.ones((1, 3), np.int64)}]
    with pytest.raises(EngineError, match=r"^request 2 of the data \(ids 1x4, mask 1x3\): "):
        questions(path, requests)


def test_random_outputs_are_found(tmp_path: Path) -> None:
    """An output that differs when the same is asked twice is random; its neighbour is not."""
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("Add", ["x", "x"], ["double"]),
    ]
    ends = [[value(name, DType.FP32, (None, 4)) for name in names] for names in (("x",), ("noise", "double"))]
    assert questions(save(tmp_path / "m.onnx", nodes, *ends), vectors(10)).random == {"noise"}


@pytest.mark.parametrize(("seconds", "again"), [(0.0, 1), (10.0, 3)])
def test_few_requests_are_computed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, again: int
) -> None:
    """Their first answers are the reference's own, and a slow model computes only one of them again."""
    runs: list[int] = []
    path = perceptron([4, 8, 3], tmp_path / "m.onnx")
    engine = open_engine(path, EngineOptions(threads=1))
    compute = engine.run
    monkeypatch.setattr(engine, "run", lambda inputs: runs.append(1) or compute(inputs))
    result = ReferenceQuestions(lambda: engine, vectors(20), seconds)
    assert len(runs) == len(result.all) + again

"""Real servers: some wrong on purpose, only with concurrent requests or between lengths, and some right."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.engines.models import Dims, images, masked_mean, perceptron, save, value
from tests.servers import serving

from tailcut.engines import open_engine
from tailcut.engines.base import EngineOptions
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import infer_once
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, PaddedInput, PaddingSettings, Settings
from tailcut.spec import DType
from tailcut.tuner.accuracy import Accuracy
from tailcut.tuner.gate import Gate
from tailcut.tuner.questions import ReferenceQuestions
from tailcut.tuner.space import changed

PLAIN = Settings(engine=EngineOptions(threads=1), batching=BatchingSettings(max_batch_size=8))
# Batches on the user's word, of requests that wait for each other: these tests want to see a wrong server.
FORCED: dict[str, Any] = {"rows": "independent", "max_queue_delay_us": 20_000}
Requests = list[dict[str, np.ndarray]]


def gate(path: Path, requests: Requests, bound: float | None = 0.999) -> Gate:
    return Gate(ReferenceQuestions(partial(open_engine, path, EngineOptions(threads=1)), requests, 10.0), bound)


@contextmanager
def served(path: Path, settings: Settings) -> Iterator[LoadTarget]:
    profile = path.with_suffix(".profile.toml")
    Profile.of_model(path, settings, path.stem).save(profile)
    with serving(path.parent, profile, "--no-auto", "--drain", "0s") as server:
        yield LoadTarget(server.host, server.port)


def judged(path: Path, requests: Requests, settings: Settings) -> Accuracy:
    checker = gate(path, requests)
    with served(path, settings) as target:
        return checker.check(target, settings, 1.5)


def judged_in_company(path: Path, requests: Requests, settings: Settings) -> Accuracy:
    """The first refusal of three servers: one that a stall met while it warmed up may think batches do not pay."""
    for _ in range(3):
        result = judged(path, requests, settings)
        if not result.right:
            break
    return result


def vectors(*shape: int, count: int = 40) -> Requests:
    random = np.random.default_rng(0)
    return [{"x": random.standard_normal((1, *shape)).astype(np.float32)} for _ in range(count)]


def model(path: Path, nodes: list[Any], inputs: dict[str, Dims], outputs: dict[str, Dims], **weights: Any) -> Path:
    ends = [[value(name, DType.FP32, dims) for name, dims in item.items()] for item in (inputs, outputs)]
    return save(path, nodes, *ends, {name: np.asarray(array) for name, array in weights.items()})


def test_a_server_that_mixes_rows_is_wrong_only_with_concurrent_requests(tmp_path: Path) -> None:
    """A softmax over the first axis, batched by force: each request alone is right, and the gate still refuses it."""
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=0)]
    path = model(tmp_path / "m.onnx", nodes, {"x": (None, 4)}, {"y": (None, 4)})
    requests = vectors(4)
    settings = changed(PLAIN, batching={"bind": False, **FORCED})
    with served(path, settings) as target:
        for request in requests[:4]:
            np.testing.assert_allclose(infer_once(target, "m", request)["y"], np.ones((1, 4)))
    result = judged_in_company(path, requests, settings)
    assert not result.right
    assert result.reason.startswith("request ")
    assert "others: output 'y': " in result.reason or "joined" in result.reason


def sentences(*lengths: int) -> Requests:
    random = np.random.default_rng(0)
    return [{"ids": random.integers(1, 32, (1, length)), "mask": np.ones((1, length), np.int64)} for length in lengths]


def padded(*buckets: int, mask: float = 0.0, name: str = "ids") -> Settings:
    inputs = (PaddedInput(name="ids"), PaddedInput(name="mask", value=mask)) if name == "ids" else ()
    padding = PaddingSettings(buckets=buckets, inputs=inputs or (PaddedInput(name=name),))
    return changed(PLAIN, batching={"padding": padding})


@pytest.mark.parametrize(("mask", "right"), [pytest.param(0.0, True, marks=pytest.mark.slow), (1.0, False)])
def test_padding_is_proven_between_the_buckets(tmp_path: Path, mask: float, right: bool) -> None:
    """All data stand at the buckets, where nothing is filled up; a wrong value of the mask shows at cut requests."""
    path = masked_mean(tmp_path / "m.onnx")
    result = judged(path, sentences(5, 9, 16, 30) * 4, padded(5, 9, 16, 30, mask=mask))
    assert result.right is right
    assert right or "cut to length" in result.reason


def test_a_mean_without_a_mask_does_not_bear_padding(tmp_path: Path) -> None:
    """Zeros that are filled up count as numbers: refused, although every request of the data fits its bucket."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=1)]
    path = model(tmp_path / "mean.onnx", nodes, {"x": (None, None)}, {"y": (None, 1)})
    requests = [{"x": np.random.default_rng(n).random((1, n), np.float32)} for n in (5, 9, 16, 30) * 2]
    result = judged(path, requests, padded(5, 9, 16, 30, name="x"))
    assert not result.right
    assert "cut to length" in result.reason


@pytest.mark.parametrize(("layers", "right"), [pytest.param(1, True, marks=pytest.mark.slow), (2, False)])
def test_strided_outputs_are_cut_and_compared(tmp_path: Path, layers: int, right: bool) -> None:
    """Answers have their own length; where a second layer sees what the first made of the filling, they are wrong."""
    random = np.random.default_rng(1)
    weights = {"w": random.random((3, 2, 8), np.float32), "v": random.random((3, 3, 3), np.float32)}
    first = helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[8], strides=[4], pads=[2, 2])
    second = helper.make_node("Conv", ["c", "v"], ["y"], kernel_shape=[3], pads=[1, 1])
    last = second if layers == 2 else helper.make_node("Identity", ["c"], ["y"])
    ends = {"x": (None, 2, "width")}, {"y": (None, 3, "steps")}
    path = model(tmp_path / "m.onnx", [first, last], *ends, **weights)
    requests = [{"x": random.random((1, 2, n), np.float32)} for n in (16, 24, 40, 64)]
    result = judged(path, requests, padded(16, 24, 40, 64, name="x"))
    assert result.right is right
    assert "has shape" not in result.reason


def test_buckets_without_a_length_between_them_are_not_proven(tmp_path: Path) -> None:
    """Requests of length 1 cannot be cut, so nothing shows what is filled up."""
    path = masked_mean(tmp_path / "m.onnx")
    result = judged(path, sentences(1, 1, 1), padded(1, 2))
    assert not result.right
    assert "no request has a length between the buckets" in result.reason


def test_a_right_server_passes_on_every_wire(tmp_path: Path) -> None:
    """Bound rows, requests of several rows, over the largest batch, alone and together: compared to rounding."""
    path = perceptron([4, 8, 3], tmp_path / "m.onnx")
    gates = [gate(path, vectors(4), bound) for bound in (0.999, None)]
    with served(path, PLAIN) as target:
        for wire, checker in itertools.product(("binary", "json", "raw"), gates):
            result = checker.check(target, changed(PLAIN, io={"wire": wire}), 1.5)
            assert result.right, result.reason
            assert result.requests > 80


def test_regressors_labels_masks_and_strings_pass(tmp_path: Path) -> None:
    """A model with all of them, served as it is, is right in all of them; the figures are there."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["class"], axis=1, keepdims=0),
        helper.make_node("Greater", ["x", "half"], ["mask"]),
        helper.make_node("ReduceSum", ["x", "one"], ["sum"], keepdims=1),
        helper.make_node(
            "LabelEncoder",
            ["class"],
            ["label"],
            domain="ai.onnx.ml",
            keys_int64s=[0, 1, 2],
            values_strings=["setosa", "größer", "virginica"],
        ),
    ]
    weights = {"w": np.eye(4, 3, dtype=np.float32), "half": np.float32(0.5), "one": np.array([1])}
    kinds = {"scores": (DType.FP32, 3), "mask": (DType.BOOL, 4), "sum": (DType.FP32, 1)}
    outputs = [value(name, dtype, (None, width)) for name, (dtype, width) in kinds.items()]
    outputs += [value("class", DType.INT64, (None,)), value("label", DType.BYTES, (None,))]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "all", [value("x", DType.FP32, (None, 4))], outputs, tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    checker = gate(path, vectors(4), None)
    with served(path, PLAIN) as target:
        for wire in ("binary", "json"):
            result = checker.check(target, changed(PLAIN, io={"wire": wire}), 1.5)
            assert result.right, result.reason
            assert (result.top1, result.differing) == (1.0, 0.0)


def test_nan_and_infinity_are_asked_in_binary(tmp_path: Path) -> None:
    """JSON has no word for them, so a profile for JSON clients is not refused for it."""
    nodes = [helper.make_node("Log", ["x"], ["y"])]
    path = model(tmp_path / "m.onnx", nodes, {"x": (None, 4)}, {"y": (None, 4)})
    result = judged(path, vectors(4), changed(PLAIN, io={"wire": "json"}))
    assert result.right, result.reason


def test_a_server_that_answers_an_error_is_wrong(tmp_path: Path) -> None:
    """What the bare model answers and the server does not is no refusal for lack of room."""
    path = perceptron([4, 8, 3], tmp_path / "m.onnx")
    checker = gate(path, vectors(4))
    (tmp_path / "other").mkdir()
    with served(perceptron([5, 8, 3], tmp_path / "other" / "m.onnx"), PLAIN) as target:
        result = checker.check(target, PLAIN, 1.5)
    assert not result.right
    assert "request 0, asked alone: the server answers 400: " in result.reason


def test_a_random_model_is_not_compared(tmp_path: Path) -> None:
    """Answers pass by shape and dtype; padding, which nothing can show to be right, does not."""
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["n"]), helper.make_node("Add", ["x", "n"], ["y"])]
    path = model(tmp_path / "m.onnx", nodes, {"x": (None, None)}, {"y": (None, None)})
    checker = gate(path, [{"x": np.ones((1, n), np.float32)} for n in (3, 6, 9)])
    assert (checker.blind, checker.random_outputs) == (True, ("y",))
    with served(path, PLAIN) as target:
        assert checker.check(target, PLAIN, 1.5).right
        result = checker.check(target, padded(4, 8, 16, name="x"), 1.5)
    assert "the model is random" in result.reason


@pytest.mark.parametrize("wrong", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_padding_in_two_dimensions_is_judged(tmp_path: Path, wrong: bool) -> None:
    """Edges filled with zeros are a convolution's own; a mean over the image counts them in."""
    path = images(tmp_path / "m.onnx")
    if wrong:
        nodes = [helper.make_node("ReduceMean", ["image"], ["y"], axes=[2, 3], keepdims=0)]
        path = model(tmp_path / "m.onnx", nodes, {"image": (None, 2, None, None)}, {"y": (None, 2)})
    random = np.random.default_rng(0)
    sizes = [(9, 20), (12, 14), (16, 31), (10, 25), (23, 12), (30, 40)]
    requests = [{"image": random.standard_normal((1, 2, *size)).astype(np.float32)} for size in sizes]
    padding = PaddingSettings(buckets=(16, 32), inputs=(PaddedInput(name="image"),), second_buckets=(16, 32, 64))
    result = judged(path, requests, changed(PLAIN, batching={"padding": padding}))
    assert result.right is not wrong, result.reason
    if wrong:
        assert "cosine" in result.reason or "error" in result.reason


def test_dynamic_int8_is_refused_for_its_company(tmp_path: Path) -> None:
    """One scale for a whole batch: small rows are lost beside large ones, which a row alone never shows."""
    random = np.random.default_rng(2)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", "wz"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["scale"]),
        helper.make_node("Mul", ["f", "scale"], ["y"]),
    ]
    weights = {"w": random.integers(-100, 100, (16, 4)).astype(np.int8), "wz": np.int8(0), "ws": np.float32(0.05)}
    path = model(tmp_path / "m.onnx", nodes, {"x": (None, 16)}, {"y": (None, 4)}, **weights)
    scales = (1, 50, 0.1, 1, 200, 1)
    requests = [
        {"x": (scale * random.standard_normal((1, 16))).astype(np.float32)} for _ in range(5) for scale in scales
    ]
    assert not judged_in_company(path, requests, changed(PLAIN, batching={"bind": False, **FORCED})).right


def test_a_whole_check_asks_every_request(tmp_path: Path) -> None:
    """One request of forty is answered wrongly: however little time there is, the check of a winner finds it."""
    shapes: tuple[dict[str, Dims], dict[str, Dims]] = {"x": (None, 4)}, {"y": (None, 4)}
    right = model(tmp_path / "m.onnx", [helper.make_node("Identity", ["x"], ["y"])], *shapes)
    (tmp_path / "other").mkdir()
    clipped = model(
        tmp_path / "other" / "m.onnx",
        [helper.make_node("Min", ["x", "most"], ["y"])],
        *shapes,
        most=np.float32(100),
    )
    requests = vectors(4)
    requests[37]["x"][0, 2] = 1000.0
    checker = gate(right, requests)
    with served(clipped, PLAIN) as target:
        result = checker.check(target, PLAIN, 0.0, whole=True)
    assert not result.right
    assert "1000" in result.rows[0].expected


def test_a_check_knows_whether_it_sent_everything(tmp_path: Path) -> None:
    """Without time it sends a few of the requests, unless it is whole."""
    path = perceptron([4, 8, 3], tmp_path / "m.onnx")
    checker = gate(path, vectors(4))
    with served(path, PLAIN) as target:
        assert [checker.check(target, PLAIN, *more).whole for more in ((0.0,), (10.0,))] == [False, True]
        assert checker.check(target, PLAIN, 10.0, whole=True).whole


def test_a_whole_check_that_takes_long_leaves_out_requests_of_many_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of forty rows may have an answer of many megabytes: the data's own and pairs are asked in any case."""
    random = np.random.default_rng(0)
    path = perceptron([4, 8, 3], tmp_path / "m.onnx")
    checker = gate(path, [{"x": random.standard_normal((1, 4)).astype(np.float32)} for _ in range(60)])
    questions = checker._questions.all
    clock = itertools.count(0.0, 5.0)  # each look at it is 5 s later
    monkeypatch.setattr("tailcut.tuner.gate.time.monotonic", lambda: next(clock))
    first, *groups = list(checker._groups(questions, 16, 0.1, whole=True))[1:]
    assert any(question.joined > 2 for question in first)
    asked = {question.source for group in groups for question in group}
    assert {question.joined for group in groups for question in group} == {1, 2}
    assert asked | {question.source for question in first} >= set(range(60))


@pytest.mark.parametrize(("look_s", "most"), [(0.001, 64), (0.1, 12), (1.0, 4)])
def test_a_slow_server_is_sent_fewer_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look_s: float, most: int
) -> None:
    """As many as it would answer in twice the time that is left, at least four, and none of many rows among them."""
    random = np.random.default_rng(0)
    path = perceptron([4, 8, 3], tmp_path / "m.onnx")
    checker = gate(path, [{"x": random.standard_normal((1, 4)).astype(np.float32)} for _ in range(100)])
    clock = itertools.count(0.0, look_s)
    monkeypatch.setattr("tailcut.tuner.gate.time.monotonic", lambda: next(clock))
    groups = list(checker._groups(checker._questions.all, 64, 1.2, whole=False))
    together = [group for group in groups if len(group) > 1]
    assert 4 <= max(map(len, together)) <= most
    assert (max(question.joined for group in together for question in group) > 2) == (most == 64)

"""Requests of different lengths that share a batch."""

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper
from tests.cases import CASES, check_same, save_all
from tests.engines.models import (
    dynamic_sequence,
    identity,
    images,
    masked_mean,
    no_batch,
    pairs,
    save,
    two_in_two_out,
    value,
)

from tailcut.engines import open_engine
from tailcut.engines.base import EngineOptions
from tailcut.errors import EngineError, ProfileError, UnsupportedError
from tailcut.runtime.delivery import AnyThreadDelivery, EventHandler
from tailcut.runtime.inputs import Arrays
from tailcut.runtime.model import Model
from tailcut.runtime.padding import Bucket
from tailcut.runtime.profile import Profile
from tailcut.runtime.request import Request
from tailcut.runtime.rows import RowsSetting
from tailcut.runtime.settings import BatchingSettings, PaddedInput, PaddingSettings, Settings
from tailcut.spec import DType

IDS_AND_MASK = (PaddedInput(name="ids"), PaddedInput(name="mask"))


def opened(
    path: Path,
    *buckets: int,
    inputs: tuple[PaddedInput, ...] = IDS_AND_MASK,
    engine: str = "onnxruntime",
    rows: RowsSetting = "auto",
    second: tuple[int, ...] = (),
) -> Model:
    padding = PaddingSettings(buckets=buckets, inputs=inputs, second_buckets=second)
    batching = BatchingSettings(max_batch_size=8, dispatch="inline", padding=padding, rows=rows)
    settings = Settings(engine=EngineOptions(name=engine, threads=1), batching=batching)
    return Model.open(Profile.of_model(path, settings))


def sentence(length: int, rows: int = 1) -> Arrays:
    random = np.random.default_rng(length)
    return {"ids": random.integers(0, 32, (rows, length)), "mask": np.ones((rows, length), np.int64)}


def together(model: Model, requests: list[Arrays]) -> list[dict[str, np.ndarray]]:
    """All queued before the first computes."""
    handlers = [EventHandler() for _ in requests]
    for request, handler in zip(requests, handlers, strict=True):
        model.entry.start(request, Request(handler, AnyThreadDelivery(), len(next(iter(request.values())))))
    model.entry.notify()
    return [dict(zip(model.spec.output_names, handler.outputs or [], strict=True)) for handler in handlers]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_answers_are_those_of_the_request_alone(tmp_path: Path, engine: str) -> None:
    """Lengths 1 to 16 in buckets of 8 and 16, and one longer than any: cut to their own length, and two batches."""
    path = masked_mean(tmp_path / "m.onnx")
    alone = open_engine(path, EngineOptions(threads=1))
    requests = [sentence(length) for length in (3, 8, 5, 16, 9, 1, 12, 21)]
    with opened(path, 8, 16, engine=engine) as model:
        for request, answer in zip(requests, together(model, requests), strict=True):
            for name, expected in alone.run(request).items():
                assert answer[name].shape == expected.shape
                np.testing.assert_allclose(answer[name], expected, rtol=1e-4, atol=1e-5)
        assert model.statistics()["batches"] == 3


def test_nothing_of_an_earlier_request_is_left_in_the_padding(tmp_path: Path) -> None:
    """A model that minds no mask shows the filling: it is the pad value, whatever stood there before."""
    path = dynamic_sequence(tmp_path / "sum.onnx")
    with opened(path, 8, inputs=(PaddedInput(name="x", value=0.5),)) as model:
        for length in (8, 2, 7, 3):
            x = np.full((2, length), 100, np.float32)
            answer = model.infer_sync({"x": x})
            assert (answer["total"] == 100 * length + 0.5 * (8 - length)).all()
            np.testing.assert_array_equal(answer["double"], x + x)


def test_several_rows_and_splits(tmp_path: Path) -> None:
    """A request of more rows than the largest batch is split, padded, cut, and put together in order."""
    path = masked_mean(tmp_path / "m.onnx")
    alone = open_engine(path, EngineOptions(threads=1))
    with opened(path, 8, 16) as model:
        request = sentence(11, rows=19)
        answer = model.infer_sync(request)
        for name, expected in alone.run(request).items():
            np.testing.assert_allclose(answer[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_inputs_of_different_lengths(tmp_path: Path, engine: str) -> None:
    """Computed at their own shape, as without buckets: equal lengths may be a habit of the data, not of the model."""
    q, d = (value(name, DType.FP32, ("batch", f"{name}l")) for name in "qd")
    nodes = [helper.make_node("ReduceMax", [name], [f"{name}m"], axes=[1]) for name in "qd"]
    nodes.append(helper.make_node("Sub", ["qm", "dm"], ["y"]))
    path = save(tmp_path / "m.onnx", nodes, [q, d], [value("y", DType.FP32, ("batch", 1))])
    shapes = [(1, 3, 6), (2, 3, 6), (1, 5, 5), (2, 9, 4), (20, 2, 7)]
    requests = [
        {"q": np.arange(rows * a, dtype=np.float32).reshape(rows, a), "d": np.ones((rows, b), np.float32)}
        for rows, a, b in shapes
    ]
    with opened(path, 8, inputs=(PaddedInput(name="q"), PaddedInput(name="d")), engine=engine) as model:
        for request, answer in zip(requests, together(model, requests[:4]), strict=False):
            np.testing.assert_array_equal(answer["y"], request["q"].max(1, keepdims=True) - 1)
        answer = model.infer_sync(requests[4])
        np.testing.assert_array_equal(answer["y"], requests[4]["q"].max(1, keepdims=True) - 1)


def test_what_the_model_refuses_of_different_lengths_is_its_own_error(tmp_path: Path) -> None:
    """And costs no other request anything."""
    with opened(masked_mean(tmp_path / "m.onnx"), 8) as model:
        with pytest.raises(EngineError):
            model.infer_sync({"ids": sentence(3)["ids"], "mask": sentence(4)["mask"]})
        assert model.infer_sync(sentence(3))["tokens"].shape == (1, 3, 8)


def test_models_that_cannot_be_padded(tmp_path: Path) -> None:
    """Each is refused at start, with the reason."""
    mean = masked_mean(tmp_path / "m.onnx")
    cases = [
        (mean, (PaddedInput(name="words"),), "no input 'words'"),
        (mean, (PaddedInput(name="ids"),), "'mask' has no fixed size"),
        (mean, (PaddedInput(name="ids", value=0.5), PaddedInput(name="mask")), "INT64, which does not hold 0.5"),
        (no_batch(tmp_path / "n.onnx"), (PaddedInput(name="x"),), "no batch dimension"),
        (two_in_two_out(tmp_path / "t.onnx"), (PaddedInput(name="a"),), "0 free dimensions"),
        (identity(DType.FP32, (None, None, None), tmp_path / "i.onnx"), (PaddedInput(name="x"),), "2 free dimensions"),
        (identity(DType.BYTES, (None, None), tmp_path / "b.onnx"), (PaddedInput(name="x"),), "BYTES"),
    ]
    for path, inputs, words in cases:
        with pytest.raises(UnsupportedError, match=words):
            opened(path, 8, inputs=inputs)


def test_a_profile_keeps_its_buckets(tmp_path: Path) -> None:
    """Written and read back the same; shown in one word; buckets that do not rise are refused in one line."""
    padding = PaddingSettings(buckets=(8, 16), inputs=IDS_AND_MASK)
    settings = Settings(batching=BatchingSettings(max_batch_size=4, padding=padding))
    profile = Profile.of_model(masked_mean(tmp_path / "m.onnx"), settings)
    profile.save(tmp_path / "m.profile.toml")
    assert Profile.load(tmp_path / "m.profile.toml").settings == settings
    assert settings.describe() == "batching.max_batch_size=4 batching.padding=8/16"
    wrong = msgspec.structs.replace(padding, buckets=(16, 8))
    many = msgspec.structs.replace(padding, buckets=tuple(range(1, 10)), second_buckets=tuple(range(1, 9)))
    for refused in (wrong, many):
        settings = Settings(batching=BatchingSettings(padding=refused))
        msgspec.structs.replace(profile, settings=settings).save(tmp_path / "m.profile.toml")
        with pytest.raises(ProfileError, match="rising buckets"):
            Profile.load(tmp_path / "m.profile.toml")


def free_width(path: Path, nodes: list[onnx.NodeProto], outputs: dict[str, tuple], **weights: np.ndarray) -> Path:
    ends = [
        [value(name, DType.FP32, dims) for name, dims in item.items()] for item in ({"x": (None, 2, None)}, outputs)
    ]
    return save(path, nodes, *ends, weights)


def strided_convolution(path: Path) -> Path:
    """x [batch, 2, length] -> y [batch, 3, an eighth of the length, rounded down]."""
    w = np.random.default_rng(0).standard_normal((3, 2, 16)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[16], strides=[8], pads=[4, 4])]
    return free_width(path, nodes, {"y": (None, 3, "steps")}, w=w)


def test_an_output_that_follows_the_length_by_a_stride_is_cut_by_it(tmp_path: Path) -> None:
    """At every length up to the last bucket, the answer has the shape and the numbers of the request alone."""
    path = strided_convolution(tmp_path / "s.onnx")
    alone = open_engine(path, EngineOptions(threads=1))
    with opened(path, 16, 40, 99, inputs=(PaddedInput(name="x"),)) as model:
        for length in range(9, 100):
            request = {"x": np.random.default_rng(length).standard_normal((2, 2, length)).astype(np.float32)}
            answer, expected = model.infer_sync(request)["y"], alone.run(request)["y"]
            assert answer.shape == expected.shape
            np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


def test_lengths_that_the_model_refuses_are_not_filled_up(tmp_path: Path) -> None:
    """A request shorter than the model takes gets the model's error, not an answer to something longer."""
    path = strided_convolution(tmp_path / "s.onnx")
    with opened(path, 16, 40, inputs=(PaddedInput(name="x"),)) as model, pytest.raises(EngineError):
        model.infer_sync({"x": np.ones((1, 2, 3), np.float32)})


def test_nothing_is_filled_up_to_something(tmp_path: Path) -> None:
    """A request of length 0 is computed at that length, and its answer is as long."""
    with opened(dynamic_sequence(tmp_path / "s.onnx"), 1, 8, inputs=(PaddedInput(name="x", value=9),)) as model:
        answer = model.infer_sync({"x": np.ones((2, 0), np.float32)})
        assert answer["double"].shape == (2, 0)
        assert (answer["total"] == 0).all()


def test_outputs_that_no_stride_describes_refuse_padding(tmp_path: Path) -> None:
    """The first axis that moves, and lengths of which only some are taken: each with its reason at start."""
    rows = np.array([-1, 2])
    cases = [
        ([helper.make_node("Reshape", ["t", "rows"], ["y"])], (None, 2), "one stride an axis"),
        ([helper.make_node("Reshape", ["t", "fours"], ["y"])], (None, "fours", 8), "not every length"),
    ]
    turned = helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1])
    for number, (nodes, dims, words) in enumerate(cases):
        path = tmp_path / f"{number}.onnx"
        free_width(path, [turned, *nodes], {"y": dims}, rows=rows, fours=np.array([0, -1, 8]))
        with pytest.raises(UnsupportedError, match=words):
            opened(path, 8, 12, inputs=(PaddedInput(name="x"),), rows="independent")  # else there is no padding


def test_an_output_that_follows_one_length_by_two_axes_is_cut_on_both(tmp_path: Path) -> None:
    """Each position beside each other one, as scores of attention are."""
    turned = helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1])
    path = free_width(tmp_path / "m.onnx", [turned, helper.make_node("MatMul", ["t", "x"], ["y"])], {"y": (None,) * 3})
    alone = open_engine(path, EngineOptions(threads=1))
    with opened(path, 8, 12, inputs=(PaddedInput(name="x"),), rows="independent") as model:
        for length in (1, 5, 8, 11):
            request = {"x": np.random.default_rng(length).standard_normal((2, 2, length)).astype(np.float32)}
            np.testing.assert_allclose(model.infer_sync(request)["y"], alone.run(request)["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_height_and_width_have_buckets_of_their_own(tmp_path: Path, engine: str) -> None:
    """Images below, at and above the buckets of either: each answer is cut to its own sizes."""
    path = images(tmp_path / "m.onnx")
    alone = open_engine(path, EngineOptions(threads=1))
    sizes = [(3, 5), (8, 16), (5, 9), (16, 4), (9, 3), (16, 32), (11, 17), (17, 8)]
    requests = [
        {"image": np.random.default_rng(number).standard_normal((1 + number % 2, 2, *size)).astype(np.float32)}
        for number, size in enumerate(sizes)
    ]
    image = (PaddedInput(name="image"),)
    with opened(path, 8, 16, inputs=image, engine=engine, second=(16, 32)) as model:
        for request, answer in zip(requests, together(model, requests), strict=True):
            for name, expected in alone.run(request).items():
                assert answer[name].shape == expected.shape
                np.testing.assert_allclose(answer[name], expected, rtol=1e-4, atol=1e-4)
        assert model._padding is not None
        keys = [model._padding.place(request)[0] for request in requests]
        assert {key for key in keys if isinstance(key, Bucket)} == set(map(Bucket, [(8, 16), (16, 16), (16, 32)]))
        assert sum(not isinstance(key, Bucket) for key in keys) == 1


def test_two_inputs_with_a_length_each(tmp_path: Path) -> None:
    """The scores of each beside the other are cut to both lengths; requests of many rows are split and put together."""
    path = pairs(tmp_path / "m.onnx")
    alone = open_engine(path, EngineOptions(threads=1))
    inputs = (PaddedInput(name="a"), PaddedInput(name="b", dims=(2,)))
    random = np.random.default_rng(0)
    with opened(path, 4, 8, inputs=inputs, second=(6, 12)) as model:
        for rows, a, b in ((1, 3, 7), (2, 8, 12), (19, 5, 2), (1, 9, 3)):
            request = {"a": random.standard_normal((rows, a, 2)), "b": random.standard_normal((rows, b, 2))}
            request = {name: array.astype(np.float32) for name, array in request.items()}
            answer, expected = model.infer_sync(request)["scores"], alone.run(request)["scores"]
            assert answer.shape == (rows, a, b)
            np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


def test_one_length_on_two_axes_of_an_input(tmp_path: Path) -> None:
    """A request whose two axes differ has no bucket, and is computed as it is."""
    path = identity(DType.FP32, (None, None, None), tmp_path / "m.onnx")
    with opened(path, 4, 8, inputs=(PaddedInput(name="x", dims=(1, 1)),)) as model:
        for size in ((3, 3), (8, 8), (3, 5), (9, 9)):
            x = np.random.default_rng(0).standard_normal((2, *size)).astype(np.float32)
            np.testing.assert_array_equal(model.infer_sync({"x": x})["y"], x)


def test_two_dimensions_that_cannot_be_padded(tmp_path: Path) -> None:
    """A dimension that no input has, one that is not there, and an output whose axis follows both."""
    flat = helper.make_node("Reshape", ["x", "shape"], ["y"])
    path = save(
        tmp_path / "flat.onnx",
        [flat],
        [value("x", DType.FP32, (None, None, None))],
        [value("y", DType.FP32, (None, "all"))],
        {"shape": np.array([0, -1])},
    )
    cases = [
        ((PaddedInput(name="x", dims=(1, 1)),), "a dimension that no input has"),
        ((PaddedInput(name="x", dims=(1, 3)),), "buckets for two"),
        ((PaddedInput(name="x", dims=(1,)),), "dims of input 'x'"),
        ((PaddedInput(name="x"),), "one stride an axis"),
    ]
    for inputs, words in cases:
        with pytest.raises(UnsupportedError, match=words):
            opened(path, 4, 8, inputs=inputs, second=(4, 6), rows="independent")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_input_that_is_an_output_as_well(tmp_path: Path, engine: str) -> None:
    """It comes back as it was sent, in batches of several requests, too."""
    path = tmp_path / "m.onnx"
    nodes = [
        helper.make_node("ReduceSum", ["ids", "axis"], ["total"], keepdims=1),
        helper.make_node("Add", ["total", "w"], ["y"]),
    ]
    w = value("w", DType.FP32, ("batch", 4))
    inputs = [value("ids", DType.FP32, ("batch", "length")), w]
    save(path, nodes, inputs, [w, value("y", DType.FP32, ("batch", 4))], {"axis": np.array([1])})
    with opened(path, 8, 16, inputs=(PaddedInput(name="ids"),), engine=engine) as model:
        requests = [
            {"ids": np.ones((rows, length), np.float32), "w": np.full((rows, 4), length, np.float32)}
            for rows, length in ((1, 3), (2, 5), (1, 12), (3, 9))
        ]
        for request, answer in zip(requests, together(model, requests), strict=True):
            np.testing.assert_array_equal(answer["w"], request["w"])
            np.testing.assert_array_equal(answer["y"], request["w"] * 2)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_inputs_with_rows_of_their_own_are_not_padded(tmp_path: Path, engine: str) -> None:
    """One question and three answers fill no bucket, whatever their lengths."""
    case = CASES["towers_of_words"]
    save_all(tmp_path, {"m": case})
    inputs = (PaddedInput(name="a"), PaddedInput(name="b"))
    with opened(tmp_path / "m.onnx", 8, inputs=inputs, engine=engine, rows="independent") as model:
        for request, want in zip(case.requests, case.truths(), strict=True):
            if len(request["a"]) != len(request["b"]):  # the others are averaged with the filling
                check_same(model.infer_sync(request), want or {})

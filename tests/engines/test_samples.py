"""Made-up requests: sizes and values are found that a model accepts, or the message says what was tried."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.engines.models import gather_rows, save, value

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.samples import Samples, find_samples, likely_samples
from tailcut.errors import UnsupportedError
from tailcut.spec import DType

F32, I64 = DType.FP32, DType.INT64
ONE = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])


def found(path: Path) -> tuple[Samples, dict[str, np.ndarray]]:
    """What is found on onnxruntime, and a request made of it, which the engine has answered."""
    engine = open_engine(path, EngineOptions(threads=1))
    try:
        samples = find_samples(engine)
        request = samples.make(samples.rows, seed=1)
        engine.run(request)
        return samples, request
    finally:
        engine.close()


def reshaped(path: Path, kind: DType, name: str, shape: tuple[int | str | None, ...], size: int) -> Path:
    """A model that takes only inputs of `size` elements a row."""
    nodes = [helper.make_node("Reshape", [name, "flat"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["y"])]
    weights = {"flat": np.array([-1, 1, size]), "w": np.ones((size, 1), np.float32)}
    return save(path, nodes, [value(name, kind, shape)], [value("y", F32, (None, 1, 1))], weights)


def test_multiples_of_32_are_found(tmp_path: Path) -> None:
    """A detector that takes only heights and widths that are multiples of 32 gets such a size, and its own channels."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("MaxPool", ["c"], ["p"], kernel_shape=[32, 32], strides=[32, 32]),
        helper.make_node("Resize", ["p", "", "up"], ["r"], mode="nearest"),
        helper.make_node("Sub", ["c", "r"], ["y"]),
    ]
    weights = {"w": np.ones((2, 5, 1, 1), np.float32), "up": np.array([1, 1, 32, 32], np.float32)}
    ends = [value("x", F32, (None, "channels", None, None))], [value("y", F32, (None, 2, None, None))]
    _, request = found(save(tmp_path / "detector.onnx", nodes, *ends, weights))
    rows, channels, height, width = request["x"].shape
    assert (rows, channels, height % 32, width % 32) == (1, 5, 0, 0)


@pytest.mark.parametrize(
    ("name", "shape", "size"),
    [("images", (None, 3, None, None), 3 * 416 * 416), ("x", (None, None, None, 3), 3 * 320 * 320),
     ("audio", (None, None), 1536), ("x", (None, None), 512), ("frames", (None, 80, None), 80 * 3000)],
)  # fmt: skip
def test_the_one_size_that_is_accepted_is_found(
    tmp_path: Path, name: str, shape: tuple[int | None, ...], size: int
) -> None:
    """Typical image, audio and spectrogram sizes are among those that are tried."""
    _, request = found(reshaped(tmp_path / "one.onnx", F32, name, shape, size))
    assert request[name].size == size


def test_token_ids_stay_below_the_size_of_their_embedding(tmp_path: Path) -> None:
    """Ids reach the whole table and nothing outside, also behind a Cast; a second, smaller table bounds them more."""
    nodes = [
        helper.make_node("Cast", ["ids"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Gather", ["words", "wide"], ["a"]),
        helper.make_node("Gather", ["few", "wide"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    weights = {"words": np.zeros((900, 4), np.float32), "few": np.zeros((300, 4), np.float32)}
    ends = [value("ids", DType.INT32, (None, None))], [value("y", F32, (None, None, 4))]
    samples, request = found(save(tmp_path / "text.onnx", nodes, *ends, weights))
    ids = samples.make(64, seed=0)["ids"]
    assert 250 < ids.max() < 300
    assert ids.min() >= 0
    assert request["ids"].dtype == np.int32


def test_an_index_into_another_input_is_zero_where_ones_are_refused(tmp_path: Path) -> None:
    """Nothing bounds the ids here but the one entry that there is."""
    ends = [value("x", F32, (1, 2)), value("at", I64, (None,))], [value("y", F32, (None, 2))]
    path = save(tmp_path / "edges.onnx", [helper.make_node("Gather", ["x", "at"], ["y"])], *ends)
    engine = open_engine(path, EngineOptions(threads=1))
    samples = find_samples(engine, seed=1)
    assert engine.run(samples.make(8, seed=2))["y"].shape == (8, 2)
    engine.close()


def test_a_decoder_starts_with_a_past_of_length_zero(tmp_path: Path) -> None:
    """The mask covers past and new tokens, holds ones with zeros behind them, and dimensions of one name agree."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["e"]),
        helper.make_node("Concat", ["past_key_values.0", "e"], ["all"], axis=1),
        helper.make_node("Cast", ["attention_mask"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["f", "last"], ["m"]),
        helper.make_node("Mul", ["all", "m"], ["present"]),
    ]
    inputs = [
        value("input_ids", I64, ("batch_size", "sequence_length")),
        value("attention_mask", I64, ("batch_size", "past_length + sequence_length")),
        value("past_key_values.0", F32, ("batch_size", "past_length", 4)),
    ]
    weights = {"table": np.ones((50, 4), np.float32), "last": np.array([2])}
    samples, request = found(
        save(tmp_path / "decoder.onnx", nodes, inputs, [value("present", F32, (None, None, 4))], weights)
    )
    length = request["input_ids"].shape[1]
    assert request["past_key_values.0"].shape == (1, 0, 4)
    assert request["attention_mask"].shape == (1, length)
    masks = samples.make(32, seed=3)["attention_mask"]
    assert set(np.unique(masks)) == {0, 1}
    assert (np.diff(masks, axis=1) <= 0).all()
    assert masks[:, 0].all()


@pytest.mark.parametrize("padded", [True, False])
def test_lengths_are_drawn_where_the_model_takes_shorter_ones(tmp_path: Path, *, padded: bool) -> None:
    """From one to the longest; a model whose mask is as long as the longest row gets full ones."""
    nodes = [
        helper.make_node("Shape", ["x"], ["all"], start=1),
        helper.make_node("ReduceMax", ["lengths"], ["most"], keepdims=1),
        helper.make_node("ConstantOfShape", ["all" if padded else "most"], ["ones"], value=ONE),
        helper.make_node("Mul", ["x", "ones"], ["m"]),
        helper.make_node("Cast", ["lengths"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["f", "last"], ["u"]),
        helper.make_node("Add", ["m", "u"], ["y"]),
    ]
    ends = [value("x", F32, (None, "t")), value("lengths", I64, (None,))], [value("y", F32, (None, "t"))]
    samples, request = found(save(tmp_path / "lengths.onnx", nodes, *ends, {"last": np.array([1])}))
    length = request["x"].shape[1]
    drawn = set(samples.make(999, seed=1)["lengths"].tolist())
    assert drawn == (set(range(1, length + 1)) if padded else {length})


def test_a_streaming_model_gets_its_state_and_its_sample_rate(tmp_path: Path) -> None:
    """The state's second dimension is the batch by its name, and the rate is a real one."""
    nodes = [
        helper.make_node("ReduceSum", ["input", "one"], ["s"], keepdims=1),
        helper.make_node("Cast", ["sr"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["s", "f"], ["d"]),
        helper.make_node("Add", ["state", "d"], ["stateN"]),
    ]
    inputs = [value("input", F32, ("b", "n")), value("state", F32, (2, "b", 1)), value("sr", I64, ())]
    path = save(tmp_path / "vad.onnx", nodes, inputs, [value("stateN", F32, (2, None, 1))], {"one": np.array([1])})
    samples, request = found(path)
    assert request["sr"] == 16_000
    assert {name: array.shape for name, array in samples.make(3, 0).items()} == {
        "input": (3, 512), "state": (2, 3, 1), "sr": ()
    }  # fmt: skip


def test_more_rows_are_tried_where_one_is_refused(tmp_path: Path) -> None:
    """A pooling window of 8 along the first axis takes no single row."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "lead"], ["u"]),
        helper.make_node("MaxPool", ["u"], ["p"], kernel_shape=[8]),
        helper.make_node("Squeeze", ["p", "lead"], ["y"]),
    ]
    path = save(tmp_path / "wave.onnx", nodes, [value("x", F32, (None,))], [value("y", F32, (None,))],
                {"lead": np.array([0, 1])})  # fmt: skip
    samples, request = found(path)
    assert samples.rows >= 8
    assert request["x"].shape == (samples.rows,)


def test_where_nothing_is_accepted_the_message_says_what_was_tried(tmp_path: Path) -> None:
    """The sizes, the engine's reason and the way out stand in one line."""
    path = reshaped(tmp_path / "odd.onnx", F32, "x", (None, None), 77_777)
    engine = open_engine(path, EngineOptions(threads=1))
    with pytest.raises(
        UnsupportedError, match=r"odd: .*tried x \[1, 16\], x \[1, 8\].* others.*onnxruntime.*--data"
    ) as caught:
        find_samples(engine)
    assert "\n" not in str(caught.value)
    engine.close()


def test_requests_are_made_again_by_their_seed(tmp_path: Path) -> None:
    """The same seed gives the same request, another one gives another."""
    engine = open_engine(gather_rows(tmp_path / "rows.onnx"), EngineOptions(threads=1))
    samples = find_samples(engine)
    first, again, other = (samples.make(40, seed)["index"] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert set(first.flat) == {0, 1, 2, 3, 4}
    assert likely_samples(engine.spec, engine.hints).inputs == samples.inputs  # type: ignore[attr-defined]
    engine.close()

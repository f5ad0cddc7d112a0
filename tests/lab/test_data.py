"""A data file's arrays as requests: an axis of requests, a fixed first axis, dtypes that nearly fit, no name."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tailcut.errors import UsageError
from tailcut.lab.data import ONLY_INPUT, evenly, read_jsonl, spread
from tailcut.lab.describe import rows_of_data
from tailcut.spec import DType, ModelSpec, Rows, TensorSpec

OUT = (TensorSpec("y", DType.FP32, (None, 6)),)


def spec(*inputs: TensorSpec) -> ModelSpec:
    return ModelSpec("m", inputs, OUT)


ONE = spec(TensorSpec("x", DType.FP32, (1, 3)))
POINTS = ModelSpec("m", (TensorSpec("x", DType.FP32, (None, 3)),), (TensorSpec("y", DType.FP32, (2,)),))
TWO = spec(TensorSpec("x", DType.FP32, (None, 3)), TensorSpec("z", DType.FP32, (None, 4)))
STATEFUL = spec(
    TensorSpec("x", DType.FP32, (1, None)),
    TensorSpec("state", DType.FP32, (2, 1, 4)),
    TensorSpec("rate", DType.INT64, ()),
)


def shapes(model: ModelSpec, **arrays: np.ndarray) -> list[dict[str, tuple[int, ...]]]:
    return [{name: array.shape for name, array in item.items()} for item in rows_of_data(model, arrays, 64)]


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_rows_for_a_fixed_batch_of_one_are_requests() -> None:
    """Eight rows for an input of [1, 3] are eight requests of one row, up to the limit, in their order."""
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    requests = rows_of_data(ONE, {"x": x}, 64)
    np.testing.assert_array_equal(np.concatenate([request["x"] for request in requests]), x)
    assert [request["x"].shape for request in requests] == [(1, 3)] * 8
    assert len(rows_of_data(ONE, {"x": x}, 5)) == 5
    assert shapes(spec(TensorSpec("x", DType.FP32, (4, 3))), x=x) == [{"x": (4, 3)}] * 2


def test_a_model_without_a_batch_axis_takes_an_axis_of_requests() -> None:
    """One axis more than the input has is a request each; without it the array is one request."""
    assert shapes(POINTS, x=zeros(5, 7, 3)) == [{"x": (7, 3)}] * 5
    assert shapes(POINTS, x=zeros(7, 3)) == [{"x": (7, 3)}]
    assert shapes(ONE, x=zeros(8, 1, 3)) == [{"x": (1, 3)}] * 8


def test_a_batched_model_takes_whole_requests_too() -> None:
    """The same axis before the rows gives requests of several rows."""
    batched = ModelSpec("m", POINTS.inputs, OUT)
    assert shapes(batched, x=zeros(5, 7, 3)) == [{"x": (7, 3)}] * 5
    assert shapes(batched, x=zeros(5, 3)) == [{"x": (1, 3)}] * 5


def test_what_is_given_once_is_shared() -> None:
    """An input of exactly one request's shape goes into all of them, and so does the only item of an array."""
    result = shapes(STATEFUL, x=zeros(8, 1, 5), state=zeros(2, 1, 4), rate=np.array(16000))
    assert result == [{"x": (1, 5), "state": (2, 1, 4), "rate": ()}] * 8
    assert result == shapes(STATEFUL, x=zeros(8, 5), state=zeros(1, 2, 1, 4), rate=np.zeros(8, np.int64))
    (*_, last) = rows_of_data(TWO, {"x": np.arange(9.0).reshape(3, 3), "z": np.ones((1, 4))}, 64)
    assert (last["x"].tolist(), last["z"].tolist()) == ([[6, 7, 8]], [[1, 1, 1, 1]])
    (pair,) = rows_of_data(TWO, {"x": np.zeros((3, 3)), "z": np.ones((1, 4))}, 64, rows=2)
    assert {name: array.shape for name, array in pair.items()} == {"x": (2, 3), "z": (2, 4)}


def test_a_scalar_of_many_requests_is_an_array_in_each() -> None:
    """An engine takes arrays: an element of numpy's, such as a float32, is none."""
    threshold = TensorSpec("t", DType.FP32, ())
    requests = rows_of_data(
        spec(TensorSpec("x", DType.FP32, (None, 3)), threshold), {"x": zeros(2, 4, 3), "t": zeros(2)}, 64
    )
    assert [type(request["t"]) for request in requests] == [np.ndarray] * 2
    words = rows_of_data(spec(TensorSpec("t", DType.BYTES, ())), {"t": np.array(["a", "b"])}, 64)
    assert [(type(request["t"]), request["t"].item()) for request in words] == [(np.ndarray, "a"), (np.ndarray, "b")]


def test_arrays_of_different_lengths_are_refused() -> None:
    """Both numbers are named, whether they are rows or requests: none is cut to the other."""
    with pytest.raises(UsageError, match=r"array 'x' of the data file has 500 rows, and 'z' has 4: "):
        rows_of_data(TWO, {"x": zeros(500, 3), "z": zeros(4, 4)}, 64)
    with pytest.raises(UsageError, match=r"array 'x' of the data file has 8 requests, and 'state' has 3: "):
        rows_of_data(STATEFUL, {"x": zeros(8, 5), "state": zeros(3, 2, 1, 4), "rate": np.array(1)}, 64)
    with pytest.raises(UsageError, match="no rows"):
        rows_of_data(TWO, {"x": zeros(5, 3), "z": zeros(0, 4)}, 64)


def test_a_sample_is_of_the_whole_file() -> None:
    """Of too many rows, lines or requests some of all parts are kept, and of two kinds that alternate both."""
    x = np.arange(30000, dtype=np.float32).reshape(10000, 3)
    starts = [item["x"][0, 0] / 3 for item in rows_of_data(ONE, {"x": x}, 100)]
    assert starts == sorted(starts)
    assert [int(start // 100) for start in starts] == list(range(100))
    for limit in (100, 2048):
        lines = spread([[number] for number in range(10000)], limit)
        assert len(lines) == limit
        assert [line * limit // 10000 for line in lines] == pytest.approx(list(range(limit)), abs=1)
    assert 20 < sum(number % 2 for number in evenly(range(128), 64)) < 44
    assert evenly("abc", 5) == ["a", "b", "c"]


def test_inputs_whose_names_begin_alike_are_not_groups() -> None:
    """An input called x/mask is itself, and may have groups of its own."""
    model = ModelSpec(
        "m", (TensorSpec("x", DType.FP32, (None, None)), TensorSpec("x/mask", DType.FP32, (None, 2))), OUT
    )
    assert shapes(model, **{"x": zeros(3, 5), "x/mask": zeros(3, 2)}) == [{"x": (1, 5), "x/mask": (1, 2)}] * 3
    groups = {f"{name}/{group}": zeros(1, 2) for name in ("x", "x/mask") for group in (0, 1)}
    assert shapes(model, **groups) == [{"x": (1, 2), "x/mask": (1, 2)}] * 2


def test_strings_of_numpys_bytes_become_text() -> None:
    """UTF-8 as any client sends it; what is none is refused, unless the model takes bytes or nobody says."""
    text = TensorSpec("t", DType.BYTES, (None, 2))
    data = {"t": np.array([["ä".encode(), b"b"]])}
    assert rows_of_data(spec(text), data, 64)[0]["t"].tolist() == [["ä", "b"]]
    other = {"t": np.array([[b"\xff", b"b"]])}
    with pytest.raises(UsageError, match="array 't' of the data file has bytes that are not UTF-8"):
        rows_of_data(spec(text), other, 64)
    assert rows_of_data(spec(replace(text, text=False)), other, 64)[0]["t"].tolist() == [[b"\xff", b"b"]]


def test_groups_of_whole_requests() -> None:
    """Requests of several lengths come in groups here as well, taken in turns."""
    arrays = {"x/short": zeros(2, 4, 3), "x/long": zeros(2, 9, 3)}
    assert shapes(POINTS, **arrays) == [{"x": (4, 3)}, {"x": (9, 3)}] * 2


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("x/3", "z/4"), r"no array 'z/3': it has z/4; a group has one array for each input"),
        (("x/3", "z/3", "x/5"), r"no array 'z/5': it has z/3;"),
        (("x/3", "z/3", "z/5"), r"no array 'x/5': it has x/3;"),
        (("x/3", "z"), r"no array 'z/3': it has z;"),
        (("x", "z/3"), r"no array 'x/3': it has x;"),
        (("x/3", "x/5"), r"no array 'z': it has x"),
    ],
)
def test_a_group_without_an_input_is_refused(names: tuple[str, ...], words: str) -> None:
    """Its rows would be left out without a word, or the message would deny an array that is there."""
    with pytest.raises(UsageError, match=words):
        shapes(TWO, **{name: zeros(2, 3 if name.startswith("x") else 4) for name in names})


def test_arrays_beside_the_inputs_are_no_groups() -> None:
    """Where each input has its array, another one with a similar name is not the model's."""
    assert shapes(TWO, x=zeros(1, 3), z=zeros(1, 4), **{"z/note": zeros(5)}) == [{"x": (1, 3), "z": (1, 4)}]


@pytest.mark.parametrize("shape", [(8, 4), (8, 2, 1, 3), (3,), (5, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    """The message has the array's shape and the model's."""
    model = spec(TensorSpec("x", DType.FP32, (2, 3)))
    with pytest.raises(UsageError, match=r"float32 \[.*the model takes FP32 \[2, 3\]"):
        rows_of_data(model, {"x": zeros(*shape)}, 64)


@pytest.mark.parametrize("shape", [(0, 1, 3), (0, 3)])
def test_no_request_at_all(shape: tuple[int, ...]) -> None:
    """An axis of requests without any request is reported."""
    with pytest.raises(UsageError, match="no rows"):
        rows_of_data(ONE, {"x": zeros(*shape)}, 64)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (DType.FP32, np.array([0.1, np.nan, np.inf])),
        (DType.FP32, np.array([1, 2, 255], np.uint8)),
        (DType.FP16, np.array([0.1, 2], np.float32)),
        (DType.BF16, np.array([0.1, 2], np.float64)),
        (DType.FP64, np.array([0.1], np.float32)),
        (DType.INT64, np.array([1, -1], np.int32)),
        (DType.INT32, np.array([1, -1])),
        (DType.INT64, np.array([1.0, -1.0])),
        (DType.UINT64, np.array([0, (1 << 63) - 1])),
        (DType.INT8, np.array([0, 127], np.uint8)),
        (DType.FP32, np.array([True, False])),
        (DType.BOOL, np.array([0, 1])),
    ],
)
def test_near_misses_are_converted(dtype: DType, values: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    """Floats of another precision, and numbers that stay what they are, become the model's; one line says so."""
    with caplog.at_level(logging.WARNING, "tailcut"):
        (request,) = rows_of_data(spec(TensorSpec("x", dtype, (len(values),))), {"x": values}, 64)
    assert request["x"].dtype == dtype.numpy
    np.testing.assert_array_equal(request["x"], values.astype(dtype.numpy))
    assert caplog.messages == [f"array 'x' of the data file is {values.dtype}: converted to the model's {dtype.numpy}"]


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (DType.INT32, np.array([1 << 40])),
        (DType.INT64, np.array([0.5])),
        (DType.INT64, np.array([np.nan])),
        (DType.UINT8, np.array([-1])),
        (DType.UINT8, np.array([-1], np.int8)),
        (DType.INT8, np.array([200], np.uint8)),
        (DType.UINT32, np.array([-1], np.int32)),
        (DType.INT32, np.array([(1 << 32) - 1], np.uint32)),
        (DType.UINT64, np.array([-1])),
        (DType.INT64, np.array([(1 << 64) - 1], np.uint64)),
        (DType.BOOL, np.array([-1])),
        (DType.FP32, np.array([1e300])),
        (DType.FP32, np.array([(1 << 24) + 1])),
        (DType.BOOL, np.array([0, 2])),
    ],
)
def test_numbers_that_would_change_are_refused(dtype: DType, values: np.ndarray) -> None:
    """Nothing is rounded to whole numbers, wrapped or turned into infinity."""
    with pytest.raises(UsageError, match="cannot represent, the model takes"):
        rows_of_data(spec(TensorSpec("x", dtype, (1,))), {"x": values}, 64)


def test_an_array_without_a_name() -> None:
    """It is for the only input; a model with several needs names."""
    assert shapes(ONE, **{ONLY_INPUT: zeros(2, 3)}) == [{"x": (1, 3)}] * 2
    with pytest.raises(UsageError, match=r"3 inputs: save x, state, rate as .npz"):
        rows_of_data(STATEFUL, {ONLY_INPUT: zeros(2, 3)}, 64)


def test_groups_keep_their_proportions() -> None:
    """However much of the order is sent, a group has about its share; so it has where only some requests are kept."""
    arrays = {"x/short": zeros(90, 4, 3), "x/long": zeros(10, 9, 3)}
    result = rows_of_data(POINTS, arrays, 1000)
    assert len(result) == 100
    for start in range(0, 100, 20):
        assert sum(len(item["x"]) == 9 for item in result[start : start + 20]) == 2
    kept = rows_of_data(POINTS, arrays, 50)
    assert len(kept) == 50
    assert sum(len(item["x"]) == 9 for item in kept) == pytest.approx(5, abs=1)


def test_a_row_without_its_batch_axis() -> None:
    """It is one request of one row."""
    batched = ModelSpec("m", (TensorSpec("x", DType.FP32, (None, 3)),), OUT)
    assert shapes(batched, x=zeros(3)) == [{"x": (1, 3)}]


def test_a_request_a_line(tmp_path: Path) -> None:
    """Lines keep their order; a value may lack the batch axis; empty lines are left out."""
    path = tmp_path / "d.jsonl"
    path.write_text('{"ids": [1, 2, 3], "text": "a"}\n\n{"text": ["b"], "ids": [[4]]}\n')
    model = spec(TensorSpec("ids", DType.INT32, (None, None)), TensorSpec("text", DType.BYTES, (None,)))
    result = rows_of_data(model, read_jsonl(path), 64)
    assert [item["ids"].tolist() for item in result] == [[[1, 2, 3]], [[4]]]
    assert [item["text"].tolist() for item in result] == [["a"], ["b"]]
    assert {item["ids"].dtype for item in result} == {np.dtype(np.int32)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no requests: write one JSON object a line"),
        ('{"x": 1}\n[1]\n', "line 2 is not a JSON object"),
        ("{}\n", "line 1 is not a JSON object"),
        ('{"x": 1\n', "line 1 is not a JSON object"),
        ('{"x": [[1], [2, 3]]}\n', "line 1: 'x' is not a number, a string, or a list of them with equal lengths"),
        ('{"x": null}\n', "line 1: 'x' is not a number"),
        ('{"x": 1}\n{"y": 1}\n', "line 2 has y, the first line x"),
    ],
)
def test_lines_that_are_no_requests(tmp_path: Path, text: str, words: str) -> None:
    """The message names the file and the line."""
    path = tmp_path / "d.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"d\.jsonl: ") as caught:
        read_jsonl(path)
    assert words in str(caught.value)


def test_conversions_of_lines_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """JSON knows one kind of float, so each line is converted alike."""
    path = tmp_path / "d.jsonl"
    path.write_text('{"x": [0.5, 1, 2]}\n' * 3)
    with caplog.at_level(logging.WARNING, "tailcut"):
        assert len(rows_of_data(ONE, read_jsonl(path), 64)) == 3
    assert caplog.messages == ["array 'x' of the data file is float64: converted to the model's float32"]


def test_a_message_lists_a_few_names_only() -> None:
    """Of many arrays."""
    with pytest.raises(UsageError, match=r"it has z0, .*z11 and 88 more$"):
        rows_of_data(ONE, {f"z{number}": zeros(3) for number in range(100)}, 64)


def test_a_message_has_the_names_that_the_lines_have(tmp_path: Path) -> None:
    """Without the number of the line, which nobody wrote."""
    path = tmp_path / "d.jsonl"
    path.write_text('{"txt": [1, 2, 3], "mask/a": 1}\n' * 2)
    with pytest.raises(UsageError, match=r"the data file has no array 'x': it has txt, mask/a$"):
        rows_of_data(ONE, read_jsonl(path), 64)


def test_a_group_may_be_one_request_with_rows_of_its_own_for_each_input() -> None:
    """Of a model whose inputs' first axes have different names; elsewhere, one of the arrays is missing rows."""
    inputs = tuple(
        TensorSpec(name, DType.FP32, (None, size), first_axis=axis)
        for name, size, axis in (("image", 3, "images"), ("text", 2, "texts"))
    )
    towers = ModelSpec("towers", inputs, OUT, Rows.INDEPENDENT)
    data = {"image/0": zeros(2, 3), "text/0": zeros(5, 2), "image/1": zeros(4, 3), "text/1": zeros(4, 2)}
    shapes = [tuple(array.shape for array in item.values()) for item in rows_of_data(towers, data, 64)]
    assert shapes.count(((2, 3), (5, 2))) == 1
    assert shapes.count(((1, 3), (1, 2))) == 4
    shared = rows_of_data(towers, {"image/0": zeros(1, 3), "text/0": zeros(3, 2)}, 64)
    assert [item["text"].shape for item in shared] == [(1, 2)] * 3
    alike = replace(towers, inputs=tuple(replace(tensor, first_axis="n") for tensor in inputs))
    with pytest.raises(UsageError, match="array 'text' of the data file has 5 rows, and 'image' has 2"):
        rows_of_data(alike, data, 64)

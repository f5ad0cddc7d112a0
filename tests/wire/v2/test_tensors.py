"""Elements: what each dtype takes from JSON and from bytes, and what it refuses."""

import numpy as np
import pytest

from tailcut.errors import InvalidInputError
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.wire.v2 import parse_request
from tailcut.wire.v2.tensors import from_json, shown, to_bytes, to_json

INTEGERS = [dtype for dtype in DType if "INT" in dtype.value]
FLOATS = [DType.FP16, DType.BF16, DType.FP32, DType.FP64]


def read(dtype: DType, data: str, shape: tuple[int, ...] = (1,)) -> np.ndarray:
    """A JSON text as the data of an input of a model without batch."""
    spec = ModelSpec("m", (TensorSpec("x", dtype, tuple(shape)),), (TensorSpec("y", dtype, (1,)),))
    head = f'{{"inputs":[{{"name":"x","datatype":"{dtype}","shape":{list(shape)},"data":{data}}}]}}'
    return parse_request(spec, head.encode(), None).inputs["x"]


def read_binary(dtype: DType, raw: bytes, shape: tuple[int, ...]) -> np.ndarray:
    spec = ModelSpec("m", (TensorSpec("x", dtype, tuple(shape)),), (TensorSpec("y", dtype, (1,)),))
    head = (
        f'{{"inputs":[{{"name":"x","datatype":"{dtype}","shape":{list(shape)},'
        f'"parameters":{{"binary_data_size":{len(raw)}}}}}]}}'
    ).encode()
    return parse_request(spec, head + raw, len(head)).inputs["x"]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_at_their_limits(dtype: DType):
    """The smallest and the largest integer pass; one beyond each is refused and never wrapped."""
    low, high = (int(limit) for limit in (np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max))
    assert read(dtype, f"[{low},{high}]", (2,)).tolist() == [low, high]
    for beyond in (low - 1, high + 1):
        with pytest.raises(InvalidInputError, match=r"input 'x'"):
            read(dtype, f"[{beyond}]")


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        (DType.FP32, "[NaN]"),
        (DType.FP32, "[Infinity]"),
        (DType.FP64, "[1e400]"),
        (DType.FP64, "[-1e400]"),
        (DType.FP32, "[1e39]"),
        (DType.FP32, "[-1e39]"),
        (DType.FP16, "[65520]"),
        (DType.BF16, "[3.4e38, 1e39]"),
        (DType.INT8, "[300]"),
        (DType.UINT8, "[-1]"),
        (DType.FP32, "[true]"),
        (DType.INT32, "[true]"),
        (DType.INT32, "[1.0]"),
        (DType.INT64, "[1e3]"),
        (DType.FP32, '["1"]'),
        (DType.INT32, '["1"]'),
        (DType.FP32, "[null]"),
        (DType.FP32, "[{}]"),
        (DType.BOOL, "[1]"),
        (DType.BOOL, '["true"]'),
        (DType.BYTES, "[1]"),
        (DType.BYTES, "[null]"),
        (DType.BYTES, r'["\ud800"]'),
        (DType.FP32, "1"),
        (DType.FP32, '"1"'),
        (DType.FP32, "{}"),
        (DType.FP32, "null"),
        (DType.FP32, "[]"),
        (DType.FP32, "[1, 2]"),
        (DType.FP32, "[[1]]" + " " * 10),
        (DType.FP32, "[" * 250_000 + "]" * 250_000),
    ],
)
def test_json_values_that_do_not_fit(dtype: DType, data: str):
    """A value of the wrong kind, out of range, or in the wrong place is refused."""
    with pytest.raises(InvalidInputError):
        read(dtype, data)


@pytest.mark.parametrize(
    "data",
    [
        "[[1,2],[3]]",
        "[[1,2],[3,4,5]]",
        "[[1],[2],[3],[4]]",
        "[[1,2,3,4]]",
        "[[1,2],3,4]",
        "[1,2,[3,4]]",
        "[[[1],[2]],[[3],[4]]]",
        "[[1,2],[]]",
    ],
)
def test_ragged_nesting_is_refused(data: str):
    """Nested data must have the lengths of its shape at every level."""
    with pytest.raises(InvalidInputError, match=r"input 'x'"):
        read(DType.FP32, data, (2, 2))


@pytest.mark.parametrize("dtype", FLOATS)
def test_integers_are_good_floats(dtype: DType):
    """A JSON integer may stand for a float."""
    assert read(dtype, "[1, -2.5]", (2,)).astype(np.float64).tolist() == [1, -2.5]


def test_float32_rounds_to_nearest_and_keeps_minus_zero():
    """JSON numbers are read as doubles, then rounded once."""
    array = read(DType.FP32, "[0.1, -0.0, 3.4028235e38]", (3,))
    assert array.tobytes() == np.array([0.1, -0.0, 3.4028235e38], np.float32).tobytes()


def test_scalars_and_empty_tensors():
    """A tensor of rank 0 takes a number or a list of one; a dimension of 0 takes an empty list."""
    scalar = TensorSpec("x", DType.INT64, ())
    assert from_json(scalar, (), 5).tolist() == 5
    assert from_json(scalar, (), [5]).tolist() == 5
    empty = TensorSpec("x", DType.FP32, (2, None))
    assert from_json(empty, (2, 0), []).shape == (2, 0)
    assert from_json(empty, (2, 0), [[], []]).shape == (2, 0)
    assert read_binary(DType.BYTES, b"", (0,)).shape == (0,)


def test_special_floats_pass_in_binary():
    """NaN and infinity in binary reach the model as they are."""
    raw = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32).tobytes()
    assert read_binary(DType.FP32, raw, (4,)).tobytes() == raw


def test_a_bool_byte_is_0_or_1():
    """Any other byte is refused: what it means would depend on the code that reads it."""
    assert read_binary(DType.BOOL, b"\x00\x01", (2,)).tolist() == [False, True]
    with pytest.raises(InvalidInputError, match=r"'x'.*0 or 1"):
        read_binary(DType.BOOL, b"\x00\x02", (2,))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x01\x00\x00\x00",
        b"\x01\x00\x00\x00a\x00\x00\x00",
        b"\xff\xff\xff\xffa\x00\x00\x00\x00",
        b"\x01\x00\x00\x00a\x00\x00\x00\x00b",
        b"\x00\x00\x00\x00" * 3,
    ],
)
def test_length_prefixes_that_do_not_add_up(raw: bytes):
    """The elements of a BYTES tensor must fill its bytes exactly."""
    with pytest.raises(InvalidInputError, match=r"input 'x'"):
        read_binary(DType.BYTES, raw, (2,))


def test_bytes_elements_may_be_empty_and_hold_anything():
    """Elements come as bytes, whatever is in them."""
    raw = b"\x00\x00\x00\x00" + b"\x03\x00\x00\x00\xff\x00a"
    assert read_binary(DType.BYTES, raw, (2,)).tolist() == [b"", b"\xff\x00a"]
    assert to_bytes(np.array(["", "é"], object), DType.BYTES) == b"\0\0\0\0\x02\0\0\0" + "é".encode()


def test_text_that_json_cannot_carry_is_named():
    """A BYTES output that is not UTF-8 has no JSON form; the message says to ask for binary."""
    with pytest.raises(InvalidInputError, match=r"'y'.*binary"):
        to_json(np.array([b"\xff"], object), DType.BYTES, "y")


def test_json_elements_are_row_major_whatever_the_memory():
    """A transposed array is written in the order of its shape."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert to_json(array, DType.FP32, "y").tolist() == [0, 3, 1, 4, 2, 5]
    assert to_bytes(array, DType.FP32) == np.ascontiguousarray(array).tobytes()


def test_names_in_messages_are_short_and_printable():
    """Whatever a request calls things, a message stays one line."""
    assert shown("a\r\nb") == "'a??b'"
    assert len(shown("x" * 10_000)) == 66
    assert shown(None) == "null"

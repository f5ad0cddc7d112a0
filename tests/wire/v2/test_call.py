"""Inference requests as a client writes them."""

import ml_dtypes
import numpy as np
import orjson
import pytest

from tailcut.errors import InputTypeError, InvalidInputError
from tailcut.wire.v2.call import binary_lead, describe, json_body, model_path


def test_names_of_models_are_quoted() -> None:
    """No name reaches another path."""
    assert model_path("a/b c\r\n", "1/2") == "/v2/models/a%2Fb%20c%0D%0A/versions/1%2F2"


def test_a_request_with_binary_tensors() -> None:
    """Each input with its size; outputs and a timeout where they are asked for."""
    described, parts = describe({"x": np.float32([[1, 2]]), "n": np.int8([3])})
    request = orjson.loads(binary_lead(described))
    assert request == {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
            {"name": "n", "datatype": "INT8", "shape": [1], "parameters": {"binary_data_size": 1}},
        ],
        "parameters": {"binary_data_output": True},
    }
    assert b"".join(parts) == np.float32([1, 2]).tobytes() + b"\3"
    request = orjson.loads(binary_lead(described, ["y"], 250))
    assert request["outputs"] == [{"name": "y", "parameters": {"binary_data": True}}]
    assert request["parameters"]["timeout"] == 250


def test_a_request_in_json() -> None:
    """Numbers as doubles, strings as text, bfloat16 by its values."""
    inputs = {
        "x": np.float32([[0.1]]),
        "s": np.array([b"a"], object),
        "h": np.array([0.5, 2], ml_dtypes.bfloat16),
    }
    assert orjson.loads(json_body(inputs)) == {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [float(np.float32(0.1))]},
            {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["a"]},
            {"name": "h", "datatype": "BF16", "shape": [2], "data": [0.5, 2.0]},
        ]
    }


@pytest.mark.parametrize("item", [3, True, None, float("nan"), [1, 2]])
def test_what_is_no_string_is_refused(item: object) -> None:
    """`bytes(3)` would be three zeros."""
    array = np.empty(2, object)
    array[:] = ["a", item]
    with pytest.raises(InputTypeError, match=r"^input 'x': expected strings or bytes$"):
        describe({"x": array})


@pytest.mark.parametrize("encode", [describe, json_body])
def test_a_dtype_without_a_name(encode) -> None:
    """It is refused, and named."""
    with pytest.raises(InvalidInputError, match=r"'x'.*complex128"):
        encode({"x": np.ones(1, np.complex128)})


@pytest.mark.parametrize("value", [["\ud800"], np.array(["a", "\udc00"], object)])
def test_half_of_a_surrogate_pair_cannot_be_sent(value: object) -> None:
    """It is no text, and has no bytes."""
    with pytest.raises(InvalidInputError, match=r"^input 'x': a str has half of a surrogate pair$"):
        describe({"x": value})


def test_lists_of_strings_are_sent_as_they_are() -> None:
    """Numpy would cut the NULs at the end of an element, and cannot have bytes beside strings."""
    for values in ([b"a\0", b"\0"], ["a\0", ""], [b"\xff", "a"]):
        (described,), parts = describe({"x": values})
        assert (described.dtype.value, described.shape) == ("BYTES", (2,))
        raw = [value.encode() if isinstance(value, str) else value for value in values]
        assert b"".join(parts) == b"".join(len(item).to_bytes(4, "little") + item for item in raw)


def test_bytes_that_are_no_text_are_refused_as_json():
    """With the name of the input; they can be sent in binary."""
    inputs = {"image": np.array([b"a", b"\x89PNG"], object)}
    with pytest.raises(InvalidInputError, match=r"input 'image' has bytes that are not UTF-8.*: send binary"):
        json_body(inputs)
    describe(inputs)

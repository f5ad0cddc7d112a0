"""Bodies there and back, for every dtype, by hypothesis and with a client that we did not write."""

import contextlib
from typing import Any

import numpy as np
import orjson
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.effort import runs

from tailcut.errors import InvalidInputError
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.wire.v2 import Response, encode_response, model_metadata, parse_request, server_metadata
from tailcut.wire.v2.checks import schedule_of

NUMBERS = [dtype for dtype in DType if dtype is not DType.BYTES]
NOT_BF16 = [dtype for dtype in DType if dtype is not DType.BF16]  # tritonclient sends BF16 as binary only


def echo_spec(dtype: DType, *, rank: int = 3) -> ModelSpec:
    shape = (None,) * rank
    return ModelSpec("echo", (TensorSpec("x", dtype, shape),), (TensorSpec("y", dtype, shape),))


def any_bytes(dtype: DType) -> st.SearchStrategy[np.ndarray]:
    """Arrays of any bit pattern of the dtype, NaNs with payloads included."""
    shapes = hnp.array_shapes(min_dims=3, max_dims=3, max_side=4)
    if dtype is DType.BYTES:
        return hnp.arrays(object, shapes, elements=st.binary(max_size=9))
    if dtype is DType.BOOL:
        return hnp.arrays(np.bool_, shapes)
    size = dtype.itemsize
    assert size is not None
    return hnp.arrays(np.dtype(f"u{size}"), shapes).map(lambda bits: bits.view(dtype.numpy))


def json_values(dtype: DType) -> st.SearchStrategy[np.ndarray]:
    """Arrays that JSON can carry: finite numbers, text."""
    if dtype is DType.BYTES:
        text = st.text(st.characters(codec="utf-8"), max_size=5).map(str.encode)
        return hnp.arrays(object, hnp.array_shapes(min_dims=3, max_dims=3, max_side=4), elements=text)
    if dtype in {DType.FP16, DType.BF16, DType.FP32, DType.FP64}:
        return any_bytes(dtype).map(lambda array: np.where(np.isfinite(array), array, np.ones((), array.dtype)))
    return any_bytes(dtype)


def triton_request(array: np.ndarray, dtype: DType, *, binary: bool, binary_out: bool) -> tuple[bytes, int | None]:
    tensor = triton.InferInput("x", list(array.shape), dtype.value)
    tensor.set_data_from_numpy(array, binary_data=binary)
    outputs = [triton.InferRequestedOutput("y", binary_data=binary_out)]
    body, size = triton.InferenceServerClient.generate_request_body([tensor], outputs=outputs, request_id="r-1")
    return body, size


def triton_result(response: Response) -> triton.InferResult:
    body = b"".join(response.body_parts)
    return triton.InferenceServerClient.parse_response_body(body, header_length=response.json_size)


def same_bits(item: np.ndarray, other: np.ndarray) -> bool:
    if item.dtype == object:
        return item.shape == other.shape and item.tolist() == other.tolist()
    return item.dtype == other.dtype and item.shape == other.shape and item.tobytes() == other.tobytes()


@pytest.mark.parametrize("dtype", list(DType))
@settings(max_examples=runs(30), deadline=None)
@given(data=st.data())
def test_binary_keeps_every_bit_both_ways(dtype: DType, data: Any):
    """Binary tensors from tritonclient arrive with every bit, NaN payloads included, and go back the same."""
    array = data.draw(any_bytes(dtype))
    spec = echo_spec(dtype)
    request = parse_request(spec, *triton_request(array, dtype, binary=True, binary_out=True))
    assert same_bits(request.inputs["x"], array)
    response = encode_response(spec, "1", request, {"y": request.inputs["x"]})
    assert response.json_size == len(response.body_parts[0])
    result = triton_result(response)
    assert result.get_response()["id"] == "r-1"
    assert same_bits(result.as_numpy("y"), array)


@pytest.mark.parametrize("dtype", NOT_BF16)
@settings(max_examples=runs(30), deadline=None)
@given(data=st.data())
def test_json_keeps_every_value_both_ways(dtype: DType, data: Any):
    """JSON tensors from tritonclient arrive with every value and go back the same."""
    array = data.draw(json_values(dtype))
    spec = echo_spec(dtype)
    request = parse_request(spec, *triton_request(array, dtype, binary=False, binary_out=False))
    assert same_bits(request.inputs["x"], array)
    response = encode_response(spec, "1", request, {"y": request.inputs["x"]})
    assert response.json_size is None
    result = triton_result(response).as_numpy("y")
    if dtype is DType.BYTES:
        assert result.tolist() == [[[item.decode() for item in row] for row in rows] for rows in array.tolist()]
    else:
        assert same_bits(result, array)


@settings(max_examples=20, deadline=None)
@given(array=json_values(DType.BF16))
def test_bfloat16_goes_through_json_as_numbers(array: np.ndarray):
    """BF16 values are written as numbers that read back to the same BF16 values."""
    spec = echo_spec(DType.BF16)
    request = parse_request(spec, *triton_request(array, DType.BF16, binary=True, binary_out=False))
    body = b"".join(encode_response(spec, "1", request, {"y": array}).body_parts)
    back = parse_request(spec, body.replace(b'"outputs"', b'"inputs"').replace(b'"y"', b'"x"'), None)
    assert same_bits(back.inputs["x"], array)


@settings(max_examples=60, deadline=None)
@given(body=st.binary(max_size=64), size=st.one_of(st.none(), st.integers(-2, 70)))
def test_random_bytes_are_refused_or_read_but_never_crash(body: bytes, size: int | None):
    """Whatever the bytes are, the codec answers with a request or with InvalidInputError."""
    try:
        request = parse_request(echo_spec(DType.FP32, rank=1), body, size)
    except InvalidInputError:
        return
    assert request.inputs["x"].nbytes == len(body)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PLACES = [("inputs",), ("outputs",), ("parameters",), ("id",)]
PLACES += [("inputs", 0), *(("inputs", 0, key) for key in ("name", "datatype", "shape", "data", "parameters"))]
PLACES += [("inputs", 0, "shape", 0), ("inputs", 0, "data", 0), ("outputs", 0), ("outputs", 0, "parameters")]


@pytest.mark.parametrize("dtype", [DType.FP32, DType.INT8, DType.BOOL, DType.BYTES])
@settings(max_examples=runs(100), deadline=None)
@given(place=st.sampled_from(PLACES), value=ANY_JSON)
def test_any_json_anywhere_is_refused_or_read_but_never_crashes(dtype: DType, place: tuple, value: Any):
    """A request that is right but for any one part of it gives a request or InvalidInputError, and nothing else."""
    tensor = {"name": "x", "datatype": dtype.value, "shape": [2], "data": [1, 0]}
    request: Any = {"id": "a", "inputs": [tensor], "outputs": [{"name": "y", "parameters": {}}], "parameters": {}}
    part = request
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    with contextlib.suppress(InvalidInputError):
        parsed = parse_request(echo_spec(dtype, rank=1), orjson.dumps(request), None)
        assert parsed.inputs["x"].dtype == dtype.numpy


def test_mixed_binary_and_json_tensors_of_one_request():
    """A client may send one input as binary and one as JSON, in any order, and ask the same of the outputs."""
    a, b = TensorSpec("a", DType.FP32, (None, 2)), TensorSpec("b", DType.INT64, (None,))
    spec = ModelSpec("two", (a, b), (a, b))
    tensors = [triton.InferInput("b", [3], "INT64"), triton.InferInput("a", [3, 2], "FP32")]
    tensors[0].set_data_from_numpy(np.arange(3), binary_data=False)
    tensors[1].set_data_from_numpy(np.arange(6, dtype=np.float32).reshape(3, 2))
    outputs = [triton.InferRequestedOutput("b"), triton.InferRequestedOutput("a", binary_data=False)]
    request = parse_request(spec, *triton.InferenceServerClient.generate_request_body(tensors, outputs=outputs))
    assert list(request.inputs) == ["a", "b"]
    assert [(wanted.name, wanted.binary) for wanted in request.outputs] == [("b", True), ("a", False)]
    result = triton_result(encode_response(spec, "1", request, request.inputs))
    assert result.as_numpy("a").tolist() == [[0, 1], [2, 3], [4, 5]]
    assert result.as_numpy("b").tolist() == [0, 1, 2]


def test_without_outputs_triton_gets_all_of_them_as_binary():
    """tritonclient names no outputs and sets binary_data_output: all come, in the model's order, as binary."""
    a, b = TensorSpec("a", DType.FP32, (None, 2)), TensorSpec("b", DType.INT64, (None,))
    spec = ModelSpec("two", (a,), (a, b))
    tensor = triton.InferInput("a", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 2), np.float32))
    request = parse_request(spec, *triton.InferenceServerClient.generate_request_body([tensor]))
    assert [(wanted.name, wanted.binary) for wanted in request.outputs] == [("a", True), ("b", True)]


def test_metadata_names_free_dimensions_minus_one():
    """Model metadata lists inputs and outputs in order, with -1 for a free dimension."""
    spec = ModelSpec("m", (TensorSpec("x", DType.UINT8, (None, 3)),), (TensorSpec("y", DType.BYTES, ()),))
    metadata = model_metadata(spec, "openvino", "7")
    assert (metadata["name"], metadata["platform"]) == ("m", "openvino")
    assert metadata["versions"] == ["7"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "UINT8", "shape": [-1, 3]}]
    assert metadata["outputs"] == [{"name": "y", "datatype": "BYTES", "shape": []}]


def test_server_metadata_lists_the_binary_extension():
    """Server metadata has the name, the version and the supported extensions."""
    metadata = server_metadata("1.2.3")
    assert (metadata["name"], metadata["version"]) == ("tailcut", "1.2.3")
    assert "binary_tensor_data" in metadata["extensions"]


def test_the_last_priority() -> None:
    """The error for a larger one names it."""
    assert schedule_of({"priority": 4294967295}).priority == 4294967295
    for wrong in (4294967296, 1 << 40, -1, 1.0, True):
        with pytest.raises(InvalidInputError, match="'priority' must be a whole number from 0 to 4294967295"):
            schedule_of({"priority": wrong})

"""What a request may contain, and the error for each invalid one."""

from typing import Any

import numpy as np
import orjson
import pytest

from tailcut.errors import InvalidInputError
from tailcut.memory.shared import SharedRegions
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.wire.v2 import parse_request
from tailcut.wire.v2 import request as v2_request
from tailcut.wire.v2.steps import request_in_steps

X = TensorSpec("x", DType.FP32, (None, 4))
Y = TensorSpec("y", DType.FP32, (None, 2))
SPEC = ModelSpec("m", (X,), (Y,))
SECRET = "s3cr3t-value"


def entry(**changes: Any) -> dict[str, Any]:
    base = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]} | changes
    return {key: value for key, value in base.items() if value is not ...}


def body(*inputs: Any, **more: Any) -> bytes:
    return orjson.dumps({"inputs": list(inputs)} | more)


def binary(size: int = 16, **changes: Any) -> dict[str, Any]:
    return entry(data=..., parameters={"binary_data_size": size}, **changes)


def refusal(raw: bytes, json_size: int | None = None, spec: ModelSpec = SPEC) -> str:
    with pytest.raises(InvalidInputError) as caught:
        parse_request(spec, raw, json_size)
    message = str(caught.value)
    assert SECRET not in message
    assert len(message) < 400
    assert message.isprintable()
    return message


def test_a_plain_request_in_json():
    """Flat JSON data arrives as a read-only array of the spec's dtype; every output is answered as JSON."""
    request = parse_request(SPEC, body(entry(), id="a", parameters={"timeout": 5}), None)
    assert request.id == "a"
    assert request.parameters == {"timeout": 5}
    assert [(wanted.name, wanted.binary) for wanted in request.outputs] == [("y", False)]
    assert request.inputs["x"].dtype == np.float32
    assert request.inputs["x"].tolist() == [[1, 2, 3, 4]]


def test_nested_data_means_the_same_as_flat():
    """Nested JSON data is read by its shape."""
    request = parse_request(SPEC, body(entry(shape=[2, 4], data=[[1, 2, 3, 4], [5, 6, 7, 8.5]])), None)
    assert request.inputs["x"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8.5]]


def test_binary_input_is_a_view_of_the_body():
    """A binary input is a read-only view of the body: nothing is copied."""
    head, data = body(binary()), np.arange(4, dtype=np.float32)
    raw = np.frombuffer(head + data.tobytes(), np.uint8)
    array = parse_request(SPEC, raw.data, len(head)).inputs["x"]
    assert array.tolist() == [[0, 1, 2, 3]]
    assert np.shares_memory(array, raw)
    assert not array.flags.writeable


def test_a_writable_body_still_gives_read_only_arrays():
    """The codec never lets a model write into a connection's buffer."""
    head = body(binary())
    array = parse_request(SPEC, memoryview(bytearray(head + bytes(16))), len(head)).inputs["x"]
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


@pytest.mark.parametrize("pad", range(4))
def test_a_model_that_reads_inputs_in_place_gets_aligned_ones(pad: int):
    """Where no row has a fixed size, an unaligned view is copied, and stays read-only."""
    spec = ModelSpec("m", (TensorSpec("x", DType.FP32, (None, None)),), (Y,))
    head = body(binary(), id="i" * pad)
    array = parse_request(spec, head + np.arange(4, dtype=np.float32).tobytes(), len(head)).inputs["x"]
    assert array.flags.aligned
    assert not array.flags.writeable
    assert array.tolist() == [[0, 1, 2, 3]]


def test_a_repeated_head_is_read_once(monkeypatch: pytest.MonkeyPatch):
    """The second request with the same JSON head does not parse it again, and sees its own data."""
    head = body(binary(), id="repeated")
    parse_request(SPEC, head + bytes(16), len(head))
    monkeypatch.setattr(v2_request.orjson, "loads", lambda _: pytest.fail("parsed again"))
    second = parse_request(SPEC, head + np.ones(4, np.float32).tobytes(), len(head))
    assert second.inputs["x"].tolist() == [[1, 1, 1, 1]]


def test_a_head_is_remembered_for_one_model_only():
    """The same head means something else to another model."""
    other = ModelSpec("other", (TensorSpec("x", DType.FP32, (None, 5)),), (Y,))
    head = body(binary())
    parse_request(SPEC, head + bytes(16), len(head))
    assert "[-1, 5]" in refusal(head + bytes(16), len(head), other)


def test_remembered_heads_are_bounded():
    """Heads that differ each time do not grow memory."""
    for number in range(v2_request._PLANS_KEPT + 50):
        head = body(binary(), id=str(number))
        assert parse_request(SPEC, head + bytes(16), len(head)).id == str(number)
    assert len(v2_request._plans) <= v2_request._PLANS_KEPT
    long = body(binary(), id="i" * 5000)
    parse_request(SPEC, long + bytes(16), len(long))
    assert (id(SPEC), long) not in v2_request._plans


def test_outputs_come_in_the_order_asked():
    """binary_data of an output goes before binary_data_output of the request."""
    spec = ModelSpec("m", (X,), (Y, TensorSpec("z", DType.FP32, (None, 2))))
    outputs = [{"name": "z"}, {"name": "y", "parameters": {"binary_data": False}}]
    request = parse_request(spec, body(entry(), outputs=outputs, parameters={"binary_data_output": True}), None)
    assert [(wanted.name, wanted.binary) for wanted in request.outputs] == [("z", True), ("y", False)]


@pytest.mark.parametrize("rows", [1, 3])
def test_a_raw_body_gives_its_batch_by_its_length(rows: int):
    """A body without a JSON head is the only input's bytes; the answer is binary."""
    data = np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)
    request = parse_request(SPEC, data.tobytes(), 0)
    assert np.array_equal(request.inputs["x"], data)
    assert [(wanted.name, wanted.binary) for wanted in request.outputs] == [("y", True)]


def test_a_raw_body_of_a_model_without_a_batch():
    """A raw body of a fixed shape must have exactly its bytes."""
    spec = ModelSpec("m", (TensorSpec("x", DType.INT16, (2, 2)),), (Y,))
    assert parse_request(spec, np.arange(4, dtype=np.int16).tobytes(), 0).inputs["x"].tolist() == [[0, 1], [2, 3]]
    assert "expected 8 bytes" in refusal(bytes(16), 0, spec)


FIXED = TensorSpec("y", DType.FP32, (2,))  # beside which the first free dimension of an input is no batch


def free(*shape: int | None) -> ModelSpec:
    return ModelSpec("m", (TensorSpec("x", DType.FP32, shape),), (Y,))


@pytest.mark.parametrize(
    ("shape", "elements", "expected"),
    [
        ((None,), 5, (5,)),
        ((None, 3), 12, (4, 3)),
        ((3, None), 12, (3, 4)),
        ((1, None), 7, (1, 7)),
        ((None, None), 7, (1, 7)),
        ((None, None, 2), 8, (1, 4, 2)),
        ((None, 2, None), 8, (1, 2, 4)),
    ],
)
def test_a_raw_body_gives_its_free_dimension_by_its_length(
    shape: tuple[int | None, ...], elements: int, expected: tuple[int, ...]
):
    """One free dimension follows from the length; beside a batch that is free too, the body is one row."""
    data = np.arange(elements, dtype=np.float32)
    request = parse_request(free(*shape), data.tobytes(), 0)
    assert request.inputs["x"].shape == expected
    assert request.inputs["x"].ravel().tolist() == data.tolist()


def test_a_raw_body_is_one_element_of_bytes():
    """A raw body for a BYTES input is one element, without a length before it."""
    spec = ModelSpec("m", (TensorSpec("x", DType.BYTES, (None, 1)),), (Y,))
    assert parse_request(spec, b"hello", 0).inputs["x"].tolist() == [[b"hello"]]


@pytest.mark.parametrize(
    ("raw", "spec", "words"),
    [
        (bytes(17), SPEC, ["'x'", "multiple of 16", "17"]),
        (b"", SPEC, ["at least 1 row", "0 bytes"]),
        (bytes(16), ModelSpec("m", (X, TensorSpec("w", DType.FP32, (None, 4))), (Y,)), ["one input", "2"]),
        (bytes(16), free(None, None, None), ["several free", "JSON head"]),
        (bytes(16), free(2, None, None), ["several free", "JSON head"]),
        (bytes(18), free(None, None), ["'x'", "multiple of 4", "18"]),
        (bytes(16), free(None, 3, None), ["'x'", "multiple of 12", "16"]),
        (bytes(16), ModelSpec("m", (TensorSpec("x", DType.FP32, (None, None)),), (FIXED,)), ["several free"]),
        (bytes(16), ModelSpec("m", (TensorSpec("x", DType.BYTES, (None, 3)),), (Y,)), ["BYTES", "JSON head"]),
    ],
)
def test_a_raw_body_that_does_not_fit(raw: bytes, spec: ModelSpec, words: list[str]):
    """A raw body that is no whole number of rows, or whose shape cannot be told, is refused."""
    message = refusal(raw, 0, spec)
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (entry(datatype="FP64"), ["'x'", "FP32 [-1, 4]", "'FP64'"]),
        (entry(datatype=...), ["'x'", "FP32 [-1, 4]", "null"]),
        (entry(shape=[4]), ["'x'", "[-1, 4]", "1 dimensions"]),
        (entry(shape=[1, 5]), ["'x'", "[-1, 4]", "[1, 5]"]),
        (entry(shape=...), ["'x'", "[-1, 4]", "null"]),
        (entry(shape="1,4"), ["'x'", "[-1, 4]"]),
        (entry(shape=[-1, 4]), ["'x'", "[-1, 4]"]),
        (entry(shape=[2**63, 4]), ["'x'", "more than"]),
        (entry(shape=[1.0, 4]), ["'x'", "not all integers"]),
        (entry(shape=[True, 4]), ["'x'", "not all integers"]),
        (entry(shape=[None, 4]), ["'x'", "not all integers"]),
        (entry(shape=[1] * 1000), ["'x'", "1000 dimensions"]),
        (entry(shape=[0, 4], data=[]), ["'x'", "batch", "[0, 4]"]),
        (entry(data=[1, 2, 3]), ["'x'", "expected 4", "got 3"]),
        (entry(data=...), ["'x'", "data", "binary_data_size"]),
        (entry(parameters={"binary_data_size": 16}), ["'x'", "either data, the"]),
        (entry(parameters=[1]), ["'x'", "object"]),
        (entry(data=..., parameters={"shared_memory_region": SECRET}), ["'x'", "shared_memory_byte_size", "null"]),
        (entry(name="w"), ["unknown", "'w'", "x"]),
        (entry(name="w" * 500), ["unknown", "'" + "w" * 64 + "'"]),
        (entry(name="a\nb\x00\u202e"), ["unknown", "'a?b??'"]),
        (entry(name=7), ["unknown", "integer"]),
        (SECRET, ["inputs", "objects"]),
        (None, ["inputs", "null"]),
    ],
)
def test_an_input_that_does_not_fit(item: Any, words: list[str]):
    """The message names the input, what was expected and what came, and shows no value."""
    message = refusal(body(item))
    assert all(word in message for word in words)


@pytest.mark.parametrize("size", [15, 17, 0, -16, True, 16.0, "16", 2**64 - 1])
def test_a_binary_size_that_does_not_fit(size: Any):
    """A byte count that is no count, or not that of the shape, is refused."""
    head = body(binary(size))
    assert "'x'" in refusal(head + bytes(16), len(head))


@pytest.mark.parametrize("tail", [0, 15, 17])
def test_sizes_must_add_up_to_the_body(tail: int):
    """The bytes behind the head must be exactly those that the inputs name."""
    head = body(binary())
    message = refusal(head + bytes(tail), len(head))
    assert "16" in message
    assert str(tail) in message


def test_one_byte_less_on_one_and_more_on_the_other_does_not_pass():
    """Sizes are checked for each input, not only their sum."""
    spec = ModelSpec("m", (X, TensorSpec("w", DType.FP32, (None, 4))), (Y,))
    head = body(binary(12), binary(20, name="w"))
    assert "expected 16 bytes" in refusal(head + bytes(32), len(head), spec)


@pytest.mark.parametrize("json_size", [-1, 10**9, 2**63])
def test_a_head_size_outside_the_body(json_size: int):
    """The size of the JSON head must lie in the body."""
    assert str(json_size) in refusal(body(entry()), json_size)


def test_a_binary_request_without_its_header_gets_an_error():
    """Without Inference-Header-Content-Length the whole body is JSON; the message names the header."""
    assert "Inference-Header-Content-Length" in refusal(body(binary()) + b"\xff" * 16)


def test_missing_and_repeated_inputs():
    """Every input must come exactly once."""
    spec = ModelSpec("m", (X, TensorSpec("w", DType.FP32, (None, 4))), (Y,))
    assert "'w' is missing" in refusal(body(entry()), None, spec)
    assert "'x' is repeated" in refusal(body(entry(), entry()), None, spec)
    assert "inputs" in refusal(b"{}")
    assert "inputs" in refusal(orjson.dumps({"inputs": {"x": 1}}))


def test_inputs_of_different_batch_sizes():
    """All inputs of a batched model have the same number of rows."""
    spec = ModelSpec("m", (X, TensorSpec("w", DType.FP32, (None, 1))), (Y,))
    assert "[1, 2]" in refusal(body(entry(), entry(name="w", shape=[2, 1], data=[1, 2])), None, spec)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ([{"name": "q"}], ["unknown output", "'q'", "y"]),
        ([{"name": "y"}, {"name": "y"}], ["'y' is repeated"]),
        ([{"name": "y", "parameters": {"classification": 3}}], ["classification", "'y'"]),
        ([{"name": "y", "parameters": {"shared_memory_region": SECRET}}], ["shared_memory_byte_size", "null", "'y'"]),
        ([{"name": "y", "parameters": {"binary_data": 1}}], ["binary_data", "true or false"]),
        ([{"name": "y", "parameters": SECRET}], ["object", "'y'"]),
        (["y"], ["outputs"]),
        ({"name": "y"}, ["outputs"]),
    ],
)
def test_outputs_that_cannot_be_had(outputs: Any, words: list[str]):
    """An output that is unknown, repeated, or wanted in a way that is not offered is refused."""
    message = refusal(body(entry(), outputs=outputs))
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"7",
        b"null",
        b'"%s"' % SECRET.encode(),
        b"{",
        b"\xff\xfe{}",
        body(entry())[:-1] + b'"\xff"}',
        b'{"inputs": ' + b"[" * 250_000,
        b'{"id": 7, "inputs": []}',
        b'{"inputs": "%s"}' % SECRET.encode(),
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": "%s"}]}' % SECRET.encode(),
        b'{"parameters": [], "inputs": []}',
        b'{"parameters": {"binary_data_output": "yes"}, "inputs": [%s]}' % orjson.dumps(entry()),
    ],
)
def test_a_body_that_is_no_request(raw: bytes):
    """Not JSON, not UTF-8, not an object, nested without end: refused in one line."""
    refusal(raw)


@pytest.mark.parametrize("wrong", [-1, 1])
@pytest.mark.parametrize("rows", [1, 100_000])
def test_a_head_of_another_length_than_announced(wrong: int, rows: int) -> None:
    """The message names the length that was announced, and does not ask for the header; in steps, too."""
    size = 16 * rows
    head = body(binary(size, shape=[rows, 4]))
    whole, announced = head + b"~" * size, len(head) + wrong
    words = rf"^the first {announced} bytes \(Inference-Header-Content-Length\) are not valid JSON: "
    with pytest.raises(InvalidInputError, match=words):
        parse_request(SPEC, whole, announced)
    with pytest.raises(InvalidInputError, match=words):
        list(request_in_steps(SPEC, whole, announced, SharedRegions()))
    with pytest.raises(InvalidInputError, match="needs Inference-Header-Content-Length"):
        parse_request(SPEC, whole, None)

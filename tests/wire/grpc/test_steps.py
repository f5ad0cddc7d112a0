"""Large ModelInferRequests, taken apart and read in steps: the same as protobuf reads them."""

import time
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from tests.wire.grpc.test_codec import TYPED

from tailcut.errors import InvalidInputError
from tailcut.memory.shared import SharedRegions
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.wire.grpc.codec import infer_response, large_answer, read_request, varint
from tailcut.wire.grpc.messages import MESSAGES
from tailcut.wire.grpc.steps import large_request, take_apart
from tailcut.wire.v2.request import InferRequest

OFF = SharedRegions()
REQUEST = MESSAGES["ModelInferRequest"]
STEP_S = 0.05  # of CPU time


def spec_of(*dtypes: DType) -> ModelSpec:
    tensors = tuple(TensorSpec(name, dtype, (None,)) for name, dtype in zip("xz", dtypes, strict=False))
    return ModelSpec("m", tensors, tensors)


def finish(steps: Generator[None, None, Any]) -> Any:
    while True:
        began = time.thread_time()
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        assert time.thread_time() - began < STEP_S


def read(spec: ModelSpec, data: bytes) -> InferRequest:
    taken = finish(take_apart(data))
    return finish(large_request(spec, REQUEST.FromString(taken.rest), taken, OFF))


def typed(dtype: DType, values: list[Any], count: int | None = None) -> Any:
    message = REQUEST(model_name="m", id="a")
    entry = message.inputs.add(name="x", datatype=dtype.value, shape=[len(values) if count is None else count])
    getattr(entry.contents, TYPED[dtype][0]).extend(values)
    entry.parameters["p"].int64_param = 5
    message.outputs.add(name="x")
    return message


@pytest.mark.parametrize("dtype", TYPED)
def test_typed_lists(dtype: DType) -> None:
    """A hundred thousand elements of each kind, and a handful, are those that protobuf reads."""
    for repeats in (50_000, 3):
        message = typed(dtype, TYPED[dtype][1] * repeats)
        request, expected = (
            read(spec_of(dtype), message.SerializeToString()),
            read_request(spec_of(dtype), message, OFF),
        )
        assert request.inputs["x"].dtype == dtype.numpy
        assert request.inputs["x"].tolist() == expected.inputs["x"].tolist()
        assert (request.id, request.outputs) == (expected.id, expected.outputs)


@pytest.mark.parametrize("rows", [100, 1000])
def test_many_columns_of_a_table(rows: int) -> None:
    """Inputs that are small by themselves, and together larger than what may stand around the data."""
    tensors = tuple(TensorSpec(f"c{number}", DType.FP32, (None, 1)) for number in range(40))
    values = np.random.default_rng(0).random((40, rows)).astype(np.float32)
    message = REQUEST(model_name="m")
    for tensor, column in zip(tensors, values, strict=True):
        entry = message.inputs.add(name=tensor.name, datatype="FP32", shape=[rows, 1])
        entry.contents.fp32_contents.extend(column.tolist())
    request = read(ModelSpec("m", tensors, tensors), message.SerializeToString())
    assert all(np.array_equal(request.inputs[f"c{number}"][:, 0], values[number]) for number in range(40))


def test_raw_tensors_and_lists() -> None:
    """Raw elements belong to their inputs in order, strings in steps; a list stands beside shared memory only."""
    spec = spec_of(DType.FP32, DType.BYTES)
    numbers = np.arange(100_000, dtype=np.float32)
    words = b"".join(len(word).to_bytes(4, "little") + word for word in [b"ab", b""] * 5000)
    message = REQUEST(model_name="m", raw_input_contents=[words, numbers.tobytes()])
    message.inputs.add(name="z", datatype="BYTES", shape=[10_000])
    message.inputs.add(name="x", datatype="FP32", shape=[100_000])
    spec = ModelSpec("m", spec.inputs, spec.outputs)
    with pytest.raises(InvalidInputError, match="batch size"):
        read(spec, message.SerializeToString())
    fixed = (TensorSpec("x", DType.FP32, (100_000,)), TensorSpec("z", DType.BYTES, (10_000,)))
    request = read(ModelSpec("m", fixed, fixed), message.SerializeToString())
    assert request.inputs["x"].tobytes() == numbers.tobytes()
    assert request.inputs["z"].tolist() == [b"ab", b""] * 5000


def test_a_single_string_without_a_shape() -> None:
    """Such as an image of a megabyte for a model that decodes one."""
    message = REQUEST(model_name="m", raw_input_contents=[(2_000_000).to_bytes(4, "little") + bytes(2_000_000)])
    message.inputs.add(name="x", datatype="BYTES")
    tensor = (TensorSpec("x", DType.BYTES, ()),)
    request = read(ModelSpec("m", tensor, tensor), message.SerializeToString())
    assert request.inputs["x"].shape == ()
    assert request.inputs["x"].item() == bytes(2_000_000)


def _typed(dtype: DType, values: list[Any], count: int | None = None) -> bytes:
    return bytes(typed(dtype, values, count).SerializeToString())


def _raw(**changes: Any) -> bytes:
    message = REQUEST(model_name="m", raw_input_contents=[bytes(400_000)])
    message.inputs.add(name="x", datatype="FP32", shape=[100_000])
    for name, value in changes.items():
        setattr(message.inputs[0], name, value)
    return bytes(message.SerializeToString())


TWICE = b"\x0a\x01x" + b"\x2a\x02\x32\x00" * 2 + b"\x12" + varint(5000) + b"x" * 5000
WRONG = {
    "too few": _typed(DType.FP32, [0.0] * 90_000, 90_001),
    "too many": _typed(DType.FP32, [0.0] * 90_000, 89_999),
    "too few integers": _typed(DType.INT64, [1] * 90_000, 90_001),
    "too many integers": _typed(DType.INT64, [1] * 90_000, 89_999),
    "out of range": _typed(DType.INT8, [1] * 90_000 + [300]),
    "another list": _typed(DType.FP32, [0.0] * 90_000).replace(b"FP32", b"FP64"),
    "negative shape": _typed(DType.FP32, [0.0] * 90_000, -1),
    "fewer strings": _typed(DType.BYTES, [b"a"] * 90_000, 90_001),
    "more strings": _typed(DType.BYTES, [b"a"] * 90_000, 89_999),
    "unknown input": _raw(name="q"),
    "another size": _raw() + b"\x3a\x00",
    "no message": b"\xff" * 100_000,
    "cut short": _raw()[:-5],
    "many fields": b"\x0a\x01m" * 50_000,
    "many inputs": b"\x2a\x03\x0a\x01x" * 50_000,
    "large id": b"\x1a\xc0\x9a\x0c" + b"a" * 200_000,
    "contents twice": b"\x2a" + varint(len(TWICE)) + TWICE + _raw(),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_messages(name: str) -> None:
    """Each is refused in one line, in short steps, as protobuf and the checks behind it refuse it."""
    kinds = {"out of range": DType.INT8, "fewer strings": DType.BYTES, "more strings": DType.BYTES}
    dtype = DType.INT64 if "integers" in name else kinds.get(name, DType.FP32)
    with pytest.raises(InvalidInputError) as caught:
        read(spec_of(dtype), WRONG[name])
    assert "\n" not in str(caught.value)


def test_large_answers_are_the_bytes_that_protobuf_writes() -> None:
    """In parts, of which the tensors are not copied."""
    spec = spec_of(DType.FP32, DType.INT64)
    outputs = {"x": np.arange(1000, dtype=np.float32), "z": np.arange(70_000)}
    request = InferRequest.raw(spec)
    parts = large_answer(spec, "1", request, outputs)
    answer = MESSAGES["ModelInferResponse"].FromString(b"".join(parts))
    assert answer == infer_response(spec, "1", request, outputs)
    assert np.shares_memory(np.frombuffer(parts[2], np.uint8), outputs["x"])

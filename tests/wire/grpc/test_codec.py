"""Requests and answers of the v2 protocol as gRPC messages, without a socket."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.service_pb2 as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import runs

from tailcut.errors import InvalidInputError
from tailcut.memory.shared import SharedRegions
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.wire.grpc.codec import infer_response, message_of, read_request
from tailcut.wire.grpc.messages import MESSAGES, METHODS

OFF = SharedRegions()
SECRET = "never-shown"
TYPED = {
    DType.BOOL: ("bool_contents", [True, False]),
    DType.INT8: ("int_contents", [-128, 127]),
    DType.INT16: ("int_contents", [-32768, 32767]),
    DType.INT32: ("int_contents", [-(2**31), 2**31 - 1]),
    DType.INT64: ("int64_contents", [-(2**63), 2**63 - 1]),
    DType.UINT8: ("uint_contents", [0, 255]),
    DType.UINT16: ("uint_contents", [0, 65535]),
    DType.UINT32: ("uint_contents", [0, 2**32 - 1]),
    DType.UINT64: ("uint64_contents", [0, 2**64 - 1]),
    DType.FP32: ("fp32_contents", [float("inf"), -1.5]),
    DType.FP64: ("fp64_contents", [1e300, -1.5]),
    DType.BYTES: ("bytes_contents", [b"\xff\x00", b""]),
}


def spec_of(dtype: DType, inputs: int = 1) -> ModelSpec:
    names = ["x", "z"][:inputs]
    return ModelSpec(
        "m",
        tuple(TensorSpec(name, dtype, (None, 2)) for name in names),
        (TensorSpec("y", dtype, (None, 2)),),
    )


def message(spec: ModelSpec, *raw: bytes, **fields: Any) -> Any:
    request = MESSAGES["ModelInferRequest"](model_name="m", raw_input_contents=raw, **fields)
    for tensor in spec.inputs:
        request.inputs.add(name=tensor.name, datatype=tensor.dtype.value, shape=[1, 2])
    return request


def refusal(spec: ModelSpec, request: Any) -> str:
    with pytest.raises(InvalidInputError) as caught:
        read_request(spec, request, OFF)
    return str(caught.value)


@pytest.mark.parametrize("dtype", TYPED)
def test_typed_contents(dtype: DType) -> None:
    """The extremes of every dtype arrive as they were sent."""
    field, values = TYPED[dtype]
    spec = spec_of(dtype)
    request = message(spec)
    getattr(request.inputs[0].contents, field).extend(values)
    array = read_request(spec, request, OFF).inputs["x"]
    assert (array.dtype, array.shape) == (dtype.numpy, (1, 2))
    assert array.tolist() == [values]


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype is not DType.BYTES])
def test_raw_contents_there_and_back(dtype: DType) -> None:
    """Every dtype's bytes pass unchanged; FP16 and BF16 too, which have no typed form."""
    spec = spec_of(dtype)
    data = np.array([[1, 0]], dtype.numpy).tobytes()
    request = read_request(spec, message(spec, data, id="seven"), OFF)
    response = infer_response(spec, "3", request, {"y": request.inputs["x"]})
    assert response.raw_output_contents == [data]
    assert (response.id, response.model_name, response.model_version) == ("seven", "m", "3")
    assert (response.outputs[0].name, response.outputs[0].datatype, response.outputs[0].shape) == ("y", dtype, [1, 2])


def test_strings_are_length_prefixed_when_raw() -> None:
    """As in HTTP's binary form."""
    spec = spec_of(DType.BYTES)
    data = b"\x02\0\0\0ab\0\0\0\0"
    request = read_request(spec, message(spec, data), OFF)
    assert request.inputs["x"].tolist() == [[b"ab", b""]]
    assert infer_response(spec, "1", request, {"y": request.inputs["x"]}).raw_output_contents == [data]


def contents(**fields: Any) -> Any:
    return MESSAGES["InferTensorContents"](**fields)


def typed(dtype: DType, **fields: Any) -> tuple[ModelSpec, Any]:
    spec = spec_of(dtype)
    request = message(spec)
    request.inputs[0].contents.CopyFrom(contents(**fields))
    return spec, request


def test_wrong_typed_contents() -> None:
    """Out of range, of another field, of the wrong number, or for a dtype without any: named, and never wrapped."""
    assert "out of the range of INT8" in refusal(*typed(DType.INT8, int_contents=[300, 0]))
    assert "expected fp32_contents" in refusal(*typed(DType.FP32, fp64_contents=[1, 2]))
    assert "expected 2 elements" in refusal(*typed(DType.FP32, fp32_contents=[1]))
    assert "expected 2 elements" in refusal(*typed(DType.FP32))
    assert "raw_input_contents" in refusal(*typed(DType.FP16, fp32_contents=[1, 2]))


def test_wrong_raw_contents() -> None:
    """Too many, too few, of the wrong size, or beside typed ones."""
    spec = spec_of(DType.FP32, inputs=2)
    assert "no element for it" in refusal(spec, message(spec, bytes(8)))
    assert "has 3 elements, but 2" in refusal(spec, message(spec, bytes(8), bytes(8), bytes(8)))
    assert "expected 8 bytes" in refusal(spec, message(spec, bytes(8), bytes(7)))
    request = message(spec, bytes(8))
    request.inputs[1].contents.fp32_contents.extend([1, 2])
    assert "cannot be combined" in refusal(spec, request)


def test_the_rules_of_http_hold_here() -> None:
    """Unknown, missing and repeated inputs, wrong shapes and outputs are told in the same words."""
    spec = spec_of(DType.FP32)
    request = message(spec, bytes(8))
    request.inputs[0].shape[:] = [1, -2]
    assert "expected FP32 [-1, 2], got FP32 [1, -2]" in refusal(spec, request)
    request = message(spec, bytes(8))
    request.outputs.add(name="q")
    assert "unknown output 'q'" in refusal(spec, request)
    assert "'x' is missing" in refusal(spec, MESSAGES["ModelInferRequest"](model_name="m"))
    request = message(spec, bytes(8), bytes(8))
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    assert "'x' is repeated" in refusal(spec, request)


@given(data=st.data())
@settings(max_examples=runs(150), deadline=None)
def test_whatever_a_message_holds(data: st.DataObject) -> None:
    """Any message is read or refused in words, and the words show nothing of it but names."""
    dtype = data.draw(st.sampled_from(DType))
    spec = spec_of(dtype, inputs=data.draw(st.integers(1, 2)))
    request = MESSAGES["ModelInferRequest"](id=data.draw(st.text(max_size=3)))
    for name in data.draw(st.lists(st.sampled_from(["x", "z", "w", ""]), max_size=3)):
        shape = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3), max_size=3))
        kind = data.draw(st.sampled_from([dtype.value, "FP32", "", "?"]))
        tensor = request.inputs.add(name=name, datatype=kind, shape=shape)
        field, values = data.draw(st.sampled_from(list(TYPED.values())))
        if data.draw(st.booleans()):
            getattr(tensor.contents, field).extend(values)
        if data.draw(st.booleans()):
            tensor.parameters[data.draw(st.sampled_from(["shared_memory_region", "other"]))].string_param = SECRET
    request.raw_input_contents.extend(data.draw(st.lists(st.binary(max_size=20), max_size=3)))
    try:
        read = read_request(spec, request, OFF)
    except InvalidInputError as error:
        note = str(error)
    else:
        note = ""
        assert list(read.inputs) == list(spec.input_names)
        assert all(array.dtype == dtype.numpy for array in read.inputs.values())
    assert SECRET not in note


def test_parameters_arrive_as_plain_values() -> None:
    """Whatever kind they are of."""
    spec = spec_of(DType.FP32)
    request = message(spec, bytes(8))
    request.parameters["timeout"].int64_param = 5
    request.parameters["note"].string_param = "a"
    request.parameters["flag"].bool_param = True
    request.parameters["nothing"].SetInParent()
    assert read_request(spec, request, OFF).parameters == {"timeout": 5, "note": "a", "flag": True, "nothing": None}


def test_our_messages_are_those_of_the_protocol() -> None:
    """Every field of ours has the name, number and type that a foreign client's definition gives it."""
    for name, ours in MESSAGES.items():
        if not hasattr(theirs, name):
            continue  # parts of a model's configuration live in another file there
        other = getattr(theirs, name).DESCRIPTOR.fields_by_name
        for field in ours.DESCRIPTOR.fields:
            assert (other[field.name].number, other[field.name].type) == (field.number, field.type), field.full_name
    methods = theirs.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for name, (request, answer, streams) in METHODS.items():
        assert methods[name].input_type.full_name == request.DESCRIPTOR.full_name
        assert methods[name].output_type.full_name == answer.DESCRIPTOR.full_name
        assert methods[name].client_streaming == streams
    config = message_of("ModelConfig", {"name": "m", "max_batch_size": 4, "backend": "b", "platform": "p"})
    theirs_config = theirs.ModelConfigResponse().config.FromString(config.SerializeToString())
    assert (theirs_config.name, theirs_config.max_batch_size, theirs_config.backend) == ("m", 4, "b")


def test_the_compiled_descriptor_is_up_to_date() -> None:
    """inference.binpb is what inference.proto compiles to."""
    script = Path(__file__).parents[3] / "scripts" / "compile_proto.py"
    assert subprocess.run([sys.executable, script, "--check"], check=False).returncode == 0

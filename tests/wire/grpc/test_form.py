"""Requests known by their leads: what is recognised means what the whole message means, and is answered the same."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import runs

from tailcut.errors import InvalidInputError
from tailcut.memory.shared import SharedRegions
from tailcut.runtime.inputs import check_inputs
from tailcut.spec import DType, ModelSpec, Rows, TensorSpec
from tailcut.wire.grpc.codec import infer_response, read_request
from tailcut.wire.grpc.form import ArrayForm, Form, Whole, read_lead, stream_answer
from tailcut.wire.grpc.messages import MESSAGES
from tailcut.wire.v2 import InferRequest, schedule_of

OFF = SharedRegions()
Request = MESSAGES["ModelInferRequest"]
ONE = ModelSpec("m", (TensorSpec("x", DType.FP32, (None, 2)),), (TensorSpec("y", DType.FP32, (None, 3)),))
TWO = ModelSpec(
    "two",
    (TensorSpec("x", DType.INT8, (None, 3)), TensorSpec("z", DType.FP16, (None, 100))),
    (
        TensorSpec("y", DType.INT64, (None, 40)),
        TensorSpec("w", DType.BF16, (None,)),
        TensorSpec("v", DType.BOOL, (None,)),
    ),
)
SINGLE = ModelSpec("s", (TensorSpec("x", DType.INT64, (1, 1)),), (TensorSpec("y", DType.UINT8, (1, 2, 2)),))
SPECS = {spec.name: spec for spec in (ONE, TWO, SINGLE)}


def message_for(spec: ModelSpec, rows: int = 1, **fields: Any) -> Any:
    message = Request(model_name=spec.name, **fields)
    for number, tensor in enumerate(spec.inputs):
        message.inputs.add(name=tensor.name, datatype=tensor.dtype.value, shape=(rows, *tensor.row_shape))
        message.raw_input_contents.append(bytes([number + 1]) * (rows * (tensor.row_bytes or 0)))
    return message


def read_whole(spec: ModelSpec, data: bytes) -> tuple[Any, InferRequest]:
    """What the message means to who reads all of it.

    Raises:
        DecodeError, InvalidInputError: it is refused.
    """
    message = Request.FromString(data)
    if message.model_name != spec.name or message.model_version:
        raise InvalidInputError("another model")
    request = read_request(spec, message, OFF)
    check_inputs(spec, request.inputs)
    schedule_of(request.parameters)
    return message, request


def form_of(spec: ModelSpec, message: Any) -> Form | None:
    return Form.of(spec, "7", message, read_whole(spec, message.SerializeToString())[1])


def outputs_for(spec: ModelSpec, rows: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(rows)
    return {
        tensor.name: np.frombuffer(random.bytes(rows * (tensor.row_bytes or 0)), tensor.dtype.numpy).reshape(
            (rows, *(dim or 0 for dim in tensor.row_shape))
        )
        for tensor in spec.outputs
    }


def check_same(spec: ModelSpec, form: Form, data: bytes) -> bool:
    """Whether the bytes are of this form; if so, the whole message must be admitted, and mean the same."""
    lead = read_lead(data)
    assert lead is not None
    if not form.fits(data, lead.end):
        return False
    _, request = read_whole(spec, data)
    assert (request.id or "") == lead.id.decode()
    assert schedule_of(request.parameters) == form.schedule
    pieces = [data[lead.end + piece.start : lead.end + piece.end] for piece in form.pieces]
    assert pieces == [array.tobytes() for array in request.inputs.values()]
    assert {array.shape[0] for array in request.inputs.values()} == {form.rows}
    arrays = outputs_for(spec, form.rows)
    contents = [arrays[spec.output_names[index]].tobytes() for index, _ in form.outputs]
    for final in (False, True):
        response = infer_response(spec, "7", request, arrays, final=final)
        answer = form.answer(lead.id, contents, final=final)
        assert answer == response.SerializeToString()
        streamed = MESSAGES["ModelStreamInferResponse"](infer_response=response)
        assert stream_answer(answer) == streamed.SerializeToString()
    return True


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("fields", [{}, {"id": "seven"}, {"id": "x" * 127}], ids=["plain", "id", "long id"])
def test_the_next_message_is_recognised(spec: ModelSpec, fields: dict[str, str]) -> None:
    """With other tensors, and whatever its id is: a lead is known without it."""
    rows = 3 if spec.batched else 1
    form = form_of(spec, message_for(spec, rows, **fields))
    assert form is not None
    lead = read_lead(message_for(spec, rows, **fields).SerializeToString())
    assert lead is not None
    for name in ("", "1", "other", "y" * 127):
        message = message_for(spec, rows, id=name)
        for number, data in enumerate(message.raw_input_contents):
            message.raw_input_contents[number] = bytes(len(data))
        data = message.SerializeToString()
        result = read_lead(data)
        assert result is not None
        assert result.key == lead.key
        assert check_same(spec, form, data)


def test_outputs_in_the_order_asked_for() -> None:
    """Some of them, the last first; and a schedule in the parameters."""
    message = message_for(TWO, 2)
    for name in ("v", "y"):
        message.outputs.add(name=name)
    message.parameters["timeout"].int64_param = 5
    message.parameters["priority"].int64_param = 3
    form = form_of(TWO, message)
    assert form is not None
    assert [place for place, _ in form.outputs] == [2, 0]
    assert form.schedule == (5000, 3)
    assert check_same(TWO, form, message.SerializeToString())


def test_inputs_in_another_order_than_the_models() -> None:
    """The tensors follow the message's own order."""
    message = message_for(TWO)
    swapped = Request(model_name="two", inputs=reversed(message.inputs), raw_input_contents=[bytes(200), b"abc"])
    form = form_of(TWO, swapped)
    assert form is not None
    assert [piece.end - piece.start for piece in form.pieces] == [3, 200]
    assert check_same(TWO, form, swapped.SerializeToString())


def test_what_has_no_form() -> None:
    """Typed contents, a dtype of which not every byte is a value, rows of no fixed size, outputs in shared memory."""
    message = message_for(ONE)
    del message.raw_input_contents[:]
    message.inputs[0].contents.fp32_contents.extend([1, 2])
    assert form_of(ONE, message) is None
    assert read_lead(message.SerializeToString()) is None
    message = message_for(ONE)
    parameters = message.outputs.add(name="y").parameters
    parameters["shared_memory_region"].string_param = "r"
    parameters["shared_memory_byte_size"].int64_param = 12
    assert form_of(ONE, message) is None
    for dtype, shape in ((DType.BOOL, (None, 2)), (DType.FP32, (None, None))):
        spec = ModelSpec("m", (TensorSpec("x", dtype, shape),), ONE.outputs)
        message = message_for(ModelSpec("m", (TensorSpec("x", dtype, (None, 2)),), ONE.outputs))
        assert form_of(spec, message) is None


FREE = ModelSpec(
    "free",
    (TensorSpec("ids", DType.INT64, (None, None)), TensorSpec("x", DType.FP32, (None, 3))),
    (TensorSpec("y", DType.FP32, (None, None)), TensorSpec("n", DType.INT64, (None,))),
)
DEPENDENT = replace(FREE, rows=Rows.DEPENDENT)


def free_message(ids: tuple[int, ...], x: tuple[int, ...], **fields: Any) -> Any:
    message = Request(model_name="free", **fields)
    for tensor, shape in zip(FREE.inputs, (ids, x), strict=True):
        message.inputs.add(name=tensor.name, datatype=tensor.dtype.value, shape=shape)
        array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(tensor.dtype.numpy)
        message.raw_input_contents.append(array.tobytes())
    return message


@pytest.mark.parametrize(("spec", "ids", "x", "rows"), [(FREE, (2, 5), (2, 3), 2), (DEPENDENT, (2, 5), (0, 3), 1)])
@pytest.mark.parametrize("name", ["", "seven"])
def test_arrays_are_those_of_the_whole_message(
    spec: ModelSpec, ids: tuple[int, ...], x: tuple[int, ...], rows: int, name: str
) -> None:
    """For a model whose outputs are as large as each answer says, whose answers are those of a whole message, too."""
    message = free_message(ids, x, id=name)
    message.outputs.add(name="n")
    message.outputs.add(name="y")
    data = message.SerializeToString()
    request = read_request(spec, message, OFF)
    form = ArrayForm.of(spec, "7", message, request)
    lead = read_lead(data)
    assert form is not None
    assert lead is not None
    assert form.fits(data, lead.end)
    assert not form.fits(data + b"a", lead.end)
    assert form.rows == rows
    result = form.inputs(data, lead.end)
    assert list(result) == ["ids", "x"]
    for key, array in request.inputs.items():
        assert (result[key].dtype, result[key].shape) == (array.dtype, array.shape)
        assert np.array_equal(result[key], array)
        assert result[key].flags.aligned
    for shape in ((2, 4), (0, 4), (2, 4)):
        outputs = [np.ones(shape, np.float32), np.array([3])]
        for final in (False, True):
            response = infer_response(spec, "7", request, {"y": outputs[0], "n": outputs[1]}, final=final)
            assert form.answer(lead.id, outputs, final=final) == response.SerializeToString()


def test_inputs_with_rows_of_their_own() -> None:
    """Their messages have the form of arrays, which are computed whole."""
    inputs = tuple(TensorSpec(name, DType.FP32, (None, 3), first_axis=name) for name in ("ids", "x"))
    spec = ModelSpec("free", inputs, (TensorSpec("y", DType.FP32, (None, 3)),))
    message = Request(model_name="free")
    for name, rows in (("ids", 1), ("x", 4)):
        message.inputs.add(name=name, datatype="FP32", shape=(rows, 3))
        message.raw_input_contents.append(bytes(12 * rows))
    request = read_request(spec, message, SharedRegions())
    assert spec.fixed_rows
    assert Form.of(spec, "1", message, request) is None
    form = ArrayForm.of(spec, "1", message, request)
    assert form is not None
    assert form.rows == 1


def test_shapes_of_outputs_are_kept_within_a_bound() -> None:
    """However many a client brings about."""
    message = free_message((1, 1), (1, 3))
    form = ArrayForm.of(DEPENDENT, "1", message, read_request(DEPENDENT, message, OFF))
    assert form is not None
    for length in range(1000):
        form.answer(b"", [np.ones((length, 1), np.float32), np.array([3])])
    assert len(form.behind_ids) <= 64


def test_arrays_that_need_a_look_have_no_form() -> None:
    """Strings on either side, and outputs in shared memory."""
    text = TensorSpec("ids", DType.BYTES, (None, None))
    message = free_message((1, 1), (1, 3))
    request = read_request(FREE, message, OFF)
    assert ArrayForm.of(replace(FREE, inputs=(text, FREE.inputs[1])), "1", message, request) is None
    strings = replace(FREE, outputs=(TensorSpec("y", DType.BYTES, (None,)), FREE.outputs[1]))
    assert ArrayForm.of(strings, "1", message, read_request(strings, message, OFF)) is None


ID = Request(id="a").SerializeToString()
LEAD = Request(model_name="m", inputs=message_for(ONE).inputs).SerializeToString()
RAW = Request(raw_input_contents=[bytes(8)]).SerializeToString()


@pytest.mark.parametrize(
    "data",
    {
        "two ids": ID + ID + LEAD + RAW,
        "an id that is no ASCII": Request(id="ä").SerializeToString() + LEAD + RAW,
        "an id that is no UTF-8": b"\x1a\x01\xff" + LEAD + RAW,
        "a long id": Request(id="x" * 128).SerializeToString() + LEAD + RAW,
        "an unknown field": b"\x4a\x00" + LEAD + RAW,
        "a number": b"\x08\x01" + LEAD + RAW,
        "a tag of two bytes": b"\x8a\x00\x01m" + LEAD + RAW,
        "a length of three bytes": b"\x0a\x81\x80\x00m" + LEAD + RAW,
        "no tensor": ID + LEAD,
        "nothing": b"",
        "cut short": LEAD[:-1],
        "a tag and no length": LEAD + b"\x0a",
        "half a length": LEAD + b"\x0a\x80",
    }.values(),
)
def test_what_is_no_lead(data: bytes) -> None:
    """Anything but whole known fields in one way of writing them, the tensors behind them."""
    assert read_lead(data) is None


@pytest.mark.parametrize(
    "tail",
    {
        "shorter": RAW[:-1],
        "longer": RAW + b"\0",
        "another size": Request(raw_input_contents=[bytes(7)]).SerializeToString() + b"\0",
        "a size in two bytes": b"\x3a\x88\x00" + bytes(8),
        "two tensors": RAW + RAW,
        "a field behind it": RAW + ID,
        "another model behind it": RAW + b"\x0a\x01q",
    }.values(),
)
def test_another_tail_is_not_of_the_form(tail: bytes) -> None:
    """It is left to who reads it all."""
    form = form_of(ONE, message_for(ONE))
    assert form is not None
    assert check_same(ONE, form, LEAD + RAW)
    assert not check_same(ONE, form, LEAD + tail)


def fields_of(message: Any) -> list[bytes]:
    """Each of its top-level fields by itself; in any order they parse as the same, but for what is repeated."""
    parts = [Request(**{name: getattr(message, name)}) for name in ("model_name", "model_version", "id")]
    parts += [Request(inputs=[item]) for item in message.inputs]
    parts += [Request(outputs=[output]) for output in message.outputs]
    for name, value in message.parameters.items():
        part = Request()
        part.parameters[name].CopyFrom(value)
        parts.append(part)
    parts += [Request(raw_input_contents=[item]) for item in message.raw_input_contents]
    return [part.SerializeToString() for part in parts]


@st.composite
def messages(draw: st.DrawFn, spec: ModelSpec) -> Any:
    message = message_for(
        spec, draw(st.integers(1, 2)) if spec.batched else 1, id=draw(st.sampled_from(["", "a", "ä"]))
    )
    for name in draw(st.lists(st.sampled_from(spec.output_names), max_size=2, unique=True)):
        message.outputs.add(name=name)
    for name in draw(st.lists(st.sampled_from(["timeout", "priority", "other"]), max_size=2, unique=True)):
        message.parameters[name].int64_param = draw(st.integers(-1, 9))
    return message


@st.composite
def mutants(draw: st.DrawFn, spec: ModelSpec, message: Any) -> bytes:
    """A message that is like another, or nearly, or once was."""
    kind = draw(st.sampled_from(["same", "id", "tail", "fields", "bytes", "other"]))
    if kind == "same":
        message = Request.FromString(message.SerializeToString())
        message.id = draw(st.text(max_size=3))
        for number, data in enumerate(message.raw_input_contents):
            message.raw_input_contents[number] = draw(st.binary(min_size=len(data), max_size=len(data)))
        return bytes(message.SerializeToString())
    if kind == "id":
        name = draw(st.binary(max_size=3))
        return bytes([0x1A, len(name)]) + name + b"".join(part for part in fields_of(message) if part[:1] != ID[:1])
    if kind == "tail":  # as long as it was, and cut elsewhere
        fields = fields_of(message)
        head = b"".join(part for part in fields if part[:1] != RAW[:1])
        tail = bytearray(b"".join(part for part in fields if part[:1] == RAW[:1]))
        at = draw(st.integers(0, min(8, max(0, len(tail) - 1))))
        tail[at : at + 2] = draw(st.sampled_from([bytes([0x3A, size]) for size in range(8)]))
        return head + bytes(tail)
    if kind == "other":
        return bytes(draw(messages(spec)).SerializeToString())
    if kind == "fields":
        fields = fields_of(message)
        extra = draw(
            st.lists(st.sampled_from([*fields, ID, b"\x0a\x00", b"\x12\x00", b"\x4a\x00", b"\x40\x01"]), max_size=2)
        )
        return b"".join(draw(st.permutations(fields + extra)) if draw(st.booleans()) else fields + extra)
    data = bytearray(message.SerializeToString())
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(data) - 1))
        step = draw(st.sampled_from(["set", "cut", "add"]))
        if step == "set":
            data[at] = draw(st.integers(0, 255) | st.sampled_from([0x0A, 0x1A, 0x2A, 0x3A]))
        elif step == "cut":
            del data[at : at + draw(st.integers(1, 3))]
        else:
            data[at:at] = draw(st.binary(min_size=1, max_size=3) | st.sampled_from([ID, RAW]))
    return bytes(data)


@given(data=st.data())
@settings(max_examples=runs(600), deadline=None)
def test_known_by_its_bytes_or_read_whole_a_message_means_the_same(data: st.DataObject) -> None:
    """Whatever was learned from one message, and whatever comes then: what is recognised is what would be read."""
    spec = data.draw(st.sampled_from(list(SPECS.values())))
    first = data.draw(messages(spec)).SerializeToString()
    if data.draw(st.booleans()):
        first = data.draw(mutants(spec, Request.FromString(first)))
    lead = read_lead(first)
    try:
        message, request = read_whole(spec, first)
    except (DecodeError, InvalidInputError):
        return
    form = Form.of(spec, "7", message, request)
    if lead is None or form is None or not form.fits(first, lead.end):
        return
    for second in [first, *data.draw(st.lists(mutants(spec, message), min_size=1, max_size=4))]:
        result = read_lead(second)
        if result is not None and result.key == lead.key:
            check_same(spec, form, second)


@pytest.mark.parametrize("name", ["", "a", "0f5c9a3e-77aa-4f6e-9d6c-0a1b2c3d4e5f"])
def test_a_whole_message_is_known_by_its_bytes(name: str) -> None:
    """Each byte of it changed: what is like it has its lead, its form, and an id and a tensor of its own."""
    message = message_for(ONE, id=name)
    data = message.SerializeToString()
    form, lead = form_of(ONE, message), read_lead(data)
    assert form is not None
    assert lead is not None
    whole, alike = Whole.of(data, lead, form), 0
    sent = b"\0" + len(data).to_bytes(4, "big") + data
    for at in range(len(sent)):
        for byte in (0, 1, 0x0A, 0x1A, 0x3A, 0x41, 0xC3, sent[at] ^ 1):
            other = sent[:at] + bytes([byte]) + sent[at + 1 :]
            if not whole.is_like(other):
                continue
            alike += 1
            if whole.id(other).isascii():
                result = read_lead(other[5:])
                assert result is not None
                assert (result.key, result.id) == (lead.key, whole.id(other))
                assert form.fits(other[5:], result.end)
                assert whole.body(other) == other[5 + result.end + form.pieces[0].start :]
                assert other[:5] == sent[:5]
    assert alike > 8 * form.pieces[0].end - 8 * form.pieces[0].start

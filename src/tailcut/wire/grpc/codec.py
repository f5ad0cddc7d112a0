"""The Open Inference Protocol v2 over gRPC: messages <-> checked arrays, by the same rules as the JSON form. Pure.

Inputs are raw bytes (one element of `raw_input_contents` for each) or typed lists; never both in one request. Outputs
are always raw, as Triton sends them: typed lists cost a Python object per element on either side.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.json_format import ParseDict

from tailcut.errors import InvalidInputError
from tailcut.memory.shared import SharedRegions
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.wire.grpc.messages import MESSAGES
from tailcut.wire.v2.checks import check_present, input_shape, known_entries, parameters_of, region_of, wanted_outputs
from tailcut.wire.v2.request import InferRequest
from tailcut.wire.v2.response import shared_parameters
from tailcut.wire.v2.tensors import check_size, from_bytes, integers, shown, strings, to_bytes

_Response = MESSAGES["ModelInferResponse"]
_RAW_OUTPUT = bytes([_Response.DESCRIPTOR.fields_by_name["raw_output_contents"].number << 3 | 2])
_INTS = {DType.INT8, DType.INT16, DType.INT32}
_UINTS = {DType.UINT8, DType.UINT16, DType.UINT32}
FIELD_OF: dict[DType, str] = {
    DType.BOOL: "bool_contents",
    **dict.fromkeys(_INTS, "int_contents"),
    **dict.fromkeys(_UINTS, "uint_contents"),
    DType.INT64: "int64_contents",
    DType.UINT64: "uint64_contents",
    DType.FP32: "fp32_contents",
    DType.FP64: "fp64_contents",
    DType.BYTES: "bytes_contents",
}


class TensorData(NamedTuple):
    """The data of tensors that were taken out of a message: raw ones in order, lists and raw strings as arrays."""

    raw: Sequence[bytes | memoryview]
    lists: Mapping[int, np.ndarray]  # by the index of their input
    strings: Mapping[int, np.ndarray]  # by the index of their raw element


def read_request(spec: ModelSpec, message: Any, regions: SharedRegions, data: TensorData | None = None) -> InferRequest:
    """The request in a ModelInferRequest; arrays are read-only, and may be views of the message's own bytes.

    `data` has the data that were taken out of it.

    Raises:
        InvalidInputError: the request does not fit the protocol or the model; the message names what was expected.
    """
    parameters = plain_parameters(message.parameters)
    asked = [
        {"name": output.name, "parameters": plain_parameters(output.parameters)}
        for output in message.outputs[: len(spec.outputs) + 1]  # one more than the model has: one of these is wrong
    ]
    return InferRequest(
        message.id or None,
        _read_inputs(spec, message, regions, data or TensorData(message.raw_input_contents, {}, {})),
        wanted_outputs(spec, asked, parameters, binary=True),
        parameters,
    )


def infer_response(  # noqa: PLR0913  all parts of the answer
    spec: ModelSpec,
    version: str,
    request: InferRequest,
    outputs: Mapping[str, np.ndarray],
    *,
    final: bool = False,
    raw: bool = True,
) -> Any:
    """The ModelInferResponse to a request; every byte of `outputs` is copied, but without `raw` they are left out.

    `final` marks the only response of a streamed request as its last one, where the client asked for that.
    """
    response = _Response(model_name=spec.name, model_version=version, id=request.id or "")
    if final:
        response.parameters["triton_final_response"].bool_param = True
    dtypes = {tensor.name: tensor.dtype for tensor in spec.outputs}
    for wanted in request.outputs:
        array, dtype = outputs[wanted.name], dtypes[wanted.name]
        entry = response.outputs.add(name=wanted.name, datatype=dtype.value, shape=array.shape)
        if not raw:
            continue
        if wanted.region is None:
            response.raw_output_contents.append(to_bytes(array, dtype))
            continue
        response.raw_output_contents.append(b"")  # NVIDIA's clients expect an element for each output
        for name, value in shared_parameters(wanted.region, array, dtype).items():
            if isinstance(value, str):
                entry.parameters[name].string_param = value
            else:
                entry.parameters[name].int64_param = value
    return response


def large_answer(
    spec: ModelSpec, version: str, request: InferRequest, outputs: Mapping[str, np.ndarray]
) -> list[bytes | memoryview]:
    """The bytes of a ModelInferResponse in parts; the parts of outputs are views, which must stay unchanged.

    Only for outputs of fixed size, none of them in shared memory. protobuf would copy each of them three times.
    """
    parts: list[bytes | memoryview] = [infer_response(spec, version, request, outputs, raw=False).SerializeToString()]
    for wanted in request.outputs:
        data = np.ascontiguousarray(outputs[wanted.name]).reshape(-1).view(np.uint8).data
        parts += (_RAW_OUTPUT + varint(len(data)), data)
    return parts


def varint(value: int) -> bytes:
    """A number as a varint, which protobuf uses for lengths."""
    digits = bytearray()
    while value >= 0x80:
        digits.append(0x80 | value & 0x7F)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def message_of(name: str, value: Mapping[str, Any]) -> Any:
    """A message of that name with the fields of a JSON object, as HTTP answers it."""
    return ParseDict(value, MESSAGES[name]())


def plain_parameters(parameters: Any) -> dict[str, Any]:
    """The plain values of a map of InferParameter (or of repository parameters)."""
    plain: dict[str, Any] = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        plain[name] = None if choice is None else getattr(parameter, choice)
    return plain


def _read_inputs(spec: ModelSpec, message: Any, regions: SharedRegions, data: TensorData) -> dict[str, np.ndarray]:
    entries = [
        {
            "name": item.name,
            "datatype": item.datatype,
            "shape": list(item.shape),
            "parameters": plain_parameters(item.parameters),
            "contents": item.contents if item.HasField("contents") else data.lists.get(index),
        }
        for index, item in enumerate(message.inputs[: len(spec.inputs) + 1])
    ]
    arrays: dict[str, np.ndarray] = {}
    raw = data.raw
    used = 0
    for entry, tensor in known_entries(entries, {tensor.name: tensor for tensor in spec.inputs}, "input"):
        shape = input_shape(spec, tensor, entry)
        what = f"input {shown(tensor.name)}"
        region_slice = region_of(parameters_of(entry, what), what)
        if entry["contents"] is not None and (region_slice is not None or raw):
            raise InvalidInputError(f"{what}: contents cannot be combined with raw_input_contents or shared memory")
        if region_slice is not None:
            check_size(tensor, shape, region_slice.size)
            arrays[tensor.name] = from_bytes(tensor, shape, regions.read(region_slice), 0, region_slice.size)
        elif raw:
            if used == len(raw):
                raise InvalidInputError(f"{what}: raw_input_contents has no element for it, it has {len(raw)}")
            view = memoryview(raw[used])
            check_size(tensor, shape, len(view))
            strings_read = data.strings.get(used)
            arrays[tensor.name] = (
                from_bytes(tensor, shape, view, 0, len(view)) if strings_read is None else strings_read
            )
            used += 1
        elif isinstance(entry["contents"], np.ndarray):
            arrays[tensor.name] = entry["contents"]
        else:
            arrays[tensor.name] = _from_contents(tensor, shape, entry["contents"])
    if used != len(raw):
        raise InvalidInputError(f"raw_input_contents has {len(raw)} elements, but {used} inputs need one")
    check_present(spec, {name: array.shape for name, array in arrays.items()})
    return {name: arrays[name] for name in spec.input_names}


def _from_contents(tensor: TensorSpec, shape: tuple[int, ...], contents: Any) -> np.ndarray:
    """The tensor in a typed list; every value that the dtype can hold is accepted, also NaN and infinity."""
    name, field = shown(tensor.name), FIELD_OF.get(tensor.dtype)
    if field is None:
        raise InvalidInputError(f"input {name}: {tensor.dtype} has no typed contents: send raw_input_contents")
    filled = [] if contents is None else [contained.name for contained, _ in contents.ListFields()]
    if filled not in ([field], []):
        raise InvalidInputError(f"input {name}: expected {field} for {tensor.dtype}, got {', '.join(filled)}")
    flat = getattr(contents, field) if filled else ()
    if len(flat) != prod(shape):
        raise InvalidInputError(f"input {name}: expected {prod(shape)} elements for {list(shape)}, got {len(flat)}")
    if tensor.dtype is DType.BYTES:
        return strings(shape, list(flat))
    return numbers_of(tensor, contents).reshape(shape) if filled else np.empty(shape, tensor.dtype.numpy)


def numbers_of(tensor: TensorSpec, contents: Any) -> np.ndarray:
    """The numbers of a typed list, as a flat array of the tensor's dtype.

    Raises:
        InvalidInputError: one of them is out of the dtype's range.
    """
    flat = getattr(contents, FIELD_OF[tensor.dtype])
    if tensor.dtype in _INTS | _UINTS:
        return integers(tensor, list(flat))  # numpy alone would wrap them
    return np.array(flat, tensor.dtype.numpy)

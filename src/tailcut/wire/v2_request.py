"""Inference requests of the Open Inference Protocol v2: a body's bytes -> checked arrays. Pure: no socket, no clock.

A client that sends binary tensors repeats the same JSON head with every request, so the plan read from a head (where
in the body each tensor lies, which outputs are asked for) is kept by the head's bytes: the second request costs one
look-up and one view an input. Plans hold positions and names, never tensor data.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson

from tailcut.errors import InvalidInputError
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.wire.v2_tensors import check_size, from_bytes, from_json, shown

_PLANS_KEPT = 1024
_PLANNED_HEAD_BYTES = 4096  # with the line above: about 4 MiB at most
_MAX_ELEMENTS = 1 << 40  # beyond any body; numpy's own arithmetic stays far from overflow


class WantedOutput(NamedTuple):
    """An output that a request asks for, and whether as binary or as JSON."""

    name: str
    binary: bool


class InferRequest(msgspec.Struct, frozen=True, eq=False):
    """A checked request: `inputs` in the model's own order, `outputs` in the order asked for."""

    id: str | None
    inputs: dict[str, np.ndarray]
    outputs: tuple[WantedOutput, ...]
    parameters: dict[str, Any]

    @classmethod
    def raw(cls, spec: ModelSpec, inputs: Mapping[str, np.ndarray] | None = None) -> "InferRequest":
        """The request that a body without a JSON head stands for: every output, as binary."""
        return cls(None, dict(inputs or {}), tuple(WantedOutput(name, True) for name in spec.output_names), {})


class _Slice(NamedTuple):
    """Where a binary input lies: `offset` counts from the end of the JSON head."""

    tensor: TensorSpec
    shape: tuple[int, ...]
    offset: int
    size: int


class _Plan(msgspec.Struct, frozen=True, eq=False):
    spec: ModelSpec  # held, so that its id() stays its own while the plan is kept
    id: str | None
    slices: tuple[_Slice, ...]
    ready: dict[str, np.ndarray]  # inputs whose data stood in the JSON
    size: int  # of all binary data
    outputs: tuple[WantedOutput, ...]
    parameters: dict[str, Any]


_plans: dict[tuple[int, bytes], _Plan] = {}


def parse_request(spec: ModelSpec, body: bytes | bytearray | memoryview, json_size: int | None) -> InferRequest:
    """The request in a body of contiguous bytes.

    `json_size` is what Inference-Header-Content-Length said: None when absent (the whole body is JSON), 0 when the body
    is the bytes of the model's only input. Arrays are read-only. Binary ones are views of the body, which must stay
    unchanged while they live; they may be unaligned, except for a model without rows of fixed size, whose engine reads
    them in place: there an unaligned view is copied.

    Raises:
        InvalidInputError: anything that does not fit the protocol or the model; names input, expected and got.
    """
    view = memoryview(body).toreadonly()
    if json_size is None:
        json_size = len(view)
    if json_size == 0 and len(view):
        return _parse_raw(spec, view)
    if not 0 <= json_size <= len(view):
        raise InvalidInputError(f"the JSON head is said to have {json_size} bytes, but the body has {len(view)}")
    plan = _plan(spec, bytes(view[:json_size]))
    if plan.size != len(view) - json_size:
        raise InvalidInputError(
            f"binary sizes add up to {plan.size} bytes, but {len(view) - json_size} follow the JSON head"
        )
    if not plan.slices:
        return InferRequest(plan.id, plan.ready, plan.outputs, plan.parameters)
    found = plan.ready | {piece.tensor.name: _at(spec, piece, view, json_size + piece.offset) for piece in plan.slices}
    inputs = found if len(found) == 1 else {name: found[name] for name in spec.input_names}
    return InferRequest(plan.id, inputs, plan.outputs, plan.parameters)


class Lead(NamedTuple):
    """A request whose only tensor, `rows` rows of raw elements, follows its JSON; `request.inputs` is empty."""

    request: InferRequest
    rows: int


def parse_lead(spec: ModelSpec, head: bytes, size: int) -> Lead | None:
    """What the JSON of a binary body says before its tensor has arrived, where that may go to its rows unseen.

    None where the `size` bytes behind the JSON need a look first, or are wrong: `parse_request` says why.
    """
    try:
        plan = _plan(spec, head)
    except InvalidInputError:
        return None
    if len(plan.slices) != 1 or plan.ready or plan.size != size or not spec.fixed_rows:
        return None
    piece = plan.slices[0]
    if piece.tensor.dtype in {DType.BOOL, DType.BYTES}:  # not every byte is a value of these
        return None
    return Lead(InferRequest(plan.id, {}, plan.outputs, plan.parameters), piece.shape[0] if spec.batched else 1)


def _at(spec: ModelSpec, piece: _Slice, body: memoryview, offset: int) -> np.ndarray:
    array = from_bytes(piece.tensor, piece.shape, body, offset, piece.size)
    if not spec.fixed_rows and not array.flags.aligned:
        array = array.copy()
        array.flags.writeable = False
    return array


def _parse_raw(spec: ModelSpec, body: memoryview) -> InferRequest:
    if len(spec.inputs) != 1:
        raise InvalidInputError(f"a body without a JSON head needs a model of one input; it has {len(spec.inputs)}")
    tensor = spec.inputs[0]
    free = [axis for axis, dim in enumerate(tensor.shape) if dim is None]
    if tensor.dtype is DType.BYTES:  # the whole body is one element, with no length before it
        shape = tuple(1 if dim is None else dim for dim in tensor.shape)
        if prod(shape) != 1:
            raise InvalidInputError(f"input {shown(tensor.name)}: {tensor.describe()} needs a JSON head")
        array = np.empty(shape, dtype=object)
        array[...] = bytes(body)
        array.flags.writeable = False
        return InferRequest.raw(spec, {tensor.name: array})
    if len(free) > 1:
        raise InvalidInputError(
            f"input {shown(tensor.name)}: {tensor.describe()} has several free dimensions: "
            "give its shape in a JSON head"
        )
    unit = (tensor.dtype.itemsize or 1) * prod(dim for dim in tensor.shape if dim is not None)
    count = len(body) // unit if unit and free else 1
    if count * unit != len(body):
        of = f"a multiple of {unit}" if free else f"{unit}"
        raise InvalidInputError(
            f"input {shown(tensor.name)}: expected {of} bytes for {tensor.describe()}, got {len(body)}"
        )
    shape = tuple(count if dim is None else dim for dim in tensor.shape)
    return InferRequest.raw(spec, {tensor.name: _at(spec, _Slice(tensor, shape, 0, len(body)), body, 0)})


def _plan(spec: ModelSpec, head: bytes) -> _Plan:
    key = (id(spec), head)
    plan = _plans.get(key)
    if plan is not None:
        return plan
    plan = _read_head(spec, head)
    if not plan.ready and len(head) <= _PLANNED_HEAD_BYTES:
        if len(_plans) >= _PLANS_KEPT:
            _plans.clear()  # one atomic step; heads that differ each time (an id) pay it once in a thousand
        _plans[key] = plan
    return plan


def _read_head(spec: ModelSpec, head: bytes) -> _Plan:
    try:
        root = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(
            f"the request is not valid JSON: {error.msg} at character {error.pos}; "
            "a body with binary data needs Inference-Header-Content-Length"
        ) from None
    if not isinstance(root, dict):
        raise InvalidInputError("the request must be a JSON object")
    request_id = root.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise InvalidInputError(f"id must be a string, got {_a(request_id)}")
    parameters = _parameters(root, "the request")
    slices, ready = _read_inputs(spec, root.get("inputs"))
    return _Plan(
        spec=spec,
        id=request_id,
        slices=slices,
        ready=ready,
        size=sum(piece.size for piece in slices),
        outputs=_read_outputs(spec, root.get("outputs"), parameters),
        parameters=parameters,
    )


def _read_inputs(spec: ModelSpec, entries: object) -> tuple[tuple[_Slice, ...], dict[str, np.ndarray]]:
    shapes: dict[str, tuple[int, ...]] = {}
    slices: list[_Slice] = []
    ready: dict[str, np.ndarray] = {}
    offset = 0
    for entry, tensor in _known(entries, {tensor.name: tensor for tensor in spec.inputs}, "input"):
        shape = shapes[tensor.name] = _shape(spec, tensor, entry)
        size = _binary_size(tensor, entry)
        if size is None:
            ready[tensor.name] = from_json(tensor, shape, entry["data"])
            continue
        check_size(tensor, shape, size)
        slices.append(_Slice(tensor, shape, offset, size))
        offset += size
    for name in spec.input_names:
        if name not in shapes:
            raise InvalidInputError(f"input {shown(name)} is missing: the model takes {', '.join(spec.input_names)}")
    if spec.batched and len({shape[0] for shape in shapes.values()}) > 1:
        raise InvalidInputError(f"inputs differ in their batch size: {[shape[0] for shape in shapes.values()]}")
    return tuple(slices), ready if slices else {name: ready[name] for name in spec.input_names}


def _known(entries: object, known: Mapping[str, TensorSpec], what: str) -> list[tuple[dict[str, Any], TensorSpec]]:
    """The entries of `inputs` or `outputs`, each with its tensor: objects with a known name, none repeated."""
    if not isinstance(entries, list):
        raise InvalidInputError(f"{what}s must be a list of objects, got {_a(entries)}")
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            raise InvalidInputError(f"{what}s must be a list of objects, got {_a(entry)} in it")
        name = entry.get("name")
        if not isinstance(name, str) or name not in known:
            raise InvalidInputError(f"unknown {what} {shown(name)}: the model has {', '.join(known)}")
        if name in found:
            raise InvalidInputError(f"{what} {shown(name)} is repeated")
        found[name] = entry
    return [(entry, known[name]) for name, entry in found.items()]


def _shape(spec: ModelSpec, tensor: TensorSpec, entry: dict[str, Any]) -> tuple[int, ...]:
    """The checked shape of an input, its dtype checked before it."""
    name, want = shown(tensor.name), tensor.describe()
    if entry.get("datatype") != tensor.dtype.value:
        raise InvalidInputError(f"input {name}: expected {want}, got datatype {shown(entry.get('datatype'))}")
    dims = entry.get("shape")
    if not isinstance(dims, list):
        raise InvalidInputError(f"input {name}: expected a shape for {want}, got {_a(dims)}")
    if len(dims) != len(tensor.shape):
        raise InvalidInputError(f"input {name}: expected {want}, got a shape of {len(dims)} dimensions")
    if any(type(dim) is not int for dim in dims):
        raise InvalidInputError(f"input {name}: expected {want}, got a shape that is not all integers")
    shape = tuple(dims)
    if not tensor.accepts(shape) or min(shape, default=0) < 0:
        raise InvalidInputError(f"input {name}: expected {want}, got {tensor.dtype} {list(shape)}")
    if prod(dim or 1 for dim in shape) > _MAX_ELEMENTS:
        raise InvalidInputError(f"input {name}: {list(shape)} is more than {_MAX_ELEMENTS} elements")
    if spec.batched and shape[0] == 0:
        raise InvalidInputError(f"input {name}: expected a batch of at least 1, got {list(shape)}")
    return shape


def _binary_size(tensor: TensorSpec, entry: dict[str, Any]) -> int | None:
    """Bytes of an input in the binary part, or None where its data stands in the JSON."""
    name = shown(tensor.name)
    parameters = _parameters(entry, f"input {name}")
    if "shared_memory_region" in parameters:
        raise InvalidInputError(f"input {name}: shared memory is not offered: send data or binary_data_size")
    size = parameters.get("binary_data_size")
    if (size is None) == ("data" not in entry):
        raise InvalidInputError(f"input {name}: expected either data or the parameter binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise InvalidInputError(f"input {name}: binary_data_size must be a number of bytes, got {_a(size)}")
    return size


def _read_outputs(spec: ModelSpec, entries: object, parameters: Mapping[str, Any]) -> tuple[WantedOutput, ...]:
    default = _flag(parameters, "binary_data_output", "the request")
    if entries is None or entries == []:
        return tuple(WantedOutput(name, bool(default)) for name in spec.output_names)
    wanted: list[WantedOutput] = []
    for entry, tensor in _known(entries, {tensor.name: tensor for tensor in spec.outputs}, "output"):
        what = f"output {shown(tensor.name)}"
        own = _parameters(entry, what)
        if own.get("classification"):
            raise InvalidInputError(f"{what}: classification is not offered: take the scores and sort them")
        if "shared_memory_region" in own:
            raise InvalidInputError(f"{what}: shared memory is not offered")
        binary = _flag(own, "binary_data", what)
        wanted.append(WantedOutput(tensor.name, bool(default if binary is None else binary)))
    return tuple(wanted)


def _parameters(entry: Mapping[str, Any], what: str) -> dict[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidInputError(f"the parameters of {what} must be an object, got {_a(parameters)}")
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, what: str) -> bool | None:
    flag = parameters.get(name)
    if flag is not None and not isinstance(flag, bool):
        raise InvalidInputError(f"{name} of {what} must be true or false, got {_a(flag)}")
    return flag


def _a(value: object) -> str:
    """The kind of a JSON value, not the value."""
    return "a string" if isinstance(value, str) else shown(value)

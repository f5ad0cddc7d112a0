"""Inference requests of the Open Inference Protocol v2: a body's bytes -> checked arrays. Pure: no socket, no clock.

A client that sends binary tensors repeats the same JSON head with every request, so the plan of a head (the position
of each tensor in the body, the requested outputs) is cached by the head's bytes: the second request costs one look-up
and one view per input. For a request in JSON, the text around the lists of data is cached in the same way
(`lists.py`). Plans contain positions and names, never tensor data.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson

from tailcut.errors import InvalidInputError
from tailcut.memory.shared import RegionSlice, SharedRegions
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.wire.memo import BytesMemo
from tailcut.wire.v2.checks import (
    WantedOutput,
    check_present,
    input_shape,
    kind_of,
    known_entries,
    parameters_of,
    region_of,
    wanted_outputs,
)
from tailcut.wire.v2.lists import ListForm, mark_number, read_list, take_lists
from tailcut.wire.v2.tensors import check_size, from_bytes, from_json, shown

_PLANS_KEPT = 1024
_PLANNED_HEAD_BYTES = 4096  # with the number above: about 4 MiB at most
_NO_REGIONS = SharedRegions()


class InferRequest(msgspec.Struct, frozen=True, eq=False):
    """A checked request: `inputs` in the model's order, `outputs` in the requested order."""

    id: str | None
    inputs: dict[str, np.ndarray]
    outputs: tuple[WantedOutput, ...]
    parameters: dict[str, Any]

    @classmethod
    def raw(cls, spec: ModelSpec, inputs: Mapping[str, np.ndarray] | None = None) -> "InferRequest":
        """The meaning of a body without a JSON head: every output is requested as binary data."""
        return cls(None, dict(inputs or {}), tuple(WantedOutput(name, True) for name in spec.output_names), {})


class _InputSlice(NamedTuple):
    """The position of a binary input: `offset` counts from the end of the JSON head."""

    tensor: TensorSpec
    shape: tuple[int, ...]
    offset: int
    size: int


class _Shared(NamedTuple):
    """An input in shared memory."""

    tensor: TensorSpec
    shape: tuple[int, ...]
    region: RegionSlice


class _ReadPlan(msgspec.Struct, frozen=True, eq=False):
    spec: ModelSpec  # kept alive, so that its id() is unique while the plan is cached
    id: str | None
    slices: tuple[_InputSlice, ...]
    shared: tuple[_Shared, ...]
    ready: dict[str, np.ndarray]  # inputs whose data are in the JSON
    size: int  # of all binary data
    outputs: tuple[WantedOutput, ...]
    parameters: dict[str, Any]


class ListPlan(msgspec.Struct, frozen=True, eq=False):
    """The plan of a request whose inputs are all lists in its JSON."""

    spec: ModelSpec  # as above
    id: str | None
    forms: tuple[ListForm, ...]
    outputs: tuple[WantedOutput, ...]
    parameters: dict[str, Any]


_plans: BytesMemo[tuple[int, bytes], _ReadPlan] = BytesMemo(_PLANS_KEPT, _PLANNED_HEAD_BYTES)
_list_plans: BytesMemo[tuple[int, bytes], ListPlan] = BytesMemo(_PLANS_KEPT)


def parse_request(
    spec: ModelSpec,
    body: bytes | bytearray | memoryview,
    json_size: int | None,
    regions: SharedRegions = _NO_REGIONS,
) -> InferRequest:
    """The request in a body of contiguous bytes.

    `json_size` is the value of Inference-Header-Content-Length: None without that header (the whole body is JSON), 0 if
    the body is the bytes of the model's only input. Arrays are read-only. Those of binary inputs are views of the body,
    which must stay unchanged while they are used; they may be unaligned, except for a model without rows of fixed size,
    whose engine reads them in place: for that, an unaligned view is copied. Inputs in shared memory are copies.

    Raises:
        InvalidInputError: the request does not fit the protocol or the model; the message names the input, what was
            expected, and what came.
    """
    view = memoryview(body).toreadonly()
    is_announced = True  # whether the length of the JSON is announced
    if json_size is None:
        text = bytes(view)
        request = _read_lists(spec, text)
        if request is not None:
            return request
        json_size = len(view)
        is_announced = False
    elif json_size == 0:
        if spec.batched and not view:  # without batching, a request may have no rows
            raise InvalidInputError("expected a batch of at least 1 row, got a body of 0 bytes")
        return _parse_raw(spec, view)
    if not 0 <= json_size <= len(view):
        raise InvalidInputError(
            f"Inference-Header-Content-Length is {json_size}, but the body has only {len(view)} bytes"
        )
    plan = _plan(spec, bytes(view[:json_size]), is_announced=is_announced)
    if plan.size != len(view) - json_size:
        raise InvalidInputError(
            f"binary sizes add up to {plan.size} bytes, but {len(view) - json_size} follow the JSON head"
        )
    if not plan.slices and not plan.shared:
        return InferRequest(plan.id, plan.ready, plan.outputs, plan.parameters)
    arrays = plan.ready | {piece.tensor.name: _at(spec, piece, view, json_size + piece.offset) for piece in plan.slices}
    for tensor, shape, region_slice in plan.shared:
        arrays[tensor.name] = from_bytes(tensor, shape, regions.read(region_slice), 0, region_slice.size)
    inputs = arrays if len(arrays) == 1 else {name: arrays[name] for name in spec.input_names}
    return InferRequest(plan.id, inputs, plan.outputs, plan.parameters)


class RequestLead(NamedTuple):
    """A request with a single tensor, `rows` rows of raw elements, behind its JSON; `request.inputs` is empty."""

    request: InferRequest
    rows: int


def parse_lead(spec: ModelSpec, head: bytes, size: int) -> RequestLead | None:
    """The request in the JSON of a binary body, before its tensor has arrived, if that can go to rows unchecked.

    None where the `size` bytes behind the JSON must be checked first, or are wrong: `parse_request` says why.
    """
    try:
        plan = _plan(spec, head)
    except InvalidInputError:
        return None
    if len(plan.slices) != 1 or plan.ready or plan.shared or plan.size != size or not spec.fixed_rows:
        return None
    piece = plan.slices[0]
    if piece.tensor.dtype in {DType.BOOL, DType.BYTES}:  # not all bytes are valid values of these
        return None
    return RequestLead(InferRequest(plan.id, {}, plan.outputs, plan.parameters), piece.shape[0] if spec.batched else 1)


def _at(spec: ModelSpec, piece: _InputSlice, body: memoryview, offset: int) -> np.ndarray:
    array = from_bytes(piece.tensor, piece.shape, body, offset, piece.size)
    if not spec.fixed_rows and not array.flags.aligned:
        array = array.copy()
        array.flags.writeable = False
    return array


def _parse_raw(spec: ModelSpec, body: memoryview) -> InferRequest:
    if len(spec.inputs) != 1:
        raise InvalidInputError(f"a body without a JSON head needs a model of one input; it has {len(spec.inputs)}")
    tensor = spec.inputs[0]
    dims = tensor.shape
    free = [axis for axis, dim in enumerate(dims) if dim is None]
    if spec.batched and len(free) == 2:  # the batch and one other: the whole body is one row, as in Triton
        dims, free = (1, *dims[1:]), free[1:]
    if tensor.dtype is DType.BYTES:  # the whole body is one element, without a length prefix
        shape = tuple(1 if dim is None else dim for dim in tensor.shape)
        if prod(shape) != 1:
            raise InvalidInputError(f"input {shown(tensor.name)}: {tensor.describe()} needs a JSON head")
        array = np.empty(shape, dtype=object)
        array[...] = bytes(body)
        array.flags.writeable = False
        return InferRequest.raw(spec, {tensor.name: array})
    if len(free) > 1:
        raise InvalidInputError(
            f"input {shown(tensor.name)}: {tensor.describe()} has several free dimensions, which do not follow "
            "from the length of a raw body: give its shape in a JSON head"
        )
    unit = (tensor.dtype.itemsize or 1) * prod(dim for dim in dims if dim is not None)
    count = len(body) // unit if unit and free else 1
    if count * unit != len(body):
        of = f"a multiple of {unit}" if free else f"{unit}"
        raise InvalidInputError(
            f"input {shown(tensor.name)}: expected {of} bytes for {tensor.describe()}, got {len(body)}"
        )
    shape = tuple(count if dim is None else dim for dim in dims)
    return InferRequest.raw(spec, {tensor.name: _at(spec, _InputSlice(tensor, shape, 0, len(body)), body, 0)})


def _read_lists(spec: ModelSpec, text: bytes) -> InferRequest | None:
    """The request in a text whose inputs are all lists; None for any other, and for an invalid one."""
    taken = take_lists(text)
    if taken is None:
        return None
    rest, spans = taken
    key = (id(spec), rest)
    plan = _list_plans.get(key)
    if plan is None:
        if len(rest) > _PLANNED_HEAD_BYTES:
            return None
        plan = list_plan(spec, rest, len(spans))
        if plan is None:
            return None
        _list_plans.keep(key, plan)
    inputs: dict[str, np.ndarray] = {}
    for form in plan.forms:
        array = read_list(form, text, spans[form.number])
        if array is None:
            return None
        inputs[form.tensor.name] = array
    return InferRequest(plan.id, inputs, plan.outputs, plan.parameters)


def list_plan(spec: ModelSpec, rest: bytes, lists: int) -> ListPlan | None:
    """The plan of a text in which marks replace `lists` lists of data; None where the whole text must be parsed."""
    forms: dict[str, ListForm] = {}
    try:
        root = read_root(rest)
        request_id, parameters = id_of(root), parameters_of(root, "the request")
        known = {tensor.name: tensor for tensor in spec.inputs}
        for entry, tensor in known_entries(root.get("inputs"), known, "input"):
            shape = input_shape(spec, tensor, entry)
            number = mark_number(entry["data"]) if source_of(tensor, entry) is None else -1
            if number < 0 or not shape:
                return None
            forms[tensor.name] = ListForm.of(tensor, shape, number)
        check_present(spec, {name: form.shape for name, form in forms.items()})
        outputs = wanted_outputs(spec, root.get("outputs"), parameters)
    except InvalidInputError:  # parsing the whole text reports it
        return None
    if len(forms) != lists:  # one of them belongs to something else
        return None
    return ListPlan(spec, request_id, tuple(forms[name] for name in spec.input_names), outputs, parameters)


def _plan(spec: ModelSpec, head: bytes, *, is_announced: bool = True) -> _ReadPlan:
    key = (id(spec), head)
    plan = _plans.get(key)
    if plan is not None:
        return plan
    plan = _read_head(spec, head, is_announced=is_announced)
    return plan if plan.ready else _plans.keep(key, plan, len(head))


def read_json(text: bytes, *, is_whole: bool = True, announced: int = 0) -> Any:
    """Parse the JSON of a request, or of a part of it.

    Args:
        text: the JSON text.
        is_whole: whether nothing was taken out of it; otherwise, errors name no position.
        announced: the value of Inference-Header-Content-Length; 0: the whole body is JSON.

    Raises:
        InvalidInputError: it is not valid JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        reason = f"{error.msg} at character {error.pos}" if is_whole else error.msg
        if announced:
            raise InvalidInputError(
                f"the first {announced} bytes (Inference-Header-Content-Length) are not valid JSON: {reason}"
            ) from None
        raise InvalidInputError(
            f"the request is not valid JSON: {reason}; a body with binary data needs Inference-Header-Content-Length"
        ) from None


def read_root(head: bytes, *, is_whole: bool = True, announced: int = 0) -> dict[str, Any]:
    """Parse the JSON object of a request. The arguments are those of `read_json`.

    Raises:
        InvalidInputError: it is not a JSON object.
    """
    root = read_json(head, is_whole=is_whole, announced=announced)
    if not isinstance(root, dict):
        raise InvalidInputError("the request must be a JSON object")
    return root


def id_of(root: Mapping[str, Any]) -> str | None:
    """The request's id; None where it has none.

    Raises:
        InvalidInputError: it is not a string.
    """
    request_id = root.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise InvalidInputError(f"id must be a string, got {kind_of(request_id)}")
    return request_id


def _read_head(spec: ModelSpec, head: bytes, *, is_announced: bool) -> _ReadPlan:
    root = read_root(head, announced=len(head) if is_announced else 0)
    request_id = id_of(root)
    parameters = parameters_of(root, "the request")
    slices, shared, ready = _read_inputs(spec, root.get("inputs"))
    return _ReadPlan(
        spec=spec,
        id=request_id,
        slices=slices,
        shared=shared,
        ready=ready,
        size=sum(piece.size for piece in slices),
        outputs=wanted_outputs(spec, root.get("outputs"), parameters),
        parameters=parameters,
    )


def _read_inputs(
    spec: ModelSpec, entries: object
) -> tuple[tuple[_InputSlice, ...], tuple[_Shared, ...], dict[str, np.ndarray]]:
    shapes: dict[str, tuple[int, ...]] = {}
    slices: list[_InputSlice] = []
    shared: list[_Shared] = []
    ready: dict[str, np.ndarray] = {}
    offset = 0
    for entry, tensor in known_entries(entries, {tensor.name: tensor for tensor in spec.inputs}, "input"):
        shape = shapes[tensor.name] = input_shape(spec, tensor, entry)
        source = source_of(tensor, entry)
        if source is None:
            ready[tensor.name] = from_json(tensor, shape, entry["data"])
        elif isinstance(source, RegionSlice):
            check_size(tensor, shape, source.size)
            shared.append(_Shared(tensor, shape, source))
        else:
            check_size(tensor, shape, source)
            slices.append(_InputSlice(tensor, shape, offset, source))
            offset += source
    check_present(spec, shapes)
    whole = not slices and not shared
    return tuple(slices), tuple(shared), {name: ready[name] for name in spec.input_names} if whole else ready


def source_of(tensor: TensorSpec, entry: dict[str, Any]) -> int | RegionSlice | None:
    """The source of an input's data: a number of bytes in the binary part, a slice of shared memory, or None: JSON."""
    name = shown(tensor.name)
    parameters = parameters_of(entry, f"input {name}")
    region_slice = region_of(parameters, f"input {name}")
    size = parameters.get("binary_data_size")
    if [region_slice is not None, size is not None, "data" in entry].count(True) != 1:
        raise InvalidInputError(
            f"input {name}: expected either data, the parameter binary_data_size, or a region of shared memory"
        )
    if region_slice is not None:
        return region_slice
    if size is not None and (type(size) is not int or size < 0):
        raise InvalidInputError(f"input {name}: binary_data_size must be a number of bytes, got {kind_of(size)}")
    return size

"""The form of a request that a client repeats with different data. Pure.

A template consists of the bytes before and behind the data of the model's only input. Any bytes between them are the
data of an otherwise equal request: rows of raw elements, or a JSON list, which its reader must find to be valid and
complete.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import orjson

from tailcut.spec import DType, ModelSpec
from tailcut.wire.v2.lists import COMPILED, ListForm, take_lists
from tailcut.wire.v2.request import InferRequest, list_plan, parse_lead
from tailcut.wire.v2.response import json_frame

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


class Template(NamedTuple):
    """A request without its data: the bytes around them, and the form of their list where they are JSON."""

    request: InferRequest  # whose `inputs` are empty
    rows: int
    before: bytes
    behind: bytes = b""
    form: ListForm | None = None

    @classmethod
    def raw(cls, spec: ModelSpec, rows: int) -> "Template":
        """The template of a body that consists of this many rows."""
        return cls(InferRequest.raw(spec), rows, b"")


def template_of(spec: ModelSpec, body: bytes, json_size: int | None) -> Template | None:
    """The template of a body that was read without an error; None where it cannot have one.

    Args:
        spec: of a model with one input.
        body: the whole body.
        json_size: as in `parse_request`.
    """
    if json_size is not None:
        lead = parse_lead(spec, body[:json_size], len(body) - json_size)
        return Template(lead.request, lead.rows, body[:json_size]) if lead is not None else None
    taken = take_lists(body)
    if taken is None:
        return None
    rest, spans = taken
    plan = list_plan(spec, rest, len(spans)) if len(spans) == 1 else None
    if plan is None or plan.forms[0].tensor.dtype not in COMPILED:
        return None
    form, span = plan.forms[0], spans[0]
    request = InferRequest(plan.id, {}, plan.outputs, plan.parameters)
    rows = form.shape[0] if spec.batched else 1
    return Template(request, rows, body[: span.start], body[span.end :], form)


def answer_frame(spec: ModelSpec, version: str, request: InferRequest) -> tuple[bytes, ...] | None:
    """The text around the lists of an answer of one row that is all JSON; None for any other answer."""
    known = {tensor.name: tensor for tensor in spec.outputs}
    asked = [known[wanted.name] for wanted in request.outputs]
    if any(wanted.binary or wanted.region is not None for wanted in request.outputs):
        return None
    if any(tensor.dtype is DType.BYTES for tensor in asked):
        return None
    return json_frame(spec, version, request, one_row(spec))


def one_row(spec: ModelSpec) -> Mapping[str, np.ndarray]:
    """Outputs of zeros for one row, of outputs with a fixed size."""
    return {
        tensor.name: np.zeros((1, *(dim or 0 for dim in tensor.row_shape)), tensor.dtype.numpy)
        for tensor in spec.outputs
    }


def rows_as_lists(array: np.ndarray, dtype: DType) -> bytes:
    """A JSON list of the rows of a contiguous output, each a flat list as `encode_response` writes it; not of BYTES."""
    if dtype is DType.BF16:
        array = array.astype(np.float32)  # as in `tensors.to_json`
    return orjson.dumps(array if array.ndim == 2 else array.reshape(len(array), -1), option=_OPTIONS)

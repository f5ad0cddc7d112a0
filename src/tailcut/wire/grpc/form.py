"""gRPC requests that resemble an earlier one, recognised by their bytes; and their answers, as bytes. Pure.

Clients repeat themselves: from call to call only the raw tensors differ, and perhaps the id. Serialisers write fields
in the order of their numbers, so everything else, the *lead*, comes before the tensors (field 7 is the last). After one
message, the meaning of all others with the same lead is known, and only the lengths of the tensors behind it are
checked. An answer, too, is constant except for the id and the outputs' bytes.

Any other message (another order, unknown fields, an id that is not short and plain, other sizes) is not recognised
here, and is parsed as a message.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from tailcut.spec import DType, ModelSpec
from tailcut.wire.grpc.messages import MESSAGES
from tailcut.wire.memo import BytesMemo
from tailcut.wire.v2.checks import Schedule, schedule_of
from tailcut.wire.v2.request import InferRequest

Data = Sequence[bytes | memoryview]  # the raw tensors, in order
_Response = MESSAGES["ModelInferResponse"]


def _tag(number: int) -> int:
    """The tag byte of a field with a length (wire type 2)."""
    return number << 3 | 2


_ID, _RAW, _RAW_OUTPUT = _tag(3), _tag(7), _tag(6)
_OTHERS = {_tag(number) for number in (1, 2, 4, 5, 6)}  # fields of a request before its tensors
_LEAD_BYTES = 4096  # longer leads are not searched
_SHORT = 0x80  # a length below this is one byte
_SHAPES = 64  # shapes of outputs whose heads are kept, for one form


class MessageLead(NamedTuple):
    """A message's fields before its tensors, without the id; the id; and where the tensors begin."""

    key: bytes
    id: bytes
    end: int
    id_at: int = 0  # where the field of the id begins, if there is one


def read_lead(message: bytes) -> MessageLead | None:
    """The lead of a ModelInferRequest; None where there are no raw tensors, or its form is unusual."""
    at = id_at = id_end = 0
    try:
        while (tag := message[at]) != _RAW:
            size = message[at + 1]
            end = at + 2 + size
            if size >= _SHORT:
                high = message[at + 2]
                if high >= _SHORT or tag == _ID:
                    return None
                end = at + 3 + (size & 0x7F | high << 7)
            if tag == _ID:
                if id_end:
                    return None  # of two ids, the last would count
                id_at, id_end = at, end
            elif tag not in _OTHERS:
                return None
            at = end
            if at > _LEAD_BYTES:
                raise IndexError  # noqa: TRY301  as for a field that does not end
    except IndexError:
        return None
    if not id_end:
        return MessageLead(message[:at], b"", at)
    name = message[id_at + 2 : id_end]
    return MessageLead(message[:id_at] + message[id_end:at], name, at, id_at) if name.isascii() else None


class RawTensorSpan(NamedTuple):
    """A raw tensor of a request, by offsets behind the lead: `mark` is at `at`, and the data are `start` to `end`."""

    mark: bytes
    at: int
    start: int
    end: int


class Form(NamedTuple):
    """The common form of requests with one lead, and of their answers."""

    size: int  # bytes behind the lead
    pieces: tuple[RawTensorSpan, ...]  # in the order of the model's inputs
    rows: int
    schedule: Schedule
    before_id: bytes  # of an answer, before the id
    behind_id: bytes  # of an answer, from the id to the first output's mark
    outputs: tuple[tuple[int, bytes], ...]  # requested outputs: index in the model, mark before the bytes
    before: bytes  # of an answer without an id: everything before the first output's bytes

    @classmethod
    def of(
        cls, spec: ModelSpec, version: str, message: Any, request: InferRequest, raw: Data | None = None
    ) -> Self | None:
        """The form of a message that was read as `request`; None where similar messages have to be parsed.

        That is so unless every tensor is a fixed number of arbitrary bytes in the message itself. `raw` has these
        bytes, where they were taken out of the message.
        """
        raw = message.raw_input_contents if raw is None else raw
        if not spec.fixed_rows or not _has_all_in_itself(spec, request, raw):
            return None
        pieces, size = _pieces(spec, message, raw)
        rows = request.inputs[spec.input_names[0]].shape[0]
        if any(len(array) != rows for array in request.inputs.values()):
            return None
        response = _Response()
        outputs: list[tuple[int, bytes]] = []
        for wanted in request.outputs:
            index = spec.output_names.index(wanted.name)
            tensor = spec.outputs[index]
            response.outputs.add(name=wanted.name, datatype=tensor.dtype.value, shape=(rows, *tensor.row_shape))
            outputs.append((index, _mark(_RAW_OUTPUT, rows * (tensor.row_bytes or 0))))
        before_id = _Response(model_name=spec.name, model_version=version).SerializeToString()
        behind_id = response.SerializeToString()
        before = before_id + behind_id + (outputs[0][1] if outputs else b"")
        schedule = schedule_of(request.parameters)
        return cls(size, pieces, rows, schedule, before_id, behind_id, tuple(outputs), before)

    def fits(self, message: bytes, lead_end: int) -> bool:
        """Whether the part of a message behind its lead has this form."""
        return _fits(self.size, self.pieces, message, lead_end)

    def answer(self, request_id: bytes, contents: Sequence[bytes], *, final: bool = False) -> bytes:
        """The ModelInferResponse with these bytes of the requested outputs; `final` as in `infer_response`."""
        if not (request_id or final) and len(contents) == 1:
            return self.before + contents[0]
        parts = [self.before_id]
        if request_id:
            parts += (bytes((_ID, len(request_id))), request_id)
        if final:
            parts.append(_FINAL)
        parts.append(self.behind_id)
        for (_, mark), content in zip(self.outputs, contents, strict=True):
            parts += (mark, content)
        return b"".join(parts)


class Whole(NamedTuple):
    """A whole message with its prefix, in which only the id and the bytes of the only tensor vary from call to call."""

    start: bytes  # before the bytes of the id
    id_end: int
    behind: bytes  # from the id to the tensor's bytes

    @classmethod
    def of(cls, message: bytes, lead: MessageLead, form: Form) -> Self:
        """Make it of a message with this lead, and one tensor of this form behind it."""
        mark, prefix = form.pieces[0].mark, b"\0" + len(message).to_bytes(4, "big")
        if not lead.id:
            start = prefix + message[: lead.end] + mark
            return cls(start, len(start), b"")
        start = prefix + message[: lead.id_at + 2]
        id_end = len(start) + len(lead.id)
        return cls(start, id_end, message[id_end - len(prefix) : lead.end] + mark)

    def is_like(self, data: bytes) -> bool:
        """Whether another message with its prefix, of the same length, equals it except for id and tensor."""
        return data.startswith(self.start) and data.startswith(self.behind, self.id_end)

    def id(self, data: bytes) -> bytes:
        """The id of such a message; empty where it has none."""
        return data[len(self.start) : self.id_end]

    def body(self, data: bytes) -> bytes:
        """The bytes of such a message's tensor."""
        return data[self.id_end + len(self.behind) :]


class ArrayForm(NamedTuple):
    """As `Form`, for a model whose engine takes arrays: the sizes of outputs are only known from each answer."""

    size: int
    pieces: tuple[RawTensorSpan, ...]
    rows: int  # 1 for a request that is computed whole
    schedule: Schedule
    tensors: tuple[tuple[str, np.dtype, tuple[int, ...]], ...]  # the model's inputs, in its order
    before_id: bytes
    outputs: tuple[tuple[int, str, str], ...]  # for each requested output: its index in the model, name and datatype
    behind_ids: BytesMemo[tuple[tuple[int, ...], ...], bytes]  # by the shapes of the requested outputs

    @classmethod
    def of(
        cls, spec: ModelSpec, version: str, message: Any, request: InferRequest, raw: Data | None = None
    ) -> Self | None:
        """As `Form.of`."""
        raw = message.raw_input_contents if raw is None else raw
        strings = any(
            spec.outputs[spec.output_names.index(output.name)].dtype is DType.BYTES for output in request.outputs
        )
        if strings or not _has_all_in_itself(spec, request, raw):
            return None
        pieces, size = _pieces(spec, message, raw)
        shapes = {name: array.shape for name, array in request.inputs.items()}
        counts = {shape[0] for shape in shapes.values()} if spec.batched else set()
        places = [spec.output_names.index(wanted.name) for wanted in request.outputs]
        return cls(
            size,
            pieces,
            counts.pop() if len(counts) == 1 else 1,
            schedule_of(request.parameters),
            tuple((tensor.name, tensor.dtype.numpy, shapes[tensor.name]) for tensor in spec.inputs),
            _Response(model_name=spec.name, model_version=version).SerializeToString(),
            tuple((index, spec.outputs[index].name, spec.outputs[index].dtype.value) for index in places),
            BytesMemo(_SHAPES),
        )

    def fits(self, message: bytes, lead_end: int) -> bool:
        """As `Form.fits`."""
        return _fits(self.size, self.pieces, message, lead_end)

    def inputs(self, message: bytes, lead_end: int) -> dict[str, np.ndarray]:
        """The tensors of a message that fits: views of its bytes, or copies where these are not aligned."""
        copies: dict[str, np.ndarray] = {}
        for (name, dtype, shape), piece in zip(self.tensors, self.pieces, strict=True):
            array: np.ndarray = np.ndarray(shape, dtype, message, lead_end + piece.start)
            copies[name] = array if array.flags.aligned else array.copy()
        return copies

    def answer(self, request_id: bytes, arrays: Sequence[np.ndarray], *, final: bool = False) -> bytes:
        """The ModelInferResponse for all outputs of the model, in its order."""
        wanted = [arrays[index] for index, _, _ in self.outputs]
        shapes = tuple([array.shape for array in wanted])
        behind_id = self.behind_ids.get(shapes)
        if behind_id is None:
            response = _Response()
            for (_, name, datatype), shape in zip(self.outputs, shapes, strict=True):
                response.outputs.add(name=name, datatype=datatype, shape=shape)
            behind_id = self.behind_ids.keep(shapes, response.SerializeToString())
        parts = [self.before_id]
        if request_id:
            parts += (bytes((_ID, len(request_id))), request_id)
        if final:
            parts.append(_FINAL)
        parts.append(behind_id)
        for array in wanted:
            parts += (_mark(_RAW_OUTPUT, array.nbytes), array.tobytes())
        return b"".join(parts)


def _has_all_in_itself(spec: ModelSpec, request: InferRequest, raw: Data) -> bool:
    """Whether every tensor is a fixed number of arbitrary bytes in the message; the bytes of BOOL must be checked."""
    plain = all(tensor.dtype not in {DType.BOOL, DType.BYTES} for tensor in spec.inputs)
    return plain and len(raw) == len(spec.inputs) and all(wanted.region is None for wanted in request.outputs)


def _pieces(spec: ModelSpec, message: Any, raw: Data) -> tuple[tuple[RawTensorSpan, ...], int]:
    """Where the inputs are behind a message's lead, in the model's order; and how many bytes that part has."""
    pieces: dict[str, RawTensorSpan] = {}
    at = 0
    for entry, data in zip(message.inputs, raw, strict=True):
        mark = _mark(_RAW, len(data))
        start = at + len(mark)
        pieces[entry.name] = RawTensorSpan(mark, at, start, start + len(data))
        at = start + len(data)
    return tuple(pieces[name] for name in spec.input_names), at


def _fits(size: int, pieces: Sequence[RawTensorSpan], message: bytes, lead_end: int) -> bool:
    if len(message) != lead_end + size:
        return False
    for piece in pieces:  # noqa: SIM110  mostly one piece, for which a generator takes half a microsecond more
        if not message.startswith(piece.mark, lead_end + piece.at):
            return False
    return True


def stream_answer(response: bytes) -> bytes:
    """A ModelInferResponse wrapped in a ModelStreamInferResponse."""
    return _mark(_tag(2), len(response)) + response


def _mark(tag: int, size: int) -> bytes:
    """The tag and length before `size` bytes of a field; the length is in groups of 7 bits, the lowest first."""
    mark = bytearray((tag,))
    while size >= _SHORT:
        mark.append(size & 0x7F | 0x80)
        size >>= 7
    mark.append(size)
    return bytes(mark)


def _final() -> bytes:
    response = _Response()
    response.parameters["triton_final_response"].bool_param = True
    return bytes(response.SerializeToString())


_FINAL = _final()

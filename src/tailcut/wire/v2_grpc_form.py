"""Requests over gRPC that are like one before them, known by their bytes; and their answers, as bytes. Pure.

Clients repeat themselves: from call to call the raw tensors differ, and perhaps the id. Serialisers write fields in the
order of their numbers, so all the rest, the *lead*, stands before the tensors (field 7 is the last). Who has read one
message knows what every other one with its lead means, and needs to see only that the tensors behind it are as long.
An answer likewise is constant but for the id and the outputs' bytes.

What is not exactly so (another order, unknown fields, an id that is not short and plain, other sizes) is not recognised
here: it is read as a message, which is right for all of them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from tailcut.spec import DType, ModelSpec
from tailcut.wire.messages import MESSAGES
from tailcut.wire.v2_checks import Schedule, schedule_of
from tailcut.wire.v2_request import InferRequest

_Response = MESSAGES["ModelInferResponse"]


def _tag(number: int) -> int:
    """The byte before a field that has a length and so many bytes (wire type 2)."""
    return number << 3 | 2


_ID, _RAW, _RAW_OUTPUT = _tag(3), _tag(7), _tag(6)
_OTHERS = {_tag(number) for number in (1, 2, 4, 5, 6)}  # of a request, before its tensors
_LEAD_BYTES = 4096  # longer ones are not looked through
_SHORT = 0x80  # a length below it is one byte


class Lead(NamedTuple):
    """A message's fields before its tensors without the id; the id; and where the tensors begin."""

    key: bytes
    id: bytes
    end: int


def read_lead(message: bytes) -> Lead | None:
    """The lead of a ModelInferRequest; None where there are no raw tensors, or it is not as clients write it."""
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
                    return None  # of two, the last counts
                id_at, id_end = at, end
            elif tag not in _OTHERS:
                return None
            at = end
            if at > _LEAD_BYTES:
                raise IndexError  # noqa: TRY301  as for one that does not end
    except IndexError:
        return None
    if not id_end:
        return Lead(message[:at], b"", at)
    name = message[id_at + 2 : id_end]
    return Lead(message[:id_at] + message[id_end:at], name, at) if name.isascii() else None


class Piece(NamedTuple):
    """A raw tensor of a request: `mark` stands before it, at `at`; its bytes are `start` to `end`, behind the lead."""

    mark: bytes
    at: int
    start: int
    end: int


class Form(NamedTuple):
    """What requests with one lead have in common, and their answers."""

    size: int  # of what is behind the lead
    pieces: tuple[Piece, ...]  # in the order of the model's inputs
    rows: int
    schedule: Schedule
    before_id: bytes  # of an answer
    behind_id: bytes  # likewise, up to the first output's mark
    outputs: tuple[tuple[int, bytes], ...]  # asked for: place in the model's own order, and the mark before the bytes

    @classmethod
    def of(cls, spec: ModelSpec, version: str, message: Any, request: InferRequest) -> Self | None:
        """The form of a message that was read as `request`; None where those like it must be read, too.

        Those are the ones of which not every tensor is so many bytes, whatever they hold, in the message itself.
        """
        raw = message.raw_input_contents
        fixed = spec.fixed_rows and all(tensor.dtype is not DType.BOOL for tensor in spec.inputs)
        if not fixed or len(raw) != len(spec.inputs) or any(wanted.place is not None for wanted in request.outputs):
            return None
        pieces: dict[str, Piece] = {}
        at = 0
        for entry, data in zip(message.inputs, raw, strict=True):
            mark = _mark(_RAW, len(data))
            start = at + len(mark)
            pieces[entry.name] = Piece(mark, at, start, start + len(data))
            at = start + len(data)
        rows = request.inputs[spec.input_names[0]].shape[0]
        response = _Response()
        outputs: list[tuple[int, bytes]] = []
        for wanted in request.outputs:
            place = spec.output_names.index(wanted.name)
            tensor = spec.outputs[place]
            response.outputs.add(name=wanted.name, datatype=tensor.dtype.value, shape=(rows, *tensor.row_shape))
            outputs.append((place, _mark(_RAW_OUTPUT, rows * (tensor.row_bytes or 0))))
        return cls(
            at,
            tuple(pieces[name] for name in spec.input_names),
            rows,
            schedule_of(request.parameters),
            _Response(model_name=spec.name, model_version=version).SerializeToString(),
            response.SerializeToString(),
            tuple(outputs),
        )

    def fits(self, message: bytes, lead_end: int) -> bool:
        """Whether what is behind a message's lead has this form."""
        if len(message) != lead_end + self.size:
            return False
        for piece in self.pieces:  # noqa: SIM110  mostly one, which a generator would cost half a microsecond more
            if not message.startswith(piece.mark, lead_end + piece.at):
                return False
        return True

    def answer(self, request_id: bytes, contents: Sequence[bytes], *, final: bool = False) -> bytes:
        """The ModelInferResponse with these bytes of the outputs asked for; `final` as in `infer_response`."""
        parts = [self.before_id]
        if request_id:
            parts += (bytes((_ID, len(request_id))), request_id)
        if final:
            parts.append(_FINAL)
        parts.append(self.behind_id)
        for (_, mark), content in zip(self.outputs, contents, strict=True):
            parts += (mark, content)
        return b"".join(parts)


def stream_answer(response: bytes) -> bytes:
    """A ModelInferResponse in a ModelStreamInferResponse."""
    return _mark(_tag(2), len(response)) + response


def _mark(tag: int, size: int) -> bytes:
    """What stands before so many bytes: the tag, and the size in groups of 7 bits, the lowest first."""
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

"""The form of a target's answers: the bytes around the rows of its outputs, and how each row is written."""

from dataclasses import dataclass

import numpy as np

from tailcut.runtime.request import Batch
from tailcut.server.http.replies import response_head
from tailcut.server.served_model import ServedModel
from tailcut.wire.http1.response import END, OK, head, kept
from tailcut.wire.v2 import InferRequest, Response, encode_response
from tailcut.wire.v2.template import answer_frame, one_row, rows_as_lists

_NUMBER_BYTES = 32  # of a number as JSON, with its comma


@dataclass(slots=True, eq=False)
class ReplyForm:
    """The form of answers to requests for the same outputs: all as raw bytes, or all as JSON.

    `head` contains the Date of `date`. For raw outputs, it is everything before them. For JSON, it ends before the
    value of Content-Length, and `frame` has the text around the lists, which begins with the rest of the head.
    """

    served: ServedModel
    request: InferRequest
    columns: tuple[int, ...]  # numbers of the model's outputs, in the order asked for
    rest: bytes  # of the head, after the date
    most_bytes: int  # upper limit for the length of an answer
    outputs: np.ndarray  # int64 [outputs, 2]: address of the first row to answer, and bytes per row
    cells: memoryview  # the same numbers, flat
    places: np.ndarray  # int64 [outputs]: offsets for `answers.answer_lists`
    says_kept: bool  # "Connection: keep-alive" is stated, for clients of HTTP/1.0
    frame: np.ndarray | None = None  # uint8; None for raw outputs
    pieces: np.ndarray | None = None  # int64 [outputs + 1]: the lengths of the parts of `frame`
    head: bytes = b""
    date: bytes = b""

    @classmethod
    def to(cls, served: ServedModel, request: InferRequest, *, says_kept: bool = False) -> "ReplyForm | None":
        """The form of answers to requests like this one; None where they mix raw and JSON, or use shared memory."""
        spec = served.model.spec
        names = [wanted.name for wanted in request.outputs]
        columns = tuple(spec.output_names.index(name) for name in names)
        arrays = one_row(spec)
        outputs = np.array([(0, arrays[name].nbytes) for name in names], np.int64).reshape(-1, 2)
        cells, places = outputs.data.cast("B").cast("q"), np.zeros(len(names), np.int64)
        frame = answer_frame(spec, served.version, request)
        if frame is not None:
            parts = [END + frame[0], *frame[1:]]
            most = sum(map(len, parts)) + _NUMBER_BYTES * sum(arrays[name].size + 1 for name in names)
            rest = head(200, 0)[len(OK) : -len(END) - 1]
            text = np.frombuffer(b"".join(parts), np.uint8)
            pieces = np.array([len(part) for part in parts], np.int64)
            return cls(served, request, columns, rest, most, outputs, cells, places, says_kept, text, pieces)
        if not all(wanted.binary and wanted.region is None for wanted in request.outputs):
            return None
        response = encode_response(spec, served.version, request, arrays)
        size = sum(map(len, response.body_parts))
        rest = response_head(size, response.json_size, b"", close=False)[len(OK) :] + response.body_parts[0]
        return cls(served, request, columns, rest, len(rest) + size, outputs, cells, places, says_kept)

    def is_like(self, other: "ReplyForm") -> bool:
        """Whether the answers to both have the same form."""
        same = (self.rest, self.columns, self.says_kept) == (other.rest, other.columns, other.says_kept)
        same = same and (self.frame is None) is (other.frame is None)
        return same and (self.frame is None or other.frame is None or np.array_equal(self.frame, other.frame))

    def renew(self, date: bytes) -> None:
        """Put a new date into the head."""
        self.date, self.head = date, self.written(OK) + date + self.rest

    def written(self, answer: bytes) -> bytes:
        """An answer, or its beginning, as it is sent to these clients."""
        return kept(answer) if self.says_kept else answer

    def write_lists(self, batch: Batch, first: int, count: int) -> np.ndarray:
        """The JSON lists of `count` rows of a batch for each output; `places` is set to where those of each begin."""
        tensors = self.served.model.spec.outputs
        parts = []
        at = 1
        for index, column in enumerate(self.columns):
            array = batch.outputs[column]
            if count != batch.rows:
                array = array[first : first + count]
            self.places[index] = at
            parts.append(rows_as_lists(array, tensors[column].dtype))
            at += len(parts[-1])
        return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)

    def response(self, batch: Batch, row: int) -> Response:
        """The answer of one row, as the standard path would write it."""
        spec = self.served.model.spec
        outputs = {spec.output_names[column]: batch.outputs[column][row : row + 1] for column in self.columns}
        return encode_response(spec, self.served.version, self.request, outputs)

    def whole(self, batch: Batch, row: int) -> bytes:
        """The same with its head, with the date that was sent last."""
        response = self.response(batch, row)
        body = b"".join(response.body_parts)
        return self.written(response_head(len(body), response.json_size, self.date, close=False)) + body

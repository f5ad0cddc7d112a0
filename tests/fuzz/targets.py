"""What fuzzers call: each takes bytes, and raises only when `wire` breaks a rule of its own.

A rule is more than "no crash": what a parser says may not depend on how the network cut the bytes, and two ways of
reading one body may not disagree.
"""

# ruff: noqa: PT017  a refusal is one of the right answers, not the only one
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from tailcut.errors import InvalidInputError
from tailcut.kernels.heads import head_end
from tailcut.memory.shared import SharedRegions
from tailcut.runtime.inputs import check_inputs
from tailcut.server.fastpath.tables import HeadTable, without_length
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.wire.grpc.codec import read_request
from tailcut.wire.grpc.form import Form, read_lead
from tailcut.wire.grpc.framing import CALLS, CallError, Messages, error_end
from tailcut.wire.grpc.messages import MESSAGES
from tailcut.wire.http1.chunked import ChunkedBody
from tailcut.wire.http1.grammar import ProtocolError
from tailcut.wire.http1.head import check_partial, parse_head, significant
from tailcut.wire.http2.connection import Http2Connection, StreamData, StreamOpened
from tailcut.wire.http2.frames import Http2Error
from tailcut.wire.v2 import InferRequest, encode_response, lists, parse_lead, parse_request, schedule_of

lists.load()
head_end.enable_caching()  # compiled by itself, which takes seconds; in a server it is a part of `take`
STATUSES = {400, 413, 414, 417, 431, 501, 505}
LIMIT = 10_000


def _spec(*inputs: TensorSpec) -> ModelSpec:
    return ModelSpec("m", inputs, (TensorSpec("y", inputs[0].dtype, inputs[0].shape),))


SPECS = [
    _spec(TensorSpec("x", DType.FP32, (None, 4))),
    _spec(TensorSpec("x", DType.BOOL, (None, 3))),
    _spec(TensorSpec("x", DType.BYTES, (None,))),
    _spec(TensorSpec("x", DType.INT8, (None, None))),
    _spec(TensorSpec("a", DType.FP16, (None, 2)), TensorSpec("b", DType.INT64, (None, 1))),
    _spec(TensorSpec("x", DType.FP32, (2, 2))),
]


def head(data: bytes) -> None:
    """An accepted head has a path and a length of its own, and none of its beginnings would have been refused."""
    try:
        parsed = parse_head(data)
    except ProtocolError as error:
        assert error.status in STATUSES
        assert not set(error.message) & set("\r\n\0")
        return
    assert parsed.content_length is None or 0 <= parsed.content_length < 1 << 62
    assert not (parsed.chunked and parsed.content_length is not None)
    assert parsed.path.isascii()
    for size in range(1, len(data), max(1, len(data) // 50)):
        check_partial(data[:size])


def json_lists(data: bytes) -> None:
    """What is kept around the lists, and compiled code that reads them, change neither a value nor a message."""
    if not data:
        return
    spec, body = SPECS[data[0] % len(SPECS)], data[1:]
    for _ in range(2):  # the second time, what stands around the lists is known
        assert _read_json(spec, body, None) == _read_json(spec, body, len(body) or None)


def _read_json(spec: ModelSpec, body: bytes, json_size: int | None) -> object:
    try:
        read = parse_request(spec, body, json_size)
    except InvalidInputError as error:
        reason = str(error).removesuffix("; a body with binary data needs Inference-Header-Content-Length")
        return re.sub(r"^the first \d+ bytes \(Inference-Header-Content-Length\) are", "the request is", reason)
    arrays = {name: (array.dtype, array.shape, array.tolist(), array.tobytes()) for name, array in read.inputs.items()}
    for tensor in spec.inputs:
        if tensor.dtype is DType.BYTES:
            arrays[tensor.name] = (*arrays[tensor.name][:3], b"")  # its bytes are addresses
    return read.id, read.outputs, read.parameters, arrays


_TABLE = HeadTable(1 << 16, 1 << 16)


def changed_head(data: bytes) -> None:
    """Compiled code and the pattern find the same heads to mean the same."""
    data = data[:2000]
    end = data.find(b"\r\n\r\n") + 4
    for known in {significant(seed) for seed in TARGETS["changed_head"][1]}:
        text = np.frombuffer(data, np.uint8)
        part = np.frombuffer(known, np.uint8)
        got = head_end(text, len(data), part, 0, len(part), _TABLE.fields, _TABLE.grammar, np.array([1, 0]))
        assert got == (end if end >= 4 and significant(data[:end]) == known else -1)


def changed_length(data: bytes) -> None:
    """A head whose Content-Length alone differs is found to mean the same by compiled code, and has that length."""
    data = data[:2000]
    end = data.find(b"\r\n\r\n") + 4
    text = np.frombuffer(data, np.uint8)
    for known in {significant(seed) for seed in TARGETS["changed_length"][1]}:
        part = np.frombuffer(without_length(known), np.uint8)
        length = np.zeros(2, np.int64)
        got = head_end(text, len(data), part, 0, len(part), _TABLE.fields, _TABLE.grammar, length)
        if got >= 0:
            assert got == end
            assert without_length(significant(data[:end])) == part.tobytes()
            assert parse_head(data[:end]).content_length == length[0]


def _read_chunks(pieces: list[bytes]) -> tuple[int, bytes, bytes]:
    """Status (0: whole, -1: more is wanted), body and what is behind it."""
    body, rest = ChunkedBody(LIMIT), b""
    for piece in pieces:
        try:
            rest += piece if body.done else body.feed(piece)
        except ProtocolError as error:
            assert error.status in STATUSES
            return error.status, b"", b""
        assert len(body.body) <= LIMIT
    return (0 if body.done else -1), bytes(body.body), rest


def chunked(data: bytes) -> None:
    """Cut anywhere, a chunked body reads as it does in one piece."""
    cut = data[0] * len(data) // 256 if data else 0
    data = data[1:]
    whole = _read_chunks([data])
    assert _read_chunks([data[:cut], data[cut:]]) == whole
    if len(data) < 100:
        assert _read_chunks([data[at : at + 1] for at in range(len(data))]) == whole


def request(data: bytes) -> None:
    """A body is read into arrays of the model's own dtypes and can be answered, or refused in one line."""
    if len(data) < 2:
        return
    spec = SPECS[data[0] % len(SPECS)]
    body = data[2:]
    json_size = None if data[1] == 255 else data[1] * 2
    lead = parse_lead(spec, body[: json_size or 0], len(body) - (json_size or 0)) if json_size else None
    try:
        parsed = parse_request(spec, body, json_size)
    except InvalidInputError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 2000
        assert lead is None
        return
    assert list(parsed.inputs) == list(spec.input_names)
    for tensor in spec.inputs:
        array = parsed.inputs[tensor.name]
        assert array.dtype == tensor.dtype.numpy
        assert tensor.accepts(array.shape)
    if lead is not None:
        assert lead.request.outputs == parsed.outputs
        assert lead.request.id == parsed.id
        assert lead.rows == parsed.inputs[spec.input_names[0]].shape[0]
    array = parsed.inputs[spec.input_names[0]]
    if array.dtype.kind != "O":
        response = encode_response(spec, "1", parsed, {"y": np.ascontiguousarray(array)})
        assert response.json_size is None or response.json_size == len(response.body_parts[0])


def _apart(events: list[Any]) -> list[object]:
    """The same with the data apart that came with its head."""
    text: list[object] = []
    for event in events:
        if isinstance(event, StreamOpened) and event.size:
            text.append(StreamOpened(event.stream, event.head, False))
            text.append(StreamData(event.stream, event.data, event.size, event.ended))
        else:
            text.append(event)
    return text


def _converse(pieces: list[bytes]) -> tuple[list[object], bytes, object]:
    """What is understood, what is written, and the error that ended it."""
    made = Http2Connection(CALLS)
    events: list[object] = []
    for piece in pieces:
        try:
            events += _apart(made.receive(piece, 0.0))
            while made.pending:
                events += _apart(made.receive(b"", 0.0))
        except Http2Error as error:
            assert made.failed
            return [], b"", error.code
    return events, made.take(), None


def http2(data: bytes) -> None:
    """Cut anywhere, a conversation means the same; its messages are read or refused, and it can be answered."""
    cut = data[0] * len(data) // 256 if data else 0
    data = data[1:]
    whole = _converse([data])
    assert repr(_converse([data[:cut], data[cut:]])) == repr(whole)
    made = Http2Connection(CALLS)
    messages = Messages(LIMIT, b"gzip")
    try:
        for event in _apart(made.receive(data, 0.0)):
            if isinstance(event, StreamOpened) and event.head.error is not None:
                made.send(event.stream, None, b"", error_end(event.head.error.status, str(event.head.error)))
            elif isinstance(event, StreamData):
                made.taken(event.stream, event.size)
                messages.feed(event.data)
                while messages.take() is not None:
                    made.send(event.stream, b"\x88", b"answer")
    except (Http2Error, CallError):
        pass
    assert made.out.waiting_bytes >= 0
    made.take()


_ONE = _spec(TensorSpec("x", DType.FP32, (None, 4)))
_FORMS: dict[bytes, Form] = {}  # of the seeds, by their leads


def _read_grpc(data: bytes) -> tuple[Any, InferRequest, int] | None:
    """What a ModelInferRequest says to who reads all of it: message, request and rows; None where it is refused."""
    try:
        message = MESSAGES["ModelInferRequest"].FromString(data)
        if message.model_name != "m" or message.model_version:
            return None
        parsed = read_request(_ONE, message, SharedRegions())
        schedule_of(parsed.parameters)
        return message, parsed, check_inputs(_ONE, parsed.inputs)[1]
    except (DecodeError, InvalidInputError):
        return None


def grpc_form(data: bytes) -> None:
    """A message that is recognised by its bytes is a good one, and says what its bytes were taken for."""
    lead = read_lead(data)
    if lead is None:
        return
    read = _read_grpc(data)
    form = _FORMS.get(lead.key)
    if form is not None and form.fits(data, lead.end):
        assert read is not None
    if read is None:
        return
    message, parsed, rows = read
    form = Form.of(_ONE, "1", message, parsed)
    if form is None or not form.fits(data, lead.end):
        return
    assert lead.id.decode() == message.id
    assert rows == form.rows
    assert form.schedule == schedule_of(parsed.parameters)
    (piece,) = form.pieces
    assert data[lead.end + piece.start : lead.end + piece.end] == parsed.inputs["x"].tobytes()


def _grpc_seeds() -> list[bytes]:
    """Messages as clients write them; their forms are remembered as those of a server's clients would be."""
    seeds = []
    for rows, name, timeout in ((1, "", 0), (3, "seven", 0), (1, "x" * 127, 5000)):
        message = MESSAGES["ModelInferRequest"](model_name="m", id=name, raw_input_contents=[bytes(16 * rows)])
        message.inputs.add(name="x", datatype="FP32", shape=[rows, 4])
        message.outputs.add(name="y")
        if timeout:
            message.parameters["timeout"].int64_param = timeout
        seeds.append(message.SerializeToString())
        read, lead = _read_grpc(seeds[-1]), read_lead(seeds[-1])
        assert read is not None
        assert lead is not None
        form = Form.of(_ONE, "1", *read[:2])
        assert form is not None
        _FORMS[lead.key] = form
    return seeds


def _frames(*frames: tuple[int, int, int, bytes]) -> bytes:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    return (
        b"\x40"
        + preface
        + b"".join(
            len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
            for kind, flags, stream, payload in frames
        )
    )


_CALL = b"\x83\x86\x44\x02/a\x5f\x10application/grpc\x40\x0cgrpc-timeout\x021S"
_HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\n"
_JSON = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2.5,-3,4e2]}]}'
_BINARY = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"parameters":{"binary_data_size":16}}]}'
_PADDED = _BINARY + b" " * (len(_BINARY) % 2)
TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "head": (
        head,
        [
            _HEAD + b"Content-Length: 12\r\nInference-Header-Content-Length: 0\r\n\r\n",
            _HEAD + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\nConnection: close, x\r\n\r\n",
            b"GET http://x/v2?a=b HTTP/1.0\r\nHost: [::1]:80\r\n\r\n",
            _HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 4 \t\r\n\r\n",
            b"GET /v2 HTTP/2.0\r\nHost:\tx \r\n\r\n",
        ],
    ),
    "changed_head": (
        changed_head,
        [
            _HEAD + b"Content-Length: 12\r\nX-Id: 1\r\nInference-Header-Content-Length: 0\r\n\r\nbody",
            _HEAD + b"X-Id: 2\r\ntraceparent:\t00-1\r\nCONTENT-length: 12\r\n\r\n",
            b"GET /v2 HTTP/1.1\r\nHost: x\r\nX-Content-Length: 3\r\nUser-Agent: a b \xe4\r\n\r\n",
        ],
    ),
    "changed_length": (
        changed_length,
        [
            _HEAD + b"Content-Length: 12\r\nX-Id: 1\r\nContent-Type: application/json\r\n\r\nbody",
            _HEAD + b"X-Id: 2\r\ntraceparent:\t00-1\r\nCONTENT-length:0012\r\n\r\n",
            _HEAD + b"Content-Length: 7\r\n\r\n",
        ],
    ),
    "json_lists": (
        json_lists,
        [
            b'\0{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,-0.0,1e-7,3.25E+2]}]}',
            b'\0{"id":"a","inputs":[{"data":[[1.5,2 , 3,4],[-0,6,7,8]],"name":"x","datatype":"FP32","shape":[2,4]}]}',
            (
                b'\0{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[0.1,340282346638528859e21,1e-46,9]}],'
                b'"parameters":{"timeout":5,"data":[1]},"outputs":[{"name":"y","parameters":{"binary_data":true}}]}'
            ),
            (
                b'\4{"inputs":[{"name":"b","datatype":"INT64","shape":[1,1],"data":[7]},'
                b'{"name":"a","datatype":"FP16","shape":[1,2],"data":[1,2.5]}],"id":"z"}'
            ),
            b'\5{"inputs":[{"name":"x","datatype":"FP32","shape":[2,2],"data":[[1,2],[3,4]]}]}',
            b'\2{"inputs":[{"name":"x","datatype":"BYTES","shape":[1],"data":["a]"]}]}',
        ],
    ),
    "chunked": (
        chunked,
        [
            b"\x40" + b"4;name=value\r\nWiki\r\n6\r\npedia \r\n0\r\nTrailer: x\r\n\r\nGET /",
            b"\x20" + b'4 ; a = "b\\"; c";d\r\nWiki\r\n00\r\nA: b\r\nC:\td\r\n\r\n\r\nGET /',
        ],
    ),
    "http2": (
        http2,
        [
            _frames((1, 4, 1, _CALL), (0, 1, 1, b"\0\0\0\0\1x"), (8, 0, 0, bytes([0, 0, 0, 9])), (6, 0, 0, bytes(8))),
            _frames((1, 0, 1, _CALL[:5]), (9, 4, 1, _CALL[5:]), (0, 8, 1, b"\2ab" + bytes(2)), (3, 0, 1, bytes(4))),
            _frames((1, 5, 1, _CALL + b"\x01\1x\x0f\x17\1x"), (1, 5, 3, _CALL + b"\x01\1x\x0f\x17\1y")),
            _frames((4, 0, 0, b"\0\4\0\0\0\5"), (1, 5, 1, _CALL), (1, 5, 3, b"\xbf\xbe\x83\x86"), (7, 0, 0, bytes(8))),
        ],
    ),
    "grpc_form": (grpc_form, _grpc_seeds()),
    "request": (
        request,
        [
            b"\x00\xff" + _JSON,
            b"\x00" + bytes([len(_PADDED) // 2]) + _PADDED + bytes(16),
            b"\x01\xff" + b'{"inputs":[{"name":"x","datatype":"BOOL","shape":[1,3],"data":[true,false,true]}]}',
            b"\x02\x00" + b"bytes of the only element",
            b"\x03\x00" + b"INT8 row",
        ],
    ),
}

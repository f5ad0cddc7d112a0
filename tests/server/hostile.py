"""Input that hostile clients send to delay a server; what matters is not its answers, but how long others wait.

Used by `test_loop_time.py` and by `benchmarks/hostile.py`.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from tests import frames as h2
from tests.engines.models import dynamic_sequence, identity, perceptron, two_in_two_out
from tests.frames import frame, word
from tests.servers import json_request, raw_request

from tailcut.spec import DType
from tailcut.wire.grpc.messages import METHODS, SERVICE

MIB = 1 << 20
MODELS = ("mlp", "pair", "words", "sequence")


def make_models(folder: Path) -> list[Path]:
    """mlp (4 -> 3), pair (two inputs of 4), words (strings, any number), sequence (float32 of any length)."""
    perceptron([4, 8, 3], folder / "mlp.onnx")
    two_in_two_out(folder / "pair.onnx")
    identity(DType.BYTES, (None, None), folder / "words.onnx")
    dynamic_sequence(folder / "sequence.onnx")
    return [folder / f"{name}.onnx" for name in MODELS]


@dataclass(frozen=True)
class Hostile:
    """What each of some connections sends: `data`, all at once, to the HTTP or gRPC port."""

    make: Callable[[], bytes]
    grpc: bool = False
    connections: int = 1

    @property
    def data(self) -> bytes:
        return _made(self.make)


@cache
def _made(make: Callable[[], bytes]) -> bytes:
    return make()


def _head(*lines: str, start: str = "POST /v2/models/mlp/infer HTTP/1.1") -> bytes:
    return "\r\n".join([start, "Host: x", *lines, "", ""]).encode()


def _get(path: str, count: int) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * count


def _json(model: str, shape: list[int], data: bytes, datatype: str = "FP32", more: bytes = b"") -> bytes:
    entry = f'{{"name":"x","datatype":"{datatype}","shape":{json.dumps(shape)},"data":'.encode()
    return json_request(model, b'{"inputs":[' + entry + data + b"}]" + more + b"}")


def _zipped(model: str, plain: bytes, coding: str = "gzip") -> bytes:
    packed = gzip.compress(plain) if coding == "gzip" else zlib.compress(plain)
    return json_request(model, packed, f"Content-Encoding: {coding}")


def _numbers(count: int) -> bytes:
    return json.dumps(np.random.default_rng(0).standard_normal(count).astype(np.float32).tolist()).encode()


def _binary(model: str, datatype: str, shape: list[int], data: bytes) -> bytes:
    entry = {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
    lead = json.dumps({"inputs": [entry]}).encode()
    length = f"Content-Length: {len(lead) + len(data)}"
    return _head(length, f"Inference-Header-Content-Length: {len(lead)}", start=_post(model)) + lead + data


def _post(model: str) -> str:
    return f"POST /v2/models/{model}/infer HTTP/1.1"


def _pair(rows: int) -> bytes:
    entries = [
        {"name": name, "datatype": "FP32", "shape": [rows, 4], "parameters": {"binary_data_size": rows * 16}}
        for name in ("a", "b")
    ]
    lead = json.dumps({"inputs": entries}).encode()
    length = f"Content-Length: {len(lead) + 32 * rows}"
    head = _head(length, f"Inference-Header-Content-Length: {len(lead)}", start=_post("pair"))
    return head + lead + bytes(32 * rows)


def _chunks(*pieces: bytes, end: bytes = b"0\r\n\r\n", extension: bytes = b"") -> bytes:
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return _head("Transfer-Encoding: chunked") + body + end


HTTP: dict[str, Callable[[], bytes]] = {
    "gzip, 178 MB of zeros": lambda: _zipped("mlp", bytes(178 * MIB)),
    "gzip, 60 MB to a model of any length": lambda: _zipped("sequence", bytes(60 * MIB)),
    "deflate, 60 MB": lambda: _zipped("sequence", b" " * (60 * MIB), "deflate"),
    "gzip, 6 MB of JSON numbers": lambda: _zipped(
        "sequence", _json("sequence", [1, 3_000_000], b"[" + b"0," * 2_999_999 + b"0]").partition(b"\r\n\r\n")[2]
    ),
    "10 MB of JSON numbers": lambda: _json("sequence", [1, 500_000], _numbers(500_000)),
    "10 MB of JSON numbers to a small model": lambda: _json("mlp", [125_000, 4], _numbers(500_000)),
    "2 million nested lists": lambda: _json("sequence", [2_000_000, 1], b"[" + b"[0]," * 1_999_999 + b"[0]]"),
    "3 million levels of lists": lambda: json_request("sequence", b'{"inputs":' + b"[" * 3_000_000),
    "levels of lists as data": lambda: _json("sequence", [1, 1], b"[" * 3_000_000 + b"]" * 3_000_000),
    "a million empty strings in JSON": lambda: _json(
        "words", [1, 1_000_000], b'["' + b'","' * 999_999 + b'"]', "BYTES"
    ),
    "a million strings, binary": lambda: _binary("words", "BYTES", [1, 1_000_000], word(0) * 1_000_000),
    "a million rows of a string": lambda: _binary("words", "BYTES", [1_000_000, 1], word(0) * 1_000_000),
    "300,000 rows of a number": lambda: _binary("sequence", "FP32", [300_000, 1], bytes(1_200_000)),
    "a million escaped quotes": lambda: _json("words", [1, 1], b'["' + b'\\"' * 1_000_000 + b'"]', "BYTES"),
    "half a million inputs": lambda: json_request("sequence", b'{"inputs":[' + b'{"name":"x"},' * 500_000 + b"{}]}"),
    "half a million outputs": lambda: json_request(
        "sequence", b'{"inputs":[],"outputs":[' + b'{"name":"double"},' * 500_000 + b"{}]}"
    ),
    "5 MB of parameters": lambda: json_request(
        "sequence", b'{"parameters":{' + b'"a":{},' * 700_000 + b'"b":1},"inputs":[]}'
    ),
    "an id of 10 MB": lambda: json_request("sequence", b'{"id":"' + b"x" * 10_000_000 + b'","inputs":[]}'),
    "more rows than any queue holds": lambda: raw_request("mlp", bytes(16 * 70_000)),
    "two tensors of 8 MB": lambda: _pair(500_000),
    "an answer of a million JSON numbers": lambda: _binary("sequence", "FP32", [1, 1_000_000], bytes(4_000_000)),
    "a million chunks of one byte": lambda: _chunks(*[b"x"] * 1_000_000),
    "a hundred messages of a thousand chunks": lambda: _chunks(*[b"x"] * 1000) * 100,
    "a thousand chunk extensions of 4 KB": lambda: _chunks(*[b"x"] * 1000, extension=b";" + b"a" * 4000),
    "ten thousand trailers": lambda: _chunks(b"x", end=b"0\r\n" + b"a:\r\n" * 10_000 + b"\r\n"),
    "50,000 pipelined questions": lambda: _get("/v2/health/live", 50_000),
    "2,000 pipelined looks at the metrics": lambda: _get("/metrics", 2000),
    "500 pipelined looks at the tail": lambda: _get("/v2/models/mlp/tail", 500),
    "500 pipelined looks at the trace": lambda: _get("/v2/models/mlp/trace/-1", 500),
    "2,000 pipelined OpenAPI documents": lambda: _get("/v2/openapi.json", 2000),
    "20,000 pipelined inferences": lambda: raw_request("mlp", bytes(16)) * 20_000,
    "20,000 pipelined unknown paths": lambda: b"".join(_get(f"/v{number}", 1) for number in range(20_000)),
    "2,000 heads of a hundred fields": lambda: b"".join(
        _head(*[f"a{number}{field}: b" for field in range(95)], start="GET /v2 HTTP/1.1") for number in range(2000)
    ),
}

_INFER = h2.literal(*h2.fields(f"/{SERVICE}/ModelInfer"))
_STREAM = h2.literal(*h2.fields(f"/{SERVICE}/ModelStreamInfer"))
_GZIP = h2.literal(*h2.fields(f"/{SERVICE}/ModelInfer", grpc_encoding="gzip"))
_NOWHERE = h2.literal(*h2.fields("/nowhere"))
_OPEN = h2.HELLO + frame(h2.WINDOW, 0, 0, word(1 << 30)) + h2.settings(window=1 << 30)


def message(model: str, shape: list[int], data: bytes = b"", datatype: str = "FP32", **contents: object) -> bytes:
    """A ModelInferRequest."""
    request = METHODS["ModelInfer"][0](model_name=model, raw_input_contents=[data] if data else [])
    entry = request.inputs.add(name="x", datatype=datatype, shape=shape)
    for name, values in contents.items():
        getattr(entry.contents, name).extend(values)
    return bytes(request.SerializeToString())


def parameters(count: int) -> bytes:
    """This many parameters of a ModelInferRequest, with different names, to be appended to its other fields."""
    return b"".join(b"\x22\x07\x0a\x05%05d" % number for number in range(count))


def prefixed(data: bytes, compressed: int = 0) -> bytes:
    return bytes([compressed]) + word(len(data)) + data


def call(stream: int, data: bytes, block: bytes = _INFER) -> bytes:
    pieces = [data[at : at + 16384] for at in range(0, len(data), 16384)]
    return frame(h2.HEADERS, h2.END_HEADERS, stream, block) + b"".join(
        frame(h2.DATA, h2.END_STREAM * (at == len(pieces) - 1), stream, piece) for at, piece in enumerate(pieces)
    )


def _streams(count: int, make: Callable[[int], bytes]) -> bytes:
    return b"".join(make(1 + 2 * number) for number in range(count))


def _blocked_answers() -> bytes:
    """A thousand answers that wait for flow control, and a thousand window updates of one byte."""
    waiting = _streams(900, lambda stream: call(stream, prefixed(message("mlp", [1, 4], bytes(16)))))
    return h2.PREFACE + h2.settings(window=0) + waiting + b"".join(h2.settings(window=n % 2) for n in range(900))


_MLP = message("mlp", [1, 4], bytes(16))
GRPC: dict[str, Callable[[], bytes]] = {
    "SETTINGS of 2,730 entries, a thousand": lambda: (
        h2.HELLO + frame(h2.SETTINGS, 0, 0, bytes([0, 9, 0, 0, 0, 0]) * 2730) * 1000
    ),
    "SETTINGS, 50,000 frames": lambda: h2.HELLO + frame(h2.SETTINGS) * 50_000,
    "PING, 50,000 frames": lambda: h2.HELLO + frame(h2.PING, 0, 0, bytes(8)) * 50_000,
    "PRIORITY, 50,000 frames": lambda: h2.HELLO + frame(h2.PRIORITY, 0, 1, bytes(5)) * 50_000,
    "WINDOW_UPDATE, 50,000 frames": lambda: h2.HELLO + frame(h2.WINDOW, 0, 0, word(1)) * 50_000,
    "empty DATA, 50,000 frames": lambda: h2.HELLO + frame(h2.HEADERS, 4, 1, _INFER) + frame(h2.DATA, 0, 1) * 50_000,
    "unknown frames, 50,000": lambda: h2.HELLO + frame(99) * 50_000,
    "20,000 calls opened and reset": lambda: (
        h2.HELLO + _streams(20_000, lambda s: frame(h2.HEADERS, 4, s, _INFER) + frame(h2.RST, 0, s, word(8)))
    ),
    "CONTINUATION without an end": lambda: h2.HELLO + frame(h2.HEADERS, 0, 1) + frame(h2.CONTINUATION, 0, 1) * 50_000,
    "5,000 blocks of 300 fields from 300 bytes": lambda: (
        h2.HELLO
        + _streams(
            5000, lambda s: frame(h2.HEADERS, 5, s, b"\x82\x86\x84" + b"\x90" * 200 + bytes([0x0F, s & 0x7F, 0]))
        )
    ),
    "a Huffman string of 30 KB, a hundred": lambda: (
        h2.HELLO + _streams(100, lambda s: frame(h2.HEADERS, 5, s, b"\x00\x01a" + b"\xff\x81\x74" + bytes(14_960)))
    ),
    "5,000 changes of the table's size": lambda: (
        h2.HELLO + _streams(30, lambda s: frame(h2.HEADERS, 5, s, b"\x3f\xe1\x1f" * 5000))
    ),
    "10,000 calls that do not exist": lambda: h2.HELLO + _streams(10_000, lambda s: h2.request(s, None, _NOWHERE)),
    "gRPC, gzip of 178 MB": lambda: _OPEN + call(1, prefixed(gzip.compress(bytes(178 * MIB)), 1), _GZIP),
    "gRPC, gzip of 60 MB": lambda: _OPEN + call(1, prefixed(gzip.compress(bytes(60 * MIB)), 1), _GZIP),
    "gRPC, 4 million typed numbers": lambda: (
        _OPEN + call(1, prefixed(message("sequence", [1, 4_000_000], fp32_contents=[0.0] * 4_000_000)))
    ),
    "gRPC, a million strings": lambda: (
        _OPEN + call(1, prefixed(message("words", [1, 1_000_000], datatype="BYTES", bytes_contents=[b""] * 1_000_000)))
    ),
    "gRPC, 260,000 empty strings in a raw tensor": lambda: (
        _OPEN + call(1, prefixed(message("words", [1, 260_000], word(0) * 260_000, "BYTES")))
    ),
    "gRPC, 100,000 parameters behind a raw tensor": lambda: _OPEN + call(1, prefixed(_MLP + parameters(100_000))),
    "gRPC, a tensor of 16 MB": lambda: (
        _OPEN + call(1, prefixed(message("sequence", [1, 4_000_000], bytes(16_000_000))))
    ),
    "gRPC, half a million inputs": lambda: _OPEN + call(1, prefixed(b"\x0a\x03mlp" + b"\x2a\x03\x0a\x01x" * 500_000)),
    "gRPC, 900 calls at once": lambda: h2.HELLO + _streams(900, lambda s: call(s, prefixed(_MLP))),
    "gRPC, a stream of 20,000 requests": lambda: _OPEN + call(1, prefixed(_MLP) * 20_000, _STREAM),
    "gRPC, a stream of 100,000 bad ones": lambda: _OPEN + call(1, prefixed(b"\xff") * 100_000, _STREAM),
    "gRPC, windows changed under 900 answers": _blocked_answers,
}
_BAD = prefixed(b"\xff")
_INDEX = h2.literal(*h2.fields(f"/{SERVICE}/RepositoryIndex"))
_STRINGS = message("words", [1, 28_000], datatype="BYTES", bytes_contents=[b""] * 28_000)
MANY = {  # connections or streams, of which each does little
    "gRPC, 900 streams of 500 bad ones": Hostile(
        lambda: _OPEN + _streams(900, lambda s: call(s, _BAD * 500, _STREAM)), grpc=True
    ),
    "gRPC, 900 streams of a good one and 60 bad": Hostile(
        lambda: _OPEN + _streams(900, lambda s: call(s, (prefixed(_MLP) + _BAD * 60) * 5, _STREAM)), grpc=True
    ),
    "100 connections, gRPC, 20 streams of 100 bad": Hostile(
        lambda: _OPEN + _streams(20, lambda s: call(s, _BAD * 100, _STREAM)), grpc=True, connections=100
    ),
    "100 connections, gRPC, 100 calls at once": Hostile(
        lambda: _OPEN + _streams(100, lambda s: call(s, prefixed(_MLP))), grpc=True, connections=100
    ),
    "100 connections, 5,000 frames of PING": Hostile(
        lambda: h2.HELLO + frame(h2.PING, 0, 0, bytes(8)) * 5000, grpc=True, connections=100
    ),
    "100 connections, 5,000 frames of empty DATA": Hostile(
        lambda: h2.HELLO + frame(h2.HEADERS, 4, 1, _INFER) + frame(h2.DATA, 0, 1) * 5000, grpc=True, connections=100
    ),
    "100 connections, gRPC, 100 questions": Hostile(
        lambda: _OPEN + _streams(100, lambda s: call(s, prefixed(b""), _INDEX)), grpc=True, connections=100
    ),
    "50 connections, gRPC, 20 messages of 56 KB of strings": Hostile(
        lambda: _OPEN + _streams(20, lambda s: call(s, prefixed(_STRINGS))), grpc=True, connections=50
    ),
    "50 connections, 20 bodies of 56 KB of lists": Hostile(
        lambda: _json("sequence", [14_000, 1], b"[" + b"[0]," * 13_999 + b"[0]]") * 20, connections=50
    ),
    "50 connections, 30 bodies of 7 KB of lists": Hostile(
        lambda: _json("sequence", [1800, 1], b"[" + b"[0]," * 1799 + b"[0]]") * 30, connections=50
    ),
    "100 connections, 20 bodies of a thousand chunks": Hostile(lambda: _chunks(*[b"x"] * 1000) * 20, connections=100),
    "200 connections, 500 pipelined questions": Hostile(lambda: _get("/v2/health/live", 500), connections=200),
    "200 connections, 20 pipelined looks at the metrics": Hostile(lambda: _get("/metrics", 20), connections=200),
    "200 connections, 200 pipelined inferences": Hostile(lambda: raw_request("mlp", bytes(16)) * 200, connections=200),
    "200 connections, 200 pipelined bad requests": Hostile(
        lambda: json_request("mlp", b'{"inputs":[{"name":"x"}]}') * 200, connections=200
    ),
}
ALL = (
    {name: Hostile(make) for name, make in HTTP.items()}
    | {name: Hostile(make, grpc=True) for name, make in GRPC.items()}
    | MANY
)


def corpora() -> Iterator[tuple[str, Hostile]]:
    """What the other tests send: broken framing, wrong requests, and the seeds of the fuzzers in mutations."""
    from tests.fuzz.targets import TARGETS
    from tests.server.test_http import FRAMING
    from tests.server.test_inference import WRONG

    framing = [data for data, _ in FRAMING.values()]
    wrong = [json_request(model, body) for model, body, _ in WRONG.values()]
    for number, data in enumerate(framing + wrong):
        yield f"corpus {number}", Hostile(lambda data=data: data)  # type: ignore[misc]
    for name, (_, seeds) in TARGETS.items():
        for number, seed in enumerate(seeds):
            seeded = {
                "head": seed,
                "changed_head": seed,
                "changed_length": seed,
                "json_lists": json_request("mlp", seed[1:]),
                "chunked": _head("Transfer-Encoding: chunked") + seed[1:],
                "http2": seed[1:],
                "request": json_request("mlp", seed[2:]),
                "grpc_form": h2.HELLO + call(1, prefixed(seed)),
            }[name]
            yield f"{name} {number}", Hostile(lambda data=seeded: data, grpc=name in {"http2", "grpc_form"})  # type: ignore[misc]

"""A real server over real sockets: every bad message gets its answer, and the next good one is answered exactly."""

import json
import re
import socket
import struct
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from tests.effort import runs, some
from tests.engines.models import save, value
from tests.server.sound import GOOD, HEALTH, ROW, check_clean
from tests.servers import Server, json_request, raw_request

from tailcut.runtime.model import Model
from tailcut.server.metadata import readiness
from tailcut.server.served_model import ServedModel
from tailcut.spec import DType

pytestmark = pytest.mark.usefixtures("sound")


def head(*lines: str, start: str = "POST /v2/models/mlp/infer HTTP/1.1", host: str = "Host: x") -> bytes:
    return "\r\n".join([start, *([host] if host else []), *lines, "", ""]).encode("latin-1")


FRAMING = {
    "host missing": (head(host=""), 400),
    "host repeated": (head("Host: y"), 400),
    "host with userinfo": (head(host="Host: u@x"), 400),
    "host with a path": (head(host="Host: x/y"), 400),
    "length 4,4": (head("Content-Length: 4,4"), 400),
    "coding gzip, chunked": (head("Transfer-Encoding: gzip, chunked"), 501),
    "length and coding": (head("Content-Length: 4", "Transfer-Encoding: chunked"), 400),
    "two lengths": (head("Content-Length: 4", "Content-Length: 4"), 400),
    "length +4": (head("Content-Length: +4"), 400),
    "length 2^64": (head("Content-Length: 18446744073709551616"), 400),
    "coding gzip": (head("Transfer-Encoding: gzip"), 501),
    "chunked over 1.0": (head("Transfer-Encoding: chunked", start="POST /v2/models/mlp/infer HTTP/1.0"), 400),
    "unregistered method": (head(start="FOO /v2 HTTP/1.1"), 400),
    "method in lower case": (head(start="get /v2 HTTP/1.1"), 400),
    "bare LF": (b"GET /v2 HTTP/1.1\nHost: x\n\n", 400),
    "folded": (head("A: b\r\n c"), 400),
    "NUL": (head("A: b\0"), 400),
    "space before colon": (head("A : b"), 400),
    "long head": (head("A: " + "b" * 40_000), 431),
    "many headers": (head(*[f"A{i}: b" for i in range(150)]), 431),
    "long URL": (head(start="GET /" + "a" * 9000 + " HTTP/1.1"), 414),
    "TLS": (bytes.fromhex("160301020001"), 400),
    "other version": (head(start="GET /v2 HTTP/2.0"), 505),
    "CONNECT": (head(start="CONNECT x:1 HTTP/1.1"), 400),
    "expectation": (head("Expect: something"), 417),
    "bad chunk": (head("Transfer-Encoding: chunked") + b"zz\r\n", 400),
    "bad trailer": (head("Transfer-Encoding: chunked") + b"0\r\nX : y\r\n\r\n", 400),
    "many empty lines": (b"\r\n" * 9 + head(start="GET /v2 HTTP/1.1"), 400),
    "CR before a request line": (b"\r" + head(start="GET /v2 HTTP/1.1"), 400),
    "length 2^50": (head("Content-Length: 1125899906842624"), 413),
    "chunked over the limit": (head("Transfer-Encoding: chunked") + b"200000\r\n", 413),
}


@pytest.mark.parametrize("name", some(FRAMING))
def test_broken_framing(server: Server, name: str) -> None:
    """One error object, then the connection is closed; `test_splits.py` has the statuses of all."""
    data, status = FRAMING[name]
    with server.connect() as wire:
        answer = wire.ask(data)
        assert answer.status == status
        check_clean(answer)
        assert answer.headers["connection"] == "close"
        assert wire.closed()


@pytest.mark.parametrize(
    ("start", "status", "allow"),
    [
        ("GET /v2/models/mlp/infer HTTP/1.1", 405, "POST"),
        ("DELETE /v2 HTTP/1.1", 405, "GET"),
        ("GET /nowhere HTTP/1.1", 404, None),
        ("GET /v2/models/none HTTP/1.1", 404, None),
        ("GET /v2/models//ready HTTP/1.1", 404, None),
        ("GET /v2/models/mlp/versions/7 HTTP/1.1", 404, None),
        ("GET /v2/models/%3Cscript%3E HTTP/1.1", 404, None),
        ("GET /v2/models/mlp/versions/1/ready HTTP/1.1", 200, None),
        ("GET /v2/trace/setting HTTP/1.1", 404, None),
        ("GET /v2/models/mlp/trace/setting HTTP/1.1", 404, None),
        ("GET /v2/models/mlp/versions/1/trace/setting/ HTTP/1.1", 404, None),
        ("POST /v2/models/mlp/trace/setting HTTP/1.1", 404, None),
        ("GET /v2 HTTP/1.1", 200, None),
        ("GET /v2/health/live HTTP/1.1", 200, None),
    ],
)
def test_paths_and_methods(server: Server, start: str, status: int, allow: str | None) -> None:
    """A wrong method is told the right ones; the connection lives on."""
    with server.connect() as wire:
        answer = wire.ask(head(start=start))
        assert answer.status == status
        assert answer.headers.get("allow") == allow
        if status >= 400:
            message = check_clean(answer)
            assert ("trace settings are not supported" in message) == ("trace/setting" in start)
        assert wire.ask(HEALTH).status == 200


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("health/live", {"live": True}),
        ("health/ready", {"ready": True}),
        ("models/mlp/ready", {"name": "mlp", "ready": True, "warmed_up": True}),
    ],
)
def test_health_has_a_body(server: Server, path: str, content: dict) -> None:
    """As the protocol's description has it: KServe's client looks at nothing else."""
    with server.connect() as wire:
        answer = wire.ask(head(start=f"GET /v2/{path} HTTP/1.1"))
        assert (answer.status, answer.json()) == (200, content)
        assert answer.headers["content-type"] == "application/json"


def test_a_body_over_the_limit_is_refused_before_it_is_read(server: Server) -> None:
    """413 comes while not a byte of the body has been sent."""
    with server.connect() as wire:
        answer = wire.ask(head("Content-Length: 2000000"))
        assert answer.status == 413
        check_clean(answer)
        assert wire.closed()


def test_pipelined_good_bad_good(server: Server) -> None:
    """In order; after the broken one nothing more is understood."""
    with server.connect() as wire:
        wire.send(GOOD + head("Content-Length: +4") + GOOD)
        assert wire.read().status == 200
        assert wire.read().status == 400
        assert wire.closed()


def test_pipelined_wrong_inputs_cost_only_themselves(server: Server) -> None:
    """A bad inference request between two good ones leaves the connection usable."""
    with server.connect() as wire:
        wire.send(GOOD + json_request("mlp", {"inputs": []}) + raw_request("none", b"abc") + GOOD)
        assert [wire.read().status for _ in range(4)] == [200, 400, 404, 200]


def test_every_split_of_a_request(server: Server) -> None:
    """Wherever the network cuts the bytes, the answer is the same."""
    x = np.arange(4, dtype=np.float32)
    request = raw_request("mlp", x.tobytes())
    with server.connect() as wire:
        wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        expected = wire.ask(request)
        for cut in range(1, len(request)):
            wire.send(request[:cut])
            wire.send(request[cut:])
            answer = wire.read()
            assert (answer.status, answer.body) == (200, expected.body), cut


def test_chunked_bodies_are_answered(server: Server) -> None:
    """JSON in chunks, trailers ignored."""
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(body[i : i + 7]), body[i : i + 7]) for i in range(0, len(body), 7))
    with server.connect() as wire:
        wire.send(head("Transfer-Encoding: chunked") + chunks + b"0\r\nX-Trailer: y\r\n\r\n" + HEALTH)
        answer = wire.read()
        assert answer.status == 200
        assert answer.json()["outputs"][0]["shape"] == [1, 3]
        assert wire.read().status == 200


@pytest.mark.parametrize("close", [False, True])
def test_an_upgrade_is_ignored(server: Server, close: bool) -> None:
    """Java's client and `curl --http2` offer h2c with their first request: it is answered over HTTP/1.1, a body too."""
    lines = ["Connection: Upgrade, HTTP2-Settings" + ", close" * close, "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"]
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]})
    for request in (
        head(*lines, start="GET /v2 HTTP/1.1"),
        raw_request("mlp", bytes(16), *lines),
        json_request("mlp", body, *lines),
        head("Transfer-Encoding: chunked", *lines) + f"{len(body):x}\r\n{body}\r\n0\r\n\r\n".encode(),
    ):
        with server.connect() as wire:
            answer = wire.ask(request)
            assert answer.status == 200
            assert "upgrade" not in answer.headers
            assert answer.headers.get("connection") == ("close" if close else None)
            if close:
                assert wire.closed()
            else:
                assert wire.ask(request).status == 200


def test_empty_lines_before_a_request(server: Server) -> None:
    """Eight are read past, before the first request and behind each one; more are no HTTP."""
    with server.connect() as wire:
        for _ in range(20):
            assert wire.ask(b"\r\n" * 8 + GOOD).status == 200
        for _ in range(20):
            assert wire.ask(b"\r\n" + head(start="GET /nowhere HTTP/1.1")).status == 404
        wire.send(GOOD + b"\r\n" + HEALTH + b"\r\n\r\n" + GOOD + b"\r\n")
        assert [wire.read().status for _ in range(3)] == [200, 200, 200]
        wire.send(b"\r\n" * 4)
        assert wire.ask(b"\r\n" * 4 + HEALTH).status == 400
        assert wire.closed()


def test_every_answer_has_its_date(server: Server) -> None:
    """Of whatever kind and status, over every way, on one line, and not of another time than now."""
    questions = [
        HEALTH,
        head(start="HEAD /v2 HTTP/1.1"),
        head(start="GET /metrics HTTP/1.1"),
        head(start="GET /nowhere HTTP/1.1"),
        head(start="DELETE /v2 HTTP/1.1"),
        json_request("mlp", {"inputs": []}),
        json_request("mlp", {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}),
        raw_request("none", bytes(16)),
        raw_request("mlp", bytes(17)),
        raw_request("mlp", bytes(160)),
        raw_request("big", bytes(200_000)),
        *[raw_request("mlp", bytes(16))] * 10,
        raw_request("mlp", bytes(16), "Connection: close"),
        head("Content-Length: 2000000"),
        head("Content-Length: +4"),
    ]
    for question in questions:
        with server.connect() as wire:
            for _ in range(1 if b"close" in question else 2):
                wire.send(question)
                while b"\r\n\r\n" not in wire.pending():
                    wire.more()
                lines = wire.pending().partition(b"\r\n\r\n")[0].split(b"\r\n")
                (date,) = [line[6:].decode() for line in lines if line.lower().startswith(b"date: ")]
                assert abs(parsedate_to_datetime(date).timestamp() - time.time()) < 5
                if question.startswith(b"HEAD") or b"\r\nConnection: close" in wire.pending():
                    break
                wire.read()


@pytest.mark.parametrize("target", ["http://x/v2", "http://other:1/v2", "HTTP://x:8000/v2?a=b"])
def test_an_absolute_target(server: Server, target: str) -> None:
    """As a proxy would send it: its authority goes before Host, and both mean this server."""
    with server.connect() as wire:
        assert wire.ask(head(start=f"GET {target} HTTP/1.1")).json()["name"] == "tailcut"


def test_a_client_that_ends_its_side_is_answered(server: Server) -> None:
    """Over TCP: every answer comes, then the connection is closed."""
    row = np.arange(4, dtype=np.float32).tobytes()
    for data, count in (
        (GOOD, 1),
        (raw_request("mlp", row), 1),
        (raw_request("big", bytes(200_000)), 1),
        (raw_request("mlp", row) * 20, 20),
        (raw_request("mlp", row) * 400, 400),
        (HEALTH * 1500, 1500),
        (json_request("none", "{}") + HEALTH, 2),
    ):
        with server.connect() as wire:
            wire.send(data)
            wire.sock.shutdown(socket.SHUT_WR)
            answers = [wire.read() for _ in range(count)]
            assert all(answer.status in {200, 404} for answer in answers)
            assert wire.closed()
            assert wire.pending() == b""


def test_expect_continue(server: Server) -> None:
    """100 comes before an admissible body, and never before a hopeless one."""
    body = ROW.tobytes()
    lines = ["POST /v2/models/echo/infer HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += ["Inference-Header-Content-Length: 0", "Expect: 100-continue", "", ""]
    with server.connect() as wire:
        assert wire.ask("\r\n".join(lines).encode()).status == 100
        assert wire.ask(body).status == 200
    with server.connect() as wire:
        assert wire.ask(head("Content-Length: 9000000", "Expect: 100-continue")).status == 413


def test_large_bodies_go_into_rows(server: Server) -> None:
    """A 200 KB body that arrives in many pieces comes back bit for bit, NaN and infinity with it."""
    values = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    values[:3] = [np.nan, np.inf, -np.inf]
    request = raw_request("big", values.tobytes())
    with server.connect() as wire:
        for at in range(0, len(request), 7001):
            wire.send(request[at : at + 7001])
        answer = wire.read()
    assert answer.status == 200
    assert answer.body[int(answer.headers["inference-header-content-length"]) :] == values.tobytes()


def test_a_client_that_leaves_gives_its_rows_back(server: Server) -> None:
    """Half a body, then a reset: the fixture sees every row come home."""
    request = raw_request("big", bytes(200_000))
    for cut in (40, 200, 70_000, 199_000):
        wire = server.connect()
        wire.send(request[:cut])
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wire.sock.close()


def test_nothing_of_an_aborted_body_ever_shows(server: Server) -> None:
    """A canary of 0xAA left half-way in a row is in no later answer."""
    for _ in range(5):
        wire = server.connect()
        wire.send(raw_request("big", b"\xaa" * 200_000)[:150_000])
        wire.sock.close()
        with server.connect() as other:
            answer = other.ask(raw_request("big", bytes(200_000)))
            assert answer.status == 200
            assert b"\xaa" not in answer.body


def test_one_connection_many_requests(server: Server) -> None:
    """Keep-alive holds over hundreds of requests and more, each answered with its own bytes."""
    with server.connect() as wire:
        for number in range(runs(2000)):
            row = np.full(1000, number, np.float32).tobytes()
            answer = wire.ask(raw_request("echo", row))
            assert answer.body[-4000:] == row


def test_several_rows_in_one_raw_body(server: Server) -> None:
    """The batch size follows from the length; over max_batch_size it is split and answered."""
    for rows in (2, 31, 100):
        x = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
        with server.connect() as wire:
            answer = wire.ask(raw_request("mlp", x.tobytes()))
            assert answer.status == 200, answer.body
            size = int(answer.headers["inference-header-content-length"])
            assert json.loads(answer.body[:size])["outputs"][0]["shape"] == [rows, 3]
            item = wire.ask(raw_request("mlp", x[rows - 1 :].tobytes()))
            got = np.frombuffer(answer.body[size:], np.float32).reshape(rows, 3)
            alone = np.frombuffer(item.body[int(item.headers["inference-header-content-length"]) :], np.float32)
            np.testing.assert_allclose(got[-1], alone, rtol=1e-5, atol=1e-6)


def test_a_question_with_a_body(server: Server) -> None:
    """A small body of a question about the server is read and ignored, however it arrives; a large one is 413."""
    whole = head("Content-Length: 2", start="POST /v2/repository/index HTTP/1.1") + b"{}"
    with server.connect() as wire:
        wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for cut in range(1, len(whole)):
            wire.send(whole[:cut])
            wire.send(whole[cut:])
            assert wire.read().status == 200
        assert wire.ask(head("Content-Length: 70000", start="POST /v2/repository/index HTTP/1.1")).status == 413


def test_head_requests(server: Server) -> None:
    """HEAD is GET without the body: the length is told, and the next answer begins right behind the head."""
    with server.connect() as wire:
        wire.send(head(start="HEAD /v2 HTTP/1.1") + HEALTH)
        while wire.pending().count(b"HTTP/1.1 ") < 2:
            wire.more()
        first, second = wire.pending().split(b"HTTP/1.1 ")[1:]
        assert first.startswith(b"200")
        assert first.endswith(b"\r\n\r\n")
        assert second.startswith(b"200")


@pytest.mark.parametrize("start", ["GET /nowhere", "GET /v2", "POST /v2/models/mlp/infer"])
@pytest.mark.parametrize("end", ["HTTP/1.0", "HTTP/1.1"])
def test_who_asks_to_be_closed_is_closed(server: Server, start: str, end: str) -> None:
    """Whatever the answer is, and nothing behind it is understood."""
    with server.connect() as wire:
        wire.send(head("Connection: close", start=f"{start} {end}") + GOOD)
        assert wire.read().headers["connection"] == "close"
        assert wire.closed()
        assert wire.pending() == b""


def test_clients_of_http_1_0_are_told_that_the_connection_stays(server: Server) -> None:
    """Where they have asked for it, whatever the answer is: without the line they would wait for the end."""
    questions = [
        HEALTH,
        head(start="HEAD /v2 HTTP/1.1"),
        head(start="GET /metrics HTTP/1.1"),
        head(start="GET /nowhere HTTP/1.1"),
        head("Content-Length: 4", start="DELETE /v2 HTTP/1.1") + b"body",
        raw_request("none", bytes(16)),
        raw_request("mlp", bytes(16)),
        raw_request("mlp", bytes(17)),
        raw_request("mlp", bytes(160)),
        raw_request("big", bytes(200_000)),
        json_request("mlp", {"inputs": []}),
        json_request("mlp", {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}),
    ]
    for question in questions:
        old = question.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\nConnection: Keep-Alive\r\n", 1)
        with server.connect() as wire:
            for request, said in ((old, "keep-alive"), (question, None), (old, "keep-alive")):
                wire.send(request)
                if request.startswith(b"HEAD"):
                    while b"\r\n\r\n" not in wire.pending():
                        wire.more()
                    assert (b"\r\nConnection: keep-alive\r\n" in wire.pending()) is (said is not None)
                    break
                assert wire.read().headers.get("connection") == said
    with server.connect() as wire:
        wire.send(HEALTH.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert "keep-alive" not in wire.read().headers.get("connection", "")
        assert wire.closed()


@pytest.mark.parametrize(
    ("start", "status"),
    [("HEAD /nowhere", 404), ("HEAD /v2/models/mlp/infer", 405), ("HEAD /v2/models/none", 404), ("HEAD /v2", 413)],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_refused_head_has_no_body(server: Server, start: str, status: int, version: str) -> None:
    """Its head says how long the body of GET is, and nothing comes behind it."""
    lines = ["Content-Length: 2000000"] if status == 413 else []
    with server.connect() as wire:
        wire.send(head(*lines, "Connection: close", start=f"{start} HTTP/{version}"))
        assert wire.closed()
        got, end, body = wire.pending().partition(b"\r\n\r\n")
        assert int(got[9:12]) == status
        assert int(re.search(rb"\r\nContent-Length: (\d+)", got)[1]) > 0
        assert (end, body) == (b"\r\n\r\n", b"")


def test_many_chunked_messages_at_once(server: Server) -> None:
    """A thousand of them in one piece are answered in order, without a stack as deep."""
    item = head("Transfer-Encoding: chunked", start="GET /v2/health/live HTTP/1.1") + b"0\r\n\r\n"
    with server.connect() as wire:
        wire.send(item * 1000)
        assert [wire.read().status for _ in range(1000)] == [200] * 1000


def test_nobody_can_keep_the_server_from_answering_by_idling(models, tmp_path) -> None:
    """Past the connection limit the one idle longest makes room, and health still answers."""
    from tests.servers import serving

    with serving(tmp_path, models / "mlp.onnx", "--max-connections", "20") as small:
        idle = [small.connect() for _ in range(60)]
        with small.connect() as wire:
            assert wire.ask(HEALTH).status == 200
        for wire in idle:
            wire.sock.close()
        assert small.stop() == 0


def test_readiness_says_whether_the_model_was_warmed_up(server: Server, tmp_path: Path) -> None:
    """In the body of the answer, whose status is what clients look at; a model that accepts nothing has its reason."""
    with server.connect() as wire:
        answer = wire.ask(b"GET /v2/models/mlp/ready HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (answer.status, answer.json()) == (200, {"name": "mlp", "ready": True, "warmed_up": True})
    nodes = [helper.make_node("Reshape", ["x", "flat"], ["y"])]
    ends = [value("x", DType.FP32, (None, None))], [value("y", DType.FP32, (None, 77_777))]
    path = save(tmp_path / "odd.onnx", nodes, *ends, {"flat": np.array([-1, 77_777])})
    with Model.open(path) as model:
        text = readiness(ServedModel(model, "odd"), ready=True)
    assert text | {"reason": ""} == {"name": "odd", "ready": True, "warmed_up": False, "reason": ""}
    assert "accepts none of the generated requests (tried x [1, 16]" in text["reason"]


def test_the_log_says_how_many_threads_compute_and_why(server: Server) -> None:
    """One line a model whose settings leave it open."""
    lines = server.stderr.read_text().splitlines()
    assert len([line for line in lines if line.startswith("INFO mlp: engine threads: ")]) == 1

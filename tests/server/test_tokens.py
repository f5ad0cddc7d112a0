"""--require-token: what answers without the server's token, and what does not, on every path a request can take."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests.engines.models import perceptron
from tests.servers import Server, Wire, json_request, raw_request, serving

from tailcut.server.http.page import live_page
from tailcut.server.http.routes import _TABLE
from tailcut.wire.grpc.messages import HEALTH, HEALTH_SERVICE, METHODS, SERVICE

TOKEN = "Authorization: Bearer secret"
OPEN_PATHS = {"/v2/health/live", "/v2/health/ready"}
BODY = np.ones((1, 4), np.float32).tobytes()
VALUE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2.0, 3.0, 4.0]}]}
FAST = "tailcut_connections_express"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tokens")
    token = folder / "token"
    token.write_text("secret\n")
    token.chmod(0o600)
    flags = ["--token-file", str(token), "--require-token", "--grpc-port", "0"]
    with serving(folder, perceptron([4, 8, 3], folder / "mlp.onnx"), *flags) as running:
        yield running
        assert running.stop() == 0


def ask(wire: Wire, method: str, path: str, *headers: str) -> int:
    return wire.ask("\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()).status


def on_fast_path(wire: Wire) -> int:
    """How many connections are on the fast path."""
    body = wire.ask(f"GET /metrics HTTP/1.1\r\nHost: x\r\n{TOKEN}\r\n\r\n".encode()).body.decode()
    return next(int(float(line.split(" ")[1])) for line in body.splitlines() if line.startswith(FAST + " "))


def test_every_route_but_open_ones_needs_the_token(server: Server) -> None:
    """Those of the table, and paths that there are not: nothing tells which models and routes there are."""
    with server.connect() as wire:
        for entry in _TABLE:
            path = entry.path.replace("{model}", "mlp").replace("{version}", "1").replace("{cursor}", "0")
            refused = entry.path not in OPEN_PATHS
            for headers in ([], ["Authorization: Bearer wrong!"], ["Authorization: Basic secret"]):
                length = ["Content-Length: 0"] if entry.method == "POST" else []
                assert (ask(wire, entry.method, path, *headers, *length) == 401) is refused, (path, headers)
        for method, path in (("GET", "/no/such/path"), ("DELETE", "/v2"), ("POST", "/v2/models/other/infer")):
            assert ask(wire, method, path, "Content-Length: 0") == 401
            assert ask(wire, method, path, TOKEN, "Content-Length: 0") in {404, 405}
        assert ask(wire, "GET", "/metrics", TOKEN) == 200
        assert ask(wire, "GET", "/v2/models/mlp", TOKEN.replace("Bearer", "bearer")) == 200
        assert wire.ask(raw_request("mlp", BODY, TOKEN)).status == 200
        assert wire.ask(raw_request("mlp", BODY)).headers["www-authenticate"] == "Bearer"


def test_the_page_asks_for_the_token(server: Server) -> None:
    """Refused as all else, and the refusal is the page itself, with its policy: browsers show it."""
    page, headers = live_page()
    with server.connect() as wire:
        refused = wire.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        given = wire.ask(f"GET / HTTP/1.1\r\nHost: x\r\n{TOKEN}\r\n\r\n".encode())
        assert [(item.status, item.body) for item in (refused, given)] == [(401, page), (200, page)]
        assert (refused.headers["www-authenticate"], "www-authenticate" in given.headers) == ("Bearer", False)
        for name, value in {**headers, "Content-Type": "text/html; charset=utf-8"}.items():
            assert refused.headers[name.lower()] == given.headers[name.lower()] == value
        document = wire.ask(f"GET /v2/openapi.json HTTP/1.1\r\nHost: x\r\n{TOKEN}\r\n\r\n".encode()).json()
        assert set(document["paths"]["/"]["get"]["responses"]["401"]["content"]) == {"text/html"}
        other = wire.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert (other.status, other.json()["error"]) == (401, "this request requires the server's token")
    with server.connect() as wire:
        wire.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.closed()
        assert wire.pending().startswith(b"HTTP/1.1 401 ")
        assert wire.pending().endswith(b"\r\n\r\n")


def test_the_document_says_so(server: Server) -> None:
    with server.connect() as wire:
        document = wire.ask(f"GET /v2/openapi.json HTTP/1.1\r\nHost: x\r\n{TOKEN}\r\n\r\n".encode()).json()
    without = {
        path
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if "security" not in operation
    }
    assert without == OPEN_PATHS
    assert document["paths"]["/metrics"]["get"]["security"] == [{"token": []}]


@pytest.mark.parametrize("form", ["raw", "JSON"])
def test_the_fast_path_needs_it_too(server: Server, form: str) -> None:
    """A connection that takes the fast path with the token is refused as soon as a request has another, or none."""

    def request_with(*headers: str) -> bytes:
        return raw_request("mlp", BODY, *headers) if form == "raw" else json_request("mlp", VALUE, *headers)

    good = request_with(TOKEN)
    with server.connect() as fast, server.connect() as other, server.connect() as asking:
        before = on_fast_path(asking)
        for _ in range(8):
            assert fast.ask(good).status == 200
        assert on_fast_path(asking) == before + 1
        for header in (
            "Authorization: Bearer wrong!",
            "Authorization: Bearer secreT",
            "X-Authorization: Bearer secret",
        ):
            for _ in range(8):  # of another connection, of which only the token differs
                assert other.ask(request_with(header)).status == 401
        assert on_fast_path(asking) == before + 1
        assert fast.ask(request_with("Authorization: Bearer secreT")).status == 401
        for _ in range(80):  # and it may come back
            assert fast.ask(good).status == 200
        assert fast.ask(request_with()).status == 401
        assert fast.ask(good).status == 200


def test_another_token_ends_the_old_one(tmp_path: Path) -> None:
    """After SIGHUP the old token is refused on every connection, also where no model has changed: nothing is kept."""
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o600)
    flags = ["--token-file", str(token), "--require-token"]
    with serving(tmp_path, perceptron([4, 8, 3], tmp_path / "mlp.onnx"), *flags) as server, server.connect() as wire:
        for _ in range(8):
            assert wire.ask(raw_request("mlp", BODY, TOKEN)).status == 200
        token.write_text("another")
        server.process.send_signal(signal.SIGHUP)
        while wire.ask(raw_request("mlp", BODY, TOKEN)).status == 200:
            assert server.process.poll() is None
        assert wire.ask(raw_request("mlp", BODY, TOKEN)).status == 401
        assert wire.ask(raw_request("mlp", BODY, "Authorization: Bearer another")).status == 200
        assert server.stop() == 0


def call(channel: grpc.Channel, path: str, streams: bool) -> Callable[..., Any]:
    return channel.stream_stream(path) if streams else channel.unary_unary(path)


def test_every_call_but_health_needs_it(server: Server) -> None:
    """UNAUTHENTICATED without it, or with another one; the channel is the same for all."""
    open_calls = {"ServerLive", "ServerReady"}
    with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
        for name, (request, _, streams) in METHODS.items():
            for metadata in ([], [("authorization", "Bearer wrong!")]):
                message = request().SerializeToString()
                begin = call(channel, f"/{SERVICE}/{name}", streams)
                try:
                    answer = begin(iter([message]) if streams else message, timeout=20, metadata=metadata)
                    code = next(answer) and None if streams else None
                except grpc.RpcError as error:
                    code = error.code()
                assert (code is grpc.StatusCode.UNAUTHENTICATED) is (name not in open_calls), name
        check = channel.unary_unary(f"/{HEALTH_SERVICE}/Check")
        assert HEALTH["HealthCheckResponse"].FromString(check(b"", timeout=20)).status == 1
        watch = channel.unary_stream(f"/{HEALTH_SERVICE}/Watch")(b"", timeout=20)
        assert HEALTH["HealthCheckResponse"].FromString(next(watch)).status == 1
        watch.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/no.such.Service/Call")(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        request = METHODS["ModelInfer"][0](model_name="mlp", raw_input_contents=[BODY])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        message, metadata = request.SerializeToString(), [("authorization", "Bearer secret")]
        for _ in range(4):  # the head of the call is indexed from the second on
            assert channel.unary_unary(f"/{SERVICE}/ModelInfer")(message, timeout=20, metadata=metadata)
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"/{SERVICE}/ModelInfer")(message, timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_it_needs_a_file(refusal: Callable[..., str], tmp_path: Path) -> None:
    path = perceptron([4, 8, 3], tmp_path / "mlp.onnx")
    assert "--require-token needs --token-file FILE" in refusal(path, "--require-token")

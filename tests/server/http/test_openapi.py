"""The server's own description of itself is true: every path of it, against a real server."""

import json
import os
import signal
from base64 import b64encode
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.models import perceptron
from tests.machine import cuda_stand_in
from tests.servers import Answer, Server, Wire, raw_request, serving

from tailcut.server.http.routes import _TABLE

PREFIX = f"tailcut-openapi-{os.getpid()}-"
KEY = f"{PREFIX}a"
BODIES = {
    "request": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]},
    "register": {"key": KEY, "byte_size": 8},
    "cuda_register": {"raw_handle": {"b64": b64encode(f"/dev/shm/{KEY}".encode().ljust(64, b"\0")).decode()}}
    | {"device_id": 1, "byte_size": 8},
    "ready": {"ready": True},
    "empty": {},
}
HANDLE = BODIES["cuda_register"]
SIZES = {"device_id": 0, "byte_size": 8}
KINDS = {"string": str, "integer": int, "boolean": bool, "object": dict, "array": list}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """mlp; with shared memory, also on a stand-in for a device, model control and a token."""
    folder = tmp_path_factory.mktemp("openapi")
    (folder / "token").write_text("secret")
    Path(f"/dev/shm/{KEY}").write_bytes(bytes(8))
    flags = ["--shared-memory", PREFIX, "--allow-model-control", "--token-file", str(folder / "token")]
    try:
        env = {"LD_LIBRARY_PATH": str(cuda_stand_in.library(folder).parent)}
        with serving(folder, perceptron([4, 8, 3], folder / "mlp.onnx"), *flags, env=env) as running:
            yield running
            assert running.stop() == 0
    finally:
        Path(f"/dev/shm/{KEY}").unlink()


def ask(wire: Wire, method: str, path: str, body: object = None, *headers: str) -> Answer:
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(data)}", *headers, "", ""]
    return wire.ask("\r\n".join(lines).encode() + data)


def check(document: dict, schema: dict, value: Any, where: str) -> None:
    """Whether a value is what a schema of the document says, fields that it does not know included."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "enum" in schema:
        assert value in schema["enum"], where
    if "type" in schema:
        assert isinstance(value, KINDS[schema["type"]]), f"{where}: {value!r}"
    if isinstance(value, list):
        for item in value:
            check(document, schema.get("items", {}), item, f"{where}[]")
    if isinstance(value, dict) and "properties" in schema:
        assert set(schema["required"]) <= set(value), where
        for name, field in value.items():
            check(document, schema["properties"].get(name, {}), field, f"{where}.{name}")


def test_every_path_answers_as_the_document_says(server: Server) -> None:
    """Walked in order, with the bodies that it asks for and the token where it is needed."""
    walked = 0
    with server.connect() as wire:
        document = ask(wire, "GET", "/v2/openapi.json").json()
        for template, operations in document["paths"].items():
            path = template.replace("{model}", "mlp").replace("{version}", "1").replace("{cursor}", "0")
            path = path.replace("{region}", "b" if "cuda" in path else "a")
            if "/region/" in path and path.endswith("/status"):
                body = BODIES["cuda_register" if "cuda" in path else "register"]
                ask(wire, "POST", path.replace("status", "register"), body, "Authorization: Bearer secret")
            if path.endswith("/register"):
                ask(wire, "POST", path.replace("register", "unregister"), {}, "Authorization: Bearer secret")
            for method, operation in operations.items():
                body = None
                if "requestBody" in operation:
                    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                    body = BODIES[reference.rpartition("/")[2]]
                token = ["Authorization: Bearer secret"] if "security" in operation else []
                with server.connect() if path == "/live" else nullcontext(wire) as asked:  # one ends its connection
                    answer = ask(asked, method.upper(), path, body, *token)
                assert (answer.status == 200) is ("200" in operation["responses"]), (path, answer.body)
                if answer.status != 200:
                    check(document, document["components"]["schemas"]["error"], answer.json(), path)
                    continue
                content = operation["responses"]["200"].get("content", {})
                kind = answer.headers.get("content-type", "").partition(";")[0]
                if content:
                    assert kind in content, path
                if kind == "application/json" and content:
                    check(document, content[kind]["schema"], answer.json(), path)
                if path.endswith("/unload"):
                    assert ask(wire, "POST", path.replace("unload", "load"), {}, *token).status == 200
                walked += 1
        assert walked == len(_TABLE)
        assert wire.ask(raw_request("mlp", bytes(16))).status == 200
        answer = ask(wire, "GET", "/v2/models/mlp/stats")  # with counts in it
        check(document, document["components"]["schemas"]["statistics"], answer.json(), "stats")
        assert answer.json()["model_stats"][0]["batch_stats"]


def test_every_array_says_what_it_holds(server: Server) -> None:
    """Generators of clients drop the paths of a schema whose array has no `items`, which OpenAPI asks for."""

    def arrays(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict) and value.get("type") == "array":
            yield value
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from arrays(item)

    with server.connect() as wire:
        result = list(arrays(ask(wire, "GET", "/v2/openapi.json").json()))
    assert result
    assert all("items" in array for array in result)


def test_a_binary_answer_is_as_the_document_says(server: Server) -> None:
    """Its type and its header are named, and the tensor of a JSON answer has its data."""
    with server.connect() as wire:
        document = ask(wire, "GET", "/v2/openapi.json").json()
        good = document["paths"]["/v2/models/{model}/infer"]["post"]["responses"]["200"]
        answer = wire.ask(raw_request("mlp", bytes(16)))
        assert answer.headers["content-type"] in good["content"]
        assert {name.lower() for name in good["headers"]} <= set(answer.headers)
        tensor = document["components"]["schemas"]["answer"]["properties"]["outputs"]["items"]["properties"]
        answer = ask(wire, "POST", "/v2/models/mlp/infer", BODIES["request"])
        assert {name for output in answer.json()["outputs"] for name in output} <= set(tensor)


def test_what_is_not_ready_says_so(tmp_path: Path) -> None:
    """503 while the server drains, as the document says: no error object, and of a model whether it is warmed up."""
    with serving(tmp_path, perceptron([4, 8, 3], tmp_path / "mlp.onnx"), "--drain", "20s") as server:
        with server.connect() as wire:
            paths = ask(wire, "GET", "/v2/openapi.json").json()["paths"]
        server.process.send_signal(signal.SIGTERM)
        for path in ("/v2/health/ready", "/v2/models/mlp/ready"):
            while True:
                with server.connect() as wire:
                    answer = ask(wire, "GET", path)
                if answer.status != 200:
                    break
            assert answer.status == 503
            message = paths[path.replace("mlp", "{model}")]["get"]["responses"]["503"]
            schema = message["content"]["application/json"]["schema"]["$ref"]
            if path == "/v2/health/ready":
                assert answer.json() == {"ready": False}
                assert schema.endswith("/server_ready")
            else:
                assert answer.json() == {"name": "mlp", "ready": False, "warmed_up": True}
                assert schema.endswith("/readiness")


@pytest.mark.parametrize(
    "headers",
    [
        ["Origin: http://evil.example", "Content-Type: text/plain"],
        ["Origin: null", "Content-Type: application/x-www-form-urlencoded"],
        ["Sec-Fetch-Site: cross-site"],
        ["Sec-Fetch-Site: same-site", "Origin: http://x:81"],
        ["Origin: http://x.evil.example", "Sec-Fetch-Site: none"],
    ],
)
@pytest.mark.parametrize(
    "path", ["/v2/repository/models/mlp/unload", "/v2/systemsharedmemory/unregister", "/v2/repository/models/mlp/load"]
)
def test_a_page_of_another_site_changes_nothing(server: Server, path: str, headers: list[str]) -> None:
    """403 for what a browser sends without asking, and the model answers on."""
    with server.connect() as wire:
        answer = ask(wire, "POST", path, {}, "Authorization: Bearer secret", *headers)
        assert (answer.status, "other sites" in answer.json()["error"]) == (403, True)
        assert wire.ask(raw_request("mlp", bytes(16))).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Content-Type: application/x-www-form-urlencoded"],  # what `curl -d` sends
        ["Content-Type: text/plain"],
        ["Origin: http://X", "Sec-Fetch-Site: same-origin"],
        ["Origin: https://proxy.example", "Sec-Fetch-Site: same-origin"],
        ["Sec-Fetch-Site: none"],
    ],
)
def test_other_clients_and_own_pages_may_change_it(server: Server, headers: list[str]) -> None:
    """Whatever their Content-Type is."""
    with server.connect() as wire:
        path = "/v2/systemsharedmemory/region/none/unregister"
        assert ask(wire, "POST", path, {}, "Authorization: Bearer secret", *headers).status == 200


def test_every_route_is_in_the_document(server: Server) -> None:
    """The table that routes requests, and what is described, are the same."""
    with server.connect() as wire:
        paths = ask(wire, "GET", "/v2/openapi.json").json()["paths"]
    assert {(path, method.upper()) for path, methods in paths.items() for method in methods} == {
        (entry.path, entry.method) for entry in _TABLE
    }


def test_what_changes_the_server_needs_the_token(server: Server) -> None:
    """401 before anything is done, and the connection lives on."""
    with server.connect() as wire:
        for text in (
            "",
            "Bearer wrong",
            "secret",
            "Bearer",
            "Bearer ",
            "Bearersecret",
            "Basic secret",
            "Bearer Secret",
        ):
            headers = [f"Authorization: {text}"] if text else []
            answer = ask(wire, "POST", "/v2/repository/models/mlp/unload", {}, *headers)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert ask(wire, "GET", "/v2/models/mlp/ready").status == 200


@pytest.mark.parametrize("text", ["Bearer secret", "bearer secret", "BEARER  secret", "bEARER secret \t"])
def test_the_name_of_the_scheme_has_no_case(server: Server, text: str) -> None:
    """RFC 9110 section 11.1, and as many spaces before the token as a client likes."""
    with server.connect() as wire:
        assert ask(wire, "POST", "/v2/systemsharedmemory/unregister", {}, f"Authorization: {text}").status == 200


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v2/repository/models/mlp/load", {"parameters": {"config": "{}"}}, "parameters are not supported"),
        ("/v2/repository/models/mlp/load", b"[1]", "a JSON object"),
        ("/v2/repository/models/mlp/load", b"\xff", "a JSON object"),
        ("/v2/systemsharedmemory/region/b/register", {"key": 1, "byte_size": 1}, "key (a string)"),
        ("/v2/systemsharedmemory/region/b/register", {"key": KEY, "byte_size": True}, "whole numbers"),
        ("/v2/systemsharedmemory/region/b/register", {"key": "/etc/passwd", "byte_size": 1}, "must start with"),
        ("/v2/systemsharedmemory/region/b/register", {"key": KEY, "byte_size": 9}, "smaller"),
        ("/v2/cudasharedmemory/region/b/register", {}, "raw_handle"),
        ("/v2/cudasharedmemory/region/b/register", {"raw_handle": {"b64": "*"}, **SIZES}, "is not base64"),
        ("/v2/cudasharedmemory/region/b/register", {"raw_handle": {"b64": "AAAA"}, **SIZES}, "has 64 bytes, not 3"),
        ("/v2/cudasharedmemory/region/b/register", HANDLE | {"device_id": 9}, "there is no CUDA device 9"),
        ("/v2/cudasharedmemory/region/b/register", HANDLE | {"byte_size": 9}, "has 8 bytes, not 9"),
        ("/v2/cudasharedmemory/region/b/register", HANDLE | {"byte_size": 0}, "1 or more"),
    ],
)
def test_wrong_admin_requests(server: Server, path: str, body: object, words: str) -> None:
    """400 in one line, with no path of the server's in it."""
    with server.connect() as wire:
        answer = ask(wire, "POST", path, body, "Authorization: Bearer secret")
        assert answer.status == 400
        assert words in answer.json()["error"]
        assert "/dev/shm" not in answer.json()["error"]


def test_a_region_that_nobody_registered_has_no_status(server: Server) -> None:
    """404."""
    with server.connect() as wire:
        assert ask(wire, "GET", "/v2/systemsharedmemory/region/none/status").status == 404


@pytest.mark.parametrize("header", ["Tailcut-Timeout-Us: soon", "Tailcut-Timeout-Us: -1", "Tailcut-Priority: 1.5"])
def test_wrong_schedule_headers(server: Server, header: str) -> None:
    """Raw bodies say when they are wanted in headers, in whole numbers."""
    with server.connect() as wire:
        answer = wire.ask(raw_request("mlp", bytes(16), header))
        assert answer.status == 400
        assert "whole numbers" in answer.json()["error"]
        assert (
            wire.ask(raw_request("mlp", bytes(16), "Tailcut-Priority: 2", "Tailcut-Timeout-Us: 5000000")).status == 200
        )


def test_a_timeout_in_a_header_is_kept(server: Server) -> None:
    """A microsecond is too short for any answer: not admitted, or dropped from the queue."""
    with server.connect() as wire:
        request = raw_request("mlp", np.ones(4, np.float32).tobytes(), "Tailcut-Timeout-Us: 1")
        assert wire.ask(request).status in {503, 504}


def test_metrics_have_the_names_that_a_triton_user_looks_for(server: Server) -> None:
    """Without the `_total` that the library would add, each described, and counting."""
    with server.connect() as wire:
        wire.ask(raw_request("mlp", bytes(32)))
        text = ask(wire, "GET", "/metrics").body.decode()
    for name in (
        "nv_inference_request_success",
        "nv_inference_request_failure",
        "nv_inference_count",
        "nv_inference_exec_count",
        "nv_inference_request_duration_us",
        "nv_inference_queue_duration_us",
        "nv_inference_compute_infer_duration_us",
        "nv_inference_pending_request_count",
    ):
        assert f"# HELP {name} " in text
        assert f'{name}{{model="mlp",version="1"}} ' in text
    assert server.metric("nv_inference_count") >= 2


def test_without_the_flag_models_stay(tmp_path: Path) -> None:
    """One clear line, and the model answers as before."""
    with serving(tmp_path, perceptron([4, 8, 3], tmp_path / "mlp.onnx")) as server, server.connect() as wire:
        for what in ("unload", "load"):
            answer = ask(wire, "POST", f"/v2/repository/models/mlp/{what}")
            assert (answer.status, "--allow-model-control" in answer.json()["error"]) == (400, True)
        assert wire.ask(raw_request("mlp", bytes(16))).status == 200
        register = ask(wire, "POST", "/v2/systemsharedmemory/region/a/register", {"key": "a", "byte_size": 1})
        assert (register.status, "--shared-memory" in register.json()["error"]) == (400, True)


def test_a_model_is_read_anew_while_it_is_asked(tmp_path: Path) -> None:
    """Loading swaps in what the file now holds; requests on the way get one model's answer or the other's."""
    path = perceptron([4, 8, 3], tmp_path / "mlp.onnx")
    with (
        serving(tmp_path, path, "--allow-model-control") as server,
        server.connect() as admin,
        server.connect() as wire,
    ):
        assert wire.ask(raw_request("mlp", bytes(16))).status == 200
        perceptron([4, 8, 5], tmp_path / "mlp.onnx")
        admin.send(b"POST /v2/repository/models/mlp/load HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        for _ in range(100_000):
            answer = wire.ask(raw_request("mlp", bytes(16)))
            assert answer.status == 200
            size = len(answer.body) - int(answer.headers["inference-header-content-length"])
            assert size in {12, 20}
            if size == 20:
                break
        assert size == 20
        assert admin.read().status == 200
        (tmp_path / "mlp.onnx").write_bytes(b"rubbish")
        answer = ask(admin, "POST", "/v2/repository/models/mlp/load")
        assert answer.status == 400
        assert str(tmp_path) not in answer.json()["error"]
        assert wire.ask(raw_request("mlp", bytes(16))).status == 200

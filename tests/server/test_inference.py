"""What an inference request may hold, and what each wrong one is told; through the server, as a client sees it."""

import gzip
import json
import zlib

import numpy as np
import pytest
from tests.server.sound import check_clean
from tests.servers import Server, json_request, raw_request

pytestmark = pytest.mark.usefixtures("sound")


def tensor(**changes: object) -> dict:
    return {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]} | changes


def request(**changes: object) -> dict:
    return {"inputs": [tensor(**changes)]}


WRONG = {
    "dtype": ("mlp", request(datatype="INT64"), "x"),
    "rank": ("mlp", request(shape=[4]), "x"),
    "shape": ("mlp", request(shape=[1, 5], data=[1] * 5), "x"),
    "too few": ("mlp", request(data=[1, 2, 3]), "x"),
    "negative dim": ("mlp", request(shape=[-1, 4]), "x"),
    "dim 2^63": ("mlp", request(shape=[2**63, 4]), "x"),
    "dim 1.0": ("mlp", request(shape=[1.0, 4]), "x"),
    "dim true": ("mlp", request(shape=[True, 4]), "x"),
    "dim null": ("mlp", request(shape=[None, 4]), "x"),
    "1000 dims": ("mlp", request(shape=[1] * 1000), "x"),
    "batch of 0": ("mlp", request(shape=[0, 4], data=[]), "x"),
    "unknown input": ("mlp", {"inputs": [tensor(), tensor(name="z")]}, "z"),
    "missing input": ("mlp", {"inputs": []}, "x"),
    "repeated input": ("mlp", {"inputs": [tensor(), tensor()]}, "x"),
    "unknown output": ("mlp", request() | {"outputs": [{"name": "q"}]}, "q"),
    "NaN": ("mlp", '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[NaN,1,1,1]}]}', ""),
    "1e400": ("mlp", '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1e400,1,1,1]}]}', ""),
    "INT8 300": ("ints", request(datatype="INT8", data=[300, 0, 0, 0]), "x"),
    "ragged": ("mlp", request(data=[[1, 2], [3]]), "x"),
    "text": ("mlp", request(data=["1", "2", "3", "4"]), "x"),
    "not JSON": ("mlp", "hello", ""),
    "not an object": ("mlp", "[1]", ""),
    "not UTF-8": ("mlp", b'{"inputs":"\xff"}', ""),
    "deep": ("mlp", '{"inputs":' + "[" * 250_000 + "]" * 250_000 + "}", ""),
    "empty": ("mlp", "", ""),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests(server: Server, name: str) -> None:
    """400, naming what is wrong where there is a name; nothing wrapped, nothing guessed."""
    model, body, named = WRONG[name]
    with server.connect() as wire:
        answer = wire.ask(json_request(model, body))
        assert answer.status == 400, answer.body[:200]
        assert named in check_clean(answer)
        assert wire.ask(json_request("mlp", request())).status == 200


@pytest.mark.parametrize("value", ["-1", "x", "99999999", "1e3", ""])
def test_wrong_header_lengths(server: Server, value: str) -> None:
    """Negative, no number, or past the body: 400."""
    body = json.dumps(request()).encode()
    lines = ["POST /v2/models/mlp/infer HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"Inference-Header-Content-Length: {value}", "", ""]
    with server.connect() as wire:
        assert wire.ask("\r\n".join(lines).encode() + body).status == 400


def test_a_binary_body_without_its_header_is_refused(server: Server) -> None:
    """Bytes that are not JSON are not guessed to be a tensor."""
    body = np.ones(4, np.float32).tobytes()
    with server.connect() as wire:
        lines = ["POST /v2/models/mlp/infer HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", "", ""]
        assert wire.ask("\r\n".join(lines).encode() + body).status == 400


@pytest.mark.parametrize("size", [1, 15, 17])
def test_raw_bodies_of_a_wrong_size(server: Server, size: int) -> None:
    """Not a whole number of rows: 400, naming the input."""
    with server.connect() as wire:
        answer = wire.ask(raw_request("mlp", bytes(size)))
        assert answer.status == 400
        assert "x" in answer.json()["error"]


def test_raw_bodies_need_a_model_with_one_input(server: Server) -> None:
    """Nobody can say which bytes are whose."""
    with server.connect() as wire:
        assert wire.ask(raw_request("pair", bytes(16))).status == 400


@pytest.mark.parametrize("length", [1, 3, 1000])
def test_raw_bodies_of_a_free_length(server: Server, length: int) -> None:
    """Of a model that takes [batch, length] the whole body is one row, as Triton has it."""
    row = np.arange(length, dtype=np.float32)
    with server.connect() as wire:
        answer = wire.ask(raw_request("sequence", row.tobytes()))
        assert answer.status == 200, answer.body
        size = int(answer.headers["inference-header-content-length"])
        shapes = {output["name"]: output["shape"] for output in json.loads(answer.body[:size])["outputs"]}
        assert shapes == {"double": [1, length], "total": [1, 1]}
        assert answer.body[size:] == (2 * row).tobytes() + row.sum(keepdims=True).tobytes()
        check_clean(wire.ask(raw_request("sequence", row.tobytes() + b"x")))


def test_gzip_bodies(server: Server) -> None:
    """Inflated under the limit; a bomb is 413, rubbish 400, other codings 415."""
    body = gzip.compress(json.dumps(request()).encode())
    with server.connect() as wire:
        assert wire.ask(json_request("mlp", body, "Content-Encoding: gzip")).status == 200
        bomb = gzip.compress(b" " * 2_000_000)
        assert wire.ask(json_request("mlp", bomb, "Content-Encoding: gzip")).status == 413
        assert wire.ask(json_request("mlp", b"no gzip", "Content-Encoding: gzip")).status == 400
        assert wire.ask(json_request("mlp", body[:-9], "Content-Encoding: gzip")).status == 400
        assert wire.ask(json_request("mlp", body, "Content-Encoding: br")).status == 415


def test_nan_comes_back_as_null_in_json_and_exactly_in_binary(server: Server) -> None:
    """JSON has no NaN; bytes do."""
    row = np.zeros(1000, np.float32)
    row[:2] = np.nan, np.inf
    with server.connect() as wire:
        binary = wire.ask(raw_request("echo", row.tobytes()))
        assert binary.body.endswith(row.tobytes())
        meta = {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1000], "parameters": {"binary_data_size": 4000}}]
        }
        lead = json.dumps(meta).encode()
        lines = ["POST /v2/models/echo/infer HTTP/1.1", "Host: x", f"Content-Length: {len(lead) + 4000}"]
        lines += [f"Inference-Header-Content-Length: {len(lead)}", "", ""]
        answer = wire.ask("\r\n".join(lines).encode() + lead + row.tobytes())
        assert answer.status == 200
        assert answer.json()["outputs"][0]["data"][:3] == [None, None, 0.0]


def test_an_expired_request_gets_an_error(server: Server) -> None:
    """A timeout of a microsecond cannot be met: 503 or 504, and never an answer that is late."""
    body = request() | {"parameters": {"timeout": 1}}
    with server.connect() as wire:
        assert wire.ask(json_request("mlp", body)).status in {503, 504}
        assert wire.ask(json_request("mlp", request() | {"parameters": {"timeout": "soon"}})).status == 400


def binary_request(model: str, meta: dict, data: bytes, json_size: int | None = None) -> bytes:
    lead = json.dumps(meta).encode()
    lines = [f"POST /v2/models/{model}/infer HTTP/1.1", "Host: x", f"Content-Length: {len(lead) + len(data)}"]
    lines += [f"Inference-Header-Content-Length: {len(lead) if json_size is None else json_size}", "", ""]
    return "\r\n".join(lines).encode() + lead + data


@pytest.mark.parametrize("size", [0, 8, 15, 17, 32])
def test_binary_sizes_that_do_not_add_up(server: Server, size: int) -> None:
    """What the JSON says, what the shape takes and what follows must be one number."""
    meta = {"inputs": [tensor(parameters={"binary_data_size": size})]}
    del meta["inputs"][0]["data"]
    with server.connect() as wire:
        check_clean(wire.ask(binary_request("mlp", meta, bytes(size))))
        meta["inputs"][0]["parameters"] = {"binary_data_size": 16}
        if size:
            assert wire.ask(binary_request("mlp", meta, bytes(size))).status == 400


def big_meta(rows: int = 1, **more: object) -> dict:
    parameters = {"binary_data_size": 200_000 * rows}
    return {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, 50_000], "parameters": parameters}],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    } | more


@pytest.mark.parametrize("cut", [10, 90, 250, 400, 70_000, 200_100])
def test_large_binary_bodies(server: Server, cut: int) -> None:
    """A tensor behind its JSON comes back bit for bit wherever the network cuts it, one row or several."""
    for rows in (1, 3):
        values = np.random.default_rng(cut).standard_normal((rows, 50_000)).astype(np.float32)
        request = binary_request("big", big_meta(rows, id="seven"), values.tobytes())
        with server.connect() as wire:
            wire.send(request[:cut])
            wire.send(request[cut:])
            answer = wire.read()
        size = int(answer.headers["inference-header-content-length"])
        head = json.loads(answer.body[:size])
        assert (answer.status, head["id"], head["outputs"][0]["shape"]) == (200, "seven", [rows, 50_000])
        assert answer.body[size:] == values.tobytes()


def test_large_binary_bodies_that_are_wrong(server: Server) -> None:
    """They are told what every body is told, and cost the connection nothing."""
    wrong = big_meta()
    wrong["inputs"][0]["shape"] = [1, 50_001]
    with server.connect() as wire:
        assert "x" in check_clean(wire.ask(binary_request("big", wrong, bytes(200_000))))
        check_clean(wire.ask(binary_request("big", big_meta(parameters={"timeout": "soon"}), bytes(200_000))))
        check_clean(wire.ask(binary_request("big", {"inputs": 3}, bytes(200_000))))
        assert wire.ask(binary_request("big", big_meta(), bytes(200_000))).status == 200
        values = np.ones(250_000, np.float32).tobytes()
        assert wire.ask(binary_request("big", big_meta(5), values)).status == 200


def test_free_dimensions_may_be_empty(server: Server) -> None:
    """A sequence of length 0 is the model's to take; a batch of 0 is nobody's."""
    empty = {"name": "x", "datatype": "FP32", "shape": [1, 0], "data": []}
    with server.connect() as wire:
        answer = wire.ask(json_request("sequence", {"inputs": [empty]}))
        assert answer.status == 200, answer.body
        shapes = {output["name"]: output["shape"] for output in answer.json()["outputs"]}
        assert shapes == {"double": [1, 0], "total": [1, 1]}
        check_clean(wire.ask(json_request("sequence", {"inputs": [empty | {"shape": [0, 3]}]})))


def test_a_failing_request_costs_only_itself(server: Server) -> None:
    """Indices outside the table make the engine raise: 500 for them, and their neighbours in the batch are answered."""
    wires = [server.connect() for _ in range(32)]
    for number, wire in enumerate(wires):
        wire.send(raw_request("gather", np.array([99 if number % 4 == 0 else number % 5], np.int64).tobytes()))
    for number, wire in enumerate(wires):
        with wire:
            answer = wire.read()
            if number % 4 == 0:
                assert answer.status == 500
                check_clean(answer)
            else:
                row = np.frombuffer(answer.body[-12:], np.float32)
                assert (answer.status, row[0]) == (200, number % 5 * 3)


def test_over_the_largest_batch_in_json(server: Server) -> None:
    """A JSON request of 100 rows is split, computed and put together again in order."""
    x = np.arange(400, dtype=np.float32).reshape(100, 4)
    with server.connect() as wire:
        answer = wire.ask(json_request("mlp", request(shape=[100, 4], data=x.ravel().tolist())))
        last = wire.ask(json_request("mlp", request(data=x[99].tolist())))
    got = np.array(answer.json()["outputs"][0]["data"]).reshape(100, 3)
    np.testing.assert_allclose(got[99], last.json()["outputs"][0]["data"], rtol=1e-5)


@pytest.mark.parametrize("coding", ["", "gzip", "deflate"])
def test_large_json_both_ways(server: Server, coding: str) -> None:
    """Two hundred thousand numbers, read and written in steps, come back doubled, and the next request is right."""
    values = np.random.default_rng(0).integers(-99, 99, 200_000).astype(np.float32)
    meta = {"name": "x", "datatype": "FP32", "shape": [2, 100_000], "data": values.astype(int).reshape(2, -1).tolist()}
    body = json.dumps({"id": "a", "inputs": [meta], "outputs": [{"name": "double"}]}, separators=(",", ":")).encode()
    headers = [f"Content-Encoding: {coding}"] if coding else []
    packed = {"gzip": gzip.compress, "deflate": zlib.compress}.get(coding, bytes)(body)
    with server.connect() as wire:
        wire.send(json_request("sequence", packed, *headers) + json_request("mlp", request()))
        answer = wire.read()
        assert answer.status == 200, answer.body[:200]
        assert answer.json()["id"] == "a"
        assert answer.json()["outputs"][0]["data"] == (2 * values).tolist()
        assert wire.read().status == 200


def test_a_client_that_leaves_while_its_large_body_is_read(server: Server) -> None:
    """What was read and charged is given back: the fixture sees it."""
    body = json.dumps({"inputs": [tensor(shape=[1, 300_000], data=[0] * 300_000)]}).encode()
    for packed, headers in ((body, []), (gzip.compress(body), ["Content-Encoding: gzip"])):
        for _ in range(5):
            with server.connect() as wire:
                wire.send(json_request("sequence", packed, *headers))


def test_more_rows_than_the_queue_can_hold(server: Server) -> None:
    """413 with the limit and the option, in every form, and never when to try again: it could never be answered."""
    rows = np.ones((1100, 4), np.float32)
    forms = [
        raw_request("mlp", rows.tobytes()),
        json_request("mlp", request(shape=[1100, 4], data=rows.tolist())),
        json_request("sequence", request(shape=[1100, 4], data=rows.tolist())),
    ]
    with server.connect() as wire:
        for number, data in enumerate(forms):
            answer = wire.ask(data)
            if number == 2:  # without rows of fixed size, it runs alone where nothing waits
                assert answer.status == 200
                continue
            assert answer.status == 413
            assert "retry-after" not in answer.headers
            assert "1100 rows" in check_clean(answer)
            assert "--queue" in check_clean(answer)

"""Addresses, what a server says of its models, and inputs that fit."""

from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import perceptron
from tests.servers import serving

from tailcut.engines.samples import likely_samples
from tailcut.errors import UsageError
from tailcut.lab.describe import (
    parse_headers,
    parse_target,
    parse_url,
    raw_payload,
    rows_of_data,
    served_models,
    served_samples,
    served_spec,
)
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import ask, infer_once
from tailcut.spec import DType, ModelSpec, TensorSpec

SPEC = ModelSpec(
    "m",
    (
        TensorSpec("x", DType.FP32, (None, 3)),
        TensorSpec("ids", DType.INT64, (None, None)),
        TensorSpec("text", DType.BYTES, (None, 1)),
    ),
    (TensorSpec("y", DType.FP32, (None, 1)),),
)


@pytest.mark.parametrize(
    ("url", "target", "path"),
    [
        ("http://127.0.0.1:9000", LoadTarget("127.0.0.1", 9000), ""),
        ("127.0.0.1:9000", LoadTarget("127.0.0.1", 9000), ""),
        ("http://localhost/", LoadTarget("localhost", 80), ""),
        ("http://[::1]:9000/a/b?c=d", LoadTarget("::1", 9000), "/a/b?c=d"),
        ("http+unix:///run/a b", LoadTarget(uds="/run/a b"), ""),
        ("http+unix://%2Frun%2Fa%20b", LoadTarget(uds="/run/a b"), ""),
        ("http+unix://%2Frun%2Fa/infer", LoadTarget(uds="/run/a"), "/infer"),
    ],
)
def test_addresses(url: str, target: LoadTarget, path: str) -> None:
    """Hosts with and without port and scheme, IPv6, and Unix sockets plain or percent-encoded; the path behind."""
    assert parse_url(url) == (target, path)
    assert parse_target(url) == target


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://127.0.0.1:1", "is not http://HOST:PORT, https://HOST:PORT, .*, grpc://HOST:PORT or grpcs://HOST:PORT$"),
        ("http://127.0.0.1:99999", "is not http://HOST:PORT"),
        ("http://", "is not http://HOST:PORT"),
        ("http://[::1", "is not http://HOST:PORT"),
        ("grpc://[::1", "is not http://HOST:PORT"),
        ("grpc://127.0.0.1:1/m", "is not grpc://HOST:PORT"),
        ("http+unix://", "is not http://HOST:PORT"),
        ("http://192.0.2.1:80", "--allow-remote"),
        ("http://no-such-host.invalid", "no such host"),
        ("embed.py:pipeline", "is a pipeline, .*: run tailcut serve embed.py:pipeline, then tailcut bench http://127"),
        (__file__, "is a file, not the address of a running server: run tailcut serve "),
    ],
)
def test_addresses_that_are_none(url: str, words: str) -> None:
    """Each is refused in a line that says what would do."""
    with pytest.raises(UsageError, match=words):
        parse_target(url)


def test_another_machine_only_when_allowed() -> None:
    """Load goes to this machine unless the user says that it may leave."""
    assert parse_target("http://192.0.2.1:80", allow_remote=True) == LoadTarget("192.0.2.1", 80)


def test_a_server_describes_its_models(target: LoadTarget) -> None:
    """Names, and the signature of one with its free dimensions."""
    assert sorted(served_models(target)) == ["mlp", "pair"]
    spec = served_spec(target, "mlp")
    assert spec == ModelSpec(
        "mlp", (TensorSpec("x", DType.FP32, (None, 4)),), (TensorSpec("y", DType.FP32, (None, 3)),)
    )


def test_several_models_need_a_name(target: LoadTarget) -> None:
    """The refusal lists them."""
    with pytest.raises(UsageError, match=r"2 models \(.*mlp.*\): name one with --model"):
        served_spec(target, None)


@pytest.mark.parametrize("model", ["mlp", "pair"])
def test_made_up_requests_are_taken(target: LoadTarget, model: str) -> None:
    """What is found by asking is what the server of that model accepts, for any number of rows."""
    spec = served_spec(target, model)
    samples = served_samples(target, spec)
    for rows in (1, 3):
        outputs = infer_once(target, model, samples.make(rows, 5))
        assert {len(array) for array in outputs.values()} == {rows}


def test_likely_requests_are_seeded_and_fit() -> None:
    """Every dtype in the model's shape; the same for the same seed."""
    samples = likely_samples(SPEC)
    inputs = samples.make(2, 1)
    assert {name: (array.shape, array.dtype) for name, array in inputs.items()} == {
        "x": ((2, 3), np.float32),
        "ids": ((2, 16), np.int64),
        "text": ((2, 1), object),
    }
    np.testing.assert_array_equal(inputs["x"], samples.make(2, 1)["x"])
    assert (inputs["x"] != samples.make(2, 2)["x"]).any()


def test_rows_of_data_are_single_requests() -> None:
    """A data file's rows become one-row requests, up to the limit; labels and other arrays are left out."""
    data = {
        "x": np.arange(15, dtype=np.float32).reshape(5, 3),
        "ids": np.zeros((5, 2), np.int64),
        "text": np.array([["a"]] * 5),
        "labels": np.arange(5),
    }
    rows = rows_of_data(SPEC, data, 4)
    assert len(rows) == 4
    assert set(rows[0]) == {"x", "ids", "text"}
    np.testing.assert_array_equal(rows[2]["x"], [[6, 7, 8]])
    pairs = rows_of_data(SPEC, data, 64, rows=2)
    assert len(pairs) == 2
    np.testing.assert_array_equal(pairs[1]["x"], [[6, 7, 8], [9, 10, 11]])


IDS = ModelSpec("m", (TensorSpec("ids", DType.INT64, (None, None)),), (TensorSpec("y", DType.FP32, (None, 1)),))


def test_rows_of_one_length_come_from_several_groups(caplog: pytest.LogCaptureFixture) -> None:
    """Groups of the same length are one, in the order of the file; lengths with too few rows are left out."""
    data = {f"ids/{group}": np.full((5, 3), group) for group in range(20)}
    data |= {"ids/20": np.zeros((31, 9), np.int64), "ids/21": np.zeros(2, np.int64)}
    requests = rows_of_data(IDS, data, 64, rows=32)
    assert [request["ids"].shape for request in requests] == [(32, 3)] * 3
    np.testing.assert_array_equal(requests[0]["ids"][:, 0], np.arange(32) // 5)
    assert caplog.messages == ["32 of 132 rows are left out: their lengths have fewer than 32"]


def test_lines_of_strings_are_of_one_length() -> None:
    """Two hundred texts of any length are six requests of 32 and a rest."""
    spec = ModelSpec("m", (TensorSpec("text", DType.BYTES, (None,)),), (TensorSpec("y", DType.FP32, (None, 1)),))
    requests = rows_of_data(spec, {f"text/{line}": np.array("a" * line) for line in range(1, 201)}, 64, rows=32)
    assert len(requests) == 6
    assert requests[1]["text"].tolist() == ["a" * line for line in range(33, 65)]


def test_no_length_has_rows_enough() -> None:
    """The message has what is wanted and the most that there is of one length."""
    data = {f"ids/{length}": np.zeros((length, length), np.int64) for length in (3, 5, 4)}
    with pytest.raises(UsageError, match="a request needs 8 rows of one length, and the data file has at most 5 of"):
        rows_of_data(IDS, data, 64, rows=8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": None}, "no array 'x'"),
        ({"x": np.zeros((5, 3), "S1")}, r"'x' of the data file is \|S1 \[5, 3\], the model takes FP32"),
        ({"x": np.zeros((5, 4), np.float32)}, r"float32 \[5, 4\], the model takes"),
        ({"x": np.zeros((0, 3), np.float32)}, "no rows"),
    ],
)
def test_data_that_does_not_fit(change: dict, words: str) -> None:
    """The message names the array, what it is and what the model takes."""
    data = {"x": np.zeros((5, 3), np.float32), "ids": np.zeros((5, 2), np.int64), "text": np.array([["a"]] * 5)}
    data = {name: array for name, array in (data | change).items() if array is not None}
    with pytest.raises(UsageError, match=words):
        rows_of_data(SPEC, data, 10)


def test_any_request_of_any_server(tmp_path: Path) -> None:
    """A file's bytes as they are, the headers given, and the status that counts as good."""
    body = tmp_path / "body"
    body.write_bytes(b"\0\r\n")
    target = LoadTarget("127.0.0.1", 80, headers=tuple(parse_headers(["X-A: b", "X-C:d"]).items()))
    payload = raw_payload(target, "/p?q=1", body, 202)
    assert payload.request == (
        b"POST /p?q=1 HTTP/1.1\r\nHost: 127.0.0.1:80\r\nContent-Length: 3\r\nX-A: b\r\nX-C: d\r\n\r\n\0\r\n"
    )
    assert payload.expect_status == 202
    assert raw_payload(target, "", None, 200).request.startswith(b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize("header", ["no colon", "a b: c", "X: a\r\nY: b", ": v", "X: ä"])
def test_headers_that_are_none(header: str) -> None:
    """A header cannot smuggle in another line."""
    with pytest.raises(UsageError, match="is not a header"):
        parse_headers([header])


def test_headers_as_metadata() -> None:
    """Names in gRPC are of small letters; those of binary values and of gRPC itself are refused."""
    assert parse_headers(["X-Api-Key: 1"], grpc=True) == {"x-api-key": "1"}
    for name in ("grpc-timeout", "trace-bin", "x!"):
        with pytest.raises(UsageError, match=f"--header {name}: gRPC has no such metadata"):
            parse_headers([f"{name}: 1"], grpc=True)


def test_a_body_that_is_not_there(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(UsageError, match=r"none: No such file"):
        raw_payload(LoadTarget(), "/", tmp_path / "none", 200)


def test_a_model_counts_once_however_many_versions_it_has(tmp_path: Path) -> None:
    """And not at all when it is unloaded: the one that is left needs no name; over gRPC too."""
    churn, other = perceptron([4, 3], tmp_path / "churn.onnx"), perceptron([4, 2], tmp_path / "other.onnx")
    sources = [f"churn:1={churn}", f"churn:2={churn}", other, "--allow-model-control", "--grpc-port", "0"]
    with serving(tmp_path, *sources) as server:
        http = LoadTarget(server.host, server.port)
        grpc = LoadTarget(server.host, server.grpc_port, grpc=True)
        for target in (http, grpc):
            assert sorted(served_models(target)) == ["churn", "other"]
        ask(http, "POST", "/v2/repository/models/other/unload")
        for target in (http, grpc):
            assert served_models(target) == ["churn"]
            assert served_spec(target, None).name == "churn"

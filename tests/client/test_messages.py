"""Calls as bytes, and answers as outputs and errors."""

import numpy as np
import pytest
from tests.client.peers import reply
from tests.wire.http1.answering import read

from tailcut.client.answers import error_of, outputs_of
from tailcut.client.policy import FailedError
from tailcut.client.requests import Encoder, InferenceCall, ServerAddress, trace_lines
from tailcut.errors import (
    DeadlineExceededError,
    EngineError,
    InvalidInputError,
    NotFoundError,
    QueueFullError,
    TailcutError,
    TooLargeError,
    UnreachableError,
)


def test_a_large_answer() -> None:
    """A body over the reader's own room is received into the answer's memory, and its arrays are writable."""
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    lead = b'{"outputs":[{"name":"y","datatype":"FP32","shape":[100000],"parameters":{"binary_data_size":400000}}]}'
    data = reply(200, lead + values.tobytes(), f"Inference-Header-Content-Length: {len(lead)}")
    y = outputs_of(read(data, 60_000)[0])["y"]
    np.testing.assert_array_equal(y, values)
    y[0] = 7


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidInputError),
        (404, NotFoundError),
        (408, DeadlineExceededError),
        (413, TooLargeError),
        (429, QueueFullError),
        (500, EngineError),
        (501, FailedError),
        (502, UnreachableError),
        (503, QueueFullError),
        (504, DeadlineExceededError),
        (418, TailcutError),
    ],
)
def test_errors(status: int, kind: type) -> None:
    """Each status is an error of its kind with the server's words; without words, the status is named."""
    error = error_of(read(reply(status, b'{"error": "said so"}', "Retry-After: 7"), 1000)[0])
    assert type(error) is kind
    assert str(error) == "said so"
    if isinstance(error, QueueFullError):
        assert error.retry_after_s == 7
        finer = reply(status, b"", "Retry-After: 0", "Retry-After-Ms: 12")
        assert error_of(read(finer, 1000)[0]).retry_after_s == 0.012
    if status == 429:
        assert type(error_of(read(reply(429, b""), 1000)[0])) is TailcutError
    assert str(status) in str(error_of(read(reply(status, b"<html>"), 1000)[0]))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"detail": "no such model"}', "no such model"),
        (
            b'{"detail": [{"loc": ["body", 0], "msg": "required", "type": "missing"}, {"msg": "x"}]}',
            "body.0: required; x",
        ),
        (b'{"error": {"code": 1, "message": "boom"}}', "boom"),
        (b'{"message": "boom"}', "boom"),
        (b'{"error": "first", "detail": "second"}', "first"),
        (b'{"error": "", "detail": null}', "the server answers with status 400"),
        (b'{"error":' * 900 + b"1" + b"}" * 900, "the server answers with status 400"),
        (b"[1, 2]", "the server answers with status 400"),
    ],
)
def test_words_of_other_servers(body: bytes, message: str) -> None:
    """Wherever they stand."""
    assert str(error_of(read(reply(400, body), 20_000)[0])) == message


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://h:1", ServerAddress("h", 1)),
        ("h:1", ServerAddress("h", 1)),
        ("https://h:1", ServerAddress("h", 1, tls=True)),
        ("https://h", ServerAddress("h", 443, tls=True)),
        ("http://h/", ServerAddress("h", 80)),
        ("http://[::1]:9", ServerAddress("::1", 9)),
        ("unix:/a/b", ServerAddress(uds="/a/b")),
    ],
)
def test_addresses(url: str, address: ServerAddress) -> None:
    """Host and port with or without the scheme, with TLS, IPv6, or a Unix socket's path."""
    assert ServerAddress.parse(url) == address


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://h:1", "http://", "http://h:port", "http://h:1/path", "http://h:99999", "", "http://h:1#a"),
        *("http://a..b:80", f"http://{'a' * 64}.b:80", "http://.a:80", "http://a b:80", "http://a\0b:80"),
    ],
)
def test_bad_addresses(url: str) -> None:
    """The error says how to write an address."""
    with pytest.raises(InvalidInputError, match="HOST:PORT"):
        ServerAddress.parse(url)


@pytest.mark.parametrize("url", ["http://user:pass@h:1", "https://user@h", "user:pass@h:1", "http://:pass@h"])
def test_an_address_with_a_user(url: str) -> None:
    """Nothing would be sent of it; the message has the way that there is, and no password."""
    with pytest.raises(InvalidInputError, match=r"user or a password.* token=") as caught:
        ServerAddress.parse(url)
    assert "pass@" not in str(caught.value)


def test_arrays_are_sent_as_they_stand() -> None:
    """A contiguous array is not copied; any other is sent in row-major order, little-endian."""
    encoder = Encoder("127.0.0.1:8000")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    parts = encoder.infer(InferenceCall("m", {"x": x}))
    assert np.shares_memory(np.frombuffer(parts[1], np.uint8), x)
    for other in (np.asfortranarray(x), x.astype(">f4"), np.repeat(x, 2, 1)[:, ::2]):
        again = encoder.infer(InferenceCall("m", {"x": other}))
        assert bytes(again[1]) == x.tobytes()
        assert again[0] == parts[0]


def test_strings_there_and_back() -> None:
    """Text and bytes are sent behind their lengths; a BYTES output comes back as bytes."""
    parts = Encoder("127.0.0.1:8000").infer(InferenceCall("m", {"x": np.array([["a", "\u00fc"]], object)}))
    sent = bytes(parts[1])
    assert sent == b"\x01\0\0\0a\x02\0\0\0\xc3\xbc"
    lead = b'{"outputs":[{"name":"y","datatype":"BYTES","shape":[1,2],"parameters":{"binary_data_size":11}}]}'
    (answer,) = read(reply(200, lead + sent, f"Inference-Header-Content-Length: {len(lead)}"), 1000)
    assert outputs_of(answer)["y"].tolist() == [[b"a", b"\xc3\xbc"]]


def test_a_dtype_without_a_name() -> None:
    """It is refused before anything is sent."""
    with pytest.raises(InvalidInputError, match=r"'x'.*complex128"):
        Encoder("127.0.0.1:8000").infer(InferenceCall("m", {"x": np.ones(1, np.complex128)}))


def test_a_trace_context_stands_at_the_end_of_the_head() -> None:
    """Of the one call that it is for: the head that is kept has none."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    encoder, inputs = Encoder(ServerAddress()), {"x": np.float32([[1, 2]])}
    plain = encoder.infer(InferenceCall("m", inputs))
    traced = encoder.infer(InferenceCall("m", inputs, trace=trace_lines(trace)))
    assert b"".join(traced) == b"".join(plain).replace(b"\r\n\r\n", f"\r\ntraceparent: {trace}\r\n\r\n".encode(), 1)
    assert encoder.infer(InferenceCall("m", inputs))[0] == plain[0]
    assert b"".join(encoder.infer(InferenceCall("m", inputs, trace=trace_lines()))) == b"".join(plain)
    for wrong in ("", "00-1", trace.upper(), f"{trace}\r\nX: 1", "\u00e9"):
        with pytest.raises(InvalidInputError, match="not a W3C traceparent"):
            trace_lines(wrong)

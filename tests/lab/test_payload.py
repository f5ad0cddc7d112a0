"""Encoded requests, understood by a real server on every wire."""

import numpy as np
import pytest
from tests.lab.scripted import scripted
from tests.servers import Server

from tailcut.errors import TailcutError, UsageError
from tailcut.lab.client import closed_loop
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import ask, encode, infer_once, infer_payload

PAIR = {"a": np.ones((1, 4), np.float32), "b": np.zeros((1, 4), np.float32)}


@pytest.mark.parametrize("wire", ["binary", "json", "raw"])
def test_each_wire_is_answered(target: LoadTarget, wire: str) -> None:
    """JSON, binary and raw requests of one model are all answered with 200."""
    payload = infer_payload(target, "mlp", {"x": np.ones((2, 4), np.float32)}, wire)
    result = closed_loop(target, [payload], concurrency=1, duration_s=0.1)
    assert result.errors == {}
    assert result.samples > 0


def test_the_unix_socket_answers_like_the_port(target: LoadTarget, unix_target: LoadTarget) -> None:
    """The same outputs, and load goes over either."""
    x = {"x": np.arange(4, dtype=np.float32)[None]}
    np.testing.assert_array_equal(infer_once(target, "mlp", x)["y"], infer_once(unix_target, "mlp", x)["y"])
    result = closed_loop(unix_target, [infer_payload(unix_target, "mlp", x, "raw")], concurrency=2, duration_s=0.1)
    assert result.errors == {}
    assert result.samples > 0


def test_a_raw_body_holds_one_input(target: LoadTarget) -> None:
    """Two inputs cannot go raw, and the message names what can be used instead."""
    with pytest.raises(UsageError, match="--wire binary or json"):
        infer_payload(target, "pair", PAIR, "raw")


def test_encode_writes_the_head_once(target: LoadTarget) -> None:
    """Method, path, length and headers, an empty line, then the body as it is."""
    payload = encode(LoadTarget("127.0.0.1", 80), "PUT", "/a?b=c", b"\r\n\0", {"X-Key": "v"})
    assert payload.request == (
        b"PUT /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:80\r\nContent-Length: 3\r\nX-Key: v\r\n\r\n\r\n\0"
    )
    assert payload.expect_status == 200


def test_ask_says_what_went_wrong(server: Server, target: LoadTarget) -> None:
    """A refusal in the server's own words; silence and other talk by their names."""
    with pytest.raises(UsageError, match=r"answers 404: .*nope"):
        ask(target, "GET", "/v2/models/nope")
    with pytest.raises(UsageError, match="did not answer in JSON"):
        ask(target, "GET", "/metrics")

    async def hang_up(number, writer) -> None:
        writer.close()

    with scripted(hang_up) as rude, pytest.raises(UsageError, match="no server answers at"):
        ask(rude, "POST", "/")


def test_infer_once_repeats_the_servers_refusal(target: LoadTarget) -> None:
    """A wrong shape comes back as an error with the server's message."""
    with pytest.raises(TailcutError, match="answers 400"):
        infer_once(target, "mlp", {"x": np.ones((1, 5), np.float32)})


def test_a_host_of_ones_own() -> None:
    """A gateway finds the model by it, so it takes the place of the address."""
    target = LoadTarget("127.0.0.1", 80, headers=(("host", "digits.example"),))
    assert encode(target, "GET", "/").request == (
        b"GET / HTTP/1.1\r\nContent-Length: 0\r\nhost: digits.example\r\n\r\n"
    )

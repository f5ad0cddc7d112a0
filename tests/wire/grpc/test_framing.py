"""gRPC's own framing: messages in pieces, compressed or too long, timeouts, and the fields that end a call."""

import gzip
import zlib

import hpack
import pytest
from tests import frames as h2

from tailcut.wire.grpc.framing import (
    ANSWER_END,
    ANSWER_HEAD,
    CALLS,
    CallError,
    CallHead,
    CallPlan,
    Messages,
    Status,
    error_end,
    percent_encoded,
    prefixed,
)
from tailcut.wire.http2.fields import HeaderBlocks


def read(**more: str) -> CallHead:
    return HeaderBlocks(CALLS).request(hpack.Encoder().encode(h2.fields("/s/m", **more)))[0]


def test_a_call() -> None:
    """Path, deadline, compression and the metadata that the server looks at."""
    head = read(grpc_timeout="20m", grpc_encoding="gzip", authorization="Bearer x", traceparent="00-1")
    assert head == CallHead(CallPlan("/s/m", b"gzip", "Bearer x"), 20_000_000, b"00-1")
    assert read().timeout_ns == 0


@pytest.mark.parametrize(
    ("text", "timeout_ns"),
    [("1H", 3600 * 10**9), ("2M", 120 * 10**9), ("3S", 3 * 10**9), ("4m", 4 * 10**6), ("5u", 5000), ("0n", 1)],
)
def test_timeouts(text: str, timeout_ns: int) -> None:
    """Every unit; one that has passed already is the shortest there is, not none."""
    assert read(grpc_timeout=text).timeout_ns == timeout_ns


@pytest.mark.parametrize("text", ["1", "S", "-1S", "123456789S", "1s", "1 S", ""])
def test_timeouts_that_are_none(text: str) -> None:
    """The call is answered with what is wrong."""
    error = read(grpc_timeout=text).error
    assert error is not None
    assert error.status is Status.INVALID_ARGUMENT


def test_what_is_no_call() -> None:
    """Another method or content is refused in HTTP's own words, unknown compression in gRPC's."""
    fields = h2.fields()
    for name, value, status in (
        (":method", "GET", b"405"),
        ("content-type", "text/html", b"415"),
        ("content-type", "application/grpc-web", b"415"),
    ):
        changed = [(key, value if key == name else old) for key, old in fields]
        refused = HeaderBlocks(CALLS).request(hpack.Encoder().encode(changed))[0].plan.refused
        assert refused is not None
        assert (b":status", status) in hpack.Decoder().decode(refused, raw=True)
    error = read(grpc_encoding="br").error
    assert error is not None
    assert error.status is Status.UNIMPLEMENTED
    assert read(content_type="application/grpc+proto").plan.refused is None


def test_blocks_of_answers() -> None:
    """What we encode once, another library decodes; an error before any message carries the head with it."""
    decode = hpack.Decoder().decode
    assert dict(decode(ANSWER_HEAD)) == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-accept-encoding": "identity,deflate,gzip",
    }
    assert dict(decode(ANSWER_END)) == {"grpc-status": "0"}
    text = dict(decode(error_end(Status.UNAVAILABLE, "full: 100 %, é", 3)))
    assert text[":status"] == "200"
    assert (text["grpc-status"], text["retry-after"]) == ("14", "3")
    assert text["grpc-message"] == "full: 100 %25, %C3%A9"
    assert ":status" not in dict(decode(error_end(Status.INTERNAL, "x", begun=True)))
    assert len(error_end(Status.INTERNAL, "\U0001f600" * 5000)) < 16384


def test_percent_encoding() -> None:
    """Printable ASCII but % stays, lines do not break a field, and what is no text is not sent."""
    assert percent_encoded("a b~") == b"a b~"
    assert percent_encoded("a\r\nb%") == b"a%0D%0Ab%25"
    assert percent_encoded(" \ud800 ") == b"?"


def test_messages_in_pieces() -> None:
    """Cut anywhere, the messages are the same; an empty one is one too."""
    data = b"".join(prefixed(message) for message in (b"one", b"", b"three" * 100))
    for step in (1, 3, 7, 1000):
        messages, result = Messages(1000, b"identity"), []
        for at in range(0, len(data), step):
            messages.feed(data[at : at + step])
            while (message := messages.take()) is not None:
                result.append(message)
        assert result == [b"one", b"", b"three" * 100]
        assert messages.empty
        assert messages.held == 0


def test_a_message_over_the_limit_is_refused_by_its_first_bytes() -> None:
    """RESOURCE_EXHAUSTED, before the rest is received; until then it counts as what it announces."""
    messages = Messages(10, b"identity")
    messages.feed(prefixed(bytes(10))[:5])
    assert (messages.take(), messages.held) == (None, 15)
    messages = Messages(10, b"identity")
    with pytest.raises(CallError) as caught:
        messages.feed(prefixed(bytes(11))[:5])
    assert caught.value.status is Status.RESOURCE_EXHAUSTED


def test_a_message_over_the_limit_behind_a_good_one() -> None:
    """The good one is taken first."""
    messages = Messages(10, b"identity")
    messages.feed(prefixed(b"good") + prefixed(bytes(11))[:5])
    assert messages.take() == b"good"
    with pytest.raises(CallError) as caught:
        messages.take()
    assert caught.value.status is Status.RESOURCE_EXHAUSTED


def compressed(data: bytes, flag: int = 1) -> bytes:
    return bytes([flag]) + prefixed(data)[1:]


def test_compressed_messages() -> None:
    """gzip and deflate are undone, beside messages that are not compressed."""
    for encoding, squeeze in ((b"gzip", gzip.compress), (b"deflate", zlib.compress)):
        messages = Messages(1000, encoding)
        messages.feed(compressed(squeeze(b"x" * 900)) + prefixed(b"plain"))
        assert (messages.take(), messages.take()) == (b"x" * 900, b"plain")


@pytest.mark.parametrize(
    ("encoding", "data", "status"),
    [
        (b"identity", compressed(b"x"), Status.INTERNAL),
        (b"gzip", compressed(b"x", 2), Status.INTERNAL),
        (b"gzip", compressed(b"rubbish"), Status.INTERNAL),
        (b"gzip", compressed(gzip.compress(b"x" * 900)[:-9]), Status.INTERNAL),
        (b"gzip", compressed(gzip.compress(bytes(100_000))), Status.RESOURCE_EXHAUSTED),
    ],
    ids=["not announced", "another flag", "rubbish", "no end", "too large"],
)
def test_compression_that_is_refused(encoding: bytes, data: bytes, status: Status) -> None:
    """Flags that mean nothing, rubbish, and a small message that would be a large one."""
    messages = Messages(1000, encoding)
    messages.feed(data)
    with pytest.raises(CallError) as caught:
        messages.take()
    assert caught.value.status is status

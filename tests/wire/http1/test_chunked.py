"""Chunked bodies: cut at every position they are read alike, and bad framing is refused."""

import pytest

from tailcut.wire.http1.chunked import ChunkedBody
from tailcut.wire.http1.grammar import ProtocolError

WHOLE = [
    (b"0\r\n\r\n", b""),
    (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
    (b"003\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", b"abcd"),
    (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
    (b'3;name=value;other="quoted \\" text"\r\nabc\r\n0\r\n\r\n', b"abc"),
    (b"1\r\na\r\n0\r\nName: value\r\nOther:\r\n\r\n", b"a"),
]
BROKEN = [
    (b"x\r\n", 400, "hexadecimal"),
    (b"-1\r\n", 400, "hexadecimal"),
    (b"0x1\r\n", 400, "hexadecimal"),
    (b"1 \r\n", 400, "hexadecimal"),
    (b"1234567890abc\r\n", 400, "hexadecimal"),
    (b"1;\r\n", 400, "hexadecimal"),
    (b"1\n", 400, "CRLF"),
    (b"1\r\nab", 400, "longer than its size"),
    (b"1\r\na\rb\n", 400, "CRLF"),
    (b"0\r\nno field\r\n", 400, "not a field"),
    (b"1" * 5000, 400, "too long"),
    (b"11\r\n", 413, "over the limit of 16 bytes"),
    (b"9\r\n012345678\r\n8\r\n", 413, "over the limit of 16 bytes"),
    (b"0\r\n" + b"a: b\r\n" * 101, 431, "over 100 fields"),
]


def feed(reader: ChunkedBody, data: bytes, step: int) -> None:
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])


@pytest.mark.parametrize(("data", "body"), WHOLE)
def test_a_body_cut_anywhere_is_the_same(data: bytes, body: bytes) -> None:
    """In two pieces at every position, and byte by byte; what follows is returned."""
    for cut in range(len(data) + 1):
        reader = ChunkedBody(16)
        behind = reader.feed(data[:cut]) + reader.feed(data[cut:]) if cut < len(data) else reader.feed(data + b"GET /")
        assert (reader.done, bytes(reader.body)) == (True, body)
        assert behind == (b"" if cut < len(data) else b"GET /")
    reader = ChunkedBody(16)
    for at in range(len(data)):
        assert not reader.done
        assert reader.feed(data[at : at + 1]) == b""
    assert (reader.done, bytes(reader.body)) == (True, body)


@pytest.mark.parametrize(("data", "status", "reason"), BROKEN)
def test_bad_framing_is_refused_however_it_arrives(data: bytes, status: int, reason: str) -> None:
    """With the status and the reason of the breach, in one piece and byte by byte."""
    for step in (len(data), 1):
        reader = ChunkedBody(16)
        with pytest.raises(ProtocolError, match=reason) as caught:
            feed(reader, data, step)
        assert caught.value.status == status
        assert not reader.done


def test_a_body_of_tiny_chunks_is_refused() -> None:
    """More than 1,024 chunks are taken only where they hold 64 bytes each on average."""
    reader = ChunkedBody(1 << 20)
    with pytest.raises(ProtocolError, match="over 1024 chunks"):
        reader.feed(b"1\r\na\r\n" * 1100)
    reader = ChunkedBody(1 << 20)
    assert reader.feed((b"40\r\n" + b"a" * 64 + b"\r\n") * 2000 + b"0\r\n\r\n") == b""
    assert len(reader.body) == 64 * 2000

"""Answers from bytes, split at every position; the counter agrees with the reader on where each answer ends."""

import pytest
from tests.client.peers import good, reply
from tests.wire.http1.answering import read

from tailcut.errors import UnreachableError
from tailcut.wire.http1.answers import AnswerCounter, AnswerReader

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=1\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n"
UNSIZED = b"HTTP/1.0 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n\r\nabcde"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@pytest.mark.parametrize("data", [reply(200, b"abcde"), CHUNKED, INTERIM + INTERIM + reply(200, b"abcde")])
def test_an_answer_in_pieces(data: bytes) -> None:
    """Answers one after another are the same however their bytes come, down to one at a time."""
    for step in range(1, len(data) + 1):
        reader = AnswerReader()
        first, second = read(data, step, reader) + read(data, step, reader)
        assert (first.status, bytes(first.body)) == (second.status, bytes(second.body)) == (200, b"abcde")
        assert not reader.begun
        counter = AnswerCounter()
        counted = read(data, step, counter) + read(data, step, counter)
        assert [answer.status for answer in counted] == [200, 200]
        assert counted[0].body == b""


def test_a_body_that_ends_with_its_connection() -> None:
    """It is complete when the connection ends; other answers are not, and nor is one that has not begun."""
    for step in range(1, len(UNSIZED) + 1):
        for reader in (AnswerReader(), AnswerCounter()):
            assert read(UNSIZED, step, reader) == []
            answer = reader.ended()
            assert answer.closes
            assert answer.head.content_type == "text/event-stream"
            assert answer.body == (b"" if isinstance(reader, AnswerCounter) else b"abcde")
    for part in (b"", UNSIZED[:30], good()[:-1], CHUNKED[:-1]):
        for reader in (AnswerReader(), AnswerCounter()):
            read(part, 1000, reader)
            assert reader.ended() is None
            assert reader.begun == bool(part)


def test_counters_share_their_memory() -> None:
    """A head that comes in parts is not overwritten by what another connection receives in between."""
    first, second, data = AnswerCounter(), AnswerCounter(), good()
    assert read(data[:20], 20, first) == []
    assert len(read(data, len(data), second)) == 1
    assert len(read(data[20:], len(data), first)) == 1


def test_a_stream_is_taken_as_it_comes() -> None:
    """More small chunks than a request may have, and none is kept."""
    reader, chunk = AnswerReader(), b"64\r\n" + b"x" * 100 + b"\r\n"
    read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 1000, reader)
    for _ in range(3000):
        assert read(chunk, 1000, reader) == []
        assert len(reader.taken()) == 100
    (answer,) = read(b"0\r\n\r\n", 1000, reader)
    assert answer.body == b""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert len(read(head + 3000 * chunk + b"0\r\n\r\n", 1000, AnswerCounter())) == 1


def test_an_answer_in_small_chunks() -> None:
    """As many as it likes: the client asked for it."""
    head, chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"14\r\n" + b"x" * 20 + b"\r\n"
    (answer,) = read(head + 3000 * chunk + b"0\r\n\r\n", 1000)
    assert answer.body == 60_000 * b"x"


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"x" * 40_000,
        reply(200, b"{}") + b"more",
        CHUNKED + b"more",
    ],
)
def test_what_is_not_an_answer(data: bytes) -> None:
    """Another protocol, wrong framing, an absurd length, an endless head, bytes behind the answer: all refused."""
    with pytest.raises(UnreachableError):
        read(data, len(data))


@pytest.mark.parametrize(
    "start",
    [
        b"\0\0\x12\x04\0\0\0\0\0",  # SETTINGS of HTTP/2
        b"S",
        b"HTTP/2",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"\r\n",
    ],
)
def test_what_cannot_become_an_answer(start: bytes) -> None:
    """It is refused without waiting for more, also byte by byte."""
    for kind in (AnswerReader, AnswerCounter):
        for step in (1, len(start)):
            with pytest.raises(UnreachableError, match="does not speak HTTP/1"):
                read(start, step, kind())


@pytest.mark.parametrize(
    ("fields", "closes"),
    [(b"", False), (b"Connection: keep-alive, Close\r\n", True), (b"connection:close\r\n", True)],
)
def test_whether_the_connection_stays_open(fields: bytes, closes: bool) -> None:
    """Unless the server says that it closes."""
    (answer,) = read(b"HTTP/1.1 204 No Content\r\n" + fields + b"\r\n", 1000)
    assert answer.closes is closes

"""The server's end of HTTP/2: what comes out of bytes however they are cut, and what is refused with which code."""

from collections.abc import Sequence

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import frames as h2
from tests.effort import runs
from tests.frames import END_HEADERS, END_STREAM, HELLO, PADDED, PLAIN, WITH_PRIORITY, frame, frames, request, word

from tailcut.wire.http2.connection import (
    CONNECTION_WINDOW,
    STREAM_WINDOW,
    STREAMS,
    Http2Connection,
    Reset,
    StreamData,
    StreamOpened,
)
from tailcut.wire.http2.fields import BLOCK_BYTES, FIELDS_BYTES, FieldReading, encode_fields
from tailcut.wire.http2.frames import ErrorCode, Http2Error

ALL = FieldReading(tuple, lambda plan, _: plan, lambda fields: ((b":path", b"oversized"), *fields))
ENCODER = hpack.Encoder()  # indexes what it sends, so that the blocks depend on each other
BLOCKS = [ENCODER.encode(h2.fields("/a")), ENCODER.encode(h2.fields("/b", grpc_timeout="1S"))]
OPEN5 = frame(h2.HEADERS, END_HEADERS, 5, PLAIN)
CONVERSATION = b"".join(
    [
        h2.PREFACE,
        h2.settings(window=100, frame=20000),
        frame(h2.SETTINGS, 1),
        request(1, b"one", BLOCKS[0]),
        frame(h2.HEADERS, 0, 3, BLOCKS[1][:4]),
        frame(h2.CONTINUATION, 0, 3, BLOCKS[1][4:7]),
        frame(h2.CONTINUATION, END_HEADERS, 3, BLOCKS[1][7:]),
        frame(h2.PING, 0, 0, b"12345678"),
        frame(h2.DATA, PADDED, 3, b"\x05two" + bytes(5)),
        frame(77, 3, 9, b"unknown"),
        frame(h2.HEADERS, WITH_PRIORITY | PADDED | END_HEADERS, 5, b"\2" + bytes(5) + PLAIN + bytes(2)),
        frame(h2.PRIORITY, 0, 5, bytes(5)),
        frame(h2.WINDOW, 0, 3, word(5)),
        frame(h2.WINDOW, 0, 0, word(5)),
        frame(h2.RST, 0, 5, word(8)),
        frame(h2.HEADERS, END_STREAM | END_HEADERS, 3, h2.literal(("trailer", "x"))),
        frame(h2.GOAWAY, 0, 0, bytes(8)),
    ]
)


def connection(*text: bytes) -> Http2Connection[tuple[tuple[bytes, bytes], ...]]:
    made = Http2Connection(ALL)
    made.receive(HELLO + b"".join(text), 0.0)
    while made.pending:
        made.receive(b"", 0.0)
    made.take()
    return made


def apart(events: Sequence[object]) -> list[object]:
    """The same with the data apart that came with its head: how they come depends on where the bytes were cut."""
    text: list[object] = []
    for event in events:
        if isinstance(event, StreamOpened) and event.size:
            text += [
                StreamOpened(event.stream, event.head, False),
                StreamData(event.stream, event.data, event.size, event.ended),
            ]
        else:
            text.append(event)
    return text


def paths(events: Sequence[object]) -> list[bytes]:
    return [dict(event.head)[b":path"] for event in events if isinstance(event, StreamOpened)]


def refused(data: bytes, made: Http2Connection | None = None) -> ErrorCode:
    """The code of the error that these bytes end the connection with; GOAWAY says it too."""
    made = made or connection()
    with pytest.raises(Http2Error) as caught:
        made.receive(data, 0.0)
    last = frames(made.take())[-1]
    assert (last.kind, last.code) == (h2.GOAWAY, caught.value.code)
    assert made.receive(request(99, b"x"), 0.0) == []
    return caught.value.code


def test_a_conversation() -> None:
    """Heads, data, ends and resets come out in order; settings and pings are answered without asking."""
    made = Http2Connection(ALL)
    events = made.receive(CONVERSATION, 0.0)
    assert paths(events) == [b"/a", b"/b", b"/a"]
    assert [(e.stream, e.ended) for e in events if isinstance(e, StreamOpened)] == [(1, True), (3, False), (5, False)]
    text = [(e.stream, e.data, e.ended) for e in apart(events) if isinstance(e, StreamData)]
    assert text == [(1, b"one", True), (3, b"two", False), (3, b"", True)]
    assert [(e.stream, e.code) for e in events if isinstance(e, Reset)] == [(5, 8)]
    kinds = [(item.kind, item.flags) for item in frames(made.take())]
    assert kinds == [(h2.SETTINGS, 0), (h2.WINDOW, 0), (h2.SETTINGS, 1), (h2.PING, 1)]


def test_every_split() -> None:
    """Cut anywhere, and cut everywhere, a conversation means the same."""
    whole = Http2Connection(ALL)
    expected = apart(whole.receive(CONVERSATION, 0.0)), whole.take()
    for at in range(1, len(CONVERSATION)):
        made = Http2Connection(ALL)
        events = made.receive(CONVERSATION[:at], 0.0) + made.receive(CONVERSATION[at:], 0.0)
        assert (apart(events), made.take()) == expected
    made = Http2Connection(ALL)
    events = [event for at in range(len(CONVERSATION)) for event in made.receive(CONVERSATION[at : at + 1], 0.0)]
    assert (apart(events), made.take()) == expected


def test_a_message_with_its_head() -> None:
    """What comes in one frame right behind its head is told with it, and counted like any other."""
    made = connection()
    (event,) = made.receive(request(1, b"one"), 0.0)
    assert event == StreamOpened(1, event.head, True, b"one", 3)
    length = PLAIN + h2.literal(("content-length", "3"))
    (event,) = made.receive(request(3, b"two", length), 0.0)
    assert event == StreamOpened(3, event.head, True, b"two", 3)
    opened, data = made.receive(OPEN5 + frame(h2.DATA, END_STREAM | PADDED, 5, b"\2abc\0\0"), 0.0)
    assert (opened.ended, data) == (False, StreamData(5, b"abc", 6, True))
    opened, data = made.receive(frame(h2.HEADERS, END_HEADERS, 7, PLAIN) + frame(h2.DATA, 0, 7, b"abc"), 0.0)
    assert (opened.ended, data) == (False, StreamData(7, b"abc", 3, False))
    made = connection()
    for stream in range(1, 2 * STREAMS + 1, 2):  # each is open, as it has no answer
        made.receive(request(stream, b"x"), 0.0)
    assert made.receive(request(2 * STREAMS + 1, b"x") + request(2 * STREAMS + 3, b"y"), 0.0) == []
    assert [item.code for item in frames(made.take()) if item.kind == h2.RST] == [ErrorCode.REFUSED_STREAM] * 2


@pytest.mark.parametrize("size", [1, 16384])
def test_the_connections_window_opens_as_messages_come(size: int) -> None:
    """Those that come with their heads take of it as any data do."""
    made, sent, given = connection(), 0, 0
    for stream in range(1, 2 * (3 * CONNECTION_WINDOW // size if size > 1 else 50), 2):
        sent += size
        assert sent - given <= CONNECTION_WINDOW
        made.receive(request(stream, bytes(size)), float(stream))
        made.send(stream, b"\x88", b"", b"\x88")
        given += sum(int.from_bytes(item.payload, "big") for item in frames(made.take()) if item.kind == h2.WINDOW)
    assert given if size > 1 else not given


BIG = bytes(16385)
ENDS_CONNECTION = {
    "data without a stream": (frame(h2.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data on an idle stream": (frame(h2.DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "a frame over the limit": (request(1) + frame(h2.DATA, 0, 1, BIG), ErrorCode.FRAME_SIZE_ERROR),
    "headers without a stream": (frame(h2.HEADERS, END_HEADERS, 0, PLAIN), ErrorCode.PROTOCOL_ERROR),
    "headers on an even stream": (frame(h2.HEADERS, END_HEADERS, 2, PLAIN), ErrorCode.PROTOCOL_ERROR),
    "headers on a smaller stream": (request(5, b"x") + request(3, b"x"), ErrorCode.STREAM_CLOSED),
    "headers all padding": (frame(h2.HEADERS, END_HEADERS | PADDED, 1, b"\x09abc"), ErrorCode.PROTOCOL_ERROR),
    "headers without room for priority": (
        frame(h2.HEADERS, END_HEADERS | WITH_PRIORITY, 1, b"abc"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "a block that is not HPACK": (frame(h2.HEADERS, END_HEADERS, 1, b"\xff" * 20), ErrorCode.COMPRESSION_ERROR),
    "an index of nothing": (frame(h2.HEADERS, END_HEADERS, 1, b"\xbf"), ErrorCode.COMPRESSION_ERROR),
    "a table over our size": (frame(h2.HEADERS, END_HEADERS, 1, b"\x3f\xe2\x1f"), ErrorCode.COMPRESSION_ERROR),
    "a block cut short": (frame(h2.HEADERS, END_HEADERS, 1, PLAIN[:-3]), ErrorCode.COMPRESSION_ERROR),
    "another frame inside a block": (
        frame(h2.HEADERS, 0, 1, PLAIN) + frame(h2.PING, 0, 0, bytes(8)),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "an unknown frame inside a block": (frame(h2.HEADERS, 0, 1, PLAIN) + frame(99), ErrorCode.PROTOCOL_ERROR),
    "continuation of another stream": (
        frame(h2.HEADERS, 0, 1, PLAIN) + frame(h2.CONTINUATION, END_HEADERS, 3),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "continuation of nothing": (frame(h2.CONTINUATION, END_HEADERS, 1), ErrorCode.PROTOCOL_ERROR),
    "data all padding": (
        frame(h2.HEADERS, END_HEADERS, 1, PLAIN) + frame(h2.DATA, PADDED, 1, b"\x04abc"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "padding of nothing": (
        frame(h2.HEADERS, END_HEADERS, 1, PLAIN) + frame(h2.DATA, PADDED, 1, b""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "priority of the connection": (frame(h2.PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
    "priority of a wrong size": (frame(h2.PRIORITY, 0, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
    "reset of an idle stream": (frame(h2.RST, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "reset of the connection": (frame(h2.RST, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "reset of a wrong size": (request(1) + frame(h2.RST, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "settings of a stream": (frame(h2.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "settings of a wrong size": (frame(h2.SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    "a SETTINGS acknowledgement with settings": (frame(h2.SETTINGS, 1, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "push that is neither on nor off": (h2.settings(push=2), ErrorCode.PROTOCOL_ERROR),
    "a window over 2^31-1": (h2.settings(window=1 << 31), ErrorCode.FLOW_CONTROL_ERROR),
    "frames too small": (h2.settings(frame=16383), ErrorCode.PROTOCOL_ERROR),
    "frames too large": (h2.settings(frame=1 << 24), ErrorCode.PROTOCOL_ERROR),
    "a push": (frame(h2.PUSH, END_HEADERS, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "ping of a stream": (frame(h2.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "ping of a wrong size": (frame(h2.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "goaway of a stream": (frame(h2.GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "goaway of a wrong size": (frame(h2.GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "window update by nothing": (frame(h2.WINDOW, 0, 0, word(0)), ErrorCode.PROTOCOL_ERROR),
    "window update of a wrong size": (frame(h2.WINDOW, 0, 0, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "window update of an idle stream": (frame(h2.WINDOW, 0, 7, word(1)), ErrorCode.PROTOCOL_ERROR),
    "a connection's window over 2^31-1": (frame(h2.WINDOW, 0, 0, word((1 << 31) - 1)), ErrorCode.FLOW_CONTROL_ERROR),
    "a stream's first window over 2^31-1": (
        request(1) + frame(h2.WINDOW, 0, 1, word((1 << 31) - 65536)) + h2.settings(window=65536),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "fields over the limit": (
        frame(h2.HEADERS, END_HEADERS, 1, PLAIN + hpack.Encoder().encode([("a", "v" * 4000)], huffman=False))
        + frame(h2.HEADERS, END_HEADERS, 3, PLAIN + b"\xbe" * 17),  # 17 times the one entry of the table
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
}


@pytest.mark.parametrize("name", ENDS_CONNECTION)
def test_what_ends_the_connection(name: str) -> None:
    """Each rule of RFC 9113 that is broken has its code, and nothing is understood behind it."""
    data, code = ENDS_CONNECTION[name]
    assert refused(data) is code


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", h2.PREFACE + frame(h2.PING, 0, 0, bytes(8)), b"PRI * HTTP/2.0\r\n\r\nXX"],
)
def test_what_is_no_beginning(data: bytes) -> None:
    """The preface comes first, then SETTINGS."""
    assert refused(data, Http2Connection(ALL)) is ErrorCode.PROTOCOL_ERROR


HEAD = h2.fields()
OPEN = frame(h2.HEADERS, END_HEADERS, 1, PLAIN)
ENDS_STREAM = {
    "upper case": (request(1, block=PLAIN + h2.literal(("A", "b"))), ErrorCode.PROTOCOL_ERROR),
    "a space in a name": (request(1, block=PLAIN + h2.literal(("a b", "b"))), ErrorCode.PROTOCOL_ERROR),
    "a line in a value": (request(1, block=PLAIN + h2.literal(("a", "b\r\nc: d"))), ErrorCode.PROTOCOL_ERROR),
    "space around a value": (request(1, block=PLAIN + h2.literal(("a", "b "))), ErrorCode.PROTOCOL_ERROR),
    "a pseudo-field late": (request(1, block=PLAIN + h2.literal((":path", "/b"))), ErrorCode.PROTOCOL_ERROR),
    "a pseudo-field of answers": (request(1, block=h2.literal((":status", "200"), *HEAD)), ErrorCode.PROTOCOL_ERROR),
    "a pseudo-field twice": (request(1, block=h2.literal(HEAD[0], *HEAD)), ErrorCode.PROTOCOL_ERROR),
    "no method": (request(1, block=h2.literal(*HEAD[1:])), ErrorCode.PROTOCOL_ERROR),
    "no path": (request(1, block=h2.literal(*HEAD[:2], *HEAD[3:])), ErrorCode.PROTOCOL_ERROR),
    "an empty path": (request(1, block=h2.literal(*h2.fields(""))), ErrorCode.PROTOCOL_ERROR),
    "another host than its authority": (request(1, block=PLAIN + h2.literal(("host", "y"))), ErrorCode.PROTOCOL_ERROR),
    "a host with another port than its authority": (
        request(1, block=PLAIN + h2.literal(("host", "x:81"))),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "two hosts": (request(1, block=PLAIN + h2.literal(("host", "x"), ("host", "x"))), ErrorCode.PROTOCOL_ERROR),
    "a field of the connection": (request(1, block=PLAIN + h2.literal(("connection", "x"))), ErrorCode.PROTOCOL_ERROR),
    "te": (request(1, block=PLAIN + h2.literal(("te", "gzip"))), ErrorCode.PROTOCOL_ERROR),
    "a length that is none": (request(1, b"", PLAIN + h2.literal(("content-length", "+1"))), ErrorCode.PROTOCOL_ERROR),
    "more than its length": (request(1, b"ab", PLAIN + h2.literal(("content-length", "1"))), ErrorCode.PROTOCOL_ERROR),
    "less than its length": (request(1, b"a", PLAIN + h2.literal(("content-length", "2"))), ErrorCode.PROTOCOL_ERROR),
    "no data for its length": (request(1, block=PLAIN + h2.literal(("content-length", "2"))), ErrorCode.PROTOCOL_ERROR),
    "data behind the end": (request(1) + frame(h2.DATA, 0, 1, b"x"), ErrorCode.STREAM_CLOSED),
    "headers behind the end": (request(1) + frame(h2.HEADERS, 5, 1, PLAIN), ErrorCode.STREAM_CLOSED),
    "trailers that do not end": (OPEN + frame(h2.HEADERS, 4, 1, h2.literal(("a", "b"))), ErrorCode.PROTOCOL_ERROR),
    "pseudo-fields in trailers": (OPEN + frame(h2.HEADERS, 5, 1, PLAIN), ErrorCode.PROTOCOL_ERROR),
    "window update by nothing": (OPEN + frame(h2.WINDOW, 0, 1, word(0)), ErrorCode.PROTOCOL_ERROR),
    "a window over 2^31-1": (OPEN + frame(h2.WINDOW, 0, 1, word((1 << 31) - 1)), ErrorCode.FLOW_CONTROL_ERROR),
    "data over the window": (
        OPEN + frame(h2.DATA, 0, 1, bytes(16384)) * (STREAM_WINDOW // 16384) + frame(h2.DATA, 0, 1, b"x"),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
}


@pytest.mark.parametrize("name", ENDS_STREAM)
def test_what_ends_a_stream(name: str) -> None:
    """It is reset with the code of its fault, its call is told, and the next request is understood."""
    data, code = ENDS_STREAM[name]
    made = connection()
    events = made.receive(data, 0.0)
    assert [(item.stream, item.code) for item in frames(made.take()) if item.kind == h2.RST] == [(1, code)]
    opened = any(isinstance(event, StreamOpened) for event in events)
    assert [event for event in events if isinstance(event, Reset)] == ([Reset(1, code)] if opened else [])
    assert paths(made.receive(frame(h2.DATA, 0, 1, b"late") * opened + request(7, b"x"), 0.0)) == [b"/a"]


@pytest.mark.parametrize("host", ["x", "X", "x:80"])
def test_a_host_beside_its_authority(host: str) -> None:
    """The same place in other letters, or with the scheme's own port, is the same."""
    assert paths(connection().receive(request(1, block=PLAIN + h2.literal(("host", host))), 0.0)) == [b"/a"]


def test_a_host_in_the_place_of_an_authority() -> None:
    """A request that came over HTTP/1.1 first may have a Host and no authority."""
    block = h2.literal(*[field for field in h2.fields() if field[0] != ":authority"], ("host", "y"))
    assert paths(connection().receive(request(1, block=block), 0.0)) == [b"/a"]


def test_a_known_block_is_decoded_by_looking() -> None:
    """The same bytes mean the same object while the table stands; when it moves, they are decoded anew."""
    made = connection()
    encoder = hpack.Encoder()
    first = made.receive(request(1, b"", encoder.encode(h2.fields("/a"))), 0.0)
    block = encoder.encode(h2.fields("/a"))
    again = [made.receive(request(stream, b"", block), 0.0)[0].head for stream in (3, 5)]
    assert again[0] is again[1]
    assert again[0] == first[0].head
    moved = made.receive(request(7, b"", encoder.encode(h2.fields("/b"))), 0.0)
    assert paths(moved) == [b"/b"]  # /a is one place further in the table now
    assert paths(made.receive(request(9, b"", block), 0.0)) != [b"/a"]
    assert paths(made.receive(request(11, b"", encoder.encode(h2.fields("/a"))), 0.0)) == [b"/a"]


def test_answers_fit_the_windows() -> None:
    """Data goes out as far as stream and connection allow; the end waits behind it; nothing is lost or doubled."""
    made = connection(h2.settings(window=5), request(1), request(3))
    head, end = encode_fields([(b"a", b"b")]), encode_fields([(b"grpc-status", b"0")])
    made.send(1, head, b"0123456789abc", end)
    made.send(3, head, b"xyz", end)
    sent = frames(made.take())
    assert [(item.kind, item.stream) for item in sent] == [(1, 1), (0, 1), (1, 3), (0, 3), (1, 3)]
    assert sent[1].payload == b"01234"
    assert made.out.waiting_bytes == 8
    made.receive(frame(h2.WINDOW, 0, 1, word(1)), 0.0)
    assert [item.payload for item in frames(made.take())] == [b"5"]
    made.receive(h2.settings(window=1), 0.0)  # the stream has less than nothing now
    made.receive(frame(h2.WINDOW, 0, 1, word(4)), 0.0)
    assert [item.kind for item in frames(made.take())] == [h2.SETTINGS]
    made.receive(frame(h2.WINDOW, 0, 1, word(100)), 0.0)
    rest = frames(made.take())
    assert [(item.kind, item.flags, item.payload) for item in rest] == [(0, 0, b"6789abc"), (1, 5, end)]
    assert made.out.waiting_bytes == 0


def test_answers_share_the_connections_window() -> None:
    """Large answers take turns, a frame each, when the client opens the connection's window."""
    made = connection(h2.settings(window=1 << 20), request(1), request(3))
    for stream in (1, 3):
        made.send(stream, None, bytes(100_000), b"\x88")
    made.take()
    made.receive(frame(h2.WINDOW, 0, 0, word(1 << 20)), 0.0)
    order = [item.stream for item in frames(made.take()) if item.kind == h2.DATA]
    assert order[:4] == [1, 3, 1, 3]
    assert made.out.waiting_bytes == 0
    assert not made.out.windows


def test_a_stopped_connection_holds_answers() -> None:
    """While nobody takes what was written, data waits and is counted; then it goes."""
    made = connection(request(1))
    made.out.stopped = True
    made.send(1, None, b"data", b"\x88")
    assert (made.take(), made.out.waiting_bytes) == (b"", 4)
    made.out.stopped = False
    made.out.pump()
    assert [item.payload for item in frames(made.take())] == [b"data", b"\x88"]


def test_windows_are_given_back() -> None:
    """A stream's as its bytes are taken, the connection's as they arrive; padding counts."""
    made = connection(OPEN)
    piece = frame(h2.DATA, PADDED, 1, b"\xff" + bytes(16383))
    for _ in range(CONNECTION_WINDOW // 16384 + 10):
        for event in made.receive(piece, 0.0):
            made.taken(1, event.size)
    updates = [(item.stream, int.from_bytes(item.payload, "big")) for item in frames(made.take())]
    assert {stream for stream, _ in updates} == {0, 1}
    assert sum(size for stream, size in updates if stream == 0) >= CONNECTION_WINDOW // 2


def test_data_over_the_connections_window() -> None:
    """Streams that nobody reads cannot send more than the connection's window together: it is opened as bytes come."""
    made = connection()
    made._window = 10
    assert refused(OPEN + frame(h2.DATA, 0, 1, bytes(11)), made) is ErrorCode.FLOW_CONTROL_ERROR


def test_an_answer_before_the_end_of_its_request() -> None:
    """The client is told that nobody listens; what it had sent by then is ignored, and the connection lives on."""
    made = connection(OPEN)
    made.send(1, None, b"", b"\x88")
    assert [(item.kind, item.code) for item in frames(made.take())][-1] == (h2.RST, ErrorCode.NO_ERROR)
    assert made.receive(frame(h2.DATA, 0, 1, bytes(100)) * 3 + frame(h2.DATA, END_STREAM, 1, b""), 0.0) == []
    assert made.take() == b""


def test_too_many_streams() -> None:
    """The one over the limit is refused, and may come again when another is answered."""
    made = connection(*[request(1 + 2 * number) for number in range(STREAMS)])
    assert made.receive(request(9001), 0.0) == []
    assert [(item.kind, item.code) for item in frames(made.take())] == [(h2.RST, ErrorCode.REFUSED_STREAM)]
    made.send(1, None, b"", b"\x88")
    assert paths(made.receive(request(9003), 0.0)) == [b"/a"]


def _flood(piece: bytes, count: int, made: Http2Connection | None = None, step_s: float = 0.0) -> ErrorCode | None:
    made = made or connection()
    try:
        for number in range(count):
            made.receive(piece.replace(b"STRM", word(2 * number + 1)), number * step_s)
    except Http2Error as error:
        return error.code
    return None


RAPID = request(0x5354524D) + frame(h2.RST, 0, 0x5354524D, word(8))
SPOILT = frame(h2.HEADERS, 5, 0x5354524D, b"\x88")
CALM = {
    "requests that are given up": RAPID,
    "requests that are spoilt": SPOILT,
    "pings": frame(h2.PING, 0, 0, bytes(8)),
    "acknowledgements of pings": frame(h2.PING, 1, 0, bytes(8)),
    "settings": h2.settings(window=1),
    "priorities": frame(h2.PRIORITY, 0, 1, bytes(5)),
    "window updates": frame(h2.WINDOW, 0, 0, word(1)),
    "unknown frames": frame(99),
    "goaways": frame(h2.GOAWAY, 0, 0, bytes(8)),
}


@pytest.mark.parametrize("name", CALM)
def test_floods(name: str) -> None:
    """Thousands at once end with ENHANCE_YOUR_CALM; the same spread over time do not."""
    assert _flood(CALM[name], 20_000) is ErrorCode.ENHANCE_YOUR_CALM
    assert _flood(CALM[name], 3000, step_s=0.01) is None


def test_empty_data_and_endless_blocks() -> None:
    """Frames that carry nothing of their request are floods too."""
    made = connection(OPEN)
    assert _flood(frame(h2.DATA, 0, 1, b""), 20_000, made) is ErrorCode.ENHANCE_YOUR_CALM
    made = connection(frame(h2.HEADERS, 0, 1, PLAIN))
    assert _flood(frame(h2.CONTINUATION, 0, 1, b""), 100, made) is ErrorCode.ENHANCE_YOUR_CALM
    made = connection(frame(h2.HEADERS, 0, 1, PLAIN))
    assert _flood(frame(h2.CONTINUATION, 0, 1, bytes(BLOCK_BYTES // 4)), 10, made) is ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("cut", [False, True])
def test_fields_over_the_limit_cost_their_request_only(cut: bool) -> None:
    """The table is kept, so that the requests around it are understood."""
    encoder = hpack.Encoder()
    before, after = h2.fields("/before"), h2.fields("/after")
    metadata = [(f"key-{number}", "v" * 900) for number in range(24)]
    made = connection(request(1, None, encoder.encode(before)))
    block = encoder.encode(h2.fields("/large") + metadata, huffman=False)
    pieces = [block[at : at + 8000] for at in range(0, len(block), 8000)]
    large = b"".join(
        [
            frame(h2.HEADERS, 0, 3, pieces[0]),
            *[frame(h2.CONTINUATION, 0, 3, piece) for piece in pieces[1:-1]],
            frame(h2.CONTINUATION, END_HEADERS, 3, pieces[-1]),
            frame(h2.DATA, END_STREAM, 3, b"x"),
        ]
    )
    data = large + request(5, b"y", encoder.encode([*after, metadata[-1]]))
    events = []
    for at in range(0, len(data), 100 if cut else len(data)):
        events += made.receive(data[at : at + (100 if cut else len(data))], 0.0)
        while made.pending:
            events += made.receive(b"", 0.0)
    opened = [event for event in events if isinstance(event, StreamOpened)]
    assert [event.stream for event in opened] == [3, 5]
    assert opened[0].head[0] == (b":path", b"oversized")
    assert sum(len(name) + len(value) + 32 for name, value in opened[0].head[1:]) <= FIELDS_BYTES
    assert (metadata[-1][0].encode(), metadata[-1][1].encode()) in opened[1].head
    assert not made.failed


def test_trailers_over_the_limit_cost_their_request_only() -> None:
    """Its stream is reset."""
    trailers = b"".join(b"\0\x01a\x7f\x81\x07" + bytes(1024).replace(b"\0", b"v") for _ in range(20))
    made = connection(OPEN)
    pieces = [trailers[:16000], trailers[16000:]]
    made.receive(
        frame(h2.HEADERS, END_STREAM, 1, pieces[0]) + frame(h2.CONTINUATION, END_HEADERS, 1, pieces[1]) + OPEN5, 0.0
    )
    (reset,) = frames(made.take())
    assert (reset.kind, reset.stream, reset.code) == (h2.RST, 1, ErrorCode.PROTOCOL_ERROR)


def test_goaway_says_why() -> None:
    """In its debug data."""
    made = connection()
    with pytest.raises(Http2Error, match="PING on a stream"):
        made.receive(frame(h2.PING, 0, 1, bytes(8)), 0.0)
    (last,) = frames(made.take())
    assert last.payload[8:] == b"PING on a stream other than 0"


def test_a_window_opened_byte_by_byte() -> None:
    """An answer that goes out in frames of one byte pays for no more than its client is granted."""
    made = connection(h2.settings(window=0), request(1))
    made.send(1, None, bytes(100_000), b"\x88")
    assert _flood(frame(h2.WINDOW, 0, 1, word(1)), 20_000, made) is ErrorCode.ENHANCE_YOUR_CALM


def test_a_busy_client_measures_the_line() -> None:
    """Pings and window updates beside each request, as gRPC clients send them, are no flood."""
    made = connection()
    for number in range(20_000):
        stream = 2 * number + 1
        extra = frame(h2.PING, 0, 0, bytes(8)) + frame(h2.WINDOW, 0, 0, word(40)) + frame(h2.PING, 1, 0, bytes(8))
        made.receive(request(stream, b"x") + extra, 0.0)
        made.send(stream, None, bytes(40), b"\x88")
        made.take()


def test_winding_down() -> None:
    """A first GOAWAY asks for no more; when the client has heard it, a second names the last stream that is served."""
    made = connection(request(1))
    made.wind_down()
    first, ping = frames(made.take())
    assert (first.kind, first.payload[:4], first.code) == (h2.GOAWAY, word((1 << 31) - 1), ErrorCode.NO_ERROR)
    assert paths(made.receive(request(3), 0.0)) == [b"/a"]  # it had not heard
    made.receive(frame(h2.PING, 1, 0, ping.payload), 0.0)
    (last,) = frames(made.take())
    assert (last.kind, last.payload[:4]) == (h2.GOAWAY, word(3))
    assert made.receive(request(5), 0.0) == []
    assert frames(made.take())[0].code == ErrorCode.REFUSED_STREAM
    made.send(1, None, b"", b"\x88")
    assert not made.over
    made.send(3, None, b"", b"\x88")
    assert made.over


SEEDS = [CONVERSATION, HELLO + RAPID, HELLO + request(1, b"x") * 2, *[HELLO + data for data, _ in ENDS_STREAM.values()]]
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), st.binary(max_size=12)), max_size=4)


@settings(max_examples=runs(600), deadline=None, derandomize=True, database=None)
@given(st.sampled_from([seed for seed in SEEDS if len(seed) < 5000]), EDITS, st.binary(max_size=40))
def test_whatever_comes(seed: bytes, edits: list[tuple[float, int, bytes]], tail: bytes) -> None:
    """Arbitrary bytes never raise anything but the protocol error, and open answers can be sent whatever came."""
    for place, gone, new in edits:
        at = int(place * len(seed))
        seed = seed[:at] + new + seed[at + gone :]
    made = Http2Connection(ALL)
    try:
        for event in made.receive(seed + tail, 0.0):
            made.send(event.stream, b"\x88", b"answer", b"\x88")
    except Http2Error:
        assert made.failed
    frames(made.take())


def test_settings_are_counted() -> None:
    """RFC 9113 defines seven; a frame of thousands ends the connection."""
    entry = bytes([0, 9, 0, 0, 0, 1])
    made = connection()
    made.receive(frame(h2.SETTINGS, 0, 0, entry * 64), 0.0)
    with pytest.raises(Http2Error) as caught:
        made.receive(frame(h2.SETTINGS, 0, 0, entry * 65), 0.0)
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_changes_of_the_tables_size_are_counted() -> None:
    """RFC 7541 allows two at the start of a block."""
    block = h2.literal(*h2.fields())
    assert paths(connection().receive(request(1, None, b"\x20\x3f\xe1\x1f" + block), 0.0)) == [b"/a"]
    for updates in (b"\x20" * 3, b"\x3f\xe1\x1f" * 5000):
        with pytest.raises(Http2Error) as caught:
            connection().receive(request(1, None, updates + block), 0.0)
        assert caught.value.code is ErrorCode.COMPRESSION_ERROR


def test_much_at_once_is_done_in_turns() -> None:
    """A call does so much, and says that it is not done; what it brings in the end is the same."""
    made, events, calls = connection(), [], 0
    data = b"".join(request(1 + 2 * number) for number in range(900))
    events += made.receive(data, 0.0)
    while made.pending:
        calls += 1
        events += made.receive(b"", 0.0)
    assert calls > 5
    assert paths(events) == [b"/a"] * 900


def test_without_time_bytes_are_kept() -> None:
    """What waits for us is not a frame that arrives too slowly; one whose end is missing is."""
    made = connection()
    data = request(1)
    assert made.receive(data, 5.0, 0) == []
    assert made.pending
    assert made.partial_since == 0.0
    assert made.receive(request(3)[:5], 6.0, 0) == []
    assert paths(made.receive(b"", 7.0)) == [b"/a"]
    assert not made.pending
    assert made.partial_since == 7.0


def test_large_answers_go_out_in_bursts() -> None:
    """A megabyte at a time, the streams in turn, each whole in the end; parts may be of any size."""
    opened = [request(stream) for stream in (1, 3)]
    made = connection(h2.settings(window=1 << 30), frame(h2.WINDOW, 0, 0, word(1 << 30)), *opened)
    answers = {stream: bytes([stream]) * (3 << 20) for stream in (1, 3)}
    for stream, data in answers.items():
        made.send(stream, b"\x88", data[:5])
        made.send(stream, None, memoryview(data)[5:100_000])
        made.send(stream, None, data[100_000:], b"\x88")
    got, bursts = {1: b"", 3: b""}, []
    while True:
        more = made.out.more
        sent = [item for item in frames(made.take()) if item.kind == h2.DATA]
        bursts.append(sum(len(item.payload) for item in sent))
        for item in sent:
            got[item.stream] += item.payload
        if not more:
            break
        made.out.pump()
    assert got == answers
    assert max(bursts) <= (1 << 20) + (64 << 10)
    assert len(bursts) > 4

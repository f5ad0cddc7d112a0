"""The server's end of HTTP/1.1 without a socket: states and moves, and what comes out of bytes however they are cut."""

import functools
import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest
from tests.effort import THOROUGH, runs
from tests.fuzz.targets import TARGETS
from tests.server.hostile import HTTP
from tests.server.test_http import FRAMING
from tests.servers import json_request, raw_request
from tests.wire.http1.test_head import BAD_CHUNKS, REFUSED

from tailcut.errors import IllegalMoveError
from tailcut.wire.http1.connection import Http1Connection
from tailcut.wire.http1.events import Body, Broken, Edition, RequestReceived
from tailcut.wire.http1.head import Head, parse_head
from tailcut.wire.http1.outlines import Interpretation, Outline
from tailcut.wire.http1.response import CONTINUE
from tailcut.wire.http1.states import ConnectionState

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
LIMIT = 1 << 16
PERIODS = 2500  # bytes kept of an input that repeats itself: several of its periods
NEAR = 1000 if THOROUGH else 200  # bytes at each end of an input that is cut everywhere
PAIRS = runs(200)  # of cuts of each input


@dataclass
class Plan:
    """What a head means to these tests."""

    head: Head
    length: int
    edition: Edition


_parsed = functools.lru_cache(1000)(parse_head)  # what heads mean is tested with them, and not with each cut


def connection(edition: Edition | None = None) -> Http1Connection[Plan]:
    def interpret(data: bytes) -> Interpretation[Plan]:
        head = _parsed(data)
        return Interpretation(Plan(head, head.content_length or 0, edition or Edition()))

    return Http1Connection(interpret)


class Reader:
    """Reads all that a connection brings, as a server does: bodies into memory of its own, or in a part first."""

    def __init__(self, *, refuses: bool = False, first: int = 0) -> None:
        self.wire = connection()
        self.heard: list[object] = []
        self.refuses = refuses  # every message with a body
        self.first = first  # bytes of a body that it looks at before it has the rest written elsewhere
        self.body = bytearray()
        self.filled = 0

    def hear(self, data: bytes) -> None:
        if self.wire.state is ConnectionState.BODY:
            count = min(len(data), len(self.body) - self.filled)
            self.body[self.filled : self.filled + count] = data[:count]
            self.filled += count
            if not self.wire.received(count):
                self.finish(bytes(self.body))
            data = data[count:]
        if not data:
            return
        body = self.wire.receive_alike(bytearray(data), len(data))
        if body is None:
            self.wire.receive(data, len(data))
            self.read()
        elif self.wire.meaning is not None:
            self.begin(RequestReceived(self.wire.meaning, body, True))
            self.wire.hold()

    def read(self) -> None:
        wire = self.wire
        while wire.unread:
            event = wire.next_event()
            if event is None:
                break
            if isinstance(event, Broken):
                self.heard.append((event.status, event.message))
            elif isinstance(event, Body):
                self.take(event.data, whole=event.whole)
            else:
                self.begin(event)
        wire.hold()

    def begin(self, event: RequestReceived[Plan]) -> None:
        plan, wire = event.meaning, self.wire
        self.heard.append((plan.head.method, plan.head.path))
        if self.refuses and (plan.length or plan.head.chunked):
            self.heard.append("the last" if wire.refuse() else "refused")
        elif event.whole:
            self.finish(bytes(event.body))
        elif plan.head.chunked:
            wire.chunks(LIMIT)
        elif self.first:
            wire.waits_for(self.first)
        else:
            self.take(event.body, whole=False)

    def take(self, data: bytes | bytearray | memoryview, *, whole: bool) -> None:
        if whole:
            self.finish(bytes(data))
            return
        self.body = bytearray(data)
        self.filled = len(data)
        self.body += bytes(self.wire.wants())

    def finish(self, body: bytes) -> None:
        """The whole message is here; it is answered at once."""
        self.heard.append(body)
        closes = self.wire.closes
        self.wire.answered()
        if closes:
            self.wire.close()
            self.heard.append("closed")


def events_of(pieces: Iterable[bytes], *, refuses: bool = False, first: int = 0) -> list[object]:
    reader = Reader(refuses=refuses, first=first)
    for piece in pieces:
        reader.hear(piece)
        while (
            reader.wire.held
            and reader.wire.state <= ConnectionState.SKIP
            and reader.wire.state is not ConnectionState.HEAD
        ):
            before = len(reader.wire.held)
            reader.wire.receive(b"", 0)
            reader.read()
            if len(reader.wire.held) == before:
                break
    return reader.heard


def corpora() -> Iterator[tuple[str, bytes]]:
    """Every input that other tests send to HTTP: good and broken heads, chunks, the fuzzers' seeds, hostile clients."""
    yield "three", GET + raw_request("m", bytes(16)) + GET
    yield "empty lines", b"\r\n" + GET + b"\r\n\r\n" + json_request("m", b"{}") + b"\r\n" + GET
    yield "chunked", CHUNKED + b"2;a=b\r\n{}\r\n0\r\nT: x\r\n\r\n" + GET
    yield "the last", GET + b"GET /b HTTP/1.0\r\n\r\n" + GET
    yield "permission", raw_request("m", bytes(64), "Expect: 100-continue") + GET
    yield "large", raw_request("m", bytes(5000)) + GET
    for name, (data, _) in itertools.chain(REFUSED.items(), FRAMING.items()):
        yield f"refused: {name}", GET + data
    for name, (data, _) in BAD_CHUNKS.items():
        yield f"chunks: {name}", CHUNKED + data
    for number, seed in enumerate(TARGETS["head"][1]):
        yield f"head {number}", seed + b"x" * 12 + GET
    for number, seed in enumerate(TARGETS["chunked"][1]):
        yield f"seed {number}", CHUNKED + seed[1:] + b"\r\n\r\n" + GET
    for name in ("50,000 pipelined questions", "2,000 heads of a hundred fields", "ten thousand trailers"):
        yield name, HTTP[name]()[:PERIODS]
    yield "chunk extensions", HTTP["a thousand chunk extensions of 4 KB"]()[:PERIODS]
    yield "small chunks", HTTP["a hundred messages of a thousand chunks"]()[:PERIODS]


CORPORA = dict(corpora())


def ways(data: bytes) -> list[tuple[bool, int]]:
    """The ways that the bodies of an input can take, as Reader has them: read, looked at first, or refused."""
    ways = [(False, 0), (False, 3), (True, 0)]
    ends = [events_of([data], refuses=refuses, first=first) for refuses, first in ways]
    return [way for number, way in enumerate(ways) if number == 0 or ends[number] != ends[0] or b"Content-L" in data]


@pytest.mark.parametrize("name", CORPORA)
def test_every_split_gives_the_same_events(name: str) -> None:
    """Cut in two at every position, whichever way a body takes: read, looked at first, or refused.

    Of the middle of a long input `make test` takes every seventh position, or some 600 of a very long one.
    """
    data = CORPORA[name]
    middle = range(1, len(data), 1 if THOROUGH else max(7, len(data) // 600))
    cuts = sorted({*range(1, min(len(data), NEAR)), *middle, *range(max(1, len(data) - NEAR), len(data))})
    for refuses, first in ways(data):
        whole = events_of([data], refuses=refuses, first=first)
        assert whole
        for cut in cuts:
            assert events_of([data[:cut], data[cut:]], refuses=refuses, first=first) == whole, (cut, refuses, first)


@pytest.mark.parametrize("name", CORPORA)
def test_two_cuts_give_the_same_events(name: str) -> None:
    """The same for pairs of positions, drawn by chance."""
    data, draw = CORPORA[name], random.Random(name)
    for refuses, first in ways(data):
        whole = events_of([data], refuses=refuses, first=first)
        for _ in range(min(PAIRS, len(data) ** 2)):
            item, two = sorted(draw.choices(range(len(data)), k=2))
            pieces = [piece for piece in (data[:item], data[item:two], data[two:]) if piece]
            assert events_of(pieces, refuses=refuses, first=first) == whole, (item, two, refuses, first)


@pytest.mark.parametrize("name", [name for name, data in CORPORA.items() if len(data) < 1000])
def test_byte_by_byte(name: str) -> None:
    """The slowest of networks changes nothing."""
    data = CORPORA[name]
    for first in (0, 3):
        assert events_of([data[at : at + 1] for at in range(len(data))], first=first) == events_of([data], first=first)


def in_state(state: ConnectionState) -> Http1Connection[Plan]:
    """A connection that has come there by the bytes of a client and the calls of its reader."""
    wire = connection()
    head = raw_request("m", bytes(100))[:-90]
    data = {
        ConnectionState.IDLE: b"",
        ConnectionState.HEAD: GET[:9],
        ConnectionState.ANSWER: GET,
        ConnectionState.LINGER: b"?",
        ConnectionState.CLOSED: b"",
    }.get(state, CHUNKED if state is ConnectionState.CHUNKS else head)
    wire.receive(data, len(data))
    wire.next_event()
    match state:
        case ConnectionState.PART:
            wire.waits_for(50)
        case ConnectionState.CHUNKS:
            wire.chunks(LIMIT)
        case ConnectionState.SKIP:
            wire.refuse()
        case ConnectionState.BODY:
            assert wire.wants() == 90
        case ConnectionState.CLOSED:
            wire.close()
    wire.hold()
    assert wire.state is state
    return wire


EVERYWHERE = frozenset(ConnectionState)
CALLS = {
    "wants": (lambda wire: wire.wants(), {ConnectionState.REQUEST: ConnectionState.BODY}),
    "received, a part": (lambda wire: wire.received(5), {ConnectionState.BODY: ConnectionState.BODY}),
    "received, the rest": (lambda wire: wire.received(90), {ConnectionState.BODY: ConnectionState.ANSWER}),
    "waits_for": (lambda wire: wire.waits_for(9), {ConnectionState.REQUEST: ConnectionState.PART}),
    "chunks": (lambda wire: wire.chunks(9), {ConnectionState.REQUEST: ConnectionState.CHUNKS}),
    "refuse": (
        lambda wire: wire.refuse(),
        {ConnectionState.REQUEST: ConnectionState.SKIP, ConnectionState.ANSWER: ConnectionState.IDLE},
    ),
    "refuse, the last": (
        lambda wire: wire.refuse(last=True),
        dict.fromkeys((ConnectionState.REQUEST, ConnectionState.ANSWER), ConnectionState.LINGER),
    ),
    "answered": (lambda wire: wire.answered(), {ConnectionState.ANSWER: ConnectionState.IDLE}),
    "resume": (lambda wire: wire.resume(GET), {ConnectionState.IDLE: ConnectionState.IDLE}),
    "owes": (lambda wire: wire.owes(), {ConnectionState.IDLE: ConnectionState.ANSWER}),
    "linger": (
        lambda wire: wire.linger(),
        dict.fromkeys(EVERYWHERE - {ConnectionState.CLOSED}, ConnectionState.LINGER)
        | {ConnectionState.CLOSED: ConnectionState.CLOSED},
    ),
    "close": (lambda wire: wire.close(), dict.fromkeys(EVERYWHERE, ConnectionState.CLOSED)),
}
NO_CALLS = {
    "next_event",
    "receive",
    "receive_alike",
    "received_alike",
    "hold",
}  # which take bytes in any state, and are tested by them


def test_every_call_is_in_the_table() -> None:
    """A method that is added has its cells, too."""
    methods = {name for name, value in vars(Http1Connection).items() if callable(value) and name[0] != "_"}
    assert methods - NO_CALLS == {name.partition(",")[0] for name in CALLS}


@pytest.mark.parametrize("state", ConnectionState)
@pytest.mark.parametrize("name", CALLS)
def test_every_call_in_every_state(state: ConnectionState, name: str) -> None:
    """What a reader says at the wrong time raises, and the connection is as it was."""
    call, moves = CALLS[name]
    wire = in_state(state)
    if state in moves:
        call(wire)
        assert wire.state is moves[state]
    else:
        before = {field: getattr(wire, field) for field in Http1Connection.__slots__}
        with pytest.raises(IllegalMoveError, match=f"in state {state.name}"):
            call(wire)
        assert {field: getattr(wire, field) for field in Http1Connection.__slots__} == before


@pytest.mark.parametrize("size", [-1, 91])
def test_no_more_is_received_than_is_wanted(size: int) -> None:
    """Nor less than nothing: the count of what is left is never wrong."""
    wire = in_state(ConnectionState.BODY)
    with pytest.raises(IllegalMoveError, match=f"{size} bytes were received, but only 90 are missing"):
        wire.received(size)
    assert wire.received(90) == 0


def test_the_last_answer_is_the_end_from_everywhere() -> None:
    """Nothing is understood behind it, and how much was discarded is counted; closing goes from there too."""
    for state in ConnectionState:
        wire = in_state(state)
        if state is not ConnectionState.CLOSED:
            wire.linger()
            assert wire.state is ConnectionState.LINGER
        wire.receive(GET, len(GET))
        assert not wire.unread
        assert wire.hold() == 0
        assert wire.lingered == len(GET)
        wire.close()
        assert wire.state is ConnectionState.CLOSED


def test_a_head_like_the_one_before_means_the_same() -> None:
    """It is not interpreted again, until what its meaning depends on has changed; another head is, each time."""
    read: list[bytes] = []
    edition = Edition()

    def interpret(data: bytes) -> Interpretation[Plan]:
        read.append(data)
        return Interpretation(Plan(parse_head(data), 0, edition))

    wire: Http1Connection[Plan] = Http1Connection(interpret)

    def ask(data: bytes) -> Plan:
        wire.receive(data, len(data))
        event = wire.next_event()
        assert isinstance(event, RequestReceived)
        wire.answered()
        return event.meaning

    first = ask(GET)
    assert ask(GET) is first
    assert (len(read), wire.repeats) == (1, 1)
    edition.valid = False
    edition = Edition()
    assert ask(GET) is not first
    assert (len(read), wire.repeats) == (2, 0)
    ask(GET.replace(b"/a", b"/b"))
    ask(GET)
    assert len(read) == 4
    long = GET[:-2] + b"A: " + b"x" * 4000 + b"\r\n\r\n"
    ask(long)
    assert wire.head == b""
    ask(long)
    assert len(read) == 6


def test_a_head_with_another_id_means_the_same() -> None:
    """It is not interpreted where it fits what is known of its meaning; its own bytes are kept."""
    read: list[bytes] = []
    edition = Edition()

    def interpret(data: bytes) -> Interpretation[Plan]:
        read.append(data)
        plan = Plan(parse_head(data), 0, edition)
        return Interpretation(plan, Outline(data, plan))

    wire: Http1Connection[Plan] = Http1Connection(interpret)
    heads = [b"GET /a HTTP/1.1\r\nHost: x\r\nX-Id: %d\r\n\r\n" % number for number in (10, 11, 12, 13, 9)]
    for head in heads:
        for at in range(1, len(head)):
            wire.receive(head[:at], at)
            assert wire.next_event() is None
            wire.hold()
            wire.receive(head[at:], len(head) - at)
            assert isinstance(wire.next_event(), RequestReceived)
            assert wire.head == head
            wire.hold()
            wire.answered()
    assert read == [heads[0], heads[4]]
    assert wire.repeats == len(heads[4]) - 2
    edition.valid = False
    wire.receive(heads[4].replace(b"9", b"8"), len(heads[4]))
    wire.next_event()
    assert len(read) == 3


def test_one_whole_message_like_the_last_is_taken_at_once() -> None:
    """Of anything else nothing is taken: it is received as any other bytes are, with the same events."""
    edition = Edition()

    def interpret(data: bytes) -> Interpretation[Plan]:
        head = parse_head(data)
        plan = Plan(head, head.content_length or 0, edition)
        return Interpretation(plan, None if head.chunked else Outline(data, plan))

    def wire_behind(first: bytes) -> Http1Connection[Plan]:
        wire: Http1Connection[Plan] = Http1Connection(interpret)
        wire.receive(first, len(first))
        wire.next_event()
        wire.hold()
        return wire

    def post(number: int, body: bytes = b"abc") -> bytes:
        return b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nX-Id: %d\r\n\r\n" % number + body

    wire = wire_behind(post(10))
    assert wire.receive_alike(bytearray(post(11)), len(post(11))) is None  # the last one has no answer yet
    wire.answered()
    room = bytearray(1000)
    for repeats, data in enumerate((post(11), post(12, b"xyz"), post(12, b"xyz")), 1):
        room[: len(data)] = data
        body = wire.receive_alike(room, len(data))
        assert body == data[-3:]
        assert wire.head == data[:-3]
        assert (wire.state, wire.repeats, wire.is_read, wire.more) == (ConnectionState.ANSWER, repeats, True, False)
        assert wire.hold() == 0
        wire.answered()
    others = [post(13)[:-1], post(13)[:-4], post(13) + b"P", post(13) * 2, post(9), b"\r\n" + post(13), post(13)[3:]]
    for data in [*others, post(13).replace(b"/a", b"/b"), post(13).replace(b"13", b"1\0"), CHUNKED, b"\x16\x03"]:
        assert wire.receive_alike(bytearray(data), len(data)) is None
        assert (wire.state, wire.held, wire.repeats) == (ConnectionState.IDLE, b"", 3)
    wire.receive(post(14)[:9], 9)
    assert wire.next_event() is None
    assert wire.hold() == 9
    assert wire.receive_alike(bytearray(post(14)), len(post(14))) is None  # the beginning of a message is held
    chunked = wire_behind(CHUNKED)
    chunked.chunks(LIMIT)
    chunked.receive(b"0\r\n\r\n", 5)
    assert isinstance(chunked.next_event(), Body)
    chunked.hold()
    chunked.answered()
    assert chunked.receive_alike(bytearray(CHUNKED), len(CHUNKED)) is None
    wire = wire_behind(post(10))
    wire.answered()
    edition.valid = False
    assert wire.receive_alike(bytearray(post(11)), len(post(11))) is None
    wire.linger()
    assert wire.receive_alike(bytearray(post(11)), len(post(11))) is None


def test_a_reader_may_recognise_a_message_like_the_last_one() -> None:
    """Only where nothing of another one has begun; the head is that of the new message."""
    wire = connection()
    wire.receive(GET, len(GET))
    assert isinstance(wire.next_event(), RequestReceived)
    wire.hold()
    assert not wire.received_alike(b"other")  # the last one has no answer yet
    wire.answered()
    assert wire.received_alike(b"the head")
    assert (wire.state, wire.head, wire.repeats, wire.more) == (ConnectionState.ANSWER, b"the head", 1, False)
    wire.answered()
    wire.receive(GET[:9], 9)
    assert wire.next_event() is None
    wire.hold()
    assert not wire.received_alike(b"other")
    wire.linger()
    assert not wire.received_alike(b"other")
    assert (wire.state, wire.head) == (ConnectionState.LINGER, b"the head")


def test_pipelined_messages_wait_for_the_answer() -> None:
    """One message is served; what stands behind it is held, and read when it has its answer."""
    wire = connection()
    wire.receive(GET * 3, len(GET) * 3)
    assert isinstance(wire.next_event(), RequestReceived)
    assert not wire.unread
    assert wire.next_event() is None
    assert wire.hold() == 2 * len(GET)
    wire.receive(GET, len(GET))
    assert wire.hold() == 3 * len(GET)
    for left in (2, 1, 0):
        wire.answered()
        wire.receive(b"", 0)
        assert isinstance(wire.next_event(), RequestReceived)
        assert wire.hold() == left * len(GET)


def test_permission_is_given_where_it_is_waited_for() -> None:
    """`interim` is 100 Continue for a head that expects it, and nothing for any other."""
    for line, interim in (("Expect: 100-continue", CONTINUE), ("A: b", b"")):
        wire = connection()
        data = raw_request("m", bytes(16), line)[:-16]
        wire.receive(data, len(data))
        event = wire.next_event()
        assert isinstance(event, RequestReceived)
        assert not event.whole
        assert wire.interim == interim
        assert wire.wants() == 16
        assert wire.received(10) == 6
        assert wire.received(6) == 0
        assert wire.state is ConnectionState.ANSWER


def test_a_refused_body_is_skipped_where_its_end_is_near() -> None:
    """The connection goes on behind it; it ends where the body is large, chunked, or waits for permission."""
    for data, last in (
        (raw_request("m", bytes(5000))[:-4000], False),
        (raw_request("m", bytes(5000)), False),
        (raw_request("m", bytes(5000), "Expect: 100-continue")[:-5000], True),
        (raw_request("m", bytes(5000), "Connection: close")[:-4000], True),
        (raw_request("m", bytes(2 << 20))[: 1 << 16], True),
        (CHUNKED, True),
    ):
        wire = connection()
        wire.receive(data, len(data))
        assert isinstance(wire.next_event(), RequestReceived)
        assert wire.refuse() is last
        assert (wire.state is ConnectionState.LINGER) is last
        wire.hold()
    wire = connection()
    wire.receive(GET, len(GET))
    wire.next_event()
    assert wire.refuse(last=True)


def test_the_end_of_a_client() -> None:
    """The answer to the last whole message is the last; to one that has others behind it, it is not."""
    wire = connection()
    wire.receive(GET * 2, len(GET) * 2)
    wire.next_event()
    wire.hold()
    assert not wire.closes
    wire.ended = True
    assert not wire.closes
    wire.answered()
    wire.receive(b"", 0)
    wire.next_event()
    assert wire.closes


def test_a_chunked_body_is_bounded() -> None:
    """Over the limit it is broken, however it arrives; so far its bytes are counted."""
    wire = connection()
    for data, collected in ((CHUNKED, 0), (b"6\r\nabcdef\r\n", 6), (b"5\r\n", 6)):
        wire.receive(data, len(data))
        event = wire.next_event()
        if isinstance(event, RequestReceived):
            wire.chunks(10)
        wire.hold()
        assert wire.collected == (0 if isinstance(event, Broken) else collected)
    assert isinstance(event, Broken)
    assert event.status == 413
    assert wire.state is ConnectionState.LINGER

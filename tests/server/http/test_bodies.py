"""Where a body goes that is not all here: in chunks, up to the end of its JSON, or in a buffer; and what bounds it."""

from types import SimpleNamespace
from typing import Any

import pytest

from tailcut.errors import QueueFullError
from tailcut.server.account import Account
from tailcut.server.http.bodies import BodyReceiver
from tailcut.server.http.replies import Refusal
from tailcut.server.limits import ServerLimits
from tailcut.server.metrics import ServerCounts
from tailcut.wire.http1.connection import Http1Connection
from tailcut.wire.http1.events import Edition
from tailcut.wire.http1.head import parse_head
from tailcut.wire.http1.outlines import Interpretation
from tailcut.wire.http1.states import ConnectionState

LIMIT = 1000


class Receiver:
    """A receiver whose connection has read the head of a message, and so many bytes of its body."""

    def __init__(self, framing: str, here: bytes = b"", direct: bool = False, served: Any = None) -> None:
        head = f"POST /a HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode()
        parsed = parse_head(head)
        self.plan: Any = SimpleNamespace(
            head=parsed,
            length=parsed.content_length or 0,
            edition=Edition(),
            limit=LIMIT,
            served=served,
            direct=direct,
            json_size=7,
        )
        self.wire: Http1Connection[Any] = Http1Connection(lambda _head: Interpretation(self.plan))
        self.wire.receive(head + here, len(head) + len(here))
        event = self.wire.next_event()
        assert event is not None
        self.counts = ServerCounts()
        account = Account(self.counts, ServerLimits(buffered_bytes=LIMIT - 100))
        self.bodies = BodyReceiver(self.wire, SimpleNamespace(), account, 200, 30.0)  # type: ignore[arg-type]
        self.here = memoryview(here)

    def collect(self) -> None:
        self.bodies.collect(self.plan, self.here)


def test_a_buffer_has_what_is_here_and_what_comes() -> None:
    """It is charged until it is taken."""
    receiver = Receiver("Content-Length: 10", b"abcd")
    receiver.collect()
    bodies = receiver.bodies
    assert bodies.target is not None
    assert (receiver.wire.state, receiver.counts.buffered_bytes, len(bodies.target)) == (ConnectionState.BODY, 10, 6)
    for part, whole in ((b"efg", False), (b"hij", True)):
        target = bodies.target
        assert target is not None
        target[: len(part)] = part
        assert bodies.received(target, len(part)) is whole
    body = bodies.take_buffer()
    assert body is not None
    assert bytes(body) == b"abcdefghij"
    assert (receiver.counts.buffered_bytes, bodies.target) == (0, None)


@pytest.mark.parametrize(
    ("framing", "direct", "state"),
    [
        ("Transfer-Encoding: chunked", False, ConnectionState.CHUNKS),
        ("Content-Length: 200", True, ConnectionState.PART),
        ("Content-Length: 199", True, ConnectionState.BODY),
        ("Content-Length: 200", False, ConnectionState.BODY),
    ],
)
def test_the_way_of_a_body(framing: str, direct: bool, state: ConnectionState) -> None:
    """By how it is framed, its length, and whether a tensor stands behind its JSON."""
    receiver = Receiver(framing, direct=direct)
    receiver.collect()
    assert receiver.wire.state is state


def test_what_is_too_long_is_refused_before_it_is_kept() -> None:
    """And what would be too much together with others; the connection can read past it."""
    for framing, status, held in (("Content-Length: 1001", 413, 0), ("Content-Length: 600", 503, 500)):
        receiver = Receiver(framing)
        receiver.counts.buffered_bytes = held
        with pytest.raises(Refusal) as refused:
            receiver.collect()
        assert (refused.value.status, receiver.counts.buffered_bytes) == (status, held)
        assert receiver.wire.state is ConnectionState.REQUEST


def test_what_its_model_would_refuse_is_not_kept() -> None:
    """The model is asked before any room is."""

    def admit(rows: int) -> None:
        raise QueueFullError("full")

    receiver = Receiver("Content-Length: 10", served=SimpleNamespace(entry=SimpleNamespace(admit=admit)))
    with pytest.raises(QueueFullError):
        receiver.collect()
    assert receiver.counts.buffered_bytes == 0


def test_chunks_are_charged_as_they_come() -> None:
    """Over the limit they are refused."""
    receiver = Receiver("Transfer-Encoding: chunked")
    receiver.collect()
    for size, fits in ((400, True), (400, True), (100, True), (1, False)):
        data = b"%x\r\n%b\r\n" % (size, bytes(size))
        receiver.wire.receive(data, len(data))
        receiver.wire.next_event()
        receiver.wire.hold()
        if fits:
            receiver.bodies.charge_chunks()
            continue
        with pytest.raises(Refusal) as refused:
            receiver.bodies.charge_chunks()
        assert refused.value.status == 503

"""Compiled passes over real sockets: what is taken, what is left, and who is passed over."""

import select
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailcut.kernels import sockets
from tailcut.server.fastpath.tables import HeadTable
from tailcut.wire.http1.head import significant
from tailcut.wire.trace_context import sampling_of

HEAD, BODY = b"HEAD", 8
ROOM = 4


class Pass:
    """The tables of one plan and one target, and some connected pairs."""

    def __init__(self, count: int) -> None:
        self.pairs = [socket.socketpair() for _ in range(count)]
        self.poll = select.epoll()
        self.events = np.zeros((64, sockets.EVENT_WORDS), np.int32)
        self.state = np.zeros((4096, sockets.STATES), np.int64)
        self.plans = np.zeros((1, sockets.PLANS), np.int64)
        self.plans[0, : sockets.BEFORE] = 0, len(HEAD), BODY, 0, 0, len(HEAD)
        self.own_heads = np.zeros((4096, sockets.HEAD_MOST), np.uint8)
        self.heads = np.frombuffer(HEAD, np.uint8).copy()
        self.table = np.zeros((1, sockets.TARGETS), np.int64)
        self.table[0, sockets.ROW_BYTES] = BODY
        self.rows = np.zeros((64, BODY), np.uint8)
        self.members = np.zeros((1, 64, sockets.MEMBERS), np.int64)
        self.scratch = np.zeros(1024, np.uint8)
        self.odd = np.zeros((65, 2), np.int64)
        for number, (_, theirs) in enumerate(self.pairs):
            self.poll.register(theirs.fileno(), select.EPOLLIN)
            self.state[theirs.fileno()] = number + 1, 0, 0, 0, 0, 0

    def say(self, number: int, data: bytes) -> None:
        self.pairs[number][0].send(data)

    def turn(self, room: int = 64) -> tuple[list[int], list[list[int]]]:
        """One pass: the generations taken, and who was odd."""
        left = int(self.odd[64, 0])
        count = sockets.look(self.poll.fileno(), left, self.events, self.state, self.plans, self.table, 0)
        self.table[0, sockets.ADDRESS] = self.rows.ctypes.data
        self.table[0, sockets.ROOM] = room
        odds = sockets.take(
            count,
            self.events,
            self.state,
            self.plans,
            self.heads,
            self.table,
            self.members,
            self.scratch,
            self.odd,
            self.own_heads,
            np.zeros((0, 1), np.uint8),
            np.zeros(256, np.uint8),
            np.zeros(64, np.float64),
        )
        taken = int(self.table[0, sockets.TAKEN])
        return self.members[0, :taken, 1].tolist(), self.odd[:odds].tolist()

    def close(self) -> None:
        self.poll.close()
        for ours, theirs in self.pairs:
            ours.close()
            theirs.close()


@pytest.fixture
def ten() -> Iterator[Pass]:
    made = Pass(10)
    yield made
    made.close()


def body(number: int) -> bytes:
    return bytes([number]) * BODY


def test_whole_messages_stand_side_by_side(ten: Pass) -> None:
    """Each body is in the row that its member names, whichever spoke first."""
    for number in (7, 2, 5):
        ten.say(number, HEAD + body(number))
    taken, odd = ten.turn()
    assert (sorted(taken), odd) == ([3, 6, 8], [])
    for row, generation in enumerate(taken):
        assert ten.rows[row].tobytes() == body(generation - 1)
        assert ten.state[ten.pairs[generation - 1][1].fileno(), sockets.PENDING] == 1


def test_nobody_is_heard_twice_before_all_have_been_heard(ten: Pass) -> None:
    """Ten are ready, a pass has room for four; those who are heard speak again at once, and still wait their turn."""
    for number in range(10):
        ten.say(number, HEAD + body(number))
    heard = []
    for _ in range(3):
        taken, _ = ten.turn(ROOM)
        heard += taken
        for generation in taken:
            ten.state[ten.pairs[generation - 1][1].fileno(), sockets.PENDING] = 0
            ten.say(generation - 1, HEAD + body(generation - 1))
    assert sorted(heard[:10]) == list(range(1, 11))


@pytest.mark.parametrize(
    "said",
    [b"HEAT" + body(0), HEAD + body(0)[1:], HEAD + body(0) + b"H"],
    ids=["another head", "too short", "too long"],
)
def test_anything_else_is_odd_and_its_bytes_are_kept(ten: Pass, said: bytes) -> None:
    """Nothing of it is in a row; the others of the pass are heard in the next one."""
    ten.say(3, said)
    taken, odd = ten.turn()
    assert taken == []
    assert odd == [[ten.pairs[3][1].fileno(), len(said)]]
    assert ten.scratch[: len(said)].tobytes() == said
    assert not ten.rows.any()


def test_who_left_and_who_does_not_wait_are_odd_without_bytes(ten: Pass) -> None:
    """The end of a connection, and a second message before the answer: nothing is read of either."""
    ten.say(1, HEAD + body(1))
    assert ten.turn() == ([2], [])
    ten.say(1, HEAD + body(1))
    ten.pairs[4][0].close()
    taken, odd = ten.turn()
    assert taken == []
    assert sorted(odd) == sorted([[ten.pairs[1][1].fileno(), 0], [ten.pairs[4][1].fileno(), 0]])
    assert ten.pairs[1][1].recv(100) == HEAD + body(1)


def test_an_answer_goes_to_its_generation_only(ten: Pass) -> None:
    """A descriptor that is another connection's by now gets nothing; the others get their own row."""
    for number in range(3):
        ten.say(number, HEAD + body(number))
    taken, _ = ten.turn()
    members = ten.members[0, : len(taken)].copy()
    ten.state[ten.pairs[1][1].fileno(), sockets.GENERATION] = 99
    outputs = np.array([[ten.rows.ctypes.data, BODY]], np.int64)
    answer = np.zeros(1024, np.uint8)
    answer[:2] = np.frombuffer(b"OK", np.uint8)
    ring, trace = np.zeros((4, 13), np.int64), np.arange(9)
    short = np.zeros((65, 2), np.int64)
    assert sockets.answer(members, ten.state, 2, outputs, answer, ring, 3, trace, short) == 0
    assert trace[0] == 2
    for number in (0, 2):
        assert ten.pairs[number][0].recv(100) == b"OK" + body(number)
    ten.pairs[1][0].setblocking(False)
    with pytest.raises(BlockingIOError):
        ten.pairs[1][0].recv(1)
    assert ring[[3, 0], 0].tolist() == members[[place for place in range(3) if members[place, 1] != 2], 2].tolist()
    assert ring[[3, 0], 12].tolist() == [3, 4]
    assert (ring[[1, 2]] == 0).all()


def test_answers_of_lists_are_framed_one_by_one(ten: Pass) -> None:
    """Length, frame and each output's own list; who has left takes its lists with it."""
    for number in range(3):
        ten.say(number, HEAD + body(number))
    taken, _ = ten.turn()
    members = ten.members[0, : len(taken)].copy()
    ten.state[ten.pairs[1][1].fileno(), sockets.GENERATION] = 99
    first = b"[%b]" % b",".join(b"[%d]" % 10**generation for generation in taken)
    second = b"[%b]" % b",".join(b"[%d,null]" % generation for generation in taken)
    parts = [b"\r\n\r\nA", b"B", b"C"]
    answer = np.zeros(1024, np.uint8)
    answer[:2] = np.frombuffer(b"OK", np.uint8)
    short = np.zeros((65, 2), np.int64)
    sent = sockets.answer_lists(
        members,
        ten.state,
        2,
        np.frombuffer(first + second, np.uint8),
        np.array([1, len(first) + 1]),
        np.frombuffer(b"".join(parts), np.uint8),
        np.array([len(part) for part in parts]),
        answer,
        np.zeros((4, 13), np.int64),
        3,
        np.arange(9),
        short,
    )
    assert sent == 0
    for number in (0, 2):
        text = b"A[%d]B[%d,null]C" % (10 ** (number + 1), number + 1)
        assert ten.pairs[number][0].recv(100) == b"OK%d\r\n\r\n%b" % (len(text), text)
    ten.pairs[1][0].setblocking(False)
    with pytest.raises(BlockingIOError):
        ten.pairs[1][0].recv(1)


def test_looking_awake_ends_with_the_first_word_or_in_time(ten: Pass) -> None:
    """Polling for a minute ends as soon as bytes arrive; polling in vain ends when it was to end."""
    tables = ten.poll.fileno(), 0, ten.events, ten.state, ten.plans, ten.table
    until_ns = time.monotonic_ns() + 2_000_000
    assert sockets.look(*tables, until_ns) == 0
    assert time.monotonic_ns() >= until_ns
    threading.Timer(0.05, ten.say, (3, HEAD + body(3))).start()
    assert sockets.look(*tables, time.monotonic_ns() + 60_000_000_000) == 1
    assert time.monotonic_ns() < until_ns + 30_000_000_000


GOOD = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_compiled_code_reads_trace_contexts_as_python_does(data: st.DataObject) -> None:
    """Sampled, not sampled, or none that is well-formed; whatever a client writes, and however often."""
    lines = []
    for _ in range(data.draw(st.integers(0, 2))):
        value = bytearray(GOOD)
        for _ in range(data.draw(st.integers(0, 3))):
            place = data.draw(st.integers(0, len(value) - 1))
            value[place] = data.draw(st.sampled_from(b"0123456789abcdefABF-gx/:@` \t"))
        value[-1] = data.draw(st.sampled_from(b"0123456789abcdef"))
        version = data.draw(st.sampled_from([b"00", b"01", b"ff", b"cc"]))
        tail = data.draw(st.sampled_from([b"", b"-", b"-x", b"x", b" ", b"\t "]))
        name = data.draw(st.sampled_from([b"traceparent:", b"TraceParent: ", b"TRACEPARENT:\t", b"xtraceparent:"]))
        zeros = data.draw(st.sampled_from([None, slice(3, 35), slice(36, 52)]))
        if zeros is not None:
            value[zeros] = b"0" * (zeros.stop - zeros.start)
        lines.append(name + version + bytes(value[2:]) + tail)
    head = b"\r\n".join([b"POST /x HTTP/1.1", b"Host: x", *lines, b"X: 1", b"", b""])
    table = HeadTable(1 << 16, 1 << 16, traces=True)
    known = np.frombuffer(significant(head), np.uint8)
    text, said = np.frombuffer(head, np.uint8), np.array([1, 7])
    end = sockets.head_end(text, len(head), known, 0, len(known), table.fields, table.grammar, said)
    assert end == len(head)
    assert said[1] == sampling_of(head)
    off = HeadTable(1 << 16, 1 << 16)
    sockets.head_end(text, len(head), known, 0, len(known), off.fields, off.grammar, said)
    assert said[1] == 0

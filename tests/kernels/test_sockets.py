"""Compiled passes over real sockets: what is taken, what is left, and what is passed over."""

import select
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import runs

from tailcut.kernels import heads, sockets
from tailcut.kernels import socket_tables as columns
from tailcut.kernels.cache import compiled
from tailcut.kernels.libc import EVENT_WORDS
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
        self.events = np.zeros((64, EVENT_WORDS), np.int32)
        self.state = np.zeros((4096, columns.STATES), np.int64)
        self.plans = np.zeros((1, columns.PLANS), np.int64)
        self.plans[0, : columns.BEFORE] = 0, len(HEAD), BODY, 0, 0, len(HEAD)
        self.own_heads = np.zeros((4096, columns.HEAD_MOST), np.uint8)
        self.heads = np.frombuffer(HEAD, np.uint8).copy()
        self.table = np.zeros((1, columns.TARGETS), np.int64)
        self.table[0, columns.ROW_BYTES] = BODY
        self.rows = np.zeros((64, BODY), np.uint8)
        self.members = np.zeros((1, 64, columns.MEMBERS), np.int64)
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
        self.table[0, columns.ADDRESS] = self.rows.ctypes.data
        self.table[0, columns.ROOM] = room
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
        taken = int(self.table[0, columns.TAKEN])
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
        assert ten.state[ten.pairs[generation - 1][1].fileno(), columns.PENDING] == 1


def test_nobody_is_heard_twice_before_all_have_been_heard(ten: Pass) -> None:
    """Ten are ready, a pass has room for four; those who are heard speak again at once, and still wait their turn."""
    for number in range(10):
        ten.say(number, HEAD + body(number))
    heard = []
    for _ in range(3):
        taken, _ = ten.turn(ROOM)
        heard += taken
        for generation in taken:
            ten.state[ten.pairs[generation - 1][1].fileno(), columns.PENDING] = 0
            ten.say(generation - 1, HEAD + body(generation - 1))
    assert sorted(heard[:10]) == list(range(1, 11))


@pytest.mark.parametrize(
    "text",
    [b"HEAT" + body(0), HEAD + body(0)[1:], HEAD + body(0) + b"H"],
    ids=["another head", "too short", "too long"],
)
def test_anything_else_is_odd_and_its_bytes_are_kept(ten: Pass, text: bytes) -> None:
    """Nothing of it is in a row; the others of the pass are heard in the next one."""
    ten.say(3, text)
    taken, odd = ten.turn()
    assert taken == []
    assert odd == [[ten.pairs[3][1].fileno(), len(text)]]
    assert ten.scratch[: len(text)].tobytes() == text
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


def test_looking_awake_ends_with_the_first_word_or_in_time(ten: Pass) -> None:
    """Polling for a minute ends as soon as bytes arrive; polling in vain ends when it was to end."""
    tables = ten.poll.fileno(), 0, ten.events, ten.state, ten.plans, ten.table
    until_ns = time.monotonic_ns() + 2_000_000
    assert sockets.look(*tables, until_ns) == 0
    assert time.monotonic_ns() >= until_ns
    threading.Timer(0.05, ten.say, (3, HEAD + body(3))).start()
    assert sockets.look(*tables, time.monotonic_ns() + 60_000_000_000) == 1
    assert time.monotonic_ns() < until_ns + 30_000_000_000


WITH_TRACES, WITHOUT = (HeadTable(1 << 16, 1 << 16, traces=traces) for traces in (True, False))
# Compiled once for all runs of the tests: it stands in what is compiled of the fast path, and is not kept by itself.
head_end = compiled()(heads.head_end.py_func)
GOOD = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@given(st.data())
@settings(max_examples=runs(400), deadline=None)
def test_compiled_code_reads_trace_contexts_as_python_does(data: st.DataObject) -> None:
    """Sampled, not sampled, or none that is well-formed; whatever a client writes, and however often."""
    lines = []
    for _ in range(data.draw(st.integers(0, 2))):
        value = bytearray(GOOD)
        for _ in range(data.draw(st.integers(0, 3))):
            index = data.draw(st.integers(0, len(value) - 1))
            value[index] = data.draw(st.sampled_from(b"0123456789abcdefABF-gx/:@` \t"))
        value[-1] = data.draw(st.sampled_from(b"0123456789abcdef"))
        version = data.draw(st.sampled_from([b"00", b"01", b"ff", b"cc"]))
        tail = data.draw(st.sampled_from([b"", b"-", b"-x", b"x", b" ", b"\t "]))
        name = data.draw(st.sampled_from([b"traceparent:", b"TraceParent: ", b"TRACEPARENT:\t", b"xtraceparent:"]))
        zeros = data.draw(st.sampled_from([None, slice(3, 35), slice(36, 52)]))
        if zeros is not None:
            value[zeros] = b"0" * (zeros.stop - zeros.start)
        lines.append(name + version + bytes(value[2:]) + tail)
    head = b"\r\n".join([b"POST /x HTTP/1.1", b"Host: x", *lines, b"X: 1", b"", b""])
    table, off = WITH_TRACES, WITHOUT
    known = np.frombuffer(significant(head), np.uint8)
    text, output = np.frombuffer(head, np.uint8), np.array([1, 7])
    end = head_end(text, len(head), known, 0, len(known), table.fields, table.grammar, output)
    assert end == len(head)
    assert output[1] == sampling_of(head)
    head_end(text, len(head), known, 0, len(known), off.fields, off.grammar, output)
    assert output[1] == 0

"""Answers out of compiled code over real sockets: each member gets its own, and no other connection gets any."""

from collections.abc import Iterator

import numpy as np
import pytest
from tests.kernels.test_sockets import BODY, HEAD, Pass, body

from tailcut.kernels import answers
from tailcut.kernels.socket_tables import GENERATION


@pytest.fixture
def ten() -> Iterator[Pass]:
    made = Pass(10)
    yield made
    made.close()


def test_an_answer_goes_to_its_generation_only(ten: Pass) -> None:
    """A descriptor that is another connection's by now gets nothing; the others get their own row."""
    for number in range(3):
        ten.say(number, HEAD + body(number))
    taken, _ = ten.turn()
    members = ten.members[0, : len(taken)].copy()
    ten.state[ten.pairs[1][1].fileno(), GENERATION] = 99
    outputs = np.array([[ten.rows.ctypes.data, BODY]], np.int64)
    answer = np.zeros(1024, np.uint8)
    answer[:2] = np.frombuffer(b"OK", np.uint8)
    ring, trace = np.zeros((4, 13), np.int64), np.arange(9)
    short = np.zeros((65, 2), np.int64)
    assert answers.answer(members, ten.state, 2, outputs, answer, ring, 3, trace, short) == 0
    assert trace[0] == 2
    for number in (0, 2):
        assert ten.pairs[number][0].recv(100) == b"OK" + body(number)
    ten.pairs[1][0].setblocking(False)
    with pytest.raises(BlockingIOError):
        ten.pairs[1][0].recv(1)
    assert ring[[3, 0], 0].tolist() == members[[index for index in range(3) if members[index, 1] != 2], 2].tolist()
    assert ring[[3, 0], 12].tolist() == [3, 4]
    assert (ring[[1, 2]] == 0).all()


def test_answers_of_lists_are_framed_one_by_one(ten: Pass) -> None:
    """Length, frame and each output's own list; who has left takes its lists with it."""
    for number in range(3):
        ten.say(number, HEAD + body(number))
    taken, _ = ten.turn()
    members = ten.members[0, : len(taken)].copy()
    ten.state[ten.pairs[1][1].fileno(), GENERATION] = 99
    first = b"[%b]" % b",".join(b"[%d]" % 10**generation for generation in taken)
    second = b"[%b]" % b",".join(b"[%d,null]" % generation for generation in taken)
    parts = [b"\r\n\r\nA", b"B", b"C"]
    answer = np.zeros(1024, np.uint8)
    answer[:2] = np.frombuffer(b"OK", np.uint8)
    short = np.zeros((65, 2), np.int64)
    sent = answers.answer_lists(
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

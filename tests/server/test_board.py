"""The memory that workers share: connection counts and the sum of what each has counted."""

from collections.abc import Iterator

import pytest

from tailcut.errors import TooLargeError
from tailcut.server.board import Board, add_up, lasting


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.make(3)
    yield board
    board.close()


def test_add_up() -> None:
    """Numbers are added by name, lists element by element, dictionaries likewise; a missing name counts nothing."""
    one = {"a": 1, "list": [1, 2], "inner": {"x": 0.5}}
    two = {"a": 10, "list": [10, 20], "inner": {"x": 1, "y": 2}, "new": 3}
    assert add_up(one, two) == {"a": 11, "list": [11, 22], "inner": {"x": 1.5, "y": 2}, "new": 3}
    assert add_up() == {}


def test_what_was_true_of_the_moment_does_not_last() -> None:
    """Open connections and lent rows end with their worker, on every level; totals stay."""
    assert lasting({"connections": 3, "accepted": 9, "models": {"m": {"1": {"rows_in_use": 4, "rows": 5}}}}) == {
        "accepted": 9,
        "models": {"m": {"1": {"rows": 5}}},
    }


def test_the_least_of_those_that_accept(board: Board) -> None:
    """Empty places and those that have left do not count; with nobody there it is 0."""
    assert board.least() == 0
    board.hold(1, 7)
    board.hold(3, 5)
    assert (board.least(), board.connections(1)) == (5, 7)
    board.leave(3)
    assert board.least() == 7


def test_totals_survive_their_worker(board: Board) -> None:
    """A worker's counts are in the sum while it lives; afterwards its totals still are, its moment is not."""
    board.publish(1, {"accepted": 5, "connections": 2})
    board.publish(2, {"accepted": 7, "connections": 1})
    assert board.totals() == {"accepted": 12, "connections": 3}
    board.fold(1)
    assert board.totals() == {"accepted": 12, "connections": 1}
    board.publish(1, {"accepted": 1, "connections": 1})
    board.fold(1)
    board.fold(2)
    assert board.totals() == {"accepted": 13}


def test_a_shorter_snapshot_replaces_a_longer_one(board: Board) -> None:
    """Nothing of the old one is read."""
    board.publish(1, {"name": list(range(1000))})
    board.publish(1, {"a": 1})
    assert board.totals() == {"a": 1}


def test_another_process_sees_the_same(board: Board) -> None:
    """Opened by its descriptor, as a worker does, the region shows what was written; changes show both ways."""
    import os

    other = Board(os.dup(board.descriptor), 3)
    board.publish(2, {"a": 1})
    other.hold(1, 4)
    assert other.totals() == {"a": 1}
    assert board.least() == 4
    other.close()


def test_a_half_written_snapshot_is_no_number(board: Board) -> None:
    """What a worker left when it was killed in the middle of writing counts as nothing."""
    board.publish(1, {"a": 1})
    at = bytes(board._map).index(b'{"a":1}')
    board._map[at + 5 : at + 6] = b"7"
    board.publish(2, {"a": 2})
    assert board.totals() == {"a": 2}


def test_too_many_models(board: Board) -> None:
    """Counts that do not fit are refused with the sizes, and the neighbour's place is untouched."""
    with pytest.raises(TooLargeError, match="65536"):
        board.publish(1, {"name": ["x" * 70_000]})
    assert board.totals() == {}

"""Rows as integer leases: every cell of the table of moves, and how neighbours are lent."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailcut.errors import IllegalMoveError
from tailcut.memory.slab import MOVES, RowState, Slab
from tailcut.spec import DType, TensorSpec

X = TensorSpec("x", DType.FP32, (None, 16))
Y = TensorSpec("y", DType.FP32, (None, 2))
PATHS = {
    RowState.FREE: [],
    RowState.FILLING: [RowState.FILLING],
    RowState.READY: [RowState.FILLING, RowState.READY],
    RowState.RUNNING: [RowState.FILLING, RowState.READY, RowState.RUNNING],
    RowState.DONE: [RowState.FILLING, RowState.READY, RowState.RUNNING, RowState.DONE],
    RowState.ABANDONED: [RowState.FILLING, RowState.READY, RowState.RUNNING, RowState.ABANDONED],
}


def slab(rows: int = 16, block: int = 4) -> Slab:
    return Slab([X], [Y], rows, block=block)


def row_in(state: RowState) -> tuple[Slab, int]:
    item = slab()
    row = item.take()
    at = RowState.FILLING
    if state is RowState.FREE:
        item.move(row, 1, at, RowState.FREE)
    for step in PATHS[state][1:]:
        item.move(row, 1, at, step)
        at = step
    return item, row


@pytest.mark.parametrize(("old", "new"), list(itertools.product(RowState, RowState)))
def test_every_cell_of_the_table(old: RowState, new: RowState) -> None:
    """A move is made when the table holds it and raises, changing nothing, when not."""
    item, row = row_in(old)
    if new in MOVES[old]:
        item.move(row, 1, old, new)
        assert item.state(row) is new
    else:
        with pytest.raises(IllegalMoveError, match=old.name):
            item.move(row, 1, old, new)
        assert item.state(row) is old


def test_a_move_from_a_state_the_row_is_not_in_raises() -> None:
    """The caller's idea of the state is checked too, for all rows or none."""
    item = slab()
    row = item.take(3)
    item.move(row + 1, 1, RowState.FILLING, RowState.READY)
    with pytest.raises(IllegalMoveError):
        item.move(row, 3, RowState.FILLING, RowState.READY)
    assert [item.state(row + i) for i in range(3)] == [RowState.FILLING, RowState.READY, RowState.FILLING]


def test_neighbours_come_from_one_block() -> None:
    """Requests that arrive together lie side by side, from row 0 on."""
    item = slab()
    assert [item.take() for _ in range(4)] == [0, 1, 2, 3]
    assert item.take() == 4


def test_the_lowest_whole_block_opens_after_a_batch_left() -> None:
    """While rows 0 and 1 compute, arrivals start at the next block; once they are back, at 0 again."""
    item = slab()
    item.take()
    item.take()
    item.close_block()
    assert item.take() == 4
    item.close_block()
    item.move(0, 2, RowState.FILLING, RowState.FREE)
    assert item.take() == 0


def test_uploads_are_lent_from_the_far_end() -> None:
    """A slow upload splits no block."""
    item = slab()
    assert item.take_apart() == 15
    assert item.take_apart(2) == 13
    assert item.take() == 0


def test_a_scattered_slab_still_lends_what_is_free() -> None:
    """With no whole block left, single rows between the holes are found."""
    item = slab(rows=8, block=4)
    rows = [item.take_apart() for _ in range(8)]
    assert item.take() == -1
    item.move(rows[2], 1, RowState.FILLING, RowState.FREE)
    item.move(rows[6], 1, RowState.FILLING, RowState.FREE)
    assert {item.take(), item.take()} == {rows[2], rows[6]}
    assert item.take() == -1


def test_rows_are_aligned_and_contiguous() -> None:
    """The slab starts on a cache line and a run of rows is one C-contiguous array."""
    item = slab()
    assert item.inputs[0].ctypes.data % 64 == 0
    assert item.inputs[0][3:9].flags.c_contiguous
    item.input_bytes[0][64:128] = np.full(16, 7, np.float32).tobytes()
    assert (item.inputs[0][1] == 7).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["take", "apart", "free", "close"]), st.integers(1, 4)), max_size=60))
def test_no_row_is_ever_lent_twice(steps: list[tuple[str, int]]) -> None:
    """Whatever the order of calls, leases never overlap, and all rows come back."""
    item = slab(rows=12, block=4)
    lent: list[tuple[int, int]] = []
    for action, count in steps:
        if action == "close":
            item.close_block()
        elif action == "free" and lent:
            row, size = lent.pop(count % len(lent))
            item.move(row, size, RowState.FILLING, RowState.FREE)
        elif action in {"take", "apart"}:
            row = item.take(count) if action == "take" else item.take_apart(count)
            if row >= 0:
                mine = set(range(row, row + count))
                assert all(mine.isdisjoint(range(r, r + c)) for r, c in lent)
                lent.append((row, count))
    assert item.in_use == sum(count for _, count in lent)
    for row, size in lent:
        item.move(row, size, RowState.FILLING, RowState.FREE)
    item.close_block()
    assert item.in_use == 0
    assert [item.take_apart() for _ in range(12)] == list(range(11, -1, -1))

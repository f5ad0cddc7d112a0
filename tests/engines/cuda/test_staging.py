"""The life of a staging slot: every cell of the table of moves, and what is left behind in its memory."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailcut.engines.cuda.staging import MOVES, WAITS, Slot, SlotState
from tailcut.errors import ReleasedError


@pytest.mark.parametrize(("start", "to"), list(product(SlotState, SlotState)), ids=lambda state: state.name)
def test_every_move(start: SlotState, to: SlotState) -> None:
    """Those of the table are made, and all others raise and change nothing."""
    slot = Slot(3, start)
    if to in MOVES[start]:
        slot.move(to)
        assert slot.state is to
    else:
        with pytest.raises(ReleasedError, match=f"slot 3 cannot go from {start.name} to {to.name}"):
            slot.move(to)
        assert slot.state is start


def test_a_step_waits_for_the_one_before_it() -> None:
    """The chain of waits is the way through the table, and begins without one."""
    way = [SlotState.COPYING_IN, SlotState.COMPUTING, SlotState.COPYING_OUT]
    assert [WAITS[state] for state in way] == [None, *way[:-1]]
    assert all(to in MOVES[start] for start, to in zip([SlotState.FREE, *way], [*way, SlotState.FREE], strict=True))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 16)), max_size=30))
def test_no_row_of_an_earlier_batch_stays(batches: list[tuple[str, int]]) -> None:
    """Zeroing from the rows to the stale end leaves exactly the batch's own rows, in each bucket."""
    slot = Slot(0)
    memory = {bucket: [0] * 16 for bucket in "ab"}
    for number, (bucket, rows) in enumerate(batches, start=1):
        end = slot.stale(bucket, rows)
        memory[bucket][:rows] = [number] * rows
        memory[bucket][rows:end] = [0] * (end - rows)
        assert memory[bucket] == [number] * rows + [0] * (16 - rows)


def test_what_a_failed_step_left_is_stale() -> None:
    """All of it, in each bucket: which of its copies and zeros arrived is unknown."""
    slot = Slot(0)
    slot.stale("a", 8)
    slot.move(SlotState.COPYING_IN)
    slot.stale("a", 3)
    slot.lose()
    slot.move(SlotState.FREE)
    assert slot.stale("a", 2) >= 8
    assert slot.stale("a", 1) == 2

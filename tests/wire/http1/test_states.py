"""The table of an HTTP/1.1 connection's states, walked cell by cell."""

import pytest

from tailcut.errors import IllegalMoveError
from tailcut.wire.http1.states import MOVES, ConnectionState, Step, moved


@pytest.mark.parametrize("state", ConnectionState)
@pytest.mark.parametrize("step", Step)
def test_every_cell(step: Step, state: ConnectionState) -> None:
    """A step that the table has leads where it says; any other raises, and names both."""
    if state in MOVES[step]:
        assert moved(state, step) is MOVES[step][state]
    else:
        with pytest.raises(IllegalMoveError, match=f"{step.name} is illegal for a connection in state {state.name}"):
            moved(state, step)


def test_the_table_is_whole() -> None:
    """Every step is in it, every state but the last can be left, and every one be reached."""
    assert set(MOVES) == set(Step)
    moves = {(old, new) for cells in MOVES.values() for old, new in cells.items() if old is not new}
    assert {old for old, _ in moves} == set(ConnectionState) - {ConnectionState.CLOSED}
    assert {new for _, new in moves} == set(ConnectionState)


def test_no_state_leads_out_of_the_end() -> None:
    """Behind the last answer nothing but the end comes, and behind that nothing."""
    ends = {(old, new) for cells in MOVES.values() for old, new in cells.items() if old >= ConnectionState.LINGER}
    assert ends == {
        (ConnectionState.LINGER, ConnectionState.LINGER),
        (ConnectionState.LINGER, ConnectionState.CLOSED),
        (ConnectionState.CLOSED, ConnectionState.CLOSED),
    }

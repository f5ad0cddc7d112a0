"""The life of a stage's process: every move, and how long the next one is waited for."""

import pytest

from tailcut.errors import IllegalMoveError
from tailcut.pipelines.life import MOVES, Life, backoff_s, move


@pytest.mark.parametrize("old", Life)
@pytest.mark.parametrize("new", Life)
def test_moves(old, new):
    """Every cell of the table."""
    if new in MOVES[old]:
        assert move(old, new) is new
    else:
        with pytest.raises(IllegalMoveError):
            move(old, new)


def test_a_process_that_never_starts_is_tried_less_and_less():
    """But never given up."""
    waits = [backoff_s(failures) for failures in range(20)]
    assert waits[0] == 0
    assert waits == sorted(waits)
    assert waits[-1] == 10

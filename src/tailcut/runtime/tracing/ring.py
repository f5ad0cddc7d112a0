"""A ring of fixed-size records in one block of memory, which one process writes and others may read, without locks.

A record consists of 64-bit integers and a stamp: its number in the ring, with the id of the writing process in the
upper bits. Stamps increase from slot to slot, so the newest is found by bisection: there is no separate count, and a
reader touches no page that has never been written. A process that continues a ring (a worker's successor) continues the
numbers.

The stamp is written last, over zeros. So only the slot behind the newest record can be half written, perhaps for ever
if its writer was killed: it is never read, and a ring shows one record fewer than it has slots. Records that were
overwritten while a copy was made are removed from it.
"""

import os
import struct

import numpy as np

_WORD = 8
_NUMBER_BITS = 40  # a year at 30,000 per second
_MARGIN = 256  # the most records written while a sample is read
_NUMBER = (1 << _NUMBER_BITS) - 1


class Ring:
    """The last `capacity` - 1 records of `width` integers each; the capacity is a power of two."""

    def __init__(self, width: int, capacity: int, memory: memoryview | None = None) -> None:
        if capacity < 2 or capacity & (capacity - 1):
            raise ValueError(f"the capacity must be a power of two, got {capacity}")
        layout = struct.Struct(f"{width + 1}q")  # native: each word, including the stamp, is one store
        # Pages that were never written take no memory: `np.zeros` leaves their allocation to the kernel.
        self._memory = np.zeros(layout.size * capacity, np.uint8).data if memory is None else memory
        self._words = self._memory.cast("q")
        self._size = layout.size
        self._mask = capacity - 1
        self._pack = layout.pack_into
        self.table = np.frombuffer(self._memory, np.int64).reshape(capacity, -1)  # for writing many records at once
        self.stamp = os.getpid() << _NUMBER_BITS | self.end  # of the next record

    @staticmethod
    def size_bytes(width: int, capacity: int) -> int:
        """The memory that such a ring needs, in bytes."""
        return (width + 1) * _WORD * capacity

    def record(self, *values: int) -> None:
        """Write one record."""
        stamp = self.stamp
        self._pack(self._memory, (stamp & self._mask) * self._size, *values, stamp)
        self.stamp = stamp + 1

    @property
    def end(self) -> int:
        """The number that the next record gets."""
        words, step = self._words, self._size // _WORD
        at = step - 1
        first = words[at]
        if not first:  # never written, or being written: then the newest is in the last slot
            last = words[at + self._mask * step]
            return (last & _NUMBER) + 1 if last else 0
        first &= _NUMBER
        newest, beyond = 0, self._mask + 1  # slots; those from the first to the newest are of the newest round
        while beyond - newest > 1:
            middle = (newest + beyond) // 2
            stamp = words[at + middle * step]
            if stamp and stamp & _NUMBER >= first + middle:
                newest = middle
            else:
                beyond = middle
        return first + newest + 1

    def copy(self, cursor: int = 0) -> tuple[np.ndarray, int]:
        """The records from number `cursor` on, as int64 [count, width + 1], and the number of the first.

        The last column is the process that wrote each. The number is the next record's where there is none.
        """
        end = self.end
        first = min(max(cursor, end - self._mask, 0), end)
        records = self.table[np.arange(first, end) & self._mask]
        late = min(max(0, self.end - self._mask - first), len(records))  # records overwritten meanwhile
        records, first = records[late:], first + late
        records[:, -1] >>= _NUMBER_BITS
        return records, first

    def sample(self, cursor: int, most: int) -> tuple[np.ndarray, int]:
        """At most `most` numbers of records from `cursor` on, evenly spread, and the number to continue from.

        The records that another process may overwrite next are left out.
        """
        end = self.end
        first = min(max(cursor, end - self._mask + min(_MARGIN, self._mask // 2), 0), end)
        return np.arange(first, end, max(1, -(-(end - first) // most))), end

    def column(self, numbers: np.ndarray, index: int) -> np.ndarray:
        """One column of these records, int64 [count]."""
        values: np.ndarray = self.table[numbers & self._mask, index]
        return values

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """These records, int64 [count, width + 1] as in `copy`, without those that have been overwritten."""
        records: np.ndarray = self.table[numbers & self._mask]
        records = records[(records[:, -1] & _NUMBER) == (numbers & _NUMBER)]
        records[:, -1] >>= _NUMBER_BITS
        return records

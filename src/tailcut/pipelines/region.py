"""Memory shared by a server and a stage's process: it grows with the largest batch, and shrinks when that is rare."""

import mmap
import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

import numpy as np

from tailcut.memory.anonymous import anonymous_file
from tailcut.pipelines.protocol import REGION_BYTES, grown

_CALLS = 64  # how many calls are looked at before memory is given back
_SHARE = 4  # memory is given back if these calls needed less than 1/4 of it
_REMOVE = getattr(mmap, "MADV_REMOVE", None)  # Linux


@dataclass(slots=True)
class RegionUse:
    """How much of a region is backed by memory, and how much of that the latest calls needed. Pure.

    Args:
        touched: bytes from its start that may be backed by memory.
    """

    touched: int = 0
    _largest: int = 0
    _calls: int = 0

    def next_call(self, needed: int) -> int:
        """Count a call that needs this many bytes; returns the byte from which memory is to be given back, else 0."""
        self.touched = max(self.touched, needed)
        self._largest = max(self._largest, needed)
        self._calls += 1
        if self._calls < _CALLS:
            return 0
        kept = -(-max(2 * self._largest, REGION_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE
        idle = self._largest * _SHARE < self.touched and kept < self.touched
        self._calls = self._largest = 0
        if not idle:
            return 0
        self.touched = kept
        return kept


class MappedRegion:
    """A file in memory as one array of bytes, remapped after it has grown. The side that writes makes it grow.

    Memory is given back by punching a hole in the file (madvise(2), MADV_REMOVE): its size and mappings stay, so an
    array of an earlier batch that a function has kept reads as zeros.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._use = RegionUse()
        self._map = self._mapped(os.fstat(descriptor).st_size)

    @classmethod
    def create(cls) -> Self:
        """Make a new region of `REGION_BYTES`."""
        with ExitStack() as undo:
            descriptor = anonymous_file(REGION_BYTES)
            undo.callback(os.close, descriptor)
            region = cls(descriptor)
            undo.pop_all()
            return region

    @property
    def size(self) -> int:
        """Size of the mapping in bytes."""
        return len(self._map)

    def hold(self, size: int) -> np.ndarray:
        """The region (uint8), remapped if the other side has made it grow to this size."""
        if size > self.size:
            self._map = self._mapped(size)
        return self.data

    def grow(self, needed: int) -> np.ndarray:
        """The region (uint8) with at least this many bytes, for a call; no earlier contents may still be in use."""
        if needed > self.size:
            size = grown(self.size, needed)
            os.truncate(self.descriptor, size)
            self._map = self._mapped(size)
        kept = self._use.next_call(needed)
        if kept and _REMOVE is not None:
            self._map.madvise(_REMOVE, kept, self.size - kept)
        return self.data

    def close(self) -> None:
        """Close the descriptor; the mapping is freed with the last array that uses it."""
        os.close(self.descriptor)

    def _mapped(self, size: int) -> mmap.mmap:
        mapped = mmap.mmap(self.descriptor, size)
        self.data = np.frombuffer(mapped, np.uint8)
        return mapped

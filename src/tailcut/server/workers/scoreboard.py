"""What the workers of one supervisor know about each other: the number of connections and the counts of each.

It is an anonymous memory region that they inherit; without a name, nothing is left behind however they end. Each worker
writes its own place and reads all. A place has the number of connections, which is written at every accept and close,
and a snapshot of the counts, which its worker writes four times a second and when it is asked for metrics; that worker
then adds up all snapshots. A snapshot has a checksum, because readers hold no lock. When a worker ends, the supervisor
moves its counts, without gauges, to the region's first place. Counts that do not fit into a place lose detail, which is
logged once: neither a worker nor the supervisor may fail because of them.
"""

import logging
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from tailcut.memory.anonymous import anonymous_file
from tailcut.server.workers.sums import Counts, add_up, brief, lasting

_PLACE_BYTES = 64 * 1024
_MODEL_BYTES = 32 * 1024  # for each model: three times the usual size of its counts
_ABSENT = -1  # instead of a number of connections: no worker accepts at this place
_CONNECTIONS, _FOLDS, _OWNER = (
    0,
    1,
    1,
)  # 64-bit words of a place's head: of all places, of the first only, of the others only
_POST_BITS = 16
_HEAD_BYTES = 16
_LENGTHS = struct.Struct("<II")  # a snapshot's size and checksum
_TRIES = 1000
_log = logging.getLogger("tailcut")


@dataclass(frozen=True, slots=True)
class Occupant:
    """The worker at a place: its process, its post, and its counts."""

    pid: int
    post: int
    counts: Counts


class Scoreboard:
    """The region: the first place and `places` others, each with room for the counts of `models` models.

    The supervisor makes it; workers open it by its descriptor.
    """

    def __init__(self, descriptor: int, places: int, models: int) -> None:
        self.descriptor = descriptor
        self.places = places
        self._place_bytes = _place_bytes(models)
        self._map = mmap.mmap(descriptor, (places + 1) * self._place_bytes)
        self._words = memoryview(self._map).cast("q")
        self._losses = {""}  # kinds of lost detail that have been logged

    @classmethod
    def make(cls, places: int, models: int) -> "Scoreboard":
        """A new region with every place empty; its memory is allocated as it is written."""
        scoreboard = cls(anonymous_file((places + 1) * _place_bytes(models)), places, models)
        for index in range(1, places + 1):
            scoreboard.leave(index)
        return scoreboard

    def close(self) -> None:
        """Unmap the region, which is freed when the last process has closed it."""
        self._words.release()
        self._map.close()
        os.close(self.descriptor)

    # Connections.

    def hold(self, index: int, connections: int) -> None:
        """Set the number of connections at a place, whose worker accepts."""
        self._words[self._word(index, _CONNECTIONS)] = connections

    def connections(self, index: int) -> int:
        """The number of connections at a place."""
        return self._words[self._word(index, _CONNECTIONS)]

    def leave(self, index: int) -> None:
        """Note that the worker at a place accepts no more."""
        self._words[self._word(index, _CONNECTIONS)] = _ABSENT

    def accepting(self) -> list[int]:
        """The number of connections at each place whose worker accepts."""
        counts = [self._words[self._word(index, _CONNECTIONS)] for index in range(1, self.places + 1)]
        return [count for count in counts if count != _ABSENT]

    # Counts.

    def occupy(self, index: int, pid: int, post: int) -> None:
        """Set the process at a place, and its post."""
        self._words[self._word(index, _OWNER)] = pid << _POST_BITS | post

    def occupants(self) -> Iterator[Occupant]:
        """The running workers that have published counts."""
        for index in range(1, self.places + 1):
            owner = self._words[self._word(index, _OWNER)]
            counts = self._read(index) if owner else {}
            if counts:
                yield Occupant(owner >> _POST_BITS, owner & ((1 << _POST_BITS) - 1), counts)

    def publish(self, index: int, counts: Counts) -> None:
        """Write a place's snapshot: a shorter one where it does not fit, and none where even that does not fit."""
        room = self._place_bytes - _HEAD_BYTES - _LENGTHS.size
        data, loss = _encoded(counts), ""
        if len(data) > room:
            data, loss = _encoded(brief(counts)), "exemplars are left out, and sizes of batches rounded up"
        if len(data) > room:
            data, loss = b"", "further counts of this worker are not reported"
        if loss not in self._losses:
            self._losses.add(loss)
            _log.warning("the counts of a worker do not fit into %d bytes: %s", room, loss)
        if data:
            at = index * self._place_bytes + _HEAD_BYTES
            self._map[at : at + _LENGTHS.size + len(data)] = _LENGTHS.pack(len(data), zlib.crc32(data)) + data

    def fold(self, index: int) -> None:
        """Add the counts at a place to the first place, and empty it; only the supervisor may call this."""
        self._words[_FOLDS] += 1  # odd: readers wait
        try:
            self.publish(0, add_up(self._read(0), lasting(self._read(index))))
        finally:
            at = index * self._place_bytes + _HEAD_BYTES
            self._map[at : at + _LENGTHS.size] = bytes(_LENGTHS.size)
            self._words[self._word(index, _OWNER)] = 0
            self.leave(index)
            self._words[_FOLDS] += 1

    def totals(self) -> Counts:
        """The sum of the counts of all workers, including those that have ended."""
        for _ in range(_TRIES):
            folds = self._words[_FOLDS]
            counts = [self._read(index) for index in range(self.places + 1)]
            if folds % 2 == 0 and folds == self._words[_FOLDS]:
                break
        return add_up(*counts)

    def _read(self, index: int) -> Counts:
        at = index * self._place_bytes + _HEAD_BYTES
        for _ in range(_TRIES):
            size, checksum = _LENGTHS.unpack_from(self._map, at)
            data = self._map[at + _LENGTHS.size : at + _LENGTHS.size + min(size, self._place_bytes)]
            if len(data) == size and zlib.crc32(data) == checksum:
                return orjson.loads(data) if data else {}
        return {}  # its worker died while writing

    def _word(self, index: int, word: int) -> int:
        return index * self._place_bytes // 8 + word


def _place_bytes(models: int) -> int:
    return _PLACE_BYTES + models * _MODEL_BYTES


def _encoded(counts: Counts) -> bytes:
    return orjson.dumps(counts, option=orjson.OPT_NON_STR_KEYS)

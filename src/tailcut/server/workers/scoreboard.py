"""What the workers of one supervisor know of each other: how many connections each has, and what each has counted.

One anonymous region of memory that they inherit; it has no name, so nothing is left behind however they end. Each
worker writes its own place and reads all. A place holds one number that is written at every accept and close, and a
snapshot of the counts, which its worker writes four times a second and when it is asked for the metrics. The worker
that is asked adds up all snapshots. A snapshot carries a checksum, because readers hold no lock. What a worker counted
stays counted when it is gone: the supervisor moves it, without what was true only of the moment, to the region's first
place. Where counts do not fit their place, they lose detail, and the log says so once: neither a worker nor the
supervisor may fail on them.
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
_MODEL_BYTES = 32 * 1024  # more for each model: three times what the counts of one take
_ABSENT = -1  # in place of a connection count: the worker that was here does not accept
_CONNECTIONS, _FOLDS, _OWNER = (
    0,
    1,
    1,
)  # 64-bit words of a place's head: all places', the first's only, the others' only
_POST_BITS = 16
_HEAD_BYTES = 16
_LENGTHS = struct.Struct("<II")  # a snapshot's size and checksum
_TRIES = 1000
_log = logging.getLogger("tailcut")


@dataclass(frozen=True, slots=True)
class Occupant:
    """A worker at its place: its process, its post, and what it has counted."""

    pid: int
    post: int
    counts: Counts


class Scoreboard:
    """The region, `places` beside the first, each with room for the counts of this many models.

    The supervisor makes it; workers open it by its descriptor.
    """

    def __init__(self, descriptor: int, places: int, models: int) -> None:
        self.descriptor = descriptor
        self.places = places
        self._place_bytes = _place_bytes(models)
        self._map = mmap.mmap(descriptor, (places + 1) * self._place_bytes)
        self._words = memoryview(self._map).cast("q")
        self._losses = {""}  # that have been logged

    @classmethod
    def make(cls, places: int, models: int) -> "Scoreboard":
        """A fresh region with every place empty; memory is taken as it is written."""
        scoreboard = cls(anonymous_file((places + 1) * _place_bytes(models)), places, models)
        for index in range(1, places + 1):
            scoreboard.leave(index)
        return scoreboard

    def close(self) -> None:
        """Let go of the region; the last one's letting go ends it."""
        self._words.release()
        self._map.close()
        os.close(self.descriptor)

    # Connections.

    def hold(self, index: int, connections: int) -> None:
        """Say how many connections a place has; it accepts."""
        self._words[self._word(index, _CONNECTIONS)] = connections

    def connections(self, index: int) -> int:
        """How many connections a place has."""
        return self._words[self._word(index, _CONNECTIONS)]

    def leave(self, index: int) -> None:
        """Say that a place accepts no more."""
        self._words[self._word(index, _CONNECTIONS)] = _ABSENT

    def accepting(self) -> list[int]:
        """The connections of each place that accepts."""
        counts = [self._words[self._word(index, _CONNECTIONS)] for index in range(1, self.places + 1)]
        return [count for count in counts if count != _ABSENT]

    # Counts.

    def occupy(self, index: int, pid: int, post: int) -> None:
        """Say which process is at a place, and at which post."""
        self._words[self._word(index, _OWNER)] = pid << _POST_BITS | post

    def occupants(self) -> Iterator[Occupant]:
        """The workers that have published their counts and are still there."""
        for index in range(1, self.places + 1):
            owner = self._words[self._word(index, _OWNER)]
            counts = self._read(index) if owner else {}
            if counts:
                yield Occupant(owner >> _POST_BITS, owner & ((1 << _POST_BITS) - 1), counts)

    def publish(self, index: int, counts: Counts) -> None:
        """Write a place's snapshot: briefer where there is no room for all, and none where there is none for that."""
        room = self._place_bytes - _HEAD_BYTES - _LENGTHS.size
        data, loss = _encoded(counts), ""
        if len(data) > room:
            data, loss = _encoded(brief(counts)), "exemplars are left out, and sizes of batches rounded up"
        if len(data) > room:
            data, loss = b"", "what is counted from now on is not shown"
        if loss not in self._losses:
            self._losses.add(loss)
            _log.warning("the counts of a worker take more than the %d bytes that they may: %s", room, loss)
        if data:
            at = index * self._place_bytes + _HEAD_BYTES
            self._map[at : at + _LENGTHS.size + len(data)] = _LENGTHS.pack(len(data), zlib.crc32(data)) + data

    def fold(self, index: int) -> None:
        """Move what a place's worker has counted to the first place, and empty it; only its supervisor may."""
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
        """The counts of all workers, those that are gone included."""
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
        return {}  # its worker died in the middle of writing

    def _word(self, index: int, word: int) -> int:
        return index * self._place_bytes // 8 + word


def _place_bytes(models: int) -> int:
    return _PLACE_BYTES + models * _MODEL_BYTES


def _encoded(counts: Counts) -> bytes:
    return orjson.dumps(counts, option=orjson.OPT_NON_STR_KEYS)

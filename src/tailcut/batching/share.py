"""How models share compute slots: whoever has used least goes next, by compute time: pure.

This is start-time fair queueing over batches. A model that was idle does not save up time for later: it enters at the
level of the least served of those that are busy. Wide batches (many threads) are not overtaken by narrow ones, so
that they are not starved. A batch is never interrupted, so a model waits for one batch of another at most, and then
only when the slots are all taken.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Share(Generic[K]):
    """`slots` threads that may compute at a time. Not thread-safe: its owner holds the lock."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._free = slots
        self._used: dict[K, float] = {}  # slot-nanoseconds, lifted on entry
        self._running: dict[K, int] = {}  # batches
        self._waiting: dict[K, int] = {}  # slots wanted
        self._offered: dict[K, int] = {}  # slots set aside until they are taken or declined

    def take(self, who: K, need: int) -> bool:
        """Start a batch of `need` slots now; False: told later, by whoever gives slots back."""
        need = min(need, self.slots)
        if self._offered.pop(who, 0):
            self._running[who] = self._running.get(who, 0) + 1
            return True
        if who not in self._waiting:
            self._enter(who)
        if self._waiting or self._free < need:
            self._waiting[who] = need
            return False
        self._free -= need
        self._running[who] = self._running.get(who, 0) + 1
        return True

    def give(self, who: K, need: int, took_ns: float, *, more: bool = False) -> list[K]:
        """A batch has ended, and `more` is ready behind it; returns who may take now, which may be the same again."""
        need = min(need, self.slots)
        self._free += need
        self._used[who] += took_ns * need
        self._running[who] -= 1
        if more and who not in self._offered:
            self._waiting[who] = need
        return self._offer()

    def decline(self, who: K) -> list[K]:
        """What waited has nothing to compute any more; returns who may take in its place."""
        self._waiting.pop(who, None)
        self._free += self._offered.pop(who, 0)
        return self._offer()

    def leave(self, who: K) -> list[K]:
        """It takes no more turns; returns who may take in its place."""
        told = self.decline(who)
        if not self._running.get(who):
            self._running.pop(who, None)
            self._used.pop(who, None)
        return told

    def _enter(self, who: K) -> None:
        if self._running.get(who) or who in self._offered:
            return
        busy = [one for one, count in self._running.items() if count] + [*self._waiting, *self._offered]
        level = min((self._used[one] for one in busy), default=0.0)
        self._used[who] = max(self._used.get(who, 0.0), level)

    def _offer(self) -> list[K]:
        told: list[K] = []
        while self._waiting:
            who = min(self._waiting, key=self._used.__getitem__)
            if self._waiting[who] > self._free:
                break
            need = self._waiting.pop(who)
            self._free -= need
            self._offered[who] = need
            told.append(who)
        return told

"""The requests that wait for an engine, in the order of service: by priority, then by deadline, then by arrival.

Earliest deadline first is the order that meets every deadline where any order does; arrival breaks ties. Almost always
a new request belongs at the end (requests without a timeout get the same one, so deadlines are in the order of
arrival), which costs as much as in a plain deque. Only a request with another timeout is inserted by bisection, which
takes 2 us in a queue of 1,024.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, Self, TypeVar

DEFAULT_PRIORITY = 100  # of requests without one (or with 0): smaller numbers are served before, larger ones after
_FOREVER = 1 << 63


class Waiting(Protocol):
    """What the queue needs of its items; these attributes must not change while they wait."""

    count: int  # rows
    key: object  # only items with equal keys can be taken together
    priority: int  # 0: the default
    deadline_ns: int  # 0: none
    requests: int  # if more than 1, of one row each; 0: a part of a request

    def split(self, requests: int) -> Self:
        """Split off the first `requests` requests, as an item of their own."""


T = TypeVar("T", bound=Waiting)


class PriorityQueue(Generic[T]):
    """One deque for each priority in use, each ordered by deadline. Not thread-safe: its owner holds the lock."""

    def __init__(self) -> None:
        self.rows = 0  # of all waiting items
        self._plain: deque[T] = deque()  # the deque of the default priority, which always exists
        self._deques = {DEFAULT_PRIORITY: self._plain}
        self._levels = [DEFAULT_PRIORITY]

    def __len__(self) -> int:
        return sum(map(len, self._deques.values()))

    def append(self, item: T) -> None:
        """Queue an item behind those that are served before it."""
        waiting = self._deque_of(item.priority) if item.priority else self._plain
        due = item.deadline_ns
        if due and waiting and (waiting[-1].deadline_ns or _FOREVER) > due:
            insort(waiting, item, key=_due)
        else:
            waiting.append(item)
        self.rows += item.count

    def head(self) -> T | None:
        """The item that is served next; None where the queue is empty."""
        for level in self._levels:
            if self._deques[level]:
                return self._deques[level][0]
        return None

    def take(self, rows: int) -> list[T]:
        """Remove and return the head and the following items with the same key, as far as they fit into `rows` rows.

        An item with several requests is split where it does not fit completely.
        """
        first = self.head()
        if first is None:
            return []
        if len(self._levels) == len(self._plain) == 1 and (first.count <= rows or first.requests <= 1):
            self._plain.clear()
            self.rows = 0
            return [first]
        taken: list[T] = []
        key, room = first.key, max(rows, first.count if first.requests <= 1 else 1)
        left = self.rows
        for level in tuple(self._levels):
            waiting = self._deques[level]
            passed: list[T] = []
            while waiting and room:
                item = waiting.popleft()
                count = item.count
                if count <= room and item.key == key:
                    taken.append(item)
                    room -= count
                    left -= count
                elif item.requests > 1 and item.key == key:
                    taken.append(item.split(room))
                    waiting.appendleft(item)
                    left -= room
                    room = 0
                else:
                    passed.append(item)
            if passed:
                waiting.extendleft(reversed(passed))
            self._close(level)
            if not room:
                break
        self.rows = left
        return taken

    def take_late(self, now_ns: int) -> list[T]:
        """Remove and return all items whose deadline is before `now_ns`."""
        late: list[T] = []
        if len(self._levels) == 1 and (not self._plain or not 0 < self._plain[0].deadline_ns < now_ns):
            return late
        for level in tuple(self._levels):
            waiting = self._deques[level]
            while waiting and 0 < waiting[0].deadline_ns < now_ns:
                late.append(waiting.popleft())
            self._close(level)
        self.rows -= sum(item.count for item in late)
        return late

    def remove(self, item: T) -> bool:
        """Remove an item; returns False where it does not wait here."""
        level = item.priority or DEFAULT_PRIORITY
        waiting = self._deques.get(level)
        if waiting is None or item not in waiting:
            return False
        waiting.remove(item)
        self.rows -= item.count
        self._close(level)
        return True

    def clear(self) -> list[T]:
        """Remove and return all items, in order."""
        everything = list(self.items())
        self._plain.clear()
        self._deques, self._levels, self.rows = {DEFAULT_PRIORITY: self._plain}, [DEFAULT_PRIORITY], 0
        return everything

    def recount(self) -> None:
        """Count the rows again: an exception of a signal handler may have come between a change and its count."""
        self.rows = sum(item.count for item in self.items())

    def items(self) -> Iterator[T]:
        """Iterate over all items, in order; the queue must not change meanwhile."""
        return (item for level in self._levels for item in self._deques[level])

    def rows_before(self, priority: int, deadline_ns: int) -> int:
        """How many rows would be served before a new item with this priority and deadline."""
        mine, due = priority or DEFAULT_PRIORITY, deadline_ns or _FOREVER
        if len(self._levels) == 1 and mine == DEFAULT_PRIORITY and (not self._plain or _due(self._plain[-1]) <= due):
            return self.rows
        rows = 0
        for level in self._levels:
            if level > mine:
                break
            rows += sum(item.count for item in self._deques[level] if level < mine or _due(item) <= due)
        return rows

    def _deque_of(self, priority: int) -> deque[T]:
        waiting = self._deques.get(priority)
        if waiting is None:
            waiting = self._deques[priority] = deque()
            insort(self._levels, priority)
        return waiting

    def _close(self, level: int) -> None:
        """Remove an empty deque, so that there are never more deques than items, whatever priorities clients use."""
        if level != DEFAULT_PRIORITY and not self._deques[level]:
            del self._deques[level]
            self._levels.remove(level)


def _due(item: Waiting) -> int:
    return item.deadline_ns or _FOREVER

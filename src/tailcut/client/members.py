"""The servers of one client: which is asked next, which are paused, and what happens when servers are added or removed.

There is no socket or clock here: the time and random numbers are arguments.

- *Power of two choices.* Of two servers drawn at random, the one with fewer of this client's calls in flight is asked
  (Mitzenmacher 2001). A server that is slow has more in flight, and so gets less.
- *Outliers are paused.* A server that refuses connections is paused immediately, and one that fails several calls in a
  row after the last of them: for a second, and twice as long each time that it fails again, up to half a minute. The
  first good answer ends this. While all are paused, the one whose pause ends first is asked.
- *Members that leave* are not asked again; calls in flight end there. Their idle connections are closed.
"""

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from tailcut.client.policy import FailedError, RefusedError, StaleError
from tailcut.client.requests import ServerAddress
from tailcut.errors import DeadlineExceededError, EngineError, TailcutError, UnreachableError

MOST_FAILURES = 5  # in a row, before a server is paused
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_FAULTS = (DeadlineExceededError, EngineError, FailedError, UnreachableError)  # failures of a server


class Closable(Protocol):
    """A connection."""

    def close(self) -> None:
        """Close it."""


C = TypeVar("C", bound=Closable)


@dataclass(eq=False, slots=True)
class ServerMember(Generic[C]):
    """One server.

    Args:
        address: where it listens.
        idle: open idle connections, with the last used one in front.
        in_flight: the number of this client's calls in progress there.
        failures: the number of calls that it failed in a row.
        pauses: how often it was paused in a row.
        paused_until: on the monotonic clock, in seconds.
        gone: whether it is no longer a member.
    """

    address: ServerAddress
    idle: deque[C] = field(default_factory=deque)
    in_flight: int = 0
    failures: int = 0
    pauses: int = 0
    paused_until: float = 0.0
    gone: bool = False


class Members(Generic[C]):
    """The servers of one client. Thread-safe.

    Args:
        addresses: of the servers, each once.
        name: of all of them together, for messages.
    """

    def __init__(self, addresses: Iterable[ServerAddress], name: str) -> None:
        self.name = name
        self._members: tuple[ServerMember[C], ...] = tuple(
            ServerMember(address) for address in dict.fromkeys(addresses)
        )
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """The number of servers."""
        return len(self._members)

    def __iter__(self) -> Iterator[ServerMember[C]]:
        """Iterate over the current servers."""
        return iter(self._members)

    @property
    def addresses(self) -> tuple[ServerAddress, ...]:
        """The addresses of the current servers."""
        return tuple(member.address for member in self._members)

    def update(self, addresses: Iterable[ServerAddress]) -> list[C]:
        """Replace the servers; those that remain keep their connections and statistics.

        Returns:
            The idle connections to removed servers, which the caller must close.
        """
        with self._lock:
            known = {member.address: member for member in self._members}
            wanted = dict.fromkeys(addresses)
            self._members = tuple(
                known.pop(address) if address in known else ServerMember(address) for address in wanted
            )
            unused: list[C] = []
            for member in known.values():
                member.gone = True
                while member.idle:
                    unused.append(member.idle.pop())
            return unused

    def choose(self, now: float, draw: Callable[[], float], tried: Collection[ServerMember[C]] = ()) -> ServerMember[C]:
        """The server for the next attempt of a call, which counts as in flight there until `ended`.

        Args:
            now: on the monotonic clock, in seconds.
            draw: returns random numbers from 0 to below 1.
            tried: servers that this call has been sent to; others are preferred.

        Raises:
            RefusedError: there is no server.
        """
        with self._lock:
            members = self._members
            if not members:
                raise RefusedError(f"{self.name} has no server that is ready")
            member = members[0] if len(members) == 1 else _better(members, now, draw, tried)
            member.in_flight += 1
            return member

    def ended(self, member: ServerMember[C], error: TailcutError | None, now: float) -> None:
        """Note the end of an attempt, and learn from it.

        Args:
            member: the server that was asked.
            error: of the attempt; None: it was answered.
            now: on the monotonic clock, in seconds.
        """
        self.abandoned(member)
        self.learn(member, error, now)

    def learn(self, member: ServerMember[C], error: TailcutError | None, now: float) -> None:
        """Learn from an attempt that has ended. The arguments are those of `ended`."""
        with self._lock:
            if error is None:
                member.failures = member.pauses = 0
                member.paused_until = 0.0
            elif isinstance(error, _FAULTS) and not isinstance(error, StaleError):
                member.failures += 1
                if isinstance(error, RefusedError) or member.failures >= MOST_FAILURES:
                    member.paused_until = now + min(_LONGEST_PAUSE_S, _PAUSE_S * 2**member.pauses)
                    member.pauses += 1
                    member.failures = 0

    def abandoned(self, member: ServerMember[C]) -> None:
        """Note that an attempt was abandoned, which says nothing about the server."""
        with self._lock:
            member.in_flight -= 1

    def forked(self) -> None:
        """In a forked child, forget the parent's connections and calls, and make a new lock."""
        self._lock = threading.Lock()
        for member in self._members:
            member.idle.clear()
            member.in_flight = 0

    def untried(self, tried: Collection[ServerMember[C]], now: float) -> bool:
        """Whether there is a server that is not paused and that a call has not been sent to."""
        return any(member not in tried and member.paused_until <= now for member in self._members)


def _better(
    members: Sequence[ServerMember[C]], now: float, draw: Callable[[], float], tried: Collection[ServerMember[C]]
) -> ServerMember[C]:
    """The one with fewer calls in progress, of two servers drawn at random."""

    def may_be_asked(member: ServerMember[C]) -> bool:
        return member.paused_until <= now and member not in tried

    first, second = _two(members, draw)
    if not (may_be_asked(first) and may_be_asked(second)):
        fit = [member for member in members if may_be_asked(member)]
        fit = fit or [member for member in members if member.paused_until <= now]
        if not fit:
            return min(members, key=lambda member: member.paused_until)
        if len(fit) == 1:
            return fit[0]
        first, second = _two(fit, draw)
    return second if second.in_flight < first.in_flight else first


def _two(members: Sequence[ServerMember[C]], draw: Callable[[], float]) -> tuple[ServerMember[C], ServerMember[C]]:
    """Two different servers, drawn at random."""
    first = int(draw() * len(members))
    second = int(draw() * (len(members) - 1))
    return members[first], members[second + (second >= first)]

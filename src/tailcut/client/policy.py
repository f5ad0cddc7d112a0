"""When a client retries, and when it sends a second copy. Pure: time and random numbers are arguments.

A call is retried only if that is safe and can help:

- 503, and 429 with Retry-After: the server did not begin. After at least its Retry-After, plus a random pause.
- Connection refused: nothing was sent. After a random pause.
- A kept connection was closed before the first byte of a response: the server closed it while it was idle, or its
  process has ended. Immediately, on a new connection, once. (An inference changes nothing on the server, so computing
  it twice does no harm.)
- With several servers: a call that was refused goes to another one immediately, and a call that one was too busy for
  goes to one other, before the rules above apply.

The caller handles everything else: a connection that breaks in the middle of a response, other 4xx, 500, 502, 504.
Pauses are drawn between zero and a bound that doubles with each retry ("full jitter"), so that clients that were
refused together do not return together. No pause goes past the call's deadline: the call fails immediately instead.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

from tailcut.errors import ArgumentTypeError, InvalidInputError, QueueFullError, TailcutError, UnreachableError

_RECENT = 512  # latencies that are kept
_KNOWN = 64  # latencies needed for a 95th percentile
_RENEW = 32  # new latencies after which the percentile is computed again


class RefusedError(UnreachableError):
    """No server accepted the connection, so nothing was sent."""


class StaleError(UnreachableError):
    """A kept connection was closed before the first byte of an answer."""


class FailedError(TailcutError):
    """An answer with status 5xx and no further information."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a call is retried, and the limits of the random pauses: `pause_s` at first, doubled each time."""

    limit: int = 3
    pause_s: float = 0.025
    longest_s: float = 1.0

    def __post_init__(self) -> None:
        try:
            fits = self.limit >= 0 and 0 <= self.pause_s <= self.longest_s
        except TypeError:
            raise ArgumentTypeError(f"retries and pauses must be numbers, got {self}") from None
        if not fits:
            raise InvalidInputError(
                "retries and pauses must be 0 or more, and the longest pause at least as long as the shortest"
            )

    def pause(self, error: TailcutError, tries: int, left_s: float, dice: float) -> float | None:
        """The seconds to wait before the next try; None: do not try again.

        Args:
            error: of the last try.
            tries: the number of tries so far, including the first.
            left_s: seconds until the call's deadline.
            dice: a random number from 0 to 1.
        """
        if tries > self.limit:
            return None
        bound = min(self.longest_s, self.pause_s * 2 ** (tries - 1))
        wait = dice * bound + (error.retry_after_s if isinstance(error, QueueFullError) else 0)
        return wait if wait < left_s else None


class Tries:
    """The tries of one call."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._count = 0
        self._moved = False  # whether it was sent to another server because one was too busy
        self.fresh = False  # whether the next try must use a new connection
        self.tried: list[Any] = []  # servers that the call was sent to

    def pause_after(self, error: TailcutError, left_s: float, dice: float, *, elsewhere: bool = False) -> float:
        """The seconds to wait before the next try; raises `error` where there is none.

        Args:
            error: of the last try.
            left_s: seconds until the call's deadline.
            dice: a random number from 0 to 1.
            elsewhere: whether there is a server that this call has not been sent to.
        """
        if isinstance(error, StaleError) and not self.fresh:
            self.fresh = True
            return 0.0
        if not isinstance(error, QueueFullError | RefusedError):
            raise error
        if elsewhere and left_s > 0 and not (isinstance(error, QueueFullError) and self._moved):
            self._moved = self._moved or isinstance(error, QueueFullError)
            return 0.0
        self._count += 1
        pause = self._retries.pause(error, self._count, left_s, dice)
        if pause is None:
            raise error
        return pause


@dataclass(frozen=True, slots=True)
class Hedge:
    """Send a second copy of a slow call on another connection; the first answer counts.

    Attributes:
        after_s: seconds after which the copy is sent; None: the 95th percentile of the last calls.
        share: the largest share of calls that are sent twice, because an overloaded server must not get twice the load.
    """

    after_s: float | None = None
    share: float = 0.1

    def __post_init__(self) -> None:
        try:
            fits = (self.after_s is None or self.after_s >= 0) and 0 < self.share <= 1
        except TypeError:
            raise ArgumentTypeError(f"after_s and share of a hedge must be numbers, got {self}") from None
        if not fits:
            raise InvalidInputError("a hedge needs after_s of 0 or more, or None, and a share above 0 and up to 1")


class HedgeClock:
    """Decides when a second copy is due, from recent latencies and the number of copies sent."""

    def __init__(self, hedge: Hedge) -> None:
        self._hedge = hedge
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._calls = 0
        self._copies = 0
        self._p95: float | None = None

    def due_after(self) -> float | None:
        """The seconds after which a call that begins now should be sent again; None: it should not."""
        self._calls += 1
        if self._copies >= max(1.0, self._hedge.share * self._calls):
            return None
        return self._hedge.after_s if self._hedge.after_s is not None else self._p95

    def sent_copy(self) -> None:
        """Count a copy that was sent."""
        self._copies += 1

    def took(self, seconds: float) -> None:
        """Learn the latency of an answered call."""
        self._recent.append(seconds)
        count = len(self._recent)
        if count >= _KNOWN and (self._p95 is None or self._calls % _RENEW == 0):
            self._p95 = sorted(self._recent)[count * 95 // 100]

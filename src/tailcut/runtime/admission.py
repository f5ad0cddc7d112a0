"""Admission control: whether a request is admitted, or refused until a time. Pure: the time is an argument."""

from dataclasses import dataclass

from tailcut.batching.forecast import Forecast
from tailcut.errors import QueueFullError, TooLargeError

_SHUT_NS = 5_000_000  # for so long a refusal stands at most: what is learned meanwhile must count


@dataclass(slots=True)
class Admission:
    """What one model admits.

    Args:
        name: of the model, for messages.
        forecast: what is known of its speed.
        rows: that may be queued.
        wished_rows: that the user set; memory may hold fewer.
        instances: how many batches compute at a time.
        fixed: whether the queue's rows are those of a slab; without one, a single larger request has room, too.
    """

    name: str
    forecast: Forecast
    rows: int
    wished_rows: int
    instances: int
    fixed: bool

    def refuse_size(self, rows: int, waiting: int, now_ns: int) -> None:
        """Refuse what finds the queue full.

        Raises:
            TooLargeError: more rows than the queue can ever hold.
            QueueFullError: too many rows are waiting.
        """
        if rows > self.rows and (waiting or self.fixed):
            held = f"the request has {rows} rows, and the queue of model {self.name!r} holds {self.rows}"
            if self.rows >= self.wished_rows:
                raise TooLargeError(f"{held}: send fewer at a time, or raise --queue")
            raise TooLargeError(f"{held}, which is as many as its memory holds: send fewer at a time")
        if waiting + rows > max(self.rows, 0 if waiting else rows):
            raise self.full(waiting, now_ns)

    def refuse_late(  # noqa: PLR0913  what a promise rests on
        self, rows: int, ahead: int, waiting: int, deadline_ns: int, now_ns: int, *, busy: bool
    ) -> None:
        """Refuse what cannot make its deadline, with `ahead` rows served before it; `busy` with all engines computing.

        Raises:
            QueueFullError: with the time from which on another try makes sense.
        """
        opens_ns = self.forecast.opens_ns(deadline_ns, rows + ahead, now_ns, busy=busy)
        if opens_ns > now_ns:
            late = f"the deadline of {_duration(deadline_ns - now_ns)} cannot be met: {ahead} rows wait"
            shut_ns = int(min(self.forecast.cost.limit_ns, _SHUT_NS))
            raise self.full(waiting, now_ns, min(opens_ns, now_ns + shut_ns), late)

    def full(self, waiting: int, now_ns: int, opens_ns: int = 0, message: str = "") -> QueueFullError:
        """No room; where it is not known until when, until a quarter of a batch has passed."""
        cost = self.forecast.cost
        opens_ns = opens_ns or now_ns + int(min(cost.limit_ns / 4, _SHUT_NS))
        message = message or f"model {self.name!r} has no room for more requests now"
        return QueueFullError(message, max(1, round(self.waiting_ns(waiting) / 1e9)), opens_ns)

    def waiting_ns(self, waiting: int) -> float:
        """How long the engines will take for so many rows."""
        return self.forecast.cost.batches(waiting)[1] / self.instances


def _duration(left_ns: int) -> str:
    """A time as a client may have named it, in two digits: few different messages are few to write."""
    left_ns = max(0, left_ns)
    return f"{left_ns / 1e9:.2g} s" if left_ns >= 1_000_000_000 else f"{left_ns / 1e6:.2g} ms"

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
        setting: that the rows come from, for messages.
    """

    name: str
    forecast: Forecast
    rows: int
    wished_rows: int
    instances: int
    fixed: bool
    setting: str = "--queue"

    def refuse_size(self, rows: int, waiting: int, now_ns: int) -> None:
        """Refuse what finds the queue full.

        Raises:
            TooLargeError: more rows than the queue can ever hold.
            QueueFullError: too many rows are waiting.
        """
        if rows > self.rows and (waiting or self.fixed):
            held = f"the request has {rows} rows, and the queue of model {self.name!r} holds {self.rows}"
            if self.rows >= self.wished_rows:
                raise TooLargeError(f"{held}: send fewer at a time, or raise {self.setting}")
            raise TooLargeError(f"{held}, which is as many as its memory holds: send fewer at a time")
        if waiting + rows > max(self.rows, 0 if waiting else rows):
            raise self.full(waiting, now_ns)

    def refuse_late(self, rows: int, ahead: int, deadline_ns: int, now_ns: int, *, busy: bool) -> None:
        """Refuse what cannot make its deadline, with `ahead` rows served before it; `busy` with all engines computing.

        Raises:
            QueueFullError: another try makes sense when enough of the work that goes before is done.
        """
        forecast, left_ns = self.forecast, deadline_ns - now_ns
        opens_ns = forecast.opens_ns(deadline_ns, rows + ahead, now_ns, busy=busy)
        if opens_ns <= now_ns:
            return
        done_ns, ahead_ns = (forecast.done_ns(count, now_ns, busy=busy) - now_ns for count in (rows + ahead, ahead))
        message = f"cannot meet the {_duration(left_ns)} deadline: " if left_ns > 0 else "the deadline has passed: "
        if ahead_ns < left_ns:
            message += f"the request takes {_duration(done_ns - ahead_ns)}, and "
        message += f"{_duration(ahead_ns)} of work is ahead"
        if done_ns < left_ns:
            message += f", with a safety margin of {_rounded(100 * forecast.safety_margin, 1)} %"
        pause_s = _pause_s(min(opens_ns - now_ns, left_ns / 2))
        shut_ns = int(min(forecast.cost.limit_ns, _SHUT_NS))
        raise QueueFullError(message, pause_s, min(opens_ns, now_ns + shut_ns), late=True)

    def full(self, waiting: int, now_ns: int) -> QueueFullError:
        """No room: until a quarter of a batch has passed; better when half of the queue has."""
        work_ns = self.waiting_ns(waiting)
        opens_ns = now_ns + int(min(self.forecast.cost.limit_ns / 4, _SHUT_NS))
        message = f"model {self.name!r} has no room for more requests"
        if work_ns:  # nothing may wait while all rows are being computed or received
            message += f": {_duration(work_ns)} of work is waiting"
        return QueueFullError(message, _pause_s(work_ns / 2), opens_ns)

    def waiting_ns(self, waiting: int) -> float:
        """How long the engines will take for this many rows."""
        return self.forecast.cost.batches(waiting)[1] / self.instances


def _duration(left_ns: float) -> str:
    """A time as a client may have named it, in two digits: few different messages are few to write."""
    left_ns = max(0.0, left_ns)
    return f"{_rounded(left_ns / 1e9)} s" if left_ns >= 999_000_000 else f"{_rounded(left_ns / 1e6)} ms"


def _rounded(number: float, digits: int = 2) -> str:
    """A number in this many digits, without an exponent."""
    return f"{float(f'{number:.{digits}g}'):g}"


def _pause_s(pause_ns: float) -> float:
    """When another try makes sense: in seconds, a millisecond at least, in two digits as messages are."""
    return float(f"{max(0.001, pause_ns / 1e9):.2g}")

"""Admission control: decides whether a request is admitted, or refused until a time. Pure: `now_ns` is an argument."""

from dataclasses import dataclass

from tailcut.batching.forecast import Forecast
from tailcut.errors import QueueFullError, TooLargeError

_SHUT_NS = 5_000_000  # a refusal holds no longer than this, so that what is learned meanwhile counts


@dataclass(slots=True)
class Admission:
    """What one model admits.

    Args:
        name: of the model, for messages.
        forecast: predicts when rows will be computed.
        rows: how many rows may be queued.
        wished_rows: how many the user asked for; memory may hold fewer.
        instances: how many batches compute at a time.
        fixed: whether the queue's rows are those of a slab; without one, a single larger request is admitted, too.
        setting: the setting that limits the rows, for messages.
    """

    name: str
    forecast: Forecast
    rows: int
    wished_rows: int
    instances: int
    fixed: bool
    setting: str = "--queue"

    def refuse_size(self, rows: int, waiting: int, now_ns: int) -> None:
        """Refuse a request of `rows` rows that does not fit into the queue, in which `waiting` rows wait.

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
        """Refuse a request that would miss its deadline after the `ahead` rows before it; `busy`: all engines compute.

        Raises:
            QueueFullError: with the seconds after which enough of the earlier work will be done for another try.
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
        """The error for a full queue: valid until a quarter of a batch is done; a retry should wait for half of it."""
        work_ns = self.waiting_ns(waiting)
        opens_ns = now_ns + int(min(self.forecast.cost.limit_ns / 4, _SHUT_NS))
        message = f"model {self.name!r} has no room for more requests"
        if work_ns:  # perhaps nothing waits, because all rows are being computed or received
            message += f": {_duration(work_ns)} of work is waiting"
        return QueueFullError(message, _pause_s(work_ns / 2), opens_ns)

    def waiting_ns(self, waiting: int) -> float:
        """How long the engines will take for this many waiting rows, in nanoseconds."""
        return self.forecast.cost.batches(waiting)[1] / self.instances


def _duration(left_ns: float) -> str:
    """A time in two digits, so that there are few different messages, which can be cached."""
    left_ns = max(0.0, left_ns)
    return f"{_rounded(left_ns / 1e9)} s" if left_ns >= 999_000_000 else f"{_rounded(left_ns / 1e6)} ms"


def _rounded(number: float, digits: int = 2) -> str:
    """A number with this many significant digits, without an exponent."""
    return f"{float(f'{number:.{digits}g}'):g}"


def _pause_s(pause_ns: float) -> float:
    """The pause before another try, in seconds: at least a millisecond, in two digits like the messages."""
    return float(f"{max(0.001, pause_ns / 1e9):.2g}")

"""How often views are sent: each second, or less often so that they take no more than a small share of a core. Pure."""

from collections import deque

EVERY_S = 1.0
SHARE = 0.001  # of a core: how much of the event loop's time views may take
_AVERAGED = 10  # ticks: averaged so that a single slow one hardly counts


class Pace:
    """The time from one tick to the next, given how long the last ten took."""

    __slots__ = ("_took_s",)

    def __init__(self) -> None:
        self._took_s = deque([0.0] * _AVERAGED, maxlen=_AVERAGED)

    def after(self, took_s: float) -> float:
        """Seconds until the next tick, given the CPU seconds that this one took."""
        self._took_s.append(took_s)
        return max(EVERY_S, sum(self._took_s) / _AVERAGED / SHARE)

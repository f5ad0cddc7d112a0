"""How often the watchers are told: each second, or so seldom that it takes no more than its share of a core. Pure."""

from collections import deque

EVERY_S = 1.0
SHARE = 0.001  # of a core: what watching costs the loop at most
_AVERAGED = 10  # ticks: one that was slow by chance hardly counts


class Pace:
    """The time from one tick to the next, by what the last ten took."""

    __slots__ = ("_took_s",)

    def __init__(self) -> None:
        self._took_s = deque([0.0] * _AVERAGED, maxlen=_AVERAGED)

    def after(self, took_s: float) -> float:
        """Seconds until the next tick, when this one took this many of processor time."""
        self._took_s.append(took_s)
        return max(EVERY_S, sum(self._took_s) / _AVERAGED / SHARE)

"""Searches for the highest rate at which the p99 stays within a limit, from the results of probes. No clock here.

A rate counts as good only if the whole 99 % interval of the p99 is within the limit, and nothing failed. Any other rate
bounds the search from above. The remaining rate is measured again with new arrivals before it is accepted, because the
best of many probes may just be lucky.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from tailcut.stats import Interval

PRECISION = 0.05  # relative width of the bracket at which the search ends
_STEP = 1.5
_LIMIT_PROBES = 24
_LATE_TRIES = 2  # a client that was late once may have been disturbed
_LOWEST_SHARE = 0.001  # of the first rate: the search does not go lower


class Shown(StrEnum):
    """The result of a probe."""

    MEETS = "meets"
    MISSES = "misses"
    UNCLEAR = "unclear"  # the limit is inside the interval, or there is no interval
    ERRORS = "errors"
    CLIENT_BEHIND = "client behind"


def judge(p99_ms: Interval | None, slo_ms: float, *, errors: int, client_behind: bool) -> Shown:
    """What a run shows about a limit of its p99.

    A late client can only add to the latency, which counts from the planned time: a limit that is met is still met.
    """
    if errors:
        return Shown.ERRORS
    if p99_ms is not None and p99_ms.high <= slo_ms:
        return Shown.MEETS
    if client_behind:
        return Shown.CLIENT_BEHIND
    return Shown.UNCLEAR if p99_ms is None or p99_ms.low <= slo_ms else Shown.MISSES


@dataclass
class Saturation:
    """The state of a search: the bracket, and what bounds it from above."""

    first_rate: float
    low: float | None = None  # shown to meet the limit
    high: float | None = None  # not shown to meet it
    limited_by: Shown | None = None
    confirmed: bool = False
    probes: list[tuple[float, Shown]] = field(default_factory=list)

    def next_rate(self) -> float | None:
        """The next rate to probe; None when the search is over."""
        if self.confirmed or len(self.probes) >= _LIMIT_PROBES:
            return None
        if self.low is None and self.high is None:
            return self.first_rate
        if self.low is None or self.high is None:
            rate = self.low * _STEP if self.low is not None else (self.high or 0) / _STEP
            return rate if rate >= self.first_rate * _LOWEST_SHARE else None
        if self.high / self.low > 1 + PRECISION:
            return float((self.high * self.low) ** 0.5)
        return self.low

    def observe(self, rate: float, shown: Shown) -> None:
        """Add the result of a probe of `rate`."""
        self.probes.append((rate, shown))
        if shown is Shown.MEETS:
            self.confirmed = rate == self.low
            self.low = rate
        elif shown is not Shown.CLIENT_BEHIND or self._late_tries(rate) >= _LATE_TRIES:
            self.high, self.limited_by = rate, shown
            if self.low is not None and rate <= self.low:  # an earlier result was not confirmed
                self.low = max(
                    (probed for probed, seen in self.probes if seen is Shown.MEETS and probed < rate), default=None
                )

    def _late_tries(self, rate: float) -> int:
        return sum(probe == (rate, Shown.CLIENT_BEHIND) for probe in self.probes)


def saturate(first_rate: float, probe: Callable[[float], Shown]) -> Saturation:
    """Search from a first guess on; `probe` measures a rate."""
    search = Saturation(first_rate)
    while (rate := search.next_rate()) is not None:
        search.observe(rate, probe(rate))
    return search

"""The highest rate at which the p99 stays within a limit: a search that is told what each probe showed. No clock here.

A rate counts as good only when it was shown to be: the whole 99 % interval of the p99 lies within the limit, and
nothing failed. What is not shown bounds the search from above. The rate that remains is measured
again on fresh arrivals before it is believed: of many probes the luckiest wins, and luck does not repeat.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from tailcut.stats import Interval

PRECISION = 0.05  # the bracket's width at which the search ends
_STEP = 1.5
_LIMIT_PROBES = 24
_LATE_TRIES = 2  # a client that was late once may only have been disturbed
_LOWEST_SHARE = 0.001  # of the first rate: below it nothing is looked for


class Shown(StrEnum):
    """What a probe showed."""

    MEETS = "meets"
    MISSES = "misses"
    UNCLEAR = "unclear"  # the limit lies inside the interval, or there is none
    ERRORS = "errors"
    CLIENT_BEHIND = "client behind"


def judge(p99_ms: Interval | None, slo_ms: float, *, errors: int, client_behind: bool) -> Shown:
    """What one run shows of a limit of its p99.

    A client that was late only adds to the latency, which counts from the plan: what it shows to meet, meets.
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
    """What a search knows: the bracket, and why it ends above."""

    first_rate: float
    low: float | None = None  # shown to meet
    high: float | None = None  # not shown to
    limited_by: Shown | None = None
    confirmed: bool = False
    probes: list[tuple[float, Shown]] = field(default_factory=list)

    def next_rate(self) -> float | None:
        """The rate to probe, or None when the search is over."""
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
        """Take in what a probe of `rate` showed."""
        self.probes.append((rate, shown))
        if shown is Shown.MEETS:
            self.confirmed = rate == self.low
            self.low = rate
        elif shown is not Shown.CLIENT_BEHIND or self._late_tries(rate) >= _LATE_TRIES:
            self.high, self.limited_by = rate, shown
            if self.low is not None and rate <= self.low:  # what was believed did not repeat
                self.low = max(
                    (probed for probed, seen in self.probes if seen is Shown.MEETS and probed < rate), default=None
                )

    def _late_tries(self, rate: float) -> int:
        return sum(probe == (rate, Shown.CLIENT_BEHIND) for probe in self.probes)


def saturate(first_rate: float, probe: Callable[[float], Shown]) -> Saturation:
    """Search from a first guess; `probe` measures a rate."""
    search = Saturation(first_rate)
    while (rate := search.next_rate()) is not None:
        search.observe(rate, probe(rate))
    return search

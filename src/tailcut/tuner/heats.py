"""A race of several arms in interleaved heats: which arms are still racing, and which one leads. Pure.

Each heat measures every arm still racing once, one after the other, so that a disturbance of the machine affects all of
them; arms are compared heat by heat. An arm is eliminated when it is clearly worse than the leader, and after each part
of the time the worse half is eliminated (successive halving: Karnin, Koren and Somekh, Almost Optimal Exploration in
Multi-Armed Bandits, 2013), so that most of the time goes to those that may be the best. When time is up, the best
estimate wins; a lack of significance does not favour any arm, including the baseline.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tailcut.stats import Interval, paired_ratio_interval

NEAR = 0.05  # configurations whose scores are within 5 % of the best are equal, and `tie_break` decides
NONE = 1e-9  # the score of an arm that answered nothing: one of 0 would have no ratio
_LOOK = 3  # heats before an arm may be eliminated
_PLAIN = 0.6  # of the leader's estimate: below it, eliminated after two heats
_CLEAR = 0.97  # the whole interval of the ratio to the leader is below it: eliminated
_LAST = 2  # arms that race until the end
_FEWEST_HALVED = 2  # heats before a half may be eliminated


@dataclass(slots=True)
class HeatScores:
    """The scores of one arm, heat by heat; larger is better."""

    scores: list[float] = field(default_factory=list)
    racing: bool = True

    @property
    def estimate(self) -> float:
        """The mean of the middle half of its scores (interquartile mean), so that a disturbed heat does not count."""
        cut = len(self.scores) // 4 if len(self.scores) != 3 else 1
        return float(np.mean(sorted(self.scores)[cut : len(self.scores) - cut])) if self.scores else 0.0


@dataclass(slots=True)
class Heats:
    """The entrants of a race, in the order of its arms."""

    entrants: list[HeatScores]

    @classmethod
    def of(cls, count: int) -> "Heats":
        """A race of this many arms."""
        return cls([HeatScores() for _ in range(count)])

    @property
    def racing(self) -> list[int]:
        """The arms that are still racing."""
        return [number for number, entrant in enumerate(self.entrants) if entrant.racing]

    @property
    def leader(self) -> int:
        """The arm with the best estimate among those still racing, or among all if none is."""
        return max(self.racing or range(len(self.entrants)), key=lambda number: self.entrants[number].estimate)

    def ranked(self, first: int) -> list[int]:
        """The arms that answered, `first` in front: those still racing by estimate, then the eliminated ones.

        An eliminated arm takes the leader's place if the leader and all others are rejected.
        """
        entrants = self.entrants
        rest = [number for number, entrant in enumerate(entrants) if number != first and entrant.estimate > NONE]
        return [first, *sorted(rest, key=lambda number: (not entrants[number].racing, -entrants[number].estimate))]

    def add(self, scores: Sequence[float]) -> None:
        """Add a heat: a score for each arm that is racing, in order."""
        for number, score in zip(self.racing, scores, strict=True):
            self.entrants[number].scores.append(score)
        leader = self.leader
        for number in self.racing:
            if number != leader and self._is_out(self.entrants[number], self.entrants[leader]):
                self.entrants[number].racing = False

    def narrow(self, passed: float) -> None:
        """Eliminate arms that are not among the best, more of them as time passes; never one that equals the leader.

        Args:
            passed: the share of the race's time that has passed.
        """
        if min(len(self.entrants[number].scores) for number in self.racing) < _FEWEST_HALVED:
            return
        halvings = max(0, math.ceil(math.log2(len(self.entrants) / _LAST)))
        due = max(0, min(halvings, int(passed * (halvings + 1))))
        stay = max(_LAST, math.ceil(len(self.entrants) / 2**due))
        for number in sorted(self.racing, key=lambda number: -self.entrants[number].estimate)[stay:]:
            if not self.is_near(number, NEAR):
                self.entrants[number].racing = False

    def fail(self, number: int) -> None:
        """Eliminate an arm whose server has exited: it counts as having answered nothing."""
        self.entrants[number] = HeatScores([NONE] * len(self.entrants[number].scores), racing=False)

    def ratio(self, number: int, other: int) -> Interval | None:
        """The ratio of one arm's scores to another's over the heats that both ran; None if these are too few."""
        return _ratio(self.entrants[number], self.entrants[other])

    def near(self, share: float) -> list[int]:
        """The arms whose estimate is within a share of the leader's, the leader first."""
        leader = self.leader
        return [leader, *(number for number in self.racing if number != leader and self.is_near(number, share))]

    def is_near(self, number: int, share: float) -> bool:
        """Whether an arm's estimate is within a share of the leader's; the arm may have been eliminated."""
        best = self.entrants[self.leader].estimate
        # Arms that answered nothing are not equal to one another.
        return best > NONE and self.entrants[number].estimate >= (1 - share) * best

    def _is_out(self, entrant: HeatScores, leader: HeatScores) -> bool:
        if len(entrant.scores) == 2 and entrant.estimate < _PLAIN * leader.estimate:
            return True
        if len(entrant.scores) < _LOOK:
            return False
        interval = _ratio(entrant, leader)
        return interval is not None and interval.high < _CLEAR


def _ratio(entrant: HeatScores, other: HeatScores) -> Interval | None:
    both = min(len(entrant.scores), len(other.scores))
    if both < _LOOK or not all(entrant.scores[:both] + other.scores[:both]):
        return None
    return paired_ratio_interval(entrant.scores[:both], other.scores[:both])

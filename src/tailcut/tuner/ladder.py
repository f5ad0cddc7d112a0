"""Climbing, decided purely: which candidate is next, and whether one that was measured stays.

The objective is the latency tail: p99 (or the highest percentile that the samples can tell) at the offered rate. A
candidate stays when its tail is better by interval. It stays, too, when its tail cannot be told apart and does not look
longer, and the percentile below it or the throughput is better by interval: the same cause moves both, and the lower
one is seen sooner. Everything else goes: a change that does nothing measurable is one more thing to go wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tailcut.runtime.profile import Settings
from tailcut.stats import Interval, Verdict, verdict
from tailcut.tuner.race import NOISE, Ratios
from tailcut.tuner.rungs import Candidate, Facts, Rung

_NOT_LONGER = 1.05


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of a candidate, and the reason in words."""

    verdict: Verdict
    keep: bool
    reason: str


def judge(ratios: Ratios) -> Judgement:
    """Judge a candidate by its ratios to the best so far, which must know at least one percentile."""
    known = list(ratios.percentiles.items())
    (of, tail), lower = known[0], known[1:2]
    found = verdict(tail, NOISE)
    said = f"{of} {_words(tail)}"
    speed = "" if ratios.throughput is None else f", throughput x{ratios.throughput.point:.2f}"
    if found is not Verdict.INDISTINCT:
        return Judgement(found, keep=found is Verdict.BETTER, reason=f"{said}{speed}")
    if tail.point <= _NOT_LONGER:
        for name, interval in lower:
            if verdict(interval, NOISE) is Verdict.BETTER:
                reason = f"{name} {_words(interval)}, {said} cannot be told apart{speed}"
                return Judgement(Verdict.BETTER, keep=True, reason=reason)
        if ratios.throughput is not None and ratios.faster():
            reason = f"throughput {_words(ratios.throughput)}, {said} cannot be told apart"
            return Judgement(Verdict.BETTER, keep=True, reason=reason)
    return Judgement(found, keep=False, reason=f"{said}: no telling apart{speed}")


def _words(interval: Interval) -> str:
    return f"x{interval.point:.2f} ({interval.low:.2f} to {interval.high:.2f})"


@dataclass(slots=True)
class Ladder:
    """Where the climb stands. `best` changes only by `keep`."""

    facts: Facts
    best: Settings
    rungs: tuple[Rung, ...]
    kept: dict[str, list[str]] = field(default_factory=dict)

    def candidates(self, rung: Rung) -> Iterator[Candidate]:
        """The rung's candidates one by one, each built on the best settings at that moment.

        A group is laid out anew for each of its places, because what was kept meanwhile is the ground it stands on.
        """
        group_number = 0
        while True:
            groups = list(rung.offer(self.facts, self.best))
            if group_number >= len(groups):
                return
            tried: set[str] = set()
            for place in range(len(groups[group_number])):
                now = list(rung.offer(self.facts, self.best))
                if group_number >= len(now) or place >= len(now[group_number]):
                    break
                candidate = now[group_number][place]
                if candidate.settings != self.best and candidate.setting not in tried:
                    tried.add(candidate.setting)
                    yield candidate
            group_number += 1

    def keep(self, rung: Rung, candidate: Candidate) -> None:
        """The candidate is the best from now on."""
        self.best = candidate.settings
        self.kept.setdefault(rung.name, []).append(candidate.setting)

    def left(self, after: int) -> int:
        """About how many candidates the rungs behind number `after` will offer."""
        return sum(len(group) for rung in self.rungs[after + 1 :] for group in rung.offer(self.facts, self.best))

"""Climbing, decided purely: which candidate is next, and whether one that was measured stays.

The objective is the latency tail: p99 (or the highest percentile that the samples can tell) at the offered rate. A
candidate stays when its tail is better by interval; or when the tail cannot be told apart and the throughput is better
by interval. Everything else goes: a change that does nothing measurable is one more thing to go wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tailcut.runtime.profile import Settings
from tailcut.stats import Interval, Verdict, verdict
from tailcut.tuner.rungs import Candidate, Facts, Rung

NOISE = 0.02
_THROUGHPUT_NOISE = 0.03


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of a candidate, and the reason in words."""

    verdict: Verdict
    keep: bool
    reason: str


def judge(tail: Interval, throughput: Interval | None, of: str) -> Judgement:
    """Judge the ratios of a candidate to the best so far: of its tail (less is better) and throughput (more is).

    Args:
        tail: ratio of the percentile called `of`.
        throughput: ratio of requests a second, or None where it was not measured.
        of: p99, p95 or p50.
    """
    found = verdict(tail, NOISE)
    # Throughput is judged as the time a request takes, so that less is better there too.
    rate = Verdict.INDISTINCT
    if throughput is not None and throughput.low > 0:
        rate = verdict(Interval(1 / throughput.point, 1 / throughput.high, 1 / throughput.low), _THROUGHPUT_NOISE)
    change = f"{of} x{tail.point:.2f} ({tail.low:.2f} to {tail.high:.2f})"
    speed = "" if throughput is None else f", throughput x{throughput.point:.2f}"
    if found is Verdict.BETTER:
        return Judgement(found, keep=True, reason=f"{change}{speed}")
    if found is Verdict.WORSE:
        return Judgement(found, keep=False, reason=f"{change}{speed}")
    if rate is Verdict.BETTER:
        return Judgement(Verdict.BETTER, keep=True, reason=f"{change}: no telling apart; but{speed.removeprefix(',')}")
    return Judgement(found, keep=False, reason=f"{change}: no telling apart{speed}")


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

"""Which of several configurations that are equal by the objective is chosen. Pure.

The criteria, in order: configurations whose tail at the rate of the verification is clearly longer than the shortest
are left out; the shortest median latency with one connection; of those whose median is not clearly longer, the one that
takes clearly less CPU per request; of those that take about as much, the one that holds clearly less memory. Latency
comes first because it is the purpose of a tune, and the tail before the median because it is what the tune claims. CPU
comes before memory because a server that wastes it slows down everything else on the machine: spinning threads occupy a
whole core without a measurable gain.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailcut.errors import InvalidInputError
from tailcut.stats import Interval, paired_ratio_interval

SAME = 0.05  # medians within 5 % of the shortest are equal
_LONGER = 1.2  # times the shortest tail, and longer in every round: clearly longer
_UNSURE = 0.15  # medians within 15 % are equal if the interval of their ratio includes 1
_CLEARLY = 0.8  # of the CPU time or memory: less than that is clearly less
_LEAST_BYTES = 32 << 20  # smaller differences in memory do not count


@dataclass(frozen=True, slots=True)
class MeasuredUsage:
    """The measured resource usage of one configuration.

    Args:
        alone_ms: median latencies with one connection, one per round; all configurations are measured in each round.
        cpu_us: CPU time per request; None if unknown.
        memory_bytes: the server's peak memory; None if unknown.
        tails_ms: p95 at the rate of the verification, one per round; empty if unknown.
    """

    alone_ms: tuple[float, ...]
    cpu_us: float | None = None
    memory_bytes: int | None = None
    tails_ms: tuple[float, ...] = ()

    @property
    def median_ms(self) -> float:
        """The median of `alone_ms`; infinite without a round."""
        return sorted(self.alone_ms)[len(self.alone_ms) // 2] if self.alone_ms else float("inf")

    @property
    def figures(self) -> tuple[float, float | None, int | None]:
        """The median in ms, CPU time in us, and memory in bytes."""
        return self.median_ms, self.cpu_us, self.memory_bytes


@dataclass(frozen=True, slots=True)
class TieBreakChoice:
    """The index of the chosen configuration, and the reason."""

    index: int
    reason: str


def choose(usages: Sequence[MeasuredUsage]) -> TieBreakChoice:
    """Choose one of configurations that are equal by the objective, the leader first.

    Args:
        usages: of each configuration, at least one.
    """
    if len(usages) == 1:
        return TieBreakChoice(0, "")
    left, share = _with_short_tails(usages)
    shortest = min(left, key=lambda index: (usages[index].median_ms, index))
    equal = [index for index in left if _is_same(usages[index], usages[shortest])]
    others = len(usages) - 1
    within = f"within {SAME:.0%} of the best"
    if len(left) == 1:
        return TieBreakChoice(
            shortest, f"{within}, as {_count(others)}; p95 at the rate of the verification x{share:.2f} of the next"
        )
    if len(equal) == 1:
        second = sorted(usages[index].median_ms for index in left)[1]
        ratio = usages[shortest].median_ms / second if second else 1.0
        return TieBreakChoice(
            shortest, f"{within}, as {_count(others)}; p50 with one connection x{ratio:.2f} of the next"
        )
    pool, words = equal, []
    for what, amounts, worth in (
        ("takes {:.2g} of the CPU", [usage.cpu_us for usage in usages], 0.0),
        ("holds {:.2g} of the memory", [usage.memory_bytes for usage in usages], _LEAST_BYTES),
    ):
        frugal = _frugal(pool, amounts, worth)
        if frugal is not None:
            pool, share = frugal
            words.append(what.format(share))
    chosen = min(pool, key=lambda index: (usages[index].median_ms, index))
    if not words:
        return TieBreakChoice(chosen, f"{within}, as {_count(others)}, with about as much CPU and memory")
    return TieBreakChoice(chosen, f"equal within the noise; {' and '.join(words)}")


def _with_short_tails(usages: Sequence[MeasuredUsage]) -> tuple[list[int], float]:
    """Those whose tail is not clearly longer than the shortest, and the shortest as a share of the next.

    All, and 1, if the tail of one is unknown.
    """
    if not all(usage.tails_ms for usage in usages):
        return list(range(len(usages))), 1.0
    medians = [float(np.median(usage.tails_ms)) for usage in usages]
    best = min(range(len(usages)), key=medians.__getitem__)

    def is_longer(index: int) -> bool:
        pairs = zip(usages[index].tails_ms, usages[best].tails_ms, strict=True)
        return medians[index] > _LONGER * medians[best] and all(mine > shortest for mine, shortest in pairs)

    short = [index for index in range(len(usages)) if not is_longer(index)]
    second = sorted(medians)[1]
    return short, medians[best] / second if second else 1.0


def _frugal(pool: Sequence[int], amounts: Sequence[float | None], worth: float) -> tuple[list[int], float] | None:
    """Those that take about the least, and the least as a share of the most; None if similar, or if one is unknown."""
    known = {index: amount for index in pool if (amount := amounts[index]) is not None}
    if len(known) < len(pool):
        return None
    least, most = min(known.values()), max(known.values())
    if least > _CLEARLY * most or most - least <= worth:
        return None
    return [index for index, amount in known.items() if amount * _CLEARLY <= least], least / most


def _is_same(usage: MeasuredUsage, shortest: MeasuredUsage) -> bool:
    """Whether a median is not clearly longer than the shortest one."""
    if usage is shortest or usage.median_ms <= (1 + SAME) * shortest.median_ms:
        return True
    ratio = _ratio(usage, shortest)
    return ratio is not None and ratio.low <= 1 and usage.median_ms <= (1 + _UNSURE) * shortest.median_ms


def _ratio(usage: MeasuredUsage, other: MeasuredUsage) -> Interval | None:
    try:
        return paired_ratio_interval(usage.alone_ms, other.alone_ms)
    except InvalidInputError:
        return None


def _count(others: int) -> str:
    return "another is" if others == 1 else f"{others} others are"

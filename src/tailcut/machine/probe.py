"""Measure the time that a thread which is always ready to run does not get: the gaps in a spinning loop, per core.

A loop reads the clock continuously. If two readings are far apart, something else had the core: another process, an
interrupt, the hypervisor. Plain Python resolves a few hundred nanoseconds, so no compiler is loaded for it. The
garbage collector finds nothing to do in it. One core is probed at a time, for a limited time.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from tailcut.machine.affinity import pinned
from tailcut.machine.counters import counters
from tailcut.machine.facts import Ticks, ticks

_GAP_NS = 2_000  # a gap: fifteen turns of the loop, which takes 130 ns
_ARRAY_BYTES = 40 << 20  # over glibc's largest mmap threshold (32 MiB): such a block is new memory each time
_CLOCK_READS = 20_000


@dataclass(frozen=True, slots=True)
class Gaps:
    """The gaps of a spinning loop on one core."""

    cpu: int | None  # None where threads cannot be pinned
    seconds: float
    count: int
    stolen_us: float
    p99_us: float  # of the gaps
    max_us: float
    taken: (
        int | None
    )  # how often the kernel gave the core to something else; the rest are interrupts and the hypervisor

    @property
    def share(self) -> float:
        """The share of the time that was stolen, 0 to 1."""
        return self.stolen_us / (self.seconds * 1e6)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one run of `measure` found."""

    seconds: float
    before: Ticks
    after: Ticks
    gaps: tuple[Gaps, ...]
    clock_ns: float  # one reading of the clock
    block_faults: int | None  # page faults of a block of 40 MiB that is allocated, written and freed, again and again
    block_us: float

    @property
    def steal_share(self) -> float:
        """The share of the CPU time during the measurement that the hypervisor gave to others, 0 to 1."""
        total = self.after.total - self.before.total
        return (self.after.steal - self.before.steal) / total if total > 0 else 0.0

    def interrupts(self) -> list[tuple[str, int, float]]:
        """Device interrupts on the usable CPUs: name, the CPU that got most, how many per second; busiest first."""
        result = []
        for name, counts in self.after.interrupts.items():
            earlier = self.before.interrupts.get(name, {})
            grown = {cpu: count - earlier.get(cpu, 0) for cpu, count in counts.items()}
            if grown and sum(grown.values()) > 0:
                result.append((name, max(grown, key=grown.__getitem__), sum(grown.values()) / self.seconds))
        return sorted(result, key=lambda entry: -entry[2])


def measure(mask: tuple[int, ...], probe_s: float, root: Path = Path("/")) -> ProbeResult:
    """Probe every CPU of the mask for an equal share of `probe_s`."""
    before, began = ticks(mask, root), time.perf_counter()
    pinning = hasattr(os, "sched_setaffinity")
    gaps = tuple(probe(cpu, probe_s / len(mask)) for cpu in mask) if pinning else (probe(None, probe_s),)
    seconds = time.perf_counter() - began
    after = ticks(mask, root)
    faults, block_us = _block_cost()
    return ProbeResult(seconds, before, after, gaps, _clock_cost(), faults, block_us)


def probe(cpu: int | None, seconds: float) -> Gaps:
    """Spin on one CPU, pinned to it, for some seconds, and record the gaps."""
    if cpu is None:
        return _spin(None, seconds)
    with pinned(cpu):
        return _spin(cpu, seconds)


def _spin(cpu: int | None, seconds: float) -> Gaps:
    result: list[int] = []
    clock, limit = time.perf_counter_ns, _GAP_NS
    with counters() as counted:
        began = last = clock()
        end = began + round(seconds * 1e9)
        while last < end:
            now = clock()
            if now - last > limit:
                result.append(now - last)
            last = now
    return gaps_of(result, cpu, (last - began) / 1e9, counted.involuntary_switches)


def gaps_of(result: Iterable[int], cpu: int | None, seconds: float, taken: int | None) -> Gaps:
    """Summarise gaps in nanoseconds; the p99 is the smallest gap that 99 % of them do not exceed."""
    ordered = sorted(result)
    p99 = ordered[ceil(0.99 * len(ordered)) - 1] if ordered else 0
    return Gaps(
        cpu=cpu,
        seconds=seconds,
        count=len(ordered),
        stolen_us=sum(ordered) / 1e3,
        p99_us=p99 / 1e3,
        max_us=(ordered[-1] if ordered else 0) / 1e3,
        taken=taken,
    )


def _clock_cost() -> float:
    clock = time.perf_counter_ns
    best = float("inf")
    for _ in range(5):
        began = clock()
        for _ in range(_CLOCK_READS // 5):
            clock()
        best = min(best, (clock() - began) / (_CLOCK_READS // 5))
    return best


def _block_cost() -> tuple[int | None, float]:
    """Faults and microseconds of a large block, the best of three: what a temporary array costs each time."""
    result: list[tuple[float, int | None]] = []
    for _ in range(4):
        with counters() as c:
            bytearray(_ARRAY_BYTES)
        result.append((c.wall_ns / 1e3, c.page_faults))
    block_us, faults = min(
        result[1:], key=lambda entry: entry[0]
    )  # the first may find memory that no other process has used yet
    return faults, block_us

"""The spinning probe: its sums on made-up gaps, and a real neighbour on a real core."""

import os
import subprocess
import sys

import pytest

from tailcut.machine.facts import Ticks
from tailcut.machine.probe import ProbeResult, gaps_of, measure, probe
from tailcut.machine.quota import affinity_mask

HOG = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
print("spinning", flush=True)
while os.getppid() == int(sys.argv[2]):
    pass
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux pins a thread to a CPU")


def test_sums() -> None:
    """Gaps are summed; their p99 is the smallest that 99 % do not exceed; none is no loss at all."""
    gaps = gaps_of([*range(1000, 101_000, 1000)][::-1], 3, 0.5, 2)
    assert (gaps.count, gaps.stolen_us, gaps.p99_us, gaps.max_us) == (100, 5050.0, 99.0, 100.0)
    assert gaps.share == pytest.approx(0.0101)
    nothing = gaps_of([], 0, 0.5, 0)
    assert (nothing.count, nothing.stolen_us, nothing.p99_us, nothing.max_us, nothing.share) == (0, 0, 0, 0, 0)


def test_rates() -> None:
    """Steal is a share of CPU time, and interrupts are rates of what grew, busiest first."""
    before = Ticks(5, 100, {"1 a": {0: 10, 1: 0}, "2 b": {0: 7}}, 0)
    after = Ticks(25, 500, {"1 a": {0: 12, 1: 20}, "2 b": {0: 7}, "3 c": {1: 80}}, 0)
    result = ProbeResult(2.0, before, after, (), 40.0, None, 0.0)
    assert result.steal_share == pytest.approx(0.05)
    assert result.interrupts() == [("3 c", 1, 40.0), ("1 a", 1, 11.0)]


@linux
def test_a_neighbour_is_found() -> None:
    """A process that spins on the same core takes it again and again; the probe sees the time and the taking."""
    cpu = min(affinity_mask())
    command = [sys.executable, "-c", HOG, str(cpu), str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hog:
        assert hog.stdout is not None
        assert hog.stdout.readline() == "spinning\n"
        gaps = probe(cpu, 0.4)
        hog.kill()
    assert gaps.cpu == cpu
    assert gaps.share > 0.1
    assert gaps.max_us > 500
    assert gaps.taken is not None
    assert gaps.taken > 0


@linux
def test_every_cpu_gets_its_share() -> None:
    """Each CPU of the mask is probed, the mask is as it was, and what else is measured is there."""
    mask = affinity_mask()
    result = measure(tuple(sorted(mask)), 0.1)
    assert [gaps.cpu for gaps in result.gaps] == sorted(mask)
    assert affinity_mask() == mask
    assert result.clock_ns > 0
    assert result.block_us > 0
    assert result.after.total >= result.before.total

"""Facts about made-up machines and about this one."""

import os
import sys
from pathlib import Path

import pytest
from tests.machine.machines import GOOD, SYSTEM, facts_of
from tests.machine.trees import plant

from tailcut.machine.facts import collect, ticks
from tailcut.machine.quota import affinity_mask


def test_a_made_up_machine(tmp_path: Path) -> None:
    """Every fact comes from its file."""
    facts = facts_of(tmp_path, environment={"OMP_NUM_THREADS": "2", "HOME": "/root", "MKL_NUM_THREADS": ""})
    assert (facts.online, facts.mask, facts.usable) == ((0, 1, 2, 3), (0, 1, 2, 3), 4)
    assert (facts.governors, facts.turbo, facts.numa_balancing) == (("performance",), False, False)
    assert (facts.thp, facts.thp_defrag) == ("madvise", "madvise")
    assert (facts.clock, facts.clocks) == ("tsc", ("tsc", "hpet", "acpi_pm"))
    assert (facts.allocator, facts.swappiness, facts.swap_bytes, facts.swapped_bytes) == ("jemalloc", 60, 0, 0)
    assert (facts.nodes, facts.mask_nodes, facts.siblings, facts.isolated) == (1, (0,), (), ())
    assert not facts.hypervisor
    assert facts.environment == {"OMP_NUM_THREADS": "2"}


def test_quota_and_mask_bound_what_is_usable(tmp_path: Path) -> None:
    """The least of mask, hardware and quota is usable, and never less than one CPU."""
    assert facts_of(tmp_path / "1", mask=(0, 2)).usable == 2
    assert facts_of(tmp_path / "2", {"sys/fs/cgroup/app/cpu.max": "150000 100000"}).usable == 1
    assert facts_of(tmp_path / "3", {"sys/fs/cgroup/app/cpu.max": "20000 100000"}).usable == 1


def test_an_empty_machine(tmp_path: Path) -> None:
    """What cannot be read is None or empty."""
    facts = collect(tmp_path, environment={}, mask=frozenset({0}))
    assert (facts.governors, facts.turbo, facts.numa_balancing, facts.thp) == ((), None, None, None)
    assert (facts.clock, facts.swappiness, facts.quota_cpus, facts.allocator) == (None, None, None, "unknown")
    assert ticks((0,), tmp_path).total == 0


@pytest.mark.parametrize(
    ("files", "turbo"),
    [
        ({f"{SYSTEM}/cpu/intel_pstate/no_turbo": "0"}, True),
        ({f"{SYSTEM}/cpu/intel_pstate/no_turbo": None, f"{SYSTEM}/cpu/cpufreq/boost": "1"}, True),
        ({f"{SYSTEM}/cpu/intel_pstate/no_turbo": None, f"{SYSTEM}/cpu/cpufreq/boost": "0"}, False),
    ],
)
def test_turbo(tmp_path: Path, files: dict[str, str | None], turbo: bool) -> None:
    """Intel's file says whether turbo is off, the others' whether it is on."""
    assert facts_of(tmp_path, files).turbo is turbo


def test_ticks(tmp_path: Path) -> None:
    """Steal and interrupts are those of our CPUs, and interrupts only those of devices."""
    stat = "cpu  0 0 0 0 0 0 0 99\ncpu0 10 0 5 80 0 1 1 3 0 0\ncpu1 1 1 1 1 1 1 1 7 0 0\n"
    seen = ticks((0, 2), plant(tmp_path, GOOD | {"proc/stat": stat}))
    assert (seen.steal, seen.total) == (3, 100)
    assert seen.interrupts == {"24 nvme0q1": {0: 1, 2: 3}, "133 eth0-rx-0": {0: 0, 2: 0}}


@pytest.mark.skipif(sys.platform != "linux", reason="facts are read from /proc and /sys")
def test_this_machine() -> None:
    """Here, the mask is ours, at least one CPU is usable, and time passes."""
    facts = collect()
    assert set(facts.mask) == affinity_mask()
    assert 1 <= facts.usable <= (os.cpu_count() or 1)
    assert facts.allocator in ("glibc", "jemalloc", "tcmalloc", "mimalloc", "unknown")
    assert ticks(facts.mask).total > 0

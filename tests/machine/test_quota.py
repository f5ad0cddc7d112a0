"""Limits of control groups, in made-up trees of both versions, and what they leave for a pool of threads."""

from pathlib import Path

import pytest
from tests.machine.trees import plant

from tailcut.machine import quota as module
from tailcut.machine.quota import cpu_quota, free_bytes, memory_limit, throttled, usable_cpus, usable_cpus_and_why

V1_GROUPS = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n0::/docker/abc"


def process(tmp_path: Path, groups: str) -> Path:
    return plant(tmp_path / "proc", {"cgroup": groups})


def limits(root: Path, proc: Path) -> tuple[float | None, int | None]:
    return cpu_quota(root, proc), memory_limit(root, proc)


def test_v2(tmp_path: Path) -> None:
    """cpu.max is quota and period in microseconds, memory.max is bytes."""
    root = plant(tmp_path / "cgroup", {"app/cpu.max": "150000 100000", "app/memory.max": "1073741824"})
    assert limits(root, process(tmp_path, "0::/app")) == (1.5, 1 << 30)


def test_v2_limit_on_an_ancestor(tmp_path: Path) -> None:
    """The tightest limit between the process and the root counts, wherever it stands."""
    files = {
        "pod/cpu.max": "50000 100000",
        "pod/memory.max": "max",
        "pod/box/cpu.max": "400000 100000",
        "pod/box/memory.max": "4096",
        "pod/box/leaf/cpu.max": "max 100000",
        "sibling/cpu.max": "1000 100000",
    }
    root = plant(tmp_path / "cgroup", files)
    assert limits(root, process(tmp_path, "0::/pod/box/leaf")) == (0.5, 4096)


def test_v1(tmp_path: Path) -> None:
    """cfs_quota over cfs_period, in the hierarchy of its controller; joined controllers share a folder."""
    files = {
        "cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "250000",
        "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000",
        "memory/docker/abc/memory.limit_in_bytes": "536870912",
        "memory/memory.limit_in_bytes": "9223372036854771712",
    }
    root = plant(tmp_path / "cgroup", files)
    assert limits(root, process(tmp_path, V1_GROUPS)) == (2.5, 512 << 20)


def test_v1_seen_from_inside_a_container(tmp_path: Path) -> None:
    """The path may name a folder that only the host sees; the mount's root then is the container's own group."""
    files = {
        "cpu/cpu.cfs_quota_us": "100000",
        "cpu/cpu.cfs_period_us": "50000",
        "memory/memory.limit_in_bytes": "1048576",
    }
    root = plant(tmp_path / "cgroup", files)
    assert limits(root, process(tmp_path, V1_GROUPS)) == (2.0, 1 << 20)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"cpu.max": "max 100000", "memory.max": "max"},
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        {"cpu.max": "100000 0"},
        {"cpu.max": "", "memory.max": "rubbish"},
        {"cpu/cpu.cfs_quota_us": "50000"},
    ],
)
def test_no_limit(tmp_path: Path, files: dict[str, str]) -> None:
    """No file, the word max, -1, and torn files all mean that there is no limit."""
    root = plant(tmp_path / "cgroup", {"marker": "", **files})
    assert limits(root, process(tmp_path, "1:cpu:/\n0::/\ntorn line")) == (None, None)


def test_without_proc(tmp_path: Path) -> None:
    """Where there is no /proc, there is no limit."""
    assert limits(tmp_path, tmp_path / "nowhere") == (None, None)
    assert throttled(tmp_path, tmp_path / "nowhere") == (0, 0)


@pytest.mark.parametrize(
    ("counts", "limit", "usable"),
    [
        ((8, 8), "max", 8),
        ((8, 3), "max", 3),
        ((8, 8), "250000", 2),
        ((8, 8), "20000", 1),
        ((8, 2), "600000", 2),
        ((4, 4), "6400000", 4),
    ],
)
def test_usable_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: tuple[int, int], limit: str, usable: int
) -> None:
    """The least of hardware, mask, and the quota rounded down, but never less than one."""
    monkeypatch.setattr(module.os, "cpu_count", lambda: counts[0])
    monkeypatch.setattr(module, "affinity_mask", lambda: frozenset(range(counts[1])))
    root = plant(tmp_path / "cgroup", {"cpu.max": f"{limit} 100000"})
    assert usable_cpus(root, process(tmp_path, "0::/")) == usable


def test_throttled(tmp_path: Path) -> None:
    """How often and how long the quota stopped the group: version 1 counts nanoseconds, version 2 microseconds."""
    v2 = plant(tmp_path / "v2", {"app/cpu.stat": "usage_usec 5\nnr_throttled 3\nthrottled_usec 1200"})
    assert throttled(v2, process(tmp_path, "0::/app")) == (3, 1200)
    v1 = plant(tmp_path / "v1", {"cpu/app/cpu.stat": "nr_periods 9\nnr_throttled 2\nthrottled_time 7000000"})
    assert throttled(v1, process(tmp_path, "2:cpu:/app")) == (2, 7000)


def test_without_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no affinity (macOS), all CPUs may be used."""
    monkeypatch.delattr(module.os, "sched_getaffinity")
    monkeypatch.setattr(module.os, "cpu_count", lambda: 6)
    assert module.affinity_mask() == frozenset(range(6))


def test_this_machine() -> None:
    """Here, at least one CPU is usable, and no more than the mask holds."""
    assert 1 <= usable_cpus() <= len(module.affinity_mask())


@pytest.mark.parametrize(
    ("counts", "limit", "reason"),
    [
        ((8, 8), "max 100000", "the machine has 8 CPUs"),
        ((8, 3), "max 100000", "the affinity mask has 3 CPUs"),
        ((64, 64), "150000 100000", "the CPU quota allows 1.5 CPUs of 64"),
        ((64, 64), "100000 100000", "the CPU quota allows 1 CPU of 64"),
    ],
)
def test_the_tightest_bound_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: tuple[int, int], limit: str, reason: str
) -> None:
    """In words for the log, of which host cores are the last to be blamed."""
    monkeypatch.setattr(module.os, "cpu_count", lambda: counts[0])
    monkeypatch.setattr(module, "affinity_mask", lambda: frozenset(range(counts[1])))
    root = plant(tmp_path / "cgroup", {"cpu.max": limit})
    assert usable_cpus_and_why(root, process(tmp_path, "0::/")).reason == reason


def test_free_memory(tmp_path: Path) -> None:
    """The least of what the groups leave, files' pages counted as free, and what the machine has; unknown without."""
    own = plant(tmp_path / "proc/self", {"cgroup": "0::/pod/box"})
    files = {
        "pod/memory.max": "1000",
        "pod/memory.current": "900",
        "pod/memory.stat": "anon 400\nactive_file 200\ninactive_file 100",
        "pod/box/memory.max": "max",
        "pod/box/memory.current": "500",
    }
    root = plant(tmp_path / "cgroup", files)
    assert free_bytes(root, own) == 400
    plant(tmp_path / "proc", {"meminfo": "MemTotal: 9 kB\nMemAvailable: 0 kB"})
    assert free_bytes(root, own) == 0
    assert free_bytes(tmp_path / "none", tmp_path / "nothing/self") is None


def test_free_memory_v1(tmp_path: Path) -> None:
    """usage_in_bytes, and totals with the groups below."""
    own = plant(tmp_path / "proc/self", {"cgroup": "4:memory:/box"})
    files = {
        "memory/box/memory.limit_in_bytes": "1000",
        "memory/box/memory.usage_in_bytes": "800",
        "memory/box/memory.stat": "active_file 1\ntotal_active_file 50\ntotal_inactive_file 50",
    }
    assert free_bytes(plant(tmp_path / "cgroup", files), own) == 300

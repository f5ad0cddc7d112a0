"""How much CPU and memory this process may use: affinity mask, cgroup limits, hardware.

cgroup v2: cpu.max and memory.max (kernel documentation, admin-guide/cgroup-v2.rst); v1: cpu.cfs_quota_us and
memory.limit_in_bytes. Any ancestor may have a limit, so the hierarchy is walked from the process's own group up to the
mount's root. Paths are arguments, so that tests can use generated trees of containers.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CGROUP_ROOT = Path("/sys/fs/cgroup")
PROC = Path("/proc/self")
_NO_LIMIT = 1 << 60  # v1 writes a number near 2^63 for "none"


def cpu_quota(root: Path = CGROUP_ROOT, proc: Path = PROC) -> float | None:
    """The lowest limit of this process's groups and their ancestors, in CPUs, maybe a fraction; None if unlimited."""
    return min((limit for folder in _folders(root, proc, "cpu") for limit in _cpu_limit(folder)), default=None)


def memory_limit(root: Path = CGROUP_ROOT, proc: Path = PROC) -> int | None:
    """The lowest memory limit of these groups, in bytes; None if unlimited."""
    return min((limit for folder in _folders(root, proc, "memory") for limit in _memory_limit(folder)), default=None)


def free_bytes(root: Path = CGROUP_ROOT, proc: Path = PROC) -> int | None:
    """Bytes of memory that may still be allocated: what the machine or a group's limit leaves; None if unknown.

    A group's page cache counts as free: the kernel reclaims it first.
    """
    free = [left for folder in _folders(root, proc, "memory") for left in _memory_left(folder)]
    lines = _read(proc.parent / "meminfo").splitlines()
    free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return max(0, min(free)) if free else None


@dataclass(frozen=True, slots=True)
class UsableCpus:
    """How many CPUs a process may use, and what limits them, for the user to read."""

    count: int
    reason: str


def usable_cpus(root: Path = CGROUP_ROOT, proc: Path = PROC) -> int:
    """How many CPUs to size a thread pool for: the least of mask, hardware and quota (rounded down); at least 1."""
    return usable_cpus_and_why(root, proc).count


def usable_cpus_and_why(root: Path = CGROUP_ROOT, proc: Path = PROC) -> UsableCpus:
    """As `usable_cpus`, with the limit that is the lowest."""
    hardware, mask, limit = os.cpu_count() or 1, len(affinity_mask()), cpu_quota(root, proc)
    bounds = [(hardware, f"the machine has {_cpus(hardware)}"), (mask, f"the affinity mask has {_cpus(mask)}")]
    if limit is not None:
        bounds.append((int(limit), f"the CPU quota allows {_cpus(limit)} of {hardware}"))
    count, reason = min(bounds, key=lambda bound: bound[0])
    return UsableCpus(max(1, count), reason)


def affinity_mask() -> frozenset[int]:
    """CPUs that the calling thread may run on; all of them where the system has no such mask."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def throttled(root: Path = CGROUP_ROOT, proc: Path = PROC) -> tuple[int, int]:
    """How often, and for how many microseconds in all, the quota has throttled this process's group."""
    for folder in _folders(root, proc, "cpu"):
        values = dict(line.split() for line in _read(folder / "cpu.stat").splitlines() if len(line.split()) == 2)
        if "nr_throttled" in values:
            nanos = int(values.get("throttled_time", 0))
            return int(values["nr_throttled"]), int(values.get("throttled_usec", nanos // 1000))
    return 0, 0


def _cpus(count: float) -> str:
    return "1 CPU" if count == 1 else f"{count:g} CPUs"


def _folders(root: Path, proc: Path, controller: Literal["cpu", "memory"]) -> Iterator[Path]:
    """Yield this process's groups in the hierarchies that may have a controller, each followed by its ancestors."""
    for line in _read(proc / "cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        number, controllers, path = parts
        names = controllers.split(",")
        unified = number == "0" and not controllers
        if not unified and controller not in names:
            continue
        bases = [root] if unified else [root / controllers, root / names[0]]
        for base in bases:
            if base.is_dir():
                group = Path(path.lstrip("/"))
                for folder in (group, *group.parents):
                    yield base / folder
                break


def _cpu_limit(folder: Path) -> Iterator[float]:
    words = _read(folder / "cpu.max").split()
    if len(words) == 2 and words[0].isdigit() and int(words[1]):
        yield int(words[0]) / int(words[1])
    limit, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    if limit is not None and limit > 0 and period:
        yield limit / period


def _memory_limit(folder: Path) -> Iterator[int]:
    for name in ("memory.max", "memory.limit_in_bytes"):
        limit = _number(folder / name)
        if limit is not None and 0 < limit < _NO_LIMIT:
            yield limit


def _memory_left(folder: Path) -> Iterator[int]:
    used = _number(folder / "memory.current")
    used = _number(folder / "memory.usage_in_bytes") if used is None else used
    stat = dict(line.split() for line in _read(folder / "memory.stat").splitlines() if len(line.split()) == 2)
    cached = sum(int(stat.get(f"total_{name}", stat.get(name, 0))) for name in ("active_file", "inactive_file"))
    for limit in _memory_limit(folder) if used is not None else ():
        yield limit - (used or 0) + cached


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

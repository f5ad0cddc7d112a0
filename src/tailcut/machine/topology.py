"""The structure of the machine, read from sysfs: CPUs and the cores they share, caches, NUMA nodes.

The root is an argument, so that tests can use generated trees of other machines. Without sysfs (macOS), every CPU is a
core of its own on one node.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys/devices/system")


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache, and the CPUs that share it."""

    level: int
    kind: str  # Data, Instruction or Unified
    size_bytes: int
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Core:
    """One physical core and its hardware threads."""

    package: int
    cpus: tuple[int, ...]

    @property
    def siblings(self) -> tuple[int, ...]:
        """Its CPUs beyond the first: hardware threads that share its execution units."""
        return self.cpus[1:]


@dataclass(frozen=True, slots=True)
class Node:
    """One NUMA node and the CPUs next to its memory."""

    number: int
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """The online part of the machine."""

    cores: tuple[Core, ...]
    caches: tuple[Cache, ...]
    nodes: tuple[Node, ...]

    @property
    def cpus(self) -> tuple[int, ...]:
        """Every online CPU."""
        return tuple(sorted(cpu for core in self.cores for cpu in core.cpus))


def topology(root: Path = SYSFS) -> Topology:
    """Read the machine; where files are missing, the simplest machine that fits is assumed."""
    online = parse_cpu_list(_read(root / "cpu" / "online")) or tuple(range(os.cpu_count() or 1))
    return Topology(_cores(root, online), _caches(root, online), _nodes(root, online))


def cores_of(machine: Topology, cpus: Collection[int]) -> int:
    """How many cores these CPUs belong to; at least 1."""
    return max(1, sum(any(cpu in cpus for cpu in core.cpus) for core in machine.cores))


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Parse the kernel's list format: `0-3,8,10-11`."""
    cpus: list[int] = []
    for part in text.strip().split(","):
        low, dash, high = part.partition("-")
        if low.isdigit():
            cpus += range(int(low), int(high) + 1 if dash and high.isdigit() else int(low) + 1)
    return tuple(cpus)


def _cores(root: Path, online: tuple[int, ...]) -> tuple[Core, ...]:
    cores: dict[tuple[int, ...], Core] = {}
    for cpu in online:
        folder = root / "cpu" / f"cpu{cpu}" / "topology"
        listed = parse_cpu_list(_read(folder / "thread_siblings_list") or _read(folder / "core_cpus_list"))
        cpus = tuple(sibling for sibling in listed if sibling in online) or (cpu,)
        package = _read(folder / "physical_package_id").strip()
        cores.setdefault(cpus, Core(int(package) if package.isdigit() else 0, cpus))
    return tuple(cores.values())


def _caches(root: Path, online: tuple[int, ...]) -> tuple[Cache, ...]:
    caches: dict[Cache, None] = {}
    for cpu in online:
        for index in sorted((root / "cpu" / f"cpu{cpu}" / "cache").glob("index[0-9]*")):
            level = _read(index / "level").strip()
            if level.isdigit():
                cpus = parse_cpu_list(_read(index / "shared_cpu_list")) or (cpu,)
                caches[Cache(int(level), _read(index / "type").strip(), _size(_read(index / "size")), cpus)] = None
    return tuple(caches)


def _nodes(root: Path, online: tuple[int, ...]) -> tuple[Node, ...]:
    nodes = []
    for folder in sorted((root / "node").glob("node[0-9]*"), key=lambda path: int(path.name[4:])):
        cpus = tuple(cpu for cpu in parse_cpu_list(_read(folder / "cpulist")) if cpu in online)
        nodes.append(Node(int(folder.name[4:]), cpus))
    return tuple(nodes) or (Node(0, online),)


def _size(text: str) -> int:
    text = text.strip().upper()
    scale = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
    digits = text.rstrip("KMG")
    return int(digits) * scale if digits.isdigit() else 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

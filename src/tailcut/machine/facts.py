"""What /proc and /sys say about latency on this machine: read here, judged in `checks.py`.

The root is an argument, so that tests can use generated trees of other machines. A fact that cannot be read is None or
empty, never a guess.
"""

import os
import re
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailcut.machine.allocator import PRELOADED
from tailcut.machine.fingerprint import isa_flags
from tailcut.machine.interpreter import is_optimised
from tailcut.machine.perf import Missing
from tailcut.machine.quota import affinity_mask, cpu_quota, throttled
from tailcut.machine.topology import parse_cpu_list, topology

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
ISA_VARIABLES = (
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "NPY_DISABLE_CPU_FEATURES",
    "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES",
    "OPENBLAS_CORETYPE",
    "MKL_ENABLE_INSTRUCTIONS",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """The machine, and the part of it that this process may use."""

    online: tuple[int, ...]
    mask: tuple[int, ...]  # CPUs that this process may use
    usable: int  # how many threads to size a pool for
    siblings: tuple[tuple[int, ...], ...]  # CPUs of the mask that share a core
    mask_nodes: tuple[int, ...]  # NUMA nodes that the mask touches
    nodes: int
    quota_cpus: float | None
    throttled_times: int
    throttled_us: int
    governors: tuple[str, ...]
    turbo: bool | None
    numa_balancing: bool | None
    thp: str | None  # the word in brackets
    thp_defrag: str | None
    isolated: tuple[int, ...]
    swappiness: int | None
    swap_bytes: int
    swapped_bytes: int  # of this process
    allocator: str
    clock: str | None
    clocks: tuple[str, ...]
    hypervisor: bool
    isa: frozenset[str]
    environment: Mapping[str, str]
    optimised_python: bool | None  # None: unknown
    missing: tuple[Missing, ...]  # counters


@dataclass(frozen=True, slots=True)
class Ticks:
    """The kernel's running totals over the CPUs of the mask."""

    steal: int
    total: int
    interrupts: Mapping[str, Mapping[int, int]]  # of devices: by number and name, by CPU
    throttled_us: int


def collect(
    root: Path = Path("/"),
    *,
    environment: Mapping[str, str] = os.environ,
    mask: frozenset[int] | None = None,
    build: Mapping[str, Any] | None = None,
    missing: tuple[Missing, ...] = (),
) -> MachineFacts:
    """Read everything once; a few milliseconds."""
    proc, sys, system = root / "proc", root / "sys", root / "sys/devices/system"
    machine, allowed = topology(system), affinity_mask() if mask is None else mask
    limit = cpu_quota(sys / "fs/cgroup", proc / "self")
    times, micros = throttled(sys / "fs/cgroup", proc / "self")
    shared = [tuple(cpu for cpu in core.cpus if cpu in allowed) for core in machine.cores]
    return MachineFacts(
        online=machine.cpus,
        mask=tuple(sorted(allowed)),
        usable=max(1, min([len(allowed), len(machine.cpus), *([] if limit is None else [int(limit)])])),
        siblings=tuple(cpus for cpus in shared if len(cpus) > 1),
        mask_nodes=tuple(node.number for node in machine.nodes if allowed & set(node.cpus)),
        nodes=len([node for node in machine.nodes if node.cpus]),
        quota_cpus=limit,
        throttled_times=times,
        throttled_us=micros,
        governors=_governors(system, machine.cpus),
        turbo=_turbo(system),
        numa_balancing=_flag(proc / "sys/kernel/numa_balancing"),
        thp=_chosen(sys / "kernel/mm/transparent_hugepage/enabled"),
        thp_defrag=_chosen(sys / "kernel/mm/transparent_hugepage/defrag"),
        isolated=parse_cpu_list(_read(system / "cpu/isolated")),
        swappiness=_number(proc / "sys/vm/swappiness"),
        swap_bytes=_swap(proc),
        swapped_bytes=_status_kib(proc, "VmSwap") * 1024,
        allocator=_allocator(proc),
        clock=_read(system / "clocksource/clocksource0/current_clocksource").strip() or None,
        clocks=tuple(_read(system / "clocksource/clocksource0/available_clocksource").split()),
        hypervisor="hypervisor" in isa_flags(proc) or (sys / "hypervisor/type").exists(),
        isa=isa_flags(proc),
        environment={name: environment[name] for name in (*THREAD_VARIABLES, *ISA_VARIABLES) if environment.get(name)},
        optimised_python=is_optimised(sysconfig.get_config_vars() if build is None else build),
        missing=missing,
    )


def ticks(mask: tuple[int, ...], root: Path = Path("/")) -> Ticks:
    """Read the totals that are compared before and after a measurement."""
    steal = total = 0
    for line in _read(root / "proc/stat").splitlines():
        words = line.split()
        if len(words) > 8 and re.fullmatch(r"cpu\d+", words[0]) and int(words[0][3:]) in mask:
            steal += int(words[8])
            total += sum(map(int, words[1:9]))  # guest time is part of user time
    return Ticks(steal, total, _interrupts(root, mask), throttled(root / "sys/fs/cgroup", root / "proc/self")[1])


def _interrupts(root: Path, mask: tuple[int, ...]) -> dict[str, dict[int, int]]:
    """The numbered lines of /proc/interrupts: those of devices, which can be routed to other CPUs."""
    lines = _read(root / "proc/interrupts").splitlines()
    cpus = [int(word[3:]) for word in lines[0].split() if word[3:].isdigit()] if lines else []
    interrupts: dict[str, dict[int, int]] = {}
    for line in lines[1:]:
        number, _, rest = line.partition(":")
        words = rest.split()
        if number.strip().isdigit() and len(words) >= len(cpus):
            name = f"{number.strip()} {words[-1]}"
            counts = {cpu: int(word) for cpu, word in zip(cpus, words, strict=False) if word.isdigit()}
            interrupts[name] = {cpu: count for cpu, count in counts.items() if cpu in mask}
    return interrupts


def _governors(system: Path, cpus: tuple[int, ...]) -> tuple[str, ...]:
    words = {_read(system / f"cpu/cpu{cpu}/cpufreq/scaling_governor").strip() for cpu in cpus}
    return tuple(sorted(words - {""}))


def _turbo(system: Path) -> bool | None:
    off, boost = _number(system / "cpu/intel_pstate/no_turbo"), _number(system / "cpu/cpufreq/boost")
    if off is not None:
        return off == 0
    return None if boost is None else boost == 1


def _chosen(path: Path) -> str | None:
    match = re.search(r"\[(.+?)\]", _read(path))
    return match[1] if match else None


def _swap(proc: Path) -> int:
    sizes = [line.split()[2] for line in _read(proc / "swaps").splitlines()[1:] if len(line.split()) >= 3]
    return sum(int(size) * 1024 for size in sizes if size.isdigit())


def _status_kib(proc: Path, name: str) -> int:
    for line in _read(proc / "self/status").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


def _allocator(proc: Path) -> str:
    """The one that is loaded before the C library's own: it is mapped into this process."""
    maps = _read(proc / "self/maps")
    return next((name for name in PRELOADED if f"lib{name}" in maps), "glibc" if "libc.so" in maps else "unknown")


def _flag(path: Path) -> bool | None:
    value = _number(path)
    return None if value is None else value != 0


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

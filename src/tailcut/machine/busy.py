"""Who used the CPUs between two snapshots of /proc: processes, a virtual machine's host; and throttling by a quota.

    before = cpu_look()
    ...
    use = cpu_look().since(before)

CPUs are those of a mask, by default the calling thread's. Processes of other users count too, because anyone may read
/proc/PID/stat; those of other containers, and those that ended meanwhile, show only in the CPUs' own totals. The
root is an argument, so that tests can use generated trees.
"""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from tailcut.machine.quota import CGROUP_ROOT, affinity_mask, throttled
from tailcut.machine.topology import parse_cpu_list

PROC = Path("/proc")
_STARTED = 19  # of the words behind the name in /proc/PID/stat, as are 11 and 12: user and system time


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """A process and the CPUs that it used on average; `allowed` are those that its main thread may run on."""

    pid: int
    name: str
    cpus: float
    allowed: frozenset[int]


@dataclass(frozen=True, slots=True)
class CpuUse:
    """What was used between two snapshots."""

    seconds: float
    cpus: frozenset[int]  # the mask
    busy: float  # of these, in use on average
    stolen: float  # share of their time that the host of this virtual machine gave to others
    throttled_times: int  # how often a quota throttled this process's control group
    throttled_s: float
    processes: tuple[ProcessUse, ...]  # by use, the largest first; those under a hundredth of a CPU are left out


@dataclass(frozen=True, slots=True)
class CpuLook:
    """A snapshot: the totals since boot."""

    at_s: float
    mask: frozenset[int]
    busy_ticks: int
    stolen_ticks: int
    total_ticks: int
    throttled: tuple[int, int]  # times, microseconds
    processes: dict[tuple[int, str, int], int]  # ticks by pid, name and start
    proc: Path

    def since(self, earlier: "CpuLook") -> CpuUse:
        """What was used since an earlier snapshot."""
        seconds = max(self.at_s - earlier.at_s, 1e-9)
        tick_s = 1 / os.sysconf("SC_CLK_TCK")
        total = max(1, self.total_ticks - earlier.total_ticks)
        uses = [
            ProcessUse(pid, name, used, _allowed(self.proc, pid))
            for (pid, name, start), ticks in self.processes.items()
            if (used := (ticks - earlier.processes.get((pid, name, start), 0)) * tick_s / seconds) >= 0.01
        ]
        return CpuUse(
            seconds,
            self.mask,
            busy=len(self.mask) * (self.busy_ticks - earlier.busy_ticks) / total,
            stolen=(self.stolen_ticks - earlier.stolen_ticks) / total,
            throttled_times=self.throttled[0] - earlier.throttled[0],
            throttled_s=(self.throttled[1] - earlier.throttled[1]) / 1e6,
            processes=tuple(sorted(uses, key=lambda item: -item.cpus)),
        )


def cpu_look(
    mask: frozenset[int] | None = None, *, proc: Path = PROC, groups: Path = CGROUP_ROOT, at_s: float | None = None
) -> CpuLook | None:
    """Take a snapshot, which takes some milliseconds; None where there is no /proc/stat.

    Args:
        mask: the CPUs to look at.
        proc: the root of the process tree.
        groups: the root of the control groups.
        at_s: the time; now if None.
    """
    mask = affinity_mask() if mask is None else mask
    busy = stolen = total = 0
    for line in _read(proc / "stat").splitlines():
        words = line.split()
        if len(words) > 8 and re.fullmatch(r"cpu\d+", words[0]) and int(words[0][3:]) in mask:
            user, nice, system, idle, waiting, hard, soft, steal = map(int, words[1:9])
            used = user + nice + system + hard + soft
            busy, stolen, total = busy + used, stolen + steal, total + used + idle + waiting + steal
    if not total:
        return None
    now = time.monotonic() if at_s is None else at_s
    return CpuLook(now, mask, busy, stolen, total, throttled(groups, proc / "self"), _processes(proc), proc)


def _processes(proc: Path) -> dict[tuple[int, str, int], int]:
    result = {}
    for name in os.listdir(proc):  # noqa: PTH208  names, not paths: there may be thousands
        if name.isdigit():
            head, _, rest = _read(proc / name / "stat").rpartition(")")  # the name may hold spaces and brackets
            words = rest.split()
            if len(words) > _STARTED:
                key = int(name), head.partition("(")[2], int(words[_STARTED])
                result[key] = int(words[11]) + int(words[12])
    return result


def _allowed(proc: Path, pid: int) -> frozenset[int]:
    """The mask of a process; empty where it has ended or cannot be read."""
    for line in _read(proc / str(pid) / "status").splitlines():
        name, _, value = line.partition(":")
        if name == "Cpus_allowed_list":
            return frozenset(parse_cpu_list(value.strip()))
    return frozenset()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

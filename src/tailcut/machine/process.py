"""What another process cost between two snapshots of /proc: switches, faults, CPU time, waiting for a core.

    before = look(pid)
    ...
    cost = look(pid).since(before)

Faults are the process's total; the rest is counted per thread, because the kernel has no sum of it (status, schedstat
in proc(5) show one thread each): a thread that started and ended between two reads is not seen. The root is an
argument, so that tests can use generated trees.
"""

import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tailcut.errors import NotFoundError

PROC = Path("/proc")
_CONNECT_S = 1.0


@dataclass(frozen=True, slots=True)
class ThreadLook:
    """One thread's totals since it began."""

    voluntary: int
    involuntary: int
    cpu_ns: int | None  # None where the kernel keeps no scheduler statistics
    waited_ns: int | None  # ready to run, and no core for it


@dataclass(frozen=True, slots=True)
class ProcessCost:
    """What one or several processes cost between two snapshots."""

    context_switches: int
    involuntary_switches: int  # of these, those in which the kernel took the core away
    page_faults: int
    major_faults: int  # of these, those that waited for a disk
    cpu_ns: int
    waited_ns: int | None  # threads that were ready and had no core

    def values(self) -> dict[str, int | None]:
        """Each cost by name, fit for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class ProcessLook:
    """A process and its children at one moment."""

    minor_faults: dict[int, int]
    major_faults: dict[int, int]
    cpu_ticks_ns: dict[int, int]  # in steps of 10 ms; used where there are no scheduler statistics
    threads: dict[tuple[int, int], ThreadLook] = field(default_factory=dict)

    def since(self, earlier: "ProcessLook") -> ProcessCost:
        """The cost since an earlier snapshot; a thread or child that is new counts from its start."""
        none = ThreadLook(0, 0, 0, 0)
        pairs = [(now, earlier.threads.get(key, none)) for key, now in self.threads.items()]
        voluntary = sum(now.voluntary - then.voluntary for now, then in pairs)
        involuntary = sum(now.involuntary - then.involuntary for now, then in pairs)
        minor = _grown(earlier.minor_faults, self.minor_faults)
        major = _grown(earlier.major_faults, self.major_faults)
        cpu, waited = (_sum_known(pairs, name) for name in ("cpu_ns", "waited_ns"))
        return ProcessCost(
            context_switches=voluntary + involuntary,
            involuntary_switches=involuntary,
            page_faults=minor + major,
            major_faults=major,
            cpu_ns=_grown(earlier.cpu_ticks_ns, self.cpu_ticks_ns) if cpu is None else cpu,
            waited_ns=waited,
        )


def look(pid: int, *, children: bool = True, proc: Path = PROC) -> ProcessLook:
    """Take a snapshot of a running process and of all its descendants.

    Raises:
        NotFoundError: there is no such process, or this system has no /proc.
    """
    seen = ProcessLook({}, {}, {})
    if not _add(seen, pid, proc):
        raise NotFoundError(f"there is no process {pid} in {proc}")
    if children:
        for child in descendants(pid, proc):
            _add(seen, child, proc)
    return seen


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """The memory and CPU time of a process, from /proc/PID/stat."""

    cpu_ns: int  # since it began, in steps of 10 ms
    memory_bytes: int  # resident


def usage(pid: int, proc: Path = PROC) -> ProcessUsage | None:
    """Read a process's CPU time and memory (stat in proc(5)); None where there is no such process or no /proc."""
    try:
        descriptor = os.open(f"{proc}/{pid}/stat", os.O_RDONLY)  # a third of the time that a Path takes
    except OSError:
        return None
    try:
        words = os.read(descriptor, 4096).rpartition(b")")[2].split()  # as below
    finally:
        os.close(descriptor)
    if len(words) < 22:
        return None
    ticks = int(words[11]) + int(words[12])
    return ProcessUsage(
        ticks * (1_000_000_000 // os.sysconf("SC_CLK_TCK")), int(words[21]) * os.sysconf("SC_PAGE_SIZE")
    )


def peak_bytes(pid: int, proc: Path = PROC) -> int | None:
    """The sum of the peak resident memory (VmHWM) of a process and its descendants, in bytes; None if unknown."""
    peaks = []
    for process in (pid, *descendants(pid, proc)):
        lines = [line.split() for line in _read(proc / str(process) / "status").splitlines()]
        peaks += [int(words[1]) * 1024 for words in lines if words[:1] == ["VmHWM:"] and len(words) > 1]
    return sum(peaks) or None


def descendants(pid: int, proc: Path = PROC) -> tuple[int, ...]:
    """All descendants, from /proc/PID/task/TID/children; none if the kernel lacks it (CONFIG_PROC_CHILDREN)."""
    pids: list[int] = []
    waiting = [pid]
    while waiting:
        for task in _entries(proc / str(waiting.pop()) / "task"):
            children = [int(word) for word in _read(task / "children").split() if word.isdigit()]
            fresh = [child for child in children if child not in pids]
            pids += fresh
            waiting += fresh
    return tuple(pids)


def listening_process(port: int, proc: Path = PROC) -> int | None:
    """The pid of the process on this machine that listens on a TCP port; of a parent and its workers, the parent.

    None if no process listens there, or one of another user does, whose open files may not be read.
    """
    inodes = {f"socket:[{inode}]" for name in ("tcp", "tcp6") for inode in _listeners(proc / "net" / name, port)}
    holders = {int(folder.name) for folder in _entries(proc) if folder.name.isdigit() and _holds(folder, inodes)}
    workers = {child for holder in holders for child in descendants(holder, proc)}
    return min(holders - workers, default=None) if inodes else None


def socket_process(path: str) -> int | None:
    """The pid of the process that listens on a Unix socket (unix(7), SO_PEERCRED); None if that is unknown."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_CONNECT_S)
        try:
            connection.connect(path)
            pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except OSError:
            return None
    return pid if pid not in {0, os.getpid()} else None


def _listeners(table: Path, port: int) -> list[str]:
    """Inodes of listening sockets in a table of proc_net_tcp: `sl local_address rem_address st ... inode`."""
    rows = [line.split() for line in _read(table).splitlines()[1:]]
    return [row[9] for row in rows if len(row) > 9 and row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port]


def _holds(folder: Path, inodes: set[str]) -> bool:
    for file in _entries(folder / "fd"):
        try:
            if str(file.readlink()) in inodes:
                return True
        except OSError:  # closed meanwhile, or not ours
            continue
    return False


def _add(seen: ProcessLook, pid: int, proc: Path) -> bool:
    """Add a process to a snapshot; False if it does not exist, or ended while it was read."""
    folder = proc / str(pid)
    words = _read(folder / "stat").rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    if len(words) < 13:
        return False
    seen.minor_faults[pid], seen.major_faults[pid] = int(words[7]), int(words[9])
    seen.cpu_ticks_ns[pid] = (int(words[11]) + int(words[12])) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))
    for task in _entries(folder / "task"):
        switches = dict(line.split(":", 1) for line in _read(task / "status").splitlines() if "ctxt_switches" in line)
        spent = [int(word) for word in _read(task / "schedstat").split() if word.isdigit()]
        if len(switches) == 2 and task.name.isdigit():
            seen.threads[pid, int(task.name)] = ThreadLook(
                int(switches["voluntary_ctxt_switches"]),
                int(switches["nonvoluntary_ctxt_switches"]),
                *(spent[:2] if len(spent) == 3 else (None, None)),
            )
    return True


def _grown(earlier: dict[int, int], later: dict[int, int]) -> int:
    return sum(value - earlier.get(key, 0) for key, value in later.items())


def _sum_known(pairs: Iterable[tuple[ThreadLook, ThreadLook]], name: str) -> int | None:
    total = 0
    for now, then in pairs:
        value: int | None = getattr(now, name)
        if value is None:
            return None
        total += value - (getattr(then, name) or 0)
    return total


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # it ended meanwhile
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

"""perf_event_open(2) and nothing else: open events, read them, and explain why one is not available.

Linux only, through ctypes; the structure is the first published version of perf_event_attr (64 bytes), which every
kernel since 2.6.32 accepts. Events are opened in groups, which one read(2) returns together. A value includes how long
its event was enabled and how long it ran, because a processor with fewer counters than events multiplexes them.
"""

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
_SYSCALL = {"x86_64": 298, "aarch64": 241}
_ATTR = struct.Struct("=IIQQQQQIIQ")  # type, size, config, period, sample and read format, flags, wakeup, bp, config1
_TIMES, _GROUP = 0b11, 0b1000  # of read_format: time enabled and running; all of the group at once
_DISABLED, _INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HV, _ON_EXEC = 1 << 0, 1 << 1, 1 << 5, 1 << 6, 1 << 12
_FD_CLOEXEC = 8
HARDWARE, SOFTWARE, CACHE = 0, 1, 3  # linux/perf_event.h


@dataclass(frozen=True, slots=True)
class CounterEvent:
    """One thing that the kernel or the processor counts."""

    name: str
    kind: int
    config: int
    in_kernel: bool = False  # happens only in the kernel: leaving that out would count nothing


@dataclass(frozen=True, slots=True)
class Missing:
    """A counter that is not available on this machine: why, and what would change that."""

    name: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class CounterReading:
    """An event's value so far, and the nanoseconds it was enabled and really ran."""

    value: int
    enabled_ns: int
    running_ns: int

    def since(self, earlier: "CounterReading") -> int | None:
        """The count since an earlier reading, scaled up if the event was multiplexed; None if it never ran."""
        value, running = self.value - earlier.value, self.running_ns - earlier.running_ns
        enabled = self.enabled_ns - earlier.enabled_ns
        if running <= 0:
            return None if enabled > 0 else value
        return value if running >= enabled else round(value * enabled / running)


class CounterGroup:
    """Events that are scheduled and read together, of the calling thread; the first that opens leads."""

    def __init__(self, events: Iterable[CounterEvent], *, command: bool = False) -> None:
        """Open the events that this machine has; `missing` lists the others.

        With `command`, nothing is counted here: the events begin in the next program that a child of this thread
        executes, and go on in all of its threads and children. The kernel does not group such events, so that each is
        read on its own.
        """
        self.missing: list[Missing] = []
        self.user_only = False  # the kernel's share is left out, because counting it is not permitted
        self._files: dict[str, int] = {}
        self._alone = command
        for event in events:
            leader = -1 if command else next(iter(self._files.values()), -1)
            opened = _open(event, leader, kernel=True, command=command)
            if opened in (-errno.EACCES, -errno.EPERM) and not event.in_kernel:
                opened = _open(event, leader, kernel=False, command=command)
                self.user_only = self.user_only or opened >= 0
            if opened >= 0:
                self._files[event.name] = opened
            else:
                self.missing.append(why_missing(event, -opened))
        numbers = tuple(self._files.values())
        self._leaders = numbers if command else numbers[:1]
        self._size = 24 if command else 24 + 8 * len(numbers)

    def read(self) -> bytes:
        """The values so far as raw bytes, which is cheap; `decode` parses them later."""
        return b"".join([os.read(number, self._size) for number in self._leaders])

    def decode(self, raw: bytes) -> dict[str, CounterReading]:
        """Parse what `read` returned: the readings by event name."""
        if self._alone:
            values = struct.iter_unpack("=QQQ", raw)
            return {name: CounterReading(*value) for name, value in zip(self._files, values, strict=True)}
        if not raw:
            return {}
        _, enabled, running, *counts = struct.unpack(f"={len(raw) // 8}Q", raw)
        return {name: CounterReading(count, enabled, running) for name, count in zip(self._files, counts, strict=True)}

    def close(self) -> None:
        """Close the file descriptors; a second call does nothing."""
        self._leaders = ()
        while self._files:
            os.close(self._files.popitem()[1])

    __del__ = close


def _open(event: CounterEvent, leader: int, *, kernel: bool, command: bool) -> int:
    """A file descriptor, or the negative errno."""
    number = _SYSCALL.get(os.uname().machine)
    if not sys.platform.startswith("linux") or number is None:
        return -errno.ENOSYS
    flags = 0 if kernel else _EXCLUDE_KERNEL | _EXCLUDE_HV
    if command:
        flags |= _DISABLED | _INHERIT | _ON_EXEC
    read_format = _TIMES if command else _TIMES | _GROUP
    attr = _ATTR.pack(event.kind, _ATTR.size, event.config, 0, 0, read_format, flags, 0, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    opened = int(libc.syscall(number, ctypes.c_char_p(attr), 0, -1, leader, ctypes.c_ulong(_FD_CLOEXEC)))
    return opened if opened >= 0 else -ctypes.get_errno()


def why_missing(event: CounterEvent, error: int) -> Missing:
    """Why an event cannot be opened, from the errno of the call."""
    if not sys.platform.startswith("linux"):
        reason, remedy = f"{sys.platform} has no perf_event_open", "run on Linux"
    elif error in (errno.EACCES, errno.EPERM):
        reason, remedy = why_forbidden(event, paranoid())
    elif error == errno.ENOSYS:
        reason = "there is no perf_event_open (a kernel without perf events, or a sandbox such as gVisor)"
        remedy = "run on a kernel with CONFIG_PERF_EVENTS, outside the sandbox"
    elif error in (errno.EMFILE, errno.ENFILE):
        reason, remedy = "no file descriptor is left for it", "raise the limit: ulimit -n 4096"
    elif event.kind != SOFTWARE and not has_hardware_counters():
        reason = "this machine exposes no hardware counters (a virtual machine without a virtual PMU)"
        remedy = "run on bare metal, or let the PMU through (QEMU: -cpu host,pmu=on)"
    else:
        reason, remedy = (
            f"this processor does not count it ({os.strerror(error)})",
            "none: only another processor can help",
        )
    return Missing(event.name, reason, remedy)


def why_forbidden(event: CounterEvent, level: int) -> tuple[str, str]:
    """Reason and remedy, from kernel.perf_event_paranoid: Debian's 3 forbids all, 2 what happens inside the kernel."""
    if level > 2 or (level == 2 and event.in_kernel):
        what = (
            "unprivileged users may not use counters"
            if level > 2
            else "users may not count what happens inside the kernel"
        )
        return f"kernel.perf_event_paranoid is {level}: {what}", "sudo sysctl kernel.perf_event_paranoid=1"
    return (
        "perf_event_open is forbidden (by a container's seccomp filter)",
        "allow the call: docker run --security-opt seccomp=PROFILE.json with perf_event_open in it",
    )


def paranoid() -> int:
    """kernel.perf_event_paranoid; the kernel's own default where it cannot be read."""
    try:
        return int(PARANOID.read_text())
    except (OSError, ValueError):
        return 2


def has_hardware_counters(devices: Path = Path("/sys/bus/event_source/devices")) -> bool:
    """Whether the counters of any processor are registered: `cpu`, or `cpu_core`, `armv8_pmuv3_0` and the like."""
    names = [path.name for path in devices.iterdir()] if devices.is_dir() else []
    return any(name.startswith(("cpu", "arm")) for name in names)

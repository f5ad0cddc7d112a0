"""What a block of code cost, as counted by the processor and the kernel: cycles, misses, switches, faults, CPU time.

    with counters() as c:
        work()
    print(c.instructions, c.ipc, c.context_switches)

The events of a thread are opened at its first block and keep running, so that entering and leaving takes a few reads:
blocks may be nested, and cost the same each time. They count the calling thread alone; other threads count their own.
If the machine has no such counter, or forbids it, the value is None and `missing` gives the reason; switches, faults
and CPU time come from getrusage(2) and the thread's CPU clock, which are always permitted.
"""

import os
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, NamedTuple, Self

from tailcut.errors import InvalidInputError
from tailcut.machine.perf import CACHE, HARDWARE, SOFTWARE, CounterEvent, CounterGroup, Missing

_MISS = 1 << 16  # of a cache event: result miss, operation read
_MIGRATIONS = CounterEvent("migrations", SOFTWARE, 4, in_kernel=True)
# Small groups: most processors have four to six counters, and a group that does not fit never runs.
_CORE = (
    CounterEvent("cycles", HARDWARE, 0),
    CounterEvent("instructions", HARDWARE, 1),
    CounterEvent("branches", HARDWARE, 4),
    CounterEvent("branch_misses", HARDWARE, 5),
)
_CACHE = (CounterEvent("cache_references", HARDWARE, 2), CounterEvent("cache_misses", HARDWARE, 3))
_MEMORY = (CounterEvent("l1d_misses", CACHE, 0 | _MISS), CounterEvent("dtlb_misses", CACHE, 3 | _MISS))
_GROUPS = ((_MIGRATIONS,), _MEMORY, _CACHE, _CORE)  # the last is read closest to the code
_OF_A_COMMAND = (
    CounterEvent("cpu_ns", SOFTWARE, 1),
    CounterEvent("context_switches", SOFTWARE, 3, in_kernel=True),
    CounterEvent("page_faults", SOFTWARE, 2),
    CounterEvent("major_faults", SOFTWARE, 6),
    *(event for group in _GROUPS for event in group),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterValues:
    """What was counted; None for what this machine does not count, with the reason in `missing`."""

    wall_ns: int
    cpu_ns: int | None = None
    context_switches: int | None = None
    involuntary_switches: int | None = None  # of these, those in which the kernel took the core away
    migrations: int | None = None
    page_faults: int | None = None
    major_faults: int | None = None  # of these, those that waited for a disk
    cycles: int | None = None
    instructions: int | None = None
    branches: int | None = None
    branch_misses: int | None = None
    cache_references: int | None = None  # of the last-level cache, as are cache_misses
    cache_misses: int | None = None
    l1d_misses: int | None = None
    dtlb_misses: int | None = None
    user_only: bool = False  # hardware counts leave the kernel's share out, because counting it is not permitted
    missing: tuple[Missing, ...] = ()

    @property
    def ipc(self) -> float | None:
        """Instructions per cycle."""
        return self.instructions / self.cycles if self.instructions is not None and self.cycles else None

    def values(self) -> dict[str, int | float | None]:
        """Every count by name, and `ipc`: fit for JSON."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        del named["missing"], named["user_only"]
        return named | {"ipc": self.ipc}


_NAMES = frozenset({*(field.name for field in fields(CounterValues)), "ipc", "values"})


class CountedRegion:
    """A block of code to count; it may be entered again, and then holds the counts of the last time.

    After its block it has every field of `CounterValues`, and all of them as `counts`.
    """

    __slots__ = ("_after", "_before", "_groups", "_thread")

    def __init__(self) -> None:
        self._before: _Moment | None = None
        self._after: _Moment | None = None
        self._groups: tuple[CounterGroup, ...] = ()
        self._thread = 0

    def __enter__(self) -> Self:
        self._thread, self._after = threading.get_ident(), None
        self._groups = _opened()
        self._before = _entering(self._groups)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread != threading.get_ident():
            raise InvalidInputError("a region must be exited by the thread that entered it")
        self._after = _leaving(self._groups)

    @property
    def counts(self) -> CounterValues:
        """What the block cost; computed on access, so that leaving the block stays cheap.

        Raises:
            InvalidInputError: the block has not ended yet.
        """
        if self._before is None or self._after is None:
            raise InvalidInputError("the region has not ended: read its counts after the with block")
        return _difference(self._before, self._after, self._groups)

    def __getattr__(self, name: str) -> Any:
        """Every field of `counts`, under its name."""
        if name not in _NAMES:
            raise AttributeError(f"a region has no count {name!r}, it has {', '.join(sorted(_NAMES))}")
        return getattr(self.counts, name)


def counters() -> CountedRegion:
    """A `with` block whose cost in the calling thread is counted; see `CounterValues` for the names."""
    return CountedRegion()


def command_group() -> CounterGroup:
    """Counters that start with the next program that a child of this thread executes; see `CounterGroup`."""
    return CounterGroup(_OF_A_COMMAND, command=True)


def counts_missing() -> tuple[Missing, ...]:
    """What cannot be counted here, each with its reason and remedy."""
    return tuple(missing for group in _opened() for missing in group.missing)


class _Moment(NamedTuple):  # a dataclass takes a microsecond longer to make, twice a region
    """Every counter of this thread at one moment."""

    wall_ns: int
    cpu_ns: int
    usage: Any  # of getrusage(2), per thread where the system has that
    raw: list[bytes]  # of each group


_WHOSE: int | None = getattr(resource, "RUSAGE_THREAD", None)  # not on macOS


def _entering(groups: tuple[CounterGroup, ...]) -> _Moment:
    """Read the processor's counters last and the clock after them, so that the reading itself counts least."""
    usage = None if _WHOSE is None else resource.getrusage(_WHOSE)
    raw = [group.read() for group in groups]
    cpu_ns = time.thread_time_ns()
    return _Moment(time.perf_counter_ns(), cpu_ns, usage, raw)


def _leaving(groups: tuple[CounterGroup, ...]) -> _Moment:
    """Read in the reverse order of `_entering`."""
    wall_ns, cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
    raw = [group.read() for group in reversed(groups)][::-1]
    return _Moment(wall_ns, cpu_ns, None if _WHOSE is None else resource.getrusage(_WHOSE), raw)


def _difference(before: _Moment, after: _Moment, groups: tuple[CounterGroup, ...]) -> CounterValues:
    counts: dict[str, int | None] = {}
    for group, earlier, later in zip(groups, before.raw, after.raw, strict=True):
        began, ended = group.decode(earlier), group.decode(later)
        counts |= {name: reading.since(began[name]) for name, reading in ended.items()}
    missing = [counter for group in groups for counter in group.missing]
    missing += [no_turn(name) for name, value in counts.items() if value is None]
    if before.usage is None:
        missing += [Missing(name, "this system counts it for processes only", "run on Linux") for name in _OF_USAGE]
    else:
        counts |= {name: int(count(after.usage) - count(before.usage)) for name, count in _OF_USAGE.items()}
    return CounterValues(
        wall_ns=after.wall_ns - before.wall_ns,
        cpu_ns=after.cpu_ns - before.cpu_ns,
        user_only=any(group.user_only for group in groups),
        missing=tuple(missing),
        **counts,
    )


_OF_USAGE: dict[str, Callable[[Any], int]] = {
    "context_switches": lambda usage: usage.ru_nvcsw + usage.ru_nivcsw,
    "involuntary_switches": lambda usage: usage.ru_nivcsw,
    "page_faults": lambda usage: usage.ru_minflt + usage.ru_majflt,
    "major_faults": lambda usage: usage.ru_majflt,
}


def no_turn(name: str) -> Missing:
    """Of an event that shared the processor's few counters with others and never got a turn."""
    return Missing(name, "the processor's counters were in use by others", "count longer, or stop other profilers")


class _Opened(threading.local):
    """A thread's events; they are closed with the thread, and opened anew in a forked child."""

    groups: tuple[CounterGroup, ...] = ()
    process = 0


_opened_here = _Opened()


def _opened() -> tuple[CounterGroup, ...]:
    if _opened_here.process != os.getpid():
        _opened_here.groups = tuple(CounterGroup(events) for events in _GROUPS)
        _opened_here.process = os.getpid()
    return _opened_here.groups

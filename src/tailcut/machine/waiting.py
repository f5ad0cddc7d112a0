"""How long this process's threads were ready to run and had no CPU (Linux; unknown elsewhere).

/proc/self/task/TID/schedstat: time on a CPU, time waiting for one, slices (kernel documentation,
scheduler/sched-stats.rst). Files stay open and are read in place, 2 us per thread.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")
_MOST_THREADS = 32  # that are watched, with a file each


def runnable_s() -> float:
    """Seconds that this thread ran or waited for a CPU; without the waiting where the kernel does not count it.

    A thread for which this grows as fast as the clock is at its limit, even if others leave it less than a core.
    """
    try:
        ran, waited, _ = Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return time.thread_time()
    return (int(ran) + int(waited)) / 1e9


def watched_threads() -> int:
    """How many of this process's threads `CpuWaiting` would watch now, with a file each."""
    with suppress(OSError):
        return min(_MOST_THREADS, len(os.listdir(_TASKS)))  # noqa: PTH208  names, not paths
    return 0


class CpuWaiting:
    """Reads the waiting times of the threads known at the last `refresh`."""

    def __init__(self, tasks: Path = _TASKS, main: int | None = None) -> None:
        self._tasks = tasks
        self._main = str(os.getpid() if main is None else main)  # the main thread's id is the pid
        self._files: dict[str, int] = {}
        self._waited: dict[str, int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Add threads that started, and drop those that ended."""
        with suppress(OSError):
            names = sorted(os.listdir(self._tasks), key=int)[:_MOST_THREADS]  # noqa: PTH208  names, not paths
            for gone in self._files.keys() - set(names):
                os.close(self._files.pop(gone))
                self._waited.pop(gone, None)
            for name in names:
                if name not in self._files:
                    self._files[name] = os.open(self._tasks / name / "schedstat", os.O_RDONLY | os.O_CLOEXEC)
                    self._waited[name] = self._read(name)

    def longest_ns(self) -> tuple[int, int]:
        """Nanoseconds that the main thread has waited since the last call, and the most that any other thread has.

        Both are 0 where the kernel does not tell.
        """
        main = other = 0
        for name in self._files:
            waited = self._read(name)
            since, self._waited[name] = waited - self._waited[name], waited
            if name == self._main:
                main = since
            else:
                other = max(other, since)
        return main, other

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def _read(self, name: str) -> int:
        try:
            return int(os.pread(self._files[name], 96, 0).split()[1])
        except (OSError, IndexError, ValueError):
            return self._waited.get(name, 0)

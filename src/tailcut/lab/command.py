"""Runs a program with performance counters, including its threads and children, for `tailcut stat`."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tailcut.errors import UsageError
from tailcut.machine.counters import CounterValues, command_group, no_turn
from tailcut.machine.perf import CounterGroup, CounterReading


@dataclass(frozen=True, slots=True)
class CommandCounts:
    """The counts of a program, and its exit code: the negative number of a signal where one ended it."""

    counts: CounterValues
    exit_code: int
    user_ns: int
    system_ns: int


def run_counted(command: Sequence[str], *, quiet: bool = False) -> CommandCounts:
    """Run a program to its end, on this process's stdin, stdout and stderr; with `quiet`, its stdout goes to stderr.

    Counters begin with the program itself, not with the fork before it. Children are counted until the program ends;
    the values of getrusage (involuntary switches, user and system time) include only children that were waited for.

    Raises:
        UsageError: there is no such program, or it may not be executed.
    """
    group = command_group()
    began = time.perf_counter_ns()
    try:
        child = subprocess.Popen(list(command), stdout=2 if quiet else None)  # noqa: S603  the user's own command
    except OSError as error:
        group.close()
        raise UsageError(f"{command[0]}: {_reason(error)}") from None
    with _interrupts_left_to_the_child():
        _, status, usage = os.wait4(child.pid, 0)
    wall_ns = time.perf_counter_ns() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    counts = _counts(group, usage, wall_ns)
    group.close()
    return CommandCounts(
        counts=counts,
        exit_code=child.returncode,
        user_ns=round(usage.ru_utime * 1e9),
        system_ns=round(usage.ru_stime * 1e9),
    )


def _counts(group: CounterGroup, usage: Any, wall_ns: int) -> CounterValues:
    """The values of the events; for missing ones, those of getrusage where it has them."""
    nothing = CounterReading(0, 0, 0)
    counted = {name: reading.since(nothing) for name, reading in group.decode(group.read()).items()}
    missing = [no_turn(name) for name, value in counted.items() if value is None]
    known = {
        "cpu_ns": round((usage.ru_utime + usage.ru_stime) * 1e9),
        "context_switches": usage.ru_nvcsw + usage.ru_nivcsw,
        "page_faults": usage.ru_minflt + usage.ru_majflt,
        "major_faults": usage.ru_majflt,
    }
    for name, value in known.items():
        if name not in counted or (group.user_only and name == "page_faults"):
            counted[name] = value
    missing += [counter for counter in group.missing if counted.get(counter.name) is None]
    return CounterValues(
        wall_ns=wall_ns,
        involuntary_switches=usage.ru_nivcsw,
        user_only=group.user_only,
        missing=tuple(missing),
        **counted,
    )


@contextmanager
def _interrupts_left_to_the_child() -> Iterator[None]:
    """Ignore Ctrl-C, which reaches the program through the terminal, so that its counts are still shown."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread: it gets no signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such program: check its name and PATH"
    return error.strerror or str(error)

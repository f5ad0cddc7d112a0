"""Bounds for a child process: a real seccomp filter that refuses one system call, a real control group with a quota."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}.get(os.uname().machine)
FILTER = """
import ctypes, struct, sys
call, error = int(sys.argv.pop(1)), int(sys.argv.pop(1))
load, equal, give = 0x20, 0x15, 0x06  # classic BPF: load a word, jump if equal, return
rules = [(load, 0, 0, 0), (equal, 0, 1, call), (give, 0, 0, 0x00050000 | error), (give, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *rule) for rule in rules))
program = ctypes.create_string_buffer(struct.pack("@HP", len(rules), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
"""


def run_refused(error: int, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program to which the kernel refuses perf_event_open."""
    command = [sys.executable, "-c", FILTER + program, str(PERF_EVENT_OPEN), str(error), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def control_group(quota_us: int) -> Iterator[Path]:
    """A control group of version 1 with this quota in 100 ms; skips the test where this user may make none."""
    group = Path("/sys/fs/cgroup/cpu") / f"tailcut-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "cpu.cfs_quota_us").write_text(str(quota_us))
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"no control group of version 1 can be made here: {error.strerror}")
    yield group
    group.rmdir()

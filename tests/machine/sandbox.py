"""A real seccomp filter for a child process: one system call is refused with an error of the test's choice."""

import os
import subprocess
import sys

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

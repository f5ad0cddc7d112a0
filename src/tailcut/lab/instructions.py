"""The number of instructions of a call, counted by valgrind's callgrind: equal on a busy and on a quiet machine.

The count ignores caches, branch prediction and clocks: it shows whether there is more work, not whether it is slower.
Only the calling thread is counted. Valgrind's processor has no AVX-512, so numpy, numba and the engines run their code
for AVX2. Everything runs about fifty times slower than usual, so keep `loops` small.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tailcut.errors import MissingFileError, UnsupportedError, UsageError

REMEDY = "valgrind is not installed: install it (on Debian, apt install valgrind) to count instructions"
_TIMEOUT_S = 300.0


def count_instructions(target: str, setup: str = "", *, loops: int = 100, timeout_s: float = _TIMEOUT_S) -> float:
    """The mean number of instructions of one call of `target`, over `loops` calls, after a warm-up.

    Args:
        target: `module:function` or `module:Class.method`, importable from this process's `sys.path`.
        setup: `module:function` that is called once, and returns the positional arguments as a tuple; "": no arguments.
        loops: the number of calls to count; the child makes four times as many, and 64 before.
        timeout_s: seconds for the whole child.

    The child counts `loops` calls and then twice as many; the difference divided by `loops` is the result, so that
    start-up, warm-up and the marks around the region cancel out. It is exactly reproducible if `target` is
    deterministic: hashes are seeded, the garbage collector is off, and addresses are not random. The call and the loop
    around it are included (about 100 instructions in CPython).

    Raises:
        UnsupportedError: valgrind is not installed, or this is not Linux on x86_64.
        UsageError: `target` or `setup` cannot be found, or raised an error, whose last line is in the message.
    """
    if loops < 1:
        raise UsageError("loops must be at least 1")
    if platform.machine() != "x86_64":  # lab/counted.py has marks for this processor only
        raise UnsupportedError(f"instructions of a call are counted on x86_64 only, and this is {platform.machine()}")
    with tempfile.TemporaryDirectory(prefix="tailcut-") as folder:
        out = Path(folder) / "out"
        child = [sys.executable, "-m", "tailcut.lab.counted", target, setup, str(loops)]
        _callgrind(["--instr-atstart=no", f"--callgrind-out-file={out}"], child, timeout_s)
        once, twice = (_totals(out.with_suffix(f".{number}")) for number in (2, 3))
    return (twice - once) / loops


def count_command(command: Sequence[str], *, timeout_s: float = _TIMEOUT_S) -> int:
    """The number of instructions of a whole program, including its start, but not its children.

    Raises:
        UnsupportedError: valgrind is not installed.
        UsageError: the program does not exist, failed, or did not end in time.
    """
    if not command or shutil.which(command[0]) is None:
        raise MissingFileError(f"{command[0] if command else 'nothing'}: no such program")
    with tempfile.TemporaryDirectory(prefix="tailcut-") as folder:
        out = Path(folder) / "out"
        _callgrind([f"--callgrind-out-file={out}"], list(command), timeout_s)
        return _totals(out)


def _callgrind(options: list[str], command: list[str], timeout_s: float) -> None:
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise UnsupportedError(REMEDY)
    fixed = {
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",  # valgrind runs one thread at a time, and only the caller's is counted
    }
    try:
        done = subprocess.run(  # noqa: S603  the user's own program, as an argument list
            [valgrind, "--tool=callgrind", *options, *command],
            env=os.environ | fixed,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"{command[0]} did not finish within {timeout_s:g} s under callgrind: count fewer calls"
        ) from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("==")]
        last = lines[-1].strip() if lines else f"exit code {done.returncode}"
        raise UsageError(f"{command[-3] if 'tailcut.lab.counted' in command else command[0]} failed: {last}")


def _totals(path: Path) -> int:
    """The sum in callgrind's output: `totals: 1315986`."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        raise UsageError("callgrind wrote no counts: valgrind 3.11 or newer is needed") from None
    return next(int(line.split()[1]) for line in reversed(lines) if line.startswith("totals:"))

"""Starts `tailcut serve` on CPUs of its own, to end with its replica. Run as `python -m`.

Ray counts CPUs but binds nothing to them. The servers of several replicas on one node would each use all of its CPUs,
and pin their threads to the same cores. So each server claims as many CPUs as Ray counted for its replica by locking
one file per CPU. The kernel releases the locks when the last process that has the files open ends, however it ends.
"""

import ctypes
import fcntl
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def command(parent: int, cpus: int, arguments: Sequence[str]) -> list[str]:
    """The command of a server.

    Args:
        parent: process id of the replica; the server ends when it ends.
        cpus: how many CPUs to claim; 0: none.
        arguments: of `tailcut serve`.
    """
    return [sys.executable, "-m", __name__, str(parent), str(cpus), *arguments]


def claim(count: int, allowed: Sequence[int], folder: Path) -> list[int]:
    """Claim CPUs that no other server has claimed; empty if too few are free.

    The descriptors with the locks stay open, even after this process executes another program.

    Args:
        count: number of CPUs.
        allowed: the CPUs that this process may run on.
        folder: folder of the lock files, the same for all servers of a machine.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    taken: dict[int, int] = {}
    for cpu in allowed:
        if len(taken) == count:
            break
        descriptor = os.open(folder / f"cpu{cpu}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            taken[cpu] = descriptor
    enough = len(taken) == count
    for descriptor in taken.values():
        if enough:
            os.set_inheritable(descriptor, True)
        else:
            os.close(descriptor)
    return list(taken) if enough else []


def main() -> None:
    """Bind this process to its CPUs, and execute the server."""
    parent, cpus, arguments = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if cpus:
            folder = Path(tempfile.gettempdir()) / f"tailcut-cpus-{os.getuid()}"
            mine = claim(cpus, sorted(os.sched_getaffinity(0)), folder)
            if mine:
                os.sched_setaffinity(0, mine)
    if os.getppid() != parent:  # the replica ended before prctl was called
        sys.exit(1)
    os.execv(sys.executable, [sys.executable, "-m", "tailcut", "serve", *arguments])  # noqa: S606  our own command


if __name__ == "__main__":
    main()

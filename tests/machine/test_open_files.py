"""The limit of open files is raised as far as a process may, and those that are open are counted."""

import resource
import subprocess
import sys
from pathlib import Path

from tailcut.machine.open_files import open_files

CODE = "from tailcut.machine.open_files import raise_open_files as up; print(up()); import resource as r; "
CODE += "print(*r.getrlimit(r.RLIMIT_NOFILE))"


def test_it_is_raised_to_the_hard_limit() -> None:
    """Of the process alone that asks for it."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    command = f"ulimit -Sn 100 && ulimit -Hn 700 && exec {sys.executable} -c '{CODE}'"
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["700", "700", "700"]
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_those_that_are_open_are_counted() -> None:
    """One more for each that is opened."""
    before = open_files()
    with Path("/dev/null").open("rb"), Path("/dev/null").open("rb"):
        assert open_files() == before + 2
    assert open_files() == before > 0

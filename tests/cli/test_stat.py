"""`tailcut stat` on real programs: what it counts is theirs, with threads and children, and never more than that."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.test_main import SCRIPT, tailcut
from tests.machine.sandbox import PERF_EVENT_OPEN, run_refused
from tests.processes import killed_at_end
from tests.schemas import validated

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counters are Linux's")
TOUCH = """import mmap
memory = mmap.mmap(-1, 600 * 4096)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for page in range(600):
    memory[page * 4096] = 1
"""


def stat(*command: str) -> dict:
    done = tailcut("stat", "--json", "--", *command)
    assert done.returncode == 0, done.stderr
    return validated("stat", done.stdout)


def test_a_command_and_its_exit_code() -> None:
    """The command's exit code is shown; Tailcut's own is 0, because it ran. Its output does not mix with the JSON."""
    done = tailcut("stat", "--json", "--", "sh", "-c", "echo of the command; exit 3")
    assert done.returncode == 0
    assert done.stderr == "of the command\n"
    result = validated("stat", done.stdout)
    assert result["exit_code"] == 3
    assert result["command"] == ["sh", "-c", "echo of the command; exit 3"]
    assert result["counts"]["wall_ns"] > 0
    assert {name for name, value in result["counts"].items() if value is None} - {"ipc"} == set(result["missing"])


def test_a_command_that_a_signal_ends() -> None:
    """A program that dies by a signal has minus its number as exit code."""
    assert stat("sh", "-c", "kill -KILL $$")["exit_code"] == -signal.SIGKILL


@pytest.mark.slow
def test_children_and_threads_count() -> None:
    """Page faults of a child and of a thread are those of the command."""
    alone = stat(sys.executable, "-c", "import subprocess, threading")["counts"]["page_faults"]
    child = f"import subprocess, sys, threading\nsubprocess.run([sys.executable, '-c', {TOUCH!r}])"
    assert stat(sys.executable, "-c", child)["counts"]["page_faults"] >= alone + 600
    thread = (
        f"import subprocess, threading\nt = threading.Thread(target=exec, args=({TOUCH!r}, {{}}))\nt.start()\nt.join()"
    )
    assert stat(sys.executable, "-c", thread)["counts"]["page_faults"] >= alone + 500


def test_an_interrupted_command_is_still_shown() -> None:
    """Ctrl-C ends the command, as on any terminal; what it cost until then is shown, and Tailcut exits with 0."""
    wait = "import signal, sys; signal.alarm(60); print('ready', file=sys.stderr, flush=True); signal.pause()"
    command = [str(SCRIPT), "stat", "--json", "--", sys.executable, "-c", wait]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    with killed_at_end(child):
        assert child.stderr is not None
        assert child.stderr.readline() == "ready\n"
        os.killpg(child.pid, signal.SIGINT)
        out, _ = child.communicate(timeout=30)
    assert child.returncode == 0
    assert validated("stat", out)["exit_code"] in (-signal.SIGINT, 1)


def test_the_table() -> None:
    """For a person there is a table beside the wall time, and each missing counter's reason and remedy."""
    done = tailcut("stat", "--", "true")
    assert done.returncode == 0
    for words in ("wall time", "CPU time", "context switches", "page faults", "exit code"):
        assert words in done.stdout
    if "not counted" in done.stdout:
        assert "remedy:" in done.stdout


@pytest.mark.parametrize(
    ("command", "words"), [(["no-such-program"], "no such program"), (["/etc/passwd"], "Permission denied")]
)
def test_no_such_command(tmp_path: Path, mistake: Callable[..., str], command: list[str], words: str) -> None:
    """A command that is not there or not a program is the user's mistake: one line, exit code 2, nothing on stdout."""
    line = mistake(tmp_path, "stat", "--json", "--", *command)
    assert words in line
    assert command[0] in line


@pytest.mark.skipif(PERF_EVENT_OPEN is None, reason="the number of the call is not known here")
def test_where_the_call_is_forbidden() -> None:
    """With perf_event_open refused, getrusage gives CPU time, switches and faults, and the rest is explained."""
    program = "from tailcut.cli.main import run\nrun()"
    done = run_refused(errno.EPERM, program, "stat", "--json", "--", sys.executable, "-c", TOUCH)
    assert done.returncode == 0
    result = validated("stat", done.stdout)
    assert result["counts"]["page_faults"] >= 600
    assert result["counts"]["cpu_ns"] > 0
    assert result["counts"]["context_switches"] >= 0
    assert set(result["missing"]) >= {"migrations", "cycles"}

"""Commands that are forked: processes of their own, like executed ones, that end with the process that started them."""

import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.servers import MODULES

from tailcut.lab import fork_server
from tailcut.lab.fork_server import FAST_PATH, SERVER, ForkedCommand, execute, fork, prepare
from tailcut.models import digits_model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import IoSettings, Settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="commands are forked on Linux")
SERVE = ["serve", str(digits_model()), "--port", "0", "--json", "--no-auto"]
Start = Callable[..., "subprocess.Popen[bytes] | ForkedCommand"]


@contextmanager
def running(
    start: Start, arguments: list[str], folder: Path, **how: object
) -> "Iterator[subprocess.Popen[bytes] | ForkedCommand]":
    """A server that is ready, until the block ends."""
    with (folder / "stderr").open("wb") as stderr:
        child = start(arguments, stderr, **how)
    try:
        assert child.stdout is not None
        assert select.select([child.stdout], [], [], 60)[0]
        assert json.loads(child.stdout.readline())["port"], (folder / "stderr").read_text()
        yield child
    finally:
        child.kill()
        child.wait(20)
        assert child.stdout is not None
        child.stdout.close()


def libraries(pid: int) -> set[str]:
    """The names of the files with code that a process has in memory."""
    lines = (line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
    return {Path(line[5]).name for line in lines if len(line) > 5 and ".so" in line[5]}


@pytest.mark.parametrize("fast_path", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_nothing_is_loaded_that_a_server_does_not_load(tmp_path: Path, fast_path: bool) -> None:
    """The same libraries as when it is executed, so the same memory but for pages that nothing reads any more."""
    profile = tmp_path / "digits.profile.toml"
    Profile.of_model(digits_model(), Settings(io=IoSettings(fast_path=fast_path))).save(profile)
    arguments = ["serve", str(profile), "--port", "0", "--json"]
    modules = SERVER + (FAST_PATH if fast_path else ())
    with running(fork, arguments, tmp_path, modules=modules) as forked, running(execute, arguments, tmp_path) as other:
        assert isinstance(forked, ForkedCommand)
        assert libraries(forked.pid) == libraries(other.pid)


def test_a_forked_command_is_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder, environment, CPUs, session and streams are the order's; signals end it, and its code is known."""
    monkeypatch.chdir(tmp_path)
    cpu, environment = min(os.sched_getaffinity(0)), os.environ | {"TAILCUT_X": "here"}
    with running(fork, SERVE, tmp_path, modules=MODULES, cpus=[cpu], environment=environment) as child:
        place = Path(f"/proc/{child.pid}")
        assert (place / "cwd").resolve() == tmp_path
        assert os.sched_getaffinity(child.pid) == {cpu}
        assert os.getsid(child.pid) == child.pid != os.getsid(0)
        assert len(list((place / "fd").iterdir())) < 30
        assert child.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.01)
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 0
        assert child.poll() == 0
        child.send_signal(signal.SIGKILL)  # nothing, and no other process with its number
    assert "stopped" in (tmp_path / "stderr").read_text()


def test_a_mistake_has_its_line_and_its_code(tmp_path: Path) -> None:
    """Like those of an executed command."""
    with (tmp_path / "stderr").open("wb") as stderr:
        child = fork(["serve", "no such file.onnx"], stderr, modules=MODULES)
    assert child.wait(60) == 2
    assert len((tmp_path / "stderr").read_text().splitlines()) == 1


def test_it_is_executed_where_something_else_would_be_inherited(tmp_path: Path) -> None:
    """A CPU mask that was changed since the fork server began is the child's, too."""
    prepare(MODULES)
    mask = os.sched_getaffinity(0)
    if len(mask) < 2:
        pytest.skip("one CPU")
    os.sched_setaffinity(0, {max(mask)})
    try:
        with (tmp_path / "stderr").open("wb") as stderr:
            child = fork(["--version"], stderr, modules=MODULES)
        assert isinstance(child, subprocess.Popen)
        with child:
            assert os.sched_getaffinity(child.pid) == {max(mask)}
        assert child.returncode == 0
    finally:
        os.sched_setaffinity(0, mask)


@pytest.mark.slow
def test_it_is_executed_where_the_fork_server_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed by the kernel, for example: what was running has ended with it, and what comes is executed."""
    modules = ("tailcut.cli.main",)
    with running(fork, SERVE, tmp_path, modules=modules) as child:
        assert isinstance(child, ForkedCommand)
        status = Path(f"/proc/{child.pid}/status").read_text()
        parent = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid"))
        os.kill(parent, signal.SIGKILL)
        assert child.wait(20) == -signal.SIGKILL
    with running(fork, SERVE, tmp_path, modules=modules) as child:
        assert isinstance(child, subprocess.Popen)


@pytest.mark.slow
def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Killed without a chance to stop its servers."""
    program = f"""
import sys, time
from tailcut.lab.fork_server import fork
child = fork({SERVE!r}, open({str(tmp_path / "stderr")!r}, "wb"))
child.stdout.readline()
print(child.pid, type(child).__name__, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, kind = parent.stdout.readline().split()
        assert kind == "ForkedCommand"
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    end = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()


def test_the_time_that_is_spared(tmp_path: Path) -> None:
    """Imports are timed once; a fork server that has ended has spared nothing."""
    spared_s = fork_server.imported_s(MODULES)
    assert 0.05 < spared_s < 60
    assert fork_server.imported_s(MODULES) == spared_s


def test_an_old_kernel_forks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that knows no descriptors of processes: the command is executed, and nothing is spared."""

    def unknown(pid: int, flags: int = 0) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    fork_server._can_fork.cache_clear()
    monkeypatch.setattr(os, "pidfd_open", unknown)
    try:
        prepare(("tailcut.cli.main", "tailcut.cli.serve"))
        assert fork_server.imported_s(("tailcut.cli.main", "tailcut.cli.serve")) == 0.0
        with (tmp_path / "stderr").open("wb") as stderr:
            child = fork(["--version"], stderr, modules=MODULES)
        assert isinstance(child, subprocess.Popen)
        with child:
            pass
        assert child.returncode == 0
    finally:
        fork_server._can_fork.cache_clear()


def test_an_interrupted_order_leaves_no_answer_to_the_next(tmp_path: Path) -> None:
    """Ctrl-C while an answer is waited for: the next order gets its own, not the number that was left unread."""
    forks = fork_server.fork_server(MODULES)
    spared = forks.order({"imported": True})

    class Interrupted:
        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def recv(self, size: int) -> bytes:
            raise KeyboardInterrupt

    real = forks._socket
    forks._socket = Interrupted()
    try:
        with pytest.raises(KeyboardInterrupt):
            forks.order({"imported": True})
    finally:
        forks._socket = real
    with running(fork, SERVE, tmp_path, modules=MODULES) as child:
        assert isinstance(child, ForkedCommand)
        assert Path(f"/proc/{child.pid}/cmdline").exists()
        assert child.pid != spared
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 0


def test_it_ends_where_an_order_is_given_up() -> None:
    """Ctrl-C ends the other side before the answer is sent, or before it is read: no traceback."""
    for is_sent in (False, True):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, ThreadPoolExecutor() as pool:
            ours.send(json.dumps({"imported": True, "order": 1}).encode())
            if not is_sent:
                ours.close()
            taking = pool.submit(fork_server._take_orders, theirs, 5)
            if is_sent:
                select.select([ours], [], [], 20)
                ours.close()  # with the answer unread
            assert taking.result(20) is None

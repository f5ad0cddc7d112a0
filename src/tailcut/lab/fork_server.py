"""Starts `tailcut` commands by forking a process that has already imported them: a start is mostly imports.

A tune starts about twenty servers, and importing takes each of them one or two seconds of a core. A forked command is a
separate process, with its own session, descriptors, working directory and environment, and has imported nothing that it
would not import by itself. Pages of libraries that only their initialisation reads are not in its memory, so a claim
about memory needs an executed command. Whatever an executed process inherits (its control group, its limits) must be
equal to what the fork server inherited; otherwise, and on systems other than Linux 5.3 or later, commands are executed.
"""

import ctypes
import functools
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from tailcut.machine.affinity import pinned
from tailcut.machine.child_python import python

# What every server imports, and what it imports for the fast path; no engines, because each needs different ones.
SERVER = (
    "tailcut.cli.main",
    "tailcut.cli.options",
    "tailcut.cli.serve",
    "tailcut.server.app",
    "tailcut.cli.serving.bare_models",
    "tailcut.machine.reserve",
)
FAST_PATH = ("tailcut.server.fastpath.tables", "tailcut.kernels.sockets", "tailcut.kernels.answers")
_LARGEST = 1 << 17  # bytes of one order: arguments and environment
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ForkServerError(Exception):
    """The fork server is gone, or an order is too large for it."""


class ForkedCommand:
    """A running command, with the methods of `subprocess.Popen` that servers need."""

    def __init__(self, forks: "ForkServer", pid: int, stdout: IO[bytes]) -> None:
        self.pid, self.stdout = pid, stdout
        self.returncode: int | None = None
        self._forks = forks
        self._reaping = threading.Lock()  # threads of a load check whether it runs
        self._end = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """The exit code, or the negative number of the signal that ended it; None while it is running."""
        return self._code(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code; raises `subprocess.TimeoutExpired` if it is still running after `timeout` seconds."""
        code = self._code(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._end, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def _code(self, timeout: float | None) -> int | None:
        if self.returncode is not None:
            return self.returncode
        waiting = select.poll()
        waiting.register(self._end, select.POLLIN)
        if not waiting.poll(None if timeout is None else 1000 * timeout):
            return None
        with self._reaping:
            if self.returncode is None:
                try:
                    self.returncode = self._forks.order({"reap": self.pid})
                except ForkServerError:  # its children end with it
                    self.returncode = -signal.SIGKILL
                os.close(self._end)
        return self.returncode


class ForkServer:
    """The process that has imported everything, and the socket for orders to it.

    Args:
        modules: the modules that it imports.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self.inherited = _inherited()
        self._lock = threading.Lock()
        self._orders = 0
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # In a session of its own: Ctrl-C in the terminal must reach only the process that gives orders.
            subprocess.Popen(  # noqa: S603  this interpreter, and a module of ours
                python("-m", "tailcut.lab.fork_server", str(theirs.fileno()), *modules),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )

    @functools.cached_property
    def imported_s(self) -> float:
        """How long its imports took, in seconds; waits until they are done, and is 0 where the process has ended."""
        try:
            return self.order({"imported": True}) / 1e9
        except ForkServerError:
            return 0.0

    def order(self, order: Mapping[str, object], descriptors: Sequence[int] = ()) -> int:
        """Send an order, and wait for the number in its answer.

        An answer names its order, because Ctrl-C may leave one unread, which must not be taken for that of the next.

        Raises:
            ForkServerError: there is no answer.
        """
        with self._lock:
            self._orders += 1
            text = json.dumps({**order, "order": self._orders}).encode()
            try:
                socket.send_fds(self._socket, [text], descriptors)
                while answer := self._socket.recv(64):
                    which, number = map(int, answer.split())
                    if which == self._orders:
                        return number
            except OSError as error:
                raise ForkServerError(str(error)) from None
        raise ForkServerError("it has ended")


def prepare(modules: tuple[str, ...]) -> None:
    """Begin the imports, where commands can be forked."""
    if _can_fork():
        fork_server(modules)


def imported_s(modules: tuple[str, ...]) -> float:
    """How much faster a forked command starts, in seconds; 0 where it cannot be forked."""
    return fork_server(modules).imported_s if _can_fork() else 0.0


@functools.cache
def fork_server(modules: tuple[str, ...]) -> ForkServer:
    """The fork server of this process with these modules, which it begins to import at the first call."""
    return ForkServer(modules)


def execute(
    arguments: Sequence[str],
    stderr: IO[bytes],
    *,
    cpus: Collection[int] | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Run `tailcut ARGUMENTS` like a user, but in a session of its own, with its standard output on a pipe.

    It ends with the thread that starts it.

    Args:
        arguments: of the command.
        stderr: the file for its standard error.
        cpus: the CPUs that it may use; None: those of this thread.
        environment: None: that of this process.
    """
    with nullcontext() if cpus is None else pinned(cpus):  # the child inherits it
        return subprocess.Popen(  # noqa: S603  our own interpreter; the hook makes one system call
            python("-m", "tailcut", *arguments),
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509  it makes one system call and takes no lock
        )


def fork(
    arguments: Sequence[str],
    stderr: IO[bytes],
    *,
    modules: tuple[str, ...] = SERVER,
    cpus: Collection[int] | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes] | ForkedCommand:
    """As `execute`, but forked where that is equivalent; it ends with this process.

    Args:
        arguments: of the command.
        stderr: the file for its standard error.
        modules: the modules that it imports in any case.
        cpus: the CPUs that it may use; None: those of this thread.
        environment: None: that of this process.
    """
    if _can_fork():
        try:
            forks = fork_server(modules)
            if forks.inherited == _inherited():
                return _forked(forks, arguments, stderr, cpus, environment)
        except ForkServerError:
            pass
    return execute(arguments, stderr, cpus=cpus, environment=environment)


def _forked(
    forks: ForkServer,
    arguments: Sequence[str],
    stderr: IO[bytes],
    cpus: Collection[int] | None,
    environment: Mapping[str, str] | None,
) -> ForkedCommand:
    read, write = os.pipe()
    order = {
        "run": list(arguments),
        "folder": str(Path.cwd()),
        "environment": dict(os.environ if environment is None else environment),
        "cpus": None if cpus is None else sorted(cpus),
    }
    try:
        pid = forks.order(order, (write, stderr.fileno()))
    except ForkServerError:
        os.close(read)
        raise
    finally:
        os.close(write)
    return ForkedCommand(forks, pid, os.fdopen(read, "rb"))


@functools.cache
def _can_fork() -> bool:
    """Whether it is possible to wait for the child of another process: on Linux 5.3 or later."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def _inherited() -> tuple[object, ...]:
    """What an executed process would inherit now, beside its environment."""
    names = ("NOFILE", "AS", "FSIZE", "MEMLOCK", "NPROC", "CORE", "STACK")
    limits = [resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in names]
    group = ""
    with suppress(OSError):  # /proc may not be mounted
        group = Path("/proc/self/cgroup").read_text(encoding="utf-8")
    return group, os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0), limits


def _die_with_parent() -> None:
    """Have the kernel end the child when its parent ends in whatever way (prctl(2), PR_SET_PDEATHSIG)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _take_orders(control: socket.socket, imported_ns: int) -> list[str] | None:
    """Take orders until the other side ends, then return None; in each child, return its command's arguments."""
    own = os.getpid()
    while True:
        try:
            text, descriptors, _, _ = socket.recv_fds(control, _LARGEST, 2)
        except ConnectionError:  # it ended with an answer unread
            return None
        if not text:
            return None
        order = json.loads(text)
        if "imported" in order:
            number = imported_ns
        elif "reap" in order:
            number = os.waitstatus_to_exitcode(os.waitpid(order["reap"], 0)[1])
        else:
            number = os.fork()
            if number == 0:
                control.close()
                _become(order, own, *descriptors)
                return list(order["run"])
        for descriptor in descriptors:
            os.close(descriptor)
        try:
            control.send(b"%d %d" % (order["order"], number))
        except ConnectionError:
            return None


def _become(order: Mapping[str, Any], parent: int, stdout: int, stderr: int) -> None:
    """Set up a forked child like a process that was executed for this order."""
    _die_with_parent()
    if os.getppid() != parent:
        os._exit(1)
    os.setsid()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    if order["cpus"] is not None:
        os.sched_setaffinity(0, order["cpus"])
    if not sys.flags.safe_path:
        sys.path[0] = order["folder"]
    sys.argv = ["tailcut", *order["run"]]
    sys.orig_argv = python("-m", *sys.argv)


def _main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    began = time.monotonic_ns()
    for module in sys.argv[2:]:
        import_module(module)
    imported_ns = time.monotonic_ns() - began
    # Numerical libraries have threads, which they stop before a fork and start again after it.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
        arguments = _take_orders(control, imported_ns)
    if arguments is not None:
        runpy.run_module("tailcut", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()

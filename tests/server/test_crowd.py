"""More clients than the server has room or files for."""

import re
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.effort import THOROUGH
from tests.server.sound import GOOD, HEALTH, check_back, check_exact, usage
from tests.server.workers.test_supervisor import workers
from tests.servers import serving


@contextmanager
def open_files(count: int) -> Iterator[int]:
    """As many open files as this process may have, `count` at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield min(count, hard - 200)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_ten_thousand_idle_connections(models: Path, tmp_path: Path) -> None:
    """They are capped: the ones idle longest make room, and a client that asks is answered at once and exactly."""
    with open_files(10_000) as count, serving(tmp_path, models / "echo.onnx") as server:
        before = usage(server)
        crowd = []
        for number in range(count):
            crowd.append(socket.create_connection((server.host, server.port)))
            if number % 2000 == 1999:
                check_exact(server)
        assert server.metric("tailcut_connections") <= 4096 + 1
        check_exact(server)
        for sock in crowd:
            sock.close()
        check_back(server, before)
        assert server.stop() == 0


def test_no_file_left_to_open(models: Path, tmp_path: Path) -> None:
    """Accepting rests while no file can be opened: nobody who waits is reset, and all are answered in turn."""
    with serving(tmp_path, models / "echo.onnx") as server:
        before = usage(server)
        room = server.open_files() + 8
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (room, hard))
        wires = [server.connect() for _ in range(40)]
        for wire in wires:
            wire.send(GOOD)  # most of these wait in the backlog, unread
        for wire in wires:  # each is answered when one before it has gone
            assert wire.read().status == 200
            wire.sock.close()
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (hard, hard))
        check_exact(server)
        check_back(server, before)
        log = server.stderr.read_text()
        assert "accepting connections is paused" in log
        assert "accepting connections again" in log
        assert log.count("is paused") < 40  # a line for each time, not for each try
        assert server.stop() == 0


@pytest.mark.slow
def test_no_file_left_to_a_worker(models: Path, tmp_path: Path) -> None:
    """The same with workers: each rests when it is full, says so once each time, makes room and accepts again."""
    with serving(tmp_path, models / "echo.onnx", "--workers", "2") as server:
        pids = workers(server)
        for pid in pids:
            room = len(list(Path(f"/proc/{pid}/fd").iterdir())) + 8
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (room, hard))
        silent = [server.connect() for _ in range(16)]  # these fill both, say nothing and have to make room
        for wire in silent:
            wire.send(HEALTH)
        wires = [server.connect() for _ in range(40)]
        for wire in wires:
            wire.send(GOOD)
        for wire in wires:
            assert wire.read().status == 200
            wire.sock.close()
        assert workers(server) == pids
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
        for wire in silent:
            wire.sock.close()
        for _ in range(4):
            check_exact(server)
        log = server.stderr.read_text()
        assert "accepting connections again" in log
        assert 1 <= log.count("accepting connections is paused") < 40
        assert server.stop() == 0


def test_few_files_mean_few_connections(models: Path, tmp_path: Path) -> None:
    """Where the limit cannot be raised, fewer connections are promised, and said so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(tmp_path, models / "mlp.onnx", "--max-connections", str(hard)) as server:
        assert "leaves room for" in server.stderr.read_text()
        with server.connect() as wire:
            assert wire.ask(HEALTH).status == 200
        assert server.stop() == 0
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def _connections_within(limit: int) -> subprocess.CompletedProcess[str]:
    code = f"""
import resource
from tailcut.server.limits import ServerLimits
from tailcut.server.sockets import fit_files
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
print(fit_files(ServerLimits()).connections)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_a_small_limit_leaves_room_for_what_is_not_open() -> None:
    """Without the files that the server opens later."""
    done = _connections_within(64)
    connections = int(done.stdout)
    assert 8 <= connections <= 30
    assert f"leaves room for {connections} connections: see" in done.stderr


def test_a_limit_without_room_for_a_connection_is_refused() -> None:
    """The limit that is named in the message is enough for one."""
    done = _connections_within(20)
    message = re.search(r"UsageError: the open-file limit of 20 is too low, a server needs (\d+):", done.stderr)
    assert message is not None
    least = int(message[1])
    assert not THOROUGH or f"limit of {least - 1} is too low" in _connections_within(least - 1).stderr
    assert _connections_within(least).stdout == "1\n"

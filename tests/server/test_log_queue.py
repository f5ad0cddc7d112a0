"""Log lines on a thread of their own: who logs never waits for who reads."""

import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.servers import TIMEOUT_S, Server, raw_request

from tailcut.server import log_queue
from tailcut.server.log_queue import LogQueue

WARNING = "engine failed"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The reading and the writing end of a pipe."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def record(number: int, *, name: str = "tailcut", line: int = 1) -> logging.LogRecord:
    return logging.LogRecord(name, logging.INFO, "file.py", line, "line %d", (number,), None)


def read_all(end: int) -> str:
    data = b""
    while select.select([end], [], [], 0)[0]:
        data += os.read(end, 1 << 20)
    return data.decode()


def test_lines_are_written_in_order(pipe: tuple[int, int]) -> None:
    """All of them, by the time that it is closed."""
    queue = LogQueue(pipe[1])
    for number in range(200):
        queue.handle(record(number, line=number))
    queue.flush()
    assert read_all(pipe[0]) == "".join(f"line {number}\n" for number in range(200))
    queue.close()
    assert queue.dropped == 0


def test_one_kind_is_limited_and_the_others_are_not(pipe: tuple[int, int]) -> None:
    """Of a thousand lines from one place some are written, and one tells how many were not; the access log has none."""
    queue = LogQueue(pipe[1])
    for number in range(1000):
        queue.handle(record(number))
    queue.handle(record(-1, line=2))
    for number in range(1000):
        queue.handle(record(number, name="tailcut.access"))
    queue.close()
    lines = read_all(pipe[0]).splitlines()
    message = [line for line in lines if "dropped" in line]
    assert "line -1" in lines
    assert 900 < queue.dropped < 1000
    assert sum(int(line.split()[0]) for line in message) == queue.dropped
    assert len(lines) == 2001 - queue.dropped + len(message)


def test_nobody_reads(pipe: tuple[int, int]) -> None:
    """Lines over the queue's length are dropped and counted, and nobody waits; once read, the log says how many."""
    queue = LogQueue(pipe[1])
    count = log_queue._LINES + 20_000
    for number in range(count):
        queue.handle(record(number, name="tailcut.access"))
    assert queue.dropped > 0
    data = b""
    while b"dropped" not in data.rpartition(b"\n")[0].rpartition(b"\n")[2]:
        data += os.read(pipe[0], 1 << 20)
    lines = data.decode().splitlines()
    message = sum(int(line.split()[0]) for line in lines if "dropped" in line)
    queue.close()
    lines += read_all(pipe[0]).splitlines()
    assert message == queue.dropped
    assert len([line for line in lines if "dropped" not in line]) == count - queue.dropped


def test_ending_takes_a_bounded_time(pipe: tuple[int, int]) -> None:
    """A log that is not read does not keep the process from ending."""
    queue = LogQueue(pipe[1])
    for number in range(log_queue._LINES):
        queue.handle(record(number, name="tailcut.access"))
    began = time.monotonic()
    queue.close()
    assert time.monotonic() - began < 10 * log_queue._EXIT_S


def test_a_queue_whose_thread_was_refused_closes(pipe: tuple[int, int]) -> None:
    """As logging does with each handler at exit; another error would hide the cause."""
    queue = LogQueue.__new__(LogQueue)
    before = threading.stack_size(1 << 46)  # more than the address space has
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            queue.__init__(pipe[1])
    finally:
        threading.stack_size(before)
    queue.close()


@pytest.mark.slow
def test_a_server_of_which_nobody_reads_the_log(models: Path) -> None:
    """Thousands of failing requests fill the pipe; each is answered, the lines are counted, and the server ends."""
    command = [sys.executable, "-m", "tailcut", "serve", str(models / "gather.onnx"), "--port", "0", "--json"]
    bad = raw_request("gather", np.array([99], np.int64).tobytes())
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        import json

        address = json.loads(process.stdout.readline())
        server = Server(process, address["host"], address["port"], Path("/dev/null"))
        try:
            with server.connect() as wire:
                for _ in range(30):
                    wire.send(bad * 100)
                    assert [wire.read().status for _ in range(100)] == [500] * 100
            end = time.monotonic() + TIMEOUT_S
            while server.metric("tailcut_log_lines_dropped_total") <= 2000:  # counted four times a second
                assert time.monotonic() < end
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        assert len(process.stderr.read().splitlines()) < 1000

"""Slow and silent clients, on a server whose limits are short: each gets its answer or its end, and holds nothing.

The server runs under a C library that moves the wall clock, because a limit that looked at it would be seen here.
"""

import select
import socket
import subprocess
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import numpy as np
import pytest
from tests.server.sound import HEALTH, check_back, check_clean, check_exact, usage
from tests.servers import Answer, Server, Wire, json_request, raw_request, serving, until

WALL = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
/* CLOCK_REALTIME is a day ahead while $TAILCUT_TEST_AHEAD exists, and a day back while $TAILCUT_TEST_BACK does. */
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME && !access(getenv("TAILCUT_TEST_AHEAD"), F_OK)) now->tv_sec += 86400;
    if (clock == CLOCK_REALTIME && !access(getenv("TAILCUT_TEST_BACK"), F_OK)) now->tv_sec -= 86400;
    return result;
}
"""
LIMITS = ["--head-timeout", "300ms", "--body-timeout", "600ms", "--write-timeout", "600ms", "--idle-timeout", "2s"]


@pytest.fixture(scope="module")
def clocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a file `ahead` or `back` moves the server's wall clock by a day."""
    return tmp_path_factory.mktemp("clocks")


@pytest.fixture(scope="module")
def patient(models: Path, clocks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("patient")
    (folder / "wall.c").write_text(WALL)
    library = folder / "wall.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, folder / "wall.c", "-ldl"], check=True)
    environ = {"LD_PRELOAD": str(library)}
    environ |= {f"TAILCUT_TEST_{name.upper()}": str(clocks / name) for name in ("ahead", "back")}
    sources = [models / f"{name}.onnx" for name in ("mlp", "echo", "big")]
    with serving(folder, *sources, *LIMITS, "--log", "json", env=environ) as server:
        yield server
        assert server.stop() == 0


@pytest.fixture(autouse=True)
def sound_afterwards(patient: Server) -> Iterator[None]:
    before = usage(patient)
    yield
    check_exact(patient)
    check_back(patient, before)


def trickle(wire: Wire, data: bytes) -> None:
    """Send byte after byte, each as soon as a twentieth of a second has brought no answer."""
    for at in range(len(data)):
        if select.select([wire.sock], [], [], 0.05)[0]:
            return
        wire.send(data[at : at + 1])


CHUNKS = b"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
SLOW = {
    "head": (b"", b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n" * 9),
    "body": (json_request("mlp", b"x" * 5000)[:-5000], b"x" * 5000),
    "raw body": (raw_request("big", bytes(200_000))[:-199_000], b"x" * 5000),
    "chunked body": (CHUNKS, b"100\r\n" + b"x" * 256),
    "JSON of a large body": (
        raw_request("big", bytes(200_000)).replace(b"Length: 0", b"Length: 300")[:-200_000],
        b"x" * 300,
    ),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_message_has_one_time_limit(patient: Server, name: str) -> None:
    """Bytes that keep dripping in buy no time: 408, and the connection ends."""
    start, rest = SLOW[name]
    with patient.connect() as wire:
        wire.send(start)
        trickle(wire, rest)
        answer = wire.read()
        assert answer.status == 408
        check_clean(answer)
        assert answer.headers["connection"] == "close"
        assert wire.closed()


def test_a_silent_connection_is_closed(patient: Server) -> None:
    """Without an answer, because nothing was asked; before its first request and after one."""
    with patient.connect() as silent, patient.connect() as used:
        assert used.ask(HEALTH).status == 200
        for wire in (silent, used):
            assert wire.closed()
            assert wire.pending() == b""


def test_a_client_that_never_reads(patient: Server) -> None:
    """Its rows are free as soon as they are computed, what it sends is not hoarded, and its time runs out."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((patient.host, patient.port))
    sock.setblocking(False)
    request = raw_request("big", bytes(200_000))
    sent = 0
    while select.select([], [sock], [], 0.3)[1]:  # until neither side's kernel takes more
        try:
            sent += sock.send(request)
        except ConnectionError:
            break
        assert sent < 40 << 20
    while patient.metric("tailcut_connections") > 1:
        assert patient.metric("tailcut_rows_in_use") <= 1
    sock.close()


def days_off(answer: Answer) -> int:
    """By how many days an answer's date is another than today's."""
    return round((parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()) / 86400)


def test_the_wall_clock_may_move(patient: Server, clocks: Path) -> None:
    """A day forward or back: open connections live, deadlines hold, nobody is timed out."""
    request = raw_request("mlp", np.ones(4, np.float32).tobytes())
    meta = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}
    with patient.connect() as wire:
        for name, days in (("ahead", 1), ("back", -1)):
            (clocks / name).touch()
            until(lambda days=days: days_off(wire.ask(HEALTH)) == days, patient)
            for _ in range(50):
                assert wire.ask(request).status == 200
                assert wire.ask(json_request("mlp", meta | {"parameters": {"timeout": 5_000_000}})).status == 200
                assert wire.ask(HEALTH).status == 200
            (clocks / name).unlink()
        assert wire.ask(request).status == 200

"""Checks of a server after bad input: it is ready, exact, and has leaked nothing."""

import re

import numpy as np
from tests.servers import TIMEOUT_S, Answer, Server, raw_request

HEALTH = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"
ROW = np.linspace(-1, 1, 1000, dtype=np.float32)
GOOD = raw_request("echo", ROW.tobytes())
_GAUGES = ("tailcut_rows_in_use", "tailcut_body_buffer_bytes", "tailcut_tasks", "tailcut_connections")
_INNARDS = re.compile(r"0x[0-9a-f]{4,}|/(?:usr|home|tmp|root|proc|var|work)\b|\.py\b|\.onnx\b|Traceback|Error\b|secret")


def check_clean(answer: Answer) -> str:
    """Check that an answer is only an error object, without path, key, address or traceback; returns its message."""
    value = answer.json()
    assert set(value) == {"error"}, value
    assert not _INNARDS.search(value["error"]), value
    return value["error"]


def check_exact(server: Server) -> None:
    """Check that the server is ready, and answers a good request bit for bit."""
    with server.connect() as wire:
        assert wire.ask(HEALTH).status == 200
        answer = wire.ask(GOOD)
        assert answer.status == 200
        assert answer.body[int(answer.headers["inference-header-content-length"]) :] == ROW.tobytes()


def usage(server: Server) -> dict[str, float]:
    """Rows, buffers, tasks, connections (the one that asks among them) and open files."""
    with server.connect() as wire:
        wire.ask(HEALTH)  # by its answer, accepting this connection is over: that is a task of the loop, too
        text = wire.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").body.decode()
        result = dict.fromkeys(_GAUGES, 0.0) | {"files": float(server.open_files())}
    for line in text.splitlines():
        name, _, number = line.rpartition(" ")
        if name.split("{")[0] in result:
            result[name.split("{")[0]] += float(number)
    return result


def check_back(server: Server, before: dict[str, float]) -> None:
    """Wait until usage is back to what it was; each check is a request, so the server makes progress meanwhile."""
    now = before
    for _ in range(int(TIMEOUT_S * 50)):
        now = usage(server)
        if all(now[name] <= before[name] for name in before):
            return
        server.process.poll()
    raise AssertionError(f"before {before}, now {now}")

"""What a served pipeline counts of the requests that a step refuses, drops or fails on: each once, as a model does."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from tests.servers import Server, json_request, serving, until

SLOW_S = 0.2  # of the second step
QUEUE = 3  # rows
COUNTED = (
    "tailcut_refused_total",
    "tailcut_deadline_misses_total",
    "tailcut_expired_total",
    "tailcut_stage_refused_total",
    "nv_inference_request_failure_total",  # as the parser calls a counter
)
SOURCE = f"""
import time
from pathlib import Path

from tailcut import Pipeline, stage


def wait(gate):
    while gate.exists():
        gate.with_suffix(".computes").touch()
        time.sleep(0.002)


@stage(inputs={{"x": "FP32[16384]"}}, outputs={{"y": "FP32"}}, max_batch_size=1, timeout_s=60)
def quick(x):
    wait(Path(__file__).with_name("quick"))
    return x[:, 0]


@stage(inputs={{"y": "FP32"}}, outputs={{"z": "FP32"}}, max_batch_size=1, timeout_s=1, threads=True)
def slow(y):
    if y[0] == 13:
        raise ZeroDivisionError
    if y[0] == 14:
        time.sleep(3)
    if y[0] == 15:
        raise ValueError
    time.sleep({SLOW_S})
    return y


@stage(inputs={{"z": "FP32"}}, outputs={{"u": "FP32"}}, max_batch_size=1, timeout_s=60)
def last(z):
    wait(Path(__file__).with_name("last"))
    return z


pipeline = Pipeline("three", [quick, slow, last])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("refusals")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with pipeline(folder) as running:
        yield running


@contextmanager
def pipeline(folder: Path) -> Iterator[Server]:
    """A server of three steps with short queues, the first and the last of which compute when they are let."""
    (folder / "three.py").write_text(SOURCE)
    with serving(folder, f"{folder}/three.py:pipeline", "--queue", str(QUEUE), "--grpc-port", "0") as running:
        yield running
        assert running.stop() == 0


def request(*headers: str, value: float = 1.0, space: int = 0) -> bytes:
    """With so many bytes of white space before its values."""
    row = [value] + [0] * 16383
    text = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16384], "data": row}]})
    return json_request("three", " " * space + text, *headers)


def ask(server: Server, data: bytes) -> int:
    with server.connect() as wire:
        return wire.ask(data).status


def samples(server: Server) -> dict[str, float]:
    """Of the pipeline: values by name, and reason, outcome or stage."""
    with server.connect() as wire:
        text = wire.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").body.decode()
    result = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = [sample.labels[name] for name in ("reason", "outcome", "stage") if name in sample.labels]
            result[" ".join([sample.name, *labels])] = sample.value
    return result


def gained(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """The refusals, misses, drops and failures that were counted between, where there were any."""
    return {name: now[name] - before[name] for name in now if name.startswith(COUNTED) and now[name] != before[name]}


@contextmanager
def full(folder: Path, server: Server, step: str) -> Iterator[None]:
    """Meanwhile a step computes one request, and its queue is full of others, which are all answered then."""
    gate = folder / step
    computes = gate.with_suffix(".computes")
    computes.unlink(missing_ok=True)
    name = f"tailcut_stage_pending_requests {step}"
    gate.touch()
    wires = []
    try:
        for waiting in range(QUEUE + 1):
            wires.append(server.connect())
            wires[-1].send(request())
            until(lambda wanted=waiting: computes.exists() and samples(server)[name] == wanted, server)
        yield
    finally:
        gate.unlink()
    for wire in wires:
        assert wire.read().status == 200
        wire.sock.close()


def logged(server: Server) -> dict[str, int]:
    """The refusals in the log, by the first words of the reason."""
    result: dict[str, int] = {}
    log = _log(server)
    message = re.findall(r"three: refused (\d+) requests?: (model '\w+'|cannot|the deadline)", log)
    assert len(message) == len(re.findall(r"has no room|cannot meet|has passed", log)), log  # and of no single request
    for count, reason in message:
        result[reason] = result.get(reason, 0) + int(count)
    return result


def _log(server: Server) -> str:
    return server.stderr.read_text()


@pytest.mark.slow
def test_a_later_step_without_room(folder: Path, server: Server) -> None:
    """503, counted once with its reason, logged, and no failure of the model's: the last step's queue is full."""
    before, failed = samples(server), failures(server)
    with full(folder, server, "last"):
        assert [ask(server, request()) for _ in range(2)] == [503, 503]
        shown = top_while(server, lambda: ask(server, request()))
        now = samples(server)
    refused = now["tailcut_refused_total queue_full"] - before["tailcut_refused_total queue_full"]
    assert refused > 2
    assert gained(before, now) == {
        "tailcut_refused_total queue_full": refused,
        "tailcut_stage_refused_total last": refused,
    }
    until(lambda: logged(server).get("model 'last'") == refused, server)
    assert (shown["refused"] > 0, shown["failed"]) == (True, 0)
    assert failures(server) == failed


def failures(server: Server) -> int:
    """Those of the statistics extension."""
    with server.connect() as wire:
        (stats,) = wire.ask(b"GET /v2/models/three/stats HTTP/1.1\r\nHost: x\r\n\r\n").json()["model_stats"]
    return stats["inference_stats"]["fail"]["count"]


def top_while(server: Server, act: Callable[[], object]) -> dict:
    """What `tailcut top --once` shows of the pipeline while something is done again and again."""
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():
            act()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        command = [sys.executable, "-m", "tailcut", "top", server.url, "--once", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    finally:
        over.set()
        thread.join()
    return json.loads(done.stdout)["models"][0]


def test_a_later_step_without_time(folder: Path, server: Server) -> None:
    """The work before the second step takes longer than the request may: refused for its deadline, as a model does.

    Where this process was stopped until that work was done, once more.
    """
    assert [ask(server, request()) for _ in range(3)] == [200] * 3  # what the steps cost is known now
    for _ in range(10):
        before, told = samples(server), sum(logged(server).values())
        with server.connect() as first, server.connect() as second:
            for wire in (first, second):
                wire.send(request())
            time.sleep(SLOW_S / 4)  # for the first step
            status = ask(server, request(f"Tailcut-Timeout-Us: {0.75 * SLOW_S * 1e6:.0f}"))
            assert (first.read().status, second.read().status) == (200, 200)
        if status == 503:
            break
    assert status == 503
    assert gained(before, samples(server)) == {
        "tailcut_refused_total deadline": 1,
        "tailcut_deadline_misses_total refused": 1,
        "tailcut_stage_refused_total slow": 1,
    }
    until(lambda: sum(logged(server).values()) == told + 1, server)  # the next test counts its own


def test_a_first_step_without_room(folder: Path, server: Server) -> None:
    """Counted once, wherever it is found out: before a body is collected or parsed, or when it is queued."""
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        tensor = tritonclient.grpc.InferInput("x", [1, 16384], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 16384), np.float32))
        client.infer("three", [tensor])

        def call() -> int:
            with pytest.raises(InferenceServerException, match="no room"):
                client.infer("three", [tensor])
            return 503

        ways = [partial(ask, server, request()), partial(ask, server, request(space=1 << 17)), call]
        with full(folder, server, "quick"):
            message = sum(logged(server).values())
            for way in ways:
                before = samples(server)
                assert way() == 503
                assert gained(before, samples(server)) == {
                    "tailcut_refused_total queue_full": 1,
                    "tailcut_stage_refused_total quick": 1,
                }
            until(lambda: sum(logged(server).values()) == message + len(ways), server)
    assert logged(server)["model 'quick'"] == len(ways)


@pytest.mark.slow
def test_what_is_dropped_or_late(tmp_path: Path) -> None:
    """A request that waits for a step until its time is over, and one that is answered after it."""
    gate = tmp_path / "last"
    gate.touch()
    with pipeline(tmp_path) as server, server.connect() as late, server.connect() as dropped:
        before = samples(server)
        late.send(request("Tailcut-Timeout-Us: 1000000"))
        until(gate.with_suffix(".computes").exists, server)
        dropped.send(request("Tailcut-Timeout-Us: 1500000"))
        assert dropped.read().status == 504
        gate.unlink()
        assert late.read().status == 200
        assert gained(before, samples(server)) == {
            "tailcut_expired_total": 1,
            "tailcut_deadline_misses_total dropped": 1,
            "tailcut_deadline_misses_total late": 1,
        }


@pytest.mark.parametrize(("value", "status"), [(13.0, 500), (14.0, 504)])
def test_what_a_step_fails_on(server: Server, value: float, status: int) -> None:
    """A function that raises, and one that does not return in its time, on a thread: failures, and nothing else."""
    before = samples(server)
    assert ask(server, request(value=value)) == status
    assert gained(before, samples(server)) == {"nv_inference_request_failure_total": 1}


def test_what_a_step_refuses_is_no_failure(server: Server) -> None:
    """Input that a function does not take is its client's fault: no alert is for that."""
    before = samples(server)
    assert ask(server, request(value=15.0)) == 400
    assert gained(before, samples(server)) == {}

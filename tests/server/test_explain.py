"""Why a tail is slow: each cause is put into a real server, and must come out by name."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.control import beside
from tests.engines.models import perceptron
from tests.servers import Server, serving

from tailcut.engines.base import EngineOptions
from tailcut.lab.client import open_loop
from tailcut.lab.explain import only_model, trace_events, watch, while_doing
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import ask, infer_payload
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.runtime.tracing.attribution import KINDS, explain
from tailcut.runtime.tracing.records import Tail
from tailcut.runtime.tracing.timeline import STAGES, ProcessEvent

RATE, SECONDS = 250, 2.0
GARBAGE = """
import gc, os, pathlib, sys, threading, time
def collect():
    tick = threading.Event()
    while not gc.get_freeze_count():  # what is there before it serves is not looked through
        tick.wait(0.1)
    gc.disable()
    kept = [[number] for number in range(600_000)]
    gc.enable()
    pathlib.Path(os.environ["KEPT"]).touch()
    while True:
        began = time.monotonic()
        gc.collect()
        tick.wait(6 * (time.monotonic() - began))  # it meets few requests on a slow machine, too
threading.Thread(target=collect, daemon=True).start()
"""
SERVE = "from tailcut.cli.main import main; raise SystemExit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of some 0.2 ms a row, batched by up to 64 on one thread of its own."""
    folder = tmp_path_factory.mktemp("explained")
    model = perceptron([64, 1024, 2048, 64], folder / "m.onnx")
    settings = Settings(engine=EngineOptions(threads=1), batching=BatchingSettings(max_batch_size=64))
    Profile.of_model(model, settings).save(folder / "m.profile.toml")
    return folder / "m.profile.toml"


@pytest.fixture(scope="module")
def server(profile: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that nothing is done to."""
    with serving(tmp_path_factory.mktemp("server"), profile) as running:
        yield running
        assert running.stop() == 0


@contextmanager
def harmed(profile: Path, program: str, **how: object) -> Iterator[LoadTarget]:
    """`tailcut serve` with a program of ours in the same process."""
    command = [sys.executable, "-c", f"{program}\nimport sys\n{SERVE}", "serve", str(profile), "--port", "0", "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **how)
    try:
        assert child.stdout is not None
        yield LoadTarget(port=json.loads(child.stdout.readline())["port"])
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(20)


def target_of(server: Server) -> LoadTarget:
    return LoadTarget(port=server.port)


def load(target: LoadTarget, rows: tuple[int, ...] = (1,), rate: float = RATE) -> None:
    """Open-loop requests of these numbers of rows, in turn."""
    random = np.random.default_rng(0)
    inputs = [{"x": random.standard_normal((count, 64)).astype(np.float32)} for count in rows]
    payloads = [infer_payload(target, "m", item, "binary") for item in inputs]
    result = open_loop(target, payloads, rate=rate, duration_s=SECONDS)
    assert not result.errors


def named(
    target: LoadTarget, causes: set[str], rows: tuple[int, ...] = (1,), rate: float = RATE, words: str = ""
) -> Tail:
    """Load the server until its verdict names one of the causes, in these words: five times at most.

    Other programs use the machine, too, and what they do is sometimes a cause. Where they keep it busy all the time,
    the test is skipped.
    """
    result = None
    for _ in range(5):
        with beside() as control:
            load(target, rows, rate)
        answer = ask(target, "GET", "/v2/models/m/tail")
        assert answer.pop("model") == "m"
        result = msgspec.convert(answer, Tail)
        if result.cause.name == "cpu_wait" and "cpu_wait" not in causes:
            result = without_others(target)
        if result.cause.name in causes and words in result.verdict:
            return result
    if control.busy:
        pytest.skip(f"others keep this machine busy: a process that only sleeps wakes {control.late_s:.3f} s late")
    raise AssertionError(result)


def without_others(target: LoadTarget) -> Tail:
    """The verdict on the server's trace where it is not told that others had the CPUs meanwhile."""
    piece = ask(target, "GET", "/v2/models/m/trace/0")
    waits = {kind for kinds in KINDS["cpu_wait"].values() for kind in kinds}
    events = [event for event in (ProcessEvent(*item) for item in piece["events"]) if event.kind not in waits]
    return explain(np.array(piece["records"], np.int64), events, max_batch_size=piece["max_batch_size"])


@pytest.mark.serial
def test_a_collector_at_work(profile: Path, tmp_path: Path) -> None:
    """Full collections of a large heap are named, with the setting that ends them."""
    kept = tmp_path / "kept"
    with harmed(profile, GARBAGE, env=os.environ | {"KEPT": str(kept)}) as target:
        while not kept.exists():  # making the heap is no collection, and would be the longest stall of all
            time.sleep(0.05)
        result = named(target, {"gc"})
    assert "memory.gc_freeze" in result.verdict
    assert result.coincided["gc"].events >= 3


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to a CPU")
def test_a_hog_on_the_same_core(profile: Path) -> None:
    """A process that computes on the server's only core is seen as waiting for a CPU."""
    core = {min(os.sched_getaffinity(0))}

    def bound() -> None:
        os.sched_setaffinity(0, core)

    with harmed(profile, "", preexec_fn=bound) as target:
        hog = subprocess.Popen([sys.executable, "-c", "while True: pass"], preexec_fn=bound)  # noqa: PLW1509  one system call
        try:
            assert "a CPU" in named(target, {"cpu_wait"}, rate=100).verdict
        finally:
            hog.kill()
            hog.wait()


@dataclass
class QuotaGroup:
    """A control group whose processes may use so much of a CPU."""

    folder: Path
    limit: str  # the file that says so

    def allow(self, percent: int) -> None:
        quota = f"{percent * 1000}"
        (self.folder / self.limit).write_text(quota if self.limit.endswith("us") else f"{quota} 100000")

    def join(self) -> None:
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))


@contextmanager
def quota_group(percent: int) -> Iterator[QuotaGroup]:
    """A new control group; skips where none can be made."""
    name = f"tailcut-test-{os.getpid()}"
    for root, limit in ((Path("/sys/fs/cgroup/cpu"), "cpu.cfs_quota_us"), (Path("/sys/fs/cgroup"), "cpu.max")):
        group = QuotaGroup(root / name, limit)
        with suppress(OSError):
            group.folder.mkdir()
            try:
                group.allow(percent)
            except OSError:
                group.folder.rmdir()
                continue
            try:
                yield group
            finally:
                group.folder.rmdir()
            return
    pytest.skip("no control group can be made here")


@pytest.mark.slow
@pytest.mark.serial
def test_a_quota(profile: Path) -> None:
    """A process that its quota stops is told so."""
    with quota_group(1000) as group, harmed(profile, "", preexec_fn=group.join) as target:
        group.allow(15)  # now, for with that it would take six times as long to start
        try:
            assert "quota" in named(target, {"throttled"}, rate=400).verdict
        finally:
            group.allow(1000)


@pytest.mark.serial
def test_a_slow_client(profile: Path, tmp_path: Path) -> None:
    """Bodies that arrive in pieces are the clients' slowness, not the server's."""
    with serving(tmp_path, profile) as server:
        target = target_of(server)
        slow = infer_payload(target, "m", {"x": np.zeros((1, 64), np.float32)}, "raw").request
        pause, enough = threading.Event(), threading.Event()

        def trickle() -> None:
            with socket.create_connection((target.host, target.port)) as wire:
                while not enough.is_set():
                    wire.sendall(slow[:-8])
                    pause.wait(0.06)
                    wire.sendall(slow[-8:])
                    assert wire.recv(4096).startswith(b"HTTP/1.1 200")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert "clients sending slowly" in named(target, {"receive"}).verdict
        finally:
            enough.set()
            thread.join()


@pytest.mark.slow
@pytest.mark.serial
def test_a_huge_batch(profile: Path, tmp_path: Path) -> None:
    """Single rows that wait behind full batches: the advice is a smaller largest batch."""
    with serving(tmp_path, profile) as server:
        target = target_of(server)
        named(target, {"queue", "compute"}, (*[1] * 23, 64), rate=600, words="lower max_batch_size")


def test_the_command_watches_a_running_server(server: Server) -> None:
    """Every request that passes meanwhile is in the result, by stages that add up, and as trace events."""
    target = target_of(server)
    assert only_model(target, None) == "m"
    result = while_doing(lambda: load(target), lambda: watch(target, "m", SECONDS + 0.5))
    assert result.requests > 0.7 * RATE * SECONDS
    assert result.missed == 0
    assert list(result.stages) == list(STAGES)
    traced = trace_events(result)["traceEvents"]
    assert {event["name"] for event in traced if event["ph"] == "X"} == set(STAGES)
    assert all(event["dur"] >= 0 for event in traced if event["ph"] == "X")


def test_the_former_name_of_the_path(server: Server) -> None:
    """`/trail` is what `/trace` was called, and answers the same for one version more."""
    with server.connect() as wire:
        answers = [
            wire.ask(f"GET /v2/models/m/{name}/0 HTTP/1.1\r\nHost: x\r\n\r\n".encode()) for name in ("trace", "trail")
        ]
    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].json()["records"] == answers[1].json()["records"]


def test_a_cursor_that_is_none(server: Server) -> None:
    """A trace is read from a whole number on; anything else is told so."""
    with server.connect() as wire:
        for cursor in ("first", "--3", "1.", ".1", "1.-1", "9" * 18, "\u0663".encode().hex("%")):
            answer = wire.ask(f"GET /v2/models/m/trace/{cursor} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert answer.status == 400
            assert b"whole number" in answer.body
        assert wire.ask(b"GET /v2/models/m/tail HTTP/1.1\r\nHost: x\r\n\r\n").status == 200

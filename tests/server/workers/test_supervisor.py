"""Several worker processes behind one socket: what the loss, the renewal and the end of them cost a client."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from tests.effort import THOROUGH
from tests.engines.models import perceptron
from tests.servers import TIMEOUT_S, Server, Wire, raw_request, serving, start, until

from tailcut.machine.quota import usable_cpus
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import IoSettings, Settings
from tailcut.server.sockets import ListenAddress
from tailcut.server.workers.supervisor import WorkerGroup, supervise

ROW = np.arange(4, dtype=np.float32).tobytes()
REQUEST = raw_request("mlp", ROW)
READY = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
pytestmark = LINUX


def workers(server: Server) -> list[int]:
    """Process ids of the living workers."""
    pid = server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@dataclass
class Clients:
    """Threads that keep asking until they are told to stop; a reused connection that closes is an interruption."""

    server: Server
    pause_s: float  # between two requests: without one they take a core, from workers that start, too
    answered: int = 0
    wrong: list[str] = field(default_factory=list)  # answers other than 200
    interrupted: int = 0  # requests on a live connection that got no answer
    unconnected: int = 0  # connections that were reset before their first answer
    refused: int = 0  # connections that never came about
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stop.is_set():
            before = self.answered
            try:
                with self.server.connect() as wire:
                    self.talk(wire)
            except ConnectionRefusedError:
                self.refused += 1
                if self.server.process.poll() is not None:
                    return
            except OSError:
                if self.answered == before:
                    self.unconnected += 1
                else:
                    self.interrupted += 1

    def talk(self, wire: Wire) -> None:
        while not self.stop.wait(self.pause_s):
            answer = wire.ask(REQUEST)
            self.answered += 1
            if answer.status != 200:
                self.wrong.append(str(answer.status))
            if answer.headers.get("connection") == "close":
                return


@contextmanager
def load(server: Server, pause_s: float = 0.001) -> Iterator[list[Clients]]:
    """Clients that are at work when the block begins, and have stopped when it has ended."""
    clients = [Clients(server, pause_s) for _ in range(4)]
    running = [threading.Thread(target=client.run) for client in clients]
    for thread in running:
        thread.start()
    try:
        until(lambda: all(client.answered > 20 for client in clients), server)
        yield clients
    finally:
        for client in clients:
            client.stop.set()
        for thread in running:
            thread.join(TIMEOUT_S)


@pytest.fixture(scope="module")
def fleet(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers, for tests that leave two; those that kill one, whose successor starts, are last.

    Two of the models have the name of a counter. With a variable that is not Tailcut's own, all processes are executed.
    """
    path = models / "mlp.onnx"
    sources = [path, f"queued={path}", f"exemplars={path}"]
    folder, executed = tmp_path_factory.mktemp("fleet"), {"PYTHONUNBUFFERED": "1"}
    with serving(folder, *sources, "--workers", "2", env=executed) as server:
        yield server
        assert server.stop() == 0


@pytest.fixture
def own_fleet(models: Path, tmp_path: Path) -> Iterator[Server]:
    """Two workers of one test's own, which listen on the Unix socket `s` of its folder, too."""
    flags = ["--workers", "2", "--drain", "300ms", "--uds", str(tmp_path / "s")]
    with serving(tmp_path, models / "mlp.onnx", *flags) as server:
        yield server


@pytest.mark.slow
def test_a_renewal_loses_nothing(fleet: Server) -> None:
    """SIGHUP under load: every worker is another process afterwards; no request failed and readiness never went off."""
    before = workers(fleet)
    unready: list[int] = []

    def renewed() -> bool:
        with fleet.connect() as wire:
            status = wire.ask(READY).status
        if status != 200:
            unready.append(status)
        now = workers(fleet)
        return len(now) == 2 and not set(now) & set(before)

    with load(fleet, pause_s=0.004) as clients:
        fleet.process.send_signal(signal.SIGHUP)
        until(renewed, fleet)
    assert not any(client.wrong or client.unconnected or client.interrupted or client.refused for client in clients)
    assert unready == []


@pytest.mark.slow
def test_a_sighup_while_workers_load_renews_them_afterwards(models: Path, tmp_path: Path) -> None:
    """What it asks for may have changed after the first worker has read it."""
    log = tmp_path / "log"
    command = ["serve", str(models / "mlp.onnx"), "--port", "0", "--no-auto", "--workers", "2", "--json"]
    with log.open("wb") as stderr:
        server = Server(start(command, stderr, {}), "127.0.0.1", 0, log)
    try:
        until(lambda: workers(server), server)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "worker 1 was replaced" in log.read_text(), server)
        assert log.read_text().index("serving mlp") < log.read_text().index("replacing all workers")
        assert server.stop() == 0
    finally:
        server.process.kill()
        server.process.wait(TIMEOUT_S)


@pytest.mark.slow
def test_sigterm_answers_everything(own_fleet: Server, tmp_path: Path) -> None:
    """SIGTERM under load: what was sent is answered; the supervisor exits with 0, and neither a worker nor the Unix
    socket is left, on which they accept as well."""
    for _ in range(4):
        unix = socket.socket(socket.AF_UNIX)
        unix.connect(str(tmp_path / "s"))
        with Wire(unix) as wire:
            assert wire.ask(REQUEST).status == 200
    with load(own_fleet) as clients:
        pids = workers(own_fleet)
        own_fleet.process.send_signal(signal.SIGTERM)
        assert own_fleet.process.wait(TIMEOUT_S) == 0
    assert not any(client.wrong or client.unconnected or client.interrupted for client in clients)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_second_sigterm_exits_at_once(models: Path, tmp_path: Path) -> None:
    """Nobody waits out a minute of draining who asks twice; the workers are gone with their supervisor."""
    with serving(tmp_path, models / "mlp.onnx", "--workers", "2", "--drain", "60s") as server:
        pids = workers(server)
        server.process.send_signal(signal.SIGTERM)
        status = 200
        while status == 200:
            with server.connect() as wire:
                status = wire.ask(READY).status
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(TIMEOUT_S) == 1
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.slow
@pytest.mark.skipif(usable_cpus() < 2, reason="one CPU has room for one worker")
def test_a_profile_says_how_many_workers_there_are(models: Path, tmp_path: Path) -> None:
    """What was measured with two is served with two, but for options that need one."""
    path = tmp_path / "two.profile.toml"
    Profile.of_model(models / "mlp.onnx", Settings(io=IoSettings(workers=2)), "mlp").save(path)
    with serving(tmp_path, path) as server, server.connect() as wire:
        assert len(workers(server)) == 2
        assert wire.ask(REQUEST).status == 200
        assert server.stop() == 0
    with serving(tmp_path, path, "--allow-model-control") as server:
        assert workers(server) == []
        assert server.stop() == 0


@pytest.mark.slow
def test_workers_die_with_their_supervisor(own_fleet: Server) -> None:
    """A supervisor that is killed takes its workers with it: nobody accepts any more."""
    watched = [os.pidfd_open(pid) for pid in workers(own_fleet)]
    own_fleet.process.kill()
    own_fleet.process.wait(TIMEOUT_S)
    import select

    for descriptor in watched:
        assert select.select([descriptor], [], [], TIMEOUT_S)[0]
        os.close(descriptor)
    with pytest.raises(ConnectionRefusedError):
        own_fleet.connect()


@pytest.mark.slow
def test_connections_are_shared_fairly(fleet: Server) -> None:
    """Of 64 connections that come at once and stay, each of two workers has its part: a quarter at least."""
    wires = [fleet.connect() for _ in range(64)]
    for wire in wires:
        wire.send(READY)
    assert [wire.read().status for wire in wires] == [200] * 64
    sockets = [
        sum("socket:" in str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()) for pid in workers(fleet)
    ]
    assert min(sockets) > 16
    for wire in wires:
        wire.sock.close()


def test_a_killed_worker_costs_its_own_requests_only(fleet: Server) -> None:
    """SIGKILL under load: at most one request a connection is lost, none is answered wrongly, and two serve again."""
    kills = 2 if THOROUGH else 1
    with load(fleet, pause_s=0.004) as clients:
        for _ in range(kills):
            victim = workers(fleet)[0]
            os.kill(victim, signal.SIGKILL)
            until(lambda victim=victim: len(workers(fleet)) == 2 and victim not in workers(fleet), fleet)
    assert not any(client.wrong or client.refused for client in clients)
    # The first request of a connection that the victim had just accepted is in flight there, too.
    assert all(client.interrupted + client.unconnected <= kills for client in clients)


def test_metrics_are_the_sum_over_workers_and_never_go_back(fleet: Server) -> None:
    """Whichever worker is asked, counters show all requests, also those of a worker that has been killed."""

    def answered() -> float:
        with fleet.connect() as wire:
            text = wire.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").body.decode()
        (count,) = re.findall(r'^nv_inference_request_success\{model="queued".*\} (\S+)$', text, re.MULTILINE)
        return float(count)

    for _ in range(10):
        with fleet.connect() as wire:
            wire.ask(raw_request("queued", ROW))
    until(lambda: answered() == 10, fleet)
    victim = workers(fleet)[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(workers(fleet)) == 2 and victim not in workers(fleet), fleet)
    assert [answered() for _ in range(4)] == [10] * 4
    accepted = [fleet.metric("tailcut_connections_accepted_total") for _ in range(10)]
    assert accepted == sorted(accepted)
    with fleet.connect() as wire:
        stats = wire.ask(b"GET /v2/models/queued/stats HTTP/1.1\r\nHost: x\r\n\r\n").json()
    assert stats["model_stats"][0]["inference_count"] == 10


@pytest.mark.slow
def test_batches_of_thousands_of_sizes(tmp_path: Path) -> None:
    """They are summed like a few: the metrics are there, with all batches, before and after a renewal."""
    flags = ["--workers", "2", "--max-batch-size", "4096", "--queue", "8192", "--drain", "0s"]
    sizes, row = range(1, 4097), bytes(4)

    def batches() -> float:
        return server.metric("tailcut_batch_rows_count")

    with serving(tmp_path, perceptron([1, 1], tmp_path / "mlp.onnx"), *flags) as server:
        before = workers(server)
        with server.connect() as wire:
            assert {wire.ask(raw_request("mlp", rows * row)).status for rows in sizes} == {200}
        until(lambda: batches() == len(sizes), server)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(workers(server)) == 2 and not set(before) & set(workers(server)), server)
        assert batches() == len(sizes)
        assert server.stop() == 0


BROKEN = """
import os
import msgspec
from tailcut.server.workers.process import ENVIRONMENT, Assignment
from tailcut.server.workers.scoreboard import Scoreboard

place = msgspec.json.decode(os.environ[ENVIRONMENT], type=Assignment)
Scoreboard(place.scoreboard, place.places, place.models).publish(place.index, {"server": 5, "models": {}})
raise SystemExit(3)
"""


def test_counts_that_cannot_be_added_up(caplog: pytest.LogCaptureFixture) -> None:
    """The end of the worker that published them is met like any other, and logged."""
    group = WorkerGroup(size=1, command=[sys.executable, "-c", BROKEN], models=1, drain_s=0.0)
    assert supervise(group, ListenAddress("127.0.0.1", 0), lambda *_: None) == 3
    assert "the counts of a worker that ended are lost" in caplog.text


@pytest.mark.slow
def test_a_crash_loop_ends(models: Path, tmp_path: Path) -> None:
    """Workers that cannot load any more are tried `--max-restarts` times; then all exit, with code 1 and a message."""
    path = tmp_path / "gone.onnx"
    path.write_bytes((models / "mlp.onnx").read_bytes())
    with serving(tmp_path, path, "--workers", "2", "--max-restarts", "2", "--drain", "0s") as server:
        path.unlink()
        os.kill(workers(server)[1], signal.SIGKILL)
        assert server.process.wait(TIMEOUT_S) == 1
        log = server.stderr.read_text()
    assert "ended (by SIGKILL): another starts now" in log
    assert "ended 2 times in a row: giving up" in log


@pytest.mark.slow
def test_a_renewal_that_cannot_load_changes_nothing(models: Path, tmp_path: Path) -> None:
    """With a model file that has become unreadable, SIGHUP leaves the old workers serving, and says so."""
    path = tmp_path / "model.onnx"
    path.write_bytes((models / "mlp.onnx").read_bytes())
    with serving(tmp_path, f"mlp={path}", "--workers", "2") as server:
        before = workers(server)
        path.write_bytes(b"not a model")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "the old ones keep serving" in server.stderr.read_text(), server)
        with server.connect() as wire:
            assert wire.ask(REQUEST).status == 200
        assert workers(server) == before
        assert server.stop() == 0


def test_mistakes_are_one_line(tmp_path: Path, mistake: Callable[..., str]) -> None:
    """A taken port and a bad number: exit 2 and one line, however many workers."""
    model = str(perceptron([4, 3], tmp_path / "m.onnx"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "cannot listen" in mistake(tmp_path, "serve", model, "--port", port, "--workers", "2")
    assert "--workers" in mistake(tmp_path, "serve", model, "--port", "0", "--workers", "none")


@pytest.mark.slow
def test_a_model_that_no_worker_can_load_is_one_line(tmp_path: Path) -> None:
    """Of three that try, and exit 2."""
    command = [sys.executable, "-m", "tailcut", "serve", str(tmp_path / "no.onnx"), "--port", "0", "--workers", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no.onnx" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_auto_and_pinning(models: Path, tmp_path: Path) -> None:
    """`auto` starts a worker for each CPU, when a model wants one; together they are bound to all of them."""
    from tailcut.machine.quota import affinity_mask, usable_cpus

    with serving(tmp_path, models / "mlp.onnx", "--workers", "auto") as server:
        children = workers(server)
        if usable_cpus() == 1:
            assert children == []
        else:
            assert len(children) == usable_cpus()
            masks = [os.sched_getaffinity(child) for child in children]
            if usable_cpus() == len(affinity_mask()):
                assert set().union(*masks) == affinity_mask()
                assert sum(len(mask) for mask in masks) == len(affinity_mask())
        assert server.stop() == 0

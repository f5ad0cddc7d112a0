"""Real causes of a late client, found beside real load: a server whose engine threads spin, and another process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.control import beside
from tests.engines.models import perceptron
from tests.servers import Server, json_request, serving

from tailcut.engines.base import EngineOptions
from tailcut.lab.arrivals import Constant
from tailcut.lab.lateness import cause
from tailcut.lab.load import LoadTarget
from tailcut.lab.served_engine import computed_ns, served_engine
from tailcut.lab.surroundings import SurroundingsMonitor
from tailcut.lab.together import Stream, open_together
from tailcut.lab.workload import served_workload
from tailcut.machine.busy import ProcessUse
from tailcut.runtime.profile import Profile, Settings

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="threads spin where there are two CPUs or more"),
]
NAMES = ("one", "two")
LATE = """
import json, os, sys
from dataclasses import replace
from tailcut.lab import compiled
from tailcut.lab.arrivals import Constant
from tailcut.lab.client import open_loop
from tailcut.lab.describe import parse_target
from tailcut.lab.lateness import cause
from tailcut.lab.session import LoadSession
from tailcut.lab.surroundings import SurroundingsMonitor
from tailcut.lab.workload import served_workload
url, model, cpu, hog = sys.argv[1:]
compiled.prepare()
target, at = parse_target(url), Constant(20.0)
work = served_workload(target, model, None, "binary", 0, 1, None)
session = LoadSession(target, work, 1.0, 0.1)
os.sched_setaffinity(0, {int(cpu)})
os.nice(19)
run = session.open(at)
monitor = SurroundingsMonitor(target, [model])
_, seen = monitor.observe(lambda: [open_loop(target, work.payloads, rate=at, duration_s=1.0)])
found = tuple(replace(one, cpus=0.9) for one in seen.use.processes if one.pid == int(hog))
alone = replace(seen, use=replace(seen.use, busy=1.0, processes=found, stolen=0.0, throttled_s=0.0))
print(json.dumps([run.client_behind, run.late_because, cause(alone)]))
"""


@contextmanager
def on_two_cpus() -> Iterator[frozenset[int]]:
    """This thread, and what it starts, on two CPUs: as many as the engines' threads keep busy."""
    before = os.sched_getaffinity(0)
    two = frozenset(sorted(before)[:2])
    os.sched_setaffinity(0, two)
    try:
        yield two
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture(scope="module")
def spinner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of two models, each with a thread that spins after each call."""
    folder = tmp_path_factory.mktemp("spinner")
    options = EngineOptions(threads=2, spinning=True)
    for name in NAMES:
        perceptron([512, 1024, 512], folder / f"{name}.onnx")
        profile = Profile.of_model(folder / f"{name}.onnx", Settings(engine=options))
        profile.save(folder / f"{name}.profile.toml")
    with on_two_cpus(), serving(folder, *(folder / f"{name}.profile.toml" for name in NAMES)) as running:
        yield running


def test_what_a_server_says_of_its_engine(spinner: Server) -> None:
    """Threads, whether they spin, and the time of its calls; nothing of a model that it has not."""
    target = LoadTarget(spinner.host, spinner.port)
    engine = served_engine(target, "one")
    assert (engine.threads, engine.spins) == ({"": 2}, True)
    before = computed_ns(target, "one")
    assert before is not None
    assert served_engine(target, "none").spins is None
    assert computed_ns(target, "none") is None


@pytest.mark.serial
def test_engine_threads_that_spin(spinner: Server) -> None:
    """The server's own figures and /proc tell spinning from computing; the line says what to set.

    Only the server is taken from what was seen, as if it had both CPUs: other programs on the machine take their share.
    """
    target = LoadTarget(spinner.host, spinner.port)
    work = [served_workload(target, name, None, "binary", 0, 1, None) for name in NAMES]
    streams = [Stream(item.payloads, Constant(40.0)) for item in work]
    for _ in range(3):  # where others take the CPUs that it would spin on, once more
        with on_two_cpus() as two, beside() as control:
            results, seen = SurroundingsMonitor(target, NAMES).observe(
                lambda: open_together(target, streams, duration_s=1.5, seed=0)
            )
        assert [result.errors for result in results] == [{}, {}]
        assert seen is not None
        assert seen.server is not None
        assert seen.server.pid == spinner.process.pid
        assert seen.server.spins is True
        assert seen.server.computing is not None
        if seen.server.computing < seen.server.engine_cpus / 2:
            break
    else:
        assert control.busy
        pytest.skip(f"others keep this machine busy: a process that only sleeps wakes {control.late_s:.3f} s late")
    share = 2.0 / seen.server.cpus
    server = replace(
        seen.server,
        cpus=2.0,
        engine_cpus=share * seen.server.engine_cpus,
        computing=share * seen.server.computing,
        allowed=two,
    )
    process = ProcessUse(spinner.process.pid, "tailcut", 2.0, two)
    use = replace(seen.use, busy=2.0, processes=(process,), stolen=0.0, throttled_s=0.0)
    text = cause(replace(seen, use=use, server=server))
    assert text is not None
    assert "the server's engine threads spin on " in text
    assert f"start it with `taskset -c {min(two)}`, or set `engine.spinning = false`" in text


PIPELINE = """
from tailcut import Pipeline, stage


@stage(inputs={"text": "BYTES"}, outputs={"x": "FP32[512]"})
def read(text):
    import numpy as np
    return np.ones((len(text), 512), np.float32)


@stage(inputs={"y": "FP32[512]"}, outputs={"best": "INT64"}, threads=True)
def best(y):
    return y.argmax(axis=1)


pipeline = Pipeline("p", [read, "one.profile.toml", best])
"""


def test_what_a_server_says_of_a_pipelines_engines(spinner: Server, tmp_path: Path) -> None:
    """The threads of each step that it computes itself, whether a model's spin, and the time of each step's calls."""
    folder = spinner.stderr.parent
    (folder / "p.py").write_text(PIPELINE)
    with serving(tmp_path, f"{folder}/p.py:pipeline", "--grpc-port", "0") as server:
        target = LoadTarget(server.host, server.port)
        engine = served_engine(target, "p")
        assert (engine.threads, engine.spins) == ({"one": 2, "best": 1}, True)
        grpc = LoadTarget(server.host, server.grpc_port or 0, grpc=True)
        assert served_engine(grpc, "p") == engine
        before = computed_ns(target, "p")
        assert before is not None
        with server.connect() as wire:
            tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}
            assert wire.ask(json_request("p", {"inputs": [tensor]})).status == 200
        after = computed_ns(target, "p")
        assert after is not None
        since = {step: ns - before[step] for step, ns in after.items()}
        assert list(since) == ["read", "one", "best"]
        assert min(since.values()) > 0
        assert engine.in_calls_ns(since) == 2 * since["one"] + since["best"]
        assert computed_ns(grpc, "p") is None


@pytest.mark.slow
@pytest.mark.serial
def test_a_process_that_takes_the_clients_cpu(server: Server) -> None:
    """A client of the lowest priority on one CPU is late behind a process that runs there; a line names what it was.

    Other programs on the machine may use more than that process, so it is then looked for among all that were seen.
    """
    cpu = str(min(os.sched_getaffinity(0)))
    hog = subprocess.Popen(["taskset", "-c", cpu, sys.executable, "-c", "while True: pass"])
    try:
        command = [sys.executable, "-c", LATE, server.url, "mlp", cpu, str(hog.pid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    finally:
        hog.kill()
        hog.wait()
    behind, because, alone = json.loads(done.stdout)
    assert behind
    assert because
    assert alone.startswith("python")
    assert f" (pid {hog.pid}) uses 0.90 of 1 CPU: stop it" in alone

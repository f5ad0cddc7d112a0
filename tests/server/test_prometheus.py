"""The alert rules: tested by promtool, and each fired by a real Prometheus that scrapes a server in trouble.

And the queries of the guide, on a server that is well.
"""

import json
import math
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import endless, gather_rows, perceptron
from tests.pipelines import samples
from tests.prometheus import INSTALLED, MISSING, prometheus, query, values
from tests.server.test_engine_hang import request_for
from tests.server.test_explain import quota_group
from tests.server.test_overload import ONE, busy, make_profile
from tests.servers import Server, raw_request, serving, until

from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "deploy" / "prometheus"
GUIDE = ROOT / "docs" / "guide" / "monitoring.md"
WAIT_S = 120.0
PAUSE_S = 0.05
HELD = """
import time
from pathlib import Path

from tailcut import Pipeline, stage


@stage(inputs={"x": "FP32[4]"}, outputs={"y": "FP32[4]"})
def pass_on(x):
    return x


@stage(inputs={"y": "FP32[4]"}, outputs={"z": "FP32[4]"}, max_batch_size=1, timeout_s=120)
def hold(y):
    while Path(__file__).with_name("gate").exists():
        time.sleep(0.01)
    return y


pipeline = Pipeline("held", [pass_on, hold])
"""
pytestmark = pytest.mark.skipif(not INSTALLED, reason=MISSING)


@pytest.mark.parametrize(
    "command", [["check", "rules", "tailcut.rules.yml"], ["test", "rules", "tailcut.rules.test.yml"]], ids=str
)
def test_promtool_finds_nothing(command: list[str]) -> None:
    """The rules are valid, fire on made-up series of a fault, and keep silent on those of a server that is well."""
    done = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def write_rules(folder: Path) -> None:
    """The rules, of seconds instead of minutes."""
    rules = (FOLDER / "tailcut.rules.yml").read_text(encoding="utf-8")
    (folder / "hasty.rules.yml").write_text(rules.replace("for: 1m", "for: 1s").replace("[1m]", "[2s]"))


def firing(address: str) -> set[str]:
    return {item["metric"]["alertname"] for item in query(address, 'ALERTS{alertstate="firing"}')}


@pytest.mark.slow
def test_the_alerts_fire_on_a_real_fault(tmp_path: Path) -> None:
    """With more work than it can do in time: too slow, and refusing. Before that there is no alert."""
    profile = make_profile(tmp_path)
    write_rules(tmp_path)
    with serving(tmp_path, profile, "--slo", "1ms") as server, prometheus(tmp_path, server.address) as address:
        end = time.monotonic() + WAIT_S
        until(lambda: query(address, "tailcut_request_seconds_count"), server)
        assert firing(address) & {"TailcutTooSlow", "TailcutRefusing"} == set()
        while not firing(address) >= {"TailcutTooSlow", "TailcutRefusing"}:
            assert time.monotonic() < end, query(address, "ALERTS")
            with busy(server), server.connect() as wire:
                assert wire.ask(raw_request("slow", ONE, "Tailcut-Timeout-Us: 100")).status == 503
        (alert,) = query(address, 'ALERTS{alertname="TailcutRefusing",alertstate="firing"}')
        assert alert["metric"]["model"] == "slow"
        assert alert["metric"]["reason"] == "deadline"
        assert server.stop() == 0


@pytest.mark.slow
def test_the_other_alerts_fire_on_real_faults(tmp_path: Path) -> None:
    """Deadlines that pass in a queue, requests that wait, failures, a hanging engine and a blocked event loop.

    The queue of a pipeline's second step is full in the end: it refuses, and does not fail.
    """
    write_rules(tmp_path)
    (tmp_path / "held.py").write_text(HELD)
    gate = tmp_path / "gate"
    gate.touch()
    model = endless(tmp_path / "endless.onnx")
    inline = Settings(batching=BatchingSettings(dispatch="inline"))
    Profile.of_model(model, inline).save(tmp_path / "inline.toml")
    sources = [
        model,
        f"inline={tmp_path}/inline.toml",
        gather_rows(tmp_path / "rows.onnx"),
        f"{tmp_path}/held.py:pipeline",
    ]
    wanted = {"TailcutDeadlineMissed": "held", "TailcutQueueStuck": "held", "TailcutModelFails": "rows"}
    with (
        serving(tmp_path, *sources, "--engine-timeout", "2s", "--queue", "2") as server,
        prometheus(tmp_path, server.address) as address,
        server.connect() as held,
        server.connect() as waiting,
        server.connect() as last,
        server.connect() as wire,
    ):
        until(lambda: query(address, "tailcut_request_seconds_count"), server)
        assert firing(address) == set()
        patient = raw_request("held", bytes(16))
        held.send(patient)
        waiting.send(patient)
        until(lambda: passed_on(server) == 2, server)
        end = time.monotonic() + WAIT_S
        while not firing(address) >= wanted.keys():
            assert time.monotonic() < end, query(address, "ALERTS")
            assert wire.ask(raw_request("held", bytes(16), "Tailcut-Timeout-Us: 300000")).status == 504
            assert wire.ask(raw_request("rows", np.array([9]).tobytes())).status == 500
        passed = passed_on(server)
        last.send(patient)
        until(lambda: passed_on(server) > passed, server)
        while "TailcutRefusing" not in firing(address):
            assert time.monotonic() < end, query(address, "ALERTS")
            assert wire.ask(patient).status == 503
            assert wire.ask(raw_request("rows", np.array([9]).tobytes())).status == 500
        wanted |= {"TailcutRefusing": "held"}
        del wanted["TailcutDeadlineMissed"]  # which is over
        assert {name: model_of(address, name) for name in wanted} == wanted
        gate.unlink()
        assert [wire.read().status for wire in (held, waiting, last)] == [200] * 3

        rounds = 1 << 12
        longer = max(0.06, 1.01 * server.metric("tailcut_loop_longest_stall_cpu_seconds"))
        while server.metric("tailcut_loop_longest_stall_cpu_seconds") < longer:
            rounds *= 2
            assert wire.ask(request_for(rounds, "inline")).status == 200
        assert wire.ask(request_for(1 << 40)).status == 504
        await_alerts(address, {"TailcutLoopBlocked", "TailcutEngineHung"}, server)
        assert model_of(address, "TailcutEngineHung") == "endless"
        assert server.stop() == 0


def passed_on(server: Server) -> float:
    """Requests that the first step has answered and the second has been given: it answers none while it holds one."""
    pending = server.metric("tailcut_stage_pending_requests")
    return server.metric("tailcut_stage_requests_total") if pending else 0


def model_of(address: str, alert: str) -> str:
    """The model for which an alert fires, where there is one."""
    (only,) = query(address, f'ALERTS{{alertname="{alert}",alertstate="firing"}}')
    return only["metric"]["model"]


@contextmanager
def asking_for(server: Server, *models: str) -> Iterator[None]:
    """Meanwhile one client asks models of four numbers for rows of zeros."""
    over = threading.Event()

    def ask() -> None:
        with server.connect() as wire:
            while not over.wait(0.001):
                for model in models:
                    assert wire.ask(raw_request(model, bytes(16))).status == 200

    client = threading.Thread(target=ask)
    client.start()
    try:
        yield
    finally:
        over.set()
        client.join()


def await_alerts(address: str, names: set[str], server: Server) -> None:
    """Until they fire."""
    end = time.monotonic() + WAIT_S
    while not firing(address) >= names:
        assert server.process.poll() is None
        assert time.monotonic() < end, query(address, "ALERTS")
        time.sleep(PAUSE_S)


@pytest.mark.slow
def test_the_alert_of_a_quota_fires(tmp_path: Path) -> None:
    """In a real control group that may use a tenth of a CPU, under load."""
    write_rules(tmp_path)
    with (
        quota_group(1000) as group,
        serving(tmp_path, perceptron([4, 3], tmp_path / "mlp.onnx")) as server,
        prometheus(tmp_path, server.address) as address,
        asking_for(server, "mlp"),
    ):
        (group.folder / "cgroup.procs").write_text(str(server.process.pid))
        until(lambda: query(address, "tailcut_throttled_seconds_total"), server)
        assert firing(address) == set()
        group.allow(10)
        try:
            await_alerts(address, {"TailcutThrottled"}, server)
        finally:
            group.allow(1000)


def guide_queries() -> list[str]:
    """What the guide's table asks Prometheus."""
    _, _, rest = GUIDE.read_text(encoding="utf-8").partition("| question | PromQL |\n|---|---|\n")
    table, _, _ = rest.partition("\n\n")
    return [line.split("|", 2)[2].split("`")[1] for line in table.splitlines()]


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server with a limit, a pipeline and traces, and the address of a Prometheus that keeps exemplars."""
    folder = tmp_path_factory.mktemp("scraped")
    shutil.copy(FOLDER / "tailcut.rules.yml", folder)
    shutil.copy(samples.__file__, folder / "samples.py")
    path = perceptron([4, 3], folder / "mlp.onnx")
    flags = ["--slo", "20ms", "--otlp-endpoint", "http://127.0.0.1:1"]
    with (
        serving(folder, path, f"traced={path}", f"{folder}/samples.py:numbers", *flags) as server,
        prometheus(folder, server.address, "--enable-feature=exemplar-storage") as address,
    ):
        yield server, address


@pytest.mark.slow
def test_every_query_of_the_guide_has_data(scraped: tuple[Server, str]) -> None:
    """On a server with a limit and a pipeline, while requests are answered: numbers, and nothing that is none."""
    assert len(guide_queries()) > 10
    server, address = scraped
    with asking_for(server, "mlp", "numbers"):
        end = time.monotonic() + WAIT_S
        while missing := [item for item in guide_queries() if not any(map(math.isfinite, values(address, item)))]:
            assert time.monotonic() < end, missing
            time.sleep(PAUSE_S)
        sizes = 'rate(tailcut_stage_batch_rows_sum{stage="where"}[5m]) / rate(tailcut_stage_batch_rows_count[5m])'
        assert values(address, sizes) == [pytest.approx(1)]


@pytest.mark.slow
def test_exemplars_lead_from_a_histogram_to_a_trace(scraped: tuple[Server, str]) -> None:
    """Prometheus scrapes OpenMetrics, stores the names that it has in plain text, and finds the trace of a request."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs pip install 'tailcut[otel]'")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    server, address = scraped
    with server.connect() as wire:
        head = f"traceparent: 00-{trace}-00f067aa0ba902b7-01"
        assert wire.ask(raw_request("traced", bytes(16), head)).status == 200
    end = time.monotonic() + WAIT_S
    while not (result := exemplars(address, "tailcut_request_seconds_bucket")):
        assert time.monotonic() < end, (server.stderr.parent / "prometheus.log").read_text()
        time.sleep(PAUSE_S)
    names = {"nv_inference_request_success", "tailcut_http_replies_total", "tailcut_batch_rows_bucket"}
    for name in names:
        assert query(address, name), name
    (target,) = query(address, "up")
    assert target["value"][1] == "1"
    ((series),) = result
    assert series["seriesLabels"]["model"] == "traced"
    (exemplar,) = series["exemplars"]
    assert exemplar["labels"] == {"trace_id": trace}
    bound = float(series["seriesLabels"]["le"])
    assert bound / 2 <= float(exemplar["value"]) <= bound
    assert abs(exemplar["timestamp"] - time.time()) < 3600


def exemplars(address: str, name: str) -> list[dict]:
    """What a Prometheus keeps of a histogram's traces; nothing while it does not answer yet."""
    now = time.time()
    asked = urllib.parse.urlencode({"query": name, "start": now - 3600, "end": now + 3600})
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/query_exemplars?{asked}", timeout=5) as answer:
            return json.load(answer)["data"]
    except OSError:
        return []

"""The alert rules: checked and tested by promtool, and fired by a real Prometheus that scrapes a server in trouble."""

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from tests.prometheus import INSTALLED, MISSING, prometheus, query
from tests.server.test_overload import ONE, busy, make_profile
from tests.servers import raw_request, serving, until

FOLDER = Path(__file__).parent.parent.parent / "deploy" / "prometheus"
WAIT_S = 120.0
pytestmark = pytest.mark.skipif(not INSTALLED, reason=MISSING)


@pytest.mark.parametrize(
    "command", [["check", "rules", "tailcut.rules.yml"], ["test", "rules", "tailcut.rules.test.yml"]], ids=str
)
def test_promtool_finds_nothing(command: list[str]) -> None:
    """The rules are valid, fire on made-up series of a fault, and keep silent on those of a server that is well."""
    done = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def firing(address: str) -> set[str]:
    return {one["metric"]["alertname"] for one in query(address, 'ALERTS{alertstate="firing"}')}


def test_the_alerts_fire_on_a_real_fault(tmp_path: Path) -> None:
    """With more work than it can do in time: too slow, and refusing. Before that there is no alert."""
    profile = make_profile(tmp_path)
    rules = (FOLDER / "tailcut.rules.yml").read_text(encoding="utf-8")
    hasty = re.sub(r"for: 1m", "for: 1s", rules).replace("[1m]", "[5s]")  # seconds instead of minutes
    (tmp_path / "hasty.rules.yml").write_text(hasty)
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


def test_exemplars_lead_from_a_histogram_to_a_trace(tmp_path: Path) -> None:
    """Prometheus scrapes OpenMetrics, stores the names that it has in plain text, and finds the trace of a request."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs pip install 'tailcut[otel]'")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with serving(tmp_path, make_profile(tmp_path), "--otlp-endpoint", "http://127.0.0.1:1") as server:
        with server.connect() as wire:
            head = f"traceparent: 00-{trace}-00f067aa0ba902b7-01"
            assert wire.ask(raw_request("slow", ONE, head)).status == 200
        with prometheus(tmp_path, server.address, "--enable-feature=exemplar-storage") as address:
            end = time.monotonic() + WAIT_S
            while not (found := exemplars(address, "tailcut_request_seconds_bucket")):
                assert time.monotonic() < end, (tmp_path / "prometheus.log").read_text()
            names = {"nv_inference_request_success", "tailcut_http_replies_total", "tailcut_batch_rows_bucket"}
            for name in names:
                assert query(address, name), name
            (target,) = query(address, "up")
            assert target["value"][1] == "1"
    ((series),) = found
    assert series["seriesLabels"]["model"] == "slow"
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

"""What the dashboard and the autoscalers ask Prometheus: by a real server's metrics, in a real Prometheus."""

import json
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engines.models import perceptron
from tests.kubernetes.manifests import DEPLOY, documents, manifest
from tests.prometheus import INSTALLED, MISSING, prometheus, values
from tests.servers import TIMEOUT_S, Server, raw_request, serving

WAIT_S = 60.0
QUIET = ("tailcut_grpc_replies_total", "tailcut_stage_")  # no samples without gRPC and pipelines
NAME = re.compile(r"\b((?:tailcut|nv)_\w+)")


def dashboard() -> dict[str, Any]:
    return json.loads((DEPLOY / "grafana" / "tailcut.json").read_text(encoding="utf-8"))


def panel_queries() -> list[str]:
    """Every query of the dashboard's panels."""
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def scaler_queries() -> list[str]:
    """Those of the autoscalers: of KEDA, and of the adapter for the HorizontalPodAutoscaler."""
    triggers = manifest("kubernetes/scaledobject.yaml")["spec"]["triggers"]
    return [trigger["metadata"]["query"] for trigger in triggers] + list(adapter_queries().values())


def adapter_queries() -> dict[str, str]:
    """By the metric's name for the autoscaler: the query, with what the adapter fills in for a pod."""
    (values,) = documents(DEPLOY / "prometheus" / "adapter-values.yaml")
    result = {}
    for rule in values["rules"]["custom"]:
        series, _, _ = rule["seriesQuery"].partition("{")
        query = rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.GroupBy>>", "pod")
        result[rule["name"]["as"]] = query.replace("<<.LabelMatchers>>", 'namespace="default",pod=~"tailcut-0"')
    return result


def plain(query: str) -> str:
    """A query without Grafana's variables, over seconds instead of minutes."""
    return re.sub(r"\$(job|model|instance)\b", ".*", query).replace("$__rate_interval", "5s").replace("[30s]", "[5s]")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("scraped")
    with serving(folder, perceptron([4, 3], folder / "mlp.onnx"), "--slo", "20ms") as running:
        yield running
        assert running.stop() == 0


@pytest.fixture(scope="module")
def scraped(server: Server) -> dict[str, set[str]]:
    """The names of the samples that a server has after a request, each with its labels."""
    with server.connect() as wire:
        assert wire.ask(raw_request("mlp", bytes(16))).status == 200
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=TIMEOUT_S) as answer:
        text = answer.read().decode()
    result: dict[str, set[str]] = {
        name: set() for name in re.findall(r"^# TYPE (\w+) (?:counter|gauge)$", text, re.MULTILINE)
    }
    for name in re.findall(r"^# TYPE (\w+) histogram$", text, re.MULTILINE):
        result |= {f"{name}_{part}": set() for part in ("bucket", "sum", "count")}
    for name, labels in re.findall(r"^([a-z]\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        result.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return result


@pytest.mark.parametrize("query", [*panel_queries(), *scaler_queries()])
def test_every_metric_of_a_query_is_one_of_the_server(query: str, scraped: dict[str, set[str]]) -> None:
    """Its name is in a real answer of /metrics, and the labels that it is grouped by are that metric's."""
    names = NAME.findall(query)
    assert names
    assert [name for name in names if name not in scraped] == []
    own = {"job", "instance", "pod", "namespace", "le"}  # Prometheus's, Kubernetes's, and of buckets
    labels = {label for group in re.findall(r"by \(([^)]*)\)", query) for label in re.split(r",\s*", group)} - own
    for name in names:
        assert name.startswith(QUIET) or labels <= scraped[name], name


def test_the_autoscaler_asks_for_what_the_adapter_offers() -> None:
    """The names of the HorizontalPodAutoscaler's metrics are those that the adapter's rules make."""
    metrics = manifest("kubernetes/horizontalpodautoscaler.yaml")["spec"]["metrics"]
    assert {metric["pods"]["metric"]["name"] for metric in metrics} == set(adapter_queries())


def test_panels_have_places_of_their_own() -> None:
    """No two panels share an id or overlap, and every panel of data says what it shows."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert [panel["title"] for panel in panels if panel["type"] != "row" and not panel["description"]] == []


@pytest.mark.skipif(not INSTALLED, reason=MISSING)
def test_every_query_has_data(server: Server, tmp_path: Path) -> None:
    """While requests are answered, each query gives numbers, except those of what this server does not do."""
    over = threading.Event()

    def ask() -> None:
        with server.connect() as wire:
            while not over.wait(0.01):
                assert wire.ask(raw_request("mlp", bytes(16))).status == 200

    client = threading.Thread(target=ask)
    client.start()
    try:
        with prometheus(tmp_path, server.address) as address:
            end = time.monotonic() + WAIT_S
            while not values(address, "rate(nv_inference_request_success[5s]) > 0"):
                assert time.monotonic() < end, (tmp_path / "prometheus.log").read_text()
                over.wait(0.1)
            result = {query: values(address, plain(query)) for query in [*panel_queries(), *scaler_queries()]}
            busy, _, loops = (values(address, plain(query)) for query in adapter_queries().values())
    finally:
        over.set()
        client.join(TIMEOUT_S)
    assert [
        query for query, numbers in result.items() if not numbers and not any(item in query for item in QUIET)
    ] == []
    assert 0 < busy[0] <= 1
    assert 0 < loops[0] <= 1

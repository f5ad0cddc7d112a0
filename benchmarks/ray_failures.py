"""Goodput over time while replicas, a node and a model's file go: an application of Ray Serve on two nodes.

    pip install 'tailcut[ray]'
    python benchmarks/ray_failures.py [-o ray-failures.svg] [--rate 300] [--calm 8]

Threads call `tailcut.Client("ray://app")` at planned times, and every answer is compared with onnxruntime's. Meanwhile
the load is doubled and halved (the autoscaler follows), a replica's server is killed, a node is lost and another one
comes, and the file of `tailcut ray config` is deployed for a model with other weights. The plot has the right answers
of each half second, and the failed calls. Both nodes and the client share this machine's cores, so its level says
nothing; what is to be seen is what is lost, and for how long.
"""

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import psutil

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import LAYERS, perceptron

from tailcut.report.charts import Chart, Drawing, Point, Series, linear

VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
}
NODE = {"num_cpus": 4, "object_store_memory": 80 << 20, "include_dashboard": False}
MODEL = "tiny"
THREADS = 16
BIN_S = 0.5
LIMIT_S = 240.0
INPUTS = 64
COLOURS = {"c1": "#2a78b8", "c2": "#c8403a"}


@dataclass
class Calls:
    """Calls at planned times, from threads that take the next one in turn."""

    client: Any
    truths: list[list[np.ndarray]]
    inputs: np.ndarray
    rate: float
    began: float = field(default_factory=time.monotonic)
    done: list[tuple[float, bool]] = field(default_factory=list)
    wrong: int = 0
    reasons: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock, self._stop, self._due = threading.Lock(), threading.Event(), self.began
        self._threads = [threading.Thread(target=self._work) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                self._due = due = max(self._due + 1 / self.rate, time.monotonic() - BIN_S)
            self._stop.wait(max(0.0, due - time.monotonic()))
            at = int(due * 1e6) % INPUTS
            try:
                answer = self.client.infer(MODEL, {"x": self.inputs[at]}, timeout_s=5.0)["y"]
            except Exception as error:  # noqa: BLE001  whatever it is, it is counted
                self.reasons.append(f"{self.now:.1f} s: {error!r}")
                self.done.append((self.now, False))
                continue
            right = any(np.allclose(answer, item[at], rtol=1e-3, atol=1e-4) for item in self.truths)
            self.wrong += not right
            self.done.append((self.now, right))


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, or exit."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {LIMIT_S:g} s")
        time.sleep(0.1)


def truths(model: Path, inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return [session.run(None, {"x": x})[0] for x in inputs]


def listener(address: str) -> int:
    port = int(address.rpartition(":")[2])
    result = (item for item in psutil.net_connections("tcp") if item.status == psutil.CONN_LISTEN)
    return next(item.pid for item in result if item.laddr.port == port and item.pid)


def story(cluster: Any, folder: Path, args: argparse.Namespace) -> tuple[Calls, list[tuple[float, str]]]:
    """All that happens, and when."""
    import yaml
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    import tailcut
    from tailcut.ray.application import make_plan
    from tailcut.ray.plan import CarriedLoad, Replicas, serve_config

    widths = LAYERS[MODEL]
    versions = [perceptron(folder / f"{MODEL}.{n}.onnx", (widths[0], 256 + n, *widths[2:])) for n in range(2)]
    model = folder / f"{MODEL}.onnx"
    inputs = np.random.default_rng(0).standard_normal((INPUTS, 1, widths[0])).astype(np.float32)
    scaled = Replicas(least=2, most=3, up_s=1.0, down_s=3.0, window_s=2.0)

    def deploy(version: Path) -> None:
        model.write_bytes(version.read_bytes())
        made = make_plan(model, replicas=scaled, cpus=2.0, drain_s=1.0, host="127.0.0.1", options=("--no-auto",))
        # As if a replica carried six tenths of the load: two are enough for it, and not for twice as much.
        plan = msgspec.structs.replace(made, carried=CarriedLoad(rate=0.6 * args.rate, ongoing=1.0, target_ongoing=1.0))
        content = serve_config("app", "/", plan)
        text = yaml.safe_dump(content)
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(yaml.safe_load(text)))

    deploy(versions[0])
    until(lambda: serve.status().applications["app"].status == "RUNNING", "the application")
    client = tailcut.Client("ray://app")
    calls = Calls(client, [truths(version, inputs) for version in versions], inputs, args.rate)
    events: list[tuple[float, str]] = []

    def happens(what: str) -> None:
        events.append((calls.now, what))
        print(f"{calls.now:6.1f} s  {what}; {len(client.servers)} replicas", flush=True)

    time.sleep(args.calm)
    happens("a server is killed")
    before = set(client.servers)
    os.kill(listener(client.servers[0]), signal.SIGKILL)
    until(lambda: len(client.servers) >= 2 and set(client.servers) != before, "a new replica")
    happens("replaced")
    time.sleep(args.calm)
    happens("a node is lost")
    (far,) = cluster.worker_nodes
    cluster.remove_node(far, allow_graceful=False)
    time.sleep(args.calm)
    cluster.add_node(**NODE)
    happens("a node comes")
    until(lambda: len(client.servers) >= 2, "replicas")
    time.sleep(args.calm)
    happens("rolling update")
    before = set(client.servers)
    deploy(versions[1])
    until(lambda: len(client.servers) >= 2 and not before & set(client.servers), "the update")
    happens("updated")
    time.sleep(args.calm)
    calls.rate = 2 * args.rate
    happens("load doubles")
    until(lambda: len(client.servers) == 3, "a third replica")
    happens("3 replicas")
    time.sleep(args.calm)
    calls.rate = args.rate / 2
    happens("load falls")
    until(lambda: len(client.servers) == 2, "two replicas")
    happens("2 replicas")
    time.sleep(args.calm)
    calls.stop()
    client.close()
    return calls, events


def chart_of(calls: Calls) -> Chart:
    """Right answers and failures per second, by half seconds."""
    end = max(at for at, _ in calls.done)
    edges = np.arange(0.0, end + BIN_S, BIN_S)
    series = []
    for name, tone, wanted in (("right answers", "c1", True), ("failed calls", "c2", False)):
        counts, _ = np.histogram([at for at, right in calls.done if right is wanted], edges)
        points = tuple(
            Point(float(at + BIN_S / 2), float(count / BIN_S), "", "") for at, count in zip(edges, counts, strict=False)
        )
        series.append(Series(name, tone, points[:-1]))
    top = max(point.y for item in series for point in item.points)
    return Chart(
        "goodput while replicas and nodes go",
        linear(0.0, end, "seconds", "{:g}".format),
        linear(0.0, 1.15 * top, "calls per second", "{:,.0f}".format),
        tuple(series),
    )


def svg_of(chart: Chart, events: list[tuple[float, str]]) -> str:
    """The wide drawing as a file of its own, readable on light and on dark ground."""
    d: Drawing = chart.drawings[0]
    grey = "#808080"
    head = 46  # three lines of text above the chart
    text = f'font-family="sans-serif" font-size="12" fill="{grey}"'
    box = f"0 {-head} {d.width} {d.height + head}"
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" role="img" aria-label="{chart.label}">']
    for place, label in d.y_ticks:
        lines.append(f'<line x1="{d.left}" x2="{d.right}" y1="{place}" y2="{place}" stroke="{grey}" opacity=".25"/>')
        lines.append(f'<text x="{d.left - 8}" y="{place + 4}" text-anchor="end" {text}>{label}</text>')
    for place, label in d.x_ticks:
        lines.append(f'<text x="{place}" y="{d.bottom + 18}" text-anchor="middle" {text}>{label}</text>')
    lines.append(f'<text x="{d.right}" y="{d.bottom + 38}" text-anchor="end" {text}>{chart.x.title}</text>')
    for number, (at, what) in enumerate(events):
        x = round(d.left + (d.right - d.left) * chart.x.at(at), 1)
        y = d.top - 8 - 18 * (number % 3)
        lines.append(f'<line x1="{x}" x2="{x}" y1="{y + 4}" y2="{d.bottom}" stroke="{grey}" stroke-dasharray="3 3"/>')
        shift, anchor = (3, "start") if x < d.right - 90 else (-3, "end")
        lines.append(f'<text x="{x + shift}" y="{y}" text-anchor="{anchor}" {text}>{what}</text>')
    for path in d.paths:
        colour = COLOURS[path["tone"]]
        lines.append(f'<path d="{path["line"]}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for number, (name, tone) in enumerate(chart.legend):
        x, y = d.left + 10 + 220 * number, d.bottom + 38
        lines.append(f'<rect x="{x}" y="{y - 9}" width="12" height="4" fill="{COLOURS[tone]}"/>')
        lines.append(f'<text x="{x + 18}" y="{y}" {text}>{name} per second</text>')
    return "\n".join([*lines, "</svg>", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("ray-failures.svg"))
    parser.add_argument("--rate", type=float, default=300.0, help="calls per second")
    parser.add_argument("--calm", type=float, default=8.0, help="seconds between two events")
    args = parser.parse_args()
    if find_spec("ray") is None:
        print("Ray is not installed: pip install 'tailcut[ray]'")
        return 0
    os.environ.update(VARIABLES)
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        cluster.add_node(**NODE)
        ray.init(address=cluster.address, log_to_driver=False)
        serve.start(proxy_location="Disabled")
        with tempfile.TemporaryDirectory() as folder:
            calls, events = story(cluster, Path(folder), args)
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()
    failed = [at for at, right in calls.done if not right]
    print(f"{len(calls.done):,} calls, {calls.wrong} wrong answers, {len(failed) - calls.wrong} failed")
    for reason in calls.reasons[:20]:
        print(f"  {reason}")
    args.output.write_text(svg_of(chart_of(calls), events))
    print(f"wrote {args.output}")
    return 1 if calls.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Ray Serve by itself, Tailcut's replicas under it through each entry path, and Tailcut alone: one table.

    pip install 'tailcut[ray]'
    python benchmarks/ray_serve.py [--seconds 3] [--rounds 3] [--modes proxy,haproxy,direct]

The model is `tiny`, with one engine thread and one replica everywhere, raw float32 bodies both ways, the compiled load
client on the same cores. In each round, each entry path has a closed loop of one connection and one of 32; cells are
medians of the rounds, and CPU per request is the time of all processes of the contestant (Ray's included, its idle
share as well) with 32 connections. A Ray cluster of its own, in child processes, has the paths that need other
environment variables: Serve's proxy; Serve's HAProxy (`RAY_SERVE_ENABLE_HA_PROXY=1`); direct ingress
(`RAY_SERVE_ENABLE_DIRECT_INGRESS=1`). Tailcut alone is measured in each of them, while that cluster is idle, and the
ratio in the last column is of the same cluster. Calls from Python are made by the cluster's own driver, one after the
other and then from 32 threads, so their CPU includes the client's; `Client("http://")` to Tailcut alone is beside them.

`Ray Serve` is an onnxruntime deployment written by hand with documented settings: one session with one thread,
`max_ongoing_requests` of 256, no access log.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import psutil

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import LAYERS, make
from serving import BUILD

from tailcut.engines.base import EngineOptions
from tailcut.lab.client import closed_loop
from tailcut.lab.load import LoadTarget, Payload
from tailcut.machine.fingerprint import fingerprint
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings

MODEL = "tiny"
SETTINGS = Settings(engine=EngineOptions(threads=1), batching=BatchingSettings(max_batch_size=32, dispatch="inline"))
VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",  # 15 by default, which the servers inherit
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_memory_monitor_refresh_ms": "0",
}
MODES = {
    "proxy": {},
    "haproxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_NBTHREAD": "1"},
    "direct": {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "1"},
}
ALONE = "Tailcut alone"
CLIENT, HANDLE = '`Client("ray://")`', "`handle.infer.remote`"
CONNECTIONS = (1, 32)
READY_S = 120.0


@dataclass
class Entry:
    """One entry path: where it is asked, and which processes belong to it."""

    name: str
    port: int
    path: str
    pids: list[int]
    cells: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: {item: [] for item in CONNECTIONS})
    cpu_us: list[float] = field(default_factory=list)
    failed: str = ""

    def median(self, connections: int, column: int) -> float:
        return statistics.median(cell[column] for cell in self.cells[connections])


# The part that runs in a Ray cluster of its own.


def hand_written(model: str) -> object:
    """The deployment that Ray's documentation leads to."""
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    @serve.deployment(ray_actor_options={"num_cpus": 1}, max_ongoing_requests=256)
    class Inference:
        def __init__(self) -> None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self.session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])

        async def __call__(self, request: Request) -> Response:
            x = np.frombuffer(await request.body(), np.float32).reshape(1, -1)
            y = self.session.run(None, {"x": x})[0]
            return Response(y.tobytes(), media_type="application/octet-stream")

    return Inference.bind()  # type: ignore[attr-defined]  # of the decorator


def session(model: Path, profile: Path, mode: str, port: int) -> None:
    """Start Ray, Serve and both applications; print where they are; stop when stdin ends."""
    import ray
    from ray import serve
    from ray.serve.context import _get_global_client

    import tailcut
    import tailcut.ray

    options = {"num_cpus": 4, "include_dashboard": False, "log_to_driver": False, "object_store_memory": 80 << 20}
    ray.init(address="local", **options)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"enable_access_log": False})
        serve.run(hand_written(str(model)), name="hand", route_prefix="/hand")
        serve.run(
            tailcut.ray.deployment(profile, max_ongoing_requests=256, host="127.0.0.1"),
            name="tiny",
            route_prefix="/tiny",
        )
        ports = {"hand": port, "tiny": port}
        if mode == "direct":
            groups = ray.get(_get_global_client()._controller.get_target_groups.remote())
            ports = {group.app_name: group.targets[0].port for group in groups if group.targets}
        with tailcut.Client("ray://tiny") as client:
            own = int(client.servers[0].rpartition(":")[2])
            address = ray.get_runtime_context().gcs_address
            print(json.dumps({"ports": ports, "own": own, "address": address}), flush=True)
            handle = serve.get_app_handle("tiny")
            x = {"x": np.zeros((1, LAYERS[MODEL][0]), np.float32)}
            calls = {CLIENT: lambda: client.infer(MODEL, x), HANDLE: lambda: handle.infer.remote(x).result()}
            for line in sys.stdin:
                way, url, seconds = json.loads(line)
                with tailcut.Client(url) if url else nullcontext() as alone:
                    call = calls[way] if alone is None else partial(alone.infer, MODEL, x)
                    print(json.dumps(timed_threads(call, seconds)), flush=True)
    finally:
        serve.shutdown()
        ray.shutdown()


def timed_threads(call: Callable[[], object], seconds: float) -> tuple[float, float, int]:
    """The p50 of calls one after the other in microseconds, calls per second of 32 threads, and all of both."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    counts = [0] * CONNECTIONS[-1]
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < end:
            call()
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(counts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statistics.median(took) * 1e6, sum(counts) / seconds, sum(counts) + len(took)


# The part that measures.


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextmanager
def child(command: list[str], variables: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A process that is told to stop by the end of its stdin, and then by a signal."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | variables
    )
    try:
        yield process
    finally:
        with suppress(OSError):
            process.stdin.close()
        if "serve" in command:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def first_line(process: subprocess.Popen) -> dict:
    line = process.stdout.readline()
    if not line.strip():
        raise SystemExit("a contestant did not start")
    return json.loads(line)


def tree_cpu_s(pids: list[int]) -> float:
    """CPU time of processes and all that they have started, those that have ended and were waited for included."""
    total, seen = 0.0, set()
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for item in [root, *root.children(recursive=True)]:
                if item.pid in seen:
                    continue
                seen.add(item.pid)
                with suppress(psutil.NoSuchProcess):
                    total += sum(item.cpu_times()[:2])
    return total


def payload(path: str) -> Payload:
    body = np.random.default_rng(0).standard_normal(LAYERS[MODEL][0]).astype(np.float32).tobytes()
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/octet-stream"]
    lines += [f"Content-Length: {len(body)}", "Inference-Header-Content-Length: 0", "", ""]
    return Payload("\r\n".join(lines).encode() + body)


def measure(entry: Entry, seconds: float) -> None:
    target = LoadTarget("127.0.0.1", entry.port)
    for connections in CONNECTIONS:
        before, began = tree_cpu_s(entry.pids), time.monotonic()
        result = closed_loop(target, [payload(entry.path)], concurrency=connections, duration_s=seconds, warmup_s=0.5)
        spent, took = tree_cpu_s(entry.pids) - before, time.monotonic() - began
        if result.errors or not result.samples:
            entry.failed = f"{result.errors}"
            return
        entry.cells[connections].append((float(np.median(result.latencies_ns)) / 1e3, result.rate_achieved))
        if connections == CONNECTIONS[-1]:
            entry.cpu_us.append(spent / (result.rate_achieved * took) * 1e6)


@contextmanager
def balancer(ray_address: str) -> Iterator[tuple[int, int]]:
    """The port of `tailcut ray haproxy`, and its process."""
    port = free_port()
    command = [sys.executable, "-m", "tailcut", "ray", "haproxy", MODEL, "--bind", f"127.0.0.1:{port}"]
    process = subprocess.Popen(command, env=os.environ | VARIABLES | {"RAY_ADDRESS": ray_address})
    try:
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5):
                break
            time.sleep(0.2)
        else:
            raise SystemExit(f"tailcut ray haproxy: not ready within {READY_S:g} s")
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def check(entry: Entry, model: Path) -> None:
    """An answer that is wrong is not worth timing."""
    x = np.random.default_rng(0).standard_normal(LAYERS[MODEL][0]).astype(np.float32)
    expected = onnxruntime.InferenceSession(str(model)).run(None, {"x": x[None]})[0].ravel()
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    url = f"http://127.0.0.1:{entry.port}{entry.path}"
    request = urllib.request.Request(url, x.tobytes(), headers, method="POST")
    end = time.monotonic() + READY_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                got = np.frombuffer(answer.read()[-expected.nbytes :], np.float32)
            break
        except OSError as error:  # a proxy has not heard of the application yet
            if time.monotonic() > end:
                raise SystemExit(f"{entry.name}: {error}") from None
            time.sleep(0.5)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def entries(mode: str, result: dict, pid: int, alone: tuple[int, int], proxied: tuple[int, int] | None) -> list[Entry]:
    """The paths of one cluster, and Tailcut alone beside it."""
    names = {"proxy": "Serve's proxy", "haproxy": "Serve's HAProxy", "direct": "Serve's direct ingress"}
    infer = f"/v2/models/{MODEL}/infer"
    hand, tiny = result["ports"]["hand"], result["ports"][MODEL]
    paths = [
        Entry(f"Ray Serve, {names[mode]}", hand, "/hand", [pid]),
        Entry(f"Tailcut, {names[mode]}", tiny, f"/{MODEL}{infer}", [pid]),
    ]
    if mode == "proxy":
        paths.append(Entry("Tailcut, its own port", result["own"], infer, [pid]))
        if proxied is not None:
            paths.append(Entry("Tailcut, `tailcut ray haproxy`", proxied[0], infer, [pid, proxied[1]]))
    return [*paths, Entry(ALONE, alone[0], infer, [alone[1]])]


def run_mode(mode: str, model: Path, profile: Path, args: argparse.Namespace) -> list[Entry]:
    """All rounds in one cluster."""
    here = [sys.executable, __file__, "--session", mode, "--model", str(model), "--profile", str(profile)]
    serve = [sys.executable, "-m", "tailcut", "serve", str(profile), "--port", "0", "--json"]
    with child([*here, "--port", str(free_port())], VARIABLES | MODES[mode]) as cluster, child(serve, {}) as alone:
        result, own = first_line(cluster), first_line(alone)
        with balancer(result["address"]) if mode == "proxy" else nullcontext() as proxied:
            paths = entries(mode, result, cluster.pid, (own["port"], alone.pid), proxied)
            for path in paths:
                check(path, model)
            for _ in range(args.rounds):
                for path in paths:
                    if not path.failed:
                        measure(path, args.seconds)
            if mode == "proxy":
                for way, url, pids in (
                    (CLIENT, "", [cluster.pid]),
                    (HANDLE, "", [cluster.pid]),
                    ('`Client("http://")`, Tailcut alone', f"http://127.0.0.1:{own['port']}", [cluster.pid, alone.pid]),
                ):
                    before = tree_cpu_s(pids)
                    cluster.stdin.write(f"{json.dumps([way, url, args.seconds])}\n")
                    cluster.stdin.flush()
                    p50_us, rate, calls = json.loads(cluster.stdout.readline())
                    cpu_us = (tree_cpu_s(pids) - before) / calls * 1e6
                    print(f"| in Python, {way} | {p50_us:,.0f} | {rate:,.0f} | {cpu_us:,.0f}, client's included | |")
    return paths


def show(paths: list[Entry]) -> None:
    """Rows of Markdown, each beside Tailcut alone in the same cluster."""
    alone = paths[-1]
    for path in paths:
        if path.failed:
            print(f"| {path.name} | failed: {path.failed} | | | |")
            continue
        p50, rate = path.median(1, 0), path.median(32, 1)
        print(
            f"| {path.name} | {p50:,.0f} | {rate:,.0f} | {statistics.median(path.cpu_us):,.0f} "
            f"| {rate / alone.median(32, 1):.2f} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modes", default=",".join(MODES), help="clusters, separated by commas")
    parser.add_argument("--session", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--profile", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if find_spec("ray") is None:
        print("Ray is not installed: pip install 'tailcut[ray]'")
        return 0
    if args.session:
        session(args.model, args.profile, args.session, args.port)
        return 0
    model = make(MODEL, BUILD / "models")
    profile = BUILD / f"{MODEL}.ray.profile.toml"
    Profile.of_model(model, SETTINGS).save(profile)
    facts = fingerprint()
    print(f"{facts['cpu']}, {facts['usable_cpus']} CPUs; {args.rounds} rounds of {args.seconds:g} s")
    print("| entry path | p50 at 1, us | requests/s at 32 | CPU per request, us | requests/s to Tailcut alone |")
    print("|---|---|---|---|---|")
    for mode in args.modes.split(","):
        show(run_mode(mode, model, profile, args))
    return 0


if __name__ == "__main__":
    sys.exit(main())

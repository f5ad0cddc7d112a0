"""The load generator against the truth: a queue with a formula, other generators, and its own limits.

    python benchmarks/load_client.py [--seconds 10] [--rounds 3]

First, time in an M/D/1 queue of 4 ms at 50, 60 and 70 % load, beside Erlang's formula. Then requests per second and p50
of the same servers, a bare echo and a Tailcut server, as `tailcut bench` and wrk (Debian package `wrk`) see them, in
turns; of the latter also as perf_analyzer sees it, where that can be had (the wheel tritonclient 2.51.0 carries it; it
wants the wheel nvidia-cuda-runtime-cu12 and Debian's libb64-0d), else a line says why not. Last, how many requests a
second one client process can plan, and how late it is. Its limit: a lateness under a quarter of the median latency, or
under 2 ms.
"""

import argparse
import csv
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from serving import ECHO, first_line, micros, running

from tailcut.lab.arrivals import Constant, Poisson
from tailcut.lab.client import closed_loop, open_loop
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import encode
from tailcut.lab.session import LoadSession
from tailcut.lab.workload import Workload
from tailcut.machine.fingerprint import fingerprint
from tailcut.models import digits_model
from tailcut.stats import Sample, percentile
from tailcut.stats.serial import serial_percentile_interval

BUILD = Path(__file__).parent.parent / "build"
SERVICE_S = 0.004
BODY_BYTES = 256
QUEUE = """
import asyncio, sys
SERVICE, OK, free = float(sys.argv[1]), b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n", 0.0
class Queue(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data):
        global free
        loop = asyncio.get_running_loop()
        free = max(loop.time(), free) + SERVICE
        loop.call_at(free, self.transport.write, OK)
async def main():
    server = await asyncio.get_running_loop().create_server(Queue, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def time_in_queue(q: float, load: float) -> float:
    """The q-percentile of the time in an M/D/1 queue, in service times, by bisection of Erlang's formula."""

    def waits_at_most(t: float) -> float:
        terms = ((load * (k - t)) ** k / math.factorial(k) * math.exp(load * (t - k)) for k in range(int(t) + 1))
        return (1 - load) * math.fsum(terms)

    low, high = 0.0, 20.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if waits_at_most(middle) < q else (low, middle)
    return 1 + high


def queue(seconds: float) -> None:
    print(f"\nM/D/1, service {SERVICE_S * 1e3:g} ms, Poisson arrivals; ms")
    print(f"{'load':>5s}{'samples':>9s}{'p50':>8s}{'formula':>9s}{'p99':>8s}{'formula':>9s}   99 % interval of the p99")
    for load in (0.5, 0.6, 0.7):
        with running([sys.executable, "-c", QUEUE, str(SERVICE_S)]) as child:
            target = LoadTarget(port=int(first_line(child)))
            result = open_loop(
                target,
                [encode(target, "POST", "/")],
                rate=load / SERVICE_S,
                duration_s=2 * seconds,
                warmup_s=0.5,
                seed=1,
            )
        sample = Sample.of(result.latencies_ns / 1e6)
        interval = serial_percentile_interval(result.latencies_ns / 1e6, 0.99)
        p50, p99 = (time_in_queue(q, load) * SERVICE_S * 1e3 for q in (0.5, 0.99))
        held = "unknown"
        if interval is not None:
            word = "holds the formula's" if interval.low <= p99 <= interval.high else "MISSES the formula's"
            word += " (the client itself was late: this machine is busy)" * result.client_behind
            held = f"{interval.low:.2f} to {interval.high:.2f}: {word}"
        print(
            f"{load:>5.0%}{result.samples:>9,}{percentile(sample, 0.5):>8.2f}{p50:>9.2f}"
            f"{percentile(sample, 0.99):>8.2f}{p99:>9.2f}   {held}"
        )


def wrk(url: str, connections: int, seconds: float) -> tuple[float, float]:
    """Requests per second and p50 in microseconds."""
    script = BUILD / "post.lua"
    script.write_text(
        'wrk.method = "POST"\nwrk.body = string.rep("\\0", tonumber(os.getenv("BODY_BYTES")))\n'
        'wrk.headers["Inference-Header-Content-Length"] = "0"\n'
    )
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", "-s", str(script), url]
    environment = os.environ | {"BODY_BYTES": str(BODY_BYTES)}
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]), micros(out, "50%")


def ours(target: LoadTarget, path: str, connections: int, seconds: float, processes: int = 1) -> tuple[float, float]:
    payload = encode(target, "POST", path, bytes(BODY_BYTES), {"Inference-Header-Content-Length": "0"})
    result = LoadSession(target, Workload([payload]), seconds, 0.2, processes=processes).closed(connections)
    if result.errors:
        raise SystemExit(f"the server answers {result.errors}")
    return result.rate_achieved, float(np.median(result.latencies_ns)) / 1e3


def perf_analyzer() -> Path | None:
    """The binary out of its wheel, or None with a line that says why not."""
    folder = BUILD / "perf_analyzer"
    binary = folder / "perf_analyzer"
    if not binary.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
        got = subprocess.run(
            [*pip, "tritonclient==2.51.0", "nvidia-cuda-runtime-cu12"], check=False, capture_output=True, text=True
        )
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if name.endswith(("bin/perf_analyzer", "libcudart.so.12")):
                        (folder / Path(name).name).write_bytes(archive.read(name))
        if not binary.exists():
            print(f"perf_analyzer cannot be had here: {(got.stderr.strip().splitlines() or ['no such wheel'])[-1]}")
            return None
        binary.chmod(0o755)
    tried = subprocess.run(
        [binary, "--version"], check=False, capture_output=True, text=True, env=os.environ | library(binary)
    )
    if "error while loading" in tried.stderr:
        print(f"perf_analyzer does not start here: {tried.stderr.strip()}")
        return None
    return binary


def library(binary: Path) -> dict[str, str]:
    return {"LD_LIBRARY_PATH": str(binary.parent)}


def triton(binary: Path, target: LoadTarget, connections: int, seconds: float) -> tuple[float, float]:
    """perf_analyzer's requests per second and p50 in microseconds, with its own binary requests."""
    table = BUILD / "perf_analyzer.csv"
    table.unlink(missing_ok=True)
    command = [binary, "-m", "digits", "-u", target.authority, "-b", "1", "--shape", "image:1,8,8"]
    command += ["--concurrency-range", str(connections), "-p", str(int(seconds * 1000)), "-r", "3", "-s", "1000"]
    command += ["--percentile", "50", "-f", str(table)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | library(binary), timeout=120
    )
    if not table.exists():
        raise RuntimeError((done.stdout + done.stderr).strip().splitlines()[-1])
    with table.open() as file:
        row = next(csv.DictReader(file))
    return float(row["Inferences/Second"]), float(row["p50 latency"])


def agrees(binary: Path, target: LoadTarget) -> bool:
    """Whether perf_analyzer can measure this server; a line says why not."""
    try:
        triton(binary, target, 1, 0.5)
    except RuntimeError as error:
        print(f"perf_analyzer cannot measure this server: {error}")
        return False
    return True


def side_by_side(seconds: float, rounds: int) -> None:
    """The same server seen by several generators, in turns."""
    analyzer = perf_analyzer()
    serve = [sys.executable, "-m", "tailcut", "serve", str(digits_model()), "--port", "0", "--json"]
    with running([sys.executable, "-c", ECHO, str(BODY_BYTES + 60)]) as echo, running(serve) as served:
        bare = LoadTarget(port=int(first_line(echo)))
        model = LoadTarget(port=json.loads(first_line(served))["port"])
        path = "/v2/models/digits/infer"
        for name, target, place in (("bare echo", bare, "/"), ("tailcut serve, digits", model, path)):
            print(f"\n{name}: requests per second and p50 in us; medians of {rounds} turns")
            ways = {"tailcut bench": lambda c, t=target, p=place: ours(t, p, c, seconds)}
            if shutil.which("wrk"):
                ways["wrk, 1 thread"] = lambda c, t=target, p=place: wrk(f"http://{t.authority}{p}", c, seconds)
            else:
                print("wrk is not installed: apt-get install wrk")
            if analyzer and target is model and agrees(analyzer, target):
                ways["perf_analyzer"] = lambda c, t=target: triton(analyzer, t, c, seconds)
            for connections in (1, 8):
                result = {way: [] for way in ways}
                for _ in range(rounds):
                    for way, run in ways.items():
                        try:
                            result[way].append(run(connections))
                        except RuntimeError as error:
                            print(f"  {way} gave up: {error}")
                for way, runs in ((way, runs) for way, runs in result.items() if runs):
                    rate, p50 = (statistics.median(column) for column in zip(*runs, strict=True))
                    print(f"  {connections:>2d} in flight  {way:<15s}{rate:>10,.0f}/s{p50:>9,.0f} us", flush=True)


def own_limits(seconds: float) -> None:
    """What one client process, and two, can do against the bare echo."""
    with running([sys.executable, "-c", ECHO, str(BODY_BYTES + 60)]) as echo:
        target = LoadTarget(port=int(first_line(echo)))
        payload = encode(target, "POST", "/", bytes(BODY_BYTES), {"Inference-Header-Content-Length": "0"})
        item = closed_loop(target, [payload], concurrency=32, duration_s=seconds, warmup_s=0.2)
        two, _ = ours(target, "/", 32, seconds, processes=2)
        print(
            f"\nthe client's own limits: {item.rate_achieved:,.0f} requests/s closed, 32 in flight, with "
            f"{item.client_cpu:.2f} cores busy; {two:,.0f} with two processes"
        )
        print(f"{'open loop':>14s}{'offered/s':>11s}{'achieved/s':>12s}{'late p99 us':>13s}   verdict")
        for make in (Constant, Poisson):
            for share in (0.05, 0.2, 0.4, 0.6, 0.8):
                arrivals = make(share * item.rate_achieved)
                result = open_loop(target, [payload], rate=arrivals, duration_s=seconds, warmup_s=0.2)
                word = "behind: it gives no percentile" if result.client_behind else "in time"
                print(
                    f"{arrivals.name:>14s}{arrivals.rate:>11,.0f}{result.rate_achieved:>12,.0f}"
                    f"{result.lateness_p99_ns / 1e3:>13,.0f}   {word}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    print(f"{fingerprint()['cpu']}, {os.cpu_count()} processors; client and server on the same ones")
    queue(args.seconds)
    side_by_side(args.seconds / 5, args.rounds)
    own_limits(args.seconds / 5)


if __name__ == "__main__":
    main()

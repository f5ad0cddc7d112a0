"""Ten times what a server can compute, for a minute: what is answered in time, how late, and what memory does.

    python benchmarks/overload.py [--model resnet18] [--seconds 60] [--times 10] [--deadline 1s] [--shared]

A real `tailcut serve` on its own core (engine and sockets together, one engine thread) and an open-loop client on
another, so that the load takes nothing from what is measured; `--shared` lets both run wherever the kernel puts
them. The peak is the rate of a closed loop that keeps the queue full, before and after. Goodput counts answers
that came within the deadline, over the whole run. The last lines have the time of the server's threads: what refusals
cost is what the nine of ten that cannot be computed take from the one that can.

resnet18   602 KB bodies: refused before the body is read, which is then read away
dense      1 KB bodies, a perceptron 256-4096-4096-8 computed one row at a time: many cheap refusals
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import make, perceptron
from serving import BUILD, first_line, running

from tailcut.durations import parse_duration
from tailcut.engines.base import EngineOptions
from tailcut.lab.client import closed_loop, open_loop
from tailcut.lab.load import LoadResult, LoadTarget, Payload
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings

DENSE = (256, 4096, 4096, 8)
ROW_BYTES = {"resnet18": 4 * 3 * 224 * 224, "dense": 4 * DENSE[0]}
MAX_BATCH = {"resnet18": 8, "dense": 1}
PEAK = {"resnet18": 8, "dense": 8}  # connections of the closed loop: always something waiting, nothing refused
LIMITS = {"goodput": 90.0, "slope": 1.0}  # % of the peak; MiB a minute over the second half


@dataclass
class Watch:
    """Resident memory of a process, sampled four times per second, and the CPU time of its threads."""

    pid: int
    began_s: float
    looks: list[tuple[float, float]]

    def look(self) -> None:
        rss = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        self.looks.append((time.monotonic() - self.began_s, rss))

    def threads(self) -> tuple[float, float]:
        """Seconds that the loop's thread has run, and all others together."""
        loop = others = 0.0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            ran = int((task / "schedstat").read_text().split()[0]) / 1e9
            loop, others = (loop + ran, others) if task.name == str(self.pid) else (loop, others + ran)
        return loop, others

    def slope(self) -> float:
        """MiB a minute by least squares over the second half: buffers fill in the first."""
        later = np.array([look for look in self.looks if look[0] > self.looks[-1][0] / 2])
        return float(np.polyfit(later[:, 0], later[:, 1], 1)[0]) * 60 if len(later) > 2 else 0.0


@contextmanager
def watched(pid: int) -> Iterator[Watch]:
    watch, over = Watch(pid, time.monotonic(), []), threading.Event()

    def look() -> None:
        while not over.wait(0.25):
            watch.look()

    watch.look()
    thread = threading.Thread(target=look)
    thread.start()
    yield watch
    over.set()
    thread.join()
    watch.look()


@contextmanager
def server(name: str, deadline: str, cpus: set[int]) -> Iterator[tuple[LoadTarget, int]]:
    """A serving process that may run on these processors."""
    folder = BUILD / "models"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dense.onnx"
    model = make(name, folder) if name != "dense" else path if path.exists() else perceptron(path, DENSE)
    settings = Settings(
        engine=EngineOptions(threads=1, spinning=False), batching=BatchingSettings(max_batch_size=MAX_BATCH[name])
    )
    profile = BUILD / f"{name}.overload.profile.toml"
    Profile.of_model(model, settings).save(profile)
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)  # the child inherits it, and sizes itself by it
    command = [sys.executable, "-m", "tailcut", "serve", str(profile), "--port", "0", "--json", "--deadline", deadline]
    with running(command) as child:
        address = json.loads(first_line(child))
        os.sched_setaffinity(0, mine)
        yield LoadTarget(address["host"], address["port"]), child.pid


def payload(name: str) -> Payload:
    body = np.random.default_rng(0).standard_normal(ROW_BYTES[name] // 4, np.float32).tobytes()
    head = f"POST /v2/models/{name}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    return Payload(head.encode() + b"Inference-Header-Content-Length: 0\r\n\r\n" + body)


def line(name: str, value: str, limit: str = "", *, missed: bool = False) -> None:
    print(f"{name:44s}{value:>28s}   {limit}{'   MISSED' if missed else ''}", flush=True)


def report(result: LoadResult, peaks: tuple[float, float], deadline_s: float, watch: Watch) -> bool:
    """Print every figure beside its limit; whether all were held."""
    peak = sum(peaks) / 2
    late = int((result.service_ns > deadline_s * 1e9).sum())
    goodput = (result.samples - late) / result.duration_s
    refused = {kind: count for kind, count in result.errors.items() if kind in {"503", "504"}}
    others = sum(result.errors.values()) - sum(refused.values())
    p50, p99 = (float(np.quantile(result.service_ns, q)) / 1e6 for q in (0.5, 0.99))
    share = 100 * goodput / peak
    slope = watch.slope()
    missed = share < LIMITS["goodput"], p99 > deadline_s * 1e3, slope > LIMITS["slope"], others > 0
    line("peak, before and after", f"{peaks[0]:.1f}, {peaks[1]:.1f} req/s")
    line("offered", f"{result.rate_offered:.0f} req/s", f"{result.rate_offered / peak:.1f} times the peak")
    line("answered in time", f"{goodput:.1f} req/s")
    line("  of the peak", f"{share:.1f} %", f">= {LIMITS['goodput']:.0f} %", missed=missed[0])
    line(
        "p50 and p99 of what was accepted",
        f"{p50:.0f}, {p99:.0f} ms",
        f"<= {deadline_s * 1e3:.0f} ms",
        missed=missed[1],
    )
    line("answered late", f"{late}")
    line("refused at admission, dropped in the queue", f"{refused.get('503', 0)}, {refused.get('504', 0)}")
    line("neither answered nor refused", f"{others}", "0", missed=missed[3])
    line("memory at the start, at the end", f"{watch.looks[0][1]:.0f}, {watch.looks[-1][1]:.0f} MiB")
    line("  slope", f"{slope:.2f} MiB/min", f"<= {LIMITS['slope']:.0f}", missed=missed[2])
    line("client: cores, p99 of its own lateness", f"{result.client_cpu:.2f}, {result.lateness_p99_ns / 1e6:.2f} ms")
    return not any(missed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=ROW_BYTES, default="resnet18")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--times", type=float, default=10)
    parser.add_argument("--deadline", default="1s")
    parser.add_argument("--shared", action="store_true", help="load and server on the same cores")
    args = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    apart = len(cpus) > 1 and not args.shared
    if apart:
        os.sched_setaffinity(0, set(cpus[1:]))
    deadline_s = parse_duration(args.deadline)
    with server(args.model, args.deadline, set(cpus[:1]) if apart else set(cpus)) as (target, pid):
        item = [payload(args.model)]
        concurrency = PEAK[args.model]
        length_s = max(1.0, args.seconds / 10)

        def peak() -> float:
            return closed_loop(target, item, concurrency=concurrency, duration_s=length_s, warmup_s=0.5).rate_achieved

        first = peak()
        open_loop(target, item, rate=args.times * first, duration_s=1.0)  # connections and buffers as they will be
        with watched(pid) as watch:
            loop_s, others_s = watch.threads()
            result = open_loop(target, item, rate=args.times * first, duration_s=args.seconds)
            loop_s, others_s = (now - then for now, then in zip(watch.threads(), (loop_s, others_s), strict=True))
        held = report(result, (first, peak()), deadline_s, watch)
        line("server: its loop's thread, its other threads", f"{loop_s:.1f}, {others_s:.1f} s")
        line("  the loop's, a request offered", f"{loop_s / max(result.answered, 1) * 1e6:.0f} us")
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())

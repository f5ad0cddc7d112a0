"""What a request of a model with dependent rows costs, beside the same model batched, from one run on one machine.

    python benchmarks/dependent.py [--models tiny,ranker] [--seconds 2] [--rounds 3] [--wires raw,binary,json,grpc]

The same file is served twice, with `--batching on` and with `--batching off`, so the engine has the same work and all
of the difference is the way that a request goes: rows of the slab and batches there, arrays of its own and one call
for each request here. Both with one engine thread and, on worker threads, as many instances as there are CPUs; the
largest batch is 32. Load comes from Tailcut's own client (closed loop, one row a request) on the same cores.
Contestants take turns, round after round, and every cell is the median of the rounds. The first line is onnxruntime
alone, in process, on one thread.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import LAYERS, make
from serving import BUILD, first_line, running

from tailcut.engines.base import EngineOptions
from tailcut.lab.client import closed_loop
from tailcut.lab.cost import watched
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import infer_payload
from tailcut.machine.quota import usable_cpus
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings

CONNECTIONS = (1, 16, 64)
DISPATCHES = ("worker", "adaptive")
Cell = tuple[float, float, float]


@contextmanager
def serving(model: Path, dispatch: str, batching: str) -> Iterator[tuple[dict, int]]:
    """A server of the model: its address, and its process."""
    instances = usable_cpus() if dispatch == "worker" else 1
    settings = Settings(
        engine=EngineOptions(threads=1, instances=instances),
        batching=BatchingSettings(max_batch_size=32, dispatch=dispatch),
    )
    profile = BUILD / f"dependent-{model.stem}.profile.toml"
    Profile.of_model(model, settings).save(profile)
    command = [sys.executable, "-m", "tailcut", "serve", str(profile), "--port", "0", "--grpc-port", "0", "--json"]
    with running([*command, "--batching", batching]) as child:
        yield json.loads(first_line(child)), child.pid


def target_of(address: dict, wire: str) -> LoadTarget:
    return LoadTarget(address["host"], address["grpc_port"] if wire == "grpc" else address["port"], grpc=wire == "grpc")


def load(target: LoadTarget, pid: int, wire: str, name: str, size: tuple[int, float]) -> Cell:
    """Requests per second, p50 in microseconds, and the server's CPU microseconds per request."""
    connections, seconds = size
    x = np.random.default_rng(0).standard_normal((1, LAYERS[name][0])).astype(np.float32)
    payloads = [infer_payload(target, name, {"x": x}, "binary" if wire == "grpc" else wire)]
    result, cost = watched(
        pid, lambda: closed_loop(target, payloads, concurrency=connections, duration_s=seconds, warmup_s=seconds / 5)
    )
    if result.errors or cost is None:
        raise SystemExit(f"{name} over {wire}: {result.errors or 'the server ended'}")
    cpu_us = cost.cpu_ns / 1e3 / result.answered
    return result.rate_achieved, float(np.median(result.latencies_ns)) / 1e3, cpu_us


def alone(model: Path, name: str) -> float:
    """Microseconds of a plain onnxruntime call, median."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(model), options, ["CPUExecutionProvider"])
    feeds = {"x": np.zeros((1, LAYERS[name][0]), np.float32)}
    times = []
    for _ in range(3000):
        began = time.perf_counter_ns()
        session.run(None, feeds)
        times.append(time.perf_counter_ns() - began)
    return statistics.median(times) / 1e3


def measure(name: str, args: argparse.Namespace) -> None:
    model = make(name, BUILD / "models")
    took = alone(model, name)
    print(f"\n{name}: onnxruntime alone takes {took:.0f} us per request, {1e6 / took:,.0f} per second")
    cells: dict[tuple[str, str, int], list[Cell]] = {}
    wires = args.wires.split(",")
    for _ in range(args.rounds):
        for dispatch in DISPATCHES:
            for batching, label in (("on", "batched"), ("off", "dependent")):
                with serving(model, dispatch, batching) as (address, pid):
                    for wire in wires:
                        target = target_of(address, wire)
                        load(target, pid, wire, name, (8, 0.3))
                        for connections in CONNECTIONS:
                            cell = load(target, pid, wire, name, (connections, args.seconds))
                            cells.setdefault((wire, f"{label}, {dispatch}", connections), []).append(cell)
    heads = "".join(f"{f'{c} connections: req/s':>24s}{'p50 us':>9s}{'CPU us':>8s}" for c in CONNECTIONS)
    print(f"{'':32s}{heads}")
    for wire, label in dict.fromkeys(
        (wire, label) for wire, label, _ in sorted(cells, key=lambda key: wires.index(key[0]))
    ):
        row = f"{wire:8s}{label:24s}"
        for connections in CONNECTIONS:
            rate, p50, cpu = (statistics.median(run[i] for run in cells[wire, label, connections]) for i in range(3))
            row += f"{rate:>24,.0f}{p50:>9,.0f}{cpu:>8,.0f}"
        print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="tiny,ranker")
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wires", default="raw,binary,json,grpc")
    args = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    for name in args.models.split(","):
        measure(name, args)


if __name__ == "__main__":
    main()

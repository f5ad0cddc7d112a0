"""The dispatch to a CUDA device: right answers, and what each part costs, in one call of a few minutes.

    python benchmarks/gpu_dispatch.py [--device cuda] [--seconds 2]
    python benchmarks/gpu_dispatch.py --device cpu --small          tries the program where there is no device

It prints: answers against float32 on the CPU; the rate of pinned copies; and for each strategy on and off the rows per
second of bound calls from two threads against one captured graph on data that is on the device already (goal: 90 %),
and the p50 of one row against one replay of its graph (goal: 100 us more). Then the same through `tailcut serve`: rows
per second of clients that send whole batches, and the p99 of single rows at half of that load. Needs PyTorch and numpy,
and no other engine. Exit code 1: an answer is wrong. Without a device it prints what is not proven, and ends.
"""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

try:
    import torch
except ImportError:
    print("gpu_dispatch needs PyTorch: pip install 'tailcut[torch]'")
    sys.exit(0)  # nothing is wrong, and the other benchmarks go on

from tailcut.engines import EngineOptions
from tailcut.engines.base import CudaOptions
from tailcut.engines.cuda.device import Cuda, Device, StandIn
from tailcut.engines.cuda.engine import CudaEngine
from tailcut.errors import TailcutError

STRATEGIES: dict[str, dict[str, Any]] = {
    "f32": {},
    "f32, no graphs": {"cuda": CudaOptions(graphs=False)},
    "tf32": {"precision": "tf32"},
    "f32, one instance": {"instances": 1},
    "f32, channels last": {"layout": "channels_last"},
    "bf16": {"precision": "bf16"},
    "bf16, channels last": {"precision": "bf16", "layout": "channels_last"},
    "f16, channels last": {"precision": "f16", "layout": "channels_last"},
}
FEWEST_P99 = 459
LOOSE = {"f32": 1e-3, "tf32": 1e-2, "bf16": 5e-2, "f16": 2e-2}  # of the largest answer
UNPROVEN = """Not proven on a device:
- answers in float32, tf32, bfloat16 and float16, with and without graphs, channels last, and from uint8 pixels
- that copying in, computing and copying out overlap, and the rates of pinned copies
- rows per second through the server against data on the device (goal: 90 %)
- the p50 of one row against one replay of its graph (goal: 100 us more)
- the p99 of single rows at half of the load
- what a batch without memory, a lost device or a missing operator leave behind
- onnxruntime's CUDA provider: its graphs, bound memory and precisions
- routing between a device and the CPU with real costs"""


def program(folder: Path, *, small: bool) -> tuple[Path, tuple[int, ...]]:
    """A convolutional network, and the shape of one row."""
    torch.manual_seed(0)
    width, side, depth = (8, 16, 2) if small else (128, 112, 8)
    layers: list[Any] = [torch.nn.Conv2d(3, width, 3, 2, 1), torch.nn.ReLU()]
    for _ in range(depth):
        layers += [torch.nn.Conv2d(width, width, 3, 1, 1), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(width, 10))
    axes = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(net.eval(), (torch.randn(2, 3, side, side),), dynamic_shapes={"input": axes[0]})
    torch.export.save(exported, folder / "net.pt2")
    return folder / "net.pt2", (3, side, side)


def bound(engine: CudaEngine, x: np.ndarray) -> tuple[Callable[[], None], np.ndarray]:
    y = np.zeros((len(x), 10), np.float32)
    return engine.bind({engine.spec.input_names[0]: x}, {"output": y}), y


def rate(calls: list[Callable[[], None]], rows: int, seconds: float) -> float:
    """Rows per second of calls that each have a thread."""
    counts = [0] * len(calls)
    end = time.monotonic() + seconds

    def work(at: int) -> None:
        while time.monotonic() < end:
            calls[at]()
            counts[at] += 1

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows * sum(counts) / seconds


def median_us(call: Callable[[], None], seconds: float) -> float:
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end or len(times) < 5:
        began = time.perf_counter()
        call()
        times.append(1e6 * (time.perf_counter() - began))
    return statistics.median(times)


def replay_us(engine: CudaEngine, rows: int, seconds: float, device: Device) -> float:
    """One replay of a captured graph on data that is there already; on a device by its own events."""
    graph = next(replay for key, (replay, _) in engine._graphs.items() if key.shapes[0][0] == rows)
    if device.name.type == "cpu":
        return median_us(graph, seconds)
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end or len(times) < 5:
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        graph()
        ended.record()
        ended.synchronize()
        times.append(1e3 * began.elapsed_time(ended))
    return statistics.median(times)


def copies(device: Device, size: int) -> None:
    """GB per second from pinned memory to the device and back."""
    host = np.zeros(size, np.uint8)
    device.pin(host)
    there, here = torch.zeros(size, dtype=torch.uint8, device=device.name), torch.from_numpy(host)
    for label, target, source in (("in", there, here), ("out", here, there)):

        def copy(target: Any = target, source: Any = source) -> None:
            target.copy_(source, non_blocking=True)
            if device.name.type != "cpu":
                torch.cuda.synchronize()

        print(f"copies {label}: {size / median_us(copy, 0.2) / 1e3:.1f} GB/s")


@dataclass(frozen=True)
class Net:
    """A program, a batch for it, and the right answers."""

    path: Path
    x: np.ndarray
    truth: np.ndarray


def served(net: Net, device: str, seconds: float, alone: float) -> bool:
    """The same program through a server and real sockets; whether its answers are right.

    Args:
        alone: rows per second of a float32 graph by itself, or 0.
    """
    x, truth = net.x, net.truth
    command = [sys.executable, "-m", "tailcut", "serve", str(net.path), "--device", device, "--port", "0", "--json"]
    with subprocess.Popen([*command, "--no-auto", "--batching", "on"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            ready = process.stdout.readline()
            if not ready:
                print("the server did not start")
                return False
            address = json.loads(ready)
            place = (address["host"], address["port"])
            answer = np.frombuffer(call(http.client.HTTPConnection(*place), x), np.float32).reshape(truth.shape)
            worst = float(np.abs(answer - truth).max() / np.abs(truth).max())
            rows_per_s = clients(place, x, 4, seconds)
            late = paced(place, x[:1], rows_per_s / 2, seconds)
        finally:
            process.terminate()
    share = f", {rows_per_s / alone:.2f} of the graph alone" if alone else ""
    print(f"\nthrough the server: worst answer {worst:.1e}; batches of {len(x)}: {rows_per_s:,.0f} rows/s{share}")
    if len(late) >= FEWEST_P99:
        print(f"single rows at half of that load: p50 {quantile(late, 0.5):.2f} ms, p99 {quantile(late, 0.99):.2f} ms")
    else:
        print(f"single rows at half of that load: {len(late)} answers are too few for a p99")
    return worst <= LOOSE["f32"]


def call(connection: http.client.HTTPConnection, x: np.ndarray) -> bytes:
    """One raw request, and the bytes of its answer's only output."""
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    connection.request("POST", "/v2/models/net/infer", x.tobytes(), headers)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise RuntimeError(body.decode(errors="replace"))
    return body[int(response.headers.get("Inference-Header-Content-Length", 0)) :]


def clients(place: tuple[str, int], x: np.ndarray, count: int, seconds: float) -> float:
    """Rows per second of so many clients that each wait for their answer."""

    def one() -> Callable[[], None]:
        connection = http.client.HTTPConnection(*place)
        return lambda: call(connection, x) and None

    return rate([one() for _ in range(count)], len(x), seconds)


def paced(place: tuple[str, int], x: np.ndarray, per_s: float, seconds: float) -> list[float]:
    """Milliseconds from each planned time to the answer; as many as a p99 needs, in ten times the seconds at most."""
    count, senders = int(min(max(per_s * seconds, 2 * FEWEST_P99), 10 * per_s * seconds)), 16
    start, late = time.monotonic() + 0.1, []

    def send(first: int) -> None:
        connection = http.client.HTTPConnection(*place)
        for number in range(first, count, senders):
            due = start + number / per_s
            time.sleep(max(0.0, due - time.monotonic()))
            call(connection, x)
            late.append(1e3 * (time.monotonic() - due))

    threads = [threading.Thread(target=send, args=(first,)) for first in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return late


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=2.0)
    asked = parser.parse_args()
    seconds, batch = (0.1, 4) if asked.small else (asked.seconds, 32)
    wrong, first = False, 0.0
    with tempfile.TemporaryDirectory() as folder:
        path, shape = program(Path(folder), small=asked.small)
        x = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
        truth = torch.export.load(path).module()(torch.from_numpy(x)).detach().numpy()
        try:
            device: Device = Cuda() if asked.device == "cuda" else StandIn()
        except TailcutError as error:
            print(f"{error}\n\n{UNPROVEN}")
            return
        name = (
            torch.cuda.get_device_name()
            if asked.device == "cuda"
            else "the CPU as a stand-in: no figure means anything"
        )
        print(f"{name}; PyTorch {torch.__version__}")
        copies(device, 1 << (20 if asked.small else 28))
        print(
            f"| strategy | worst answer | rows/s, batch {batch} | of the graph alone | p50 of a row, us | to a replay |"
        )
        print("|---|---|---|---|---|---|")
        for label, settings in STRATEGIES.items():
            options = EngineOptions(name="torch", device="cuda", **({"instances": 2} | settings))
            try:
                engine = CudaEngine(path, options, device=device)
                pairs = [bound(engine, x.copy()) for _ in range(options.instances)]
                for _ in range(2 * (options.instances + 1)):  # every slot has its graph
                    pairs[0][0]()
                worst = float(np.abs(pairs[0][1] - truth).max() / np.abs(truth).max())
                wrong |= not worst <= LOOSE[options.precision]
                bound_rate = rate([one for one, _ in pairs], batch, seconds)
                alone = 1e6 * batch / replay_us(engine, batch, seconds, device)
                first = first or alone
                lone, _ = bound(engine, x[:1].copy())
                for _ in range(2 * (options.instances + 1)):
                    lone()
                p50, single = median_us(lone, seconds), replay_us(engine, 1, seconds, device)
                rates = f"{bound_rate:,.0f} | {bound_rate / alone:.2f} | {p50:,.0f} | {p50 - single:+,.0f}"
                print(f"| {label} | {worst:.1e} | {rates} |")
                engine.close()
            except TailcutError as error:
                print(f"| {label} | {error} | | | | |")
        wrong |= not served(Net(path, x, truth), asked.device, seconds, first)
    sys.exit(wrong)


if __name__ == "__main__":
    main()

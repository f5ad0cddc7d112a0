"""The dispatch to a CUDA device: right answers, and what each part costs, in one call of a few minutes.

    python benchmarks/gpu_dispatch.py [--device cuda] [--seconds 2]
    python benchmarks/gpu_dispatch.py --device cpu --small          tries the program where there is no device

It prints: answers against float32 on the CPU; the rate of pinned copies; and for each strategy on and off the rows per
second of bound calls from two threads against one captured graph on data that is on the device already (goal: 90 %),
and the p50 of one row against one replay of its graph (goal: 100 us more). Needs PyTorch and numpy, and no other
engine. Exit code 1: an answer is wrong.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

try:
    import torch
except ImportError:
    print("gpu_dispatch needs PyTorch: pip install 'tailcut[torch]'")
    sys.exit(0)  # nothing is wrong, and the other benchmarks go on

from tailcut.engines import EngineOptions
from tailcut.engines.cuda.device import Cuda, Device, StandIn
from tailcut.engines.cuda.engine import CudaEngine
from tailcut.errors import TailcutError

STRATEGIES: dict[str, dict[str, Any]] = {
    "f32": {},
    "f32, one instance": {"instances": 1},
    "f32, channels last": {"layout": "channels_last"},
    "bf16": {"precision": "bf16"},
    "bf16, channels last": {"precision": "bf16", "layout": "channels_last"},
    "f16, channels last": {"precision": "f16", "layout": "channels_last"},
}
LOOSE = {"f32": 1e-3, "bf16": 5e-2, "f16": 2e-2}  # of the largest answer; tf32 is off, as PyTorch has it


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=2.0)
    asked = parser.parse_args()
    seconds, batch = (0.1, 4) if asked.small else (asked.seconds, 32)
    wrong = False
    with tempfile.TemporaryDirectory() as folder:
        path, shape = program(Path(folder), small=asked.small)
        x = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
        truth = torch.export.load(path).module()(torch.from_numpy(x)).detach().numpy()
        try:
            device: Device = Cuda() if asked.device == "cuda" else StandIn()
        except TailcutError as error:
            print(error)
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
                served = rate([call for call, _ in pairs], batch, seconds)
                alone = 1e6 * batch / replay_us(engine, batch, seconds, device)
                one, _ = bound(engine, x[:1].copy())
                for _ in range(2 * (options.instances + 1)):
                    one()
                p50, single = median_us(one, seconds), replay_us(engine, 1, seconds, device)
                rates = f"{served:,.0f} | {served / alone:.2f} | {p50:,.0f} | {p50 - single:+,.0f}"
                print(f"| {label} | {worst:.1e} | {rates} |")
                engine.close()
            except TailcutError as error:
                print(f"| {label} | {error} | | | | |")
    sys.exit(wrong)


if __name__ == "__main__":
    main()

"""The strategies of gpu_dispatch.py, and the program that each computes on the device. Not run by itself."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu.server import median_us, off_by, rate

from tailcut.engines import EngineOptions
from tailcut.engines.base import CudaOptions, U8Input
from tailcut.engines.cuda.device import ComputeDevice
from tailcut.engines.cuda.engine import CudaEngine
from tailcut.machine.cuda_driver import driver
from tailcut.machine.gpu import node_of_bus
from tailcut.machine.topology import topology

PIXELS = U8Input(scale=(1 / 64,), offset=(-2.0,))
FIRST = "f32"  # what the server is held to, and each strategy where it names no other


@dataclass(frozen=True)
class Strategy:
    """A configuration to measure.

    Args:
        against: the label of its other side.
        odd: in batches of a size that is not a power of two.
        pixels: from uint8.
    """

    label: str
    options: dict[str, Any] = field(default_factory=dict)
    against: str = FIRST
    odd: bool = False
    pixels: bool = False


def strategies(odd: int) -> list[Strategy]:
    """By rungs, and at last what has to be compiled.

    Args:
        odd: rows of batches that fill no bucket.
    """
    cuda, last = CudaOptions, {"layout": "channels_last"}
    return [
        Strategy("no graphs", {"cuda": cuda(graphs=False)}),
        Strategy(f"batches of {odd}", odd=True),
        Strategy("buckets off", {"cuda": cuda(buckets="off")}, f"batches of {odd}", odd=True),
        Strategy(f"bucket of {odd}", {"cuda": cuda(buckets=(odd,))}, f"batches of {odd}", odd=True),
        Strategy("channels last", last),
        Strategy("uint8 pixels", {"u8_input": PIXELS}, pixels=True),
        Strategy("one instance", {"instances": 1}),
        Strategy("no overlap", {"cuda": cuda(slots=1)}),
        Strategy("tf32", {"precision": "tf32"}),
        Strategy("bf16", {"precision": "bf16"}),
        Strategy("bf16, channels last", {"precision": "bf16"} | last, "bf16"),
        Strategy("f16", {"precision": "f16"}),
        Strategy("f16, channels last", {"precision": "f16"} | last, "f16"),
        Strategy("not pinned", {"cuda": cuda(pinned=False)}),
        Strategy("shared graph memory", {"cuda": cuda(graph_memory="shared")}),
        Strategy("no graphs, no caching", {"cuda": cuda(graphs=False, caching=False)}, "no graphs"),
        Strategy("compiled", {"compiler": "inductor"}),
        Strategy("bf16, compiled", {"precision": "bf16", "compiler": "inductor"}, "bf16"),
        Strategy("int8 weights, compiled", {"precision": "int8", "compiler": "inductor"}, "bf16, compiled"),
    ]


@dataclass(frozen=True)
class Measured:
    """A strategy: rows per second of bound calls and of the graph alone, medians of one row, MiB of the device."""

    worst: float
    rows_per_s: float
    alone_per_s: float
    row_us: float
    replay_us: float
    memory_mib: int
    load_s: float

    @property
    def share(self) -> float:
        return self.rows_per_s / self.alone_per_s

    @property
    def extra_us(self) -> float:
        return self.row_us - self.replay_us


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


class Bench:
    """The program on a device, and what is asked of it."""

    def __init__(self, path: Path, device: ComputeDevice, seconds: float, batch: int, shape: tuple[int, ...]) -> None:
        self.path, self.device, self.seconds, self.batch = path, device, seconds, batch
        self.odd = 5 * batch // 8 + 1
        random = np.random.default_rng(0)
        self.x = random.standard_normal((batch, *shape)).astype(np.float32)
        self.pixels = random.integers(0, 256, (batch, *shape), np.uint8)
        module = torch.export.load(path).module()
        floats = (self.pixels * np.float32(PIXELS.scale[0]) + np.float32(PIXELS.offset[0])).astype(np.float32)
        with torch.inference_mode():
            self.truth, self.truth_of_pixels = (module(torch.from_numpy(item)).numpy() for item in (self.x, floats))

    def options(self, strategy: Strategy) -> EngineOptions:
        return EngineOptions(name="torch", device="cuda", **({"instances": 2, "threads": 1} | strategy.options))

    def measure(self, strategy: Strategy, reference: Measured | None) -> Measured:
        """Load, compute, and time a strategy."""
        gc.collect()
        self.device.give_back()  # what is kept for later would hide what a strategy takes
        before = self._memory_mib()
        began = time.monotonic()
        engine = CudaEngine(self.path, self.options(strategy), device=self.device)
        load_s = time.monotonic() - began
        try:
            x, truth = (self.pixels, self.truth_of_pixels) if strategy.pixels else (self.x, self.truth)
            rows = self.odd if strategy.odd else self.batch
            calls, answers = self._bound(engine, x[:rows], engine.options.instances)
            rows_per_s = rate(calls, rows, self.seconds)
            worst = max(off_by(item, truth[:rows]) for item in answers)
            # A graph tells what the device can do; launching operator after operator does not.
            alone = reference.alone_per_s if reference and not engine.options.cuda.graphs else 0.0
            alone = alone or 1e6 * rows / self._replay_us(engine, rows)
            (lone,), (answer,) = self._bound(engine, x[:1], 1)
            row_us = median_us(lone, self.seconds)
            worst = max(worst, off_by(answer, truth[:1]))
            replay_us = self._replay_us(engine, 1)
            return Measured(worst, rows_per_s, alone, row_us, replay_us, self._memory_mib() - before, load_s)
        finally:
            engine.close()

    def _bound(
        self, engine: CudaEngine, x: np.ndarray, count: int
    ) -> tuple[list[Callable[[], None]], list[np.ndarray]]:
        """So many calls with rows of their own, and their answers; every slot has its graph."""
        answers = [np.zeros((len(x), 10), np.float32) for _ in range(count)]
        calls = [engine.bind({engine.spec.input_names[0]: x.copy()}, {"output": answer}) for answer in answers]
        for _ in range(2 * (engine.options.instances + 1)):
            calls[0]()
        return calls, answers

    def _replay_us(self, engine: CudaEngine, rows: int) -> float:
        """One replay of a captured graph on data that is there already; on a device by its own events."""
        bucket = engine._bucket_of(rows)
        replay = next(graph.replay for key, graph in engine._graphs.items() if key.shapes[0][0] == bucket)
        with torch.inference_mode():
            if self.device.name.type == "cpu":
                return median_us(replay, self.seconds)
            times, end = [], time.monotonic() + self.seconds
            while time.monotonic() < end or len(times) < 5:
                began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                began.record()
                replay()
                ended.record()
                ended.synchronize()
                times.append(1e3 * began.elapsed_time(ended))
        return statistics.median(times)

    def _memory_mib(self) -> int:
        return 0 if self.device.name.type == "cpu" else torch.cuda.memory_reserved() >> 20

    def copy_rates(self, size: int) -> tuple[float, float]:
        """Bytes per second from pinned memory to the device, and back; printed beside those without pinning."""
        rates = {}
        for pinned in (False, True):
            host = np.zeros(size, np.uint8)
            if pinned:
                self.device.pin(host)
            there, here = torch.zeros(size, dtype=torch.uint8, device=self.device.name), torch.from_numpy(host)
            for label, target, source in (("in", there, here), ("out", here, there)):
                rates[pinned, label] = 1e6 * size / median_us(lambda t=target, s=source: self._copy(t, s), 0.2)
        words = (
            f"{label} {1e-9 * rates[True, label]:.1f} ({1e-9 * rates[False, label]:.1f})" for label in ("in", "out")
        )
        print(f"copies of pinned memory (of other memory), GB/s: {', '.join(words)}")
        return rates[True, "in"], rates[True, "out"]

    def _copy(self, target: Any, source: Any) -> None:
        target.copy_(source, non_blocking=True)
        if self.device.name.type != "cpu":
            torch.cuda.synchronize()


def where_is(device: ComputeDevice) -> str:
    """The node of the device's bus, in words."""
    if device.name.type == "cpu":
        return "no device"
    bus = driver().bus_of(device.name.index or 0)
    return f"{bus}, node {node_of_bus(bus)} of {len(topology().nodes)}"

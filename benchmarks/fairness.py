"""A light model beside a saturated heavy one on the same cores.

    python benchmarks/fairness.py [--seconds 4] [--rounds 3]

Both in one process. The heavy model (the perceptron of batching.py, batches of 16) always has 64 rows waiting; the
light one (256-256-64-10) gets 200 requests a second, Poisson. Two ways to use two cores, in turns: engine calls of two
threads that meet at barriers, and two instances of one thread each. The first line is the limit: the light model with
no other beside it.

Then two heavy models side by side, one with batches of 16 and one with batches of 4, both always with 64 rows waiting.
"""

import argparse
import sys
import threading
import time
from pathlib import Path
from typing import Self

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import make, perceptron

from batching import WIDTHS
from tailcut.engines.base import EngineOptions
from tailcut.errors import TailcutError
from tailcut.runtime.delivery import AnyThreadDelivery
from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.request import Batch, Request
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.stats.serial import serial_percentile_interval

BUILD = Path(__file__).parent.parent / "build"
RATE = 200.0
EMPTY_S = 60  # for the queue to empty


class Refill:
    """Asks again as soon as it is answered."""

    def __init__(self, model: Model, stopped: threading.Event) -> None:
        self.model, self.stopped, self.rows = model, stopped, 0
        self.x = {"x": np.ones((1, WIDTHS[0]), np.float32)}

    def ask(self) -> None:
        self.model.entry.start(self.x, Request(self, AnyThreadDelivery(), 1))

    def complete(self, request: Request, batch: Batch, index: int) -> None:
        self.rows += 1
        if not self.stopped.is_set():
            self.ask()

    def fail(self, request: Request, error: TailcutError) -> None:
        raise SystemExit(str(error))


def opened(path: Path, engine: EngineOptions, max_batch_size: int) -> Model:
    profile = Profile.of_model(path, Settings(engine=engine, batching=BatchingSettings(max_batch_size=max_batch_size)))
    return Model.open(profile, limits=Limits(queue_rows=256))


def light_latencies(model: Model, seconds: float, seed: int) -> np.ndarray:
    gaps = np.random.default_rng(seed).exponential(1 / RATE, int(RATE * seconds))
    due = time.perf_counter() + 0.1 + np.cumsum(gaps)
    x = {"x": np.ones((1, 256), np.float32)}
    latencies = []
    for when in due:
        time.sleep(max(0.0, when - time.perf_counter()))
        asked = time.perf_counter()
        model.infer_sync(x)
        latencies.append(time.perf_counter() - asked)
    return np.array(latencies)


class Saturated:
    """Keeps 64 rows waiting in a model, until the block ends."""

    def __init__(self, model: Model) -> None:
        self.model, self.stopped = model, threading.Event()
        self.refill = Refill(model, self.stopped)

    def __enter__(self) -> Self:
        for _ in range(64):
            self.refill.ask()
        self.model.entry.notify()
        self.began = time.perf_counter()
        return self

    def rate(self) -> float:
        return self.refill.rows / (time.perf_counter() - self.began)

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        end = time.monotonic() + EMPTY_S
        while self.model.statistics()["queued_rows"]:
            if time.monotonic() > end:
                raise SystemExit(f"requests still wait {EMPTY_S} s after the last one")
            time.sleep(0.01)


def wide() -> Path:
    path = BUILD / "models" / "wide.onnx"
    return path if path.exists() else perceptron(path, WIDTHS)


def light_beside_heavy(engine: EngineOptions, *, busy: bool, seconds: float, seed: int) -> tuple[np.ndarray, float]:
    """The light model's latencies, and the heavy one's rows per second."""
    light_engine = EngineOptions(threads=1)
    with (
        opened(wide(), engine, 16) as heavy,
        opened(make("tiny", BUILD / "models"), light_engine, 32) as light,
    ):
        if not busy:
            return light_latencies(light, seconds, seed), 0.0
        with Saturated(heavy) as load:
            return light_latencies(light, seconds, seed), load.rate()


def rivals(engine: EngineOptions, seconds: float) -> tuple[float, float]:
    """Rows per second of two heavy models, with batches of 16 and of 4."""
    with (
        opened(wide(), engine, 16) as first,
        opened(wide(), engine, 4) as second,
        Saturated(first) as item,
        Saturated(second) as other,
    ):
        time.sleep(seconds)
        return item.rate(), other.rate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    (BUILD / "models").mkdir(parents=True, exist_ok=True)
    two = EngineOptions(threads=2)
    instances = EngineOptions(threads=1, instances=2)
    cells = {"light alone": (two, False), "2 threads": (two, True), "2 instances": (instances, True)}
    result: dict[str, list[tuple[np.ndarray, float]]] = {name: [] for name in cells}
    for number in range(args.rounds):
        for name, (engine, busy) in cells.items():
            result[name].append(light_beside_heavy(engine, busy=busy, seconds=args.seconds, seed=number))
    print(f"{'':28s}light p50 ms{'p99 ms (99 % interval)':>28s}   max ms   heavy rows/s (rounds)")
    for name, runs in result.items():
        joined = np.concatenate([latencies for latencies, _ in runs]) * 1e3
        p99 = serial_percentile_interval(joined, 0.99)
        tail = "unknown" if p99 is None else f"{p99.point:.2f} ({p99.low:.2f} to {p99.high:.2f})"
        rates = [rate for _, rate in runs]
        print(
            f"{name:28s}{np.median(joined):12.2f}{tail:>28s}{joined.max():9.1f}{np.median(rates):15.0f} "
            f"({min(rates):.0f} to {max(rates):.0f})",
            flush=True,
        )
    print(f"\n{'two heavy models':28s}rows/s in batches of 16      of 4")
    pairs = {name: engine for name, (engine, busy) in cells.items() if busy}
    rivalled: dict[str, list[tuple[float, float]]] = {name: [] for name in pairs}
    for _ in range(args.rounds):
        for name, engine in pairs.items():
            rivalled[name].append(rivals(engine, args.seconds / 2))
    for name, runs in rivalled.items():
        (item, other), low, high = np.median(runs, axis=0), np.min(runs, axis=0), np.max(runs, axis=0)
        print(
            f"{name:28s}{item:9.0f} ({low[0]:.0f} to {high[0]:.0f}){other:10.0f} ({low[1]:.0f} to {high[1]:.0f})",
            flush=True,
        )


if __name__ == "__main__":
    main()

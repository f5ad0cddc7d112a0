"""A light model beside a saturated heavy one on the same cores, with and without turns.

    python benchmarks/fairness.py [--seconds 4] [--rounds 3]

Both in one process. The heavy model (the perceptron of batching.py, batches of 16) always has 64 rows waiting; the
light one (256-256-64-10) gets 200 requests a second, Poisson. Two ways to use two cores, each with the arbiter of
`runtime/arbiter.py` and without (the kernel alone shares the cores), in turns: engine calls of two threads that meet at
barriers, and two instances of one thread each. The first line is the limit: the light model with nobody beside it.
"""

import argparse
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import make, perceptron

from batching import WIDTHS
from tailcut.engines.base import EngineOptions
from tailcut.errors import TailcutError
from tailcut.runtime.arbiter import Arbiter
from tailcut.runtime.batch import Batch, Ticket
from tailcut.runtime.home import AnyThread
from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model
from tailcut.runtime.profile import BatchingSettings, Profile, Settings

BUILD = Path(__file__).parent.parent / "build"
CPUS = 2
RATE = 200.0


class Refill:
    """Asks again as soon as it is answered."""

    def __init__(self, model: Model, stopped: threading.Event) -> None:
        self.model, self.stopped, self.rows = model, stopped, 0
        self.x = {"x": np.ones((1, WIDTHS[0]), np.float32)}

    def ask(self) -> None:
        self.model.start(self.x, 1, self, AnyThread())

    def complete(self, ticket: Ticket, batch: Batch, index: int) -> None:
        self.rows += 1
        if not self.stopped.is_set():
            self.ask()

    def fail(self, ticket: Ticket, error: TailcutError) -> None:
        raise SystemExit(str(error))


def opened(path: Path, engine: EngineOptions, max_batch: int, arbiter: Arbiter | None) -> Model:
    profile = Profile.of_model(path, Settings(engine=engine, batching=BatchingSettings(max_batch=max_batch)))
    return Model.open(profile, limits=Limits(queue_rows=256), arbiter=arbiter)


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


def run(engine: EngineOptions, *, turns: bool, busy: bool, seconds: float, seed: int) -> tuple[np.ndarray, float]:
    arbiter = Arbiter(CPUS) if turns else None
    wide = BUILD / "models" / "wide.onnx"
    with (
        opened(wide if wide.exists() else perceptron(wide, WIDTHS), engine, 16, arbiter) as heavy,
        opened(make("tiny", BUILD / "models"), EngineOptions(threads=1), 32, arbiter) as light,
    ):
        stopped = threading.Event()
        refill = Refill(heavy, stopped)
        for _ in range(64 if busy else 0):
            refill.ask()
        heavy.kick()
        began, before = time.perf_counter(), refill.rows
        latencies = light_latencies(light, seconds, seed)
        rate = (refill.rows - before) / (time.perf_counter() - began)
        stopped.set()
        while heavy.statistics()["queued_rows"]:
            time.sleep(0.01)
    return latencies, rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    (BUILD / "models").mkdir(parents=True, exist_ok=True)
    two = EngineOptions(threads=2)
    cells = {
        "light alone": (two, {"turns": False, "busy": False}),
        "2 threads, kernel shares": (two, {"turns": False, "busy": True}),
        "2 threads, turns": (two, {"turns": True, "busy": True}),
        "2 instances, kernel shares": (EngineOptions(threads=1, instances=2), {"turns": False, "busy": True}),
        "2 instances, turns": (EngineOptions(threads=1, instances=2), {"turns": True, "busy": True}),
    }
    found: dict[str, list[tuple[np.ndarray, float]]] = {name: [] for name in cells}
    for number in range(args.rounds):
        for name, (engine, how) in cells.items():
            found[name].append(run(engine, seconds=args.seconds, seed=number, **how))
    print(f"{'':28s}light p50 ms   p99 ms   max ms   heavy rows/s")
    for name, runs in found.items():
        joined = np.concatenate([latencies for latencies, _ in runs]) * 1e3
        p50, p99 = np.quantile(joined, (0.5, 0.99))
        rate = float(np.median([rate for _, rate in runs]))
        print(f"{name:28s}{p50:12.2f}{p99:9.2f}{joined.max():9.1f}{rate:15.0f}")


if __name__ == "__main__":
    main()

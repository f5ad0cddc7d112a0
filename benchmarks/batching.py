"""The batching policy beside the ideal: latency at 30, 60 and 90 % load, goodput at 2 and 10 times the capacity.

    python benchmarks/batching.py [--seconds 5] [--batch 16]

A perceptron 1024-3072-3072-1024-1 (a row alone is bound by reading the weights, so batching pays) in process, one
engine thread, Poisson arrivals from one thread, latency from the planned time of arrival. What it is compared with are
simulations of the same arrivals in which everything but the engine costs nothing; a batch of n rows takes what one of
the batches of that size took in the measured run, drawn at random:

ours       the same policy: what is ready goes as soon as the engine is idle
held       the best fixed hold-back, chosen afterwards with all results known
bound      no policy that serves in order of arrival can be below: every row at the best cost a row of any size, but
           none faster than a row alone

Goodput counts answers that came before their deadline. Its limit is the capacity: the best rows a second of any size.
"""

import argparse
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import perceptron

from tailcut.engines.base import EngineOptions
from tailcut.errors import QueueFullError, TailcutError
from tailcut.runtime.batch import Batch, Ticket
from tailcut.runtime.home import AnyThread
from tailcut.runtime.model import Model
from tailcut.runtime.profile import BatchingSettings, Profile, Settings

BUILD = Path(__file__).parent.parent / "build"
WIDTHS = (1024, 3072, 3072, 1024, 1)
LOADS = (0.3, 0.6, 0.9)
OVERLOADS = (2, 10)
HOLDS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)  # of what a row alone costs
Services = dict[int, np.ndarray]  # seconds that batches took, by size


class Note:
    """Where one request's end is written down."""

    __slots__ = ("log", "place")

    def __init__(self, log: "Log", place: int) -> None:
        self.log, self.place = log, place

    def complete(self, ticket: Ticket, batch: Batch, index: int) -> None:
        self.log.done[self.place] = time.perf_counter()
        if index == 0:
            self.log.batches.append((batch.rows, (batch.ended_ns - batch.began_ns) / 1e9))
        self.log.end()

    def fail(self, ticket: Ticket, error: TailcutError) -> None:
        self.log.failed += 1
        self.log.end()


class Log:
    """One run: when each request was due and done (NaN: not at all), and what each batch took."""

    def __init__(self, due: np.ndarray) -> None:
        self.due = due
        self.done = np.full(len(due), np.nan)
        self.batches: list[tuple[int, float]] = []
        self.failed = self.refused = self._ended = 0
        self.all_ended = threading.Event()

    def end(self) -> None:
        self._ended += 1
        if self._ended == len(self.due):
            self.all_ended.set()

    @property
    def latencies(self) -> np.ndarray:
        return (self.done - self.due)[~np.isnan(self.done)]

    def services(self) -> Services:
        found: dict[int, list[float]] = {}
        for rows, took in self.batches:
            found.setdefault(rows, []).append(took)
        return {rows: np.array(took) for rows, took in sorted(found.items())}


def offer(model: Model, rate: float, seconds: float, deadline_s: float = 0.0, seed: int = 1) -> Log:
    """Poisson arrivals at a rate; every request is refused, answered or late in the end."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds))
    due = time.perf_counter() + 0.05 + np.cumsum(gaps)
    log, home = Log(due), AnyThread()
    x = {"x": np.random.default_rng(0).standard_normal((1, WIDTHS[0])).astype(np.float32)}
    for place, when in enumerate(due):
        while (left := when - time.perf_counter()) > 0:
            time.sleep(left - 5e-5 if left > 1e-4 else 0)
        deadline = int((when - time.perf_counter() + deadline_s) * 1e9) + model.now_ns() if deadline_s else 0
        try:
            model.start(x, 1, Note(log, place), home, deadline)
        except QueueFullError:
            log.refused += 1
            log.end()
        else:
            model.kick()
        time.sleep(0)  # the engine's thread may want the interpreter
    if not log.all_ended.wait(30):
        raise SystemExit("requests were lost")
    return log


def simulate(
    due: np.ndarray, take: Callable[[int], int], services: Services, hold_s: float, seed: int = 2
) -> np.ndarray:
    """Latencies of a server whose only cost is the engine."""
    random = np.random.default_rng(seed)
    sizes = list(services)
    latencies = np.empty(len(due))
    free, at = 0.0, 0
    while at < len(due):
        begin = max(free, due[at])
        if hold_s and begin == due[at]:  # the engine was idle: company may come
            begin += hold_s
        ready = int(np.searchsorted(due, begin, side="right")) - at
        rows = max(1, take(ready))
        size = sizes[min(bisect_left(sizes, rows), len(sizes) - 1)]
        free = begin + random.choice(services[size]) * max(1.0, rows / size)
        latencies[at : at + rows] = free - due[at : at + rows]
        at += rows
    return latencies


def bound(due: np.ndarray, alone_s: float, row_s: float) -> np.ndarray:
    finished = 0.0
    latencies = np.empty(len(due))
    for place, when in enumerate(due):
        finished = max(finished, when) + row_s
        latencies[place] = max(finished - when, alone_s)
    return latencies


def ms(seconds: np.ndarray, q: float) -> float:
    return float(np.quantile(seconds, q)) * 1e3


def cost_of(model: Model, sizes: Sequence[int]) -> dict[int, float]:
    """Seconds of a batch of each size, the median of 15, sizes in turns."""
    times: dict[int, list[float]] = {size: [] for size in sizes}
    assert model.slab is not None
    for _ in range(15):
        for size in sizes:
            batch = Batch(model, [Ticket(Note(Log(np.zeros(1)), 0), AnyThread(), size, 0)])
            began = time.perf_counter()
            model._inline_executor.run(batch)
            times[size].append(time.perf_counter() - began)
    return {size: float(np.median(found)) for size, found in times.items()}


def latency_table(model: Model, cost: dict[int, float], capacity: float, seconds: float) -> None:
    print(
        "load   rate/s   measured p50   p99 ms | simulated p99: ours   held (best hold)   bound |"
        " rows/batch  p99 / ours"
    )
    for load in LOADS:
        log = offer(model, load * capacity, seconds)
        services = log.services()
        ours = simulate(log.due, model.cost.best, services, 0.0)
        held = {hold: ms(simulate(log.due, model.cost.best, services, hold * cost[1]), 0.99) for hold in HOLDS}
        best = min(held, key=held.__getitem__)
        best_row = min(float(np.median(took)) / rows for rows, took in services.items())
        alone = float(np.median(services.get(1, np.array([cost[1]]))))
        floor = bound(log.due, min(alone, cost[1]), min(best_row, *(took / rows for rows, took in cost.items())))
        mean_rows = len(log.latencies) / len(log.batches)
        measured = ms(log.latencies, 0.99)
        print(
            f"{load:4.0%}{load * capacity:9.0f}{ms(log.latencies, 0.5):15.2f}{measured:9.2f} |{ms(ours, 0.99):20.2f}"
            f"{held[best]:9.2f} ({best * cost[1] * 1e3:4.1f} ms){ms(floor, 0.99):10.2f} |{mean_rows:11.1f}"
            f"{measured / ms(ours, 0.99):11.2f}"
        )


def goodput_table(model: Model, capacity: float, seconds: float, deadline_s: float) -> None:
    print(
        f"\noverload, deadline {deadline_s * 1e3:.0f} ms    offered/s   in time/s   of capacity   refused   dropped"
        "   late   p99 ms of answered"
    )
    for times in (1, *OVERLOADS):
        log = offer(model, times * capacity, seconds, deadline_s)
        in_time = int((log.latencies <= deadline_s).sum())
        answered = len(log.latencies)
        lasted = float(np.nanmax(log.done) - log.due[0])
        print(
            f"{times:4d} x{'':22s}{times * capacity:13.0f}{in_time / lasted:12.0f}{in_time / lasted / capacity:13.0%}"
            f"{log.refused:10d}{log.failed:10d}{answered - in_time:7d}{ms(log.latencies, 0.99):15.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    sys.setswitchinterval(
        1e-4
    )  # the thread that offers is as busy as no server's loop is without pauses for the kernel
    (BUILD / "models").mkdir(parents=True, exist_ok=True)
    path = BUILD / "models" / "wide.onnx"
    settings = Settings(
        engine=EngineOptions(threads=1, spinning=False), batching=BatchingSettings(max_batch=args.batch)
    )
    profile = Profile.of_model(path if path.exists() else perceptron(path, WIDTHS), settings)
    with Model.open(profile) as model:
        cost = cost_of(model, model.cost.sizes)
        capacity = max(rows / took for rows, took in cost.items())
        shown = ", ".join(f"{rows}: {took * 1e3:.1f}" for rows, took in cost.items())
        print(f"ms a batch of n rows: {shown}; capacity {capacity:.0f} rows/s\n")
        latency_table(model, cost, capacity, args.seconds)
        goodput_table(model, capacity, args.seconds, 8 * cost[args.batch])


if __name__ == "__main__":
    main()

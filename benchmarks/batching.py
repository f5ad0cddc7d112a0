"""The batching policy beside the ideal: latency at 30, 60 and 90 % load, goodput at 2 and 10 times the capacity.

    python benchmarks/batching.py [--seconds 2] [--rounds 5] [--batch 16]

A perceptron 1024-3072-3072-1024-1 (a row alone is bound by reading the weights, so batching pays) in process, one
engine thread, Poisson arrivals from one thread, latency from the planned time of arrival. What it is compared with are
simulations of the same arrivals in which everything but the engine costs nothing; a batch of n rows takes what one of
the batches of that size took in the measured run, drawn at random:

ours       the same policy: what is ready goes as soon as the engine is idle
held       the best fixed hold-back, chosen afterwards with all results known
bound      no policy that serves in order of arrival can be below: every row at the best cost a row of any size, but
           none faster than a row alone

Goodput counts answers that came before their deadline, which is what eight full batches take at the peak (64 rows
always waiting, measured just before). Its limit is the ideal: nothing but full batches, one after the other, at what
they cost on average in the same run, in which the thread that offers takes a core for itself.
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
from tailcut.runtime.delivery import AnyThreadDelivery
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.request import Batch, Request
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.stats import median_interval

BUILD = Path(__file__).parent.parent / "build"
WIDTHS = (1024, 3072, 3072, 1024, 1)
LOADS = (0.3, 0.6, 0.9)
OVERLOADS = (2, 10)
HOLDS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)  # of what a row alone costs
Services = dict[int, np.ndarray]  # seconds that batches took, by size


class Note:
    """Where one request's end is written down."""

    __slots__ = ("log", "place")

    def __init__(self, log: "Log", index: int) -> None:
        self.log, self.index = log, index

    def complete(self, request: Request, batch: Batch, index: int) -> None:
        self.log.done[self.index] = time.perf_counter()
        if index == 0:
            self.log.batches.append((batch.rows, (batch.ended_ns - batch.began_ns) / 1e9))
        self.log.end()

    def fail(self, request: Request, error: TailcutError) -> None:
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
        result: dict[int, list[float]] = {}
        for rows, took in self.batches:
            result.setdefault(rows, []).append(took)
        return {rows: np.array(took) for rows, took in sorted(result.items())}


def offer(model: Model, rate: float, seconds: float, deadline_s: float = 0.0, seed: int = 1) -> Log:
    """Poisson arrivals at a rate; every request is refused, answered or late in the end.

    With a deadline, time counts from when the request really came: past the capacity the offering thread falls behind
    its plan, and lateness of its own would be charged to the model.
    """
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds))
    due = time.perf_counter() + 0.05 + np.cumsum(gaps)
    log, home = Log(due), AnyThreadDelivery()
    x = {"x": np.random.default_rng(0).standard_normal((1, WIDTHS[0])).astype(np.float32)}
    for index, when in enumerate(due):
        while (left := when - time.perf_counter()) > 0:
            time.sleep(left - 5e-5 if left > 1e-4 else 0)
        deadline = 0
        if deadline_s:
            log.due[index] = time.perf_counter()
            deadline = time.monotonic_ns() + int(deadline_s * 1e9)
        try:
            model.entry.start(x, Request(Note(log, index), home, 1, deadline))
        except QueueFullError:
            log.refused += 1
            log.end()
        else:
            model.entry.notify()
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
    for index, when in enumerate(due):
        finished = max(finished, when) + row_s
        latencies[index] = max(finished - when, alone_s)
    return latencies


def ms(seconds: np.ndarray, q: float) -> float:
    return float(np.quantile(seconds, q)) * 1e3


def cost_of(model: Model, sizes: Sequence[int]) -> dict[int, float]:
    """Seconds of a batch of each size, the median of 7, sizes in turns."""
    times: dict[int, list[float]] = {size: [] for size in sizes}
    assert model.entry.scheduler.slab is not None
    for _ in range(7):
        for size in sizes:
            batch = Batch(model.entry.scheduler, [Request(Note(Log(np.zeros(1)), 0), AnyThreadDelivery(), size)])
            began = time.perf_counter()
            model.entry.executor.compute(batch)
            times[size].append(time.perf_counter() - began)
    return {size: float(np.median(result)) for size, result in times.items()}


def saturated(model: Model, seconds: float) -> float:
    """Rows per second with 64 requests always waiting."""
    gate = threading.Semaphore(64)
    done = [0]

    class Again(Note):
        __slots__ = ()

        def complete(self, request: Request, batch: Batch, index: int) -> None:
            done[0] += 1
            gate.release()

    x = {"x": np.ones((1, WIDTHS[0]), np.float32)}
    note, home = Again(Log(np.zeros(1)), 0), AnyThreadDelivery()
    began = time.perf_counter()
    while (lasted := time.perf_counter() - began) < seconds:
        gate.acquire()
        model.entry.start(x, Request(note, home, 1))
        model.entry.notify()
    answered = done[0]
    for _ in range(64):
        gate.acquire()
    return answered / lasted


def latencies(model: Model, load: float, seconds: float, seed: int) -> tuple[float, ...]:
    """One block: rate, measured p50 and p99, simulated p99 of ours, held and bound, the hold, rows a batch."""
    known = model.entry.scheduler.forecast.cost
    cost = cost_of(model, known.sizes)  # anew: a shared machine is not the same from minute to minute
    rate = load * max(rows / took for rows, took in cost.items())
    log = offer(model, rate, seconds, seed=seed)
    services = log.services()
    ours = simulate(log.due, known.best, services, 0.0)
    held = {hold: ms(simulate(log.due, known.best, services, hold * cost[1]), 0.99) for hold in HOLDS}
    best = min(held, key=held.__getitem__)
    fastest = min(float(took.min()) for took in services.values())
    floor = bound(log.due, fastest, min(float(np.median(took)) / rows for rows, took in services.items()))
    measured = ms(log.latencies, 0.99)
    simulated = ms(ours, 0.99), held[best], ms(floor, 0.99)
    mean_rows = len(log.latencies) / len(log.batches)
    return rate, ms(log.latencies, 0.5), measured, *simulated, best * cost[1] * 1e3, mean_rows, measured / simulated[0]


def latency_table(model: Model, seconds: float, rounds: int) -> None:
    print(
        "load   rate/s   measured p50   p99 ms | simulated p99: ours   held (best hold)   bound |"
        " rows/batch  p99 / ours (99 % interval)"
    )
    for load in LOADS:
        blocks = [latencies(model, load, seconds, seed) for seed in range(rounds)]
        rate, p50, p99, ours, held, floor, hold, rows, ratio = np.median(blocks, axis=0)
        sure = median_interval(np.array([block[-1] for block in blocks]))
        print(
            f"{load:4.0%}{rate:9.0f}{p50:15.2f}{p99:9.2f} |{ours:20.2f}{held:9.2f} ({hold:4.1f} ms){floor:10.2f} |"
            f"{rows:11.1f}{ratio:11.2f} ({sure.low:.2f} to {sure.high:.2f})",
            flush=True,
        )


def goodput_table(model: Model, seconds: float) -> None:
    print(
        "\noverload   peak/s   deadline   offered/s   in time/s   ideal/s   of the ideal   rows/batch   refused"
        "   dropped   late"
    )
    for times in OVERLOADS:
        peak = saturated(model, seconds / 4)
        deadline_s = 8 * model.entry.scheduler.max_batch_size / peak
        log = offer(model, times * peak, seconds, deadline_s)
        in_time = int((log.latencies <= deadline_s).sum())
        rate = in_time / float(np.nanmax(log.done) - log.due[0])
        offered = len(log.due) / float(log.due[-1] - log.due[0])
        ideal = max(rows / float(took.mean()) for rows, took in log.services().items() if len(took) > 9)
        print(
            f"{times:6d} x{peak:10.0f}{deadline_s * 1e3:8.0f} ms{offered:12.0f}{rate:12.0f}{ideal:10.0f}"
            f"{rate / ideal:15.0%}{len(log.latencies) / len(log.batches):13.1f}{log.refused:10d}{log.failed:10d}"
            f"{len(log.latencies) - in_time:7d}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2, help="of a block")
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each load; the table has their medians")
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    sys.setswitchinterval(
        1e-4
    )  # the thread that offers is as busy as no server's loop is without pauses for the kernel
    (BUILD / "models").mkdir(parents=True, exist_ok=True)
    path = BUILD / "models" / "wide.onnx"
    settings = Settings(
        engine=EngineOptions(threads=1, spinning=False), batching=BatchingSettings(max_batch_size=args.batch)
    )
    profile = Profile.of_model(path if path.exists() else perceptron(path, WIDTHS), settings)
    with Model.open(profile) as model:
        cost = cost_of(model, model.entry.scheduler.forecast.cost.sizes)
        shown = ", ".join(f"{rows}: {took * 1e3:.1f}" for rows, took in cost.items())
        print(f"ms a batch of n rows: {shown}\n")
        latency_table(model, args.seconds, args.rounds)
        goodput_table(model, 2 * args.seconds)


if __name__ == "__main__":
    main()

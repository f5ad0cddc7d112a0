"""What padding into buckets is worth for requests of different lengths, and how its parts compare.

    python benchmarks/padding.py [--requests 256] [--rounds 3]

The same sentences (lengths 8 to 96, as many short as long) go through two encoders: that of `reference_models.py`,
which is bound by its arithmetic, and one of two layers 64 wide, which is bound by the calls. All are queued at once,
one engine thread; rows a second, median of the rounds, contestants in turns:

alone         one call a request at its own length: no batching at all
own length    batches of requests that happen to have the same length: what a server does that does not pad
loose         padded with fresh arrays, joined, and run by name: the plain way to pad
buckets       `runtime.padding`: padded straight into bound scratch
limit         the engine alone on full batches of one bucket, weighted as the sentences fall into buckets
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import Encoder, make

from tailcut.engines.base import EngineOptions
from tailcut.runtime.batch import ArrayExecutor, Batch
from tailcut.runtime.home import AnyThread, EventSink
from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model
from tailcut.runtime.profile import BatchingSettings, PaddedInput, PaddingSettings, Profile, Settings

BUILD = Path(__file__).parent.parent / "build"
BUCKETS = (16, 32, 48, 64, 96)
BATCH = 8
NAMES = ("ids", "mask")


class SmallEncoder(Encoder):
    WIDTH, HEADS, LAYERS = 64, 4, 2


class LoosePadding:
    """The plain way: np.pad each array to its bucket, and let the engine's wrapper join and run them."""

    def __init__(self, engine) -> None:
        self._loose = ArrayExecutor(engine)

    def run(self, batch: Batch) -> None:
        bucket = batch.tickets[0].key
        for ticket in batch.tickets:
            wider = ((0, 0), (0, bucket - ticket.length))
            ticket.arrays = {name: np.pad(array, wider) for name, array in ticket.arrays.items()}
        self._loose.run(batch)


def sentences(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [
        {"ids": random.integers(1, 4096, (1, length)), "mask": np.ones((1, length), np.int64)}
        for length in random.integers(8, 97, count)
    ]


def opened(path: Path, *, padded: bool, max_batch: int = BATCH) -> Model:
    padding = PaddingSettings(buckets=BUCKETS, inputs=tuple(PaddedInput(name=name) for name in NAMES))
    batching = BatchingSettings(max_batch=max_batch, dispatch="inline", padding=padding if padded else None)
    settings = Settings(engine=EngineOptions(threads=1), batching=batching)
    profile = Profile.of_model(path, settings)
    return Model.open(profile, limits=Limits(queue_rows=4096, warm_up_s=60))


def rows_per_second(model: Model, requests: list[dict[str, np.ndarray]]) -> float:
    sinks = [EventSink() for _ in requests]
    began = time.perf_counter()
    for request, sink in zip(requests, sinks, strict=True):
        model.start(request, 1, sink, AnyThread())
    model.kick()
    took = time.perf_counter() - began
    if any(sink.outputs is None for sink in sinks):
        raise SystemExit("a request failed")
    return len(requests) / took


def limit(model: Model, requests: list[dict[str, np.ndarray]]) -> float:
    """Rows a second of bound full batches, each bucket as often as the requests have it."""
    seconds = 0.0
    for bucket in BUCKETS:
        rows = sum(1 for one in requests if model._padding.place(one)[0] == bucket)
        times = []
        for _ in range(3):
            call = model._inline_executor._call(bucket, BATCH)
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        seconds += min(times) / BATCH * rows
    return len(requests) / seconds


def measure(path: Path, requests: list[dict[str, np.ndarray]], rounds: int) -> None:
    buckets, loose = opened(path, padded=True), opened(path, padded=True)
    loose._inline_executor = LoosePadding(loose._crew._first)
    models = {
        "alone": opened(path, padded=False, max_batch=1),
        "own length": opened(path, padded=False),
        "loose": loose,
        "buckets": buckets,
    }
    found: dict[str, list[float]] = {name: [] for name in [*models, "limit"]}
    for _ in range(rounds):
        for name, model in models.items():
            found[name].append(rows_per_second(model, requests))
        found["limit"].append(limit(buckets, requests))
    base = statistics.median(found["own length"])
    print(f"{path.stem}: {len(requests)} sentences of 8 to 96 tokens, batches of up to {BATCH}, buckets {BUCKETS}")
    for name, rates in found.items():
        middle = statistics.median(rates)
        print(f"{name:12s}{middle:8.1f} rows/s{middle / base:7.2f} of own length")
    for model in models.values():
        model.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    small = BUILD / "models" / "small_encoder.onnx"
    measure(make("encoder", BUILD / "models"), sentences(args.requests), args.rounds)
    measure(small if small.exists() else SmallEncoder().make(small), sentences(10 * args.requests), args.rounds)


if __name__ == "__main__":
    main()

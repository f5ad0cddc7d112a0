"""What padding into buckets is worth for requests of different lengths, and how its parts compare.

    python benchmarks/padding.py [--requests 256] [--rounds 3]

The same sentences (lengths 8 to 96, as many short as long) go through two encoders: that of `reference_models.py`,
which is bound by its arithmetic, and one of two layers 64 wide, which is bound by the calls. 32 are queued at a time,
one engine thread; rows per second and the ratio, medians over the waves with 99 % intervals, contestants in turns wave
by wave:

alone         one call a request at its own length: no batching at all
own length    batches of requests that happen to have the same length: what a server does that does not pad
loose         padded with fresh arrays, joined, and run by name: the plain way to pad
buckets       `runtime.padding`: padded straight into bound scratch
limit         the engine alone on full batches of one bucket, weighted as the sentences fall into buckets

Then single batches of the small encoder, the two ways to pad in turns batch by batch.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import Encoder, make

from tailcut.engines.base import EngineOptions
from tailcut.runtime.delivery import AnyThreadDelivery, EventHandler
from tailcut.runtime.executors import ArrayExecutor, PaddedExecutor
from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model
from tailcut.runtime.padding import Bucket
from tailcut.runtime.profile import Profile
from tailcut.runtime.request import Batch, Request
from tailcut.runtime.settings import BatchingSettings, PaddedInput, PaddingSettings, Settings
from tailcut.stats import median_ratio_interval

BUILD = Path(__file__).parent.parent / "build"
BUCKETS = (16, 32, 48, 64, 96)
BATCH = 8
WAVE = 32
NAMES = ("ids", "mask")


class SmallEncoder(Encoder):
    WIDTH, HEADS, LAYERS = 64, 4, 2


class LoosePadding(ArrayExecutor):
    """The plain way: np.pad each array to its bucket, and let the engine's wrapper join and run them."""

    def compute(self, batch: Batch) -> None:
        bucket = batch.members[0].key
        assert isinstance(bucket, Bucket)
        (size,) = bucket.sizes
        for request in batch.members:
            wider = ((0, 0), (0, size - request.lengths[0]))
            request.arrays = {name: np.pad(array, wider) for name, array in (request.arrays or {}).items()}
        super().compute(batch)


def sentences(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [
        {"ids": random.integers(1, 4096, (1, length)), "mask": np.ones((1, length), np.int64)}
        for length in random.integers(8, 97, count)
    ]


def opened(path: Path, *, padded: bool, max_batch_size: int = BATCH) -> Model:
    padding = PaddingSettings(buckets=BUCKETS, inputs=tuple(PaddedInput(name=name) for name in NAMES))
    batching = BatchingSettings(max_batch_size=max_batch_size, dispatch="inline", padding=padding if padded else None)
    settings = Settings(engine=EngineOptions(threads=1), batching=batching)
    profile = Profile.of_model(path, settings)
    return Model.open(profile, limits=Limits(queue_rows=4096, warm_up_s=60))


def seconds_of(model: Model, wave: list[dict[str, np.ndarray]]) -> float:
    sinks = [EventHandler() for _ in wave]
    began = time.perf_counter()
    for request, sink in zip(wave, sinks, strict=True):
        model.entry.start(request, Request(sink, AnyThreadDelivery(), 1))
    model.entry.notify()
    took = time.perf_counter() - began
    if any(sink.outputs is None for sink in sinks):
        raise SystemExit("a request failed")
    return took


def limit(model: Model, wave: list[dict[str, np.ndarray]]) -> float:
    """Seconds of bound full batches, each bucket as often as the requests have it."""
    seconds = 0.0
    for bucket in model._padding.grid:
        rows = sum(1 for item in wave if model._padding.place(item)[0] == bucket)
        executor = model.entry.executor
        assert isinstance(executor, PaddedExecutor)
        call = executor._call(bucket, BATCH)
        began = time.perf_counter()
        call()
        seconds += (time.perf_counter() - began) / BATCH * rows
    return seconds


def batch_of(model: Model, count: int, bucket: int, random: np.random.Generator) -> Batch:
    requests = []
    for length in random.integers(2 * bucket // 3, bucket + 1, count):
        request = Request(EventHandler(), AnyThreadDelivery(), 1)
        request.arrays = {"ids": random.integers(1, 4096, (1, length)), "mask": np.ones((1, length), np.int64)}
        request.key, request.lengths = Bucket((bucket,)), (int(length),)
        requests.append(request)
    return Batch(model.entry.scheduler, requests)


def single_batches(path: Path) -> None:
    print("\nbucket  rows   loose us   buckets us   ratio")
    random = np.random.default_rng(0)
    with opened(path, padded=True) as model:
        loose = LoosePadding(model._pool._first)
        for bucket in (16, 32, 96):
            for count in (1, 4, 8):
                times = np.empty((60, 2))
                for turn in times:
                    for index, executor in enumerate((loose, model.entry.executor)):
                        batch = batch_of(model, count, bucket, random)
                        began = time.perf_counter()
                        executor.compute(batch)
                        turn[index] = time.perf_counter() - began
                plain, bound = np.median(times, axis=0) * 1e6
                print(f"{bucket:6d}{count:6d}{plain:11.0f}{bound:13.0f}{np.median(times[:, 0] / times[:, 1]):8.2f}")


def measure(path: Path, requests: list[dict[str, np.ndarray]], rounds: int) -> None:
    buckets, loose = opened(path, padded=True), opened(path, padded=True)
    loose.entry.executor = LoosePadding(loose._pool._first)
    models = {
        "alone": opened(path, padded=False, max_batch_size=1),
        "own length": opened(path, padded=False),
        "loose": loose,
        "buckets": buckets,
    }
    result: dict[str, list[float]] = {name: [] for name in [*models, "limit"]}
    for number in range(rounds + 1):
        for start in range(0, len(requests), WAVE):
            wave = requests[start : start + WAVE]
            times = {name: seconds_of(model, wave) for name, model in models.items()}
            times["limit"] = limit(buckets, wave)
            for name, took in times.items() if number else ():  # the first round binds what it meets
                result[name].append(took)
    print(f"{path.stem}: sentences of 8 to 96 tokens, {WAVE} at a time in batches of up to {BATCH}")
    base = np.array(result["own length"])
    for name, took in result.items():
        ratio = median_ratio_interval(base, np.array(took))  # rows per second are the reciprocal of the time
        print(
            f"{name:12s}{WAVE / np.median(took):8.1f} rows/s{ratio.point:7.2f} ({ratio.low:.2f} to {ratio.high:.2f}) "
            f"of own length",
            flush=True,
        )
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
    single_batches(small)


if __name__ == "__main__":
    main()

"""Each numba kernel against its numpy twin, and against the machine's memory: a copy of as many bytes, in the same run.

    python benchmarks/kernels.py [--only softmax_rows] [--seconds 1]

Kernel, twin and copy take turns on one pinned core; figures are medians. The limit is the time in which `numpy.copyto`
moves the bytes that the kernel must read and write, in arrays of that size: below the size of a cache it is the cache's
speed. A kernel that computes much for each byte cannot reach it; one that reads less than it writes may pass it.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tailcut.kernels import compiled, images, jit, precision, reference, rows
from tailcut.kernels.vectorization import numba_isa
from tailcut.machine.affinity import pin_thread
from tailcut.machine.fingerprint import fingerprint
from tailcut.machine.quota import affinity_mask

LARGE_BYTES = 256 << 20  # eight times the third-level cache of the machine that this was written on
RANDOM = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    """A kernel at work: what it is called with, and the bytes that it must read and write."""

    title: str
    kernel: Callable[..., None]
    arguments: tuple[object, ...]
    moved_bytes: int


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def case(title: str, kernel: Callable[..., None], *arguments: object, moved: tuple[np.ndarray, ...] = ()) -> Case:
    arrays = moved or tuple(argument for argument in arguments if isinstance(argument, np.ndarray))
    return Case(title, kernel, arguments, sum(array.nbytes for array in arrays))


def cases() -> list[Case]:
    image = RANDOM.integers(0, 256, (224, 224, 3), np.uint8)
    scale, offset = np.full(3, 1 / 58, np.float32), np.full(3, -2, np.float32)
    planes, pixels = np.empty((3, 224, 224), np.float32), np.empty((224, 224, 3), np.float32)
    many, bits = floats(1 << 18), np.zeros(1 << 18, np.uint16)
    batch, ints, scales, zeros = (
        floats(64, 1024),
        np.zeros((64, 1024), np.int8),
        np.ones(64, np.float32),
        np.zeros(64, np.int32),
    )
    table, places = floats(4096, 256), RANDOM.permutation(4096)[:256]
    taken = np.empty((256, 256), np.float32)
    logits, tokens, mask = floats(64, 1000), floats(8, 128, 384), np.ones((8, 128), np.int64)
    return [
        case("normalize_nchw 224x224", images.normalize_nchw, image, 0, 0, False, scale, offset, planes),
        case("normalize_nhwc 224x224", images.normalize_nhwc, image, 0, 0, False, scale, offset, pixels),
        case("normalize_nhwc 224x224, swapped", images.normalize_nhwc, image, 0, 0, True, scale, offset, pixels),
        case("float32_to_bf16 262,144", precision.float32_to_bf16, many, bits),
        case("bf16_to_float32 262,144", precision.bf16_to_float32, bits, many.copy()),
        case("float32_to_f16 262,144", precision.float32_to_f16, many, bits),
        case("f16_to_float32 262,144", precision.f16_to_float32, bits, many.copy()),
        case("quantize_rows 64x1024", precision.quantize_rows, batch, scales, zeros, ints),
        case("dequantize_rows 64x1024", precision.dequantize_rows, ints, scales, zeros, batch.copy()),
        case("softmax_rows 64x1000", rows.softmax_rows, logits, np.empty_like(logits)),
        case(
            "top_k_rows 64x1000, k=5",
            rows.top_k_rows,
            logits,
            np.empty((64, 5), np.float32),
            np.empty((64, 5), np.int64),
        ),
        case("gather_rows 256 of 4096x256", compiled.gather_rows, table, places, taken, moved=(taken, taken)),
        case("scatter_rows 256 to 4096x256", rows.scatter_rows, taken, places, table.copy(), moved=(taken, taken)),
        case("mean_pool 8x128x384", rows.mean_pool, tokens, mask, np.empty((8, 384), np.float32)),
    ]


def main() -> None:
    options = argparse.ArgumentParser(description="numba kernels against numpy and the memory")
    options.add_argument("--only", default="", help="kernels whose name holds this")
    options.add_argument("--seconds", type=float, default=1.0, help="for each kernel; default %(default)s")
    chosen = options.parse_args()
    if affinity_mask():
        pin_thread(max(affinity_mask()))
    jit.prepare()
    print(f"{fingerprint()['cpu']}, one thread, numba for {numba_isa()}")
    print(f"memory, {LARGE_BYTES >> 20} MiB: copy {copy_gb_s():.1f} GB/s, triad {triad_gb_s():.1f} GB/s\n")
    print(f"{'kernel':<33} {'us':>8} {'GB/s':>6} {'numpy us':>9} {'faster':>7} {'copy us':>8} {'of copy':>8}")
    for item in cases():
        if chosen.only not in item.title:
            continue
        ours, twin, copy = measure(item, chosen.seconds)
        rate = item.moved_bytes / ours / 1e9
        print(
            f"{item.title:<33} {ours * 1e6:8.1f} {rate:6.1f} {twin * 1e6:9.1f} {twin / ours:6.1f}x {copy * 1e6:8.1f} "
            f"{copy / ours:8.0%}"
        )


def measure(item: Case, length_s: float) -> tuple[float, float, float]:
    """Median seconds of kernel, twin and copy, taking turns."""
    name = item.kernel.__name__
    twin = partition_rows if name == "top_k_rows" else getattr(reference, name)
    source = np.ones(max(1, item.moved_bytes // 2), np.uint8)
    target = np.empty_like(source)
    calls = (
        lambda: item.kernel(*item.arguments),
        lambda: twin(*item.arguments),
        lambda: np.copyto(target, source),
    )
    samples: list[list[float]] = [[], [], []]
    end = time.perf_counter() + length_s
    while time.perf_counter() < end or len(samples[0]) < 5:
        for call, taken in zip(calls, samples, strict=True):
            call()  # the caches are the caller's own
            taken.append(seconds(call))
    ours, theirs, copy = (float(np.median(taken)) for taken in samples)
    return ours, theirs, copy


def partition_rows(values: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
    """The k largest by numpy's fastest way, for the comparison: the twin in reference.py sorts whole rows."""
    k = out.shape[1]
    result = np.argpartition(values, -k, axis=1)[:, -k:]
    order = np.argsort(-np.take_along_axis(values, result, axis=1), axis=1)
    places[:] = np.take_along_axis(result, order, axis=1)
    out[:] = np.take_along_axis(values, places, axis=1)


def copy_gb_s() -> float:
    source, target = np.ones(LARGE_BYTES // 8), np.zeros(LARGE_BYTES // 8)
    return 2 * LARGE_BYTES / min(seconds(lambda: np.copyto(target, source)) for _ in range(5)) / 1e9


def triad_gb_s() -> float:
    """a = b + c, all of the large size; numpy's plain addition."""
    b, c, a = (np.ones(LARGE_BYTES // 8) for _ in range(3))
    return 3 * LARGE_BYTES / min(seconds(lambda: np.add(b, c, out=a)) for _ in range(5)) / 1e9


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

"""GFLOP/s of the three matrix products on one core, beside the core's own measured peak.

    python benchmarks/matmul.py [--sizes 64,128,256,512]

Float32, square, on aligned matrices; every figure is the best and the median of interleaved repetitions. The peak is
what chains of fused multiply-adds reach in registers, without any memory traffic.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import time
from collections.abc import Callable

import numpy as np

from tailcut import AlignedMatrix
from tailcut.kernels import compiled, reference
from tailcut.machine.affinity import pin_thread
from tailcut.machine.fingerprint import fingerprint
from tailcut.machine.quota import affinity_mask

CHAIN_VALUES = 1024  # 4 KiB of float32: always in the first-level cache
PEAK_ROUNDS = 2000
SECONDS_A_SIZE = 2.0


def main() -> None:
    options = argparse.ArgumentParser(description="GFLOP/s of three matrix products beside the core's peak")
    options.add_argument("--sizes", default="64,128,256,512", help="comma-separated; default %(default)s")
    sizes = [int(size) for size in options.parse_args().sizes.split(",")]
    if hasattr(os, "sched_setaffinity"):
        pin_thread(max(affinity_mask()))
    print(f"{fingerprint()['cpu']}, one thread, float32")
    peak = peak_gflops()
    print(f"peak of fused multiply-adds: {peak:.1f} GFLOP/s\n")
    print(f"{'size':>5}  {'kernel':<8} {'best':>7} {'median':>7}  of peak  samples")
    for size in sizes:
        for name, samples in products(size).items():
            rates = 2 * size**3 / np.array(samples) / 1e9
            best, median = rates.max(), np.median(rates)
            print(f"{size:5d}  {name:<8} {best:7.1f} {median:7.1f}  {best / peak:7.0%}  {len(samples):7d}")


def peak_gflops() -> float:
    """Multiply-adds per second of one core, in GFLOP/s: the best of 20 runs of some milliseconds."""
    values, factor, term = np.ones(CHAIN_VALUES, np.float32), np.float32(0.5), np.float32(0.5)
    compiled.multiply_add_chains(values, factor, term, 1)
    best = min(seconds(lambda: compiled.multiply_add_chains(values, factor, term, PEAK_ROUNDS)) for _ in range(20))
    return 2 * 16 * CHAIN_VALUES * PEAK_ROUNDS / best / 1e9


def products(size: int) -> dict[str, list[float]]:
    """Seconds of each kernel's calls, the kernels taking turns."""
    random = np.random.default_rng(0)
    a, b = (AlignedMatrix.from_array(random.standard_normal((size, size))).array for _ in range(2))
    out = AlignedMatrix(size, size).array
    kernels = {"i-k-j": compiled.matmul_ikj, "tiled": compiled.matmul_tiled, "BLAS": reference.matmul_ikj}
    for kernel in kernels.values():
        kernel(a, b, out)
        np.testing.assert_allclose(out, a @ b, rtol=1e-3, atol=1e-3)
    samples: dict[str, list[float]] = {name: [] for name in kernels}
    end = time.perf_counter() + SECONDS_A_SIZE
    while time.perf_counter() < end:
        for name, kernel in kernels.items():
            samples[name].append(seconds(lambda kernel=kernel: kernel(a, b, out)))
    return samples


def seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

"""Nanoseconds of acquire + release on a buffer pool, beside its limit of 1 us and beside what it replaces.

    python benchmarks/pool.py

All ways take turns, a thousand calls to a sample. A new array that is also filled is what a recycled buffer competes
with: np.empty alone hands out memory that still has to be paid for at the first touch.
"""

import threading
import time
from collections.abc import Callable

import numpy as np

from tailcut import BufferPool
from tailcut.machine.fingerprint import fingerprint
from tailcut.memory.aligned import aligned_empty

LIMIT_NS = 1000
CALLS, SAMPLES = 1000, 200
CAPACITY = 3 * 224 * 224  # an image's worth of float32
THREADS = 4


def main() -> None:
    print(f"{fingerprint()['cpu']}, {CAPACITY} float32, {SAMPLES} samples of {CALLS} calls\n")
    pool, source = BufferPool(8, CAPACITY), np.ones(CAPACITY, np.float32)

    def borrow() -> None:
        pool.release(pool.acquire())

    def lease() -> None:
        with pool.lease():
            pass

    ways: dict[str, Callable[[], object]] = {
        "acquire + release": borrow,
        "lease()": lease,
        "np.empty": lambda: np.empty(CAPACITY, np.float32),
        "np.zeros": lambda: np.zeros(CAPACITY, np.float32),
    }
    samples = interleaved(ways, CALLS, SAMPLES)
    report(samples)
    best = float(np.median(samples["acquire + release"]))
    print(f"acquire + release: {best:.0f} ns, {'under' if best < LIMIT_NS else 'OVER'} the limit of {LIMIT_NS} ns\n")

    def filled() -> None:
        with pool.lease() as buffer:
            buffer.fill(source)

    filling: dict[str, Callable[[], object]] = {
        "lease() and fill": filled,
        "aligned_empty and copy": lambda: np.copyto(aligned_empty(CAPACITY), source),
        "np.empty and copy": lambda: np.copyto(np.empty(CAPACITY, np.float32), source),
    }
    report(interleaved(filling, 20, SAMPLES))
    print(f"{THREADS} threads at once: {contended(pool):.0f} ns a pair, all threads together")


def interleaved(ways: dict[str, Callable[[], object]], calls: int, samples: int) -> dict[str, list[float]]:
    """Nanoseconds a call, one sample of each way in turn."""
    result: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(samples):
        for name, way in ways.items():
            start = time.perf_counter_ns()
            for _ in range(calls):
                way()
            result[name].append((time.perf_counter_ns() - start) / calls)
    return result


def report(samples: dict[str, list[float]]) -> None:
    for name, values in samples.items():
        print(f"{name:<24} {np.median(values):9.0f} ns median  {np.quantile(values, 0.99):9.0f} ns p99")


def contended(pool: BufferPool) -> float:
    """Nanoseconds from start to end over all pairs, when several threads use the pool at once."""
    start = threading.Barrier(THREADS + 1)

    def work() -> None:
        start.wait()
        for _ in range(20 * CALLS):
            pool.release(pool.acquire())

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter_ns()
    for thread in threads:
        thread.join()
    return (time.perf_counter_ns() - began) / (THREADS * 20 * CALLS)


if __name__ == "__main__":
    main()

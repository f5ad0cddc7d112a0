"""Microseconds to enter and leave a region of `counters()`, beside its limit of 20 us and beside what it is made of.

    python benchmarks/counters.py

All ways take turns, a thousand calls to a sample. The reads are system calls, so that a virtual machine pays more. The
last lines count the instructions of an empty region with the processor's own counters, where there are any.
"""

import resource
import time
from collections.abc import Callable

import numpy as np

from tailcut import counters
from tailcut.machine.counters import counts_missing
from tailcut.machine.fingerprint import fingerprint

LIMIT_US = 20.0
CALLS, SAMPLES = 1000, 100


def main() -> None:
    print(f"{fingerprint()['cpu']}, {SAMPLES} samples of {CALLS} calls; {len(counts_missing())} counters missing\n")
    region = counters()

    def reused() -> None:
        with region:
            pass

    def new() -> None:
        with counters():
            pass

    def understood() -> None:
        with region:
            pass
        _ = region.counts

    ways: dict[str, Callable[[], object]] = {
        "with region (made before)": reused,
        "with counters()": new,
        "with region, counts read": understood,
        "getrusage(RUSAGE_THREAD)": lambda: resource.getrusage(resource.RUSAGE_THREAD),
        "thread_time_ns()": time.thread_time_ns,
        "perf_counter_ns()": time.perf_counter_ns,
    }
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(SAMPLES):
        for name, way in ways.items():
            start = time.perf_counter_ns()
            for _ in range(CALLS):
                way()
            samples[name].append((time.perf_counter_ns() - start) / CALLS / 1e3)
    for name, values in samples.items():
        print(f"{name:<26} {np.median(values):7.2f} us median  {np.quantile(values, 0.99):7.2f} us p99")
    best = float(np.median(samples["with region (made before)"]))
    print(f"\nin and out: {best:.2f} us, {'under' if best < LIMIT_US else 'OVER'} the limit of {LIMIT_US:g} us")
    reused()
    if region.instructions is not None:
        print(f"an empty region counts {region.instructions} instructions of its own")
    print(f"an empty region counts {region.cpu_ns} ns of CPU time and {region.page_faults} page faults of its own")


if __name__ == "__main__":
    main()

"""Eight threads share a pool of buffers: each borrows one, fills half of it, and takes the mean over all of it.

python examples/buffer_pool.py
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tailcut import BufferPool

POOL = BufferPool(count=16, capacity=512)


def mean_of(thread: int) -> float:
    """The mean over a buffer whose first half holds 0, 0.01, ... 2.55, each plus the thread's number; the rest is 0."""
    with POOL.lease() as buffer:
        buffer.fill(np.arange(256) * 0.01 + thread)
        return float(buffer.array.mean())


def main() -> None:
    with ThreadPoolExecutor(max_workers=8) as threads:
        for thread, result in enumerate(threads.map(mean_of, range(8))):
            print(f"Thread {thread} result: {result:.4f}")


if __name__ == "__main__":
    main()

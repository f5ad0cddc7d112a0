"""Servers for simulations whose results have a formula: service that is fixed or exponential, and Poisson arrivals."""

import numpy as np

from tailcut.tuner.simulate import Configuration, ServiceTimes, WayIn

FREE = WayIn(receive_ns=0, answer_ns=0, batch_ns=0, wake_ns=0, outside_ns=0)
MS = 1_000_000


def fixed(*times_ms: float, threads: int = 1) -> ServiceTimes:
    """Batches of 1, 2, 4, ... rows take exactly so long."""
    return ServiceTimes(2 ** np.arange(len(times_ms)), np.array(times_ms)[:, None] * MS, threads)


def exponential(mean_ms: float) -> ServiceTimes:
    """Many equally likely times of an exponential distribution."""
    shares = (np.arange(20_000) + 0.5) / 20_000
    return ServiceTimes(np.array([1]), -np.log1p(-shares)[None, :] * mean_ms * MS)


def poisson(rate: float, count: int, seed: int = 1) -> np.ndarray:
    """Arrivals in nanoseconds, at so many per second."""
    return np.cumsum(np.random.default_rng(seed).exponential(1e9 / rate, count)).astype(np.int64)


def single(service: ServiceTimes, **settings: object) -> Configuration:
    """One instance, one row a batch, room for all."""
    return Configuration(service, FREE, max_batch_size=1, queue_rows=1 << 30, **settings)  # type: ignore[arg-type]

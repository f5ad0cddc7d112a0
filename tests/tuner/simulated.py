"""Servers whose simulation results have a closed form: fixed or exponential service times, and Poisson arrivals."""

import numpy as np

from tailcut.tuner.simulate import Configuration, ServiceTimes, WayIn

FREE = WayIn(receive_ns=0, answer_ns=0, batch_ns=0, wake_ns=0, outside_ns=0)
MS = 1_000_000


def fixed(*times_ms: float, threads: int = 1) -> ServiceTimes:
    """Service times: batches of 1, 2, 4, ... rows take exactly these times."""
    return ServiceTimes(2 ** np.arange(len(times_ms)), np.array(times_ms)[:, None] * MS, threads)


def exponential(mean_ms: float) -> ServiceTimes:
    """Service times: many equally likely quantiles of an exponential distribution."""
    shares = (np.arange(20_000) + 0.5) / 20_000
    return ServiceTimes(np.array([1]), -np.log1p(-shares)[None, :] * mean_ms * MS)


def poisson(rate: float, count: int, seed: int = 1) -> np.ndarray:
    """Poisson arrival times in nanoseconds, at this rate per second."""
    return np.cumsum(np.random.default_rng(seed).exponential(1e9 / rate, count)).astype(np.int64)


def single(service: ServiceTimes, **settings: object) -> Configuration:
    """A server with one instance, batches of one row, and an unbounded queue."""
    return Configuration(service, FREE, max_batch_size=1, queue_rows=1 << 30, **settings)  # type: ignore[arg-type]

"""A server of known service time, and the mathematics of its queue: M/D/1."""

import asyncio
import math

import numpy as np
from tests.lab.scripted import OK, Script


def deterministic(service_s: float) -> Script:
    """One request at a time, in order of arrival, each for `service_s`: its end is computed, then waited for."""
    free = 0.0

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        nonlocal free
        loop = asyncio.get_running_loop()
        free = max(loop.time(), free) + service_s
        over = loop.create_future()
        loop.call_at(free, over.set_result, None)
        await over
        writer.write(OK)

    return script


def lindley(arrivals_s: np.ndarray, service_s: float) -> np.ndarray:
    """Time in the system of each arrival at a single server of constant service time (Lindley, 1952)."""
    walk = np.concatenate([[0.0], np.cumsum(service_s - np.diff(arrivals_s))])
    return walk - np.minimum.accumulate(walk) + service_s


def waits_at_most(t: float, load: float) -> float:
    """P(waiting time <= t), in service times, of an M/D/1 queue in its steady state (Erlang, 1909; Crommelin, 1932)."""
    terms = ((load * (k - t)) ** k / math.factorial(k) * math.exp(-load * (k - t)) for k in range(math.floor(t) + 1))
    return (1 - load) * math.fsum(terms)


def percentile_of_time(q: float, load: float) -> float:
    """The q-percentile of the time in the system, in service times, by bisection of the formula."""
    low, high = 0.0, 20.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if waits_at_most(middle, load) < q else (low, middle)
    return 1 + high

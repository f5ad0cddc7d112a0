"""A search for the highest rate measures for longer where a short probe cannot tell."""

import numpy as np
import pytest
from tests.lab.queues import lindley

from tailcut.lab.arrivals import Arrivals, Poisson
from tailcut.lab.load import LoadResult, LoadTarget
from tailcut.lab.session import LoadSession
from tailcut.lab.workload import Workload

SERVICE_S = 0.001


class SimulatedSession(LoadSession):
    """Of a server that takes one request at a time, each for a millisecond."""

    def __init__(self, duration_s: float, seed: int = 0) -> None:
        super().__init__(LoadTarget(), Workload([]), duration_s, 0.0, seed)

    def open(self, arrivals: Arrivals, *, duration_s: float | None = None, seed: int | None = None) -> LoadResult:
        length_s = duration_s or self._duration_s
        gaps = np.random.default_rng(seed).exponential(1 / arrivals.rate, int(arrivals.rate * (length_s + 2)))
        times_ns = (lindley(np.cumsum(gaps), SERVICE_S)[int(2 * arrivals.rate) :] * 1e9).astype(np.int64)
        achieved = len(times_ns) / length_s
        return LoadResult("open", length_s, arrivals.rate, achieved, 8, times_ns, times_ns, {}, 0.0)

    def closed(self, concurrency: int, *, duration_s: float | None = None) -> LoadResult:
        times_ns = np.full(1000, int(SERVICE_S * concurrency * 1e9))
        return LoadResult("closed", duration_s or 1.0, None, 1 / SERVICE_S, concurrency, times_ns, times_ns, {}, 0.0)


@pytest.mark.parametrize("seed", range(2))
def test_a_busy_queue_is_measured_for_longer(seed: int) -> None:
    """At 20 service times the highest load is 0.89; at least three quarters of it is found, and no more."""
    result = SimulatedSession(10.0, 100 * seed).saturate(Poisson, 20.0)
    assert result.highest_rate is not None
    assert 0.75 * 887 <= result.highest_rate <= 887
    rates = [point.rate_offered for point in result.curve]
    assert len(rates) > len(set(rates))  # a rate was measured again


def test_what_waits_together_is_not_shown() -> None:
    """Nine tenths of the capacity for 1.5 s: the p99 is known, and has no upper end."""
    result = SimulatedSession(1.7).meets(Poisson(900.0), 1000.0)
    (point,) = result.curve
    assert (result.met, point.p99_interval_ms, point.p99_at_most_ms) == (False, None, None)
    assert point.latency_ms.p99 is not None

"""The load generator measures what is known beforehand: a queue whose percentiles have a formula."""

import numpy as np
import pytest
from tests.control import beside
from tests.lab.queues import deterministic, lindley, percentile_of_time
from tests.lab.scripted import scripted

from tailcut.lab.arrivals import poisson_times
from tailcut.lab.client import open_loop
from tailcut.lab.payload import encode
from tailcut.stats.serial import serial_percentile_interval

SERVICE_S = 0.005
LOAD = 0.6
RATE = LOAD / SERVICE_S
SECONDS, WARMUP_S = 5.0, 0.5
SEED = 17


@pytest.mark.parametrize("load", [0.5, 0.6, 0.7])
@pytest.mark.parametrize("q", [0.5, 0.95, 0.99])
def test_the_formula_is_the_queues(load: float, q: float) -> None:
    """Erlang's formula and two million simulated arrivals agree within 2 %."""
    arrivals = poisson_times(load, 2_000_000 / load, 3) / 1e9
    assert np.quantile(lindley(arrivals, 1.0), q) == pytest.approx(percentile_of_time(q, load), rel=0.02)


@pytest.mark.serial
def test_the_p99_of_a_queue_is_its_formulas() -> None:
    """Against a real server of 5 ms at 60 % load: the p99's interval holds the formula's, and single latencies are
    those that the plan's own arrivals must have.
    """
    planned = poisson_times(RATE, WARMUP_S + SECONDS, SEED) / 1e9
    due = lindley(planned, SERVICE_S)[planned >= WARMUP_S]
    for _ in range(3):  # where others keep this machine so busy that a twentieth of all is late, once more
        with scripted(deterministic(SERVICE_S)) as target:
            payload = encode(target, "POST", "/", b"x")
            with beside() as control:
                result = open_loop(target, [payload], rate=RATE, duration_s=SECONDS, warmup_s=WARMUP_S, seed=SEED)
        assert result.errors == {}
        assert len(due) == result.samples
        beyond = result.latencies_ns / 1e9 - due  # what sockets, timers and this machine add
        if np.quantile(beyond, 0.95) < SERVICE_S and not result.client_behind:
            break
    else:
        if control.busy:
            pytest.skip(f"others keep this machine busy: a process that only sleeps wakes {control.late_s:.3f} s late")
    assert np.quantile(beyond, 0.05) > -0.001
    assert np.median(beyond) < SERVICE_S
    p99 = serial_percentile_interval(result.latencies_ns / 1e9, 0.99)
    assert p99 is not None
    assert p99.low <= percentile_of_time(0.99, LOAD) * SERVICE_S <= p99.high

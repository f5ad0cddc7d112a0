"""What is made of the outcomes of a load test."""

import numpy as np
import pytest

from tailcut.lab.arrivals import Poisson
from tailcut.lab.load import (
    Gathered,
    LoadResult,
    LoadTarget,
    RequestOutcome,
    as_rows,
    closed_result,
    open_result,
    summarise,
)

MS = 1_000_000


def outcome(planned: int, sent: int, done: int, *, free: int = 0, status: int = 200) -> RequestOutcome:
    return RequestOutcome(planned, free, sent, done, status, expected=status == 200)


def result(outcomes: list[RequestOutcome], mode: str = "open") -> LoadResult:
    return summarise(as_rows(outcomes), mode=mode, duration_s=2.0, rate_offered=100.0, concurrency=4)


def test_latency_counts_from_the_planned_time() -> None:
    """What a request waited before it was sent is in its latency, and not in its service time."""
    match = result([outcome(planned=0, sent=30 * MS, done=31 * MS, free=30 * MS)])
    assert match.latencies_ns.tolist() == [31 * MS]
    assert match.service_ns.tolist() == [MS]


def test_waiting_for_a_connection_is_not_the_clients_lateness() -> None:
    """Only the time between `planned, with a connection free` and the send is the client's own."""
    match = result([outcome(planned=0, sent=30 * MS, done=31 * MS, free=29 * MS)])
    assert match.lateness_p99_ns == MS


def test_errors_are_counted_by_kind_and_have_no_latency() -> None:
    """Wrong statuses by number, broken connections and silence by name."""
    outcomes = [outcome(0, 0, MS), outcome(0, 0, MS, status=503), outcome(0, 0, MS, status=0)]
    match = summarise(as_rows(outcomes), mode="open", duration_s=2.0, rate_offered=2.0, concurrency=1, unanswered=2)
    assert match.errors == {"503": 1, "connection": 1, "timeout": 2}
    assert match.samples == 1
    assert match.rate_achieved == 0.5


@pytest.mark.parametrize(
    ("late_ms", "latency_ms", "mode", "behind"),
    [
        (3, 10, "open", True),  # over 2 ms and over a quarter of the median
        (3, 20, "open", False),  # a small part of the latency
        (1, 2, "open", False),  # no machine keeps time better
        (3, 10, "closed", False),  # a closed loop has no plan to be late for
    ],
)
def test_client_behind(late_ms: int, latency_ms: int, mode: str, behind: bool) -> None:
    """Behind means late by more than both 2 ms and a quarter of the median latency."""
    assert result([outcome(0, late_ms * MS, latency_ms * MS)] * 100, mode).client_behind is behind


@pytest.mark.parametrize(("cpu", "done", "behind"), [(0.99, 50, True), (0.99, 99, False), (0.5, 50, False)])
def test_a_client_that_never_rests_and_does_not_keep_up_is_behind(cpu: float, done: int, behind: bool) -> None:
    """Requests that queue up in a client at its limit are not the server's; a busy client that keeps up is well."""
    outcomes = [outcome(0, 30 * MS, 40 * MS, free=30 * MS)] * done
    match = summarise(as_rows(outcomes), mode="open", duration_s=1.0, rate_offered=100.0, concurrency=4, client_cpu=cpu)
    assert match.client_behind is behind


def test_a_client_keeps_its_cores_busy_as_long_as_it_waits() -> None:
    """Not only until the last answer that counts: where none does, it waited for ten seconds more."""
    times = np.arange(0, 2 * 1000 * MS, MS)
    waited = Gathered(as_rows([]), len(times), 1, 6.6, 1000 * MS, 13_000 * MS)
    assert open_result([waited], Poisson(1000.0), times, warmup_s=0.0, duration_s=2.0).client_cpu == pytest.approx(0.55)
    assert closed_result([waited], 1, warmup_s=0.0, duration_s=2.0).client_cpu == pytest.approx(0.55)
    early = Gathered(as_rows([]), 0, 1, 1.0, 1000 * MS, 2000 * MS)
    assert open_result([early], Poisson(1000.0), times, warmup_s=0.5, duration_s=1.5).client_cpu == pytest.approx(0.5)


def test_nothing_answered_is_a_result_too() -> None:
    """No samples, a rate of zero, and no remark on the client."""
    match = result([])
    assert (match.samples, match.rate_achieved, match.client_behind) == (0, 0.0, False)


@pytest.mark.parametrize(
    ("target", "authority"),
    [
        (LoadTarget("::1", 80), "[::1]:80"),
        (LoadTarget("localhost", 9), "localhost:9"),
        (LoadTarget(uds="/run/x"), "localhost"),
    ],
)
def test_authority(target: LoadTarget, authority: str) -> None:
    """What stands in the Host header."""
    assert target.authority == authority

"""Several client processes are one load test."""

import socket
from functools import partial

import psutil
import pytest
from tests.lab.scripted import answer_ok, scripted

from tailcut.errors import UsageError
from tailcut.lab.arrivals import Poisson, poisson_times
from tailcut.lab.load import PLANNED, LoadTarget, closed_result, open_result
from tailcut.lab.payload import encode
from tailcut.lab.processes import share_closed, share_open


@pytest.mark.slow
def test_a_shared_plan_is_the_same_plan() -> None:
    """Three processes send exactly the arrivals that one would have sent, from one common start, each request once."""
    times = poisson_times(300, 0.6, 1)
    with scripted(answer_ok) as target:
        parts = share_open(target, [encode(target, "POST", "/", b"x")], times, processes=3)
    assert len({part.start_ns for part in parts}) == 1
    sent = sorted(int(row[PLANNED]) - parts[0].start_ns for part in parts for row in part.outcomes)
    assert sent == times.tolist()
    result = open_result(parts, Poisson(300), times, warmup_s=0.1, duration_s=0.5)
    assert result.errors == {}
    assert result.samples == (times >= 1e8).sum()
    assert (result.processes, result.client_cpu > 0) == (3, True)


@pytest.mark.slow
def test_shared_payloads_keep_their_turns() -> None:
    """Request number n carries payload n modulo their number, whichever process sends it; errors come home by kind."""

    async def script(number, writer) -> None:
        writer.write(
            b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
            if number % 2
            else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        )

    times = poisson_times(100, 0.3, 2)
    with scripted(script) as target:
        parts = share_open(target, [encode(target, "POST", f"/{n}") for n in range(5)], times, processes=2)
    result = open_result(parts, Poisson(100), times, warmup_s=0.0, duration_s=0.3)
    assert result.errors == {"503": len(times) // 2}


@pytest.mark.slow
def test_a_shared_closed_loop_keeps_its_concurrency() -> None:
    """Connections are dealt out, no process without one, and the rate is that of all together."""
    with scripted(answer_ok) as target:
        parts = share_closed(target, [encode(target, "POST", "/")], concurrency=3, length_s=0.3, processes=8)
    assert [part.connections for part in parts] == [1, 1, 1]
    result = closed_result(parts, 3, warmup_s=0.1, duration_s=0.2)
    assert result.errors == {}
    assert result.rate_achieved == pytest.approx(result.samples / 0.2)


@pytest.mark.slow
def test_a_mistake_in_a_child_is_the_parents() -> None:
    """Nobody listening is one error of the user's, and no process is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    target = LoadTarget("127.0.0.1", port)
    share = partial(share_closed, concurrency=4, length_s=0.2, processes=2)
    with pytest.raises(UsageError, match="no server listens"):
        share(target, [encode(target, "POST", "/")])
    left = [child.cmdline() for child in psutil.Process().children()]
    assert [command for command in left if "tailcut.lab.processes" in command] == []

"""The load generator against real sockets: servers that answer well, stall, break and mumble."""

import asyncio
import gc
import socket
import sys
from functools import partial

import numpy as np
import pytest
from tests.lab.scripted import OK, answer_ok, scripted

from tailcut.errors import UsageError
from tailcut.lab import client, compiled
from tailcut.lab.arrivals import Constant, poisson_times
from tailcut.lab.client import closed_loop, open_loop
from tailcut.lab.load import LoadResult, LoadTarget, Payload
from tailcut.lab.payload import encode

STALL_S = 0.3


@pytest.fixture(params=["compiled", "python"], autouse=True)
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every fact of this file holds for both loops."""
    if request.param == "python":
        monkeypatch.setattr(compiled, "suits", lambda _target, _payloads: False)
    elif not sys.platform.startswith("linux"):
        pytest.skip("the compiled loop needs epoll and timerfd")
    return request.param


def requests(target: LoadTarget) -> list[Payload]:
    return [encode(target, "POST", "/", bytes(size)) for size in (0, 10, 5000)]


def closed_until(samples: int, target: LoadTarget, payloads: list[Payload], concurrency: int) -> LoadResult:
    """A closed loop for as long as it takes to have so many answers, or errors, on a busy machine."""
    for duration_s in (0.1, 0.5, 3.0):
        result = closed_loop(target, payloads, concurrency=concurrency, duration_s=duration_s)
        if result.samples >= samples or result.errors:
            break
    return result


def test_an_open_loop_sends_its_plan() -> None:
    """Every planned request is sent and answered; the times before the warm-up's end are not counted."""
    with scripted(answer_ok) as target:
        result = open_loop(target, requests(target), rate=400, duration_s=0.5, seed=1, warmup_s=0.25)
    planned = poisson_times(400, 0.75, 1)
    assert result.samples == (planned >= 0.25e9).sum()
    assert result.errors == {}
    assert (result.mode, result.rate_offered) == ("open", 400)
    assert result.duration_s > 0.45
    assert result.rate_achieved == pytest.approx(result.samples / result.duration_s)  # longer on a busy machine


def test_a_closed_loop_keeps_its_concurrency() -> None:
    """Exactly as many requests are in flight as asked for, never more."""
    in_flight, most = 0, 0

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.005)
        in_flight -= 1
        writer.write(OK)

    with scripted(script) as target:
        result = closed_loop(target, requests(target), concurrency=5, duration_s=0.4)
    assert most == 5
    assert result.errors == {}
    assert result.samples > 5
    assert result.latencies_ns.min() >= 5e6


def test_a_stall_is_charged_to_every_request_that_was_due() -> None:
    """One stall of 300 ms at 200 requests per second delays some 60 of them; a closed loop sees one."""

    def stalling(at: int):
        gate = asyncio.Lock()

        async def script(number: int, writer: asyncio.StreamWriter) -> None:
            async with gate:
                if number == at:
                    await asyncio.sleep(STALL_S)
            writer.write(OK)

        return script

    with scripted(stalling(40)) as target:
        opened = open_loop(target, requests(target), rate=200, duration_s=1.0, seed=2)
    with scripted(stalling(40)) as target:
        closed = closed_loop(target, requests(target), concurrency=1, duration_s=0.6)
    half = STALL_S / 2 * 1e9
    assert (opened.latencies_ns > half).sum() >= 20
    assert opened.latencies_ns.max() >= STALL_S * 1e9
    assert 1 <= (closed.latencies_ns > half).sum() <= 4  # others may stall this machine, too


def test_requests_beyond_the_connections_wait_with_their_clock_running() -> None:
    """With one connection and answers of 20 ms, requests at 100 a second queue up in the client, and it is charged."""

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        writer.write(OK)

    with scripted(script) as target:
        result = open_loop(target, requests(target), rate=100, duration_s=0.5, connections=1)
    assert result.errors == {}
    assert np.median(result.latencies_ns) > 5 * np.median(result.service_ns)
    assert not result.client_behind
    assert result.duration_s > 0.5  # it took longer than planned, and the rate is over what it took
    assert result.rate_achieved < 60


def test_wrong_statuses_and_broken_connections_are_errors_by_kind() -> None:
    """A 503 counts as 503; a connection that closes without an answer as `connection`; others go on."""

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        if number % 10 == 3:
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        elif number % 10 == 6:
            writer.close()
        else:
            writer.write(OK)

    with scripted(script) as target:
        opened = open_loop(target, requests(target), rate=400, duration_s=0.5)
        closed = closed_loop(target, requests(target), concurrency=2, duration_s=0.3)
    for result in (opened, closed):
        assert set(result.errors) == {"503", "connection"}
        assert result.samples > sum(result.errors.values())


def test_what_is_expected_is_no_error() -> None:
    """A payload may expect any status."""

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    with scripted(script) as target:
        payload = Payload(encode(target, "GET", "/").request, expect_status=204)
        result = closed_until(1, target, [payload], concurrency=1)
    assert result.errors == {}
    assert result.samples > 0


def test_silence_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that are never answered are errors of kind `timeout`, each of them."""
    monkeypatch.setattr(client, "DRAIN_S", 0.2)

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        if number < 5:
            writer.write(OK)

    with scripted(script) as target:
        opened = open_loop(target, requests(target), rate=100, duration_s=0.3, seed=4)
    with scripted(script) as target:
        closed = closed_loop(target, requests(target), concurrency=3, duration_s=0.2)
    assert 1 <= opened.samples <= 5  # an answer that a busy machine brings too late is none
    assert opened.errors == {"timeout": len(poisson_times(100, 0.3, 4)) - opened.samples}
    assert closed.errors == {"timeout": 3}


def test_an_answer_in_pieces_is_one_answer() -> None:
    """A head that arrives byte by byte, and a body behind it, count once, at their end."""
    piece = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabcdef"

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(piece), 7):
            writer.write(piece[at : at + 7])
            await asyncio.sleep(0.001)

    with scripted(script) as target:
        result = closed_until(4, target, requests(target), concurrency=2)
    assert result.errors == {}
    assert result.samples >= 4


def test_a_server_that_closes_after_each_answer_is_measured_too() -> None:
    """`Connection: close` is no error: the next request opens a new connection."""

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        writer.close()

    with scripted(script) as target:
        opened = open_loop(target, requests(target), rate=200, duration_s=0.3)
        closed = closed_until(6, target, requests(target), concurrency=2)
    for result in (opened, closed):
        assert result.errors == {}
        assert result.samples > 5


@pytest.mark.parametrize(
    "run", [partial(open_loop, rate=10, duration_s=0.1), partial(closed_loop, concurrency=1, duration_s=0.1)]
)
def test_nobody_there_is_a_users_mistake(run: partial) -> None:
    """One line that names the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    target = LoadTarget("127.0.0.1", port)
    with pytest.raises(UsageError, match=f"no server listens at 127.0.0.1:{port}"):
        run(target, requests(target))


def test_the_collector_rests_during_a_run_and_is_back_after() -> None:
    """Python's garbage collection would be read as the server's tail."""
    seen = []

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        seen.append(gc.isenabled())
        writer.write(OK)

    with scripted(script) as target:
        closed_loop(target, requests(target), concurrency=1, duration_s=0.05)
    assert not any(seen)
    assert gc.isenabled()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive, close\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
def test_other_servers_framing(answer: bytes) -> None:
    """Chunked bodies, bodies that end with the connection and lists of connection options are whole answers."""

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        if b"chunked" not in answer:
            writer.close()

    with scripted(script) as target:
        result = closed_until(1, target, requests(target), concurrency=2)
    assert result.errors == {}
    assert result.samples > 0


@pytest.mark.parametrize(
    "answer", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"]
)
def test_what_is_no_http_is_a_broken_connection(answer: bytes) -> None:
    """A server that talks otherwise brings errors, not a crash of the client."""

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    with scripted(script) as target:
        result = closed_until(1, target, requests(target), concurrency=1)
    assert result.samples == 0
    assert result.errors.keys() == {"connection"}


def test_a_connection_closed_while_idle_is_no_error() -> None:
    """Servers close idle connections; the next request takes another one."""

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        asyncio.get_running_loop().call_later(0.02, writer.close)

    for _ in range(3):  # on a busy machine the end of a connection may meet the next request
        with scripted(script) as target:
            result = open_loop(target, requests(target), rate=Constant(10), duration_s=0.5)
        if not result.errors:
            break
    assert result.errors == {}
    assert result.samples == 5


def test_the_client_counts_its_own_processor_time() -> None:
    """A closed loop against a fast server keeps a good part of a core busy, and says how much."""
    with scripted(answer_ok) as target:
        result = closed_loop(target, requests(target), concurrency=8, duration_s=0.3)
    assert 0.05 < result.client_cpu < 1.5


def test_a_long_preparation_is_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Only if something is really compiled, not if it is only loaded."""
    with compiled.compiling("nothing"):
        pass
    assert not capsys.readouterr().err
    monkeypatch.setattr(compiled, "_COMPILES_S", 0.0)
    text = ""
    with compiled.compiling("the loop"):
        while not text:
            text = capsys.readouterr().err
    assert text == "compiling the loop, once on this machine\n"

"""Clients of several servers: retries elsewhere, copies elsewhere, and servers that come and go."""

import asyncio
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.client.peers import BUSY, HOLD, TIMEOUT_S, X, good, peer, reply
from tests.engines.models import identity
from tests.servers import serving

import tailcut
from tailcut.client import Hedge, Retries
from tailcut.client.members import MOST_FAILURES
from tailcut.errors import InvalidInputError, QueueFullError, TailcutError, UnreachableError
from tailcut.spec import DType


def closed_url() -> str:
    """Where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_server_that_is_gone_costs_no_error_and_no_pause(make: type) -> None:
    """Even without retries: nothing was sent, and another server is there."""
    with peer([good(1.0)] * 6) as result:
        urls = [closed_url(), result.url, closed_url()]
        with make(urls, retries=Retries(limit=0, pause_s=TIMEOUT_S, longest_s=TIMEOUT_S)) as client:
            for _ in range(6):
                assert client.infer("m", X)["y"] == 1.0
        assert len(result.requests) == 6


def test_a_busy_server_is_left_for_another_one_once(make: type) -> None:
    """At once; where the second is busy too, the rules of a single server apply."""
    once = Retries(limit=0)
    with (
        peer([BUSY]) as first,
        peer([good(2.0)]) as second,
        make([first.url, second.url], retries=once) as client,
    ):
        assert client.infer("m", X)["y"] == 2.0
    with (
        peer([BUSY]) as first,
        peer([BUSY]) as second,
        peer([BUSY]) as third,
        make([first.url, second.url, third.url], retries=once) as client,
    ):
        with pytest.raises(QueueFullError):
            client.infer("m", X)
        assert sum(len(item.requests) for item in (first, second, third)) == 2


@pytest.mark.parametrize("status", [502, 520])
def test_a_server_behind_a_dead_upstream_is_paused(make: type, status: int) -> None:
    """After a few answers of its proxy in a row."""
    failed, kinds = 0, set()
    with (
        peer([reply(status, b"")] * 100) as dead,
        peer([good(2.0)] * 100) as answers,
        make([dead.url, answers.url]) as client,
    ):
        while failed < MOST_FAILURES:
            try:
                client.infer("m", X)
            except TailcutError as error:
                failed += 1
                kinds.add(isinstance(error, UnreachableError))
        for _ in range(20):
            assert client.infer("m", X)["y"] == 2.0
        assert len(dead.requests) == MOST_FAILURES
    assert kinds == {status == 502}


def test_too_many_requests(make: type) -> None:
    """A proxy's 429 that says when to come back is tried again."""
    with peer([reply(429, b"", "Retry-After-Ms: 1"), good(2.0)]) as result, make(result.url) as client:
        assert client.infer("m", X)["y"] == 2.0


def test_all_servers_are_gone(make: type) -> None:
    """Each is asked once, and then the retries that were asked for."""
    with (
        make([closed_url(), closed_url()], retries=Retries(limit=1, pause_s=0.0)) as client,
        pytest.raises(UnreachableError, match="no server listens at"),
    ):
        client.infer("m", X)


def test_a_second_copy_goes_to_another_server(make: type) -> None:
    """Whichever of the two hangs."""
    with peer([HOLD]) as hangs, peer([good(2.0)] * 100) as answers:
        with make([hangs.url, answers.url], hedge=Hedge(after_s=0.01, share=1.0)) as client:
            while not hangs.requests:
                assert client.infer("m", X)["y"] == 2.0
        assert hangs.gone.acquire(timeout=TIMEOUT_S)


def test_a_killed_server_is_not_noticed(tmp_path: Path) -> None:
    """Threads ask two real servers while one of them is killed: every answer is right, and no call fails."""
    model = identity(DType.FP32, (None, 4), tmp_path / "echo.onnx")
    wrong: list[str] = []
    stop = threading.Event()
    counts: Counter[int] = Counter()

    def work(client: tailcut.Client, number: int) -> None:
        while not stop.is_set():
            x = np.full((1, 4), number * 1e6 + counts[number], np.float32)
            try:
                if not (client.infer("echo", {"x": x})["y"] == x).all():
                    wrong.append("another answer")
            except Exception as error:  # noqa: BLE001  whatever it is, it is counted
                wrong.append(repr(error))
            counts[number] += 1

    with serving(tmp_path, model) as first, serving(tmp_path, model) as second:
        with tailcut.Client([first.url, second.url]) as client:
            threads = [threading.Thread(target=work, args=(client, number)) for number in range(4)]
            for number in range(4):  # each thread has a kept connection to each server, as long-lived clients have
                x = np.full((1, 4), number, np.float32)
                client.infer("echo", {"x": x})
            for thread in threads:
                thread.start()
            wait_for(counts, 50)
            os.kill(first.process.pid, signal.SIGKILL)
            first.process.wait(TIMEOUT_S)
            wait_for(counts, 50)
            stop.set()
            for thread in threads:
                thread.join(TIMEOUT_S)
        assert second.stop() == 0
    # A call whose connection was new when its server died is the caller's to repeat; all others are repeated.
    assert len(wrong) <= 4
    assert all("closed the connection" in item for item in wrong)


def wait_for(counts: "Counter[int]", more: int) -> None:
    """Until each thread has made so many calls more."""
    until = {number: counts[number] + more for number in range(4)}
    end = time.monotonic() + TIMEOUT_S
    while any(counts[number] < count for number, count in until.items()):
        assert time.monotonic() < end
        time.sleep(0.005)


def test_servers_that_leave_are_asked_no_more(make: type) -> None:
    """Their kept connections are closed, from whichever thread they are told to leave."""
    with peer([good(1.0)] * 100) as leaves, peer([good(2.0)] * 100) as stays:
        client = make([leaves.url, stays.url])
        inner = client._client if not isinstance(client, tailcut.Client) else client
        with client:
            while not leaves.requests or not stays.requests:
                client.infer("m", X)
            before = len(leaves.requests)
            addresses = [address for address in inner._members.addresses if str(address.port) in stays.url]
            message = threading.Thread(target=inner._replaced, args=(addresses,))
            message.start()
            message.join()
            assert client.infer("m", X)["y"] == 2.0
            assert inner.servers == (stays.url.removeprefix("http://"),)
        assert leaves.gone.acquire(timeout=TIMEOUT_S)
        assert len(leaves.requests) == before


@pytest.mark.slow
def test_calls_are_spread(tmp_path: Path) -> None:
    """Concurrent calls reach both servers, each about half of them."""
    model = identity(DType.FP32, (None, 4), tmp_path / "echo.onnx")

    async def ask(urls: Sequence[str]) -> None:
        async with tailcut.AsyncClient(urls) as client:
            for _ in range(20):
                x = [np.full((1, 4), number, np.float32) for number in range(10)]
                answers = await asyncio.gather(*(client.infer("echo", {"x": item}) for item in x))
                assert all((answer["y"] == item).all() for answer, item in zip(answers, x, strict=True))

    with serving(tmp_path, model) as first, serving(tmp_path, model) as second:
        asyncio.run(ask([first.url, second.url]))
        shares = [server.metric("nv_inference_request_success") for server in (first, second)]
    assert sum(shares) == 200
    assert min(shares) >= 50


def test_shared_memory_needs_one_server(make: type) -> None:
    """Which of several would map it?"""
    with pytest.raises(InvalidInputError, match="one server"):
        make(["http://h:1", "http://h:2"], shared_memory="x-")

"""Clients on both sides of a fork: every answer is the one that was asked for, and nobody waits for ever."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.client.peers import TIMEOUT_S
from tests.engines.models import identity
from tests.forked import ended_well, fork, start, succeeded
from tests.servers import Server, serving

import tailcut
from tailcut.spec import DType

PREFIX = f"tailcut-forks-{os.getpid()}-"
CALLS = 100
_client: tailcut.Client | None = None  # inherited by children that are forked


def ask(client: tailcut.Client, side: int, calls: int = CALLS) -> None:
    """Ask an identity for numbers that no other side asks for."""
    for call in range(calls):
        x = np.full((1, 1000), side * 1000 + call, np.float32)
        assert np.array_equal(client.infer("echo", {"x": x})["y"], x)


async def ask_async(client: tailcut.AsyncClient, side: int, calls: int = CALLS) -> None:
    for call in range(calls):
        x = np.full((1, 1000), side * 1000 + call, np.float32)
        assert np.array_equal((await client.infer("echo", {"x": x}))["y"], x)


def ask_inherited(url: str, side: int) -> None:
    """In a child of `multiprocessing`: with the inherited client, or one of its own where nothing is inherited."""
    ask(_client or tailcut.Client(url), side)


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the identity that takes tensors from shared memory."""
    folder = tmp_path_factory.mktemp("forks")
    with serving(folder, identity(DType.FP32, (None, 1000), folder / "echo.onnx"), "--shared-memory", PREFIX) as server:
        yield server
        assert server.stop() == 0


def test_both_sides_of_a_fork_get_their_own_answers(server: Server) -> None:
    """Two children and their parent ask at once with one client that has a kept connection."""
    with tailcut.Client(server.url) as client:
        ask(client, 0, 1)
        children = [fork(lambda side=side: ask(client, side)) for side in (1, 2)]
        ask(client, 3)
        assert succeeded(*children)


def test_a_child_of_a_child_has_its_own_connection_too(server: Server) -> None:
    """A fork in a fork, both asking."""
    with tailcut.Client(server.url) as client:
        ask(client, 0, 1)

        def fork_again() -> None:
            ask(client, 1, 10)
            child = fork(lambda: ask(client, 2, 10))
            ask(client, 3, 10)
            assert succeeded(child)

        assert succeeded(fork(fork_again))
        ask(client, 4, 1)


def test_a_fork_while_other_threads_ask(server: Server) -> None:
    """Connections in use when the process forks are the parent's; the child has none of those threads."""
    with tailcut.Client(server.url) as client:
        threads = [threading.Thread(target=ask, args=(client, side)) for side in (1, 2)]
        for thread in threads:
            thread.start()
        children = [fork(lambda side=side: ask(client, side, 20)) for side in range(3, 7)]
        for thread in threads:
            thread.join()
        assert succeeded(*children)


def test_a_child_holds_no_connection_of_its_parent_open() -> None:
    """A parent that closes is seen to, although a forked child lives on: the server drops its work then."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_S)
        client = tailcut.Client(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=TIMEOUT_S)
        asking = threading.Thread(target=client.live)
        asking.start()
        accepted, _ = listener.accept()
        accepted.settimeout(TIMEOUT_S)
        assert accepted.recv(1 << 16)
        waits, tells = os.pipe()

        def live_on() -> None:
            os.close(tells)
            os.read(waits, 1)

        child = fork(live_on)
        accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        asking.join()
        client.close()
        with accepted:
            assert accepted.recv(1) == b""
        os.close(waits)
        os.close(tells)
        assert succeeded(child)


def test_a_child_that_closes_leaves_its_parents_connection_alone(server: Server) -> None:
    """The parent goes on with the connection that it had, which no one has reset."""
    with tailcut.Client(server.url) as client:
        ask(client, 0, 1)
        before = server.metric("tailcut_connections_accepted_total")
        assert succeeded(fork(client.close))
        ask(client, 1, 5)
        assert server.metric("tailcut_connections_accepted_total") == before + 1  # the metrics' own


@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
def test_both_sides_of_a_fork_with_the_asyncio_client(server: Server, uv: bool) -> None:
    """The parent's loop forks while its client has connections; the child asks from a loop of its own."""
    import uvloop

    run: Callable[..., None] = uvloop.run if uv else asyncio.run

    async def parent() -> None:
        client = tailcut.AsyncClient(server.url)
        await asyncio.gather(*(ask_async(client, side, 1) for side in range(4)))

        def child() -> None:
            asyncio.events._set_running_loop(None)  # as a child of a running loop must: the loop is its parent's
            run(ask_async(client, 5))

        children = [fork(child), fork(child)]
        await asyncio.gather(*(ask_async(client, side) for side in range(6, 9)))
        assert await asyncio.to_thread(succeeded, *children)
        await client.close()

    run(parent())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_of_multiprocessing(server: Server, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each way to start a process, while the parent asks as well."""
    with tailcut.Client(server.url) as client:
        ask(client, 0, 1)
        monkeypatch.setattr(f"{__name__}._client", client)
        children = [start(method, ask_inherited, server.url, side) for side in (1, 2)]
        ask(client, 3)
        assert ended_well(*children)


@pytest.mark.slow
def test_shared_memory_on_both_sides_of_a_fork(sharing: Server) -> None:
    """Each side has regions of its own, and a child that ends removes none of its parent's."""
    with tailcut.Client(sharing.url, shared_memory=PREFIX) as client:
        ask(client, 0, 2)
        regions = {path.name for path in Path("/dev/shm").glob(f"{PREFIX}*")}
        assert regions

        def ask_and_close() -> None:
            ask(client, 1)
            client.close()

        child = fork(ask_and_close)
        ask(client, 2)
        assert succeeded(child)
        assert {path.name for path in Path("/dev/shm").glob(f"{PREFIX}*")} == regions
        ask(client, 3, 2)
    assert not list(Path("/dev/shm").glob(f"{PREFIX}*"))

"""The processes that share a listener: each accepts its part of the connections that wait, at once."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tailcut.server.state import ServerState
from tailcut.server.workers.fair_listener import FairAcceptor, waiting
from tailcut.server.workers.scoreboard import Scoreboard


@pytest.fixture
def scoreboard() -> Iterator[Scoreboard]:
    """One with places for two workers."""
    scoreboard = Scoreboard.make(2, models=0)
    yield scoreboard
    scoreboard.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """One that nobody accepts from yet."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        yield listener


async def accepted(scoreboard: Scoreboard, listener: socket.socket, passes: Callable[[], bool]) -> int:
    """How many connections the first worker has taken, once `passes` says so."""
    made: list[asyncio.BaseTransport] = []

    class Keep(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    state = cast("ServerState", SimpleNamespace(loop=asyncio.get_running_loop()))
    scoreboard.hold(1, 0)
    acceptor = FairAcceptor(state, listener.dup(), scoreboard, 1, Keep)
    async with asyncio.timeout(10):
        while not passes():  # noqa: ASYNC110  another process's memory has no event
            await asyncio.sleep(0)
    count = scoreboard.connections(1)
    acceptor.close()
    async with asyncio.timeout(10):
        while len(made) < count:  # noqa: ASYNC110  as above
            await asyncio.sleep(0.001)
    for transport in made:
        transport.close()
    return count


@pytest.mark.parametrize(("others", "share"), [(0, 20), (10, 25), (40, 40)])
def test_a_share_is_accepted_at_once(scoreboard: Scoreboard, listener: socket.socket, others: int, share: int) -> None:
    """Of 40 that wait, in one pass of the loop: as many as make the connections of both equal."""
    scoreboard.hold(2, others)
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        assert waiting(listener) == 40
        assert asyncio.run(accepted(scoreboard, listener, lambda: scoreboard.connections(1) > 0)) == share


def test_what_a_hanging_worker_leaves_is_accepted_in_the_end(scoreboard: Scoreboard, listener: socket.socket) -> None:
    """The other one takes its own share at once, and the rest one by one."""
    scoreboard.hold(2, 0)
    with ExitStack() as stack:
        for _ in range(9):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        assert asyncio.run(accepted(scoreboard, listener, lambda: scoreboard.connections(1) == 9)) == 9


def test_a_unix_socket_does_not_say_how_many_wait(tmp_path: Path) -> None:
    """One at a time is accepted there."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        assert waiting(listener) == 1

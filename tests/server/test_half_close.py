"""Clients that end their side of a connection behind what they ask: answered in full, then closed, on every way.

The server runs in this process, so that a test decides what has been read before the client's end is seen.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import uvloop
from tests.engines.models import identity
from tests.server.fastpath.test_fastpath import WIDTH, Client, running, until
from tests.server.opened import OpenedModel
from tests.server.test_splits import CHUNKED, GOOD, STATUS
from tests.servers import raw_request

from tailcut.runtime.model import Model
from tailcut.server.context import Context
from tailcut.server.http.connection import HttpConnection
from tailcut.server.limits import ServerLimits
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel
from tailcut.server.state import ServerState
from tailcut.spec import DType

LARGE = raw_request("mlp", bytes(16 * 1000))  # received into rows, or into a buffer where these are scarce


async def _open(state: ServerState) -> socket.socket:
    ours, theirs = socket.socketpair()
    await asyncio.get_running_loop().connect_accepted_socket(lambda: HttpConnection(state), theirs)
    ours.setblocking(False)
    return ours


async def _to_the_end(ours: socket.socket) -> bytes:
    """Everything that the server says until it closes."""
    data = b""
    while piece := await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ours, 1 << 20), 10):
        data += piece
    ours.close()
    return data


def _serve(served: OpenedModel, check: Callable[[ServerState], Awaitable[None]]) -> None:
    async def run(model: Model) -> None:
        context = Context(ModelRepository([ServedModel(model, "mlp")]), ready=True)
        state = ServerState(context, ServerLimits(body_bytes=1 << 20), direct_bytes=1024)
        await check(state)
        await until(lambda: not state.members and not model.statistics()["rows_in_use"])
        assert state.context.counts.buffered_bytes == 0
        state.close()

    with served.lent() as model:
        uvloop.run(run(model))


@pytest.fixture(scope="module")
def mlp(models: Path) -> Iterator[OpenedModel]:
    with OpenedModel(models / "mlp.onnx") as model:
        yield model


@pytest.mark.parametrize("name", [*GOOD, "large", "chunked", "many"])
def test_whole_requests_are_answered(mlp: OpenedModel, name: str) -> None:
    """JSON, raw, binary, chunked, large, pipelined, good and bad: every answer comes, and then the end."""
    extra = {
        "large": (LARGE, [200]),
        "chunked": (CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", [400]),
        "many": (raw_request("mlp", bytes(16)) * 50 + LARGE + GOOD["json"][0], [200] * 52),
    }
    data, statuses = (GOOD | extra)[name]

    async def check(state: ServerState) -> None:
        for cut in {len(data), len(data) - 1, 10}:
            ours = await _open(state)
            loop = asyncio.get_running_loop()
            for piece in (data[:cut], data[cut:]):
                await loop.sock_sendall(ours, piece)
                await asyncio.sleep(0)
            ours.shutdown(socket.SHUT_WR)
            answers = await _to_the_end(ours)
            assert [int(status) for status in STATUS.findall(answers)] == statuses, cut

    _serve(mlp, check)


@pytest.mark.parametrize(
    "data", [GOOD["json"][0], GOOD["raw"][0], LARGE, CHUNKED + b"2;a=b\r\n{}\r\n0\r\nT: x\r\n\r\n"]
)
def test_the_end_in_the_middle_of_a_request(mlp: OpenedModel, data: bytes) -> None:
    """Wherever it comes, nothing is answered, nothing is left, and the connection is closed at once."""

    async def check(state: ServerState) -> None:
        for cut in range(0, len(data), max(1, len(data) // 50)):
            ours = await _open(state)
            await asyncio.get_running_loop().sock_sendall(ours, data[:cut])
            ours.shutdown(socket.SHUT_WR)
            assert await _to_the_end(ours) == b"", cut

    _serve(mlp, check)


def test_a_request_in_the_middle_behind_a_whole_one(mlp: OpenedModel) -> None:
    """The whole one is answered."""

    async def check(state: ServerState) -> None:
        ours = await _open(state)
        await asyncio.get_running_loop().sock_sendall(ours, GOOD["raw"][0] * 2 + GOOD["json"][0][:-1])
        ours.shutdown(socket.SHUT_WR)
        assert STATUS.findall(await _to_the_end(ours)) == [b"200", b"200"]

    _serve(mlp, check)


def test_an_answer_that_is_read_late(tmp_path: Path) -> None:
    """More than the sockets hold waits for the client, all of it."""
    width = 100_000
    identity(DType.FP32, (None, width), tmp_path / "wide.onnx")

    async def check(state: ServerState) -> None:
        ours = await _open(state)
        row = np.random.default_rng(0).standard_normal(width, np.float32).tobytes()
        await asyncio.get_running_loop().sock_sendall(ours, raw_request("mlp", row) + GOOD["question"][0])
        ours.shutdown(socket.SHUT_WR)
        await until(lambda: state.context.counts.replies[200] >= 1)
        answers = await _to_the_end(ours)
        assert answers.count(b"HTTP/1.1 200") == 2
        assert row in answers

    with OpenedModel(tmp_path / "wide.onnx") as model:
        _serve(model, check)


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedModel]:
    with OpenedModel(identity(DType.FP32, (None, WIDTH), tmp_path_factory.mktemp("half") / "echo.onnx")) as model:
        yield model


async def _last_answer(client: Client, row: bytes) -> bytes:
    """The head of an answer that is the connection's last."""
    status, head, body = await client.read()
    assert (status, body.endswith(row)) == (200, True)
    assert await asyncio.wait_for(client.loop.sock_recv(client.ours, 1), 10) == b""
    client.close()
    return head


@pytest.mark.parametrize("dispatch", ["inline", "worker"])
def test_on_the_short_way(echo: OpenedModel, dispatch: str) -> None:
    """A request and the end at once, from a client that repeats itself."""

    async def story(state: ServerState) -> None:
        for _ in range(5):
            client = await Client(state).connect()
            await client.settle()
            assert state.context.counts.fast_path == 1
            row = client.row()
            await client.send(client.request(row))
            client.ours.shutdown(socket.SHUT_WR)
            await _last_answer(client, row)
            await until(lambda: not state.members)

    running(story, echo, dispatch=dispatch)


def test_many_at_once_beside_the_short_way(echo: OpenedModel) -> None:
    """The last of many pipelined requests looks like that of a repeating client, and is answered all the same."""

    async def story(state: ServerState) -> None:
        client = await Client(state).connect()
        rows = [client.row() for _ in range(20)]
        await client.send(b"".join(map(client.request, rows)))
        client.ours.shutdown(socket.SHUT_WR)
        for row in rows[:-1]:
            assert (await client.read())[2].endswith(row)
        await _last_answer(client, rows[-1])

    running(story, echo)


@pytest.mark.parametrize("settled", [False, True])
def test_while_the_request_waits(echo: OpenedModel, settled: bool) -> None:
    """The end comes while the request is queued, on either way: the answer says that it is the last."""

    async def story(state: ServerState) -> None:
        client = await Client(state).connect()
        if settled:
            await client.settle()
        model = state.context.served("echo").model
        model.entry.pause()
        row = client.row()
        await client.send(client.request(row))
        await until(lambda: model.statistics()["queued_rows"] == 1)
        client.ours.shutdown(socket.SHUT_WR)
        if settled:
            await until(lambda: not state.context.counts.fast_path)
        for _ in range(10):
            await asyncio.sleep(0)
        assert model.statistics()["queued_rows"] == 1
        model.entry.go_on()
        assert b"\r\nConnection: close" in await _last_answer(client, row)

    running(story, echo, dispatch="worker")


async def _over_tcp(state: ServerState) -> socket.socket:
    listener = await asyncio.get_running_loop().create_server(lambda: HttpConnection(state), "127.0.0.1", 0)
    ours = socket.create_connection(listener.sockets[0].getsockname())
    ours.setblocking(False)
    await until(lambda: bool(state.members))
    listener.close()
    return ours


@pytest.mark.parametrize(("version", "gone"), [(b"HTTP/1.0", False), (b"HTTP/1.1", False), (b"HTTP/1.1", True)])
def test_over_tcp_a_client_is_asked_whether_it_is_there(
    echo: OpenedModel, monkeypatch: pytest.MonkeyPatch, version: bytes, gone: bool
) -> None:
    """An interim answer finds out which client has closed, whose work is dropped; HTTP/1.0 has none and is spared."""
    for module in ("connection", "presence"):
        monkeypatch.setattr(f"tailcut.server.http.{module}.WAITS_S", 0.0)

    async def story(state: ServerState) -> None:
        ours = await _over_tcp(state)
        model = state.context.served("echo").model
        before = model.statistics()["cancelled"]
        model.entry.pause()
        row = bytes(range(4 * WIDTH))
        await state.loop.sock_sendall(ours, raw_request("echo", row).replace(b"HTTP/1.1", version))
        await until(lambda: model.statistics()["queued_rows"] == 1)
        ours.shutdown(socket.SHUT_WR)
        if gone:
            ours.close()
            await until(lambda: not model.statistics()["queued_rows"])
            assert model.statistics()["cancelled"] == before + 1
            model.entry.go_on()
            return
        interim = b"HTTP/1.1 100 Continue\r\n\r\n" if version == b"HTTP/1.1" else b""
        if interim:
            assert await asyncio.wait_for(state.loop.sock_recv(ours, len(interim)), 10) == interim
        model.entry.go_on()
        answer = (await _to_the_end(ours)).replace(interim, b"")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(row)

    running(story, echo, dispatch="worker")


def test_a_client_that_is_gone_takes_its_work_along(echo: OpenedModel) -> None:
    """Over a Unix socket the end of a client is known from the end of its sending: nothing is computed for nobody."""

    async def story(state: ServerState) -> None:
        client = await Client(state).connect()
        model = state.context.served("echo").model
        before = model.statistics()["cancelled"]
        model.entry.pause()
        await client.send(client.request(client.row()))
        await until(lambda: model.statistics()["queued_rows"] == 1)
        client.close()
        await until(lambda: not model.statistics()["queued_rows"])
        assert model.statistics()["cancelled"] == before + 1
        model.entry.go_on()

    running(story, echo, dispatch="worker")

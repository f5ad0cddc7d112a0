"""Small requests that differ only in ids: each client gets its own answer, and what is not as expected the usual one.

The server runs in this process, so that a test decides what arrives in one pass of the loop.
"""

import asyncio
import itertools
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import uvloop
from tests.engines.models import gather_rows, identity
from tests.server.fastpath.test_fastpath import READY, WIDTH, Client, until
from tests.server.opened import OpenedModel
from tests.servers import raw_request

from tailcut.errors import QueueFullError
from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model
from tailcut.server import step_runner
from tailcut.server.context import Context
from tailcut.server.limits import ServerLimits
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel
from tailcut.server.state import ServerState
from tailcut.spec import DType

_ids = itertools.count(10_000_000)
MANY = 10


def changing(body: bytes, *headers: str) -> bytes:
    """A raw request whose head has an id of its own."""
    number = next(_ids)
    return raw_request(
        "echo", body, f"X-Request-Id: {number:08x}", f"traceparent: 00-{number:032x}-{number:016x}-01", *headers
    )


class ChangingClient(Client):
    """A client whose requests have another id each time."""

    def request(self, row: bytes) -> bytes:
        return changing(row)


def running(
    story: Callable[[ServerState, list[ChangingClient]], Awaitable[None]],
    model: OpenedModel,
    *,
    dispatch: str = "inline",
    clients: int = MANY,
    rows: int = 1024,
) -> None:
    """Tell a story to a server without the fast path, and to clients of whom it expects what they sent last."""

    async def tell(opened: Model) -> None:
        context = Context(ModelRepository([ServedModel(opened, "echo")]), ready=True)
        state = ServerState(context, ServerLimits(), direct_bytes=65536)
        asking = [await ChangingClient(state, number).connect() for number in range(clients)]
        for number in range(6):
            await ask_all(asking[number % 2 :: 2])
            await until(lambda: not opened.statistics()["rows_in_use"])
        assert awaited(state) == clients
        await story(state, asking)
        for client in asking:
            client.close()
        await until(lambda: not state.members and not opened.statistics()["rows_in_use"])
        assert context.counts.buffered_bytes == 0
        state.close()

    with model.lent(dispatch, limits=Limits(queue_rows=rows)) as opened:
        uvloop.run(tell(opened))


async def ask_all(clients: list[ChangingClient]) -> None:
    """All of them ask in one pass of the loop, and get their own rows back."""
    rows = [client.row() for client in clients]
    for client, row in zip(clients, rows, strict=True):
        client.ours.sendall(client.request(row))
    for client, row in zip(clients, rows, strict=True):
        await answered(client, row)


async def answered(client: ChangingClient, row: bytes) -> None:
    status, _, body = await client.read()
    assert (status, body.endswith(row)) == (200, True)


def awaited(state: ServerState) -> int:
    """How many connections expect a message like their last one."""
    return sum(connection._alike.awaited is not None for connection in state.members)


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedModel]:
    with OpenedModel(identity(DType.FP32, (None, WIDTH), tmp_path_factory.mktemp("arrivals") / "echo.onnx")) as model:
        yield model


@pytest.mark.parametrize("dispatch", ["inline", "worker"])
@pytest.mark.parametrize("clients", [1, 2, MANY, 69])
def test_each_gets_its_own_answer(echo: OpenedModel, dispatch: str, clients: int) -> None:
    """However many there are, whichever thread computes; each is recorded with its own moments."""

    async def story(state: ServerState, asking: list[ChangingClient]) -> None:
        timeline = state.context.served("echo").timeline
        before = timeline.end
        for _ in range(5):
            await ask_all(asking)
        assert awaited(state) == clients
        assert timeline.end == before + 5 * clients
        records, _ = timeline.copy(before)
        moments = records[:, :8]
        assert (np.diff(moments, axis=1) >= 0).all()
        assert (records[:, 8] == 1).all()
        assert (records[:, 10] == 4 * WIDTH).all()
        assert (records[:, 11] == 200).all()

    running(story, echo, dispatch=dispatch, clients=clients)


STRANGE = {
    "an id of another length": (lambda row: raw_request("echo", row, "X-Request-Id: 1"), [200], True),
    "a value beyond ASCII": (lambda row: changing(row).replace(b"X-Request-Id: 0", b"X-Request-Id: \xe9"), [200], True),
    "a tab in a value": (lambda row: changing(row).replace(b"X-Request-Id: 0", b"X-Request-Id: \t"), [200], True),
    "another host": (lambda row: changing(row).replace(b"Host: x", b"Host: y"), [200], True),
    "two messages": (lambda row: changing(row) + changing(row), [200, 200], True),
    "a message and a half": (lambda row: changing(row) + changing(row)[:100], [200], True),
    "many messages": (lambda row: changing(row) * 50, [200] * 50, True),
    "a question": (lambda _: READY, [200], False),
    "another size": (lambda row: changing(row * 2), [200], True),
    "an empty line before": (lambda row: b"\r\n" + changing(row), [200], True),
    "a bare line feed": (lambda row: changing(row).replace(b"\r\nX-Request", b"\n\nX-Request"), [400], False),
    "NUL in a value": (lambda row: changing(row).replace(b"X-Request-Id: 0", b"X-Request-Id: \0"), [400], False),
    "a line's end in a value": (
        lambda row: changing(row).replace(b"X-Request-Id: 00", b"X-Request-Id: \r\n"),
        [400],
        False,
    ),
    "no HTTP": (lambda row: b"\x16\x03" + changing(row)[2:], [400], False),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_not_as_awaited(echo: OpenedModel, name: str) -> None:
    """It gets the answers that it always gets, and the others theirs."""
    make, statuses, is_echoed = STRANGE[name]

    async def story(state: ServerState, asking: list[ChangingClient]) -> None:
        strange, rows = asking[4], [client.row() for client in asking]
        for client, row in zip(asking, rows, strict=True):
            client.ours.sendall(make(row) if client is strange else client.request(row))
        for client, row in zip(asking, rows, strict=True):
            if client is not strange:
                await answered(client, row)
        for status in statuses:
            answer, _, body = await strange.read()
            assert answer == status
            assert body.endswith(rows[4]) == is_echoed or status != 200
        if statuses[-1] == 400:
            assert await asyncio.wait_for(strange.loop.sock_recv(strange.ours, 1), 10) == b""
            asking.remove(strange)
            strange.close()
        elif name == "a message and a half":
            strange.ours.sendall(changing(rows[4])[100:])
            await answered(strange, rows[4])
        for _ in range(3):
            await ask_all(asking)
        assert awaited(state) == len(asking)

    running(story, echo)


def test_a_message_in_pieces(echo: OpenedModel) -> None:
    """Wherever it is cut, it is answered once, and so are the messages of others beside each piece."""

    async def story(state: ServerState, asking: list[ChangingClient]) -> None:
        slow, *others = asking
        for cut in (1, 20, 150, 250):
            row = slow.row()
            data = slow.request(row)
            for piece in (data[:cut], data[cut:]):
                slow.ours.sendall(piece)
                await ask_all(others)
            await answered(slow, row)
            await ask_all(asking)

    running(story, echo)


@pytest.mark.parametrize("dispatch", ["inline", "worker"])
def test_a_client_that_asks_for_the_last_time(echo: OpenedModel, dispatch: str) -> None:
    """It is answered, and the connection is closed behind that."""

    async def story(state: ServerState, asking: list[ChangingClient]) -> None:
        rows = [client.row() for client in asking]
        for client, row in zip(asking, rows, strict=True):
            client.ours.sendall(client.request(row))
        asking[3].ours.shutdown(socket.SHUT_WR)
        for client, row in zip(asking, rows, strict=True):
            await answered(client, row)
        assert await asyncio.wait_for(asking[3].loop.sock_recv(asking[3].ours, 1), 10) == b""

    running(story, echo, dispatch=dispatch)


@pytest.mark.parametrize("dispatch", ["inline", "worker"])
def test_clients_that_leave(echo: OpenedModel, dispatch: str) -> None:
    """Behind their messages: the others are answered, and nothing of it is left."""

    async def story(state: ServerState, asking: list[ChangingClient]) -> None:
        rows = [client.row() for client in asking]
        for client, row in zip(asking, rows, strict=True):
            client.ours.sendall(client.request(row))
        for client in asking[::2]:
            client.close()
        for client, row in zip(asking[1::2], rows[1::2], strict=True):
            await answered(client, row)
        del asking[::2]
        await until(lambda: len(state.members) == len(asking))
        await ask_all(asking)

    running(story, echo, dispatch=dispatch)


def test_the_models_change(echo: OpenedModel) -> None:
    """What is known of a head is not used any more."""

    async def story(state: ServerState, asking: list[ChangingClient]) -> None:
        for forget in state.context.models.changed:
            forget()
        await ask_all(asking)
        assert all(connection._wire.meaning.edition is state.edition for connection in state.members)
        await ask_all(asking)
        assert awaited(state) == MANY

    running(story, echo)


def test_answers_while_draining(echo: OpenedModel) -> None:
    """Each is the last of its connection, and says so."""

    async def story(state: ServerState, asking: list[ChangingClient]) -> None:
        rows = [client.row() for client in asking]
        for client, row in zip(asking, rows, strict=True):
            client.ours.sendall(client.request(row))
        state.drain()
        for client, row in zip(asking, rows, strict=True):
            status, head, body = await client.read()
            assert (status, b"Connection: close" in head, body.endswith(row)) == (200, True, True)

    running(story, echo)


def test_what_finds_no_rows_is_refused(echo: OpenedModel) -> None:
    """503 for those over the queue's limit, and for what comes while a refusal holds."""

    async def story(state: ServerState, asking: list[ChangingClient]) -> None:
        model = state.context.served("echo").model
        model.entry.scheduler.paused, before = True, model.statistics()["refused"]
        rows = [client.row() for client in asking]
        for client, row in zip(asking, rows, strict=True):
            client.ours.sendall(client.request(row))
        await until(lambda: state.context.counts.replies[503] == 2)
        model.entry.scheduler.paused = False
        model.entry.notify()
        answers = [await client.read() for client in asking]
        assert sorted(status for status, _, _ in answers) == [200] * 16 + [503] * 2
        assert all(body.endswith(row) for (status, _, body), row in zip(answers, rows, strict=True) if status == 200)
        plan = next(iter(state.members))._wire.meaning
        for refusal in (QueueFullError("too much is waiting", 1.0, time.monotonic_ns() + 10**12), None):
            plan.refusal = refusal
            await until(lambda: not model.statistics()["rows_in_use"])
            for client in asking[:9]:
                client.ours.sendall(client.request(client.row()))
            assert {(await client.read())[0] for client in asking[:9]} == {503 if refusal else 200}
        assert model.statistics()["refused"] == before + 2 + 9

    running(story, echo, dispatch="worker", rows=16, clients=18)


def test_what_is_taken_in_few_steps(echo: OpenedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The awaited message and no other; an earlier refusal only matters while it holds."""
    monkeypatch.setattr(step_runner, "AT_ONCE_NS", 1 << 60)  # a busy machine must not end the pass

    async def story(state: ServerState, asking: list[ChangingClient]) -> None:
        def takes(data: bytes) -> bool:
            connection.get_buffer(-1)[: len(data)] = data
            return connection._alike.take(len(data))

        for client, connection in zip(asking, list(state.members), strict=True):
            row, plan = client.row(), connection._wire.meaning
            outline = connection._alike.awaited
            for data in (client.request(row)[:-1], client.request(row) + b"P", client.request(row).replace(b"x", b"y")):
                connection._alike.awaited = outline
                assert not takes(data)
                assert connection._alike.awaited is None
            assert not takes(client.request(row))
            connection._alike.awaited, plan.refusal = outline, QueueFullError("full", 1.0, time.monotonic_ns() + 10**12)
            assert not takes(client.request(row))
            connection._alike.awaited, plan.refusal = outline, QueueFullError("full", 1.0, time.monotonic_ns())
            assert takes(client.request(row))
            assert connection.busy
            await answered(client, row)

    running(story, echo)


def test_a_failure_is_logged_with_its_own_trace(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The trace of the request that failed, not of an earlier one of its connection."""

    def request(number: int, trace: int) -> bytes:
        ids = f"traceparent: 00-{trace:032x}-{trace:016x}-01"
        return raw_request("echo", np.array([number], size).tobytes(), ids)

    async def tell(model: Model) -> None:
        context = Context(ModelRepository([ServedModel(model, "echo")]), ready=True)
        state = ServerState(context, ServerLimits(), direct_bytes=65536)
        clients = [await Client(state).connect() for _ in range(4)]
        traces = itertools.count(1)
        for bad in (-1, -1, -1, 2):
            for number, client in enumerate(clients):
                client.ours.sendall(request(999_999 if number == bad else number, next(traces)))
            assert [(await client.read())[0] for client in clients] == [
                500 if number == bad else 200 for number in range(4)
            ]
        for client in clients:
            client.close()
        await until(lambda: not state.members)
        state.close()

    with Model.open(gather_rows(tmp_path / "echo.onnx")) as model, caplog.at_level(logging.WARNING, "tailcut.http"):
        size = model.spec.inputs[0].dtype.numpy
        uvloop.run(tell(model))
    logged = [record.getMessage() for record in caplog.records if "00000" in record.getMessage()]
    assert len(logged) == 1
    assert f"{15:032x}" in logged[0]

"""The fast path of connections that repeat themselves, on real sockets: what it answers, and how one comes off it.

The server runs in this process, so that what the kernel would join is known to be apart, and a test can see who goes
which way.
"""

import asyncio
import itertools
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engines.models import identity
from tests.server.opened import OpenedModel
from tests.servers import json_request, raw_request, serving

from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model
from tailcut.server.context import Context
from tailcut.server.fastpath.fastpath import FastPath
from tailcut.server.http.connection import HttpConnection
from tailcut.server.limits import ServerLimits
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel
from tailcut.server.state import ServerState
from tailcut.server.tracing.tracer import Tracer
from tailcut.spec import DType

WIDTH = 16
READY = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"


class Client:
    """One connection to the hub, and its own numbers."""

    def __init__(self, state: ServerState, number: int = 0, name: str = "echo", width: int = WIDTH) -> None:
        self.state = state
        self.name = name
        self.numbers = np.random.default_rng(number)
        self.width = width
        self.loop = asyncio.get_running_loop()
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.data = b""

    async def connect(self) -> "Client":
        await self.loop.connect_accepted_socket(lambda: HttpConnection(self.state), self.theirs)
        return self

    def row(self) -> bytes:
        return self.numbers.standard_normal(self.width, np.float32).tobytes()

    def request(self, row: bytes) -> bytes:
        return raw_request(self.name, row)

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.ours, data)

    async def read(self) -> tuple[int, bytes, bytes]:
        """One answer: status, head, body."""
        while True:
            end = self.data.find(b"\r\n\r\n")
            if end >= 0:
                head = self.data[:end]
                length = int(re.search(rb"\r\nContent-Length: (\d+)", head)[1])
                if len(self.data) >= end + 4 + length:
                    body, self.data = self.data[end + 4 : end + 4 + length], self.data[end + 4 + length :]
                    return int(head[9:12]), head, body
            piece = await asyncio.wait_for(self.loop.sock_recv(self.ours, 65536), 10)
            assert piece, self.data
            self.data += piece

    async def ask(self) -> None:
        """A row of its own, that comes back bit for bit."""
        row = self.row()
        await self.send(self.request(row))
        status, _, body = await self.read()
        assert status == 200
        assert body.endswith(row)

    async def settle(self) -> None:
        """Ask until the fast path is taken."""
        for _ in range(8):
            await self.ask()

    def close(self) -> None:
        self.ours.close()


async def until(true: Callable[[], bool]) -> None:
    """Let the loop go on until something is so."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0)


def running(
    story: Callable[[ServerState], Awaitable[None]],
    model: OpenedModel,
    *,
    limits: ServerLimits = ServerLimits(),  # noqa: B008  frozen
    rows: int = 1024,
    dispatch: str = "inline",
    tracer: Callable[[ServerState], Tracer] | None = None,
) -> None:
    """Tell a story to a hub whose only model this is; afterwards nothing of it is left."""

    async def tell(opened: Model) -> None:
        state = ServerState(
            Context(ModelRepository([ServedModel(opened, "echo")]), ready=True), limits, direct_bytes=65536
        )
        state.tracer = None if tracer is None else tracer(state)
        state.fast_path = FastPath.open(state)
        assert state.fast_path is not None
        await story(state)
        state.close()
        await until(lambda: not state.members and not opened.entry.scheduler.slab.in_use)
        assert state.context.counts.fast_path == 0

    with model.lent(dispatch, limits=Limits(queue_rows=rows)) as opened:
        uvloop.run(tell(opened))


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedModel]:
    with OpenedModel(identity(DType.FP32, (None, WIDTH), tmp_path_factory.mktemp("express") / "echo.onnx")) as model:
        yield model


@pytest.mark.parametrize("dispatch", ["inline", "worker"])
def test_everyone_gets_their_own_answer(echo: OpenedModel, dispatch: str) -> None:
    """A crowd of 100 with unique rows, over more batches than one pass has, and nobody waits for ever."""

    async def story(state: ServerState) -> None:
        clients = [await Client(state, number).connect() for number in range(100)]
        served = state.context.served("echo")
        before = served.model.statistics()["requests"]

        async def talk(client: Client) -> None:
            for _ in range(20):
                await client.ask()

        await asyncio.gather(*map(talk, clients))
        assert state.context.counts.fast_path == 100
        assert state.context.counts.replies[200] == served.timeline.end == 2000
        assert served.model.statistics()["requests"] == before + 2000
        records, _ = served.timeline.copy()
        assert (np.diff(records[:, :8], axis=1) >= 0).all()
        assert (records[:, 8] == 1).all()
        assert (records[:, 11] == 200).all()
        for client in clients:
            client.close()

    running(story, echo, dispatch=dispatch)


@pytest.mark.parametrize("dispatch", ["inline", "worker"])
def test_requests_of_several_rows_repeat_on_the_standard_path(echo: OpenedModel, dispatch: str) -> None:
    """However often they come, all of their rows are answered, and those of others stay as they are: a queue of few."""

    async def story(state: ServerState) -> None:
        clients = [
            await Client(state, number, width=rows * WIDTH).connect()
            for number, rows in enumerate([1] * 8 + [2, 3, 4, 2, 3, 4])
        ]

        async def talk(client: Client) -> None:
            for _ in range(60):
                row = client.row()
                await client.send(client.request(row))
                status, _, body = await client.read()
                assert (status, body.endswith(row)) == (200, True) or status == 503

        await asyncio.gather(*map(talk, clients))
        assert 0 < state.context.counts.fast_path <= 8
        for client in clients:
            client.close()

    running(story, echo, dispatch=dispatch, rows=24)


@pytest.mark.parametrize("text", ["question", "json", "two at once", "other head"])
def test_who_says_something_else_is_understood(echo: OpenedModel, text: str) -> None:
    """A question, JSON, two messages at once, another head: each is answered, in order, and the way back is open."""

    async def story(state: ServerState) -> None:
        client = await Client(state).connect()
        await client.settle()
        row = client.row()
        if text == "question":
            await client.send(READY)
            assert (await client.read())[0] == 200
        elif text == "json":
            values = np.frombuffer(row, np.float32).tolist()
            entry = {"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": values}
            await client.send(json_request("echo", {"inputs": [entry]}))
            assert (await client.read())[0] == 200
        elif text == "two at once":
            other = client.row()
            await client.send(client.request(row) + client.request(other))
            assert (await client.read())[2].endswith(row)
            assert (await client.read())[2].endswith(other)
        else:
            await client.send(raw_request("echo", row, "Tailcut-Priority: 1"))
            assert (await client.read())[2].endswith(row)
        assert state.context.counts.fast_path == 0
        for _ in range(100):
            await client.ask()
        assert state.context.counts.fast_path == 1
        client.close()

    running(story, echo)


CHANGING = "X-Request-Id: {0}\r\ntraceparent: 00-{0:032x}-{0:016x}-01"


@pytest.mark.parametrize("dispatch", ["inline", "worker"])
def test_heads_that_change_where_it_means_nothing_stay(echo: OpenedModel, dispatch: str) -> None:
    """Ids of requests and traces: connections come, and stay, whichever of them one begins with."""

    async def story(state: ServerState) -> None:
        clients = [await Client(state, number).connect() for number in range(3)]
        for number in range(1, 40):
            rows = [client.row() for client in clients]
            for client, row in zip(clients, rows, strict=True):
                await client.send(raw_request("echo", row, CHANGING.format(number)))
            for client, row in zip(clients, rows, strict=True):
                assert (await client.read())[2].endswith(row)
            if number > 8:
                assert state.context.counts.fast_path == 3
        for client in clients:
            client.close()

    running(story, echo, dispatch=dispatch)


def test_who_comes_off_has_the_head_of_its_last_request(echo: OpenedModel) -> None:
    """The trace in it is what a failure's log line tells, not that of the request that the connection came with."""

    async def story(state: ServerState) -> None:
        client = await Client(state).connect()
        for number in range(1, 10):
            await client.send(raw_request("echo", client.row(), CHANGING.format(number)))
            await client.read()
        assert state.context.counts.fast_path == 1
        connection = next(iter(state.members))
        state.fast_path.leave(connection._repeating)
        assert CHANGING.format(9).encode() in connection._wire.head
        for number in range(10, 90):
            row = client.row()
            await client.send(raw_request("echo", row, CHANGING.format(number)))
            assert (await client.read())[2].endswith(row)
        assert state.context.counts.fast_path == 1
        client.close()

    running(story, echo)


@pytest.mark.parametrize("cut", [1, 40])
def test_a_head_in_two_pieces(echo: OpenedModel, cut: int) -> None:
    """It is put together on the standard path, and the next one comes whole again."""

    async def story(state: ServerState) -> None:
        client = await Client(state).connect()
        await client.settle()
        row = client.row()
        await client.send(client.request(row)[:cut])
        await until(lambda: not state.context.counts.fast_path)
        await client.send(client.request(row)[cut:])
        assert (await client.read())[2].endswith(row)
        await client.ask()
        client.close()

    running(story, echo)


@pytest.mark.parametrize("json", [False, True])
def test_a_body_by_itself(echo: OpenedModel, json: bool) -> None:
    """Clients that send it behind their head in one piece more, or in several, come, and stay."""

    async def story(state: ServerState) -> None:
        client = await Client(state).connect()
        for number in range(40):
            row = client.row()
            data = np.frombuffer(row, np.float32).astype(float).tolist()
            entry = {"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": data}
            request = json_request("echo", {"inputs": [entry]}) if json else client.request(row)
            head = request.index(b"\r\n\r\n") + 4
            places = [0, head, *([head + 7, head + 8] if number % 2 else []), len(request)]
            for start, stop in itertools.pairwise(places):
                await client.send(request[start:stop])
                if state.context.counts.fast_path:
                    await until(lambda: state.busy() == 1)
                else:
                    await asyncio.sleep(0.001)
            status, _, body = await client.read()
            assert status == 200
            if json:
                assert np.float32(orjson.loads(body)["outputs"][0]["data"]).tobytes() == row
            else:
                assert body.endswith(row)
        assert state.context.counts.fast_path == 1
        client.close()

    running(story, echo)


@pytest.mark.parametrize("then", ["late", "drain", "end", "close", "dissolve"])
def test_a_body_that_does_not_come(echo: OpenedModel, then: str) -> None:
    """Its time is limited as on the standard path; what ends the fast path meanwhile costs it nothing."""

    async def story(state: ServerState) -> None:
        client = await Client(state).connect()
        await client.settle()
        row, fast_path = client.row(), state.fast_path
        assert isinstance(fast_path, FastPath)
        request = client.request(row)
        await client.send(request[:-4])
        await until(lambda: state.busy() == 1)
        assert state.context.counts.fast_path == 1
        if then == "late":
            status, head, _ = await client.read()
            assert (status, state.context.counts.fast_path) == (408, 0)
            assert b"Connection: close" in head
        elif then == "end":
            client.ours.shutdown(socket.SHUT_WR)
            assert await asyncio.wait_for(client.loop.sock_recv(client.ours, 1), 10) == b""
        elif then != "close":
            if then == "drain":
                state.drain()
            else:
                fast_path.dissolve()
            assert state.context.counts.fast_path == 0
            await client.send(request[-4:])
            status, head, body = await client.read()
            assert (status, body.endswith(row), b"Connection: close" in head) == (200, True, then == "drain")
        client.close()

    running(story, echo, limits=ServerLimits(body_timeout_s=0.5))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_conversation_in_any_pieces(echo: OpenedModel, data: st.DataObject) -> None:
    """Whatever three clients send, cut anywhere and mixed in any order: each gets its own answers, in its order."""
    kinds = st.lists(st.sampled_from(["row", "row", "row", "row", "question", "other"]), min_size=1, max_size=16)
    talks = [data.draw(kinds) for _ in range(3)]
    cuts = [data.draw(st.lists(st.integers(1, 4000), max_size=6, unique=True)) for _ in range(3)]

    async def story(state: ServerState) -> None:
        async def talk(number: int) -> None:
            client = await Client(state, number).connect()
            await client.settle()
            expected, stream = [], b""
            for kind in talks[number]:
                row = client.row()
                expected.append(b"" if kind == "question" else row)
                stream += {
                    "row": client.request(row),
                    "other": raw_request("echo", row, "Tailcut-Priority: 1"),
                    "question": READY,
                }[kind]
            places = [0, *sorted(cut for cut in cuts[number] if cut < len(stream)), len(stream)]
            for start, stop in itertools.pairwise(places):
                await client.send(stream[start:stop])
                await asyncio.sleep(0)
            for row in expected:
                status, _, body = await client.read()
                assert status == 200
                assert body.endswith(row)
            await client.ask()
            client.close()

        await asyncio.gather(*(talk(number) for number in range(3)))

    running(story, echo)


def test_leaving_with_a_request_that_waits(echo: OpenedModel) -> None:
    """What a client left behind in the queue is not computed, its row is free, and its neighbours are answered."""

    async def story(state: ServerState) -> None:
        clients = [await Client(state, number).connect() for number in range(4)]
        for client in clients:
            await client.settle()
        model = state.context.served("echo").model
        before = model.statistics()
        model.entry.pause()
        rows = [client.row() for client in clients]
        for client, row in zip(clients, rows, strict=True):
            await client.send(client.request(row))
        await until(lambda: model.statistics()["queued_rows"] == 4)
        clients[1].close()
        await until(lambda: model.statistics()["queued_rows"] == 3)
        assert model.statistics()["cancelled"] == before["cancelled"] + 1
        assert model.statistics()["rows_in_use"] == 3
        model.entry.go_on()
        for number in (0, 2, 3):
            assert (await clients[number].read())[2].endswith(rows[number])
            clients[number].close()
        assert model.statistics()["requests"] == before["requests"] + 3

    running(story, echo, dispatch="worker")


@pytest.mark.parametrize("waiting", [False, True])
def test_draining_gives_everyone_a_last_answer(echo: OpenedModel, waiting: bool) -> None:
    """Each client that waits for an answer, and each that asks once more, is told that the connection ends with it."""

    async def story(state: ServerState) -> None:
        client = await Client(state).connect()
        await client.settle()
        model = state.context.served("echo").model
        row = client.row()
        if waiting:
            model.entry.pause()
            await client.send(client.request(row))
            await until(lambda: bool(model.statistics()["queued_rows"]))
        state.drain()
        assert state.context.counts.fast_path == 0
        if waiting:
            assert state.busy() == 1
            model.entry.go_on()
        else:
            await client.send(client.request(row))
        status, head, body = await client.read()
        assert (status, body.endswith(row)) == (200, True)
        assert b"Connection: close" in head
        assert await asyncio.wait_for(client.loop.sock_recv(client.ours, 1), 10) == b""
        client.close()

    running(story, echo, dispatch="worker")


def test_idle_connections_are_closed_there_too(echo: OpenedModel) -> None:
    """The idle limit counts from the last answer, whichever way it went."""

    async def story(state: ServerState) -> None:
        client = await Client(state).connect()
        await client.settle()
        for _ in range(4):
            await client.ask()
            await asyncio.sleep(0.3)
        assert state.context.counts.fast_path == 1
        assert await asyncio.wait_for(client.loop.sock_recv(client.ours, 1), 10) == b""
        client.close()

    running(story, echo, limits=ServerLimits(idle_timeout_s=0.7))


def test_a_served_crowd_is_counted(echo: OpenedModel, tmp_path: Path) -> None:
    """From outside: the gauge shows which connections take the fast path, and falls when they leave."""
    row = np.arange(WIDTH, dtype=np.float32).tobytes()
    with serving(tmp_path, echo.path) as server:
        with server.connect() as wire:
            for _ in range(20):
                assert wire.ask(raw_request("echo", row)).body.endswith(row)
            assert server.metric("tailcut_connections_express") == 1
        end = time.monotonic() + 10
        while server.metric("tailcut_connections_express") and time.monotonic() < end:
            pass  # each look is a request
        assert server.metric("tailcut_connections_express") == 0
        assert server.stop() == 0


def test_requests_with_ids_of_their_own_share_a_plan(echo: OpenedModel) -> None:
    """Heads that differ in what means nothing here cost no plan each; one that asks for something else has its own."""

    async def story(state: ServerState) -> None:
        client = await Client(state).connect()
        for number in range(50):
            row = client.row()
            await client.send(raw_request("echo", row, f"X-Request-Id: {number}", f"traceparent: {number}"))
            status, _, body = await client.read()
            assert (status, body.endswith(row)) == (200, True)
        assert len(state.plans) == 1
        for header, expected in (("Tailcut-Priority: 3", 200), ("Tailcut-Timeout-Us: 0x", 400), ("Host: y", 400)):
            row = client.row()
            await client.send(raw_request("echo", row, "X-Request-Id: 1", header))
            status, _, body = await client.read()
            assert status == expected
            assert body.endswith(row) is (expected == 200)
        assert len(state.plans) == 2
        client.close()

    running(story, echo)

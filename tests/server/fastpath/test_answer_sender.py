"""What the fast path answers and refuses, on real sockets: heads, dates, and answers that do not go out as a whole."""

import re
import socket
import time
import types
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import gather_rows, identity
from tests.server.fastpath.test_fastpath import WIDTH, Client, echo, running, until
from tests.server.opened import OpenedModel
from tests.servers import json_request

from tailcut.server.state import ServerState
from tailcut.spec import DType

__all__ = ["echo"]  # a fixture


def test_dates_go_on_there(echo: OpenedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers on the way, refusals among them, carry the date of their second, as those of the other way do."""
    clock = types.SimpleNamespace(time=lambda: second, monotonic_ns=time.monotonic_ns, sleep=time.sleep)
    monkeypatch.setattr("tailcut.server.state.time", clock)
    second = 1_000_000_000

    async def date(client: Client) -> bytes:
        row = client.row()
        await client.send(client.request(row))
        _, head, _ = await client.read()
        (line,) = re.findall(rb"\r\nDate: ([^\r]*)", head)
        return line

    async def story(state: ServerState) -> None:
        nonlocal second
        clients = [await Client(state, number).connect() for number in range(2)]
        await clients[0].settle()
        assert state.context.counts.fast_path == 1
        model = state.context.served("echo").model
        for second, expected in (  # noqa: B007  what the clock says
            (1_000_000_000, b"Sun, 09 Sep 2001 01:46:40 GMT"),
            (2_000_000_000, b"Wed, 18 May 2033 03:33:20 GMT"),
        ):
            while await date(clients[0]) != expected:
                pass  # the clock is read four times a second
            assert await date(clients[1]) == expected
            taken = [model.entry.lend(1, apart=True) for _ in range(model.entry.slab.rows - model.entry.slab.in_use)]
            assert await date(clients[0]) == expected
            assert state.context.counts.replies[503] >= 1
            for lease in taken:
                model.entry.settle(lease, 0, None)
        assert state.context.counts.fast_path >= 1
        for client in clients:
            client.close()

    running(story, echo, rows=16)


def test_what_is_refused_is_counted_once(echo: OpenedModel) -> None:
    """Where a client would join, and of those that are heard in one pass, of which some have sent no whole request."""

    async def story(state: ServerState) -> None:
        model, replies = state.context.served("echo").model, state.context.counts.replies
        before = model.statistics()["refused"]
        settled = [await Client(state, number).connect() for number in range(5)]
        for client in settled:
            await client.settle()
        newcomer = await Client(state, 5).connect()
        taken = [model.entry.lend(1, apart=True) for _ in range(model.entry.slab.rows)]
        for count in range(1, 9):
            await newcomer.send(newcomer.request(newcomer.row()))
            assert (await newcomer.read())[0] == 503
            assert replies[503] == model.statistics()["refused"] - before == count
        requests = [client.request(client.row()) for client in settled]
        for client, request in zip(settled, requests, strict=True):
            client.ours.send(request if client in settled[:2] else request[:-8])
        for client in settled[:2]:
            assert (await client.read())[0] == 503
        assert replies[503] == model.statistics()["refused"] - before == 10
        for lease in taken:
            model.entry.settle(lease, 0, None)
        for client, request in zip(settled[2:], requests[2:], strict=True):
            await client.send(request[-8:])
            assert (await client.read())[0] == 200
        assert model.statistics()["refused"] - before == 10
        for client in (*settled, newcomer):
            client.close()

    running(story, echo, rows=16)


def test_a_refusal_leaves_them_on_the_way(echo: OpenedModel) -> None:
    """With no row free everyone is told at once when to come back, and is served as soon as there is one."""

    async def story(state: ServerState) -> None:
        clients = [await Client(state, number).connect() for number in range(5)]
        for client in clients:
            await client.settle()
        model = state.context.served("echo").model
        refused = model.statistics()["refused"]
        taken = [model.entry.lend(1, apart=True) for _ in range(model.entry.slab.rows)]
        for client in clients:
            await client.send(client.request(client.row()))
        for client in clients:
            status, head, _ = await client.read()
            assert status == 503
            assert b"Retry-After" in head
        assert state.context.counts.replies[503] == model.statistics()["refused"] - refused == 5
        for lease in taken:
            model.entry.settle(lease, 0, None)
        for client in clients:
            await client.ask()
        assert state.context.counts.fast_path == 5
        for client in clients:
            client.close()

    running(story, echo, rows=16)


@pytest.mark.parametrize("form", ["raw", "list"])
def test_clients_of_http_1_0_are_told_that_the_connection_stays(echo: OpenedModel, form: str) -> None:
    """On the way as before it, in refusals as well, and no other client beside them is."""
    line = b"\r\nConnection: keep-alive"

    def request(client: Client, version: bytes) -> bytes:
        entry = {"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": client.numbers.random(WIDTH).tolist()}
        whole = json_request("echo", {"inputs": [entry]}) if form == "list" else client.request(client.row())
        return whole.replace(b" HTTP/1.1", b" HTTP/" + version, 1).replace(b"\r\nHost: x", line, 1)

    async def story(state: ServerState) -> None:
        clients = {b"1.0": Client(state, 1), b"1.1": Client(state, 2)}
        heads: dict[bytes, set[bytes]] = {version: set() for version in clients}

        async def ask(status: int) -> None:
            for version, client in clients.items():
                await client.send(request(client, version).replace(b"HTTP/1.1" + line, b"HTTP/1.1\r\nHost: x", 1))
            for version, client in clients.items():
                got, head, _ = await client.read()
                assert got == status
                assert (line in head) is (version == b"1.0")
                heads[version].add(re.sub(rb"(Content-Length|Date): [^\r]*", rb"\1", head))

        for client in clients.values():
            await client.connect()
        for _ in range(100):
            await ask(200)
        assert state.context.counts.fast_path == 2
        assert [len(each) for each in heads.values()] == [1, 1]
        model = state.context.served("echo").model
        taken = [model.entry.lend(1, apart=True) for _ in range(model.entry.slab.rows)]
        await ask(503)
        assert state.context.counts.fast_path == 2
        for lease in taken:
            model.entry.settle(lease, 0, None)
        for client in clients.values():
            client.close()

    running(story, echo, rows=16)


def test_a_bad_row_costs_only_itself(tmp_path: Path) -> None:
    """An engine that raises for one request of a pass: it gets 500, the others their rows."""

    async def story(state: ServerState) -> None:
        clients = [await Client(state, number).connect() for number in range(8)]
        for client in clients:
            for _ in range(8):
                await client.send(client.request(np.int64(2).tobytes()))
                assert (await client.read())[0] == 200
        assert 0 < state.context.counts.fast_path <= 8
        for number, client in enumerate(clients):
            await client.send(client.request(np.int64(99 if number == 3 else number % 5).tobytes()))
        for number, client in enumerate(clients):
            status, _, body = await client.read()
            assert status == (500 if number == 3 else 200)
            if number != 3:
                row = np.arange(15, dtype=np.float32).reshape(5, 3)[number % 5]
                assert body.endswith(row.tobytes())
        for client in clients:
            client.close()

    with OpenedModel(gather_rows(tmp_path / "gather.onnx")) as model:
        running(story, model, dispatch="worker")


def test_who_does_not_read_gets_all_of_it_later(tmp_path: Path) -> None:
    """An answer that does not fit into the client's buffers goes out by the standard path, whole."""
    width = 12_000

    async def story(state: ServerState) -> None:
        client = Client(state, width=width)
        client.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        await client.connect()
        for _ in range(3):
            await client.ask()
        row = client.row()
        await client.send(
            client.request(row)
        )  # the fourth with this head takes the fast path, and comes back by the long
        await until(lambda: state.context.counts.replies[200] == 4)
        assert state.context.counts.fast_path == 0
        assert state.context.served("echo").timeline.end == 4
        assert (await client.read())[2].endswith(row)
        await client.ask()
        client.close()

    with OpenedModel(identity(DType.FP32, (None, width), tmp_path / "wide.onnx")) as model:
        running(story, model)


def test_refusals_that_are_not_read_are_reported_later(echo: OpenedModel) -> None:
    """The one that the socket has no room for goes out on the standard path, whole."""

    async def story(state: ServerState) -> None:
        client = Client(state)
        client.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        await client.connect()
        await client.settle()
        model, replies = state.context.served("echo").model, state.context.counts.replies
        taken = [model.entry.lend(1, apart=True) for _ in range(model.entry.slab.rows)]
        refused = 0
        while state.context.counts.fast_path:
            refused += 1
            await client.send(client.request(client.row()))
            await until(lambda: replies[503] == refused)  # noqa: B023  called at once
        assert refused > 1
        for _ in range(refused):
            status, head, _ = await client.read()
            assert status == 503
            assert b"Retry-After" in head
        for lease in taken:
            model.entry.settle(lease, 0, None)
        await client.ask()
        client.close()

    running(story, echo, rows=16)

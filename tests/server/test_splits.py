"""Every message of the parser's tests, cut at every position, through real sockets and a real model.

The server runs in this process, so that a piece is sent only once the one before it has been read: what the kernel
would join is known to have been apart.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from tests.effort import THOROUGH
from tests.server.opened import OpenedModel
from tests.server.test_http import FRAMING
from tests.servers import json_request, raw_request
from tests.wire.http1.test_head import BAD_CHUNKS, REFUSED

from tailcut.runtime.model import Model
from tailcut.server.context import Context
from tailcut.server.http.connection import HttpConnection
from tailcut.server.limits import ServerLimits
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel
from tailcut.server.state import ServerState

CUTS = 160  # of a long message at most, spread over it; shorter ones are cut everywhere in `make test-all`
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
GET = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = GET[:-2] + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
VALUES = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
CHUNKED = b"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
GOOD = {
    "question": (GET, [200]),
    "raw": (raw_request("mlp", bytes(16)), [200]),
    "json": (json_request("mlp", VALUES), [200]),
    "binary": (raw_request("mlp", bytes(160)), [200]),
    "two": (GET + raw_request("mlp", bytes(16)), [200, 200]),
    "good, bad, good": (raw_request("mlp", bytes(16)) + b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n" + GET, [200, 400]),
    "unknown, good": (raw_request("none", bytes(16)) + GET, [404, 200]),
    "wrong, good": (json_request("mlp", "{}") + GET, [400, 200]),
    "chunked, trailer": (CHUNKED + b"2;a=b\r\n{}\r\n0\r\nT: x\r\n\r\n" + GET, [400, 200]),
    "empty lines": (b"\r\n" + GET + b"\r\n\r\n" + raw_request("mlp", bytes(16)) + b"\r\n" + GET, [200, 200, 200]),
    "chunked, empty line": (CHUNKED + b"2\r\n{}\r\n0\r\n\r\n\r\n" + GET, [400, 200]),
    "upgrade": (UPGRADE + b"\r\n" + GET, [200, 200]),
    "upgrade with a body": (raw_request("mlp", bytes(16), "Upgrade: h2c", "Connection: Upgrade") + GET, [200, 200]),
    "white space": (raw_request("mlp", bytes(16), "A:\tb\t", "Tailcut-Priority: 1 ") + GET, [200, 200]),
    "bad trailer": (CHUNKED + b"2\r\n{}\r\n0\r\nT : x\r\n\r\n" + GET, [400]),
    "chunk too long": (CHUNKED + b"2\r\n{}}\r\n0\r\n\r\n", [400]),
    "chunk size": (CHUNKED + b"2\r\n{}\r\n-1\r\n\r\n", [400]),
}


class _Counted(HttpConnection):
    """Tells when bytes were read."""

    def __init__(self, state: ServerState, read: asyncio.Event) -> None:
        super().__init__(state)
        self._read = read

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        self._read.set()


async def _answers(state: ServerState, pieces: list[bytes], count: int) -> tuple[list[int], bool]:
    """The statuses of `count` answers to these pieces, and whether the connection then ended."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    read = asyncio.Event()
    await loop.connect_accepted_socket(lambda: _Counted(state, read), theirs)
    ours.setblocking(False)
    for piece in pieces:
        read.clear()
        try:
            await loop.sock_sendall(ours, piece)
        except ConnectionError:  # a beginning that was hopeless has been refused, and the end is not wanted
            break
        await asyncio.wait_for(read.wait(), 10)
    data = b""
    while len(STATUS.findall(data)) < count:
        piece = await asyncio.wait_for(loop.sock_recv(ours, 65536), 10)
        assert piece, data
        data += piece
    ended = b"\r\nConnection: close\r\n" in data
    ours.close()
    return [int(status) for status in STATUS.findall(data)], ended


def _serve(served: OpenedModel, check: Callable[[ServerState], Awaitable[None]]) -> None:
    async def run(model: Model) -> None:
        state = ServerState(
            Context(ModelRepository([ServedModel(model, "mlp")]), ready=True),
            ServerLimits(body_bytes=1 << 20),
            direct_bytes=65536,
        )
        await check(state)
        state.close()
        while state.members:  # noqa: ASYNC110  the loop's own next pass is the event
            await asyncio.sleep(0)
        assert model.statistics()["rows_in_use"] == 0
        assert state.context.counts.buffered_bytes == 0

    with served.lent() as model:
        uvloop.run(run(model))


@pytest.fixture(scope="module")
def mlp(models: Path) -> Iterator[OpenedModel]:
    with OpenedModel(models / "mlp.onnx") as model:
        yield model


def _cuts(data: bytes, turn: int) -> range:
    """Every third place in `make test`: which of them goes by the turn of the message."""
    step = max(1 if THOROUGH else 3, len(data) // CUTS)
    return range(1 + turn % step, len(data), step)


BAD = {f"parser: {name}": case for name, case in REFUSED.items()} | {f"server: {n}": c for n, c in FRAMING.items()}


def test_every_bad_message_at_every_cut(mlp: OpenedModel) -> None:
    """However a broken message arrives, it gets the one status that the whole of it gets, and the connection ends."""

    async def check(state: ServerState) -> None:
        for turn, (name, (data, status)) in enumerate(BAD.items()):
            whole = await _answers(state, [data], 1)
            assert whole == ([status], True), name
            for cut in _cuts(data, turn):
                assert await _answers(state, [data[:cut], data[cut:]], 1) == whole, (name, cut)

    _serve(mlp, check)


@pytest.mark.slow
def test_every_bad_chunk_at_every_cut(mlp: OpenedModel) -> None:
    """The same for what stands in a body, behind a good head."""

    async def check(state: ServerState) -> None:
        for turn, (name, (data, status)) in enumerate(BAD_CHUNKS.items()):
            if name == "over the limit":  # of another size here
                continue
            for cut in _cuts(data, turn):
                pieces = [CHUNKED + data[:cut], data[cut:]]
                assert await _answers(state, pieces, 1) == ([status], True), (name, cut)

    _serve(mlp, check)


@pytest.mark.parametrize("name", GOOD)
def test_every_good_message_at_every_cut(mlp: OpenedModel, name: str) -> None:
    """Answers do not depend on where the network cuts."""
    data, statuses = GOOD[name]

    async def check(state: ServerState) -> None:
        for cut in _cuts(data, turn=list(GOOD).index(name)):
            assert (await _answers(state, [data[:cut], data[cut:]], len(statuses)))[0] == statuses, cut

    _serve(mlp, check)


def test_byte_by_byte(mlp: OpenedModel) -> None:
    """The slowest of networks changes nothing."""

    async def check(state: ServerState) -> None:
        for name, (data, statuses) in GOOD.items():
            if 400 in statuses:
                continue
            pieces = [data[at : at + 1] for at in range(len(data))]
            assert (await _answers(state, pieces, len(statuses)))[0] == statuses, name

    _serve(mlp, check)

"""Where the kernel writes a body, and what a request leaves in the allocator. In this process, to look inside."""

import asyncio
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
import uvloop
from tests.effort import runs
from tests.engines.models import identity
from tests.servers import raw_request, serving

from tailcut.lab.burst import Burst
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import infer_payload
from tailcut.runtime.model import Model
from tailcut.server.context import Context
from tailcut.server.http.connection import HttpConnection
from tailcut.server.limits import ServerLimits
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel
from tailcut.server.state import HEAD_BYTES, RECEIVE_BYTES, ServerState
from tailcut.spec import DType

VALUES = np.random.default_rng(0).standard_normal(50_000).astype(np.float32).tobytes()


class _Watched(HttpConnection):
    """Notes where the loop was told to receive, and how much came there."""

    received: list[tuple[int, int]]

    def get_buffer(self, sizehint: int) -> memoryview:
        view = super().get_buffer(sizehint)
        self._place = np.frombuffer(view, np.uint8).ctypes.data
        return view

    def buffer_updated(self, nbytes: int) -> None:
        self.received.append((self._place, nbytes))
        super().buffer_updated(nbytes)


Ask = Callable[[bytes], Awaitable[bytes]]


def _run(path: Path, check: Callable[[Model, list[tuple[int, int]], Ask], Awaitable[None]]) -> None:
    async def run(model: Model) -> None:
        state = ServerState(
            Context(ModelRepository([ServedModel(model, path.stem)]), ready=True), ServerLimits(), direct_bytes=65536
        )
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        places: list[tuple[int, int]] = []

        def connection() -> HttpConnection:
            watched = _Watched(state)
            watched.received = places
            return watched

        await loop.connect_accepted_socket(connection, theirs)

        async def ask(request: bytes) -> bytes:
            await loop.sock_sendall(ours, request)
            data = b""
            while b"\r\n\r\n" not in data:
                data += await loop.sock_recv(ours, 1 << 20)
            head, _, body = data.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), data[:300]
            length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            while len(body) < length:
                body += await loop.sock_recv(ours, 1 << 20)
            return body

        await check(model, places, ask)
        ours.close()
        state.close()

    with Model.open(path) as model:
        uvloop.run(run(model))


def _binary() -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 50_000], "parameters": {"binary_data_size": len(VALUES)}}
    lead = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return raw_request("big", lead + VALUES).replace(b"Length: 0", b"Length: %d" % len(lead), 1)


@pytest.mark.parametrize("request_bytes", [raw_request("big", VALUES), _binary()], ids=["raw", "behind JSON"])
def test_the_kernel_writes_large_bodies_into_the_slab(models: Path, request_bytes: bytes) -> None:
    """All but what came in one read with the head, and on a connection that did so before even nearly all of that."""

    async def check(model: Model, places: list[tuple[int, int]], ask: Ask) -> None:
        assert (await ask(request_bytes)).endswith(VALUES)
        rows = model.entry.scheduler.slab.inputs[0]
        begin, end = rows.ctypes.data, rows.ctypes.data + rows.nbytes
        direct = sum(count for place, count in places if begin <= place < end)
        assert direct >= len(request_bytes) - RECEIVE_BYTES
        assert sum(count for _, count in places) == len(request_bytes)
        places.clear()
        assert (await ask(request_bytes)).endswith(VALUES)
        direct = sum(count for place, count in places if begin <= place < end)
        assert direct >= len(request_bytes) - HEAD_BYTES

    _run(models / "big.onnx", check)


@pytest.mark.slow
def test_requests_leave_nothing_in_the_allocator(models: Path) -> None:
    """A thousand answers later there are as many blocks as before, once the trace of past requests is full."""

    async def check(model: Model, places: list[tuple[int, int]], ask: Ask) -> None:
        request = raw_request("mlp", bytes(16))
        for _ in range(4500):
            await ask(request)
            places.clear()
        before = sys.getallocatedblocks()
        for _ in range(1000):
            await ask(request)
            places.clear()
        assert sys.getallocatedblocks() - before < 100

    _run(models / "mlp.onnx", check)


def test_bodies_that_are_read_later_are_their_own(tmp_path: Path) -> None:
    """Forty clients at once, with bodies that fill much of the buffer that all are received into."""
    path = identity(DType.FP32, (None, 64), tmp_path / "m.onnx")
    with (
        serving(tmp_path, path, "--max-batch-size", "8") as server,
        Burst(LoadTarget(server.host, server.port)) as burst,
    ):
        for wire in ("binary", "json"):
            inputs = [{"x": np.full((1 + 3 * number, 64), number, np.float32)} for number in range(40)]
            payloads = [infer_payload(LoadTarget(server.host, server.port), "m", item, wire) for item in inputs]
            for _ in range(runs(10)):
                for item, reply in zip(inputs, burst.ask(payloads), strict=True):
                    assert reply.status == 200, reply.message
                    assert np.array_equal(reply.outputs["y"], item["x"])

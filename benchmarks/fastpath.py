"""What one request of a small model costs the server's own thread on the fast path, its system calls included.

    python benchmarks/fastpath.py

Clients on the loopback send raw rows, then JSON, and one pass is timed: receive, batch, compute, answer. Beside it
stands the standard path for raw rows (one call of the connection's protocol each, no system call in it:
benchmarks/hot_path.py), and as the limit the bare system calls, a recv and a send for each request, from compiled code
that does nothing else.
The least of many rounds of thread time.
"""

import asyncio
import json
import socket
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import uvloop

sys.path.insert(0, str(Path(__file__).parent))
from hot_path import REQUEST
from reference_models import make

from tailcut.engines.base import EngineOptions
from tailcut.kernels import answers, sockets
from tailcut.kernels import socket_tables as columns
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.server.context import Context
from tailcut.server.fastpath.fastpath import FastPath
from tailcut.server.http.connection import HttpConnection
from tailcut.server.limits import ServerLimits
from tailcut.server.listener import Acceptor
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel
from tailcut.server.sockets import Listener
from tailcut.server.state import ServerState

ROUNDS = 3000


def json_request() -> bytes:
    """256 numbers with the digits that a float32 needs."""
    row = np.random.default_rng(0).standard_normal(256).astype(np.float32)
    entry = {"name": "x", "datatype": "FP32", "shape": [1, row.size], "data": [float(str(value)) for value in row]}
    body = json.dumps({"inputs": [entry]}).encode()
    return b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def passes_us(model: Model, connections: int, request: bytes) -> tuple[float, float]:
    """Microseconds per request: a whole pass, and its bare system calls."""
    state = ServerState(
        Context(ModelRepository([ServedModel(model, "tiny")]), ready=True), ServerLimits(), direct_bytes=65536
    )
    state.fast_path = FastPath.open(state)
    listener = socket.create_server(("127.0.0.1", 0))
    acceptor = Acceptor(state, Listener(listener), partial(HttpConnection, state))
    clients = [socket.create_connection(listener.getsockname()) for _ in range(connections)]
    for client in clients:
        client.setblocking(False)
    for _ in range(40):  # until they repeat themselves, and have had time
        for client in clients:
            client.send(request)
        for client in clients:
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 65536), 5)
    if len(state.fast_path._connections.here) != connections:
        raise SystemExit(f"{len(state.fast_path._connections.here)} of {connections} connections take the fast path")
    times = []
    for _ in range(ROUNDS):
        for client in clients:
            client.send(request)
        began = time.thread_time_ns()
        state.fast_path.turn()
        times.append(time.thread_time_ns() - began)
        for client in clients:
            answer = client.recv(65536)
    bare = bare_us(state.fast_path, clients, request, answer)
    acceptor.close()
    state.close()
    await asyncio.sleep(0.01)
    for client in clients:
        client.close()
    return min(times) / connections / 1e3, bare


def bare_us(fast_path: FastPath, clients: list[socket.socket], request: bytes, answer: bytes) -> float:
    """The same receiving and answering, without rows, batches and engine."""
    sender = fast_path._sender
    sender._answer_view[: len(answer)] = answer
    times = []
    for _ in range(ROUNDS):
        for client in clients:
            client.send(request)
        began = time.thread_time_ns()
        state = fast_path._connections.state
        count = sockets.look(fast_path._poll_fd, 0, fast_path._events, state, fast_path._plans, fast_path._table, 0)
        fast_path._table[0, columns.ADDRESS] = 0
        fast_path._table[0, columns.ROOM] = len(fast_path._events)
        sockets.take(
            count,
            fast_path._events,
            state,
            fast_path._plans,
            fast_path._heads,
            fast_path._table,
            fast_path._members,
            fast_path._receive,
            fast_path._odd,
            fast_path._connections.own_heads,
            fast_path._head_table.fields,
            fast_path._head_table.grammar,
            fast_path._numbers,
        )
        answers.answer(
            fast_path._members[0, :count],
            state,
            len(answer),
            sender._no_outputs,
            sender._answer,
            sender._no_ring,
            0,
            sender._trace,
            sender._shorts,
        )
        times.append(time.thread_time_ns() - began)
        for client in clients:
            client.recv(65536)
    return min(times) / len(clients) / 1e3


def main() -> None:
    build = Path(__file__).parent.parent / "build"
    build.mkdir(exist_ok=True)
    settings = Settings(
        engine=EngineOptions(threads=1), batching=BatchingSettings(max_batch_size=32, dispatch="inline")
    )
    with Model.open(Profile.of_model(make("tiny", build / "models"), settings)) as model:
        for name, request in (("raw", REQUEST), ("JSON", json_request())):
            for connections in (1, 8, 32):
                whole, bare = uvloop.run(passes_us(model, connections, request))
                print(
                    f"{name}, {connections:2d} connections: {whole:.2f} us per request; bare calls {bare:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

"""What one request of a small model costs the server's own thread on the fast path, its system calls included.

    python benchmarks/express.py

Clients on the loopback send, and then one pass is timed: receive, batch, compute, answer. Beside it stands the long way
for the same requests (one call of the connection's protocol each, no system call in it: benchmarks/hot_path.py), and as
the limit the bare system calls, a recv and a send for each request, from compiled code that does nothing else.
The least of many rounds of thread time.
"""

import asyncio
import socket
import sys
import time
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent))
from hot_path import REQUEST
from reference_models import make

from tailcut.engines.base import EngineOptions
from tailcut.kernels import sockets
from tailcut.runtime.model import Model
from tailcut.runtime.profile import BatchingSettings, Profile, Settings
from tailcut.server.accept import Acceptor
from tailcut.server.catalog import Catalog
from tailcut.server.express import Express
from tailcut.server.hub import Hub
from tailcut.server.limits import ServerLimits
from tailcut.server.routes import Site
from tailcut.server.served import Served

ROUNDS = 3000


async def passes_us(model: Model, connections: int) -> tuple[float, float]:
    """Microseconds a request: a whole pass, and its bare system calls."""
    hub = Hub(Site(Catalog([Served(model, "tiny")]), ready=True), ServerLimits(), direct_bytes=65536)
    hub.express = Express.open(hub)
    acceptor = Acceptor(hub, socket.create_server(("127.0.0.1", 0)))
    clients = [socket.create_connection(("127.0.0.1", acceptor.port)) for _ in range(connections)]
    for client in clients:
        client.setblocking(False)
    for _ in range(6):  # until they repeat themselves
        for client in clients:
            client.send(REQUEST)
        for client in clients:
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 65536), 5)
    if len(hub.express._passengers) != connections:
        raise SystemExit(f"{len(hub.express._passengers)} of {connections} connections take the fast path")
    times = []
    for _ in range(ROUNDS):
        for client in clients:
            client.send(REQUEST)
        began = time.thread_time_ns()
        hub.express.turn()
        times.append(time.thread_time_ns() - began)
        for client in clients:
            answer = client.recv(65536)
    bare = bare_us(hub.express, clients, answer)
    acceptor.close()
    hub.close()
    await asyncio.sleep(0.01)
    for client in clients:
        client.close()
    return min(times) / connections / 1e3, bare


def bare_us(express: Express, clients: list[socket.socket], answer: bytes) -> float:
    """The same receiving and answering, without rows, batches and engine."""
    express._answer_view[: len(answer)] = answer
    times = []
    for _ in range(ROUNDS):
        for client in clients:
            client.send(REQUEST)
        began = time.thread_time_ns()
        count = sockets.look(express._poll_fd, 0, express._events, express._state, express._plans, express._table, 0)
        express._table[0, sockets.ADDRESS] = 0
        express._table[0, sockets.ROOM] = len(express._events)
        sockets.take(
            count,
            express._events,
            express._state,
            express._plans,
            express._heads,
            express._table,
            express._members,
            express._receive,
            express._odd,
        )
        sockets.answer(
            express._members[0, :count],
            express._state,
            len(answer),
            express._no_outputs,
            express._answer,
            express._no_ring,
            0,
            express._trail,
            express._odd,
        )
        times.append(time.thread_time_ns() - began)
        for client in clients:
            client.recv(65536)
    return min(times) / len(clients) / 1e3


def main() -> None:
    build = Path(__file__).parent.parent / "build"
    build.mkdir(exist_ok=True)
    settings = Settings(engine=EngineOptions(threads=1), batching=BatchingSettings(max_batch=32, dispatch="inline"))
    with Model.open(Profile.of_model(make("tiny", build / "models"), settings)) as model:
        for connections in (1, 8, 32):
            whole, bare = uvloop.run(passes_us(model, connections))
            print(f"{connections:3d} connections: {whole:6.2f} us a request; bare calls {bare:.2f}", flush=True)


if __name__ == "__main__":
    main()

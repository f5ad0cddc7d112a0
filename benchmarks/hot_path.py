"""What one request of a small model costs the server's own thread, without a socket: head, row, batch, answer.

    python benchmarks/hot_path.py [--rounds 200] [--only "HTTP, changing heads"]

Bytes are put where the loop would have received them, 32 requests a pass, and answers are dropped where the
transport would send them; a batch of 32 is computed inline. Over HTTP each request comes on a connection of its own,
over gRPC all come on one. The engine's batches and the time of the loop's pass are fixed, because a busy machine would
choose others. Heads are identical, or have another request id and another trace (HTTP) or deadline (gRPC)
each time. Beside gRPC stands an echo on the same HTTP/2, which reads each request and writes a fixed answer. The least
of many rounds of thread time: what else the machine does is not in it, so two versions can be told apart by a tenth of
a microsecond. The rest of an answer's time (benchmarks/serving.py) is the kernel's.
"""

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

sys.path.insert(0, str(Path(__file__).parent))
from grpc_unary import OURS, hello, prepared
from reference_models import make

from tailcut.batching.cost import CostModel
from tailcut.engines import open_engine
from tailcut.engines.base import EngineOptions
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.server import step_runner
from tailcut.server.context import Context
from tailcut.server.grpc.service import GrpcServer
from tailcut.server.http.connection import HttpConnection
from tailcut.server.limits import ServerLimits
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel
from tailcut.server.state import ServerState

LIMIT_US = 9.0
AT_ONCE = 32
PASSES = 4  # in a round
FIELDS = b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Length: 1024\r\n"
REQUEST = FIELDS + b"Inference-Header-Content-Length: 0\r\n\r\n" + bytes(1024)
Feed = Callable[[], None]  # the requests of one pass


class Nowhere(asyncio.Transport):
    """Takes answers and drops them."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.size = 0

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.size += len(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing is read here."""

    def resume_reading(self) -> None:
        """Nothing is read here."""


def changing_requests() -> Iterator[bytes]:
    count = 0
    while True:
        count += 1
        ids = b"X-Request-Id: %08x-%08x\r\ntraceparent: 00-%032x-%016x-01\r\n" % (count, count * 7, count, count)
        yield FIELDS + ids + b"Inference-Header-Content-Length: 0\r\n\r\n" + bytes(1024)


def json_request() -> bytes:
    """A row as numbers, each with the digits that a float32 needs."""
    row = np.random.default_rng(0).standard_normal(256).astype(np.float32)
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 256], "data": [float(str(value)) for value in row]}
    body = json.dumps({"inputs": [entry]}).encode()
    head = b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def over_http(state: ServerState, requests: Iterator[bytes], transport: Nowhere) -> Feed:
    connections = [HttpConnection(state) for _ in range(AT_ONCE)]
    for connection in connections:
        connection.connection_made(transport)

    def feed() -> None:
        for connection in connections:
            request = next(requests)
            connection.get_buffer(-1)[: len(request)] = request
            connection.buffer_updated(len(request))

    return feed


def over_grpc(state: ServerState, *, changing: bool, rounds: int, transport: Nowhere) -> Feed:
    connection = GrpcServer(state).connection()
    connection.connection_made(transport)
    passes = grpc_passes(changing=changing, rounds=rounds)

    def feed() -> None:
        calls = next(passes)
        connection.get_buffer(-1)[: len(calls)] = calls
        connection.buffer_updated(len(calls))

    return feed


def echoed(*, changing: bool, rounds: int, transport: Nowhere) -> Feed:
    space: dict[str, Any] = {}
    exec(OURS.rpartition("async def")[0], space)
    echo = space["Echo"]()
    echo.connection_made(transport)
    passes = grpc_passes(changing=changing, rounds=rounds)
    return lambda: echo.data_received(next(passes))


def grpc_passes(*, changing: bool, rounds: int) -> Iterator[bytes]:
    calls = prepared(rounds * PASSES * AT_ONCE, changing=changing)
    first, *rest = (b"".join(calls[at : at + AT_ONCE]) for at in range(0, len(calls), AT_ONCE))
    return iter([hello() + first, *rest])


async def least_us(feed: Feed, rounds: int, transport: Nowhere) -> float:
    """Microseconds a request, its answer included; the least of the rounds."""
    spent = []
    for _ in range(rounds):
        spent_ns = 0
        for _ in range(PASSES):
            began = time.thread_time_ns()
            feed()
            await asyncio.sleep(0)  # the rest of this pass of the loop, and the next one
            await asyncio.sleep(0)
            spent_ns += time.thread_time_ns() - began
        spent.append(spent_ns)
    await asyncio.sleep(0.01)  # for those that had to wait for time
    if transport.size < 40 * rounds * PASSES * AT_ONCE:
        raise SystemExit(f"{transport.size} bytes of answers, in {transport.writes} writes")
    return min(spent) / (PASSES * AT_ONCE) / 1e3


async def measure(model: Model, rounds: int, only: str | None) -> None:
    context = Context(ModelRepository([ServedModel(model, "tiny")]), ready=True)
    state = ServerState(context, ServerLimits(), direct_bytes=65536)
    cases: dict[str, Callable[[Nowhere], Feed]] = {
        "HTTP, identical heads": lambda to: over_http(state, cycle([REQUEST]), to),
        "HTTP, changing heads": lambda to: over_http(state, changing_requests(), to),
        "HTTP, JSON": lambda to: over_http(state, cycle([json_request()]), to),
        "gRPC, identical heads": lambda to: over_grpc(state, changing=False, rounds=rounds, transport=to),
        "gRPC, changing heads": lambda to: over_grpc(state, changing=True, rounds=rounds, transport=to),
        "gRPC echo, identical heads": lambda to: echoed(changing=False, rounds=rounds, transport=to),
        "gRPC echo, changing heads": lambda to: echoed(changing=True, rounds=rounds, transport=to),
    }
    for name, begin in cases.items():
        if only in {None, name}:
            transport = Nowhere()
            cost_us = await least_us(begin(transport), rounds, transport)
            print(f"{name:28s} {cost_us:6.2f} us a request", flush=True)


def engine_us(model: Model) -> float:
    """The engine's own part: a bound call of 32 rows."""
    engine = open_engine(Path(model.profile.model.path), model.profile.settings.engine)
    call = engine.bind({"x": np.zeros((AT_ONCE, 256), np.float32)}, {"y": np.zeros((AT_ONCE, 10), np.float32)})
    rounds = []
    for _ in range(2000):
        began = time.thread_time_ns()
        call()
        rounds.append(time.thread_time_ns() - began)
    engine.close()
    return min(rounds) / AT_ONCE / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--only", help="one case")
    args = parser.parse_args()
    build = Path(__file__).parent.parent / "build"
    build.mkdir(exist_ok=True)
    settings = Settings(
        engine=EngineOptions(threads=1), batching=BatchingSettings(max_batch_size=AT_ONCE, dispatch="inline")
    )
    with Model.open(Profile.of_model(make("tiny", build / "models"), settings)) as model:
        gc.freeze()  # as the server does
        gc.disable()
        # What the clock decides is fixed, so that a busy machine does the same work.
        CostModel.best = lambda _, ready: min(ready, AT_ONCE)
        step_runner.AT_ONCE_NS = 1 << 60
        uvloop.run(measure(model, args.rounds, args.only))
        if args.only is None:
            print(f"{engine_us(model):.2f} us of each is the engine's; the goal is {LIMIT_US:.1f} us")


if __name__ == "__main__":
    main()

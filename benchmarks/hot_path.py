"""What one request of a small model costs the server's own thread, without a socket: head, row, batch, answer.

    python benchmarks/hot_path.py

Bytes are put where the loop would have received them, 32 connections a pass, and answers are dropped where the
transport would send them; a batch of 32 is computed inline. The least of many rounds of thread time: what else the
machine does is not in it, so two versions can be told apart by a tenth of a microsecond. The rest of an answer's time
(benchmarks/serving.py) is the kernel's.
"""

import asyncio
import sys
import time
from pathlib import Path

import numpy as np
import uvloop

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import make

from tailcut.engines import open_engine
from tailcut.engines.base import EngineOptions
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.server.context import Context
from tailcut.server.http.connection import HttpConnection
from tailcut.server.limits import ServerLimits
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel
from tailcut.server.state import ServerState

LIMIT_US = 9.0
CONNECTIONS = 32
REQUEST = (
    b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Length: 1024\r\n"
    b"Inference-Header-Content-Length: 0\r\n\r\n"
) + bytes(1024)


class Nowhere(asyncio.Transport):
    """Takes answers and drops them."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = 0

    def write(self, data: bytes) -> None:
        self.answers += 1

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing is read here."""

    def resume_reading(self) -> None:
        """Nothing is read here."""


async def least_us(model: Model) -> float:
    state = ServerState(
        Context(ModelRepository([ServedModel(model, "tiny")]), ready=True), ServerLimits(), direct_bytes=65536
    )
    transport = Nowhere()
    connections = [HttpConnection(state) for _ in range(CONNECTIONS)]
    for connection in connections:
        connection.connection_made(transport)
    state.receive[: len(REQUEST)] = REQUEST
    rounds = []
    for _ in range(200):
        spent_ns = 0
        for _ in range(10):
            began = time.thread_time_ns()
            for connection in connections:
                connection.buffer_updated(len(REQUEST))
            model.entry.notify()
            spent_ns += time.thread_time_ns() - began
            await asyncio.sleep(0)  # another pass of the loop, with its own time
        rounds.append(spent_ns)
    await asyncio.sleep(0.01)  # for those that had to wait for time
    if transport.answers != 200 * 10 * CONNECTIONS:
        raise SystemExit(f"{transport.answers} answers")
    return min(rounds) / (10 * CONNECTIONS) / 1e3


def engine_us(model: Model) -> float:
    """The engine's own part: a bound call of 32 rows."""
    engine = open_engine(Path(model.profile.model.path), model.profile.settings.engine)
    call = engine.bind({"x": np.zeros((CONNECTIONS, 256), np.float32)}, {"y": np.zeros((CONNECTIONS, 10), np.float32)})
    rounds = []
    for _ in range(2000):
        began = time.thread_time_ns()
        call()
        rounds.append(time.thread_time_ns() - began)
    engine.close()
    return min(rounds) / CONNECTIONS / 1e3


def main() -> None:
    build = Path(__file__).parent.parent / "build"
    build.mkdir(exist_ok=True)
    settings = Settings(
        engine=EngineOptions(threads=1), batching=BatchingSettings(max_batch_size=CONNECTIONS, dispatch="inline")
    )
    with Model.open(Profile.of_model(make("tiny", build / "models"), settings)) as model:
        whole = uvloop.run(least_us(model))
        engine = engine_us(model)
    print(f"{whole:.2f} us a request, {engine:.2f} of it the engine; limit {LIMIT_US:.1f} us")


if __name__ == "__main__":
    main()

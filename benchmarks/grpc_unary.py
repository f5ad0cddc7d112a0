"""What a unary gRPC call costs: Tailcut beside bare grpcio servers that compute nothing, from one run on one machine.

    python benchmarks/grpc_unary.py [--seconds 3] [--rounds 3]

The client is grpcio's own asyncio client, so it costs as much as the server: compare the rows with each other, and the
server's own CPU time for each call, which no client hides. The bare servers read each request and answer with a fixed
response of tiny's size: three on grpcio, one on Tailcut's HTTP/2 (`wire/http2/connection.py`). What Tailcut takes
longer than that is the model's, its queue's and its checks'. It serves the bare model, whose engine has a thread a
core: they spin a while when they have nothing to do, and count as the server's time. It serves the model tuned for this
machine (one engine thread, inline), too, where all of the time is for the calls. HTTP is under wrk, with as many
connections.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import uvloop

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import LAYERS, make
from serving import BUILD, DISPATCH, ENGINES, first_line, running, wrk

from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.wire.grpc.messages import METHODS, SERVICE

CONCURRENCY = (1, 32)
OURS = """
import asyncio, uvloop
from tailcut.wire.grpc.framing import ANSWER_END, ANSWER_HEAD, prefixed, read_call
from tailcut.wire.http2.connection import Data, Http2Connection
from tailcut.wire.grpc.messages import METHODS
REQUEST, ANSWER, _ = METHODS["ModelInfer"]
answer = ANSWER(model_name="tiny", model_version="1", raw_output_contents=[bytes(40)])
answer.outputs.add(name="y", datatype="FP32", shape=[1, 10])
class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.http2 = transport, Http2Connection(read_call)
    def data_received(self, data):
        for event in self.http2.receive(data, 0.0):
            if type(event) is Data and event.ended:
                REQUEST.FromString(event.data[5:])
                self.http2.send(event.stream, ANSWER_HEAD, prefixed(answer.SerializeToString()), ANSWER_END)
        self.transport.write(self.http2.take())
async def serve():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
uvloop.run(serve())
"""
BARE = """
import asyncio, sys
from concurrent.futures import ThreadPoolExecutor
import grpc, uvloop
from tailcut.wire.grpc.messages import METHODS, SERVICE
REQUEST, ANSWER, _ = METHODS["ModelInfer"]
answer = ANSWER(model_name="tiny", model_version="1", raw_output_contents=[bytes(40)])
answer.outputs.add(name="y", datatype="FP32", shape=[1, 10])
def handlers(infer):
    call = grpc.unary_unary_rpc_method_handler(infer, REQUEST.FromString, ANSWER.SerializeToString)
    return (grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": call}),)
async def serve():
    async def infer(request, context): return answer
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(handlers(infer))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()
if sys.argv[1] == "threads":
    server = grpc.server(ThreadPoolExecutor(8), handlers=handlers(lambda request, context: answer))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()
else:
    (uvloop if sys.argv[1] == "uvloop" else asyncio).run(serve())
"""


Serving = tuple[int, int, int]  # the gRPC port, the HTTP port or 0, and the server's process


@contextmanager
def bare(program: str, kind: str = "") -> Iterator[Serving]:
    with running([sys.executable, "-c", program, kind]) as child:
        yield int(first_line(child)), 0, child.pid


@contextmanager
def tailcut(model: Path) -> Iterator[Serving]:
    command = [sys.executable, "-m", "tailcut", "serve", str(model), "--port", "0", "--grpc-port", "0", "--json"]
    with running(command) as child:
        address = json.loads(first_line(child))
        yield address["grpc_port"], address["port"], child.pid


def cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def load(port: int, concurrency: int, seconds: float, pid: int) -> tuple[float, float, float, float]:
    """Calls a second, p50 and p99 in microseconds, and the server's CPU time for a call in microseconds."""
    request, answer, _ = METHODS["ModelInfer"]
    message = request(model_name="tiny", raw_input_contents=[np.zeros(LAYERS["tiny"][0], np.float32).tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=[1, LAYERS["tiny"][0]])
    took: list[int] = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer", request.SerializeToString, answer.FromString)
        await infer(message)
        began_cpu_s = cpu_seconds(pid)
        end = time.perf_counter() + seconds

        async def one() -> None:
            while time.perf_counter() < end:
                began = time.perf_counter_ns()
                await infer(message)
                took.append(time.perf_counter_ns() - began)

        await asyncio.gather(*[one() for _ in range(concurrency)])
        cpu_us = (cpu_seconds(pid) - began_cpu_s) * 1e6 / len(took)
    return len(took) / seconds, statistics.median(took) / 1e3, float(np.percentile(took, 99)) / 1e3, cpu_us


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    model = make("tiny", BUILD / "models")
    contestants = {
        "bare grpcio, asyncio": lambda: bare(BARE, "asyncio"),
        "bare grpcio, uvloop": lambda: bare(BARE, "uvloop"),
        "bare grpcio, 8 threads": lambda: bare(BARE, "threads"),
        "bare, our HTTP/2": lambda: bare(OURS),
        "tailcut, gRPC": lambda: tailcut(model),
    }
    tuned = BUILD / "tiny-grpc.profile.toml"
    batching = BatchingSettings(max_batch_size=32, dispatch=DISPATCH["tiny"])
    Profile.of_model(model, Settings(engine=ENGINES["tiny"], batching=batching)).save(tuned)
    contestants["tailcut, tuned, gRPC"] = lambda: tailcut(tuned)
    cells: dict[tuple[str, int], list[tuple[float, float, float, float]]] = {}
    for _ in range(args.rounds):
        for label, start in contestants.items():
            with start() as (port, http_port, pid):
                uvloop.run(load(port, 8, 0.5, pid))
                for concurrency in CONCURRENCY:
                    measured = uvloop.run(load(port, concurrency, args.seconds, pid))
                    cells.setdefault((label, concurrency), []).append(measured)
                    if http_port and shutil.which("wrk"):
                        url = f"http://127.0.0.1:{http_port}/v2/models/tiny/infer"
                        before_s = cpu_seconds(pid)
                        run = wrk(url, 4 * LAYERS["tiny"][0], concurrency, args.seconds)
                        cpu_us = (cpu_seconds(pid) - before_s) * 1e6 / (run[0] * args.seconds)
                        over_http = label.removesuffix("gRPC") + "HTTP, wrk"
                        cells.setdefault((over_http, concurrency), []).append((*run[:3], cpu_us))
    print(
        f"{'tiny, 1 KB requests':26s}"
        + "".join(f"{f'{c} at once: calls/s':>22s}{'p50 us':>9s}{'p99 us':>9s}{'CPU us':>8s}" for c in CONCURRENCY)
    )
    for label in dict.fromkeys(label for label, _ in cells):
        row = f"{label:26s}"
        for concurrency in CONCURRENCY:
            rate, p50, p99, cpu = (statistics.median(run[i] for run in cells[label, concurrency]) for i in range(4))
            row += f"{rate:>22,.0f}{p50:>9,.0f}{p99:>9,.0f}{cpu:>8,.0f}"
        print(row)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"wrk failed: {error.stderr}") from None

"""What a unary gRPC call costs: Tailcut beside bare grpcio servers that compute nothing, from one run on one machine.

    python benchmarks/grpc_unary.py [--seconds 3] [--rounds 3]

The client is grpcio's own asyncio client, so it costs as much as the server: compare the rows with each other. The bare
servers answer each request with a fixed response of tiny's size; what Tailcut takes longer is its own. The last row is
Tailcut's HTTP side under wrk with as many connections, for whom a different client is no problem.
"""

import argparse
import asyncio
import json
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
from serving import BUILD, first_line, running, wrk

from tailcut.wire.messages import METHODS, SERVICE

CONCURRENCY = (1, 32)
BARE = """
import asyncio, sys
from concurrent.futures import ThreadPoolExecutor
import grpc, uvloop
from tailcut.wire.messages import METHODS, SERVICE
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


@contextmanager
def bare(kind: str) -> Iterator[tuple[int, int]]:
    with running([sys.executable, "-c", BARE, kind]) as child:
        yield int(first_line(child)), 0


@contextmanager
def tailcut(model: Path) -> Iterator[tuple[int, int]]:
    command = [sys.executable, "-m", "tailcut", "serve", str(model), "--port", "0", "--grpc-port", "0", "--json"]
    with running(command) as child:
        address = json.loads(first_line(child))
        yield address["grpc_port"], address["port"]


async def load(port: int, concurrency: int, seconds: float) -> tuple[float, float, float]:
    """Calls a second, p50 and p99 in microseconds."""
    request, answer, _ = METHODS["ModelInfer"]
    message = request(model_name="tiny", raw_input_contents=[np.zeros(LAYERS["tiny"][0], np.float32).tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=[1, LAYERS["tiny"][0]])
    took: list[int] = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer", request.SerializeToString, answer.FromString)
        await infer(message)
        end = time.perf_counter() + seconds

        async def one() -> None:
            while time.perf_counter() < end:
                began = time.perf_counter_ns()
                await infer(message)
                took.append(time.perf_counter_ns() - began)

        await asyncio.gather(*[one() for _ in range(concurrency)])
    return len(took) / seconds, statistics.median(took) / 1e3, float(np.percentile(took, 99)) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    model = make("tiny", BUILD / "models")
    contestants = {
        "bare grpcio, asyncio": lambda: bare("asyncio"),
        "bare grpcio, uvloop": lambda: bare("uvloop"),
        "bare grpcio, 8 threads": lambda: bare("threads"),
        "tailcut, gRPC": lambda: tailcut(model),
    }
    cells: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for _ in range(args.rounds):
        for label, start in contestants.items():
            with start() as (port, http_port):
                uvloop.run(load(port, 8, 0.5))
                for concurrency in CONCURRENCY:
                    cells.setdefault((label, concurrency), []).append(uvloop.run(load(port, concurrency, args.seconds)))
                    if http_port and shutil.which("wrk"):
                        url = f"http://127.0.0.1:{http_port}/v2/models/tiny/infer"
                        run = wrk(url, 4 * LAYERS["tiny"][0], concurrency, args.seconds)
                        cells.setdefault(("tailcut, HTTP, wrk", concurrency), []).append(run[:3])
    print(
        f"{'tiny, 1 KB requests':26s}"
        + "".join(f"{f'{c} at once: calls/s':>22s}{'p50 us':>9s}{'p99 us':>9s}" for c in CONCURRENCY)
    )
    for label in dict.fromkeys(label for label, _ in cells):
        row = f"{label:26s}"
        for concurrency in CONCURRENCY:
            rate, p50, p99 = (statistics.median(run[i] for run in cells[label, concurrency]) for i in range(3))
            row += f"{rate:>22,.0f}{p50:>9,.0f}{p99:>9,.0f}"
        print(row)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"wrk failed: {error.stderr}") from None

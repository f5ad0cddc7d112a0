"""What a unary gRPC call costs: Tailcut beside bare grpcio servers that compute nothing, from one run on one machine.

    python benchmarks/grpc_unary.py [--seconds 3] [--rounds 3] [--before SOURCES] [--heads]

The client is grpcio's own asyncio client, so it costs as much as the server: compare the rows with each other, and the
server's own CPU time for each call, which no client hides. The bare servers read each request and answer with a fixed
response of tiny's size: three on grpcio, one on Tailcut's HTTP/2 (`wire/http2/connection.py`). What Tailcut takes
longer than that is the model's, its queue's and its checks'. It serves the bare model, whose engine has a thread a
core: they spin a while when they have nothing to do, and count as the server's time. It serves the model tuned for this
machine (one engine thread, inline), too, where all of the time is for the calls. HTTP is under wrk, with as many
connections.

Then the heads: calls that are all the same, and calls with another deadline and another request id each time. They are
written down before, in HPACK as grpc-go writes it (all that may be indexed is), so that this client costs little. With
--before, a server on other sources (a folder with the package in it) takes its turn, too; --heads is this part alone.
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
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import hpack
import numpy as np
import uvloop

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import LAYERS, make
from serving import BUILD, DISPATCH, ENGINES, first_line, running, wrk

from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.wire.grpc.framing import prefixed
from tailcut.wire.grpc.messages import METHODS, SERVICE
from tailcut.wire.http2.frames import END_HEADERS, END_STREAM, HEAD_BYTES, PREFACE, FrameType, SettingId, frame, word

CONCURRENCY = (1, 32)
PREPARED = 8000  # calls
WIDE_OPEN = (1 << 31) - 1  # of a window
OURS = """
import asyncio, uvloop
from tailcut.wire.grpc.framing import ANSWER_END, ANSWER_HEAD, CALLS, prefixed
from tailcut.wire.http2.connection import Http2Connection
from tailcut.wire.grpc.messages import METHODS
REQUEST, ANSWER, _ = METHODS["ModelInfer"]
answer = ANSWER(model_name="tiny", model_version="1", raw_output_contents=[bytes(40)])
answer.outputs.add(name="y", datatype="FP32", shape=[1, 10])
class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.http2 = transport, Http2Connection(CALLS)
    def data_received(self, data):
        events = self.http2.receive(data, 0.0)
        while self.http2.pending:
            events += self.http2.receive(b"", 0.0)
        for event in events:
            if event.ended and event.data:
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
def tailcut(model: Path, sources: str = "") -> Iterator[Serving]:
    command = [sys.executable, "-m", "tailcut", "serve", str(model), "--port", "0", "--grpc-port", "0", "--json"]
    with running(["env", f"PYTHONPATH={sources}", *command] if sources else command) as child:
        address = json.loads(first_line(child))
        yield address["grpc_port"], address["port"], child.pid


def cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def load(port: int, concurrency: int, seconds: float, pid: int) -> tuple[float, float, float, float]:
    """Calls per second, p50 and p99 in microseconds, and the server's CPU time per call in microseconds."""
    request, answer, _ = METHODS["ModelInfer"]
    message = infer_message()
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


def infer_message() -> Any:
    message = METHODS["ModelInfer"][0](
        model_name="tiny", raw_input_contents=[np.zeros(LAYERS["tiny"][0], np.float32).tobytes()]
    )
    message.inputs.add(name="x", datatype="FP32", shape=[1, LAYERS["tiny"][0]])
    return message


def hello() -> bytes:
    """What a client begins with; its windows are wide open."""
    window = SettingId.WINDOW.to_bytes(2, "big") + word(WIDE_OPEN)
    return (
        PREFACE
        + frame(FrameType.SETTINGS, 0, 0, window)
        + frame(FrameType.WINDOW_UPDATE, 0, 0, word(WIDE_OPEN - 65535))
    )


def prepared(count: int, *, changing: bool) -> list[bytes]:
    """So many calls on streams of one connection, in order."""
    encoder, random = hpack.Encoder(), np.random.default_rng(0)
    body = prefixed(infer_message().SerializeToString())
    fixed = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", f"/{SERVICE}/ModelInfer"),
        (":authority", "127.0.0.1:8001"),
        ("content-type", "application/grpc"),
        ("user-agent", "grpc-go/1.60.1"),
        ("te", "trailers"),
    ]
    calls = []
    for number in range(count):
        more = [("grpc-timeout", "5000000u"), ("x-request-id", "none")]
        if changing:
            text = uuid.UUID(bytes=random.bytes(16))
            more = [("grpc-timeout", f"{random.integers(4_000_000, 5_000_000)}u"), ("x-request-id", str(text))]
        stream = 2 * number + 1
        block = encoder.encode(fixed + more)
        calls.append(
            frame(FrameType.HEADERS, END_HEADERS, stream, block) + frame(FrameType.DATA, END_STREAM, stream, body)
        )
    return calls


class PreparedCalls(asyncio.Protocol):
    """Keeps so many of them under way."""

    def __init__(self, calls: list[bytes], concurrency: int) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls = calls
        self._next = concurrency
        self._missing = len(calls)
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(hello() + b"".join(self._calls[: self._next]))

    def data_received(self, data: bytes) -> None:
        data, at, ended = self._rest + data, 0, 0
        while len(data) - at >= HEAD_BYTES:
            end = at + HEAD_BYTES + int.from_bytes(data[at : at + 3], "big")
            if end > len(data):
                break
            if data[at + 3] in {FrameType.RST_STREAM, FrameType.GOAWAY}:
                self.ended.set_exception(SystemExit("a call was refused"))
                return
            ended += data[at + 3] == FrameType.HEADERS and data[at + 4] & END_STREAM
            at = end
        self._rest = data[at:]
        self._missing -= ended
        self._transport.write(b"".join(self._calls[self._next : self._next + ended]))
        self._next += ended
        if not self._missing:
            self.ended.set_result(None)


async def ask_prepared(port: int, calls: list[bytes], concurrency: int, pid: int) -> tuple[float, float]:
    """Calls per second, and the server's CPU time per call in microseconds."""
    began, began_cpu_s = time.perf_counter(), cpu_seconds(pid)
    connected = await asyncio.get_running_loop().create_connection(
        lambda: PreparedCalls(calls, concurrency), "127.0.0.1", port
    )
    await connected[1].ended
    took_s, cpu_s = time.perf_counter() - began, cpu_seconds(pid) - began_cpu_s
    connected[0].close()
    return len(calls) / took_s, cpu_s * 1e6 / len(calls)


def heads(contestants: dict[str, Callable[[], Any]], rounds: int) -> None:
    """Calls that are all the same, and calls that are not, at 32 at once."""
    kinds = {"identical": prepared(PREPARED, changing=False), "changing": prepared(PREPARED, changing=True)}
    cells: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for label, start in contestants.items():
            with start() as (port, _, pid):
                for kind, calls in kinds.items():
                    uvloop.run(ask_prepared(port, calls[: PREPARED // 10], CONCURRENCY[-1], pid))
                    measured = uvloop.run(ask_prepared(port, calls, CONCURRENCY[-1], pid))
                    cells.setdefault((label, kind), []).append(measured)
    print(f"{'prepared calls, 32 at once':30s}" + "".join(f"{kind + ': calls/s':>22s}{'CPU us':>8s}" for kind in kinds))
    for label in contestants:
        row = f"{label:30s}"
        for kind in kinds:
            rate, cpu = (statistics.median(run[at] for run in cells[label, kind]) for at in (0, 1))
            row += f"{rate:>22,.0f}{cpu:>8.1f}"
        print(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", default="", metavar="SOURCES", help="a folder with another tailcut in it")
    parser.add_argument("--heads", action="store_true", help="only what another head in every call costs")
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
    asked = {"bare, our HTTP/2": contestants["bare, our HTTP/2"], "tailcut, tuned": lambda: tailcut(tuned)}
    if args.before:
        asked["tailcut, tuned, before"] = lambda: tailcut(tuned, args.before)
    heads(asked, args.rounds)
    if args.heads:
        return
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
                        run = wrk(url, "identical heads", "tiny", 4 * LAYERS["tiny"][0], concurrency, args.seconds)
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

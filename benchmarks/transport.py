"""Microseconds of one call, client and server together, by transport and client, for three sizes of input.

    python benchmarks/transport.py [--calls 400] [--rounds 5]

One connection, one call after the other, on identity models (so the same bytes come back) whose engine time is shown
as the floor. The ways take turns, a block of calls each, round after round; every figure is over all blocks of a way.
Raw bodies, JSON (1 KB only) and gRPC have no client of ours: there a plain one sends requests that were encoded before,
and reads answers without looking into them. tritonclient[http] and grpcio come with the development environment.
"""

import argparse
import asyncio
import http.client
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import numpy as np
import onnx
import orjson
import tritonclient.http
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))
from serving import first_line, running

import tailcut
from tailcut.engines import open_engine
from tailcut.engines.base import EngineOptions
from tailcut.lab.grpc_connection import grpc_payload
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import infer_payload
from tailcut.machine.fingerprint import fingerprint
from tailcut.stats import Sample, percentile_interval
from tailcut.wire.grpc.messages import SERVICE

SIZES = {"1 KB": 256, "64 KB": 16 * 1024, "600 KB": 3 * 224 * 224}
LIMIT = 1.0  # our blocking client's median, in http.client's
PREFIX = "tailcut-transport-"
JSON_BYTES = 4096  # more than these as JSON is nobody's wish
Way = Callable[[], np.ndarray]


def identity(path: Path, width: int) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], path.stem, [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@contextmanager
def serving(model: Path, uds: Path) -> Iterator[tuple[int, int]]:
    """The ports of HTTP and of gRPC."""
    command = [sys.executable, "-m", "tailcut", "serve", str(model), "--port", "0", "--json", "--uds", str(uds)]
    with running([*command, "--grpc-port", "0", "--shared-memory", PREFIX]) as child:
        text = json.loads(first_line(child))
        yield text["port"], text["grpc_port"]


def standard_library(port: int, x: np.ndarray) -> Way:
    """The way without any client: http.client and one's own JSON head."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    entry = {"name": "x", "datatype": "FP32", "shape": x.shape, "parameters": {"binary_data_size": x.nbytes}}

    def call() -> np.ndarray:
        lead = orjson.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}})
        headers = {"Inference-Header-Content-Length": str(len(lead))}
        connection.request("POST", "/v2/models/m/infer", lead + x.tobytes(), headers)
        answer = connection.getresponse()
        body = answer.read()
        return np.frombuffer(body[int(answer.headers["Inference-Header-Content-Length"]) :], np.float32)

    return call


def triton(port: int, x: np.ndarray) -> Way:
    connection = tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}")

    def call() -> np.ndarray:
        tensor = tritonclient.http.InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        return connection.infer("m", [tensor]).as_numpy("y")

    return call


def plain(port: int, x: np.ndarray, wire: str) -> Way:
    """A request that is encoded already; the answer's last bytes, as they come."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    head, _, body = infer_payload(LoadTarget(port=port), "m", {"x": x}, wire).request.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])

    def call() -> np.ndarray:
        connection.request("POST", "/v2/models/m/infer", body, headers)
        answer = connection.getresponse().read()
        if wire == "json":
            return np.float32(orjson.loads(answer)["outputs"][0]["data"])
        return np.frombuffer(answer[-x.nbytes :], np.float32)

    return call


def over_grpc(channel: grpc.Channel, x: np.ndarray) -> Way:
    infer, request = channel.unary_unary(f"/{SERVICE}/ModelInfer"), grpc_payload("m", {"x": x}).request
    return lambda: np.frombuffer(infer(request)[-x.nbytes :], np.float32)


def ways(stack: ExitStack, ports: tuple[int, int], uds: Path, x: np.ndarray) -> dict[str, Way]:
    port, grpc_port = ports
    channel = stack.enter_context(
        grpc.insecure_channel(f"127.0.0.1:{grpc_port}", [("grpc.max_receive_message_length", -1)])
    )
    shared = stack.enter_context(tailcut.Client(f"unix:{uds}", shared_memory=PREFIX))
    tcp = stack.enter_context(tailcut.Client(f"http://127.0.0.1:{port}"))
    unix = stack.enter_context(tailcut.Client(f"unix:{uds}"))
    result: dict[str, Way] = {
        "Client, TCP": lambda: tcp.infer("m", {"x": x})["y"],
        "Client, Unix socket": lambda: unix.infer("m", {"x": x})["y"],
        "Client, shared memory": lambda: shared.infer("m", {"x": x})["y"],
        "raw body, TCP": plain(port, x, "raw"),
        **({"JSON, TCP": plain(port, x, "json")} if x.nbytes < JSON_BYTES else {}),
        "grpcio, TCP": over_grpc(channel, x),
        "http.client, TCP": standard_library(port, x),
        "tritonclient.http, TCP": triton(port, x),
    }
    for name, url in (("AsyncClient, TCP", f"http://127.0.0.1:{port}"), ("AsyncClient, Unix socket", f"unix:{uds}")):
        runner = stack.enter_context(asyncio.Runner())
        result[name] = in_loop(runner, tailcut.AsyncClient(url), x)
    return result


def in_loop(runner: asyncio.Runner, client: tailcut.AsyncClient, x: np.ndarray) -> Way:
    """One call from outside a loop, which adds some 20 us; `block` below times calls from within."""

    async def infer() -> np.ndarray:
        return (await client.infer("m", {"x": x}))["y"]

    async def many(calls: int) -> list[float]:
        times = []
        for _ in range(calls):
            began = time.perf_counter_ns()
            await infer()
            times.append((time.perf_counter_ns() - began) / 1e3)
        return times

    def call() -> np.ndarray:
        return runner.run(infer())

    call.block = lambda calls: runner.run(many(calls))  # type: ignore[attr-defined]
    return call


def block(way: Way, calls: int) -> list[float]:
    """Microseconds of each of some calls."""
    if hasattr(way, "block"):
        return way.block(calls)
    times = []
    for _ in range(calls):
        began = time.perf_counter_ns()
        way()
        times.append((time.perf_counter_ns() - began) / 1e3)
    return times


def measure(label: str, width: int, args: argparse.Namespace) -> None:
    x = np.random.default_rng(0).standard_normal((1, width)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        model = identity(Path(folder) / "m.onnx", width)
        engine = open_engine(model, EngineOptions(threads=1))
        floor = float(np.median(block(engine.bind({"x": x}, {"y": np.empty_like(x)}), 200)))
        engine.close()
        ports = stack.enter_context(serving(model, Path(folder) / "s.sock"))
        result = ways(stack, ports, Path(folder) / "s.sock", x)
        times: dict[str, list[float]] = {name: [] for name in result}
        for name, way in result.items():
            if not np.array_equal(way().reshape(-1), x.reshape(-1)):
                raise SystemExit(f"{name} brings wrong numbers")
            block(way, args.calls // 4)
        for _ in range(args.rounds):
            for name, way in result.items():
                times[name] += block(way, args.calls)
    print(f"\n{label}: {x.nbytes} bytes there and back; the engine alone takes {floor:.0f} us")
    for name, values in times.items():
        p50, rate = percentile_interval(Sample.of(values), 0.5), 1e6 / np.mean(values)
        spread = f"{p50.low:.0f} to {p50.high:.0f}"
        p99 = np.quantile(values, 0.99)
        print(f"  {name:<26} p50 {p50.point:>6.0f} us ({spread:>12})   p99 {p99:>6.0f} us   {rate:>6,.0f} calls/s")
    ratio = float(np.median(times["Client, TCP"]) / np.median(times["http.client, TCP"]))
    verdict = "under" if ratio < LIMIT else "OVER"
    print(f"  Client / http.client over TCP: {ratio:.2f}, {verdict} the limit of {LIMIT:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"{fingerprint()['cpu']}, client and server on the same CPUs")
    for label, width in SIZES.items():
        measure(label, width, args)


if __name__ == "__main__":
    main()

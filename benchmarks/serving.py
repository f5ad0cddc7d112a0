"""Requests per second and latency of a served model, beside a bare echo and mosec, from one run on one machine.

    python benchmarks/serving.py [--models tiny,ranker] [--seconds 4] [--rounds 2] [--no-mosec] [--no-fast-path]
        [--connections 1,32,128]

Three clients ask Tailcut and the echo, each in rows of its own: one with identical heads, one whose heads have ids
of a request and a trace that change (both with raw bodies), and one that sends JSON. Load comes from wrk (Debian
package `wrk`), one thread, on the same cores; contestants take turns, round after round, and every cell is the
median of the rounds. `limit` is the engine alone, in process. mosec gets a virtual environment of its own under
build/peers and is tried in three configurations; Tailcut in one, which must hold every column.
"""

import argparse
import json
import os
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import FAST_PRECISION, LAYERS, make

from tailcut.engines import open_engine
from tailcut.engines.base import EngineOptions
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, IoSettings, Settings

HERE = Path(__file__).parent
BUILD = HERE.parent / "build"
CONNECTIONS = (1, 32, 128)
ENGINES = {
    "tiny": EngineOptions(threads=1),
    "ranker": EngineOptions(name="openvino", precision=FAST_PRECISION, threads=1, instances=1),
}
DISPATCH = {"tiny": "inline", "ranker": "adaptive"}
MOSEC = {  # name: workers, batch, wait in ms, threads
    "mosec, 1 worker, no batching": (1, 1, 1, 2),
    "mosec, 1 worker, batch 32": (1, 32, 1, 2),
    "mosec, 2 workers, batch 32": (2, 32, 1, 1),
}
RAW = """
wrk.method = "POST"
wrk.body = string.rep("\\0", tonumber(os.getenv("BODY_BYTES")))
wrk.headers["Inference-Header-Content-Length"] = "0"
"""
CHANGING = """
local count = 0
request = function()
  count = count + 1
  wrk.headers["X-Request-Id"] = string.format("%08x-%08x", count, count * 7)
  wrk.headers["traceparent"] = string.format("00-%032x-%016x-01", count, count)
  return wrk.format()
end
"""
JSON = """
wrk.method = "POST"
local file = io.open(os.getenv("BODY_FILE"))
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = "application/json"
"""
CLIENTS = {"identical heads": RAW, "changing heads": RAW + CHANGING, "JSON": JSON}
ECHO = """
import asyncio, sys, uvloop
ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Length: 40\\r\\n\\r\\n" + bytes(40)
SIZE = int(sys.argv[1])  # bytes of a request at least; it ends with its last read
class Echo(asyncio.BufferedProtocol):
    room = memoryview(bytearray(65536))
    def connection_made(self, transport): self.transport, self.got = transport, 0
    def get_buffer(self, hint): return Echo.room
    def buffer_updated(self, count):
        self.got += count
        if self.got >= SIZE: self.got = 0; self.transport.write(ANSWER)
async def main():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
uvloop.run(main())
"""


@contextmanager
def running(command: list[str], env: dict[str, str] | None = None) -> Iterator[subprocess.Popen]:
    """A child process that ends with the block."""
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | (env or {})
    )
    try:
        yield child
    finally:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()


def first_line(child: subprocess.Popen) -> str:
    if not select.select([child.stdout], [], [], 60)[0]:
        raise SystemExit("a contestant did not start within a minute")
    return child.stdout.readline()


def json_body(name: str) -> Path:
    """A file with one row as JSON, each number with the digits that a float32 needs."""
    row = np.random.default_rng(0).standard_normal(LAYERS[name][0]).astype(np.float32)
    entry = {"name": "x", "datatype": "FP32", "shape": [1, row.size], "data": [float(str(value)) for value in row]}
    path = BUILD / f"{name}.json"
    path.write_text(json.dumps({"inputs": [entry]}))
    return path


def wrk(  # noqa: PLR0913, PLR0917  what a client is
    url: str, client: str, name: str, body_bytes: int, connections: int, seconds: float
) -> tuple[float, float, float, int]:
    """Requests per second, p50 and p99 in microseconds, and failed requests."""
    script = BUILD / "client.lua"
    script.write_text(CLIENTS[client])
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script), url]
    out = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"BODY_BYTES": str(body_bytes), "BODY_FILE": str(BUILD / f"{name}.json")},
    ).stdout
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])
    failed = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", out))
    failed += sum(int(number) for line in re.findall(r"Socket errors:.*", out) for number in re.findall(r"\d+", line))
    return rate, micros(out, "50%"), micros(out, "99%"), failed


def micros(text: str, label: str) -> float:
    value, unit = re.search(rf"{label}\s+([\d.]+)(us|ms|s)\b", text).groups()
    return float(value) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]


@contextmanager
def tailcut(name: str, model: Path, *, fast_path: bool = True) -> Iterator[str]:
    settings = Settings(
        engine=ENGINES[name],
        batching=BatchingSettings(max_batch_size=32, dispatch=DISPATCH[name]),
        io=IoSettings(busy_poll_us=100, fast_path=fast_path),
    )
    profile = BUILD / f"{name}.profile.toml"
    Profile.of_model(model, settings).save(profile)
    command = [sys.executable, "-m", "tailcut", "serve", str(profile), "--port", "0", "--json"]
    with running(command) as child:
        yield f"http://127.0.0.1:{json.loads(first_line(child))['port']}/v2/models/{name}/infer"


@contextmanager
def echo(body_bytes: int) -> Iterator[str]:
    with running([sys.executable, "-c", ECHO, str(body_bytes + 70)]) as child:
        yield f"http://127.0.0.1:{first_line(child).strip()}/"


@contextmanager
def mosec(model: Path, config: tuple[int, int, int, int], port: int, body: bytes) -> Iterator[str]:
    """A mosec server that answers this body: its workers load behind the open port."""
    workers, batch, wait_ms, threads = config
    env = {"PEER_MODEL": str(model), "PEER_WORKERS": str(workers), "PEER_BATCH": str(batch)}
    env |= {"PEER_WAIT_MS": str(wait_ms), "PEER_THREADS": str(threads)}
    python = BUILD / "peers" / "mosec" / "bin" / "python"
    command = [str(python), str(HERE / "peers" / "mosec_server.py"), "--address", "127.0.0.1", "--port", str(port)]
    with running(command, env) as child:
        url, end = f"http://127.0.0.1:{port}/inference", time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(url, body, timeout=10).close()
                break
            except OSError:
                if child.poll() is not None or time.monotonic() > end:
                    raise SystemExit("mosec did not start") from None
                time.sleep(0.05)
        yield url


def install_mosec() -> None:
    folder = BUILD / "peers" / "mosec"
    if not (folder / "bin" / "mosec").exists() and not list(folder.glob("lib/*/site-packages/mosec")):
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "-q", "mosec", "onnxruntime", "numpy"]
        subprocess.run(pip, check=True)


def check(url: str, name: str, model: Path) -> None:
    """One answer against the engine in process: a fast server of wrong numbers is not a contestant."""
    x = np.random.default_rng(0).standard_normal((1, LAYERS[name][0])).astype(np.float32)
    engine = open_engine(model, EngineOptions())
    expected = engine.run({"x": x})["y"]
    engine.close()
    request = urllib.request.Request(url, x.tobytes(), {"Inference-Header-Content-Length": "0"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        got = np.frombuffer(answer.read()[-expected.nbytes :], np.float32)
    cosine = float(got @ expected[0] / (np.linalg.norm(got) * np.linalg.norm(expected)))
    if cosine < 0.999:
        raise SystemExit(f"{url} gives wrong answers: cosine {cosine}")


def in_process(name: str, model: Path) -> dict[int, float]:
    """p50 microseconds of a bound engine call for batches of 1 and 32."""
    engine = open_engine(model, ENGINES[name])
    result = {}
    for rows in (1, 32):
        x = np.zeros((rows, LAYERS[name][0]), np.float32)
        y = np.zeros((rows, LAYERS[name][-1]), np.float32)
        call = engine.bind({"x": x}, {"y": y})
        times = []
        for _ in range(1000):
            began = time.perf_counter_ns()
            call()
            times.append(time.perf_counter_ns() - began)
        result[rows] = statistics.median(times) / 1e3
    engine.close()
    return result


def measure(name: str, args: argparse.Namespace) -> None:
    model = make(name, BUILD / "models")
    body_bytes = 4 * LAYERS[name][0]
    limit = in_process(name, model)
    json_bytes = json_body(name).stat().st_size
    contestants = {}
    for client in CLIENTS:
        size = json_bytes if client == "JSON" else body_bytes
        contestants[f"bare uvloop echo, {client}"] = lambda size=size: echo(size)
        contestants[f"tailcut, {client}"] = lambda: tailcut(name, model, fast_path=not args.no_fast_path)
    if not args.no_mosec:
        install_mosec()
        for number, (label, config) in enumerate(MOSEC.items()):
            contestants[label + ", identical heads"] = lambda config=config, number=number: mosec(
                model, config, 18100 + number, bytes(body_bytes)
            )
    cells: dict[tuple[str, int], list[tuple[float, float, float, int]]] = {}
    for round_number in range(args.rounds):
        for label, start in contestants.items():
            with start() as url:
                if "echo" not in label and round_number == 0:
                    check(url, name, model)
                client = label.rpartition(", ")[2]
                wrk(url, client, name, body_bytes, 8, 1)
                for connections in args.connections:
                    run = wrk(url, client, name, body_bytes, connections, args.seconds)
                    cells.setdefault((label, connections), []).append(run)
    print(
        f"\n{name}: {body_bytes}-byte bodies; the engine alone takes {limit[1]:.0f} us for 1 row, "
        f"{limit[32]:.0f} us for 32; JSON bodies of {json_bytes} bytes"
    )
    print(
        f"wrk, one thread, {args.rounds} rounds of {args.seconds:g} s; tailcut serves with {ENGINES[name]}, dispatch "
        f"{DISPATCH[name]}, batches of up to 32, polling for 100 us after an answer"
    )
    columns = "".join(f"{f'{c} connections: req/s':>24s}{'p50 us':>9s}{'p99 us':>9s}" for c in args.connections)
    print(f"{'':46s}{columns}")
    for label in contestants:
        row = f"{label:46s}"
        for connections in args.connections:
            runs = cells[label, connections]
            rate, p50, p99 = (statistics.median(run[i] for run in runs) for i in range(3))
            failed = sum(run[3] for run in runs)
            row += f"{rate:>24,.0f}{p50:>9,.0f}{p99:>9,.0f}" + (f" ({failed} failed)" if failed else "")
        print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="tiny,ranker")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--connections", type=lambda text: [int(part) for part in text.split(",")], default=list(CONNECTIONS)
    )
    parser.add_argument("--no-mosec", action="store_true")
    parser.add_argument("--no-fast-path", action="store_true", help="serve with io.fast_path = false")
    args = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not installed: apt-get install wrk")
    BUILD.mkdir(exist_ok=True)
    for name in args.models.split(","):
        measure(name, args)


if __name__ == "__main__":
    main()

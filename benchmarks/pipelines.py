"""What a stage of a pipeline costs, and a text embedding beside LitServe, BentoML and mosec with the same functions.

    python benchmarks/pipelines.py [--rounds 5] [--peers [PYTHON]] [--seconds 3] [--budget 120s]

The first half runs in this process: one caller on the server's kind of event loop asks pipelines of one and of two
stages that do nothing, of one whose stage runs on a thread, and of two in one process, in turns. Of each: the time of a
call, and the CPU of the loop's thread. What a stage costs is the difference between two stages and one; its limits
stand beside it, and so does the round trip between two processes that do nothing, which no stage in a process of its
own can be faster than.

The second half, with --peers, starts the servers one after the other in each round. PYTHON is an interpreter of an
environment with Tailcut, tokenizers, onnx, litserve, bentoml and mosec; left out, one is made in build/peers/embedding.
The functions are those of examples/pipelines: the peers call them in one worker process, Tailcut has the tokenizer in
one process and the rest on threads. Tailcut stands there four times: as the pipeline is written, with the profile that
`tailcut tune` writes for it first, in --budget, with all steps in one process, and with all functions in one stage, as
the peers have them.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop

from tailcut import Model
from tailcut.lab.client import closed_loop
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import encode, infer_payload

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "benchmarks" / "peers"
PORT = 18300
CALLS, WARM = 2000, 200
LIMIT_P50_US, LIMIT_LOOP_US = 150, 20  # of an empty stage
PACKAGES = ("tokenizers", "onnx", "litserve", "bentoml", "mosec")
CONCURRENCY = (1, 16, 64)
ECHO = """
import socket, sys
with socket.socket(fileno=int(sys.argv[1])) as sock:
    while data := sock.recv(1):
        sock.sendall(data)
"""
EMPTY = """
from tailcut import Pipeline, stage


def empty(name, takes, gives, **settings):
    return stage(inputs={takes: "FP32[256]"}, outputs={gives: "FP32[256]"}, name=name, **settings)(lambda x: x)


one = Pipeline("one", [empty("a", "x", "y")])
two = Pipeline("two", [empty("a", "x", "y"), empty("b", "y", "z")])
thread = Pipeline("thread", [empty("a", "x", "y", threads=True)])
shared = Pipeline("shared", [empty("a", "x", "y"), empty("b", "y", "z")], processes=1)
"""


@dataclass(frozen=True)
class Server:
    """How a contestant is started and asked."""

    name: str
    command: list[str]
    path: str
    body: bytes
    content_type: str = "application/octet-stream"


async def calls(model: Model) -> np.ndarray:
    """Microseconds of each call, and of the loop's own CPU: [calls, 2]."""
    x = {"x": np.ones((1, 256), np.float32)}
    taken = []
    for _ in range(WARM + CALLS):
        began, cpu = time.perf_counter_ns(), time.thread_time_ns()
        await model.infer(x)
        taken.append((time.perf_counter_ns() - began, time.thread_time_ns() - cpu))
    return np.array(taken[WARM:]) / 1e3


def round_trip_us() -> float:
    """Median microseconds until a process that does nothing has answered one byte: waking it, and being woken."""
    mine, theirs = socket.socketpair()
    with mine:
        with theirs:
            child = subprocess.Popen(
                [sys.executable, "-S", "-c", ECHO, str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )
        taken = []
        for _ in range(WARM + CALLS):
            began = time.perf_counter_ns()
            mine.sendall(b"x")
            mine.recv(1)
            taken.append(time.perf_counter_ns() - began)
    child.wait()
    return float(np.median(taken[WARM:])) / 1e3


def stages(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "empty.py"
        file.write_text(EMPTY)
        names = ("one", "two", "thread", "shared")
        models = {name: Model.open(f"{file}:{name}") for name in names}
        result: dict[str, list[np.ndarray]] = {name: [] for name in names}
        trips = []
        for _ in range(rounds):
            trips.append(round_trip_us())
            for name, model in models.items():
                result[name].append(np.quantile(uvloop.run(calls(model)), (0.5, 0.99), axis=0))
        for model in models.values():
            model.close()
    for name, values in result.items():
        p50, cpu, p99 = (np.median([value[at] for value in values]) for at in ((0, 0), (0, 1), (1, 0)))
        print(f"{name:8} p50 {p50:7.1f} us   p99 {p99:8.1f} us   CPU of the loop {cpu:6.1f} us (median of rounds)")
    print(f"a round trip to a process that does nothing: {np.median(trips):.1f} us; a stage also wakes its thread")
    for name, title in (("two", "a stage"), ("shared", "a stage in the process of another")):
        more = np.median([b[0] - a[0] for a, b in zip(result["one"], result[name], strict=True)], axis=0)
        for what, value, limit in (("p50", more[0], LIMIT_P50_US), ("CPU of the loop", more[1], LIMIT_LOOP_US)):
            kept = "kept" if value <= limit else "over"
            print(f"{title}: {what} {value:.1f} us, limit {limit} us: {kept}")


def servers(python: str, folder: Path) -> list[Server]:
    tools = Path(python).parent
    target = LoadTarget(port=PORT)
    text = b"the dog and the cat sat on the train"
    own = infer_payload(target, "embed", {"text": np.array([text], object)}, "binary").request
    head, _, body = own.partition(b"\r\n\r\n")
    size = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"inference-header")).decode()
    serve = [python, "-m", "tailcut", "serve", f"{folder}/text_embedding.py:pipeline", "--port", str(PORT)]
    bento = [str(tools / "bentoml"), "serve", "embedding_bentoml:Embedding", "--working-dir", str(PEERS)]
    content_type = f"application/octet-stream\r\n{size}"
    tuned = [python, "-m", "tailcut", "serve", f"{folder}/embed.profile.toml", "--port", str(PORT)]
    together = [python, "-m", "tailcut", "serve", f"{PEERS}/embedding_together.py:pipeline", "--port", str(PORT)]
    one_stage = [python, "-m", "tailcut", "serve", f"{PEERS}/embedding_stage.py:pipeline", "--port", str(PORT)]
    return [
        Server("tailcut", serve, "/v2/models/embed/infer", body, content_type),
        Server("tailcut, tuned", tuned, "/v2/models/embed/infer", body, content_type),
        Server("tailcut, one process", together, "/v2/models/embed/infer", body, content_type),
        Server("tailcut, one stage", one_stage, "/v2/models/embed/infer", body, content_type),
        Server("litserve", [python, str(PEERS / "embedding_litserve.py")], "/infer", text),
        Server(
            "mosec",
            [python, str(PEERS / "embedding_mosec.py"), "--address", "127.0.0.1", "--port", str(PORT)],
            "/inference",
            text,
        ),
        Server(
            "bentoml",
            [*bento, "--host", "127.0.0.1", "--port", str(PORT)],
            "/infer",
            json.dumps({"texts": [text.decode()]}).encode(),
            "application/json",
        ),
    ]


def measure(server: Server, folder: Path, seconds: float) -> dict[int, tuple[float, float, float]]:
    """For each concurrency: requests per second, p50 and p99 in ms."""
    variables = os.environ | {"PEER_FOLDER": str(folder), "PEER_PORT": str(PORT), "BENTOML_DO_NOT_TRACK": "1"}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(server.command, env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        wait(server)
        payload = encode(LoadTarget(port=PORT), "POST", server.path, server.body, {"Content-Type": server.content_type})
        outcome = {}
        for count in CONCURRENCY:
            result = closed_loop(LoadTarget(port=PORT), [payload], concurrency=count, duration_s=seconds, warmup_s=0.5)
            if result.errors or not result.samples:
                raise SystemExit(f"{server.name}: {result.errors}")
            p50, p99 = np.quantile(result.latencies_ns, (0.5, 0.99)) / 1e6
            outcome[count] = (result.rate_achieved, p50, p99)
        return outcome
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait(server: Server) -> None:
    content_type, _, rest = server.content_type.partition("\r\n")
    headers = {"Content-Type": content_type} | (dict([rest.split(": ", 1)]) if rest else {})
    for _ in range(600):
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{PORT}{server.path}", server.body, headers)
            urllib.request.urlopen(request, timeout=10).read()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
        else:
            return
    raise SystemExit(f"{server.name} does not answer")


def environment() -> str:
    """An interpreter of an environment with all contestants."""
    folder = ROOT / "build" / "peers" / "embedding"
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-e", f"{ROOT}[openvino]", *PACKAGES], check=True)
        done.touch()
    return str(python)


def tune(python: str, folder: Path, budget: str) -> None:
    """Write the profile of the pipeline, with texts of many lengths."""
    words = ["the", "dog", "and", "the", "cat", "sat", "on", "the", "train", "to", "the", "city", "with", "tickets"]
    texts = [" ".join(words[: 1 + number % len(words)]) for number in range(64)]
    np.savez(folder / "texts.npz", text=np.array(texts))
    command = [python, "-m", "tailcut", "tune", f"{folder}/text_embedding.py:pipeline"]
    command += ["--data", f"{folder}/texts.npz", "--slo", "20ms", "--budget", budget]
    subprocess.run([*command, "--output", f"{folder}/embed.profile.toml"], check=True, stdout=subprocess.DEVNULL)


def peers(python: str, rounds: int, seconds: float, budget: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(shutil.copytree(ROOT / "examples" / "pipelines", Path(temporary) / "pipelines"))
        subprocess.run([python, str(folder / "make_models.py")], check=True)
        tune(python, folder, budget)
        result: dict[str, list[dict[int, tuple[float, float, float]]]] = {}
        for number in range(rounds):
            order = servers(python, folder)
            for server in order if number % 2 == 0 else reversed(order):
                result.setdefault(server.name, []).append(measure(server, folder, seconds))
    for count in CONCURRENCY:
        for name, values in result.items():
            rate, p50, p99 = (np.median([value[count][at] for value in values]) for at in range(3))
            print(f"{count:3} in flight: {name:18} {rate:8.0f} requests/s   p50 {p50:7.2f} ms   p99 {p99:7.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", metavar="PYTHON", nargs="?", const="", help="beside other servers")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each server in each round")
    parser.add_argument("--budget", default="120s", help="of the tune")
    arguments = parser.parse_args()
    print(f"processes that run or wait for a CPU before it begins: {os.getloadavg()[0]:.1f} of {os.cpu_count()} CPUs")
    stages(arguments.rounds)
    if arguments.peers is not None:
        peers(arguments.peers or environment(), arguments.rounds, arguments.seconds, arguments.budget)


if __name__ == "__main__":
    main()

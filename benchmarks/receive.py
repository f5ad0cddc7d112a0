"""What it costs to receive 602 KB bodies (a 3x224x224 float32 image), beside a bare receive loop.

    python benchmarks/receive.py [--seconds 3] [--rounds 3] [--source DIR]

The model takes one number out of its input, so that what is measured is the way from the socket into the engine's
input. Bodies come raw and as a tensor behind its JSON (what tritonclient sends), over two kept-alive connections from
a process of its own on the same cores; contestants take turns, and every figure is the median of the rounds. Tailcut
computes on a worker's thread, as a bare model does, or where the body has arrived (`dispatch = "adaptive"`). CPU is
the server process's own; what the kernel copies is in `system`, what we copy is in `user`. `--source` names another
checkout's src/ to compare with.
"""

import argparse
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings

SIZE = 3 * 224 * 224
BYTES = 4 * SIZE
BARE = """
import socket
from selectors import DefaultSelector, EVENT_READ
room = memoryview(bytearray(1 << 20))
answer = b"HTTP/1.1 200 OK\\r\\nContent-Length: 40\\r\\n\\r\\n" + bytes(40)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
waiting, got = DefaultSelector(), {}
waiting.register(listener, EVENT_READ)
while True:
    for key, _ in waiting.select():
        sock = key.fileobj
        if sock is listener:
            client, _ = listener.accept()
            waiting.register(client, EVENT_READ)
            got[client] = 0
            continue
        count = sock.recv_into(room[got[sock]:])
        if not count:
            waiting.unregister(sock)
            continue
        got[sock] += count
        if got[sock] >= WHOLE:
            got[sock] = 0
            sock.send(answer)
"""
CLIENT = """
import socket, sys, threading, time
request = open(sys.argv[2], "rb").read()
seconds, counts = float(sys.argv[3]), []
def run():
    sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        sock.sendall(request)
        answer = b""
        while b"\\r\\n\\r\\n" not in answer:
            answer += sock.recv(65536)
        head, _, body = answer.partition(b"\\r\\n\\r\\n")
        assert head.startswith(b"HTTP/1.1 200"), answer
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\\r\\n")[0])
        while len(body) < length:
            body += sock.recv(65536)
        count += 1
    counts.append(count)
threads = [threading.Thread(target=run) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sum(counts))
"""


def make_model(path: Path) -> None:
    """y = x[:, :1]."""
    weights = {"from": [0], "to": [1], "axis": [1]}
    graph = helper.make_graph(
        [helper.make_node("Slice", ["x", *weights], ["y"])],
        "first",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def requests() -> dict[str, bytes]:
    body = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32).tobytes()
    tensor = {"name": "x", "shape": [1, SIZE], "datatype": "FP32", "parameters": {"binary_data_size": BYTES}}
    lead = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()

    def post(lead: bytes) -> bytes:
        lines = ["POST /v2/models/first/infer HTTP/1.1", "Host: x", f"Content-Length: {len(lead) + BYTES}"]
        lines += [f"Inference-Header-Content-Length: {len(lead)}", "", ""]
        return "\r\n".join(lines).encode() + lead + body

    return {"raw": post(b""), "v2 binary": post(lead)}


@contextmanager
def running(command: list[str], source: Path | None) -> Iterator[tuple[psutil.Process, int]]:
    env = os.environ | ({"PYTHONPATH": str(source)} if source else {})
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
    try:
        if not select.select([child.stdout], [], [], 60)[0]:
            raise SystemExit("the server did not start")
        line = child.stdout.readline()
        yield psutil.Process(child.pid), json.loads(line)["port"] if line.startswith("{") else int(line)
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(20)
        child.stdout.close()


def measure(process: psutil.Process, port: int, request: Path, seconds: float) -> tuple[float, float, float]:
    """Requests per second, and microseconds of user and system CPU per request."""
    client = [sys.executable, "-c", CLIENT, str(port), str(request)]
    subprocess.run([*client, "0.3"], check=True, capture_output=True)
    before = process.cpu_times()
    done = subprocess.run([*client, str(seconds)], check=True, capture_output=True, text=True)
    after = process.cpu_times()
    count = int(done.stdout)
    spent = [(new - old) / count * 1e6 for new, old in ((after.user, before.user), (after.system, before.system))]
    return count / seconds, *spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--source", type=Path, action="append", default=[])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "first.onnx")
        kinds = requests()
        for kind, request in kinds.items():
            (folder / kind).write_bytes(request)
        adaptive = Settings(batching=BatchingSettings(max_batch_size=32, dispatch="adaptive"))
        Profile.of_model(folder / "first.onnx", adaptive).save(folder / "first.toml")
        bare = BARE.replace("WHOLE", str(len(kinds["raw"])))
        contestants = {"bare receive loop": ([sys.executable, "-c", bare], "raw", None)}
        for source in [None, *args.source]:
            for kind in kinds:
                for served, words in (("first.onnx", ""), ("first.toml", ", adaptive")):
                    serve = [sys.executable, "-m", "tailcut", "serve", str(folder / served), "--port", "0", "--json"]
                    label = f"tailcut, {kind}{words}" + (f" ({source})" if source else "")
                    contestants[label] = (serve, kind, source)
        cells: dict[str, list[tuple[float, float, float]]] = {label: [] for label in contestants}
        for _ in range(args.rounds):
            for label, (command, kind, source) in contestants.items():
                with running(command, source) as (process, port):
                    cells[label].append(measure(process, port, folder / kind, args.seconds))
    print(f"{'':40s}{'req/s':>9s}{'user us':>10s}{'system us':>11s}{'of bare':>9s}")
    rates = {label: [statistics.median(run[i] for run in runs) for i in range(3)] for label, runs in cells.items()}
    for label, (rate, user, system) in rates.items():
        share = rate / rates["bare receive loop"][0]
        print(f"{label:40s}{rate:>9,.0f}{user:>10,.0f}{system:>11,.0f}{share:>9.2f}")


if __name__ == "__main__":
    main()

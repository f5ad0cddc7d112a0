"""Tailcut beside its peers: one table a model, every server in an environment of its own, driven by the same client.

    python benchmarks/peers/compare.py [--models tiny,ranker,resnet18] [--peers mosec,...] [--seconds 4] [--rounds 2]
                                       [-o FILE]

Each peer is a small server of ours written the way its documentation recommends, tried without batching and with
batches of up to 32, and checked for right answers before it is timed. Load comes from wrk, one thread, on the same
cores, with the peer's own encoding (raw float32 where it has a raw way in). Servers take turns, round after round; a
cell is the median of the rounds. Memory is the peak of the process tree's proportional set. `engine` is onnxruntime
and openvino in process, without any server.
"""

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))
from contestants import BUILD, PACKAGES, ROOT, SHAPES, Contestant, contestants
from reference_models import make
from serving import CONNECTIONS, micros

from tailcut.engines import open_engine
from tailcut.engines.base import EngineOptions

LUA = """
local file = io.open(os.getenv("BODY_FILE"), "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
for name, value in string.gmatch(os.getenv("BODY_HEADERS"), "([^=;]+)=([^;]+)") do wrk.headers[name] = value end
"""


def install(peer: str) -> None:
    folder = BUILD / "peers" / peer
    done = folder / ".done"
    if done.exists():
        if peer == "tailcut":  # as it is now
            pip = [str(folder / "bin" / "pip"), "install", "-q", "--force-reinstall", "--no-deps", str(ROOT)]
            subprocess.run(pip, check=True)
        return
    print(f"installing {peer}", file=sys.stderr, flush=True)
    # pytriton carries a C++ server that embeds Debian's own Python, and trips over another one's library.
    python = "/usr/bin/python3" if peer == "pytriton" and Path("/usr/bin/python3").exists() else sys.executable
    subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
    packages = [f"{ROOT}[openvino]"] if peer == "tailcut" else [*PACKAGES[peer], "onnxruntime", "numpy"]
    subprocess.run([str(folder / "bin" / "pip"), "install", "-q", *packages], check=True)
    done.touch()


def size_of(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    packages = len(list(folder.glob("lib/*/site-packages/*.dist-info")))
    return f"{size / 1e6:.0f} MB, {packages} packages"


@contextmanager
def serving(contestant: Contestant, expected: np.ndarray) -> Iterator[None]:
    """The server, from its start to its first right answer, until its whole process tree is gone."""
    began = time.monotonic()
    with (BUILD / "peer.log").open("wb") as log:
        child = subprocess.Popen(
            contestant.command,
            stdout=log,
            stderr=log,
            env=os.environ | contestant.variables,
            start_new_session=True,
            cwd=BUILD,
        )
    stop = threading.Event()
    watcher = threading.Thread(target=watch_memory, args=(child.pid, contestant, stop))
    watcher.start()
    try:
        wait_right(contestant, child, expected)
        contestant.cold_s.append(time.monotonic() - began)
        yield
    finally:
        stop.set()
        watcher.join()
        end_tree(child)


def wait_right(contestant: Contestant, child: subprocess.Popen, expected: np.ndarray) -> None:
    got = np.empty(0)
    for _ in range(1200):
        with suppress(OSError, ValueError, KeyError, IndexError):
            request = urllib.request.Request(
                f"http://127.0.0.1:{contestant.port}{contestant.path}", contestant.body, contestant.headers
            )
            with urllib.request.urlopen(request, timeout=20) as answer:
                got = contestant.answer(answer.read())
            break
        if child.poll() is not None:
            raise RuntimeError(
                f"the server exited with {child.returncode}: {(BUILD / 'peer.log').read_text(errors='replace')[-300:]}"
            )
        time.sleep(0.05)
    if got.shape != expected.shape:
        raise RuntimeError("it gave no answer in a minute")
    cosine = float(got @ expected / (np.linalg.norm(got) * np.linalg.norm(expected)))
    if cosine < 0.999:
        raise RuntimeError(f"it gives wrong answers: cosine {cosine:.4f}")


def watch_memory(pid: int, contestant: Contestant, stop: threading.Event) -> None:
    while not stop.wait(0.25):
        total = 0
        with suppress(psutil.Error):
            root = psutil.Process(pid)
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.Error):
                    total += process.memory_full_info().pss
        contestant.memory_mb = max(contestant.memory_mb, total / 1e6)


def end_tree(child: subprocess.Popen) -> None:
    tree = []
    with suppress(psutil.Error):
        tree = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        child.wait(10)
    for process in tree:
        with suppress(psutil.Error):
            process.kill()
    if child.poll() is None:
        child.kill()
    child.wait()


def wrk(contestant: Contestant, connections: int, seconds: float) -> tuple[float, float, float, int]:
    """Requests per second, p50 and p99 in microseconds, and failed requests."""
    script, body = BUILD / "body.lua", BUILD / "body.bin"
    script.write_text(LUA)
    body.write_bytes(contestant.body)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "--latency", "-s", str(script)]
    variables = {"BODY_FILE": str(body), "BODY_HEADERS": ";".join(f"{k}={v}" for k, v in contestant.headers.items())}
    command.append(f"http://127.0.0.1:{contestant.port}{contestant.path}")
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | variables).stdout
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])
    failed = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", out))
    failed += sum(int(number) for line in re.findall(r"Socket errors:.*", out) for number in re.findall(r"\d+", line))
    return rate, micros(out, "50%"), micros(out, "99%"), failed


def engine_limits(name: str, model: Path) -> list[str]:
    """p50 of a bound call in this process, and rows per second of full batches."""
    lines = []
    for label, options in (
        ("onnxruntime f32", EngineOptions(threads=2)),
        ("openvino bf16", EngineOptions(name="openvino", precision="bf16", threads=2)),
    ):
        try:
            engine = open_engine(model, options)
        except Exception as error:  # noqa: BLE001  a machine without bf16
            lines.append(f"| engine: {label}, in process | {error} | | | | | | | | | | |")
            continue
        cells = []
        for rows in (1, 32):
            x = np.zeros((rows, *SHAPES[name]), np.float32)
            y = np.zeros((rows, engine.spec.outputs[0].shape[1]), np.float32)
            call = engine.bind({"x": x}, {"y": y})
            times: list[int] = []
            end = time.monotonic() + 2
            while time.monotonic() < end or len(times) < 5:
                began = time.perf_counter_ns()
                call()
                times.append(time.perf_counter_ns() - began)
            cells.append(statistics.median(times) / 1e3)
        engine.close()
        lines.append(
            f"| engine: {label}, in process | {cells[0]:,.0f} | | {32e6 / cells[1]:,.0f} rows/s | | | | | | | | |"
        )
    return lines


def row(contestant: Contestant) -> str:
    if contestant.failed:
        return f"| {contestant.label} | {contestant.failed[:120]} | | | | | | | | | | |"
    cells = []
    errors = 0
    for connections in CONNECTIONS:
        runs = contestant.cells[connections]
        rate, p50, p99 = (statistics.median(run[i] for run in runs) for i in range(3))
        errors += sum(run[3] for run in runs)
        cells += [f"{p50:,.0f} / {p99:,.0f}", f"{rate:,.0f}"]
    cold, memory = f"{statistics.median(contestant.cold_s):.2f}", f"{contestant.memory_mb:.0f}"
    size = size_of(contestant.environment)
    return f"| {contestant.label} | {' | '.join(cells)} | {errors} | {memory} | {cold} | {size} |"


def measure(name: str, args: argparse.Namespace) -> list[str]:
    model = make(name, BUILD / "models")
    x = np.random.default_rng(0).standard_normal((1, *SHAPES[name])).astype(np.float32)
    engine = open_engine(model, EngineOptions())
    expected = engine.run({"x": x})["y"][0]
    engine.close()
    result = contestants(name, model, args.peers)
    for _ in range(args.rounds):
        for item in [item for item in result if not item.failed]:
            try:
                with serving(item, expected):
                    wrk(item, 4, 1)
                    for connections in CONNECTIONS:
                        item.cells.setdefault(connections, []).append(wrk(item, connections, args.seconds))
            except (RuntimeError, OSError, subprocess.SubprocessError, TypeError) as error:
                item.failed = " ".join(str(error).split())
            print(f"{name}: {row(item)}", file=sys.stderr, flush=True)
    heads = " | ".join(f"{c} conn.: p50 / p99 us | req/s" for c in CONNECTIONS)
    lines = [f"\n## {name}\n", f"| server | {heads} | errors | peak MB | cold start s | installed |"]
    return [*lines, "|---" * 12 + "|", *(row(item) for item in result), *engine_limits(name, model)]


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="tiny,ranker,resnet18", type=lambda text: text.split(","))
    parser.add_argument(
        "--peers", default=",".join(PACKAGES), type=lambda text: [name for name in text.split(",") if name]
    )
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not installed: apt-get install wrk")
    (BUILD / "peers").mkdir(parents=True, exist_ok=True)
    for peer in ["tailcut", *args.peers]:
        install(peer)
    lines = [line for name in args.models for line in measure(name, args)]
    print("\n".join(lines))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

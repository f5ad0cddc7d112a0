"""The dispatch to a CUDA device: right answers, and what each part costs, in one call of a few minutes.

    python benchmarks/gpu_dispatch.py [--device cuda] [--seconds 2]
    python benchmarks/gpu_dispatch.py --device cpu --small          tries the program where there is no device

It prints: answers against float32 on the CPU; the rate of pinned copies; the node of the device; for each strategy on
and off the rows per second of bound calls from two threads against one captured graph on data that is on the device
(goal: 90 %), and the p50 of one row against one replay of its graph (goal: 100 us more); for what is compiled, how long
that took. Then the same through `tailcut serve`, with and without its threads on the device's node: rows per second of
clients that send whole batches, and the p99 of single rows at half of that load; and a request whose tensors are in
memory of this process on the device. Needs PyTorch and numpy, and no other engine. Exit code 1: an answer is wrong.
Without a device it prints what is not proven, and ends.
"""

import argparse
import ctypes
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

try:
    import torch
except ImportError:
    print("gpu_dispatch needs PyTorch: pip install 'tailcut[torch]'")
    sys.exit(0)  # nothing is wrong, and the other benchmarks go on

from tailcut.engines import EngineOptions
from tailcut.engines.base import CudaOptions
from tailcut.engines.cuda.device import Cuda, Device, StandIn
from tailcut.engines.cuda.engine import CudaEngine
from tailcut.errors import TailcutError
from tailcut.machine.cuda_driver import CudaCallError, driver
from tailcut.machine.gpu import node_of_bus
from tailcut.machine.topology import topology
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings

STRATEGIES: dict[str, dict[str, Any]] = {
    "f32": {},
    "f32, no graphs": {"cuda": CudaOptions(graphs=False)},
    "tf32": {"precision": "tf32"},
    "f32, one instance": {"instances": 1},
    "f32, channels last": {"layout": "channels_last"},
    "bf16": {"precision": "bf16"},
    "bf16, channels last": {"precision": "bf16", "layout": "channels_last"},
    "f16, channels last": {"precision": "f16", "layout": "channels_last"},
    "f32, compiled": {"compiler": "inductor"},
    "bf16, compiled": {"precision": "bf16", "compiler": "inductor"},
    "int8 weights, compiled": {"precision": "int8", "compiler": "inductor"},
}
FEWEST_P99 = 459
LOOSE = {"f32": 1e-3, "tf32": 1e-2, "bf16": 5e-2, "f16": 2e-2, "int8": 5e-2}  # of the largest answer
UNPROVEN = """Not proven on a device:
- answers in float32, tf32, bfloat16 and float16, with and without graphs, channels last, and from uint8 pixels
- torch.compile under captured graphs, and weights in int8
- CUDA shared-memory regions, and threads on the node of a device
- that copying in, computing and copying out overlap, and the rates of pinned copies
- rows per second through the server against data on the device (goal: 90 %)
- the p50 of one row against one replay of its graph (goal: 100 us more)
- the p99 of single rows at half of the load
- what a batch without memory, a lost device or a missing operator leave behind
- onnxruntime's CUDA provider: its graphs, bound memory and precisions
- routing between a device and the CPU with real costs"""


def program(folder: Path, *, small: bool) -> tuple[Path, tuple[int, ...]]:
    """A convolutional network, and the shape of one row."""
    torch.manual_seed(0)
    width, side, depth = (8, 16, 2) if small else (128, 112, 8)
    layers: list[Any] = [torch.nn.Conv2d(3, width, 3, 2, 1), torch.nn.ReLU()]
    for _ in range(depth):
        layers += [torch.nn.Conv2d(width, width, 3, 1, 1), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(width, 10))
    axes = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(net.eval(), (torch.randn(2, 3, side, side),), dynamic_shapes={"input": axes[0]})
    torch.export.save(exported, folder / "net.pt2")
    return folder / "net.pt2", (3, side, side)


def bound(engine: CudaEngine, x: np.ndarray) -> tuple[Callable[[], None], np.ndarray]:
    y = np.zeros((len(x), 10), np.float32)
    return engine.bind({engine.spec.input_names[0]: x}, {"output": y}), y


def rate(calls: list[Callable[[], None]], rows: int, seconds: float) -> float:
    """Rows per second of calls that each have a thread."""
    counts = [0] * len(calls)
    end = time.monotonic() + seconds

    def work(at: int) -> None:
        while time.monotonic() < end:
            calls[at]()
            counts[at] += 1

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows * sum(counts) / seconds


def median_us(call: Callable[[], None], seconds: float) -> float:
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end or len(times) < 5:
        began = time.perf_counter()
        call()
        times.append(1e6 * (time.perf_counter() - began))
    return statistics.median(times)


def replay_us(engine: CudaEngine, rows: int, seconds: float, device: Device) -> float:
    """One replay of a captured graph on data that is there already; on a device by its own events."""
    graph = next(replay for key, (replay, _) in engine._graphs.items() if key.shapes[0][0] == rows)
    if device.name.type == "cpu":
        return median_us(graph, seconds)
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end or len(times) < 5:
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        graph()
        ended.record()
        ended.synchronize()
        times.append(1e3 * began.elapsed_time(ended))
    return statistics.median(times)


def copies(device: Device, size: int) -> None:
    """GB per second from pinned memory to the device and back."""
    host = np.zeros(size, np.uint8)
    device.pin(host)
    there, here = torch.zeros(size, dtype=torch.uint8, device=device.name), torch.from_numpy(host)
    for label, target, source in (("in", there, here), ("out", here, there)):

        def copy(target: Any = target, source: Any = source) -> None:
            target.copy_(source, non_blocking=True)
            if device.name.type != "cpu":
                torch.cuda.synchronize()

        print(f"copies {label}: {size / median_us(copy, 0.2) / 1e3:.1f} GB/s")


def where_is(device: Device) -> str:
    """The node of the device's bus, in words."""
    if device.name.type == "cpu":
        return "no device"
    bus = driver().bus_of(device.name.index or 0)
    return f"{bus}, node {node_of_bus(bus)} of {len(topology().nodes)}"


@contextmanager
def memory(index: int, content: bytes) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """An allocation on a device with this content: its handle in base64, and what reads it."""
    library = driver()
    device, address, handle = ctypes.c_int(), ctypes.c_uint64(), (ctypes.c_ubyte * 64)()
    library.call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(index))
    size = ctypes.c_size_t(len(content))
    with library.context(device):
        library.call("cuMemAlloc_v2", ctypes.byref(address), size)
        library.call("cuMemcpyHtoD_v2", address, ctypes.c_char_p(content), size)
        library.call("cuIpcGetMemHandle", ctypes.byref(handle), address)

    def read() -> bytes:
        buffer = ctypes.create_string_buffer(len(content))
        with library.context(device):
            library.call("cuMemcpyDtoH_v2", buffer, address, size)
        return buffer.raw

    try:
        yield b64encode(bytes(handle)).decode(), read
    finally:
        with library.context(device):
            library.call("cuMemFree_v2", address)


@dataclass(frozen=True)
class Net:
    """A program, a batch for it, and the right answers."""

    path: Path
    x: np.ndarray
    truth: np.ndarray


def served(net: Net, device: str, seconds: float, alone: float, *, numa: bool) -> bool:
    """The same program through a server and real sockets; whether its answers are right.

    Args:
        alone: rows per second of a float32 graph by itself, or 0.
        numa: whether the server's threads are on the device's node.
    """
    x, truth = net.x, net.truth
    engine = EngineOptions(name="torch", device=device, instances=2, numa=numa)  # type: ignore[arg-type]
    batching = BatchingSettings(max_batch_size=len(x), rows="independent")
    Profile.of_model(net.path, Settings(engine=engine, batching=batching)).save(net.path.with_suffix(".profile.toml"))
    command = [sys.executable, "-m", "tailcut", "serve", str(net.path.with_suffix(".profile.toml")), "--port", "0"]
    with subprocess.Popen(
        [*command, "--json", "--shared-memory", "/tailcut-gpu-dispatch-"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            ready = process.stdout.readline()
            if not ready:
                print("the server did not start")
                return False
            address = json.loads(ready)
            place = (address["host"], address["port"])
            answer = np.frombuffer(call(http.client.HTTPConnection(*place), x), np.float32).reshape(truth.shape)
            worst = float(np.abs(answer - truth).max() / np.abs(truth).max())
            rows_per_s = clients(place, x, 4, seconds)
            late = paced(place, x[:1], rows_per_s / 2, seconds)
            shared = "not tried" if device == "cpu" or numa else from_device(place, x, truth)
        finally:
            process.terminate()
    share = f", {rows_per_s / alone:.2f} of the graph alone" if alone else ""
    where = "threads on the device's node" if numa else "threads anywhere"
    print(f"\nthrough the server, {where}: worst answer {worst:.1e}; tensors in the device's memory: {shared}")
    print(f"batches of {len(x)}: {rows_per_s:,.0f} rows/s{share}")
    if len(late) >= FEWEST_P99:
        print(f"single rows at half of that load: p50 {quantile(late, 0.5):.2f} ms, p99 {quantile(late, 0.99):.2f} ms")
    else:
        print(f"single rows at half of that load: {len(late)} answers are too few for a p99")
    return worst <= LOOSE["f32"] and "wrong" not in shared


def from_device(place: tuple[str, int], x: np.ndarray, truth: np.ndarray) -> str:
    """A request whose tensors are in memory of this process on the device, in words."""
    connection = http.client.HTTPConnection(*place)

    def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise RuntimeError(text.decode(errors="replace"))
        return json.loads(text) if text else {}

    size = x.nbytes + truth.nbytes
    try:
        with memory(0, x.tobytes() + bytes(truth.nbytes)) as (handle, read):
            region = {"raw_handle": {"b64": handle}, "device_id": 0, "byte_size": size}
            ask("/v2/cudasharedmemory/region/io/register", region)
            where = {"shared_memory_region": "io", "shared_memory_byte_size": x.nbytes}
            there = {"shared_memory_region": "io", "shared_memory_byte_size": truth.nbytes}
            there["shared_memory_offset"] = x.nbytes
            name = json.loads(_get(connection, "/v2/models/net"))["inputs"][0]["name"]
            tensor = {"name": name, "datatype": "FP32", "shape": list(x.shape), "parameters": where}
            ask("/v2/models/net/infer", {"inputs": [tensor], "outputs": [{"name": "output", "parameters": there}]})
            found = np.frombuffer(read()[x.nbytes :], np.float32).reshape(truth.shape)
            ask("/v2/cudasharedmemory/region/io/unregister", {})
    except (RuntimeError, CudaCallError, TailcutError) as error:
        return f"wrong: {error}"
    worst = float(np.abs(found - truth).max() / np.abs(truth).max())
    return f"worst {worst:.1e}" if worst <= LOOSE["f32"] else f"wrong by {worst:.1e}"


def _get(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    return connection.getresponse().read()


def call(connection: http.client.HTTPConnection, x: np.ndarray) -> bytes:
    """One raw request, and the bytes of its answer's only output."""
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    connection.request("POST", "/v2/models/net/infer", x.tobytes(), headers)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise RuntimeError(body.decode(errors="replace"))
    return body[int(response.headers.get("Inference-Header-Content-Length", 0)) :]


def clients(place: tuple[str, int], x: np.ndarray, count: int, seconds: float) -> float:
    """Rows per second of so many clients that each wait for their answer."""

    def one() -> Callable[[], None]:
        connection = http.client.HTTPConnection(*place)
        return lambda: call(connection, x) and None

    return rate([one() for _ in range(count)], len(x), seconds)


def paced(place: tuple[str, int], x: np.ndarray, per_s: float, seconds: float) -> list[float]:
    """Milliseconds from each planned time to the answer; as many as a p99 needs, in ten times the seconds at most."""
    count, senders = int(min(max(per_s * seconds, 2 * FEWEST_P99), 10 * per_s * seconds)), 16
    start, late = time.monotonic() + 0.1, []

    def send(first: int) -> None:
        connection = http.client.HTTPConnection(*place)
        for number in range(first, count, senders):
            due = start + number / per_s
            time.sleep(max(0.0, due - time.monotonic()))
            call(connection, x)
            late.append(1e3 * (time.monotonic() - due))

    threads = [threading.Thread(target=send, args=(first,)) for first in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return late


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", default="", help="strategies whose label begins so, such as bf16; default: all")
    asked = parser.parse_args()
    seconds, batch = (0.1, 4) if asked.small else (asked.seconds, 32)
    wrong, first = False, 0.0
    with tempfile.TemporaryDirectory() as folder:
        path, shape = program(Path(folder), small=asked.small)
        x = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
        truth = torch.export.load(path).module()(torch.from_numpy(x)).detach().numpy()
        try:
            device: Device = Cuda() if asked.device == "cuda" else StandIn()
        except TailcutError as error:
            print(f"{error}\n\n{UNPROVEN}")
            return
        name = (
            torch.cuda.get_device_name()
            if asked.device == "cuda"
            else "the CPU as a stand-in: no figure means anything"
        )
        print(f"{name}; PyTorch {torch.__version__}")
        copies(device, 1 << (20 if asked.small else 28))
        print(f"place: {where_is(device)}")
        print(
            f"| strategy | worst answer | rows/s, batch {batch} | of the graph alone | p50 of a row, us | to a replay |"
        )
        print("|---|---|---|---|---|---|")
        for label, settings in STRATEGIES.items():
            if not label.startswith(asked.only):
                continue
            options = EngineOptions(name="torch", device="cuda", **({"instances": 2} | settings))
            began = time.monotonic()
            try:
                engine = CudaEngine(path, options, device=device)
                took = f", {time.monotonic() - began:.0f} s to load" if options.compiler != "eager" else ""
                pairs = [bound(engine, x.copy()) for _ in range(options.instances)]
                for _ in range(2 * (options.instances + 1)):  # every slot has its graph
                    pairs[0][0]()
                worst = float(np.abs(pairs[0][1] - truth).max() / np.abs(truth).max())
                wrong |= not worst <= LOOSE[options.precision]
                bound_rate = rate([one for one, _ in pairs], batch, seconds)
                alone = 1e6 * batch / replay_us(engine, batch, seconds, device)
                first = first or alone
                lone, _ = bound(engine, x[:1].copy())
                for _ in range(2 * (options.instances + 1)):
                    lone()
                p50, single = median_us(lone, seconds), replay_us(engine, 1, seconds, device)
                rates = f"{bound_rate:,.0f} | {bound_rate / alone:.2f} | {p50:,.0f} | {p50 - single:+,.0f}"
                print(f"| {label}{took} | {worst:.1e} | {rates} |", flush=True)
                engine.close()
            except TailcutError as error:
                print(f"| {label} | {error} | | | | |")
        for numa in (False, True):
            wrong |= not served(Net(path, x, truth), asked.device, seconds, first, numa=numa)
    sys.exit(wrong)


if __name__ == "__main__":
    main()

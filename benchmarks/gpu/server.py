"""The server's half of gpu_dispatch.py: a program behind real sockets, and what its clients see. Not run by itself."""

import ctypes
import http.client
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tailcut.errors import TailcutError
from tailcut.machine.cuda_driver import CudaCallError, driver
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings

FEWEST_P99 = 459
SENDERS = 16
# Answers at once with as many rows of zeros as came in; by the lengths of a row in bytes. It computes nothing, so what
# its clients see is their own limit.
ECHO = """
import asyncio, sys, uvloop
ROW_IN, ROW_OUT = int(sys.argv[1]), int(sys.argv[2])
HEAD = "HTTP/1.1 200 OK\\r\\nInference-Header-Content-Length: 0\\r\\nContent-Length: %d\\r\\n\\r\\n"
class Echo(asyncio.Protocol):
    def connection_made(self, transport): self.transport, self.head, self.left = transport, b"", -1
    def data_received(self, data):
        if self.left < 0:
            self.head += data
            head, end, rest = self.head.partition(b"\\r\\n\\r\\n")
            if not end: return
            lines = head.lower().split(b"\\r\\n")
            self.size = int(next(line[15:] for line in lines if line.startswith(b"content-length:")))
            self.head, self.left, data = b"", self.size, rest
        self.left -= len(data)
        if self.left <= 0:
            self.left, size = -1, ROW_OUT * (self.size // ROW_IN)
            self.transport.write((HEAD % size).encode() + bytes(size))
async def main():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
uvloop.run(main())
"""
Place = tuple[str, int]


@dataclass(frozen=True)
class Net:
    """A program, a batch for it, and the right answers."""

    path: Path
    x: np.ndarray
    truth: np.ndarray


@dataclass
class Served:
    """What clients saw.

    Args:
        worst: difference of an answer, of the largest one.
        batch_rows_per_s, single_rows_per_s: of clients in a closed loop that send batches, or single rows.
        row_us: the median of single rows from one client.
        late_ms: of single rows at half of their rate, each from its planned time.
        second: batches that the second engine computed.
        region: of tensors in memory on the device, in words; "" where it was not tried.
    """

    worst: float = 0.0
    batch_rows_per_s: float = 0.0
    single_rows_per_s: float = 0.0
    row_us: float = 0.0
    late_ms: list[float] = field(default_factory=list)
    second: int = 0
    region: str = ""


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


def off_by(found: np.ndarray, truth: np.ndarray) -> float:
    """The largest difference, of the largest right answer; inf for what is not a number."""
    worst = float(np.abs(found - truth).max() / np.abs(truth).max())
    return worst if np.isfinite(worst) else float("inf")


def serve(net: Net, settings: Settings, seconds: float, *, region: bool) -> Served:
    """Start a server, ask it, and stop it.

    Raises:
        RuntimeError: it did not start, or refused a request.
    """
    profile = net.path.with_suffix(".profile.toml")
    Profile.of_model(net.path, settings).save(profile)
    command = [sys.executable, "-m", "tailcut", "serve", str(profile), "--port", "0", "--json"]
    with subprocess.Popen(
        [*command, "--shared-memory", "/tailcut-gpu-dispatch-"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            ready = process.stdout.readline()
            if not ready:
                raise RuntimeError("the server did not start")
            address = json.loads(ready)
            return ask((address["host"], address["port"]), net, seconds, region=region)
        finally:
            process.terminate()


@dataclass(frozen=True)
class Floor:
    """What the same clients see of an echo: no server shows them more rows, or sooner."""

    batch_rows_per_s: float
    single_rows_per_s: float
    row_us: float


def floor(net: Net, seconds: float) -> Floor:
    """Ask an echo, in a process of its own, as a server is asked.

    Raises:
        RuntimeError: it did not start.
    """
    sizes = [str(one[:1].nbytes) for one in (net.x, net.truth)]
    with subprocess.Popen([sys.executable, "-c", ECHO, *sizes], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            ready = process.stdout.readline()
            if not ready:
                raise RuntimeError("the echo did not start")
            place, row = ("127.0.0.1", int(ready)), net.x[:1]
            connection = http.client.HTTPConnection(*place)
            return Floor(
                clients(place, net.x, 4, seconds),
                clients(place, row, SENDERS, seconds),
                median_us(lambda: call(connection, row) and None, seconds),
            )
        finally:
            process.terminate()


def ask(place: Place, net: Net, seconds: float, *, region: bool) -> Served:
    x, truth = net.x, net.truth
    connection = http.client.HTTPConnection(*place)
    answer = np.frombuffer(call(connection, x), np.float32).reshape(truth.shape)
    served = Served(worst=off_by(answer, truth))
    served.batch_rows_per_s = clients(place, x, 4, seconds)
    served.single_rows_per_s = clients(place, x[:1], SENDERS, seconds)
    served.row_us = median_us(lambda: call(connection, x[:1]) and None, seconds)
    served.late_ms = paced(place, x[:1], served.single_rows_per_s / 2, seconds)
    counted = re.search(rb"^tailcut_second_engine_batches_total\S* (\d+)", _get(connection, "/metrics"), re.MULTILINE)
    served.second = int(counted[1]) if counted else 0
    if region:
        served.region = from_device(place, x, truth)
    return served


def call(connection: http.client.HTTPConnection, x: np.ndarray) -> bytes:
    """One raw request, and the bytes of its answer's only output."""
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    connection.request("POST", "/v2/models/net/infer", x.tobytes(), headers)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise RuntimeError(body.decode(errors="replace"))
    return body[int(response.headers.get("Inference-Header-Content-Length", 0)) :]


def clients(place: Place, x: np.ndarray, count: int, seconds: float) -> float:
    """Rows per second of so many clients that each wait for their answer."""

    def one() -> Callable[[], None]:
        connection = http.client.HTTPConnection(*place)
        return lambda: call(connection, x) and None

    return rate([one() for _ in range(count)], len(x), seconds)


def paced(place: Place, x: np.ndarray, per_s: float, seconds: float) -> list[float]:
    """Milliseconds from each planned time to the answer; as many as a p99 needs, in ten times the seconds at most."""
    count = int(min(max(per_s * seconds, 2 * FEWEST_P99), 10 * per_s * seconds))
    start, late = time.monotonic() + 0.1, []

    def send(first: int) -> None:
        connection = http.client.HTTPConnection(*place)
        for number in range(first, count, SENDERS):
            due = start + number / per_s
            time.sleep(max(0.0, due - time.monotonic()))
            call(connection, x)
            late.append(1e3 * (time.monotonic() - due))

    threads = [threading.Thread(target=send, args=(first,)) for first in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return late


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


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


def from_device(place: Place, x: np.ndarray, truth: np.ndarray) -> str:
    """Requests whose tensors are in memory of this process on the device, beside some with a body, in words."""
    connection = http.client.HTTPConnection(*place)

    def post(path: str, body: dict[str, Any]) -> None:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise RuntimeError(text.decode(errors="replace"))

    size = x.nbytes + truth.nbytes
    try:
        with memory(0, x.tobytes() + bytes(truth.nbytes)) as (handle, read):
            region = {"raw_handle": {"b64": handle}, "device_id": 0, "byte_size": size}
            post("/v2/cudasharedmemory/region/io/register", region)
            where = {"shared_memory_region": "io", "shared_memory_byte_size": x.nbytes}
            there = {"shared_memory_region": "io", "shared_memory_byte_size": truth.nbytes}
            there["shared_memory_offset"] = x.nbytes
            name = json.loads(_get(connection, "/v2/models/net"))["inputs"][0]["name"]
            tensor = {"name": name, "datatype": "FP32", "shape": list(x.shape), "parameters": where}
            request = {"inputs": [tensor], "outputs": [{"name": "output", "parameters": there}]}
            post("/v2/models/net/infer", request)
            worst = off_by(np.frombuffer(read()[x.nbytes :], np.float32).reshape(truth.shape), truth)
            by_region = median_us(lambda: post("/v2/models/net/infer", request), 0.2)
            by_body = median_us(lambda: call(connection, x) and None, 0.2)
            post("/v2/cudasharedmemory/region/io/unregister", {})
    except (RuntimeError, CudaCallError, TailcutError) as error:
        return f"wrong: {error}"
    words = f"off by {worst:.1e}; a batch takes {by_region:,.0f} us, with a body {by_body:,.0f} us"
    return words if worst <= 1e-3 else f"wrong: {words}"


def _get(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    return connection.getresponse().read()

"""What one watcher of `GET /live` costs the server's event loop, idle and under load.

    python benchmarks/live.py [--pairs 10] [--seconds 4] [--rate 500]

First the processor time of one tick: a snapshot, the traces of that second's requests, a view, its encoding, and the
write to a socket; the middle of many ticks. It comes once a second, or less often where that is more than 0.1 % of a
core. Then the same from outside, with servers: the time of the loop's thread (/proc/PID/task/PID/schedstat) in blocks
without and with a client that reads the stream, in turns, as paired differences with their 99 % interval. That needs a
machine with nothing else to do: beside other work, what a request costs the loop varies by more than a watcher does.
`--pairs 0` leaves it out.
"""

import argparse
import asyncio
import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import perceptron
from serving import first_line, running

from tailcut import Model
from tailcut.lab.arrivals import Constant
from tailcut.lab.client import open_loop
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import infer_payload
from tailcut.live.pace import EVERY_S
from tailcut.live.pace import SHARE as LIMIT
from tailcut.machine.fingerprint import fingerprint
from tailcut.runtime.tracing.timeline import Events
from tailcut.server.app import _alone
from tailcut.server.broadcast import Broadcast
from tailcut.server.context import Context
from tailcut.server.limits import ServerLimits
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel
from tailcut.stats.rank import signed_rank_interval

_OTHERS = np.zeros(64 << 20, np.uint8)
FEWEST_PAIRS = 8
WATCH = b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def serving(sources: list[str]) -> Iterator[tuple[int, int]]:
    """The process whose main thread is the loop, and the port."""
    command = [sys.executable, "-m", "tailcut", "serve", *sources, "--port", "0", "--json"]
    with running(command) as child:
        port = int(json.loads(first_line(child))["port"])
        yield child.pid, port


def cpu_ns(pid: int) -> int:
    """What the thread has run since it began."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])


@contextmanager
def watcher(port: int) -> Iterator[None]:
    """A client that reads the stream on a thread, from its first view on: joining and the doctor's checks are over."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(WATCH)
        sock.settimeout(30)
        data = b""
        while not all(event in data for event in (b"event: view\n", b"event: findings\n")):
            piece = sock.recv(65536)
            if not piece:
                raise SystemExit("the server closed the stream before its first view")
            data += piece
        sock.settimeout(None)

        def read() -> None:
            with suppress(OSError):
                while sock.recv(65536):
                    pass

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield
        finally:
            sock.shutdown(socket.SHUT_RDWR)
            thread.join()


class Client:
    """A watcher whose socket is read by this process."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.bytes = 0

    def show(self, view: bytes) -> None:
        self.bytes = self.ours.send(view)

    def tell(self, kind: str, event: bytes) -> None:
        self.ours.send(event)

    def end(self, event: bytes) -> None:
        """Nothing ends here."""


async def tick_us(path: Path, models: int, rate: int, ticks: int = 100) -> tuple[float, int]:
    """The middle time of one tick, and the bytes of its event; the first model answers so many requests before each."""
    with ExitStack() as stack:
        opened = [stack.enter_context(Model.open(path)) for _ in range(models)]
        served = [ServedModel(model, f"model{number}") for number, model in enumerate(opened)]
        context = Context(ModelRepository(served), ready=True)
        context.events, context.processes = (Events(),), partial(_alone, context)
        broadcast = Broadcast(context, ServerLimits(), asyncio.get_running_loop())
        client = Client()
        broadcast.join(client)
        if broadcast._looking is not None:
            await broadcast._looking
        took = []
        for _ in range(ticks):
            _answer(served[0], rate)
            client.theirs.setblocking(False)
            with suppress(BlockingIOError):
                client.theirs.recv(1 << 20)
            broadcast._timer.cancel()
            _OTHERS[:] += 1  # a second of other work: nothing of the last tick is in a cache
            began = time.thread_time_ns()
            broadcast._tick(0.0)
            took.append(time.thread_time_ns() - began)
        broadcast.leave(client)
        return float(np.median(took)) / 1e3, client.bytes


def _answer(served: ServedModel, requests: int) -> None:
    """Count and trace requests, as the server does when it has answered them."""
    counts, now = served.model.entry.scheduler.counts, time.monotonic_ns()
    counts.requests += requests
    counts.rows += requests
    counts.batches += requests // 4
    for number in range(requests):
        begin = now - 1_000_000 - number
        served.latency.add(100_000 + number)
        ended = begin + 100_000 + number
        served.timeline.record(begin, begin, begin, begin, ended, ended, ended, ended + 9000, 1, 4, 256, 200)


def block(pid: int, seconds: float) -> float:
    """The share of a core that the loop used."""
    before, began = cpu_ns(pid), time.monotonic_ns()
    time.sleep(seconds)
    return (cpu_ns(pid) - before) / (time.monotonic_ns() - began)


def measure(pid: int, port: int, pairs: int, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """The shares without and with a watcher, alternately; what joining costs is before the block."""
    alone, watched = np.empty(pairs), np.empty(pairs)
    block(pid, 1.0)
    for number in range(pairs):
        alone[number] = block(pid, seconds)
        with watcher(port):
            watched[number] = block(pid, seconds)
    return alone, watched


def run(name: str, sources: list[str], rate: float, pairs: int, seconds: float) -> None:
    """One line of the table."""
    with serving(sources) as (pid, port):
        length_s = pairs * (2 * seconds + 2.0) + 3.0
        target = LoadTarget(port=port)
        model = sources[0].partition("=")[0]
        row = {"x": np.zeros((1, 64), np.float32)}
        payload = infer_payload(target, model, row, "binary")
        load = threading.Thread(target=lambda: open_loop(target, [payload], rate=Constant(rate), duration_s=length_s))
        if rate:
            load.start()
        alone, watched = measure(pid, port, pairs, seconds)
        if rate:
            load.join()
    cost = signed_rank_interval(watched - alone)
    verdict = "met" if cost.point < LIMIT else "missed"
    print(
        f"{name:34} {np.median(alone):9.3%} {np.median(watched):9.3%}  {cost.point:8.4%} "
        f"({cost.low:.4%} to {cost.high:.4%})  limit {LIMIT:.1%}: {verdict}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rate", type=float, default=500.0)
    options = parser.parse_args()
    if 0 < options.pairs < FEWEST_PAIRS:
        parser.error(f"--pairs must be 0, or at least {FEWEST_PAIRS} for an interval of 99 %")
    print(fingerprint())
    with tempfile.TemporaryDirectory() as folder:
        path = perceptron(Path(folder) / "tiny.onnx", (64, 64, 8))
        print(f"{'one tick':34} {'time':>10}  {'every':>8}  {'of a core':>9}  {'event':>8}")
        for models, rate in ((1, 0), (1, 500), (1, 5_000), (1, 30_000), (10, 500)):
            us, size = asyncio.run(tick_us(path, models, rate))
            every_s = max(EVERY_S, us / 1e6 / LIMIT)
            name = f"{rate:,} requests/s, {models} {'model' if models == 1 else 'models'}"
            print(f"{name:34} {us:7.0f} us  {every_s:6.2f} s  {us / 1e6 / every_s:9.3%}  {size:6,} B", flush=True)
        if not options.pairs:
            return
        item, several = [f"tiny={path}"], [f"tiny={path}", *(f"tiny{number}={path}" for number in range(9))]
        print(f"{'of a core':34} {'alone':>9} {'watched':>9}  {'cost':>8}")
        for name, sources, rate in (
            ("idle, one model", item, 0.0),
            (f"{options.rate:g} requests/s, one model", item, options.rate),
            (f"{options.rate:g} requests/s, ten models", several, options.rate),
        ):
            run(name, sources, rate, options.pairs, options.seconds)


if __name__ == "__main__":
    main()

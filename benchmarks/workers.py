"""What a second worker process brings: requests per second and latency, and how connections spread over the workers.

    python benchmarks/workers.py [--models tiny,ranker] [--seconds 3] [--rounds 3] [--connections 128]

Load comes from wrk, one thread, on the same cores, so two workers and wrk compete for what there is: on two cores the
second worker is no free doubling, and that is what this program shows. One and two workers take turns; every
figure is the median of the rounds. The spread is each worker's share of the connections, read from the kernel's table
of sockets (/proc/net/tcp and /proc/PID/fd) while wrk runs. At the end 256 newcomers connect at once to two workers that
wrk keeps busy, and ask for one inference each: how long the first answer takes.
"""

import argparse
import json
import os
import selectors
import shutil
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import LAYERS, make
from serving import BUILD, DISPATCH, ENGINES, first_line, running, wrk

from tailcut.machine.fingerprint import fingerprint
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, IoSettings, Settings

WORKERS = (1, 2)
NEWCOMERS = 256
LIMIT_SHARE = 0.75  # of the connections, for the worker that has most of them


@contextmanager
def tailcut(name: str, model: Path, workers: int) -> Iterator[tuple[str, int]]:
    """A served model's URL and its process."""
    settings = Settings(
        engine=ENGINES[name],
        batching=BatchingSettings(max_batch_size=32, dispatch=DISPATCH[name]),
        io=IoSettings(busy_poll_us=100),
    )
    profile = BUILD / f"{name}.profile.toml"
    Profile.of_model(model, settings).save(profile)
    command = [sys.executable, "-m", "tailcut", "serve", str(profile), "--port", "0", "--json"]
    with running([*command, "--workers", str(workers)]) as child:
        yield f"http://127.0.0.1:{json.loads(first_line(child))['port']}/v2/models/{name}/infer", child.pid


def connections(parent: int, port: int) -> list[int]:
    """How many established connections to the port each of a process's children holds."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if int(row[1].split(":")[1], 16) == port and row[3] == "01"}
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [sum(_inode(entry) in inodes for entry in Path(f"/proc/{child}/fd").iterdir()) for child in children]


def _inode(entry: Path) -> str:
    try:
        return str(entry.readlink()).removeprefix("socket:[").removesuffix("]")
    except OSError:
        return ""


def spread(parent: int, port: int, count: int, into: list[list[int]], limit_s: float = 2.0) -> None:
    """Wait until all connections are established, and append each worker's number of them, sorted, to `into`."""
    most, end = 0, time.monotonic() + limit_s
    while time.monotonic() < end:
        result = connections(parent, port)
        most = max(most, sum(result))
        if sum(result) >= count:
            into.append(sorted(result))
            return
        time.sleep(0.01)
    print(f"no spread of this round: after {limit_s:g} s, at most {most} of {count} connections were established")


def spread_words(spreads: list[list[int]]) -> str:
    """How the connections spread over the workers, and whether the worker with most of them is under the limit."""
    if not spreads:
        return "connections: their spread is unknown, because they were never all established"
    most = max(max(item) / sum(item) for item in spreads)
    verdict = "under" if most <= LIMIT_SHARE else "OVER"
    return f"connections {spreads}: at most {most:.0%} at one worker, {verdict} the limit of {LIMIT_SHARE:.0%}"


def newcomers(port: int, request: bytes) -> list[float]:
    """Milliseconds that each of them takes to connect and to hear the beginning of its answer."""
    began = time.perf_counter()
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(NEWCOMERS):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
            selector.register(client, selectors.EVENT_WRITE)
        times: list[float] = []
        while len(times) < NEWCOMERS:
            events = selector.select(30)
            if not events:
                raise SystemExit(f"{NEWCOMERS - len(times)} newcomers have no answer after 30 s")
            for key, mask in events:
                if mask & selectors.EVENT_WRITE:
                    key.fileobj.sendall(request)
                    selector.modify(key.fileobj, selectors.EVENT_READ)
                else:
                    times.append(1e3 * (time.perf_counter() - began))
                    if not (answer := key.fileobj.recv(65536)).startswith(b"HTTP/1.1 200"):
                        raise SystemExit(f"a newcomer was not answered: {answer[:300]!r}")
                    selector.unregister(key.fileobj)
    return times


def measure_newcomers(name: str, args: argparse.Namespace) -> None:
    size = 4 * LAYERS[name][0]
    times: list[float] = []
    spreads: list[list[int]] = []
    for _ in range(args.rounds):
        with tailcut(name, make(name, BUILD / "models"), 2) as (url, pid):
            port = int(url.split(":")[2].split("/")[0])
            head = f"POST /{url.split('/', 3)[3]} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            head += "Content-Type: application/octet-stream\r\nInference-Header-Content-Length: 0\r\n"
            head += f"Content-Length: {size}\r\n\r\n"
            busy = threading.Thread(target=wrk, args=(url, "identical heads", name, size, args.connections, 4))
            busy.start()
            spread(pid, port, args.connections, spreads)
            times += newcomers(port, head.encode() + bytes(size))
            busy.join()
    quarter, half, last = (sorted(times)[round(share * (len(times) - 1))] for share in (0.25, 0.5, 0.99))
    print(
        f"{NEWCOMERS} newcomers beside {args.connections} busy connections: first answer after {quarter:,.0f} ms "
        f"(p25), {half:,.0f} ms (p50), {last:,.0f} ms (p99), {args.rounds} rounds"
    )


def measure(name: str, args: argparse.Namespace) -> None:
    model = make(name, BUILD / "models")
    runs: dict[int, list[tuple[float, float, float, int]]] = {workers: [] for workers in WORKERS}
    spreads: list[list[int]] = []
    for _ in range(args.rounds):
        for workers in WORKERS:
            with tailcut(name, model, workers) as (url, pid):
                wrk(url, "identical heads", name, 4 * LAYERS[name][0], 8, 1)
                watch = threading.Thread(
                    target=spread, args=(pid, int(url.split(":")[2].split("/")[0]), args.connections, spreads)
                )
                if workers > 1:
                    watch.start()
                runs[workers].append(
                    wrk(url, "identical heads", name, 4 * LAYERS[name][0], args.connections, args.seconds)
                )
                if workers > 1:
                    watch.join()
    print(f"\n{name}, {args.connections} connections")
    rates = {}
    for workers, result in runs.items():
        rates[workers], p50, p99 = (statistics.median(run[i] for run in result) for i in range(3))
        failed = sum(run[3] for run in result)
        print(
            f"{workers} worker{'s' if workers > 1 else ' '} {rates[workers]:>10,.0f} req/s  p50 {p50:>8,.0f} us  "
            f"p99 {p99:>8,.0f} us  {failed} failed"
        )
    print(f"2 workers / 1 worker: {rates[2] / rates[1]:.2f} of the rate")
    print(spread_words(spreads))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="tiny,ranker")
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=128)
    args = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not installed: apt-get install wrk")
    BUILD.mkdir(exist_ok=True)
    print(f"{fingerprint()['cpu']}, {os.cpu_count()} CPUs shared with the client")
    for name in args.models.split(","):
        measure(name, args)
        measure_newcomers(name, args)


if __name__ == "__main__":
    main()

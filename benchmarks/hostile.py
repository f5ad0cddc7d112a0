"""How long the event loop is held by each hostile input: bytes sent, and the longest wait of a client beside it.

    python benchmarks/hostile.py [--source SRC] [--repeats 3] [--only WORD]

A real `tailcut serve` answers a probe (`GET /v2/health/live`, again and again on one connection) while another
connection sends the input. The figure is the probe's longest wait, or the CPU time that the server's loop thread spent
meanwhile where that is less: what other processes take from it does not count. The median of the repeats is shown.
`--source` names the `src` folder of another checkout, to compare with.
"""

import argparse
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from tests.server.hostile import ALL, Hostile, make_models  # noqa: E402  the folder is on the path only now
from tests.servers import Server, serving  # noqa: E402

_PROBE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
_QUIET_S = 0.2  # without a word from the server, and it is done with an input
_LIMIT_S = 20.0


def loop_cpu_ns(server: Server) -> int:
    """CPU time that the server's first thread has spent: the one with the event loop."""
    return int(Path(f"/proc/{server.process.pid}/task/{server.process.pid}/schedstat").read_text().split()[0])


def longest_wait_s(server: Server, hostile: Hostile) -> float:
    """The probe's longest wait while the input is sent and answered, as far as the loop's thread computed."""
    done = threading.Event()
    sender = threading.Thread(target=_send, args=(server, hostile, done))
    longest = 0.0
    with socket.create_connection((server.host, server.port), 60) as probe:
        probe.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _ask(probe)
        sender.start()
        while not done.is_set():
            cpu, began = loop_cpu_ns(server), time.perf_counter()
            _ask(probe)
            waited = time.perf_counter() - began
            longest = max(longest, min(waited, (loop_cpu_ns(server) - cpu) / 1e9))
    sender.join()
    return longest


def _ask(probe: socket.socket) -> None:
    probe.sendall(_PROBE)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += probe.recv(65536)


def _send(server: Server, hostile: Hostile, done: threading.Event) -> None:
    """Send the input while reading what is answered, until the server closes or has no more to say."""
    end = time.monotonic() + _LIMIT_S
    try:
        port = server.grpc_port if hostile.grpc else server.port
        with socket.create_connection((server.host, port), 5) as sock:
            sock.setblocking(False)
            data = memoryview(hostile.data)
            quiet_since = time.monotonic()
            while time.monotonic() < end:
                moved = False
                try:
                    if data:
                        data = data[sock.send(data[:262144]) :]
                        moved = True
                except BlockingIOError:
                    pass
                try:
                    if not sock.recv(262144):
                        return
                    moved = True
                except BlockingIOError:
                    pass
                if moved:
                    quiet_since = time.monotonic()
                elif not data and time.monotonic() - quiet_since > _QUIET_S:
                    return
                else:
                    time.sleep(0.0005)
    except OSError:
        return
    finally:
        done.set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="the src folder of another checkout")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    if arguments.source:
        os.environ["PYTHONPATH"] = str(Path(arguments.source).resolve())
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(Path(folder))
        with serving(Path(folder), *models, "--grpc-port", "0") as server:
            print(f"{'input':<44}{'bytes':>12}{'longest wait, ms':>18}")
            for name, hostile in ALL.items():
                if arguments.only in name:
                    waits = [longest_wait_s(server, hostile) for _ in range(arguments.repeats)]
                    print(f"{name:<44}{len(hostile.data):>12,}{statistics.median(waits) * 1e3:>18.1f}", flush=True)
            server.stop()


if __name__ == "__main__":
    main()

"""What a second copy does for a call whose worker stalls: latency with and without hedging.

    python benchmarks/hedging.py [--seconds 4] [--rounds 3]

Two workers serve `tiny`. Three times a second one of them, in turn, is stopped for 40 ms (SIGSTOP, SIGCONT), as a page
fault or a neighbour does. One thread calls 200 times a second at planned times; latency counts from the planned time,
so a stall is charged for every call that it delays. Both ways meet the same stalls, in turns.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from itertools import cycle
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import LAYERS, make
from serving import BUILD, first_line, running

from tailcut import Client
from tailcut.client import Hedge
from tailcut.machine.fingerprint import fingerprint

RATE = 200
STALL_S, EVERY_S = 0.040, 0.333
LIMIT = 0.5  # the hedged p99, in the plain one's


def stall(workers: list[int], over: threading.Event) -> None:
    """Stop one worker after the other for a moment until it is over."""
    for worker in cycle(workers):
        if over.wait(EVERY_S - STALL_S):
            return
        os.kill(worker, signal.SIGSTOP)
        over.wait(STALL_S)
        os.kill(worker, signal.SIGCONT)


def calls(client: Client, seconds: float) -> list[float]:
    """Milliseconds from each call's planned time to its answer."""
    x = {"x": np.zeros((1, LAYERS["tiny"][0]), np.float32)}
    times, start = [], time.perf_counter()
    for number in range(int(seconds * RATE)):
        planned = start + number / RATE
        time.sleep(max(0.0, planned - time.perf_counter()))
        client.infer("tiny", x)
        times.append((time.perf_counter() - planned) * 1e3)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    model = make("tiny", BUILD / "models")
    command = [sys.executable, "-m", "tailcut", "serve", str(model), "--port", "0", "--json", "--workers", "2"]
    times: dict[str, list[float]] = {"plain": [], "hedged": []}
    with running(command) as child:
        url = f"http://127.0.0.1:{json.loads(first_line(child))['port']}"
        workers = [int(pid) for pid in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()]
        with Client(url) as plain, Client(url, hedge=Hedge()) as hedged:
            ways = {"plain": plain, "hedged": hedged}
            for client in ways.values():
                calls(client, 0.5)  # and the hedge learns what a call takes
            over = threading.Event()
            stalls = threading.Thread(target=stall, args=(workers, over))
            stalls.start()
            for _ in range(args.rounds):
                for name, client in ways.items():
                    times[name] += calls(client, args.seconds)
            over.set()
            stalls.join()
    print(
        f"{fingerprint()['cpu']}; {RATE} calls/s, a worker stalls {STALL_S * 1e3:.0f} ms every {EVERY_S * 1e3:.0f} ms"
    )
    for name, values in times.items():
        p50, p99 = np.quantile(values, [0.5, 0.99])
        print(f"{name:<7} p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  slowest {max(values):6.2f} ms  {len(values)} calls")
    ratio = float(np.quantile(times["hedged"], 0.99) / np.quantile(times["plain"], 0.99))
    print(f"hedged / plain p99: {ratio:.2f}, {'under' if ratio < LIMIT else 'OVER'} the limit of {LIMIT}")


if __name__ == "__main__":
    main()

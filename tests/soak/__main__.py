"""Soak test, of hours if wanted: mixed traffic with clients that disconnect, then overload.

    python -m tests.soak [--seconds 60] [--requests 100000]

The mixed part sends at least `--requests` and goes on for half of `--seconds`; the other half is overload. Prints each
figure beside its limit, the slope of memory, open files and latency over the mixed part among them; exit code 1 when
one is missed.
"""

# ruff: noqa: T201  it is a program
import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from tests.server.sound import usage
from tests.servers import Server, serving
from tests.soak.mixed import make_models, mixed
from tests.soak.overload import DEADLINE_S, OPTIONS, make_profile, overload

ROUND = 5000  # requests between two looks


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    limit: float
    unit: str
    least: bool = False  # whether the limit is a lower one

    @property
    def held(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit

    def line(self) -> str:
        sign = ">=" if self.least else "<="
        missed = "" if self.held else "MISSED"
        return f"{self.name:52s}{self.value:14,.2f}  {sign} {self.limit:<12,.2f}{self.unit:12s}{missed}"


def slope(looks: list[tuple[float, float]]) -> float:
    """Growth per second by least squares, without the first third, in which buffers and caches fill."""
    settled = np.array(looks[len(looks) // 3 :])
    return float(np.polyfit(settled[:, 0], settled[:, 1], 1)[0]) if len(settled) > 2 else 0.0


def soak_mixed(server: Server, seconds: float, requests: int) -> list[Figure]:
    process = psutil.Process(server.process.pid)
    before = usage(server)
    memory, files, latency = [], [], []
    sent, faults, answered, left, refused = 0, [], 0, 0, 0
    began = time.monotonic()
    while sent < requests or time.monotonic() < began + seconds:
        tally = mixed(server, sent + 1, ROUND, seed=sent)
        sent += ROUND
        faults += tally.faults
        answered += tally.answered
        refused += tally.refused
        left += sum(tally.left.values())
        now = time.monotonic() - began
        memory.append((now, process.memory_info().rss / 2**20))
        files.append((now, float(server.open_files())))
        latency.append((now, float(np.median(tally.latencies)) * 1e6))
        print(f"\r{sent:,} requests, {memory[-1][1]:.0f} MiB, p50 {latency[-1][1]:.0f} us ", end="", file=sys.stderr)
    print(file=sys.stderr)
    for fault in faults[:10]:
        print(fault, file=sys.stderr)
    end = time.monotonic() + 10
    after = usage(server)
    while after != before and time.monotonic() < end:
        after = usage(server)
    leaked = sum(max(0.0, after[name] - before[name]) for name in before)
    typical = float(np.median([value for _, value in latency]))
    span = memory[-1][0]
    return [
        Figure("mixed requests sent", sent, requests, "", least=True),
        Figure("  answered with their own input", answered, 0.7 * sent, "", least=True),
        Figure("  whose client left", left, 0.1 * sent, "", least=True),
        Figure("  refused", refused, 0.05 * sent, ""),
        Figure("  answered wrongly or not at all", len(faults), 0, ""),
        Figure("rows, buffers, tasks, connections, files left over", leaked, 0, ""),
        Figure("slope of memory", slope(memory) * 60, max(0.5, 600 / span), "MiB/min"),
        Figure("slope of open files", slope(files) * 60, 1, "files/min"),
        Figure("slope of the median latency over the run", slope(latency) * span / typical * 100, 50, "%"),
    ]


def soak_overload(server: Server, seconds: float) -> list[Figure]:
    seen = overload(server, seconds)
    return [
        Figure("offered, in times of the peak", seen.offered / seen.peak, 8, "x", least=True),
        Figure("goodput", 100 * seen.goodput / seen.peak, 90, "% of peak", least=True),
        Figure("p99 of what was accepted", seen.p99_s * 1e3, DEADLINE_S * 1e3, "ms"),
        Figure("neither answered nor refused", seen.others, 0, ""),
        Figure("memory gained", seen.grown_bytes / 2**20, 16, "MiB"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serving(folder, *make_models(folder)) as server:
            figures = soak_mixed(server, args.seconds / 2, args.requests)
            codes = [server.stop()]
        with serving(folder, make_profile(folder), *OPTIONS) as server:
            figures += soak_overload(server, args.seconds / 2)
            codes.append(server.stop())
    figures.append(Figure("exit codes", sum(codes), 0, ""))
    for figure in figures:
        print(figure.line())
    return int(not all(figure.held for figure in figures))


if __name__ == "__main__":
    sys.exit(main())

"""The dispatch to a CUDA device: right answers, and what each part costs, in one call of less than eight minutes.

    python benchmarks/gpu_dispatch.py [--device cuda] [--seconds 1] [--deadline 450]
    python benchmarks/gpu_dispatch.py --device cpu --small          tries the program where there is no device

It prints, the most important first:
- the rates of copies, pinned and not, and the node of the device;
- the same program behind `tailcut serve`: answers, rows per second of clients that send whole batches, bytes per second
  against the rate of copies, the p50 of one row, the p99 of single rows at half of their load, and tensors in memory of
  this process on the device;
- beside that, what the same clients see of an echo: they are threads of Python, and a goal that they miss there, too,
  is not judged;
- for each strategy on and off: answers against float32 on the CPU, rows per second of bound calls from as many threads
  as instances, against one captured graph on data that is on the device, timed with events, and the p50 of one row
  against one replay of its graph; for what is compiled, how long that took;
- the server with its threads on the device's node, and with batches routed to the CPU as well;
- each goal, met or missed.

What no longer fits before the deadline is skipped, and listed. Needs PyTorch and numpy, and no other engine. Exit code
1: an answer is wrong. Without a device it prints what is not proven, and ends.
"""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

try:
    import torch
except ImportError:
    print("gpu_dispatch needs PyTorch: pip install 'tailcut[torch]'")
    sys.exit(0)  # nothing is wrong, and the other benchmarks go on

from gpu.server import FEWEST_P99, Floor, Net, Served, floor, quantile, serve
from gpu.strategies import FIRST, Bench, Measured, Strategy, program, strategies, where_is

from tailcut.engines import EngineOptions
from tailcut.engines.cuda.device import ComputeDevice, Cuda, StandIn
from tailcut.errors import TailcutError
from tailcut.runtime.settings import BatchingSettings, SecondEngine, Settings

LEAST_SHARE = 0.9  # of the rate of a graph alone
MOST_EXTRA_US = 100.0  # beside one replay
LOOSE = {"f32": 1e-3, "tf32": 1e-2, "bf16": 5e-2, "f16": 2e-2, "int8": 5e-2}  # of the largest answer
COLUMNS = (
    "strategy",
    "worst answer",
    "rows/s",
    "against",
    "bytes of the bus",
    "of the graph alone",
    "p50 of a row, us",
    "to a replay",
    "MiB",
)
# The same list as in docs/guide/gpu.md.
UNPROVEN = """
- `engines/cuda/device.py`: streams, events and their times, capturing and what is left where it fails, registering
  memory and giving it back, the switch for tf32, recovering, and that nothing but the device is waited for;
- that a capture succeeds while other engines of the process have batches to launch, which wait for it, and beside a
  model of onnxruntime, which captures by itself;
- that an index out of bounds never gets to the device, and what an assertion of a kernel leaves of the process and
  its readiness;
- that memory which CUDA refuses to register fails no later launch: a launch is made to clear the error;
- the constants of programs that `torch.export` moved to the device, and the answers of f32, tf32, bf16, f16, int8,
  channels-last and uint8 there, with and without graphs;
- each setting of `engine.cuda` on and off: that copying in, computing and copying out overlap, what pinned rows gain,
  and that graphs which share their memory give the right outputs and take less of it;
- torch.compile on the device: its kernels in Triton, captured for each bucket, with each precision, and how long
  compiling takes;
- whether int8 weights are faster than bfloat16, and from which size on;
- `machine/cuda_driver.py` with the real driver: opening memory by a handle, its size (`cuMemGetAddressRange` of
  memory of another process), copies beside those of the engines, a client that frees its memory or ends while a
  region is registered;
- `engine.numa` beside a real device, and what the node gains;
- onnxruntime's provider: that its options are taken, graphs by number and thread, copies in and out, its precisions,
  and the words of its errors;
- the words of PyTorch's and CUDA's errors for no memory, a lost device and a missing operator, and what each leaves
  behind: tests have those of their documentation and source;
- `tune --device cuda` beyond what it offers: that the search ends in time where candidates compile, and routing with
  the costs of a device;
- `doctor` on real reports, NVLink, NVML's figures;
- more than one device: an `engine.cuda.index` beyond 0, and replicas of Ray Serve that are given a device;
- `benchmarks/gpu_dispatch.py` and the tests marked gpu themselves: the events that time a replay, the memory that is
  lent to another process, tolerances, and whether it ends in 450 s;
- all goals: throughput through the server against data on the device (90 %), p50 of one row against one replay (100
  us more), bytes against the rate of the bus, p99 at half of the load.
"""


class OutOfTimeError(BaseException):
    """The deadline has come; no handler of errors may take it for one of theirs."""


class Report:
    """What was skipped, what is wrong, and the goals."""

    def __init__(self, deadline_s: float) -> None:
        self.began, self.deadline_s = time.monotonic(), deadline_s
        self.skipped: list[str] = []
        self.wrong: list[str] = []
        self.goals: list[str] = []
        self.step = "the program"

    def begin(self, step: str, needs_s: float) -> bool:
        """Whether a step still fits."""
        fits = time.monotonic() - self.began + needs_s < self.deadline_s
        if fits:
            self.step = step
        else:
            self.skipped.append(f"{step} (needs {needs_s:.0f} s)")
        return fits

    def answer(self, label: str, worst: float, most: float) -> None:
        if not worst <= most:
            self.wrong.append(f"{label}: off by {worst:.1e}, at most {most:.0e}")

    def share(self, what: str, share: float, floor: float | None = None) -> None:
        """A share of the rate of the graph alone; of an echo, the same clients saw `floor`."""
        words = f"rows/s {what}: {share:.2f} of the graph alone (goal: {LEAST_SHARE}{beside(floor, '.2f')})"
        self.goals.append(f"{words}: {verdict(share >= LEAST_SHARE, floor is None or floor >= LEAST_SHARE)}")

    def extra(self, what: str, extra_us: float, floor_us: float | None = None) -> None:
        """Microseconds to a replay; of an echo, the same client saw `floor_us` in all."""
        most = f"goal: {MOST_EXTRA_US:.0f} at most{beside(floor_us, ',.0f')}"
        words = f"p50 of a row {what}: {extra_us:+,.0f} us to a replay ({most})"
        self.goals.append(
            f"{words}: {verdict(extra_us <= MOST_EXTRA_US, floor_us is None or floor_us <= MOST_EXTRA_US)}"
        )

    def end(self, device: str) -> None:
        print(f"\ngoals ({device})")
        goals = [f"answers against float32 on the CPU: {verdict(not self.wrong)}", *self.goals]
        print("\n".join(f"- {goal}" for goal in goals))
        for heading, lines in (("wrong", self.wrong), ("skipped for want of time", self.skipped)):
            print("".join(f"{heading}: {line}\n" for line in lines), end="")
        print(f"took {time.monotonic() - self.began:.0f} s of {self.deadline_s:.0f}")


class Run:
    """Everything, the most important first."""

    def __init__(self, asked: argparse.Namespace, bench: Bench, report: Report) -> None:
        self.asked, self.bench, self.report = asked, bench, report
        self.found: dict[str, Measured] = {}
        self.eager_s = (1 if asked.small else 4) + 4 * bench.seconds
        self.compiled_s = (20 if asked.small else 60) + self.eager_s
        self.server_s = 15 + 17 * bench.seconds
        self.floor: Floor | None = None  # of the clients of the servers
        self.bus = bench.copy_rates(1 << (20 if asked.small else 28))  # bytes per second in and out

    def all(self) -> None:
        print(f"place: {where_is(self.bench.device)}")
        self.report.begin(FIRST, self.eager_s)
        first = self.found[FIRST] = self.bench.measure(Strategy(FIRST), None)
        row = self.line(Strategy(FIRST))
        self.report.share("of bound calls", first.share)
        self.report.extra("of bound calls", first.extra_us)
        self.server("plain")
        print(f"\nbatches of {self.bench.batch}, with + where a goal is met and - where it is missed")
        print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n{row}", flush=True)
        for strategy in strategies(self.bench.odd):
            if strategy.label.startswith(self.asked.only):
                self.strategy(strategy)
        self.server("threads on the device's node", numa=True)
        self.server("batches routed to the CPU as well", route=True)

    def strategy(self, strategy: Strategy) -> None:
        needs_s = self.compiled_s if "compiler" in strategy.options else self.eager_s
        if not self.report.begin(strategy.label, needs_s):
            return
        try:
            self.found[strategy.label] = self.bench.measure(strategy, self.found[FIRST])
        except TailcutError as error:
            print(f"| {strategy.label} | {error} |{' |' * (len(COLUMNS) - 2)}", flush=True)
        else:
            print(self.line(strategy), flush=True)

    def line(self, strategy: Strategy) -> str:
        """A row of the table; its answers are judged."""
        result, other = self.found[strategy.label], self.found.get(strategy.against)
        self.report.answer(strategy.label, result.worst, LOOSE[self.bench.options(strategy).precision])
        compares = other is not None and other is not result
        row_bytes = (self.bench.pixels if strategy.pixels else self.bench.x)[:1].nbytes
        cells = (
            strategy.label + (f", {result.load_s:.0f} s to load" if "compiler" in strategy.options else ""),
            f"{result.worst:.1e}",
            f"{result.rows_per_s:,.0f}",
            f"{result.rows_per_s / other.rows_per_s:.2f} of {strategy.against}" if compares else "",
            f"{result.rows_per_s * row_bytes / self.bus[0]:.3f}",
            f"{result.share:.2f} {'+' if result.share >= LEAST_SHARE else '-'}",
            f"{result.row_us:,.0f}",
            f"{result.extra_us:+,.0f} {'+' if result.extra_us <= MOST_EXTRA_US else '-'}",
            f"{result.memory_mib}",
        )
        return f"| {' | '.join(cells)} |"

    def server(self, way: str, *, numa: bool = False, route: bool = False) -> None:
        """The program behind a server."""
        title, plain = f"the server, {way}", not numa and not route
        if not self.report.begin(title, self.server_s):
            return
        bench, device = self.bench, self.asked.device
        engine = EngineOptions(name="torch", device=device, instances=2, numa=numa)
        second = SecondEngine(use="route", engine=EngineOptions(name="torch")) if route else None
        batching = BatchingSettings(max_batch_size=bench.batch, rows="independent", second=second)
        net, region = Net(bench.path, bench.x, bench.truth), plain and device == "cuda"
        try:
            self.floor = self.floor or floor(net, bench.seconds)
            served = serve(net, Settings(engine=engine, batching=batching), bench.seconds, region=region)
        except RuntimeError as error:
            self.report.wrong.append(f"{title}: {error}")
            return
        self.report.answer(title, served.worst, LOOSE["f32"])
        if served.region.startswith("wrong"):
            self.report.wrong.append(f"{title}: tensors in memory on the device: {served.region}")
        first, alone = self.found[FIRST], self.floor
        share, extra_us = served.batch_rows_per_s / first.alone_per_s, served.row_us - first.replay_us
        print(f"\nthrough {title}: worst answer {served.worst:.1e}")
        print(f"- batches of {bench.batch}: {served.batch_rows_per_s:,.0f} rows/s, {share:.2f} of the graph alone")
        print(f"- one row from one client: p50 {served.row_us:,.0f} us, {extra_us:+,.0f} to a replay")
        print(
            f"- of an echo, the same clients see {alone.batch_rows_per_s:,.0f} rows/s in batches, "
            f"{alone.single_rows_per_s:,.0f} in single rows, and a p50 of {alone.row_us:,.0f} us"
        )
        if route:
            print(f"- batches that the second engine computed: {served.second}")
        self.details(served)
        if plain:
            self.report.share("through the server", share, alone.batch_rows_per_s / first.alone_per_s)
            self.report.extra("through the server", extra_us, alone.row_us)

    def details(self, served: Served) -> None:
        """Bytes, tails, and tensors on the device."""
        for way, rows, rate in zip(("in", "out"), (self.bench.x, self.bench.truth), self.bus, strict=True):
            moved = served.batch_rows_per_s * rows[:1].nbytes
            print(f"- bytes {way}: {1e-9 * moved:.3f} GB/s, {moved / rate:.4f} of the bus")
        load = f"single rows at half of their load ({served.single_rows_per_s / 2:,.0f} rows/s)"
        if len(served.late_ms) >= FEWEST_P99:
            print(f"- {load}: p50 {quantile(served.late_ms, 0.5):.2f} ms, p99 {quantile(served.late_ms, 0.99):.2f} ms")
        else:
            print(f"- {load}: {len(served.late_ms)} answers are too few for a p99")
        if served.region:
            print(f"- tensors in memory on the device: {served.region}")


def verdict(met: bool, reachable: bool = True) -> str:  # noqa: FBT001, FBT002  a word for it
    missed = "missed" if reachable else "not told: these clients miss it with an echo, too"
    return "met" if met else missed


def beside(floor: float | None, form: str) -> str:
    return "" if floor is None else f"; an echo: {floor:{form}}"


def stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise OutOfTimeError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="a small network and short loops: to try the program")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    parser.add_argument("--deadline", type=float, default=450.0, help="seconds that everything may take")
    parser.add_argument("--only", default="", help="strategies whose label begins so, such as bf16; default: all")
    asked = parser.parse_args()
    report = Report(asked.deadline)
    try:
        device: ComputeDevice = Cuda() if asked.device == "cuda" else StandIn()
    except TailcutError as error:
        print(f"{error}\n\nNot proven on a device:{UNPROVEN}", end="")
        return
    name = "the CPU as a stand-in: no figure means anything" if asked.device == "cpu" else torch.cuda.get_device_name()
    print(f"{name}; PyTorch {torch.__version__}")
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, asked.deadline)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path, shape = program(Path(folder), small=asked.small)
            seconds, batch = (0.1, 4) if asked.small else (asked.seconds, 32)
            Run(asked, Bench(path, device, seconds, batch, shape), report).all()
        except OutOfTimeError:
            report.skipped.append(f"{report.step}, which the deadline ended, and what comes after it")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    report.end(name)
    sys.exit(bool(report.wrong))


if __name__ == "__main__":
    main()

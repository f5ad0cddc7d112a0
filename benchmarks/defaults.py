"""What the measured defaults of a bare model are worth, beside the fixed ones and a profile by hand, in one run.

    python benchmarks/defaults.py [--models tiny,ranker,digits,encoder,resnet18] [--seconds 180]

Contestants: `tailcut serve MODEL --no-auto` (fixed), `tailcut serve MODEL` (measured) and a profile with one engine
thread, `inline` and batches of 32 (inline). All compute in float32 on onnxruntime. Their servers are started one after
the other and stay up; Tailcut's compiled load generator asks them in turns, closed loop, one row a request, on the same
cores, with one number of connections after the other, as many rounds as there is time for: `--seconds` is shared out
among the models.

A cell has requests per second (median of the rounds), p50 and p99 in milliseconds (all rounds; a p99 needs 459 answers)
and the server's CPU time for a request in microseconds. Ratios are medians of each round's own, with the least and the
largest: on a machine with other work, read those. `start` is the time from the command to the ready line.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import LAYERS, make
from serving import BUILD, first_line, running

from tailcut.engines.base import EngineOptions
from tailcut.lab.client import closed_loop
from tailcut.lab.cost import watched
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import ask, infer_payload
from tailcut.models import digits_model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.wire.v2.call import model_path

FIXED, MEASURED, INLINE = "fixed", "measured", "inline"
CONNECTIONS = {
    "tiny": (1, 16, 64),
    "ranker": (1, 16, 128),
    "digits": (1, 16, 128),
    "encoder": (1, 16, 64),
    "resnet18": (1, 16, 64),
}
SECONDS = {"encoder": 2.0, "resnet18": 4.0}  # of one turn, where a call takes long
TURN_S = 0.4
BY_HAND = Settings(
    engine=EngineOptions(threads=1, spinning=False), batching=BatchingSettings(max_batch_size=32, dispatch="inline")
)
FEWEST = 459  # answers, for a p99


@dataclass
class Cell:
    """The turns of one contestant with one number of connections."""

    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    latencies_ns: list[np.ndarray] = field(default_factory=list)

    def add(self, rate: float, cpu_us: float, latencies_ns: np.ndarray) -> None:
        self.rates.append(rate)
        self.cpu_us.append(cpu_us)
        self.latencies_ns.append(latencies_ns)

    def text(self) -> str:
        latencies_ms = np.concatenate(self.latencies_ns) / 1e6
        if not len(latencies_ms):  # slower than a turn
            return f"{'-':>10s}{'-':>8s}{'-':>8s}{'-':>8s}"
        p50, p99 = np.quantile(latencies_ms, (0.5, 0.99))
        tail = f"{p99:.2f}" if len(latencies_ms) >= FEWEST else "-"
        return f"{statistics.median(self.rates):>10,.0f}{p50:>8.2f}{tail:>8s}{statistics.median(self.cpu_us):>8,.0f}"


def inputs_of(name: str) -> dict[str, np.ndarray]:
    """A request of one row."""
    random = np.random.default_rng(0)
    if name == "encoder":
        return {"ids": random.integers(0, 4096, (1, 64)), "mask": np.ones((1, 64), np.int64)}
    if name == "digits":
        return {"image": random.standard_normal((1, 1, 8, 8)).astype(np.float32)}
    shape = (3, 224, 224) if name == "resnet18" else (LAYERS[name][0],)
    return {"x": random.standard_normal((1, *shape)).astype(np.float32)}


@contextmanager
def serving(label: str, model: Path) -> Iterator[tuple[LoadTarget, int]]:
    """A contestant's server: its address, and its process. Prints how long it took, and what it chose."""
    source = [str(model)]
    if label == FIXED:
        source.append("--no-auto")
    elif label == INLINE:
        profile = BUILD / f"defaults-{model.stem}.profile.toml"
        Profile.of_model(model, BY_HAND).save(profile)
        source = [str(profile)]
    began = time.monotonic()
    with running([sys.executable, "-m", "tailcut", "serve", *source, "--port", "0", "--json"]) as child:
        address = json.loads(first_line(child))
        print(f"  {label}: start {time.monotonic() - began:.2f} s", flush=True)
        yield LoadTarget(address["host"], address["port"]), child.pid


def turn(target: LoadTarget, pid: int, name: str, connections: int) -> tuple[float, float, np.ndarray]:
    """Requests per second, CPU microseconds per request, and latencies; no request may fail."""
    inputs = inputs_of(name)
    payloads = [infer_payload(target, name, inputs, "raw" if len(inputs) == 1 else "binary")]
    seconds = SECONDS.get(name, TURN_S)
    result, cost = watched(
        pid,
        lambda: closed_loop(target, payloads, concurrency=connections, duration_s=seconds, warmup_s=seconds / 5),
    )
    if result.errors or cost is None:
        raise SystemExit(f"{name} at {connections} connections: {result.errors or 'the server ended'}")
    return result.rate_achieved, cost.cpu_ns / 1e3 / max(1, result.answered), result.latencies_ns


def measure(name: str, end: float) -> None:
    """One round at least, and others until the time is over."""
    model = digits_model() if name == "digits" else make(name, BUILD / "models")
    cells: dict[tuple[str, int], Cell] = {}
    print(f"\n{name}", flush=True)
    with ExitStack() as stack:
        servers = {label: stack.enter_context(serving(label, model)) for label in (FIXED, MEASURED, INLINE)}
        target = servers[MEASURED][0]
        print(f"  measured: {chosen(target, model.stem)}")
        began, rounds = time.monotonic(), 0
        while not rounds or time.monotonic() + (time.monotonic() - began) / rounds < end:
            for connections in CONNECTIONS[name]:
                for label, (target, pid) in servers.items():
                    cell = cells.setdefault((label, connections), Cell())
                    cell.add(*turn(target, pid, name, connections))
            rounds += 1
    show(cells, CONNECTIONS[name])


def chosen(target: LoadTarget, name: str) -> str:
    """The choice of the measured defaults, as the server tells it."""
    return ask(target, "GET", f"{model_path(name)}/config")["parameters"]["defaults"]["string_value"]


def show(cells: dict[tuple[str, int], Cell], connections: tuple[int, ...]) -> None:
    labels = (FIXED, MEASURED, INLINE)
    heads = "".join(f"{f'{label}: req/s':>16s}{'p50':>8s}{'p99':>8s}{'CPU':>8s}" for label in labels)
    print(f"{'':>6s}{heads}{'measured / fixed':>24s}{'measured / inline':>24s}")
    for count in connections:
        row = "".join(f"{'':6s}{cells[label, count].text()}" for label in labels)
        ours = cells[MEASURED, count].rates
        ratios = "".join(f"{ratio(ours, cells[label, count].rates):>24s}" for label in (FIXED, INLINE))
        print(f"{count:>6d}{row}{ratios}", flush=True)


def ratio(ours: list[float], theirs: list[float]) -> str:
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True) if mine and other]
    if not ratios:
        return "-"
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(CONNECTIONS))
    parser.add_argument("--seconds", type=float, default=180)
    args = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    names = args.models.split(",")
    for name in names:
        measure(name, time.monotonic() + args.seconds / len(names))


if __name__ == "__main__":
    main()

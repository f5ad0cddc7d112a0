"""What models in one server do to each other: idle neighbours, calls in series, all under load; and a joint tune.

    python benchmarks/neighbours.py [--rounds 4] [--no-tune]

Three models (reference_models.py: tiny, ranker, resnet18), served in four ways, measured in turns:

- alone    a server for each, with the options of a bare model: what a model is without neighbours
- apart    the same with threads that sleep between calls; called in series, they share nothing but the machine, so what
           is slower here than alone is cold caches and clocks, and no doing of a server
- before   all in one server, each with the engine's own defaults: a thread for each core, spinning
- after    all in one server, with the options that it gives to bare models among others

"In a row" is one connection that asks one model again and again while the others are idle; "in series" asks the models
one after the other. Both by the blocking client of the library, so a request includes some 0.2 ms of client. CPU is the
server's per request, with a pause after each run, so that threads that spin are in it. "Under load" is the compiled
load generator, all models at once, open loop.

The second half (about two minutes) tunes tiny and ranker by themselves and together, and serves both pairs of profiles.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import make

from tailcut.client.sync import Client
from tailcut.lab.arrivals import Poisson
from tailcut.lab.cost import watched
from tailcut.lab.payload import infer_payload
from tailcut.lab.together import Stream, open_together
from tailcut.lab.trial import ServedProfile
from tailcut.runtime.opening.defaults import SAFE_SETTINGS
from tailcut.runtime.profile import Profile
from tailcut.runtime.thread_budget import beside_others

BUILD = Path(__file__).parent.parent / "build" / "models"
SHAPES = {"tiny": (1, 256), "ranker": (1, 1024), "resnet18": (1, 3, 224, 224)}
IN_A_ROW = {"tiny": 60, "ranker": 60, "resnet18": 8}
SERIES = 10
RATES = {"tiny": 100.0, "ranker": 40.0, "resnet18": 3.0}
TUNED = {"tiny": 200.0, "ranker": 100.0}
PAUSE_S = 0.1  # until threads that spin have gone to sleep


@dataclass
class Way:
    """One way to serve, and where each model is."""

    name: str
    servers: dict[str, ServedProfile]
    row_ms: dict[str, list[float]] = field(default_factory=dict)  # medians of rounds
    row_cpu_ms: dict[str, list[float]] = field(default_factory=dict)
    series_ms: dict[str, list[float]] = field(default_factory=dict)
    load_ms: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def client(self, model: str) -> Client:
        target = self.servers[model].target
        return Client(f"http://{target.host}:{target.port}")


def request(model: str) -> dict[str, np.ndarray]:
    return {"x": np.ones(SHAPES[model], np.float32)}


def profile(model: str, models: int) -> Profile:
    """With the options of a bare model among so many."""
    settings = msgspec.structs.replace(SAFE_SETTINGS, engine=beside_others(SAFE_SETTINGS.engine, models))
    return Profile.of_model(BUILD / f"{model}.onnx", settings)


@contextmanager
def ways() -> Iterator[list[Way]]:
    """All of them, running."""
    with ExitStack() as stack:

        def serve(profiles: Sequence[Profile]) -> ServedProfile:
            return stack.enter_context(ServedProfile(profiles[0], neighbours=profiles[1:]))

        before = serve([profile(model, 1) for model in SHAPES])
        after = serve([profile(model, len(SHAPES)) for model in SHAPES])
        yield [
            Way("alone", {model: serve([profile(model, 1)]) for model in SHAPES}),
            Way("apart", {model: serve([profile(model, len(SHAPES))]) for model in SHAPES}),
            Way("before", dict.fromkeys(SHAPES, before)),
            Way("after", dict.fromkeys(SHAPES, after)),
        ]


def timed(client: Client, model: str) -> float:
    inputs, began = request(model), time.perf_counter()
    client.infer(model, inputs)
    return (time.perf_counter() - began) * 1e3


def in_a_row(way: Way) -> None:
    for model, count in IN_A_ROW.items():
        with way.client(model) as client:
            timed(client, model)

            def run(client: Client = client, model: str = model, count: int = count) -> list[float]:
                result = [timed(client, model) for _ in range(count)]
                time.sleep(PAUSE_S)
                return result

            result, cost = watched(way.servers[model].pid, run)
        way.row_ms.setdefault(model, []).append(float(np.median(result)))
        way.row_cpu_ms.setdefault(model, []).append(float("nan") if cost is None else cost.cpu_ns / 1e6 / count)


def in_series(way: Way) -> None:
    with ExitStack() as stack:
        clients = {model: stack.enter_context(way.client(model)) for model in SHAPES}
        result: dict[str, list[float]] = {model: [] for model in SHAPES}
        for _ in range(SERIES):
            for model, client in clients.items():
                result[model].append(timed(client, model))
    for model, times in result.items():
        way.series_ms.setdefault(model, []).append(float(np.median(times[1:])))
    time.sleep(PAUSE_S)


def under_load(server: ServedProfile, rates: dict[str, float], seconds: float, seed: int) -> dict[str, np.ndarray]:
    streams = [
        Stream([infer_payload(server.target, model, request(model), "binary")], Poisson(rate))
        for model, rate in rates.items()
    ]
    outcome = open_together(server.target, streams, duration_s=seconds, seed=seed, warmup_s=0.2)
    for model, result in zip(rates, outcome, strict=True):
        if result.errors:
            raise SystemExit(f"{model}: {result.errors}")
    return {model: result.latencies_ns / 1e6 for model, result in zip(rates, outcome, strict=True)}


def spread(values: Sequence[float], digits: int = 2) -> str:
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratios(new: Sequence[float], old: Sequence[float]) -> str:
    return "x" + spread([item / other for item, other in zip(new, old, strict=True)])


def defaults(rounds: int) -> None:
    with ways() as all_ways:
        for number in range(rounds):
            for way in all_ways:
                in_a_row(way)
            for way in all_ways[1:]:  # the servers of the first spin, each in a process of its own
                in_series(way)
            for way in all_ways[2:]:
                for model, times in under_load(way.servers["tiny"], RATES, 3.0, number).items():
                    way.load_ms.setdefault(model, []).append(times)
    print(f"\nmedians of {rounds} rounds in turns (least to most); ratios to the same round of `alone` or `apart`")
    show_in_a_row(all_ways)
    show_in_series(all_ways)
    print(f"\n{'under load':28s}{'p50 ms':>14s}{'p95 ms':>14s}{'requests':>12s}")
    for model, way in product(SHAPES, all_ways[2:]):
        times = np.concatenate(way.load_ms[model])
        p50, p95 = np.quantile(times, (0.5, 0.95))
        print(f"{model:10s}{way.name:10s}{RATES[model]:6.0f}/s{p50:14.2f}{p95:14.2f}{len(times):12,d}")


def show_in_a_row(all_ways: Sequence[Way]) -> None:
    print(f"{'in a row, neighbours idle':28s}{'ms':>26s}{'CPU ms a request':>26s}{'ratio of ms':>26s}")
    for model, way in product(SHAPES, all_ways):
        row, cpu = way.row_ms[model], way.row_cpu_ms[model]
        against = ratios(row, all_ways[0].row_ms[model])
        print(f"{model:10s}{way.name:18s}{spread(row):>26s}{spread(cpu):>26s}{against:>26s}")


def show_in_series(all_ways: Sequence[Way]) -> None:
    alone, apart = all_ways[:2]
    for way in all_ways:
        times = way.series_ms or way.row_ms
        times["sum"] = [sum(parts) for parts in zip(*(times[model] for model in SHAPES), strict=True)]
    print(f"\n{'in series':28s}{'ms':>26s}{'ratio to alone in a row':>26s}{'ratio to apart in series':>26s}")
    for model, way in product([*SHAPES, "sum"], all_ways[1:]):
        own = way.series_ms[model]
        against = ratios(own, alone.row_ms[model]), ratios(own, apart.series_ms[model])
        print(f"{model:10s}{way.name:18s}{spread(own):>26s}{against[0]:>26s}{against[1]:>26s}")


def tune(folder: Path, models: Sequence[str], *arguments: str) -> dict:
    command = [sys.executable, "-m", "tailcut", "tune", *(f"{model}.onnx" for model in models), *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def tuned(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in TUNED:
            shutil.copy(BUILD / f"{model}.onnx", folder)
        pairs: dict[str, list[Profile]] = {"tuned alone": []}
        for model, rate in TUNED.items():
            tune(folder, [model], "--rate", str(rate), "--slo", "20ms", "--budget", "12s")
            pairs["tuned alone"].append(Profile.load(folder / f"{model}.profile.toml"))
        rates = ",".join(map(str, TUNED.values()))
        tune(folder, list(TUNED), "--rates", rates, "--slo", "20ms,20ms", "--budget", "20s")
        pairs["tuned together"] = [Profile.load(folder / f"{model}.profile.toml") for model in TUNED]
        pairs["server's defaults"] = [profile(model, len(SHAPES)) for model in TUNED]
        result: dict[str, dict[str, list[np.ndarray]]] = {pair: {model: [] for model in TUNED} for pair in pairs}
        with ExitStack() as stack:
            servers = {
                pair: stack.enter_context(ServedProfile(profiles[0], neighbours=profiles[1:]))
                for pair, profiles in pairs.items()
            }
            for number in range(4 * rounds):
                for pair, server in servers.items():
                    for model, times in under_load(server, TUNED, 1.0, 100 + number).items():
                        result[pair][model].append(times)
    print("\ntiny and ranker in one server, both under load in turns; binary wire")
    for (model, rate), (pair, profiles) in product(TUNED.items(), pairs.items()):
        p50, p99 = np.quantile(np.concatenate(result[pair][model]), (0.5, 0.99))
        words = next(item for item in profiles if item.model.name == model).settings.describe()
        print(f"{model:8s}{rate:5.0f}/s  {pair:18s}p50 {p50:7.2f}  p99 {p99:8.2f} ms  {words}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--no-tune", action="store_true")
    args = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    for model in SHAPES:
        make(model, BUILD)
    defaults(args.rounds)
    if not args.no_tune:
        tuned(args.rounds)


if __name__ == "__main__":
    main()

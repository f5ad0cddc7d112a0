"""The tuner's simulation against real servers: what it predicts of whole configurations, and what they do.

    python benchmarks/simulation.py [--models tiny,ranker,digits,encoder] [--configurations 10] [--rounds 7]
                                    [--keep FILE] [--again FILE]

Of each model, the engine is timed in process and the way in with an engine that computes nothing, as in a tune. Ten
whole configurations, spread over the predicted ones, are served as a user would serve them and loaded by the compiled
client on the same machine, in turns: a closed loop of many connections for the capacity, and an open loop at 0.6 of the
capacity (predicted or measured, whichever is lower) for the p99. That is the median over the windows of five hundred
requests of all rounds, so that the few milliseconds for which this machine does something else once or twice a second
spoil a window and not the cell; blocks in which the client was late do not count. The capacity is the median of the
rounds. The median of the errors with their sign shows whether there is too much or too little of everything. Limits:
rank correlation of 0.9, median error of 10 % for the capacity and 20 % for the p99.

`--keep` stores what was measured; `--again` predicts all of it anew and measures nothing, so that two versions of the
simulation (`PYTHONPATH`) are compared by the same measurements.
"""

import argparse
import pickle
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import make

from tailcut.lab.arrivals import poisson_times
from tailcut.lab.client import closed_loop, open_loop
from tailcut.machine.fingerprint import fingerprint
from tailcut.machine.quota import usable_cpus
from tailcut.models import digits_model
from tailcut.runtime.settings import Settings
from tailcut.tuner.engine_estimate import EngineEstimate
from tailcut.tuner.estimate import estimate_engines, typical
from tailcut.tuner.learning import facts_of, learn
from tailcut.tuner.noise import Noise
from tailcut.tuner.prediction import PredictionParts, configurations
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.servers import TrialServers
from tailcut.tuner.shapes import mix_of
from tailcut.tuner.simulate import Configuration, saturation_rate, simulate, simulate_closed
from tailcut.tuner.space import engine_choices
from tailcut.tuner.ways import PROBED, measure_ways, real_engines, way_settings

BUILD = Path(__file__).parent.parent / "build"
LOAD = 0.6  # of the lower of the two capacities, in the open loop
CAPACITY_ERROR, P99_ERROR, CORRELATION = 0.10, 0.20, 0.9
SAMPLES = 2000  # requests of one open block, where there is time
WINDOW = 500


@dataclass
class Case:
    """One configuration: what was predicted, and what each round measured."""

    model: str
    settings: Settings
    configuration: Configuration
    engine: EngineEstimate
    clients: int
    capacity: float  # requests/s with these clients
    rate: float = 0.0  # of the open loop
    p99_ms: float = 0.0
    capacities: list[float] = field(default_factory=list)
    p99s_ms: list[float] = field(default_factory=list)

    @property
    def measured(self) -> float:
        return statistics.median(self.capacities)

    def predict(self, threads: int) -> None:
        """Predict anew what was measured."""
        self.configuration = replace(self.configuration, service=self.engine.service_times(threads))
        self.capacity = simulate_closed(self.configuration, self.clients).rate
        self.p99_ms = simulated_p99_ms(self.configuration, self.rate)

    def line(self) -> str:
        """Predicted and measured, beside each other."""
        return (
            f"{self.capacity:>12,.0f}{self.measured:>10,.0f}      {self.p99_ms:>12.3f}{self.measured_p99_ms:>10.3f}"
            f"          {self.settings.describe()} ({self.clients} connections; {self.rate:,.4g} req/s)"
        )

    @property
    def measured_p99_ms(self) -> float:
        return statistics.median(self.p99s_ms)


def model_path(name: str) -> Path:
    return digits_model() if name == "digits" else make(name, BUILD / "models")


def cases_of(name: str, count: int, seconds: float) -> tuple[list[Case], TrialServers]:
    """Measure the parts of one model, and choose configurations from the worst to the best."""
    wanted = TuneRequest(model_path(name))
    learned = learn(wanted, 1.0, lambda _: None)
    facts = facts_of(wanted, learned)
    servers = TrialServers(wanted.model, learned.spec, learned.requests)
    requests = typical(learned.requests, batched=learned.spec.batched)
    estimates = estimate_engines(
        wanted.model, engine_choices(facts), requests, seconds=seconds, batched=learned.spec.batched
    )
    known = [estimate for estimate in estimates if estimate.error is None and estimate.sizes]
    ways = measure_ways(servers, {kind: way_settings(facts, kind) for kind in PROBED}, 2.0, real_engines(known))
    servers.keep()
    print(f"{name}: {len(known)} engine configurations in process; ways in: {ways}")
    mix = mix_of(learned.requests, batched=learned.spec.batched)
    parts = PredictionParts(facts, ways, float(usable_cpus()), wanted.rows, mix)
    every = list(configurations(known, parts))
    return [_case(name, *item) for item in _spread(every, count)], servers


Whole = tuple[Settings, Configuration, EngineEstimate]


def _spread(every: Sequence[Whole], count: int) -> Iterator[Whole]:
    """From the least to the highest capacity, one of each engine and dispatch before a second one of any."""
    ranked = sorted(every, key=lambda item: saturation_rate(item[1]))
    places = np.linspace(0, len(ranked) - 1, count).round().astype(int)
    return (ranked[index] for index in dict.fromkeys(places.tolist()))


def simulated_p99_ms(configuration: Configuration, rate: float) -> float:
    return simulate(configuration, poisson_times(rate, 3 * SAMPLES / rate, 1)).percentile_ms(0.99)


def _case(name: str, settings: Settings, configuration: Configuration, engine: EngineEstimate) -> Case:
    top = saturation_rate(configuration)
    clients = int(max(4, min(128, 0.2 * top, 2 * configuration.max_batch_size * configuration.instances)))
    return Case(name, settings, configuration, engine, clients, simulate_closed(configuration, clients).rate)


def measure(cases: Sequence[Case], servers: TrialServers, rounds: int) -> None:
    """All configurations of one model in turns, a few servers at a time."""
    for start in range(0, len(cases), 5):
        group = cases[start : start + 5]
        servers.launch(*(case.settings for case in group))
        arms = [servers.arm(case.settings) for case in group]
        for _ in range(rounds):
            for case, arm in zip(group, arms, strict=True):
                closed_s = max(0.3, 6 * case.clients / case.capacity)
                closed = closed_loop(
                    arm.target, arm.payloads, concurrency=case.clients, duration_s=closed_s, warmup_s=closed_s / 4
                )
                case.capacities.append(closed.rate_achieved)
        for case in group:
            case.rate = float(f"{LOAD * min(case.capacity, case.measured):.3g}")
            case.p99_ms = simulated_p99_ms(case.configuration, case.rate)
        for number in range(rounds):
            for case, arm in zip(group, arms, strict=True):
                open_s = max(0.6, min(4.0, SAMPLES / case.rate))
                opened = open_loop(
                    arm.target, arm.payloads, rate=case.rate, duration_s=open_s, seed=number, warmup_s=0.2
                )
                if opened.client_behind and case.p99s_ms:
                    continue
                windows = np.array_split(opened.latencies_ns, max(1, opened.samples // WINDOW))
                case.p99s_ms += [float(np.quantile(window, 0.99)) / 1e6 for window in windows]
        servers.keep()


def correlation(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Spearman's rank correlation."""
    ranks = [np.argsort(np.argsort(values)) for values in (predicted, measured)]
    return float(np.corrcoef(*ranks)[0, 1])


def summary(title: str, cases: Sequence[Case]) -> str:
    capacity = [(case.capacity, case.measured) for case in cases]
    p99 = [(case.p99_ms, case.measured_p99_ms) for case in cases]
    words = [f"{title:<10s}{len(cases):>4d}"]
    for pairs in (capacity, p99):
        signed = [predicted / measured - 1 for predicted, measured in pairs]
        errors = [abs(error) for error in signed]
        rank = correlation(*zip(*pairs, strict=True))
        words.append(
            f"{rank:>10.3f}{statistics.median(errors):>9.1%}{statistics.median(signed):>+9.1%}{max(errors):>8.0%}"
        )
    return "".join(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="tiny,ranker,digits,encoder")
    parser.add_argument("--configurations", type=int, default=10)
    parser.add_argument("--estimate", type=float, default=20.0, help="seconds of timing in process, per model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--keep", type=Path, help="a file for what is measured")
    parser.add_argument("--again", type=Path, help="such a file: its configurations are predicted anew")
    arguments = parser.parse_args()
    print(fingerprint())
    began, noise, cases = time.monotonic(), Noise(), []
    if arguments.again is not None:
        cases = pickle.loads(arguments.again.read_bytes())  # written by this program
        for case in cases:
            case.predict(usable_cpus())
            print(case.line())
    for name in [] if arguments.again is not None else arguments.models.split(","):
        result, servers = cases_of(name, arguments.configurations, arguments.estimate)
        noise.probe()
        try:
            measure(result, servers, arguments.rounds)
        finally:
            servers.keep()
        cases += result
        print(f"{'predicted':>12s}{'measured':>10s} req/s{'predicted':>12s}{'measured':>10s} ms p99   settings")
        for case in result:
            print(case.line())
        if arguments.keep is not None:
            arguments.keep.write_bytes(pickle.dumps(cases))
    print(
        f"\n{'':10s}{'capacity: rank':>14s}{'median':>9s}{'signed':>9s}{'worst':>8s}"
        f"{'p99: rank':>10s}{'median':>9s}{'signed':>9s}{'worst':>8s}"
    )
    for name in dict.fromkeys(case.model for case in cases):
        print(summary(name, [case for case in cases if case.model == name]))
    print(summary("all", cases))
    print(
        f"limits: rank correlation {CORRELATION}, median error {CAPACITY_ERROR:.0%} of the capacity "
        f"and {P99_ERROR:.0%} of the p99; {time.monotonic() - began:.0f} s; noise {noise.record()}"
    )


if __name__ == "__main__":
    main()

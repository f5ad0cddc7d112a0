"""How much a tune leaves unfound: its profile against ten written by hand, and against an exhaustive search.

    python benchmarks/regret/run.py [--models tiny,ranker,...] [--budget 120s] [--rounds 4] [--exhaustive tiny]
                                    [--rivals] [--hog]

Each model is tuned once by the command line, with requests as data. Then the tuned profile, the ten of `hands.py`, the
engine's defaults, and where asked for the winner of `tune --exhaustive` are served and measured in turns by the
compiled client: closed loops of several numbers of connections for the goodput (answers a second within the tune's
limit, the best of these numbers), and an open loop at the tune's rate for the p99. Profiles whose answers the accuracy
gate refuses do not count. Regret is what the best one has more than the tuned one; limit: 5 %. `--rivals` adds
openvino's performance hints and the quickest peer (`rivals.py`). `--hog` keeps one process busy beside the tune and the
measurement. Ratios are medians over rounds, each arm to the tuned one in it. The best one of a round is the one that
was best in the other rounds, because the luckiest of eleven in the same round would seem better than it is.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
import model_zoo
import rivals
from hands import hands
from reference_models import make

from tailcut.errors import TailcutError
from tailcut.lab.client import closed_loop, open_loop
from tailcut.lab.trial import Arm
from tailcut.machine.fingerprint import fingerprint
from tailcut.models import digits_model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.gate import Gate
from tailcut.tuner.learning import facts_of, learn
from tailcut.tuner.noise import Noise
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.result_records import TuneResult
from tailcut.tuner.servers import TrialServers
from tailcut.tuner.space import BASELINE, changed

BUILD = Path(__file__).parent.parent.parent / "build"
MODELS = "tiny,ranker,digits,resnet18,encoder,minilm,ocr6_rec,xgboost,silero_16k,ocr6_cls"
OWN = ("tiny", "ranker", "resnet18", "encoder")
SHAPES = {"tiny": (256,), "ranker": (1024,), "resnet18": (3, 224, 224), "digits": (1, 8, 8)}
REQUESTS = 64
LIMIT = 0.05
CLIENTS = (1, 2, 4, 16, 64, 128)
CLOSED_S = (0.6, 2.0)  # of one closed loop
OPEN_S = (1.0, 4.0)
HOG = "x = 1\nwhile True: x = (x * 69069 + 1) % 4294967296"


@dataclass
class Entry:
    """A profile in the comparison, and what each round measured."""

    name: str
    settings: Settings
    goodputs: list[float] = field(default_factory=list)
    p99s_ms: list[float] = field(default_factory=list)


def model_path(name: str) -> Path:
    if name == "digits":
        return digits_model()
    return make(name, BUILD / "models") if name in OWN else model_zoo.fetch(name)


def data_of(name: str) -> dict[str, np.ndarray]:
    """Requests like a client's, one group of arrays each."""
    random = np.random.default_rng(0)
    if name == "encoder":
        lengths = random.integers(8, 64, REQUESTS)
        requests = [{"ids": random.integers(0, 4096, (1, n)), "mask": np.ones((1, n), np.int64)} for n in lengths]
    elif name in SHAPES:
        key = "image" if name == "digits" else "x"
        requests = [{key: random.standard_normal((1, *SHAPES[name]), np.float32)} for _ in range(REQUESTS)]
    else:
        requests = [model_zoo.SOURCES[name].make(random, number) for number in range(REQUESTS)]
    return {f"{key}/{number}": array for number, item in enumerate(requests) for key, array in item.items()}


def tune(model: Path, data: Path, budget: str, folder: Path, *options: str) -> tuple[TuneResult, float]:
    """The result of `tailcut tune --json`, and the seconds it took."""
    began = time.monotonic()
    output = folder / f"{model.stem}{len(options)}.profile.toml"
    command = [sys.executable, "-m", "tailcut", "tune", str(model), "--data", str(data), "--budget", budget]
    done = subprocess.run(
        [*command, "-o", str(output), "--json", *options], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{model.stem}: {done.stderr}")
    return msgspec.json.decode(done.stdout, type=TuneResult), time.monotonic() - began


@contextmanager
def hog(*, wanted: bool) -> Iterator[None]:
    child = subprocess.Popen([sys.executable, "-c", HOG]) if wanted else None
    try:
        yield
    finally:
        if child is not None:
            child.kill()
            child.wait()


def served(entries: list[Entry], servers: TrialServers, gate: Gate) -> dict[str, Arm]:
    """Running servers of those whose answers are right, by name; the others are named with the reason."""
    arms = {}
    for entry in entries:
        try:
            arm = servers.arm(entry.settings)
            result = gate.check(servers.of(entry.settings).target, entry.settings, 1.0)
        except TailcutError as error:
            print(f"    left out: {entry.name}: {error}")
            continue
        if result.right:
            arms[entry.name] = arm
        else:
            print(f"    left out: {entry.name}: {result.reason}")
    return arms


def measure(entries: list[Entry], arms: Mapping[str, Arm], rate: float, limit_ms: float, rounds: int) -> None:
    """Closed and open loops on every arm in turns."""
    counts = [count for count in CLIENTS if count <= max(4, rate * limit_ms / 100)]
    for number in range(rounds):
        for entry in entries:
            arm = arms[entry.name]
            best = 0.0
            for count in counts:
                seconds = min(max(CLOSED_S[0], 4 * count / rate), CLOSED_S[1])
                result = closed_loop(
                    arm.target, arm.payloads, concurrency=count, duration_s=seconds, warmup_s=seconds / 4
                )
                late = int((result.latencies_ns > limit_ms * 1e6).sum())
                if late <= 0.01 * max(1, result.samples):
                    best = max(best, (result.samples - late) / result.duration_s)
            entry.goodputs.append(best)
            seconds = min(max(OPEN_S[0], 400 / rate), OPEN_S[1])
            opened = open_loop(arm.target, arm.payloads, rate=rate, duration_s=seconds, seed=number, warmup_s=0.1)
            entry.p99s_ms.append(float(np.quantile(opened.latencies_ns, 0.99)) / 1e6)


def ratio(mine: list[float], theirs: list[float]) -> float:
    """The median over rounds of theirs to mine; infinite where mine was nothing."""
    return statistics.median(their / my if my else math.inf for my, their in zip(mine, theirs, strict=True))


def best_ratio(mine: list[float], others: list[list[float]], *, least: bool = False) -> float:
    """As `ratio`, of the one of these that was best in the rounds besides each."""
    best = []
    for number in range(len(mine)):
        apart = [values[:number] + values[number + 1 :] or values for values in others]
        medians = list(map(statistics.median, apart))
        place = medians.index(min(medians) if least else max(medians))
        best.append(others[place][number])
    return ratio(mine, best)


def regret(name: str, arguments: argparse.Namespace, folder: Path) -> str:
    model, arrays = model_path(name), data_of(name)
    data = folder / f"{name}.npz"
    np.savez(data, **arrays)
    result, took_s = tune(model, data, arguments.budget, folder)
    wanted = TuneRequest(model, arrays)
    learned = learn(wanted, 2.0, lambda _: None)
    facts = facts_of(wanted, learned)
    profile = Profile.load(Path(result.profile or ""))
    entries = [Entry("tuned", profile.settings), *(Entry(*pair) for pair in hands(facts))]
    entries.append(Entry("engine's defaults", changed(BASELINE, batching={"bind": False}, io={"wire": "json"})))
    servers = TrialServers(model, learned.spec, learned.requests)
    servers.execute()
    if profile.model.quantized is not None:
        servers.copies = {profile.settings.engine.name: Path(profile.model.quantized.path)}
    if arguments.rivals:
        entries += [Entry(*pair) for pair in rivals.hints(model, facts)]
    if name in arguments.exhaustive.split(","):
        whole, whole_s = tune(model, data, arguments.budget, folder, "--exhaustive")
        entries.append(Entry(f"exhaustive ({whole_s:.0f} s)", Profile.load(Path(whole.profile or "")).settings))
    with ExitStack() as stack:
        stack.callback(servers.keep)
        arms = served(entries, servers, learned.gate)
        if arguments.rivals:
            peers = stack.enter_context(rivals.peers(name, model))
            entries += [Entry(label, BASELINE) for label in peers]
            arms |= peers
        entries = [entry for entry in entries if entry.name in arms]
        objective = result.objective
        measure(entries, arms, objective.rate, objective.limit_ms or math.inf, arguments.rounds)
    return report(name, entries, result, took_s)


def report(name: str, entries: list[Entry], result: TuneResult, took_s: float) -> str:
    """The lines of one model, and its row of the table."""
    mine, base = entries[0], next(entry for entry in entries if entry.name == "engine's defaults")
    objective = result.objective
    print(
        f"  {name}: limit {objective.limit_ms or 0:.3g} ms, {objective.rate:,.4g} req/s; "
        f"tuned: {mine.settings.describe()}"
    )
    for entry in sorted(entries, key=lambda item: -statistics.median(item.goodputs)):
        print(
            f"    {statistics.median(entry.goodputs):>10,.0f} answers/s within the limit, "
            f"p99 {statistics.median(entry.p99s_ms):>8.3f} ms   {entry.name}"
        )
    goodput = max(0.0, best_ratio(mine.goodputs, [entry.goodputs for entry in entries]) - 1)
    p99 = max(0.0, 1 - best_ratio(mine.p99s_ms, [entry.p99s_ms for entry in entries], least=True))
    beside = ratio(mine.goodputs, base.goodputs)
    gain = 1 / beside if beside else math.inf
    raced = sum(item.raced is not None for item in result.estimated)
    return (
        f"{name:<12s}{goodput:>9.1%}{p99:>9.1%}{gain:>10.2f}x{ratio(base.p99s_ms, mine.p99s_ms):>9.2f}x"
        f"{raced:>6d} of {len(result.estimated):<6,d}{took_s:>6.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--budget", default="120s", help="of each tune")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--exhaustive", default="", help="models that are also searched exhaustively")
    parser.add_argument("--rivals", action="store_true", help="also openvino's hints and the quickest peer")
    parser.add_argument("--hog", action="store_true", help="one busy process beside everything")
    arguments = parser.parse_args()
    print(fingerprint())
    noise, rows = Noise(), []
    with tempfile.TemporaryDirectory() as folder, hog(wanted=arguments.hog):
        for name in arguments.models.split(","):
            noise.probe()
            rows.append(regret(name, arguments, Path(folder)))
            print(rows[-1], flush=True)
    print(f"\n{'':<12s}{'regret in':>9s}{'':>9s}{'to the defaults':>20s}{'configurations':>16s}")
    print(f"{'model':<12s}{'goodput':>9s}{'p99':>9s}{'goodput':>11s}{'p99':>10s}{'raced':>10s}{'tune':>14s}")
    print("\n".join(rows))
    print(f"limit: {LIMIT:.0%}; budget {arguments.budget}; {os.cpu_count()} CPUs; noise {noise.record()}")


if __name__ == "__main__":
    main()

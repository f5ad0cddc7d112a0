"""How long the tail is at 70 % of each model's own capacity: p50, p99 and p99.9 with intervals, and p99.9 to p50.

    python benchmarks/tail_ratio.py [--models tiny,ranker,resnet18,encoder] [--seconds 60] [--load 0.7]

A real `tailcut serve` and Tailcut's own open-loop client (Poisson, latency from the planned time) on the same cores.
Capacity is what a closed loop with 32 requests in flight gets. A p99.9 takes 4,603 samples: a slow model is
measured until it has them, five minutes at most, or says that it has not. Intervals are of order statistics for
requests that follow one another, 99 %. Peak memory is the server's own (VmHWM). `alone` is the p50 with one request
at a time.

encoder takes sentences of 64 tokens; one thread an engine but for resnet18 and encoder, which have all cores.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import FAST_PRECISION, LAYERS, make
from serving import BUILD, DISPATCH, ENGINES, first_line, running

from tailcut.engines.base import EngineOptions
from tailcut.lab.client import closed_loop, open_loop
from tailcut.lab.load import LoadResult, LoadTarget, Payload
from tailcut.lab.payload import infer_payload
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, IoSettings, Settings
from tailcut.stats import samples_needed
from tailcut.stats.serial import serial_percentile_interval

MAX_BATCH = {"resnet18": 2, "encoder": 2}
LONGEST_S = 300.0
TOKENS = 64


def settings_of(name: str) -> Settings:
    return Settings(
        engine=ENGINES.get(name, EngineOptions(name="openvino", precision=FAST_PRECISION, threads=0)),
        batching=BatchingSettings(max_batch_size=MAX_BATCH.get(name, 32), dispatch=DISPATCH.get(name, "worker")),
        io=IoSettings(busy_poll_us=100 if name in LAYERS else 0),
    )


def inputs_of(name: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    if name == "encoder":
        ids = random.integers(1, 4096, (1, TOKENS))
        return {"ids": ids, "mask": np.ones_like(ids)}
    shape = (1, LAYERS[name][0]) if name in LAYERS else (1, 3, 224, 224)
    return {"x": random.standard_normal(shape, np.float32)}


@contextmanager
def server(name: str) -> Iterator[tuple[LoadTarget, int]]:
    profile = BUILD / f"{name}.tail.profile.toml"
    Profile.of_model(make(name, BUILD / "models"), settings_of(name)).save(profile)
    with running([sys.executable, "-m", "tailcut", "serve", str(profile), "--port", "0", "--json"]) as child:
        address = json.loads(first_line(child))
        yield LoadTarget(address["host"], address["port"]), child.pid


def peak_mib(pid: int) -> float:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def cell(result: LoadResult, q: float) -> str:
    outcome = serial_percentile_interval(result.latencies_ns / 1e6, q)
    return "unknown" if outcome is None else f"{outcome.point:.3g} ({outcome.low:.3g} to {outcome.high:.3g})"


def measure(name: str, seconds: float, load: float) -> None:
    with server(name) as (target, pid):
        payloads: list[Payload] = [infer_payload(target, name, inputs_of(name), "binary")]
        closed_loop(target, payloads, concurrency=32, duration_s=1.0)
        alone = closed_loop(target, payloads, concurrency=1, duration_s=2.0)
        capacity = closed_loop(target, payloads, concurrency=32, duration_s=5.0, warmup_s=0.5).rate_achieved
        rate = load * capacity
        length_s = min(LONGEST_S, max(seconds, 1.1 * samples_needed(0.999) / rate))
        result = open_loop(target, payloads, rate=rate, duration_s=length_s, warmup_s=1.0)
        p50, p999 = (float(np.quantile(result.latencies_ns, q)) / 1e6 for q in (0.5, 0.999))
        ratio = f"{p999 / p50:.1f}" if result.samples >= samples_needed(0.999) else "unknown"
        print(
            f"{name:10s}{capacity:10,.0f}{rate:10,.0f}{result.samples:10,d}{sum(result.errors.values()):8d}"
            f"{float(np.median(alone.latencies_ns)) / 1e6:9.3g}{cell(result, 0.5):>24s}{cell(result, 0.99):>26s}"
            f"{cell(result, 0.999):>26s}{ratio:>12s}{peak_mib(pid):10.0f}"
            f"{'   the client was late' if result.client_behind else ''}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="tiny,ranker,resnet18,encoder")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--load", type=float, default=0.7)
    args = parser.parse_args()
    print(
        f"{'model':10s}{'capacity':>10s}{'rate':>10s}{'samples':>10s}{'errors':>8s}{'alone':>9s}{'p50 ms':>24s}"
        f"{'p99 ms':>26s}{'p99.9 ms':>26s}{'p99.9/p50':>12s}{'peak MiB':>10s}"
    )
    for name in args.models.split(","):
        measure(name, args.seconds, args.load)


if __name__ == "__main__":
    main()

"""Ten times more than a real server can compute: what is answered, how late, and what memory does."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from tests.engines.models import perceptron
from tests.servers import Server, raw_request

from tailcut.engines.base import EngineOptions
from tailcut.lab.client import closed_loop, open_loop
from tailcut.lab.load import Payload, Target
from tailcut.runtime.profile import BatchingSettings, Profile, Settings

DEADLINE_S = 0.5
OPTIONS = ["--queue", "64", "--deadline", "500ms"]


def make_profile(folder: Path) -> Path:
    """A model of some milliseconds, so that a client in Python can offer ten times as much; it leaves a core to it."""
    model = perceptron([256, 4096, 4096, 8], folder / "slow.onnx")
    settings = Settings(engine=EngineOptions(threads=1), batching=BatchingSettings(max_batch=1))
    Profile.of_model(model, settings).save(folder / "slow.toml")
    return folder / "slow.toml"


@dataclass(frozen=True)
class Overload:
    """Answers a second at capacity and under overload, the tail of what was accepted, and bytes of memory gained."""

    peak: float
    offered: float
    goodput: float
    p99_s: float
    refused: int
    others: int  # neither answered nor refused
    grown_bytes: int


def overload(server: Server, seconds: float, times: float = 10.0) -> Overload:
    """Find the capacity with a few connections, then offer a multiple of it with an open loop."""
    target = Target(server.host, server.port)
    payload = Payload(raw_request("slow", bytes(1024)))
    peak = closed_loop(target, [payload], concurrency=8, duration_s=max(1.0, seconds / 10), warmup_s=0.3)
    process = psutil.Process(server.process.pid)
    open_loop(target, [payload], rate=times * peak.rate_achieved, duration_s=0.5)  # buffers and threads as they will be
    before = process.memory_info().rss
    result = open_loop(target, [payload], rate=times * peak.rate_achieved, duration_s=seconds, warmup_s=0.2)
    return Overload(
        peak=peak.rate_achieved,
        offered=times * peak.rate_achieved,
        goodput=result.rate_achieved,
        p99_s=float(np.quantile(result.service_ns, 0.99)) / 1e9,
        refused=result.errors.get("503", 0) + result.errors.get("504", 0),
        others=sum(count for kind, count in result.errors.items() if kind not in {"503", "504"}),
        grown_bytes=process.memory_info().rss - before,
    )

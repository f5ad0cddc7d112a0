"""Offers a real server ten times its capacity: how much it answers, how late, and how memory grows."""

import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from onnx import helper
from tests.engines.models import save, value
from tests.servers import Server, raw_request

from tailcut.engines.base import EngineOptions
from tailcut.lab.client import closed_loop, open_loop
from tailcut.lab.load import LoadTarget, Payload
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.spec import DType

DEADLINE_S = 1.0
OPTIONS = ["--queue", "64", "--deadline", "1s"]


def make_profile(folder: Path, widths: Sequence[int] = (256, 2048, 2048, 2048, 2048, 2048, 8)) -> Path:
    """A model that takes milliseconds on one thread, so that a Python client can offer ten times its capacity."""
    settings = Settings(engine=EngineOptions(threads=1), batching=BatchingSettings(max_batch_size=1))
    Profile.of_model(make_model(folder, widths), settings).save(folder / "slow.toml")
    return folder / "slow.toml"


def make_model(folder: Path, widths: Sequence[int]) -> Path:
    """Layers of these widths; those of one size have the same weights, so that the file is small and soon loaded."""
    sizes = list(itertools.pairwise(widths))
    weights = {f"w{rows}x{columns}": np.full((rows, columns), 1 / 4096, np.float32) for rows, columns in sizes}
    names = ["x", *(f"v{i}" for i in range(len(widths) - 2)), "y"]
    nodes = [
        helper.make_node("MatMul", [into, f"w{rows}x{columns}"], [out])
        for (rows, columns), (into, out) in zip(sizes, itertools.pairwise(names), strict=True)
    ]
    ends = [value("x", DType.FP32, (None, widths[0]))], [value("y", DType.FP32, (None, widths[-1]))]
    return save(folder / "slow.onnx", nodes, *ends, weights)


@dataclass(frozen=True)
class Overload:
    """Answers per second at capacity and under overload, the tail of what was accepted, and bytes of memory gained."""

    peak: float
    offered: float
    goodput: float
    p99_s: float
    refused: int
    others: int  # neither answered nor refused
    grown_bytes: int
    left: float  # the share of this machine's CPUs that others left to server and client


def overload(server: Server, seconds: float, times: float = 10.0) -> Overload:
    """Find the capacity with a few connections, offer a multiple of it with an open loop, and find it again."""
    target = LoadTarget(server.host, server.port)
    payload = Payload(raw_request("slow", bytes(1024)))

    def capacity() -> float:
        return closed_loop(target, [payload], concurrency=8, duration_s=max(0.5, seconds / 10)).rate_achieved

    capacity()  # buffers and threads as they will be
    first = capacity()
    process = psutil.Process(server.process.pid)
    open_loop(target, [payload], rate=times * first, duration_s=0.3)
    before = process.memory_info().rss
    began, others = time.monotonic(), _spent_by_others_s(process)
    result = open_loop(target, [payload], rate=times * first, duration_s=seconds, warmup_s=0.2)
    taken = (_spent_by_others_s(process) - others) / (time.monotonic() - began) / (os.cpu_count() or 1)
    grown = process.memory_info().rss - before
    peak = (first + capacity()) / 2  # what else the machine did meanwhile counts into both sides
    return Overload(
        peak=peak,
        offered=times * first,
        goodput=result.rate_achieved,
        p99_s=float(np.quantile(result.service_ns, 0.99)) / 1e9,
        refused=result.errors.get("503", 0) + result.errors.get("504", 0),
        others=sum(count for kind, count in result.errors.items() if kind not in {"503", "504"}),
        grown_bytes=grown,
        left=min(1.0, max(0.0, 1 - taken)),
    )


def _spent_by_others_s(server: psutil.Process) -> float:
    """The CPU seconds of this machine that were neither the server's nor this process's."""
    times = psutil.cpu_times()
    mine = [psutil.Process().cpu_times(), server.cpu_times()]
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - sum(item.user + item.system for item in mine)

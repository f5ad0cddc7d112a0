"""One engine configuration measured in a child process of its own: the result, and the parent's side.

The child is `estimator.py`; which configurations are measured, for how long and in which order is `estimate.py`.
"""

import math
import select
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self, cast

import msgspec
import numpy as np

from tailcut.engines import EngineOptions
from tailcut.machine.child_python import python
from tailcut.tuner.estimator import (
    Answered,
    Ask,
    CallTimes,
    LoadModel,
    MeasureCalls,
    ModelLoaded,
    Tensor,
    pack,
    read,
    unpack,
    write,
)
from tailcut.tuner.judging import EstimateError
from tailcut.tuner.simulate import ServiceTimes

QUANTILES = 64  # equally likely times of a batch size: the last one is beyond the p99
NO_TIME = "no time left to load it"
_STOP_S = 5.0
_WAITED = 1.5  # times its CPU time: a call that takes longer has waited


@dataclass(slots=True)
class EngineEstimate:
    """What is known of one configuration; times by batch size, in nanoseconds."""

    options: EngineOptions
    times_ns: dict[int, list[np.ndarray]] = field(default_factory=dict)  # int64 [calls], an array per measurement
    paused_ns: list[np.ndarray] = field(default_factory=list)  # of calls of one row, with pauses between them
    cpu_ns: dict[int, float] = field(default_factory=dict)  # of a call
    memory_bytes: int = 0
    load_s: float = 0.0
    batched: bool = False  # whether rows may share a call: with one int8 scale per batch they may not
    error: str | None = None
    requests: int = 1  # how many of different lengths are computed in turn

    @property
    def sizes(self) -> list[int]:
        """The batch sizes that were measured."""
        return sorted(self.times_ns)

    def median_ns(self, rows: int) -> float:
        """The median time of a call with this many rows, a measured size."""
        return float(np.median(np.concatenate(self.times_ns[rows])))

    def low_ns(self, rows: int) -> float:
        """The lower quartile for a measured size: the time of a call that nothing disturbs."""
        return float(np.quantile(np.concatenate(self.times_ns[rows]), 0.25))

    @property
    def was_disturbed(self) -> bool:
        """Whether calls of one row mostly waited for a CPU: they took clearly longer than their CPU time."""
        cpu_ns = self.cpu_ns.get(1, 0.0)
        return self.options.device == "cpu" and 0 < _WAITED * cpu_ns < self.median_ns(1)

    @property
    def rows_per_s(self) -> float:
        """The most rows per second at any measured size, on all instances together."""
        return max((rows * self.options.instances / self.low_ns(rows) * 1e9 for rows in self.sizes), default=0.0)

    @property
    def alone_ns(self) -> float:
        """The median time of one row after a pause, or back to back if that was not measured."""
        if self.paused_ns:
            return float(np.median(np.concatenate(self.paused_ns)))
        return self.median_ns(1) if 1 in self.times_ns else float("inf")

    def service_times(self, threads: int) -> ServiceTimes:
        """The service times for the simulation; `threads` is used where the options leave the number to the engine."""
        shares = (np.arange(QUANTILES) + 0.5) / QUANTILES
        rows = [np.quantile(np.concatenate(self.times_ns[size]), shares) for size in self.sizes]
        return ServiceTimes(np.array(self.sizes, np.int64), np.array(rows), self.options.threads or threads)


class Estimator:
    """The parent's side of one child process; a context manager that ends it.

    Raises:
        EstimateError: the child exited, or reported an error.
    """

    def __init__(
        self,
        model: Path,
        options: EngineOptions,
        requests: Sequence[Mapping[str, np.ndarray]],
        *,
        independent: bool = False,
    ) -> None:
        """Start the child, and have it load `model`; `requests` are computed in turn."""
        self.estimate = EngineEstimate(options)
        command = python("-m", "tailcut.tuner.estimator")
        self._child = subprocess.Popen(  # noqa: S603  our own interpreter and module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        sent = [pack(dict(request)) for request in requests]
        self.estimate.requests = len(sent)
        self._send(LoadModel(str(model.resolve()), options, sent, max(1, options.instances), independent))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def wait_loaded(self, seconds: float = math.inf) -> None:
        """Wait until the model is open, for at most `seconds`; the child is killed if it takes longer."""
        assert self._child.stdout is not None  # noqa: S101  opened with PIPE
        limit_s = None if seconds == math.inf else max(0.0, seconds)
        if not select.select([self._child.stdout], [], [], limit_s)[0]:
            self._child.kill()
            raise EstimateError(NO_TIME)
        loaded = msgspec.msgpack.decode(self._receive(), type=ModelLoaded)
        if loaded.error:
            raise EstimateError(loaded.error)
        self.estimate.load_s, self.estimate.memory_bytes = loaded.load_s, loaded.memory_bytes
        self.estimate.batched = loaded.batched

    def measure(self, rows: int, seconds: float, *, fewest: int = 3, paused: bool = False) -> None:
        """Time one batch size for `seconds`, at least `fewest` calls, and add the result to the estimate."""
        self._send(MeasureCalls(rows, seconds, fewest, paused))
        timed = msgspec.msgpack.decode(self._receive(), type=CallTimes)
        if timed.error:
            raise EstimateError(timed.error)
        times = np.frombuffer(timed.times_ns, np.int64)
        self.estimate.memory_bytes = max(self.estimate.memory_bytes, timed.memory_bytes)
        if paused:
            self.estimate.paused_ns.append(times)
        else:
            self.estimate.times_ns.setdefault(rows, []).append(times)
            self.estimate.cpu_ns[rows] = timed.cpu_ns / max(1, len(times))

    def answers(self, requests: Sequence[list[Tensor]], seconds: float) -> list[dict[str, np.ndarray]]:
        """The engine's answers to the first of these requests, as many as it computes in `seconds`."""
        self._send(Ask(list(requests), seconds))
        answered = msgspec.msgpack.decode(self._receive(), type=Answered)
        if answered.error:
            raise EstimateError(answered.error)
        return [unpack(answer) for answer in answered.answers]

    def close(self) -> None:
        """End the child."""
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with suppress(OSError):  # buffered data for a process that has exited
                    pipe.close()
        try:
            self._child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _send(self, message: object) -> None:
        try:
            write(cast(BinaryIO, self._child.stdin), message)
        except OSError:
            raise EstimateError("the process that measures this configuration exited") from None

    def _receive(self) -> bytes:
        data = read(cast(BinaryIO, self._child.stdout))
        if not data:
            raise EstimateError("the process that measures this configuration exited")
        return data

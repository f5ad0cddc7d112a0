"""What a tune optimises, and the limits it must respect: ranks of predictions, and scores of measured blocks.

Pure. Larger scores are better for every objective, so that the race does not depend on the objective.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tailcut.lab.load import LoadResult
from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.heats import NONE

ObjectiveKind = Literal["goodput", "latency", "throughput", "cost"]
_WITHIN = 0.99  # share of the answers that must be within the limit
_PENALTY = 0.9  # factor on the score of a closed block with more late answers than that
_TOO_LATE = 1e-8  # factor on the score of objective `cost` if the p99 is over the limit
_OVER = 1e-2  # such a score is below this; within the limit, even 100 s of CPU per request score as much
ALL_LATE = 1e-4  # the score of a closed block is below it where no answer was within the limit


@dataclass(frozen=True, slots=True)
class Objective:
    """One goal of a tune.

    Args:
        kind: `goodput`, the highest rate whose p99 is within the limit; `latency`, the lowest p99 at the rate;
            `throughput`, the highest rate of closed loops, whatever the tail; `cost`, the least CPU time per request
            among configurations whose p99 at the rate is within the limit.
        limit_ms: the limit of p99; infinite until it is known.
        rate: requests per second offered; 0 until it is known.
    """

    kind: ObjectiveKind = "goodput"
    limit_ms: float = float("inf")
    rate: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether configurations are judged by open loops at the rate, rather than by closed loops."""
        return self.kind in {"latency", "cost"}

    def rank(self, predicted: PredictedConfiguration) -> float:
        """A prediction as a score; larger is better."""
        if self.kind == "latency":
            return 1e3 / max(predicted.p99_ms, NONE)
        if self.kind == "throughput":
            return predicted.capacity
        if self.kind == "cost":
            return self._cheap(predicted.cpu_us * 1e3, predicted.p99_ms)
        return predicted.rate

    def score_closed(self, result: LoadResult) -> float:
        """Score one closed loop; by its p99 if every answer is over the limit."""
        if self.kind == "throughput":
            return max(result.rate_achieved, NONE)
        within = int((result.latencies_ns <= self.limit_ms * 1e6).sum()) / result.duration_s
        if not within and result.samples:
            return max(ALL_LATE * self.limit_ms / _p99_ms(result), 2 * NONE)
        return max(within if within >= _WITHIN * result.rate_achieved else _PENALTY * within, NONE)

    def score_open(self, result: LoadResult, cpu_ns: float | None) -> float:
        """Score one open loop at the rate.

        Args:
            result: of the loop.
            cpu_ns: the server's CPU time per request; None if it is unknown.
        """
        if not result.samples or result.errors:
            return NONE
        p99_ms = _p99_ms(result)
        if self.kind == "latency":
            return 1e3 / p99_ms
        return self._cheap(cpu_ns, p99_ms) if cpu_ns else NONE

    def describe(self, score: float) -> str:
        """A score in words."""
        if self.is_open and score <= NONE:
            return "requests failed"
        if self.kind == "latency":
            return f"p99 {1e3 / score:.3g} ms at {self.rate:,.6g} req/s"
        if self.kind == "throughput":
            return f"{score:,.0f} answers/s"
        if self.kind == "cost":
            late = score < _OVER
            over = f", p99 over the limit of {self.limit_ms:.3g} ms" if late else ""
            cpu_us = (_TOO_LATE if late else 1) * 1e6 / score
            return f"{cpu_us:,.0f} us of CPU per request at {self.rate:,.6g} req/s{over}"
        if NONE < score < ALL_LATE:
            return f"no answer within {self.limit_ms:.3g} ms: p99 {ALL_LATE * self.limit_ms / score:.3g} ms"
        return f"{score:,.0f} answers/s within {self.limit_ms:.3g} ms"

    def _cheap(self, cpu_ns: float, p99_ms: float) -> float:
        score = 1e9 / max(cpu_ns, NONE)
        return score if p99_ms <= self.limit_ms else max(_TOO_LATE * score, 2 * NONE)


@dataclass(frozen=True, slots=True)
class Constraints:
    """Limits on what a configuration may use; None for no limit."""

    memory_bytes: int | None = None
    cpus: int | None = None

    def cpus_of(self, usable: int) -> int:
        """How many of the usable CPUs a server may use."""
        return min(self.cpus or usable, usable)

    def allowed(self, predicted: Iterable[PredictedConfiguration]) -> list[PredictedConfiguration]:
        """The configurations whose estimated engine memory is within the limit."""
        limit = self.memory_bytes
        return [prediction for prediction in predicted if limit is None or prediction.memory_bytes <= limit]


def _p99_ms(result: LoadResult) -> float:
    return float(np.quantile(result.latencies_ns, 0.99)) / 1e6

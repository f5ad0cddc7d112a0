"""Heats on running servers: what one block measures, and how long a heat takes. A thin shell around `heats.py`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tailcut.lab.client import closed_loop, open_loop
from tailcut.lab.cost import Spent, watched
from tailcut.lab.load import LoadResult
from tailcut.lab.trial import Arm, watched_again
from tailcut.machine.process import peak_bytes
from tailcut.runtime.settings import Settings
from tailcut.stats import samples_needed
from tailcut.tuner.heats import Heats
from tailcut.tuner.journal import Journal
from tailcut.tuner.noise import Noise
from tailcut.tuner.objective import Objective
from tailcut.tuner.tie_break import Usage

FEWEST_HEATS = 3
LEAST_BLOCK_S = 0.12
_MOST_HEATS = 40
_MOST_CLIENTS = 128
_FILLED = 0.6  # of the limit: what those connections make of it
_FULL_S = 0.5  # worth of requests in flight, where no limit counts
_BLOCK_REQUESTS = 3  # of each connection, in a block
_REPEATED = 0.25  # of the open blocks, at most
_COST_REQUESTS, _MOST_COST_S = 40, 0.6  # of an open block in which the CPU time of equals is compared
_OPEN_SPARE = 1.1  # more requests in an open block than its p95 needs


@dataclass(frozen=True, slots=True)
class Load:
    """Closed loops of so many connections, in blocks of so many seconds."""

    clients: tuple[int, ...]
    block_s: float


@dataclass(frozen=True, slots=True)
class Entrant:
    """A configuration in a race, and its running server."""

    settings: Settings
    arm: Arm


def load_for(objective: Objective, rate: float) -> Load:
    """Connections that bring a server of this rate to the limit, and an eighth of them; many where no limit counts."""
    if objective.kind == "throughput":
        most = int(max(2, min(_MOST_CLIENTS, _FULL_S * rate)))
    else:
        most = int(max(2, min(_MOST_CLIENTS, _FILLED * rate * objective.limit_ms / 1e3)))
    block_s = max(LEAST_BLOCK_S, _BLOCK_REQUESTS * most / max(rate, 1e-9))
    return Load(tuple(sorted({max(1, most // 8), most})), block_s)


def run_heats(count: int, score: Callable[[int, int, float], float], noise: Noise, until: float) -> Heats:
    """Race so many arms until a time of the monotonic clock, but at least three heats.

    Args:
        count: of arms.
        score: of an arm's place, a heat's number, and the seconds that it may take at most; more is better.
        noise: probed before each heat.
        until: when the last heat should end.
    """
    heats = Heats.of(count)
    most_s = max(0.0, until - time.monotonic()) / (FEWEST_HEATS * count)
    for number in range(_MOST_HEATS):
        began = time.monotonic()
        noise.probe()
        heats.add([score(place, number, most_s) for place in heats.racing])
        took = time.monotonic() - began
        if len(heats.racing) == 1 or (number + 1 >= FEWEST_HEATS and time.monotonic() + took > until):
            break
    return heats


@dataclass(slots=True)
class Racing:
    """Runs heats by one objective, with one load; every score is stored as it comes."""

    objective: Objective
    load: Load
    noise: Noise
    journal: Journal

    def heats(self, entrants: Sequence[Entrant], until: float) -> Heats:
        """Race until a time of the monotonic clock, but at least three heats."""

        def score(place: int, number: int, most_s: float) -> float:
            found = self._score(entrants[place].arm, number, most_s)
            self.journal.add("heat", entrants[place].settings, score=found, objective=self.objective.kind)
            return found

        return run_heats(len(entrants), score, self.noise, until)

    def usages(self, entrants: Sequence[Entrant], rate: float) -> list[Usage]:
        """What each takes alone and at a rate, measured in turns: the median of a lone connection, CPU and memory."""
        alone: list[list[float]] = [[] for _ in entrants]
        spent = [Spent() for _ in entrants]
        length_s = _cost_block_s(rate)
        for number in range(FEWEST_HEATS + 1):
            for place, entrant in enumerate(entrants):
                arm = entrant.arm
                found = closed_loop(
                    arm.target, arm.payloads, concurrency=1, duration_s=LEAST_BLOCK_S, warmup_s=LEAST_BLOCK_S / 6
                )
                if found.samples:
                    alone[place].append(float(np.median(found.latencies_ns)) / 1e6)
                block = partial(open_loop, arm.target, arm.payloads, rate=rate, duration_s=length_s, seed=number)
                spent[place].add(*watched(arm.pid, block))
        return [
            Usage(tuple(medians), _median_us(cost.cpu_ns_by_block), _held_bytes(entrant.arm.pid))
            for entrant, medians, cost in zip(entrants, alone, spent, strict=True)
        ]

    def _score(self, arm: Arm, number: int, most_s: float) -> float:
        """One heat of one arm; `most_s` bounds what a slow model's blocks take."""
        if self.objective.is_open:
            return self._score_open(arm, number, most_s)
        block_s = max(LEAST_BLOCK_S, min(self.load.block_s, most_s / len(self.load.clients)))
        return max(self.objective.score_closed(self._closed(arm, clients, block_s)) for clients in self.load.clients)

    def _closed(self, arm: Arm, clients: int, block_s: float) -> LoadResult:
        return closed_loop(arm.target, arm.payloads, concurrency=clients, duration_s=block_s, warmup_s=block_s / 5)

    def _score_open(self, arm: Arm, number: int, most_s: float) -> float:
        rate = self.objective.rate
        wanted_s = max(self.load.block_s, _OPEN_SPARE * samples_needed(0.95) / rate)
        length_s = max(LEAST_BLOCK_S, min(wanted_s, most_s))
        block = partial(open_loop, arm.target, arm.payloads, rate=rate, duration_s=length_s, seed=number)
        allowed = self.noise.repeated_blocks <= _REPEATED * len(self.noise.lateness_ns)
        result, cost, repeated = watched_again(arm.pid, block, allowed=allowed)
        self.noise.add_block(result, repeated=repeated)
        cpu_ns = None if cost is None or not result.answered else cost.cpu_ns / result.answered
        return self.objective.score_open(result, cpu_ns)


def usage_s(rate: float) -> float:
    """How long it takes to measure what one arm takes alone and at a rate."""
    return (FEWEST_HEATS + 1) * (LEAST_BLOCK_S * 7 / 6 + _cost_block_s(rate))


def _cost_block_s(rate: float) -> float:
    return max(LEAST_BLOCK_S, min(_COST_REQUESTS / max(rate, 1e-9), _MOST_COST_S))


def _median_us(cpu_ns: Sequence[float]) -> float | None:
    return float(np.median(cpu_ns)) / 1e3 if cpu_ns else None


def _held_bytes(pid: int | None) -> int | None:
    return None if pid is None else peak_bytes(pid)
